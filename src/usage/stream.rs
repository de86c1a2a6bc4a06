//! Requests that have ended, and what has moved of those that last, on their way from the workers to whoever looks at what tokens are used for.
//!
//! ```text
//!  UsageGuard ─drop─▶ Collector: a Batch ──full, or each 200 ms──▶ Stream ──▶ Readers
//!                          ▲                                          │
//!                          └─────────────── emptied ◀─────────────────┘
//! ```
//!
//! A worker writes into a batch of its own, whose memory comes back to it: a request costs neither an allocation nor a lock.
//!
//! Invariants: a request that found its route is told once when it ends, or counted as lost, however often its bytes were told
//! before; what waits is bounded; a query never gets this far.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Cell, METHODS, OUTCOMES, outcome_index};
use crate::clock::{Clock, Moment};
use crate::name::{ClientName, RouteName, TokenName};

/// How often workers hand over what they have.
pub const HAND_OVER: Duration = Duration::from_millis(200);

/// Requests and bytes of paths after which a batch is full. Whoever reads it may have to share a core with a worker: it is
/// small, so that a request does not wait for long behind it.
const FULL: usize = 64;
const FULL_BYTES: usize = 16 * 1024;

/// Batches that may wait to be read.
const MOST_WAITING: usize = 1024;

/// Batches and texts that are kept to be used again, and how long such a text may be.
const SPARE_BATCHES: usize = 16;
const SPARE_TEXTS: usize = 256;
const SPARE_TEXT_BYTES: usize = 4 * 1024;

/// One request, as it ended, or as far as it has come.
#[derive(Clone, Copy, Debug)]
pub struct Use<'a> {
    /// When its token was attached, or else when it began; since the Unix epoch.
    pub at: Duration,
    /// What was attached to it.
    pub token: Option<&'a TokenName>,
    /// That of its route, attached or not.
    pub route_token: Option<&'a TokenName>,
    /// The app sent a credential of its own.
    pub shadowed: bool,
    pub generation: Option<u64>,
    pub client: &'a ClientName,
    pub route: &'a RouteName,
    pub host: &'a str,
    /// `other` for one that is not usual.
    pub method: &'static str,
    /// As judged, without the query. Empty of what was refused before its path was allowed.
    pub path: &'a str,
    /// The allow rule that let it pass; `None` where anything passes.
    pub rule: Option<RuleMark>,
    /// 0 where there was no answer.
    pub status: u16,
    /// As `token_uses_total` has it.
    pub outcome: &'static str,
    /// Why we refused it ourselves.
    pub reason: Option<&'static str>,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// Of these bytes, towards the upstream and the client, the ones that no earlier word of the same request told.
    pub fresh: [u64; 2],
    pub duration: Duration,
    /// Whether the answer came to its end.
    pub complete: bool,
    /// Whether the request has ended: it counts once, and then.
    pub is_over: bool,
}

/// Tells the allow rules of a route apart, also over a reload that moves them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
#[serde(transparent)]
pub struct RuleMark(u64);

impl RuleMark {
    /// Of a rule as it is written (FNV-1a: the same in each process).
    pub fn of(rule: &str) -> Self {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(rule.bytes().fold(0xcbf2_9ce4_8422_2325, step))
    }
}

impl<'a> Use<'a> {
    /// Whether both are of one route and client, and of one generation of the token.
    pub fn is_alike(&self, other: &Self) -> bool {
        // Names are those of the cell that counted it.
        std::ptr::eq(self.route, other.route) && self.generation == other.generation
    }

    /// The token that it would have carried, where policy said no to that.
    pub fn denied_token(&self) -> Option<&'a TokenName> {
        self.route_token.filter(|_| self.token.is_none() && self.reason.is_some_and(is_denial))
    }
}

/// Whether it is a no of policy: not that of an operator or of detection, and no failure.
pub fn is_denial(reason: &str) -> bool {
    // Most requests were refused for no reason.
    !reason.is_empty() && DENIALS.contains(&reason)
}

const DENIALS: [&str; 5] = ["route_denied", "method_denied", "path_denied", "tunnel_denied", "rate_limited"];

/// Whoever looks at what is used.
pub trait Reader: Send {
    fn read(&mut self, news: &News<'_>);

    /// So many requests were lost on their way.
    fn lost(&mut self, count: u64);
}

/// Some uses of one worker, in the order in which they ended or were told.
pub struct News<'a>(Vec<Use<'a>>);

impl<'a> News<'a> {
    /// The requests that have ended.
    pub fn uses(&self) -> impl Iterator<Item = &Use<'a>> {
        self.iter().filter(|used| used.is_over)
    }

    /// These, and those that are still under way.
    pub fn iter(&self) -> impl Iterator<Item = &Use<'a>> {
        self.0.iter()
    }
}

/// Them on their way.
#[derive(Default)]
pub(super) struct Batch {
    entries: Vec<Entry>,
    paths: String,
    /// When it was taken, by both ways to tell the time.
    taken: Option<(Instant, Moment)>,
}

/// What a guard knows of its request at the end.
pub(super) struct Entry {
    pub cell: Arc<Cell>,
    pub started: Instant,
    pub elapsed: Duration,
    /// The generation, and when, since the Unix epoch.
    pub attached: Option<(u64, Duration)>,
    pub rule: Option<RuleMark>,
    pub reason: Option<&'static str>,
    pub bytes: [u64; 2],
    pub fresh: [u64; 2],
    /// Where its path ends in the batch; it begins where the one before ends.
    pub path_end: u32,
    pub status: u16,
    /// Its place in [`METHODS`].
    pub method: u8,
    pub shadowed: bool,
    pub complete: bool,
    pub is_over: bool,
}

