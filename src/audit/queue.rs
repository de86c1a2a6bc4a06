//! Between those who have something to record and the one thread that writes: a queue with a bound, and the health of what
//! is behind it.
//!
//! ```text
//! push, hand_over, keep ─▶ what waits ─▶ take ─▶ in hand ─▶ dealt_with
//!                          └──── older than 95 ms: not healthy ────┘
//! ```
//!
//! Invariant: what does not get into the queue is counted, and the count is handed to the writer with the next records; what its
//! waiter has given up is never handed over. A disk that hangs says nothing: how long the oldest record has waited does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::metrics::Metrics;
use super::used::Used;
use super::waiter::Waiter;
use super::{Event, Unavailable};
use crate::clock::Clock;
use prometheus::{IntCounter, IntGauge};

/// A record that is to be written.
pub struct Job {
    /// When the event happened, since the Unix epoch.
    pub time: Duration,
    pub event: Event,
    /// What stands or falls with it, in records that follow at once.
    pub further: Vec<Event>,
    /// Who waits for it.
    pub waiter: Option<Waiter>,
}

impl Job {
    /// That nobody waits for.
    pub fn of(time: Duration, event: Event) -> Self {
        Self { time, event, further: Vec::new(), waiter: None }
    }

    pub fn records(&self) -> usize {
        1 + self.further.len()
    }

    fn is_withdrawn(&self) -> bool {
        self.waiter.as_ref().is_some_and(Waiter::has_given_up)
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
}

/// See the module.
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    clock: Arc<dyn Clock>,
    /// What the writer says of the disk.
    healthy: AtomicBool,
    /// When what waits will have waited too long, by the boot clock in nanoseconds.
    due: AtomicU64,
    healthy_gauge: IntGauge,
    lost_total: IntCounter,
}

#[derive(Default)]
struct State {
    /// With the time since when each waits, by the boot clock.
    jobs: VecDeque<(Duration, Job)>,
    /// What nobody waits for, and what must not keep the others waiting.
    bulk: VecDeque<Job>,
    journal: Option<Vec<Used>>,
    /// Since when there is bulk or a journal, and none of it was taken.
    aside_since: Option<Duration>,
    /// Since when the oldest of what was taken last waits, until it is dealt with.
    in_hand: Option<Duration>,
    lost: u64,
    closed: bool,
}

