//! The trail, for operators: its records, what was signed last, and what proves that a record or an earlier trail is in it.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use super::Pending;
use super::answer::{Answer, Refusal};
use super::endpoint::{Call, Endpoint, Field, Shape};
use crate::audit::{Archive, ArchiveError};
use crate::operator::Role;

/// As many records an answer holds at most.
const MOST_RECORDS: u64 = 1000;

/// How many records an answer is looked for in: a call ends soon, whatever it asks for.
const MOST_READ: u64 = 100_000;

const FROM: Field =
    field("from", Shape::Number, "The first record that is wanted, by its number; 0 if it is not given");
const LIMIT: Field = field("limit", Shape::Number, "How many are wanted; 100 if it is not given, 1000 at most");
const EVENT: Field = field("event", Shape::Text, "Only records of this event");
const TOKEN: Field = field("token", Shape::Text, "Only records of this token");
const SEQ: Field = field("seq", Shape::Number, "The number of the record that is to be proved; or `old`");
const OLD: Field = field("old", Shape::Number, "The size of the earlier trail that is to be proved; or `seq`");
const SIZE: Field =
    field("size", Shape::Number, "The size of the tree; that of the last checkpoint if it is not given");

const fn field(name: &'static str, shape: Shape, about: &'static str) -> Field {
    Field { name, shape, required: false, about }
}

pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: Method::GET,
        path: "/v1/audit/records",
        role: Role::Viewer,
        summary: "Records of the trail, in their order. Where `next` is there, more may follow from that one on.",
        fields: &[FROM, LIMIT, EVENT, TOKEN],
        answer: (StatusCode::OK, records_schema),
        refusals: &[StatusCode::SERVICE_UNAVAILABLE],
        work: records,
    },
    Endpoint {
        method: Method::GET,
        path: "/v1/audit/checkpoint",
        role: Role::Viewer,
        summary: "The last checkpoint of the trail, as it was signed, and the key that verifies it.",
        fields: &[],
        answer: (StatusCode::OK, checkpoint_schema),
        refusals: &[StatusCode::SERVICE_UNAVAILABLE],
        work: checkpoint,
    },
    Endpoint {
        method: Method::GET,
        path: "/v1/audit/proof",
        role: Role::Viewer,
        summary: "What proves (RFC 6962) that a record, or the trail as it was, is in the trail as it is.",
        fields: &[SEQ, OLD, SIZE],
        answer: (StatusCode::OK, proof_schema),
        refusals: &[StatusCode::NOT_FOUND, StatusCode::SERVICE_UNAVAILABLE],
        work: proof,
    },
];

fn records_schema() -> Value {
    json!({
        "type": "object",
        "required": ["records"],
        "properties": {
            "records": { "type": "array", "items": { "type": "object" } },
            "next": { "type": "integer", "description": "From which record on to go on" },
        },
        "additionalProperties": false,
    })
}

fn checkpoint_schema() -> Value {
    json!({
        "type": "object",
        "required": ["size", "root", "checkpoint", "key"],
        "properties": {
            "size": { "type": "integer" },
            "root": { "type": "string", "description": "In base64" },
            "checkpoint": { "type": "string", "description": "A signed note (C2SP tlog-checkpoint)" },
            "key": { "type": "string", "description": "A verifier key (C2SP signed-note)" },
        },
        "additionalProperties": false,
    })
}

fn proof_schema() -> Value {
    json!({
        "type": "object",
        "required": ["of", "size", "hashes"],
        "properties": {
            "of": { "type": "integer", "description": "The number of the record, or the size of the earlier trail" },
            "size": { "type": "integer" },
            "hashes": { "type": "array", "items": { "type": "string" }, "description": "In base64" },
        },
        "additionalProperties": false,
    })
}

