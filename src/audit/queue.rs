//! Between those who have something to record and the one thread that writes: a queue with a bound, and the health of what
//! is behind it.
//!
//! Invariant: what does not get into the queue is counted, and the count is handed to the writer with the next records. The
//! writer's success and a waiter's impatience change the health under the same lock, so that the later one wins.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::metrics::Metrics;
use super::used::Used;
use super::{Event, Unavailable};
use prometheus::{IntCounter, IntGauge};
use tokio::sync::oneshot;

/// A record that is to be written.
pub struct Job {
    /// When the event happened, since the Unix epoch.
    pub time: Duration,
    pub event: Event,
    /// Who waits for it.
    pub waiter: Option<Waiter>,
}

/// Somebody who waits for a record to be durable.
pub struct Waiter(oneshot::Sender<Result<(), Unavailable>>);

/// What a waiter hears.
pub type Answer = oneshot::Receiver<Result<(), Unavailable>>;

impl Waiter {
    pub fn new() -> (Self, Answer) {
        let (sender, answer) = oneshot::channel();
        (Self(sender), answer)
    }

    pub fn answer(self, result: Result<(), Unavailable>) {
        // Those who gave up are not told.
        let _ = self.0.send(result);
    }
}

/// What came of waiting for work.
pub enum Taken {
    Work(Work),
    /// The time is up.
    Nothing,
    /// There is nothing left, and there will be nothing.
    Closed,
}

/// What the writer is to do next.
pub struct Work {
    pub jobs: Vec<Job>,
    /// How many records were lost since it was last asked.
    pub lost: u64,
    /// What was used and is not a record yet, once all records before it were taken.
    pub journal: Option<Vec<Used>>,
    /// To be handed to [`Queue::written`].
    pub ticket: Ticket,
}

/// A job's place in the order of all jobs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Ticket(u64);

/// See the module.
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    healthy: AtomicBool,
    healthy_gauge: IntGauge,
    lost_total: IntCounter,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// What nobody waits for, and what must not keep the others waiting.
    bulk: VecDeque<Job>,
    journal: Option<Vec<Used>>,
    lost: u64,
    pushed: Ticket,
    taken: Ticket,
    written: Ticket,
    closed: bool,
}

impl Queue {
    pub fn new(metrics: &Metrics) -> Self {
        let queue = Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            healthy: AtomicBool::new(false),
            healthy_gauge: metrics.healthy.clone(),
            lost_total: metrics.lost.clone(),
        };
        queue.set_healthy(true);
        queue
    }

    /// Adds a job, without waiting.
    ///
    /// # Errors
    /// When the queue is full or closed; then the record is lost.
    pub fn push(&self, job: Job) -> Result<Ticket, Unavailable> {
        let mut state = self.lock();
        if state.closed || state.jobs.len() >= CAPACITY {
            state.lost += 1;
            self.lost_total.inc();
            self.set_healthy(false);
            return Err(if state.closed { Unavailable::Stopped } else { Unavailable::Full });
        }
        state.jobs.push_back(job);
        state.pushed.0 += 1;
        self.changed.notify_one();
        Ok(state.pushed)
    }

    /// Adds what nobody waits for: all of it or nothing.
    ///
    /// # Errors
    /// When there is no room; then it comes back.
    pub fn hand_over(&self, bulk: Vec<Job>) -> Result<(), Vec<Job>> {
        if bulk.is_empty() {
            // The writer is not woken for it.
            return Ok(());
        }
        let mut state = self.lock();
        if state.closed || !state.has_room_for(bulk.len()) {
            return Err(bulk);
        }
        state.bulk.extend(bulk);
        self.changed.notify_one();
        Ok(())
    }

    pub fn has_room_for(&self, bulk: usize) -> bool {
        self.lock().has_room_for(bulk)
    }

    /// So many records found no room. As nobody waited for them, the health is what it was.
    pub fn lose(&self, count: u64) {
        self.lock().lost += count;
        self.lost_total.inc_by(count);
    }

    /// What was used and is not a record yet, in place of what was given before.
    pub fn keep(&self, journal: Vec<Used>) {
        let mut state = self.lock();
        if !state.closed {
            state.journal = Some(journal);
            self.changed.notify_one();
        }
    }

    /// Waits for jobs, not longer than `most` where there is one, and takes some of them.
    pub fn take(&self, most: Option<Duration>) -> Taken {
        let idle = |state: &mut State| state.is_empty() && !state.closed;
        let mut state = match most {
            None => self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner),
            Some(most) => {
                let waited = self.changed.wait_timeout_while(self.lock(), most, idle);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        match state.is_empty() {
            false => Taken::Work(state.take(MOST_AT_ONCE)),
            true if state.closed => Taken::Closed,
            true => Taken::Nothing,
        }
    }

    /// All that is left, without waiting.
    pub fn take_rest(&self) -> Work {
        self.lock().take(usize::MAX)
    }

    /// Waits that long: `true` as soon as the queue is closed.
    pub fn closes_within(&self, time: Duration) -> bool {
        let open = |state: &mut State| !state.closed;
        let waited = self.changed.wait_timeout_while(self.lock(), time, open);
        waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }

    /// The jobs up to `ticket` are durable.
    pub fn written(&self, ticket: Ticket, healthy: bool) {
        let mut state = self.lock();
        state.written = state.written.max(ticket);
        self.set_healthy(healthy);
    }

    /// Somebody waited too long for a job.
    pub fn overdue(&self, ticket: Ticket) {
        let state = self.lock();
        if state.written < ticket {
            self.set_healthy(false);
        }
    }

    /// The disk does not take any records now.
    pub fn failed(&self) {
        let _lock = self.lock();
        self.set_healthy(false);
    }

    /// The disk takes records again.
    pub fn recovered(&self) {
        let _lock = self.lock();
        self.set_healthy(true);
    }

    /// Takes no more jobs.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// There is no writer any more: whoever waits is told so.
    pub fn abandon(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.jobs.clear();
        state.bulk.clear();
        self.set_healthy(false);
    }

    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Only under the lock.
    fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
        self.healthy_gauge.set(healthy.into());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, most: usize) -> Work {
        // The stop comes last, also after what nobody waits for.
        let is_stop = |job: &Job| matches!(job.event, Event::Stop { .. });
        let before_stop = self.jobs.iter().position(is_stop).unwrap_or(self.jobs.len()).min(most);
        let more = self.bulk.len().min(most - before_stop);
        let after =
            if more == self.bulk.len() { (self.jobs.len() - before_stop).min(most - before_stop - more) } else { 0 };
        self.taken.0 += (before_stop + after) as u64;
        let mut jobs: Vec<Job> = self.jobs.drain(..before_stop).collect();
        jobs.extend(self.bulk.drain(..more));
        jobs.extend(self.jobs.drain(..after));
        let journal = if self.jobs.is_empty() && self.bulk.is_empty() { self.journal.take() } else { None };
        Work { jobs, lost: std::mem::take(&mut self.lost), journal, ticket: self.taken }
    }

    fn has_room_for(&self, bulk: usize) -> bool {
        self.bulk.len() + bulk <= BULK_CAPACITY
    }

    fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.bulk.is_empty() && self.journal.is_none()
    }
}