impl Batch {
    pub fn news(&self) -> News<'_> {
        let mut begins = 0;
        let told = self.entries.iter().map(|entry| {
            let ends = entry.path_end as usize;
            let path = &self.paths[std::mem::replace(&mut begins, ends)..ends];
            self.told(entry, path)
        });
        News(told.collect())
    }

    fn told<'a>(&'a self, entry: &'a Entry, path: &'a str) -> Use<'a> {
        let Entry { cell, attached, .. } = entry;
        let began = || self.taken.map(|(instant, now)| now.wall.saturating_sub(instant - entry.started));
        Use {
            at: attached.map(|(_, wall)| wall).or_else(began).unwrap_or_default(),
            token: cell.token.as_ref().filter(|_| attached.is_some()).map(|token| &token.name),
            route_token: cell.token.as_ref().map(|token| &token.name),
            shadowed: entry.shadowed,
            generation: attached.map(|(generation, _)| generation),
            client: &cell.client,
            route: &cell.route,
            host: &cell.host,
            method: METHODS[usize::from(entry.method)],
            path,
            rule: entry.rule,
            status: entry.status,
            outcome: OUTCOMES[outcome_index(http::StatusCode::from_u16(entry.status).ok(), entry.complete)],
            reason: entry.reason,
            request_bytes: entry.bytes[0],
            response_bytes: entry.bytes[1],
            fresh: entry.fresh,
            duration: entry.elapsed,
            complete: entry.complete,
            is_over: entry.is_over,
        }
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= FULL || self.paths.len() >= FULL_BYTES
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.paths.clear();
        self.paths.shrink_to(FULL_BYTES);
    }
}

/// What all workers hand their batches to.
pub struct Stream {
    state: Mutex<State>,
    arrived: Notify,
    lost: IntCounter,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Batch>,
    spare: Vec<Batch>,
    /// Lost, and not told to the readers yet.
    lost: u64,
}

impl Stream {
    pub(super) fn new(lost: IntCounter) -> Self {
        Self { state: Mutex::default(), arrived: Notify::new(), lost }
    }

    /// Resolves when there is something to take. One waits at a time.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Shows one batch to all readers: the one that waits the longest. Returns whether there was one.
    pub fn read(&self, clock: &dyn Clock, readers: &mut [Box<dyn Reader>]) -> bool {
        let Some(mut batch) = self.take(readers) else { return false };
        batch.taken = Some((Instant::now(), clock.now()));
        let news = batch.news();
        readers.iter_mut().for_each(|reader| reader.read(&news));
        drop(news);
        batch.clear();
        let mut state = self.lock();
        if state.spare.len() < SPARE_BATCHES {
            state.spare.push(batch);
        }
        true
    }

    fn take(&self, readers: &mut [Box<dyn Reader>]) -> Option<Batch> {
        let (batch, lost) = {
            let mut state = self.lock();
            (state.waiting.pop_front(), std::mem::take(&mut state.lost))
        };
        if lost > 0 {
            readers.iter_mut().for_each(|reader| reader.lost(lost));
        }
        batch
    }

    /// Takes a batch, and gives an empty one for it. One that finds no room is lost.
    fn hand_over(&self, mut batch: Batch) -> Batch {
        let mut state = self.lock();
        if state.waiting.len() >= MOST_WAITING {
            let count = batch.entries.iter().filter(|entry| entry.is_over).count() as u64;
            state.lost += count;
            self.lost.inc_by(count);
            drop(state);
            batch.clear();
            return batch;
        }
        state.waiting.push_back(batch);
        let spare = state.spare.pop().unwrap_or_default();
        drop(state);
        self.arrived.notify_one();
        spare
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker's end of the stream.
pub(super) struct Collector {
    stream: Arc<Stream>,
    batch: RefCell<Batch>,
    /// For the paths of requests that are under way.
    texts: RefCell<Vec<String>>,
}

impl Collector {
    pub fn new(stream: Arc<Stream>) -> Self {
        Self { stream, batch: RefCell::default(), texts: RefCell::default() }
    }

    /// A copy, in memory that was used before.
    pub fn keep(&self, path: &str) -> String {
        let mut text = self.texts.borrow_mut().pop().unwrap_or_default();
        text.push_str(path);
        text
    }

    pub fn give_back(&self, mut text: String) {
        let mut texts = self.texts.borrow_mut();
        if texts.len() < SPARE_TEXTS && text.capacity() <= SPARE_TEXT_BYTES {
            text.clear();
            texts.push(text);
        }
    }

    /// Adds what there is to tell of a request, given where its path ends.
    pub fn add(&self, path: &str, entry: impl FnOnce(u32) -> Entry) {
        let mut batch = self.batch.borrow_mut();
        batch.paths.push_str(path);
        let path_end = u32::try_from(batch.paths.len()).expect("a batch is full long before, and a path is no longer");
        batch.entries.push(entry(path_end));
        if batch.is_full() {
            let full = std::mem::take(&mut *batch);
            *batch = self.stream.hand_over(full);
        }
    }

    #[cfg(test)]
    pub fn look(&self, look: impl FnOnce(&Batch)) {
        look(&self.batch.borrow());
    }

    /// Hands over what there is. To be called now and then: a batch that does not fill up would wait for ever.
    pub fn hand_over(&self) {
        let mut batch = self.batch.borrow_mut();
        if !batch.entries.is_empty() {
            let some = std::mem::take(&mut *batch);
            *batch = self.stream.hand_over(some);
        }
    }
}

/// The worker ends.
impl Drop for Collector {
    fn drop(&mut self) {
        self.hand_over();
    }
}

#[cfg(test)]
mod tests;
