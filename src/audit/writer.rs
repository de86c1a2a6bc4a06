//! The thread that writes, and the only one that waits for the disk.
//!
//! ```text
//! queue → batch → append, fdatasync → acknowledge            one write for all that waits
//!           ↑             ↓ failure
//!           └── abandon the segment, begin a new one          at once, then once a second
//! ```
//!
//! Of what is durable, the notary makes a checkpoint when one is due: after those who wait were answered.
//!
//! Invariant: a record is acknowledged when it is durable in a segment in which nothing has failed. After a failed fsync the
//! kernel may take lost pages for written ones, so that segment is not used again: its end is cut back to what was
//! acknowledged, and the same bytes are written at the beginning of a new one, where a reader finds them in either case. Where
//! whoever waited for a record has given up by then, `not_done` follows it.
//!
//! On a full disk the reserve is released, for the records of the failure and of the stop. Nothing else is written until it
//! can be set aside anew.

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::batch::Batch;
use super::export::Outbox;
use super::figures::Figures;
use super::folder::{Disk, Whole, is_full};
use super::metrics::{Metrics, Operation};
use super::notary::{Notary, Rhythm};
use super::queue::{Queue, Taken, Work};
use super::recovery::Segment;
use super::resume::Resumed;
use super::used::{Journal, Used};
use super::{Event, Unavailable};
use crate::clock::Clock;

/// What tests make smaller.
#[derive(Clone, Copy)]
pub struct Pace {
    /// A segment that is as long as this is followed by a new one.
    pub segment_bytes: u64,
    /// How often a disk that failed is tried again.
    pub attempt_every: Duration,
    pub rhythm: Rhythm,
}

impl Default for Pace {
    fn default() -> Self {
        Self { segment_bytes: 64 * 1024 * 1024, attempt_every: Duration::from_secs(1), rhythm: Rhythm::default() }
    }
}

/// See the module.
pub struct Writer<D: Disk> {
    disk: D,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    queue: Arc<Queue>,
    /// Who is told of new checkpoints.
    outboxes: Arc<[Outbox]>,
    pace: Pace,
    /// Where the next batch goes; a new one where there is none.
    segment: Option<Segment>,
    /// What is to be written, and is not acknowledged.
    batch: Batch,
    notary: Notary,
    figures: Figures,
    /// What was used and is not a record yet, where that is not on the disk.
    journal: Option<Vec<Used>>,
    /// When the last attempt at a checkpoint failed, by the boot clock.
    unsigned: Option<Duration>,
    /// Whether the last attempt failed.
    failing: bool,
    /// Whether the reserve is set aside.
    reserved: bool,
    /// Whether the log says that something is wrong.
    reported: bool,
}

impl<D: Disk> Writer<D> {
    pub fn new(
        disk: D,
        resumed: Resumed,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        (queue, outboxes): (Arc<Queue>, Arc<[Outbox]>),
        pace: Pace,
    ) -> Self {
        let Resumed { trail, mut notary, figures, weeks, used, unfinished_since } = resumed;
        metrics.went_before(weeks);
        // A crash may have left records that no checkpoint covers.
        notary.notice(clock.now().boot);
        let batch = Batch::new(trail.next_seq);
        let segment = trail.last;
        let mut writer = Self {
            disk,
            clock,
            metrics,
            queue,
            outboxes,
            pace,
            segment,
            batch,
            notary,
            figures,
            journal: None,
            unsigned: None,
            failing: false,
            reserved: false,
            reported: false,
        };
        if trail.repaired_bytes > 0 {
            writer.add_own(&Event::AuditTailRepaired { bytes: trail.repaired_bytes });
        }
        if let Some(from) = unfinished_since {
            writer.add_own(&Event::UsageGap { from });
        }
        if !used.is_empty() {
            writer.journal = Some(Vec::new());
        }
        for used in used {
            writer.add_own(&Event::Usage(used));
        }
        writer
    }

    /// Writes until the queue is closed. Returns how many records could not be written in the end.
    pub fn run(mut self) -> u64 {
        self.set_reserve_aside();
        while self.catch_up() {
            self.keep_journal();
            self.queue.dealt_with();
            self.sign_if_due();
            match self.queue.take(self.until_checkpoint()) {
                Taken::Work(work) => self.add(work),
                Taken::Nothing => {}
                Taken::Closed => break,
            }
        }
        self.finish()
    }