impl Queue {
    pub fn new(metrics: &Metrics, clock: Arc<dyn Clock>) -> Self {
        let queue = Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            clock,
            healthy: AtomicBool::new(false),
            due: AtomicU64::new(NEVER),
            healthy_gauge: metrics.healthy.clone(),
            lost_total: metrics.lost.clone(),
        };
        queue.set_healthy(&queue.lock(), true);
        queue
    }

    /// Adds a job, without waiting.
    ///
    /// # Errors
    /// When the queue is full or closed; then the record is lost.
    pub fn push(&self, job: Job) -> Result<(), Unavailable> {
        let since = self.clock.now().boot;
        let mut state = self.lock();
        if state.jobs.len() >= CAPACITY {
            state.jobs.retain(|(_, job)| !job.is_withdrawn());
        }
        if state.closed || state.jobs.len() >= CAPACITY {
            state.lost += job.records() as u64;
            self.lost_total.inc_by(job.records() as u64);
            self.set_healthy(&state, false);
            return Err(if state.closed { Unavailable::Stopped } else { Unavailable::Full });
        }
        state.jobs.push_back((since, job));
        self.ages(&state);
        self.changed.notify_one();
        Ok(())
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
        let since = self.clock.now().boot;
        let mut state = self.lock();
        if state.closed || !state.has_room_for(bulk.len()) {
            return Err(bulk);
        }
        state.bulk.extend(bulk);
        state.aside_since.get_or_insert(since);
        self.ages(&state);
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
        let since = self.clock.now().boot;
        let mut state = self.lock();
        if !state.closed {
            state.journal = Some(journal);
            state.aside_since.get_or_insert(since);
            self.ages(&state);
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
            false => Taken::Work(self.hand(&mut state, MOST_AT_ONCE)),
            true if state.closed => Taken::Closed,
            true => Taken::Nothing,
        }
    }

    /// All that is left, without waiting.
    pub fn take_rest(&self) -> Work {
        self.hand(&mut self.lock(), usize::MAX)
    }

    fn hand(&self, state: &mut State, most: usize) -> Work {
        let work = state.take(most, self.clock.now().boot);
        self.ages(state);
        work
    }

    /// Something that was taken with the rest is begun only now.
    pub fn turned_to_the_next(&self) {
        let now = self.clock.now().boot;
        let mut state = self.lock();
        state.in_hand = Some(now);
        self.ages(&state);
    }

    /// What was taken last is on the disk, or is given up.
    pub fn dealt_with(&self) {
        let mut state = self.lock();
        state.in_hand = None;
        self.ages(&state);
    }

    /// Waits that long: `true` as soon as the queue is closed.
    pub fn closes_within(&self, time: Duration) -> bool {
        let open = |state: &mut State| !state.closed;
        let waited = self.changed.wait_timeout_while(self.lock(), time, open);
        waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }

    /// The disk does not take any records now.
    pub fn failed(&self) {
        self.set_healthy(&self.lock(), false);
    }

    /// The disk takes records.
    pub fn recovered(&self) {
        self.set_healthy(&self.lock(), true);
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
        self.set_healthy(&state, false);
    }

    /// As far as is known now: asked for each request, where requests depend on it.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed) && !self.is_overdue()
    }

    fn is_overdue(&self) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        due != NEVER && nanos(self.clock.now().boot) >= due
    }

    /// Shows the health as it is, where nothing else has happened.
    pub fn look(&self) {
        let _lock = self.lock();
        self.healthy_gauge.set(self.is_healthy().into());
    }

    /// What waits has changed.
    fn ages(&self, state: &State) {
        let due = state.oldest().map_or(NEVER, |since| nanos(since.saturating_add(OVERDUE_AFTER)));
        self.due.store(due, Ordering::Relaxed);
        self.healthy_gauge.set(self.is_healthy().into());
    }

    fn set_healthy(&self, _lock: &State, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
        self.healthy_gauge.set(self.is_healthy().into());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, most: usize, now: Duration) -> Work {
        self.in_hand = self.oldest();
        self.jobs.retain(|(_, job)| !job.is_withdrawn());
        let mut jobs = Vec::new();
        // The stop comes last, also after what nobody waits for.
        let is_stop = |job: &Job| matches!(job.event, Event::Stop { .. });
        let mut room = self.take_jobs(most, &mut jobs, |job| !is_stop(job));
        let more = self.bulk.len().min(room);
        jobs.extend(self.bulk.drain(..more));
        room -= more;
        if self.bulk.is_empty() {
            self.take_jobs(room, &mut jobs, |_| true);
        }
        let journal = if self.jobs.is_empty() && self.bulk.is_empty() { self.journal.take() } else { None };
        // What is left waits from now on: it is its turn next.
        self.aside_since = (!self.bulk.is_empty() || self.journal.is_some()).then_some(now);
        Work { jobs, lost: std::mem::take(&mut self.lost), journal }
    }

    /// The first of them, while they are of this kind and there is room for as many records. Returns what room is left.
    fn take_jobs(&mut self, mut room: usize, taken: &mut Vec<Job>, kind: impl Fn(&Job) -> bool) -> usize {
        while room > 0 {
            let Some((_, job)) = self.jobs.pop_front_if(|(_, job)| kind(job)) else { break };
            room = room.saturating_sub(job.records());
            taken.push(job);
        }
        room
    }

    /// Since when there is something that is not dealt with.
    fn oldest(&self) -> Option<Duration> {
        let first = self.jobs.front().map(|(since, _)| *since);
        [first, self.aside_since, self.in_hand].into_iter().flatten().min()
    }

    fn has_room_for(&self, bulk: usize) -> bool {
        self.bulk.len() + bulk <= BULK_CAPACITY
    }

    fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.bulk.is_empty() && self.journal.is_none()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(NEVER)
}

