//! What records tell of the use of tokens, and what is kept of it between two of them.
//!
//! ```text
//! each second   sums of the minute so far ─▶ usage.journal (replaced)
//! each minute   sums of the minute ───────▶ records; then the journal begins anew
//! a start       the journal of before ────▶ records, but for those that were written already
//! ```
//!
//! Invariant: what was used is told once. A crash loses what came after the journal was written last, and the next start says from
//! when on that is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::capped;
use crate::clock::Moment;

/// The use of one token by one client, from one moment to another.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Used {
    pub token: String,
    pub client: String,
    /// The beginning of the minute.
    pub from: String,
    /// Its end, or how far it was told when the process ended.
    pub until: String,
    pub requests: u64,
    /// How they ended.
    pub outcomes: BTreeMap<String, u64>,
    /// By which routes they went.
    pub routes: BTreeMap<String, u64>,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// Whether a process told it that had ended before it could.
    #[serde(default, skip_serializing_if = "is_false")]
    pub recovered: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(value: &bool) -> bool {
    !value
}

/// One request that a route took, where each is told.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Request {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// That of the route, where policy said no to its use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route_token: Option<String>,
    pub client: String,
    pub route: String,
    pub host: String,
    pub method: &'static str,
    /// Without its query.
    #[serde(serialize_with = "capped")]
    pub path: String,
    /// 0 where there was no answer.
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub duration_ms: u64,
    /// Whether the answer came to its end.
    pub complete: bool,
}

/// The sums that are not records yet.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Journal {
    /// Records from this one on may hold some of them.
    pub after: u64,
    pub used: Vec<Used>,
}

/// What tells a roll-up from all others: token, client, from.
type Key = (String, String, String);

/// What a start finds of the use before it.
#[derive(Default)]
pub struct Left {
    journal: Option<Journal>,
    written: BTreeSet<Key>,
}

impl Left {
    /// What the journal says; one that is no journal was not written by this program, and says nothing.
    pub fn new(journal: &[u8]) -> Self {
        Self { journal: serde_json::from_slice(journal).ok(), written: BTreeSet::new() }
    }

    /// A record that is there.
    pub fn see(&mut self, seq: u64, json: &[u8]) {
        let may_be_one = self.journal.as_ref().is_some_and(|journal| seq >= journal.after);
        if may_be_one && let Some(used) = serde_json::from_slice::<Named>(json).ok().filter(|one| one.event == "usage")
        {
            self.written.insert((used.token, used.client, used.from));
        }
    }

    /// Up to when use was told in any case.
    pub fn until(&self) -> Option<Duration> {
        let used = self.journal.iter().flat_map(|journal| &journal.used);
        used.filter_map(|used| since_epoch(&used.until)).max()
    }

    /// What was not written any more.
    pub fn into_used(self) -> Vec<Used> {
        let Self { journal, written } = self;
        let left = journal.into_iter().flat_map(|journal| journal.used);
        let left = left.filter(|used| !written.contains(&(used.token.clone(), used.client.clone(), used.from.clone())));
        left.map(|used| Used { recovered: true, ..used }).collect()
    }
}

#[derive(Deserialize)]
struct Named {
    event: String,
    #[serde(default)]
    token: String,
    #[serde(default)]
    client: String,
    #[serde(default)]
    from: String,
}

/// From when on use may be lost, if the last record is not the stop of its process. While that was there, use was kept within
/// [`KEPT_WITHIN`]; `told_until` is up to when it was in any case.
pub fn unfinished_since(last: &[u8], told_until: Option<Duration>) -> Option<String> {
    #[derive(Deserialize)]
    struct Last {
        event: String,
        time: String,
    }
    let last: Last = serde_json::from_slice(last).ok()?;
    let there = since_epoch(&last.time)?.saturating_sub(KEPT_WITHIN);
    (last.event != "stop").then(|| text(told_until.map_or(there, |until| until.max(there))))
}

/// The longest that use is told nowhere, while a process runs.
const KEPT_WITHIN: Duration = Duration::from_secs(1);

fn since_epoch(text: &str) -> Option<Duration> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(Duration::from_millis(u64::try_from(time.as_millisecond()).ok()?))
}

/// As records write it.
pub fn text(wall: Duration) -> String {
    Moment { boot: Duration::ZERO, wall }.to_rfc3339()
}
