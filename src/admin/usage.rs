//! What tokens were used for, as the trail has it: requests or sums of them, and what became of the tokens meanwhile.

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::Pending;
use super::answer::{Answer, Refusal};
use super::audit::read;
use super::endpoint::{Call, Endpoint, Field, Shape};
use crate::audit::{Archive, ArchiveError, time_text};
use crate::operator::Role;

/// As many events an answer holds at most.
const MOST_EVENTS: u64 = 1000;

/// How many records an answer is looked for in: a call ends soon, whatever it asks for.
const MOST_READ: u64 = 100_000;

const FROM: Field =
    field("from", Shape::Number, "The record of the trail to begin with, as `next` said; 0 if not given");
const LIMIT: Field = field("limit", Shape::Number, "How many are wanted; 1000 if it is not given, and at most");
const SINCE: Field = field("since", Shape::Number, "Only what was written down since then, in seconds of Unix time");
const TOKEN: Field = field("token", Shape::Text, "Only of this token");

const fn field(name: &'static str, shape: Shape, about: &'static str) -> Field {
    Field { name, shape, required: false, about }
}

pub const ENDPOINTS: &[Endpoint] = &[Endpoint {
    method: Method::GET,
    path: "/v1/usage",
    role: Role::Viewer,
    summary: "Usage events from the trail, in its order: each request, or sums of a minute, as `usage` of [audit] says; and \
              what became of tokens. Where `next` is there, more may follow from that record on.",
    fields: &[FROM, LIMIT, SINCE, TOKEN],
    answer: (StatusCode::OK, schema),
    refusals: &[StatusCode::SERVICE_UNAVAILABLE],
    work: show,
}];

fn schema() -> Value {
    json!({
        "type": "object",
        "required": ["events"],
        "properties": {
            "events": { "type": "array", "items": { "type": "object" } },
            "next": { "type": "integer", "description": "From which record on to go on" },
        },
        "additionalProperties": false,
    })
}

fn show<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let from = call.number(&FROM).unwrap_or(0);
        let limit = call.number(&LIMIT).unwrap_or(MOST_EVENTS).clamp(1, MOST_EVENTS);
        // Times are written in one form, so that their texts are in their order.
        let since = call.number(&SINCE).map(|seconds| time_text(std::time::Duration::from_secs(seconds)));
        let token = call.text(&TOKEN).to_owned();
        let fits = move |record: &Map<String, Value>| {
            let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
            since.as_ref().is_none_or(|since| text("time") >= since.as_str())
                && (token.is_empty() || text("token") == token || text("route_token") == token)
        };
        read(call, move |archive| page(archive, from, limit, fits)).await
    })
}

fn page(
    archive: &Archive,
    from: u64,
    limit: u64,
    fits: impl Fn(&Map<String, Value>) -> bool,
) -> Result<Value, ArchiveError> {
    let mut records = archive.records(from)?;
    let mut events = Vec::new();
    while let Some((seq, json)) = records.take_next()? {
        if events.len() as u64 == limit || seq.saturating_sub(from) >= MOST_READ {
            return Ok(json!({ "events": events, "next": seq }));
        }
        let record: Map<String, Value> = serde_json::from_slice(json).unwrap_or_default();
        events.extend(event(&record).filter(|_| fits(&record)));
    }
    Ok(json!({ "events": events }))
}

/// What a record tells of use, in the form that detectors read; `None` of all others.
fn event(record: &Map<String, Value>) -> Option<Value> {
    const REQUEST: [&str; 12] = [
        "time",
        "token",
        "client",
        "route",
        "host",
        "method",
        "path",
        "status",
        "reason",
        "request_bytes",
        "response_bytes",
        "duration_ms",
    ];
    const SUM: [&str; 10] = [
        "time",
        "token",
        "client",
        "from",
        "until",
        "requests",
        "outcomes",
        "routes",
        "request_bytes",
        "response_bytes",
    ];
    let with = |keys: &[&str]| -> Map<String, Value> {
        keys.iter().filter_map(|key| Some(((*key).to_owned(), record.get(*key)?.clone()))).collect()
    };
    let lifecycle = |name: &str| {
        let mut event = with(&["time", "token", "generation", "reason", "count"]);
        event.insert("event".to_owned(), name.into());
        event
    };
    let event = match record.get("event")?.as_str()? {
        "request" => {
            let mut event = with(&REQUEST);
            // What policy said no to is told of the token all the same: its reason says that it was not sent.
            event.extend(record.get("route_token").map(|token| ("token".to_owned(), token.clone())));
            event
        }
        "usage" => with(&SUM),
        "token_issued" => lifecycle("issued"),
        "token_rotated" => lifecycle("rotated"),
        "token_expired" => lifecycle("expired"),
        "token_revoked" => lifecycle("revoked"),
        "token_refused" => lifecycle("refused"),
        _ => return None,
    };
    Some(Value::Object(event))
}