    /// How long until a checkpoint is due: `None` while there is nothing new.
    fn until_checkpoint(&self) -> Option<Duration> {
        let now = self.clock.now().boot;
        let due = self.notary.due(&self.pace.rhythm, now)?;
        let again = self.unsigned.map(|failed| (failed + self.pace.attempt_every).saturating_sub(now));
        Some(again.unwrap_or(due))
    }

    /// What is written of it is on the disk by now: the journal takes its place.
    fn keep_journal(&mut self) {
        let Some(used) = self.journal.take() else { return };
        self.queue.turned_to_the_next();
        let journal = Journal { after: self.batch.next_seq(), used };
        let json = serde_json::to_vec(&journal).expect("sums are plain data");
        if let Err(error) = self.disk.replace(Whole::Journal, &json) {
            self.report(&Failure { operation: Operation::Journal, error });
        }
    }

    fn sign_if_due(&mut self) {
        if self.until_checkpoint() == Some(Duration::ZERO) {
            self.sign();
        }
    }

    /// A trail that grows and cannot be signed is not a good one.
    fn sign(&mut self) {
        match self.notary.publish(&self.disk, &self.pace.rhythm) {
            Ok(note) => {
                if let Some(note) = note {
                    self.metrics.checkpoint_size.set(i64::try_from(note.unverified().size).unwrap_or(i64::MAX));
                    let now = self.clock.now().wall.as_secs();
                    self.metrics.checkpoint_time.set(i64::try_from(now).unwrap_or(i64::MAX));
                    let note = Arc::new(note);
                    self.outboxes.iter().for_each(|outbox| outbox.push(&note));
                }
                if self.unsigned.take().is_some() {
                    self.report_recovery();
                    if self.reserved {
                        self.queue.recovered();
                    }
                }
            }
            Err(error) => {
                let detail = error.to_string();
                self.report(&Failure { operation: Operation::Checkpoint, error });
                if self.unsigned.replace(self.clock.now().boot).is_none() {
                    self.add_own(&Event::AuditFailed { operation: Operation::Checkpoint.name(), detail });
                }
                self.queue.failed();
            }
        }
    }

    /// Gets the batch onto the disk, however long it takes; `false` when the queue was closed before that was done.
    fn catch_up(&mut self) -> bool {
        while !self.commit() || !self.set_reserve_aside() {
            if self.queue.closes_within(self.pace.attempt_every) {
                return false;
            }
        }
        true
    }

    /// One last attempt: with all that is left, or on a full disk with the stop and the number of what is not written.
    fn finish(mut self) -> u64 {
        let mut rest = self.queue.take_rest();
        let mut given_up = 0;
        if !self.reserved {
            let refused = rest.jobs.extract_if(.., |job| !matches!(job.event, Event::Stop { .. }));
            given_up = self.give_up(refused.map(|job| job.records()).sum());
        }
        rest.lost += given_up;
        self.add(rest);
        let written = self.commit();
        let unwritten = if written { given_up } else { given_up + self.give_up(self.batch.len()) };
        if written && given_up == 0 {
            self.keep_journal();
        }
        self.sign();
        unwritten
    }

    fn give_up(&self, records: usize) -> u64 {
        self.metrics.lost.inc_by(records as u64);
        records as u64
    }

    fn add(&mut self, work: Work) {
        let mut lost = work.lost;
        self.journal = work.journal.or(self.journal.take());
        for job in work.jobs {
            let records = job.records();
            if let Err((waiter, error)) = self.batch.add(job) {
                lost += self.give_up(records);
                if let Some(waiter) = waiter {
                    waiter.answer(Err(Unavailable::TooLong(error)));
                }
            }
        }
        let over = self.figures.pass(self.clock.now().wall);
        self.metrics.measured(&over);
        if lost > 0 {
            self.add_own(&Event::AuditRecordsLost { count: lost });
        }
    }

    fn add_own(&mut self, event: &Event) {
        self.batch.add_event(self.clock.now().wall, event).expect("the trail's own events are short");
    }