fn records<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let from = call.number(&FROM).unwrap_or(0);
        let limit = call.number(&LIMIT).unwrap_or(100).clamp(1, MOST_RECORDS);
        let wanted = [&EVENT, &TOKEN].map(|field| (field.name, call.text(field).to_owned()));
        read(call, move |archive| {
            let mut records = archive.records(from)?;
            let (mut found, mut next) = (Vec::new(), None);
            while let Some((seq, json)) = records.take_next()? {
                if found.len() as u64 == limit || seq - from >= MOST_READ {
                    next = Some(seq);
                    break;
                }
                let record: Map<String, Value> = serde_json::from_slice(json).unwrap_or_default();
                let fits = |(key, value): &(&str, String)| {
                    value.is_empty() || record.get(*key).and_then(Value::as_str) == Some(value)
                };
                if wanted.iter().all(fits) {
                    found.push(Value::Object(record));
                }
            }
            let mut answer = json!({ "records": found });
            if let Some(next) = next {
                answer["next"] = next.into();
            }
            Ok(answer)
        })
        .await
    })
}

fn checkpoint<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(read(call, |archive| {
        let (note, key) = (archive.checkpoint()?, archive.verifier()?);
        let checkpoint = note.unverified();
        Ok(json!({
            "size": checkpoint.size,
            "root": checkpoint.root.to_string(),
            "checkpoint": note.to_string(),
            "key": key.to_string(),
        }))
    }))
}

fn proof<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let (seq, old, size) = (call.number(&SEQ), call.number(&OLD), call.number(&SIZE));
        if seq.is_some() == old.is_some() {
            return Err(Refusal::Invalid("give either `seq` or `old`".into()));
        }
        read(call, move |archive| {
            let size = size.map_or_else(|| Ok(archive.checkpoint()?.unverified().size), Ok::<_, ArchiveError>)?;
            let proof = match (seq, old) {
                (Some(seq), _) => archive.inclusion(seq, size)?,
                (None, old) => archive.consistency(old.unwrap_or_default(), size)?,
            };
            Ok(json!({ "of": proof.of, "size": proof.size, "hashes": proof.hashes }))
        })
        .await
    })
}

/// So many calls read the trail at a time; the others wait for their turn.
const MOST_READERS: usize = 4;

/// Threads that may wait for the disk.
pub struct Readers(Arc<Semaphore>);

impl Default for Readers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST_READERS)))
    }
}

impl Readers {
    /// Runs it when there is room. Whoever waits for it may go: it keeps its room until it ends.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let room = self.0.clone().acquire_owned().await.ok()?;
        let working = tokio::task::spawn_blocking(move || {
            let _room = room;
            work()
        });
        working.await.ok()
    }
}

/// Reads the trail on a thread that may wait for the disk.
pub async fn read(
    call: &Call<'_>,
    read: impl FnOnce(&Archive) -> Result<Value, ArchiveError> + Send + 'static,
) -> Result<Answer, Refusal> {
    let archive = call.admin.archive.clone();
    match call.admin.readers.run(move || read(&archive)).await {
        Some(Ok(value)) => Ok(Answer::ok(value)),
        Some(Err(error @ ArchiveError::OutOfRange { .. })) => Err(Refusal::NotInTrail(error.to_string())),
        Some(Err(error)) => {
            tracing::warn!(%error, "the audit trail cannot be read");
            Err(Refusal::TrailUnreadable)
        }
        None => Err(Refusal::TrailUnreadable),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc as blocking};

    use tokio::sync::mpsc;
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn only_so_many_read_at_a_time() {
        let readers = Arc::new(Readers::default());
        let (begun, mut begins) = mpsc::channel(16);
        let (end, ends) = blocking::sync_channel(16);
        let ends = Arc::new(Mutex::new(ends));
        let mut reading = JoinSet::new();
        for _ in 0..=MOST_READERS {
            let (readers, begun, ends) = (readers.clone(), begun.clone(), ends.clone());
            let work = move || {
                begun.blocking_send(()).expect("the test looks on");
                ends.lock().expect("no panic").recv().expect("the test ends it");
            };
            reading.spawn(async move { readers.run(work).await });
        }
        for _ in 0..MOST_READERS {
            begins.recv().await.expect("one begins");
        }
        assert_eq!(readers.0.available_permits(), 0);
        assert!(begins.try_recv().is_err(), "one waits for its turn");
        end.send(()).expect("one ends");
        begins.recv().await.expect("the last begins");
        for _ in 0..MOST_READERS {
            end.send(()).expect("all end");
        }
        assert!(reading.join_all().await.iter().all(Option::is_some));
    }
}
