//! The audit trail: one record for each change of state, durable before the change where it lets something in.
//!
//! ```text
//! Recorder::record ─┐         (waits, 100 ms at most)
//! Recorder::note  ──┴─ queue ── thread "audit" ─┬─ DIR/trail-<first record>.log
//!                                               └─ DIR/tree, DIR/checkpoint
//! ```
//!
//! A line of a file is one record: `frame` has its form, `recovery` what a reader accepts, `writer` what happens when the
//! disk fails. The records are the leaves of a `tree`, whose roots a `notary` signs as they grow.
//!
//! Invariant: a record that was acknowledged is in the trail, once, in its place; one that was not written is counted, and
//! the trail tells how many those were. What a caller gave up waiting for is not written; where it is too late for that, the
//! record `not_done` follows. No caller waits for the disk itself. What was signed is never taken back.

mod archive;
mod batch;
mod book;
mod event;
mod export;
mod figures;
mod folder;
mod frame;
mod metrics;
mod notary;
mod note;
mod queue;
mod recovery;
mod resume;
mod review;
mod scan;
#[cfg(test)]
mod tests;
mod tree;
mod used;
mod verify;
mod waiter;
mod writer;

use std::future::{Future, pending};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use self::export::Outbox;
use self::folder::{Disk, Folder};
use self::queue::{Job, Queue};
use self::resume::Resumed;
use self::writer::{Pace, Writer};
use crate::clock::Clock;
use crate::state::{self, StateError};

pub use self::archive::{Archive, ArchiveError, Proof, Records};
pub use self::event::{AccessCounts, Event, Exchanged, Requested};
pub use self::export::{Exports, Exposed, Target};
pub use self::figures::Week;
pub use self::folder::FolderError;
pub use self::frame::{Damage, TooLong};
pub use self::metrics::Metrics;
pub use self::note::{Checkpoint, NotNote, NotSigned, NotVerifier, Note, Verifier};
pub use self::resume::ResumeError;
pub use self::tree::Hash;
pub use self::used::{Request, Used, text as time_text};
pub use self::verify::{Finding, Report, Tampering, Trusted, VerifyError, verify};

/// `[audit]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub dir: PathBuf,
    /// What checkpoints are signed with; made where it is missing.
    pub key: PathBuf,
    pub on_failure: OnFailure,
    pub usage: Usage,
    /// Where checkpoints go besides.
    pub export: Vec<Target>,
}

/// How the use of tokens is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Usage {
    /// In sums of a minute.
    RollUp,
    /// Request by request.
    Each,
}

/// What happens to live tokens when the trail cannot be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnFailure {
    Continue,
    Refuse,
}

/// Opens the trail and starts its thread. Blocks until the whole trail is read: call it before anything is served.
///
/// # Errors
/// When the folder cannot be used, another process holds it, or the trail in it is not what this program wrote and signed.
pub fn open(settings: &Settings, clock: Arc<dyn Clock>, metrics: Metrics) -> Result<(Recorder, Thread), OpenError> {
    let folder = Folder::open(&settings.dir)?;
    let seed = state::key(&settings.key)?;
    let resumed = resume::resume(&folder, &seed)?;
    let outboxes = settings.export.iter().map(|target| Outbox::new(target.clone(), &metrics)).collect();
    start(folder, resumed, clock, metrics, outboxes, Pace::default())
}

fn start(
    disk: impl Disk,
    resumed: Resumed,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    outboxes: Arc<[Outbox]>,
    pace: Pace,
) -> Result<(Recorder, Thread), OpenError> {
    let queue = Arc::new(Queue::new(&metrics, clock.clone()));
    let recorder = Recorder {
        queue: queue.clone(),
        clock: clock.clone(),
        answer_within: ANSWER_WITHIN,
        outboxes: outboxes.clone(),
        metrics: metrics.clone(),
    };
    let writer = Writer::new(disk, resumed, clock, metrics, (queue.clone(), outboxes), pace);
    let (done, finished) = sync_channel(1);
    let run = move || {
        let unwritten = writer.run();
        // Nobody waits for a thread that was not told to finish.
        let _ = done.send(unwritten);
    };
    let handle = std::thread::Builder::new().name("audit".into()).spawn(run).map_err(OpenError::Thread)?;
    Ok((recorder, Thread { queue, handle: Some(handle), finished }))
}

/// The right to append to the trail. Clones append to the same one.
#[derive(Clone)]
pub struct Recorder {
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    answer_within: Duration,
    outboxes: Arc<[Outbox]>,
    metrics: Metrics,
}

impl Recorder {
    /// Records an event; it is durable when this returns. For all that lets something in.
    ///
    /// # Errors
    /// After 100 ms at most. Then it is not in the trail, or `not_done` follows it there.
    pub async fn record(&self, event: Event) -> Result<Recorded, Unavailable> {
        self.record_all(vec![event], pending()).await
    }

    /// Several events in their order, which stand or fall together.
    ///
    /// # Errors
    /// As for [`Recorder::record`], for all of them, or as soon as `given_up` is ready.
    pub async fn record_all(
        &self,
        events: Vec<Event>,
        given_up: impl Future<Output = ()>,
    ) -> Result<Recorded, Unavailable> {
        self.record_within(events, self.answer_within, given_up).await
    }

    /// The same with patience, for when nobody waits for an answer: at a start, and for a new configuration.
    ///
    /// # Errors
    /// As for [`Recorder::record_all`], after 5 s at most.
    pub async fn record_patiently(
        &self,
        events: Vec<Event>,
        given_up: impl Future<Output = ()>,
    ) -> Result<Recorded, Unavailable> {
        self.record_within(events, PATIENCE, given_up).await
    }