    fn add_not_done(&mut self, records: Vec<u64>) {
        records.into_iter().for_each(|of| self.add_own(&Event::NotDone { of }));
    }

    /// Writes the batch: a first failure is followed by an attempt in a new segment.
    fn commit(&mut self) -> bool {
        while !self.batch.is_empty() {
            // They may be on the disk in part, and keep their places.
            let given_up = self.batch.given_up();
            self.add_not_done(given_up);
            match self.write() {
                Ok(()) => self.acknowledge(),
                Err(failure) => {
                    let is_first = !mem::replace(&mut self.failing, true);
                    self.fall_back(&failure, is_first);
                    if !is_first {
                        self.queue.failed();
                        return false;
                    }
                }
            }
        }
        true
    }

    fn write(&mut self) -> Result<(), Failure> {
        let segment = match self.segment.take() {
            Some(segment) if segment.length < self.pace.segment_bytes => segment,
            _ => {
                let file = self.disk.create(self.batch.first_seq()).map_err(failed(Operation::Open))?;
                Segment { file, length: 0 }
            }
        };
        let segment = self.segment.insert(segment);
        self.disk.append(&segment.file, self.batch.frames()).map_err(failed(Operation::Write))?;
        self.disk.sync(&segment.file).map_err(failed(Operation::Sync))?;
        segment.length += self.batch.frames().len() as u64;
        Ok(())
    }

    fn acknowledge(&mut self) {
        self.failing = false;
        self.report_recovery();
        let next = Batch::new(self.batch.next_seq());
        let mut written = mem::replace(&mut self.batch, next);
        self.notary.append(written.leaves(), self.clock.now().boot);
        let too_late = written.settle();
        for told in written.told() {
            self.metrics.measured(&self.figures.see(told));
            self.metrics.stood(told);
        }
        self.queue.dealt_with();
        if self.reserved && self.unsigned.is_none() {
            self.queue.recovered();
        } else {
            self.queue.failed();
        }
        written.acknowledge(&self.metrics);
        self.add_not_done(too_late);
    }

    fn fall_back(&mut self, failure: &Failure, is_first: bool) {
        self.report(failure);
        if let Some(segment) = self.segment.take() {
            let cut = self.disk.truncate(&segment.file, segment.length).and_then(|()| self.disk.sync(&segment.file));
            if let Err(error) = cut {
                self.report(&Failure { operation: Operation::Cut, error });
            }
        }
        if is_full(&failure.error) {
            self.reserved = false;
            if let Err(error) = self.disk.release_reserve() {
                self.report(&Failure { operation: Operation::Reserve, error });
            }
        }
        if is_first {
            self.add_own(&Event::AuditFailed {
                operation: failure.operation.name(),
                detail: failure.error.to_string(),
            });
        }
    }

    /// Whether the disk has room for what must be written when it has no room.
    fn set_reserve_aside(&mut self) -> bool {
        if !self.reserved {
            match self.disk.reserve() {
                Ok(()) => {
                    self.reserved = true;
                    self.report_recovery();
                    if self.unsigned.is_none() {
                        self.queue.recovered();
                    }
                }
                Err(error) => {
                    self.report(&Failure { operation: Operation::Reserve, error });
                    self.queue.failed();
                }
            }
        }
        self.reserved
    }

    fn report_recovery(&mut self) {
        if self.reserved && self.unsigned.is_none() && mem::replace(&mut self.reported, false) {
            tracing::info!("the audit trail is written again");
        }
    }

    fn report(&mut self, failure: &Failure) {
        let Failure { operation, error } = failure;
        let operation = operation.name();
        self.metrics.failures.with_label_values(&[operation]).inc();
        // Attempts go on once a second; the log need not.
        if mem::replace(&mut self.reported, true) {
            tracing::debug!(operation, %error, "the audit trail still cannot be written");
        } else {
            tracing::error!(operation, %error, "the audit trail cannot be written");
        }
    }
}

/// Also when the thread panics: nobody shall wait for a writer that is gone.
impl<D: Disk> Drop for Writer<D> {
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

struct Failure {
    operation: Operation,
    error: io::Error,
}

fn failed(operation: Operation) -> impl Fn(io::Error) -> Failure {
    move |error| Failure { operation, error }
}
