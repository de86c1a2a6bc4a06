//! Somebody who waits for records, and the thread that writes them: which of the two is faster.
//!
//! ```text
//! Answer::within ── in time ──────────────▶ what became of the records
//!      └────────── gives up ─▶ Withdrawn ─▶ not written at all, or followed by `not_done`
//! ```
//!
//! Invariant: there is one fate, and both know it. Whoever hears that the records are durable had not given up; of whoever gave up,
//! the writer knows it before it acknowledges.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::oneshot;

use super::{Recorded, Unavailable};

/// The writer's half.
pub struct Waiter {
    fate: Arc<Fate>,
    sender: oneshot::Sender<Result<Recorded, Unavailable>>,
}

/// The half of whoever waits. Dropped, it has given up.
pub struct Answer {
    fate: Arc<Fate>,
    receiver: oneshot::Receiver<Result<Recorded, Unavailable>>,
}

#[derive(Default)]
struct Fate(AtomicU8);

const OPEN: u8 = 0;
const SETTLED: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Fate {
    /// Whether it is this one now, or was before.
    fn becomes(&self, fate: u8) -> bool {
        let before = self.0.compare_exchange(OPEN, fate, Ordering::AcqRel, Ordering::Acquire);
        before.map_or_else(|before| before == fate, |_| true)
    }
}

pub fn pair() -> (Waiter, Answer) {
    let (sender, receiver) = oneshot::channel();
    let fate = Arc::new(Fate::default());
    (Waiter { fate: fate.clone(), sender }, Answer { fate, receiver })
}

impl Waiter {
    pub fn has_given_up(&self) -> bool {
        self.fate.0.load(Ordering::Acquire) == WITHDRAWN
    }

    /// The records are durable: false if nobody waits for that any more. Otherwise it is to be answered.
    pub fn settle(&self) -> bool {
        self.fate.becomes(SETTLED)
    }

    pub fn answer(self, result: Result<Recorded, Unavailable>) {
        // Those who gave up are not told.
        let _ = self.sender.send(result);
    }
}

impl Answer {
    /// Waits until it comes, or until `enough`, which says why.
    ///
    /// # Errors
    /// When the records are not in the trail, or will be followed there by the word that nothing came of them.
    pub async fn within(mut self, enough: impl Future<Output = Unavailable>) -> Result<Recorded, Unavailable> {
        let stopped = |_| Err(Unavailable::Stopped);
        let why = tokio::select! {
            biased;
            answer = &mut self.receiver => return answer.unwrap_or_else(stopped),
            why = enough => why,
        };
        if self.fate.becomes(WITHDRAWN) {
            return Err(why);
        }
        // It is durable already: nothing stands between this and the answer but the writer's own steps.
        (&mut self.receiver).await.unwrap_or_else(stopped)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.fate.becomes(WITHDRAWN);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn whoever_gives_up_first_is_known_to_have() {
        let (waiter, answer) = pair();
        assert_eq!(answer.within(ready(Unavailable::Slow)).await, Err(Unavailable::Slow));
        assert!(waiter.has_given_up() && !waiter.settle());
        let (waiter, answer) = pair();
        drop(answer);
        assert!(!waiter.settle());
    }

    #[tokio::test]
    async fn what_is_durable_is_heard_of_however_late() {
        let (waiter, answer) = pair();
        assert!(waiter.settle());
        let heard =
            tokio::join!(answer.within(ready(Unavailable::Slow)), async { waiter.answer(Ok(Recorded(7..8))) }).0;
        assert_eq!(heard, Ok(Recorded(7..8)));
    }

    #[tokio::test]
    async fn a_writer_that_is_gone_is_told_at_once() {
        let (waiter, answer) = pair();
        drop(waiter);
        assert_eq!(answer.within(pending()).await, Err(Unavailable::Stopped));
    }
}