    async fn record_within(
        &self,
        events: Vec<Event>,
        limit: Duration,
        given_up: impl Future<Output = ()>,
    ) -> Result<Recorded, Unavailable> {
        let mut events = events.into_iter();
        let Some(event) = events.next() else { return Ok(Recorded::default()) };
        let (waiter, answer) = waiter::pair();
        let time = self.clock.now().wall;
        self.queue.push(Job { time, event, further: events.collect(), waiter: Some(waiter) })?;
        let enough = async {
            match tokio::time::timeout(limit, given_up).await {
                Ok(()) => Unavailable::GivenUp,
                Err(_) => Unavailable::Slow,
            }
        };
        answer.within(enough).await
    }

    /// Nothing came of what these tell, after all.
    pub fn not_done(&self, recorded: Recorded) {
        recorded.0.for_each(|of| self.note(Event::NotDone { of }));
    }

    /// Records an event soon, without waiting. A record that finds the queue full is lost, and counted as that.
    pub fn note(&self, event: Event) {
        // What is lost was counted where it was lost.
        let _ = self.queue.push(Job::of(self.clock.now().wall, event));
    }

    /// Records of requests, soon and without waiting. Those that find no room are counted, and the trail tells how many they were.
    pub fn hand_over(&self, events: Vec<(Duration, Event)>) {
        let count = events.len() as u64;
        if self.queue.hand_over(events.into_iter().map(|(time, event)| Job::of(time, event)).collect()).is_err() {
            self.queue.lose(count);
        }
    }

    /// So many records of requests were lost before they got here.
    pub fn lost(&self, count: u64) {
        self.queue.lose(count);
    }

    /// Whether so many records of requests would find room now.
    pub fn has_room_for(&self, records: usize) -> bool {
        self.queue.has_room_for(records)
    }

    /// Records sums of use, soon and without waiting.
    ///
    /// # Errors
    /// When there is no room for them now; then they come back.
    pub fn roll_up(&self, sums: Vec<Used>, time: Duration) -> Result<(), Vec<Used>> {
        let job = |used| Job::of(time, Event::Usage(used));
        let back = self.queue.hand_over(sums.into_iter().map(job).collect()).err();
        let sum = |job: Job| if let Event::Usage(used) = job.event { Some(used) } else { None };
        back.map_or(Ok(()), |jobs| Err(jobs.into_iter().filter_map(sum).collect()))
    }

    /// Keeps sums of use that are not to be records yet, in place of those before: if this process ends without a word, the next
    /// start records them.
    pub fn keep(&self, sums: Vec<Used>) {
        self.queue.keep(sums);
    }

    /// How long things took by what the trail has, in the last weeks in which something was measured, the oldest first.
    pub fn figures(&self) -> Vec<Week> {
        self.metrics.by_week()
    }

    /// How the active tokens stood at the end of each of the last weeks by what the trail has, the oldest first, by its Monday.
    pub fn trend(&self) -> Vec<(String, AccessCounts)> {
        self.metrics.trend()
    }

    /// Whether the trail can be written, as far as is known: the last write succeeded, and nothing waits for one in vain.
    pub fn is_healthy(&self) -> bool {
        self.queue.is_healthy()
    }

    /// Shows whether it can. Called now and then: a disk that hangs does not say so.
    pub fn look(&self) {
        self.queue.look();
    }
}

/// Records that are in the trail.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Recorded(Range<u64>);

/// The thread that writes. Dropped without [`Thread::finish`], it still writes what is queued, unless the process is faster.
pub struct Thread {
    queue: Arc<Queue>,
    handle: Option<JoinHandle<()>>,
    finished: Receiver<u64>,
}

impl Thread {
    /// Takes no more records and waits, for 5 seconds at most, until all that are queued are durable. Blocks.
    ///
    /// # Errors
    /// When records remained unwritten, or that is not known.
    pub fn finish(mut self) -> Result<(), FinishError> {
        self.queue.close();
        let unwritten = self.finished.recv_timeout(FINISH_WITHIN).map_err(|error| match error {
            RecvTimeoutError::Timeout => FinishError::Blocked,
            RecvTimeoutError::Disconnected => FinishError::Died,
        })?;
        if let Some(handle) = self.handle.take() {
            handle.join().map_err(|_| FinishError::Died)?;
        }
        if unwritten == 0 { Ok(()) } else { Err(FinishError::Unwritten(unwritten)) }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Why there is no trail to write to.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Key(#[from] StateError),
    #[error(transparent)]
    Trail(#[from] ResumeError),
    #[error("cannot start the audit thread: {0}")]
    Thread(#[source] io::Error),
}

/// Why a record is not known to be durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("the audit trail was not written in time")]
    Slow,
    #[error("too many records wait for the audit trail")]
    Full,
    #[error("the audit trail is closed")]
    Stopped,
    #[error("it was given up before the audit trail was written")]
    GivenUp,
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// Why the end of the trail may be missing.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    #[error("{0} records of the audit trail could not be written")]
    Unwritten(u64),
    #[error("the audit trail was not written within 5 s")]
    Blocked,
    #[error("the audit thread died")]
    Died,
}

/// How slow a disk may be at a start.
const PATIENCE: Duration = Duration::from_secs(5);

/// The 100 ms that a caller may wait, less what it takes to wake it.
const ANSWER_WITHIN: Duration = queue::OVERDUE_AFTER;

const FINISH_WITHIN: Duration = Duration::from_secs(5);