/// How many records may wait.
pub const CAPACITY: usize = 1024;

/// How many may that nobody waits for: a second and a half of them at ten thousand a second.
pub const BULK_CAPACITY: usize = 16 * 1024;

/// How many records are written at once: fewer than the reserve on the disk can hold.
pub const MOST_AT_ONCE: usize = 256;

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    fn queue() -> Queue {
        Queue::new(&Metrics::register(&Registry::new()).expect("a new registry"))
    }

    fn take(queue: &Queue) -> Option<Work> {
        match queue.take(None) {
            Taken::Work(work) => Some(work),
            Taken::Nothing | Taken::Closed => None,
        }
    }

    fn job() -> Job {
        Job { time: Duration::ZERO, event: Event::ReloadRefused { problems: 1 }, waiter: None }
    }

    fn jobs(count: usize) -> Vec<Job> {
        (0..count).map(|_| job()).collect()
    }

    #[test]
    fn impatience_counts_only_for_what_is_not_written() {
        let queue = queue();
        let ticket = queue.push(job()).expect("room");
        let work = take(&queue).expect("a job");
        queue.written(work.ticket, true);
        queue.overdue(ticket);
        assert!(queue.is_healthy(), "the answer was on its way");
        let ticket = queue.push(job()).expect("room");
        queue.overdue(ticket);
        assert!(!queue.is_healthy());
        queue.written(take(&queue).expect("a job").ticket, true);
        assert!(queue.is_healthy());
    }

    #[test]
    fn nobody_waits_for_jobs_longer_than_told() {
        assert!(matches!(queue().take(Some(Duration::from_millis(1))), Taken::Nothing));
    }

    #[test]
    fn what_is_lost_is_handed_over_once() {
        let queue = queue();
        for _ in 0..CAPACITY {
            queue.push(job()).expect("room");
        }
        assert_eq!(queue.push(job()), Err(Unavailable::Full));
        assert_eq!(queue.push(job()), Err(Unavailable::Full));
        let lost: Vec<u64> = (0..CAPACITY / MOST_AT_ONCE).map(|_| take(&queue).expect("jobs").lost).collect();
        assert_eq!(lost, [2, 0, 0, 0]);
        assert_eq!(queue.lost_total.get(), 2);
    }

    #[test]
    fn what_nobody_waits_for_waits_for_the_others_and_comes_back_whole() {
        let queue = queue();
        assert!(queue.hand_over(jobs(MOST_AT_ONCE)).is_ok());
        queue.push(Job { event: Event::UsageGap { from: String::new() }, ..job() }).expect("room");
        queue.keep(Vec::new());
        let first = take(&queue).expect("jobs");
        assert_eq!(first.jobs[0].event.name(), "usage_gap");
        assert_eq!((first.jobs.len(), first.journal), (MOST_AT_ONCE, None));
        queue.push(Job { event: Event::Stop { cause: String::new() }, ..job() }).expect("room");
        let last = take(&queue).expect("the rest");
        assert_eq!((last.jobs.len(), last.journal), (2, Some(Vec::new())));
        assert_eq!(last.jobs[1].event.name(), "stop");
        let Err(back) = queue.hand_over(jobs(BULK_CAPACITY + 1)) else { panic!("there is no room") };
        assert_eq!(back.len(), BULK_CAPACITY + 1);
        queue.lose(7);
        assert!(queue.is_healthy());
        assert!(queue.hand_over(jobs(1)).is_ok());
        assert_eq!(take(&queue).expect("a job").lost, 7);
    }

    #[test]
    fn a_closed_queue_is_emptied_before_it_ends() {
        let queue = queue();
        queue.push(job()).expect("room");
        queue.close();
        assert_eq!(queue.push(job()), Err(Unavailable::Stopped));
        assert_eq!(take(&queue).map(|work| work.jobs.len()), Some(1));
        assert!(take(&queue).is_none());
        assert!(matches!(queue.take(Some(Duration::MAX)), Taken::Closed));
        assert!(queue.closes_within(Duration::MAX));
    }
}