/// No time at all.
const NEVER: u64 = u64::MAX;

/// What a record may take: as long as those wait who wait for one.
pub const OVERDUE_AFTER: Duration = Duration::from_millis(95);

/// How many records may wait.
pub const CAPACITY: usize = 1024;

/// How many may that nobody waits for: a second and a half of them at ten thousand a second.
pub const BULK_CAPACITY: usize = 16 * 1024;

/// How many records are written at once: fewer than the reserve on the disk can hold.
pub const MOST_AT_ONCE: usize = 256;

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::super::waiter;
    use super::*;
    use crate::clock::{ManualClock, SystemClock};

    fn queue() -> Queue {
        Queue::new(&Metrics::register(&Registry::new()).expect("a new registry"), Arc::new(SystemClock))
    }

    fn take(queue: &Queue) -> Option<Work> {
        match queue.take(None) {
            Taken::Work(work) => Some(work),
            Taken::Nothing | Taken::Closed => None,
        }
    }

    fn job() -> Job {
        Job::of(Duration::ZERO, Event::ReloadRefused { problems: 1 })
    }

    fn jobs(count: usize) -> Vec<Job> {
        (0..count).map(|_| job()).collect()
    }

    #[test]
    fn what_waits_too_long_is_known_without_anybody_who_says_so() {
        let clock = Arc::new(ManualClock::default());
        let queue = Queue::new(&Metrics::register(&Registry::new()).expect("a new registry"), clock.clone());
        let hands_in: [fn(&Queue); 3] = [
            |queue| queue.push(job()).expect("room"),
            |queue| assert!(queue.hand_over(jobs(1)).is_ok()),
            |queue| queue.keep(Vec::new()),
        ];
        for hand_in in hands_in {
            hand_in(&queue);
            assert!(queue.is_healthy());
            clock.advance(OVERDUE_AFTER);
            assert!(!queue.is_healthy(), "nobody takes it");
            queue.look();
            assert_eq!(queue.healthy_gauge.get(), 0);
            take(&queue).expect("it is still there");
            assert!(!queue.is_healthy(), "it is not on the disk yet");
            queue.dealt_with();
            assert!(queue.is_healthy());
            assert_eq!(queue.healthy_gauge.get(), 1);
            clock.advance(OVERDUE_AFTER);
            assert!(queue.is_healthy(), "nothing waits");
        }
    }

    #[test]
    fn a_long_queue_that_moves_is_not_one_that_hangs() {
        let clock = Arc::new(ManualClock::default());
        let queue = Queue::new(&Metrics::register(&Registry::new()).expect("a new registry"), clock.clone());
        assert!(queue.hand_over(jobs(3 * MOST_AT_ONCE)).is_ok());
        for _ in 0..3 {
            clock.advance(OVERDUE_AFTER * 2 / 3);
            take(&queue).expect("jobs");
            assert!(queue.is_healthy());
            queue.dealt_with();
        }
    }

    #[test]
    fn what_was_given_up_is_not_handed_over_and_takes_no_room() {
        let queue = queue();
        let waiting = |answers: &mut Vec<_>| {
            let (waiter, answer) = waiter::pair();
            answers.push(answer);
            queue.push(Job { waiter: Some(waiter), ..job() })
        };
        let mut answers = Vec::new();
        for _ in 0..CAPACITY {
            waiting(&mut answers).expect("room");
        }
        assert_eq!(waiting(&mut answers), Err(Unavailable::Full));
        answers.truncate(1);
        queue.push(job()).expect("room again");
        assert_eq!(take(&queue).expect("jobs").jobs.len(), 2);
        assert_eq!(queue.lost_total.get(), 1);
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
