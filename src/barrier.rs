//! Acknowledged by every worker: how a revocation knows that nobody holds a generation any more.
//!
//! ```text
//!  Barrier::pass(what) ──┬─▶ worker 0: lets go ── acknowledges ─┬─▶ passed
//!                        └─▶ worker 1: lets go ── acknowledges ─┘
//! ```
//!
//! The request path knows nothing of it: a worker lets go between two of its steps.
//!
//! Invariant: when it has been passed, every worker that sat at it has let go, or is gone.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// Orders that wait for one worker. Who orders more waits.
const WAITING: usize = 16;

/// For all workers together. One that takes longer has stopped.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where orders come from. `T` says what to let go of.
pub struct Barrier<T>(Mutex<Vec<mpsc::Sender<Order<T>>>>);

/// Where a worker waits for orders.
pub struct Orders<T>(mpsc::Receiver<Order<T>>);

/// What a worker is to let go of.
#[must_use]
pub struct Order<T> {
    pub what: T,
    done: oneshot::Sender<()>,
}

/// Not every worker has let go in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{missing} of {of} workers have not let go within {} s", PATIENCE.as_secs())]
pub struct Stuck {
    pub missing: usize,
    pub of: usize,
}

impl<T> Default for Barrier<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone + Send + 'static> Barrier<T> {
    /// A worker sits down. When its seat is gone, so is whatever it held.
    pub fn seat(&self) -> Orders<T> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let mut seats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seats.retain(|seat| !seat.is_closed());
        seats.push(sender);
        Orders(receiver)
    }

    /// Has every worker let go. What is not to be had anew must be out of reach by now.
    ///
    /// # Errors
    /// When a worker does not answer.
    pub async fn pass(&self, what: T) -> Result<(), Stuck> {
        let seats = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (of, deadline) = (seats.len(), Instant::now() + PATIENCE);
        // Side by side: one that has stopped keeps no other from its order.
        let mut letting_go = JoinSet::new();
        for seat in seats {
            let what = what.clone();
            letting_go.spawn(timeout_at(deadline, async move {
                let (done, answer) = oneshot::channel();
                // One whose seat is gone holds nothing; dropped or acknowledged: it has let go.
                if seat.send(Order { what, done }).await.is_ok() {
                    let _ = answer.await;
                }
            }));
        }
        let let_go = letting_go.join_all().await.iter().filter(|outcome| outcome.is_ok()).count();
        if let_go == of { Ok(()) } else { Err(Stuck { missing: of - let_go, of }) }
    }
}

impl<T> Orders<T> {
    /// The next order. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Order<T> {
        match self.0.recv().await {
            Some(order) => order,
            // Nobody is left to order anything.
            None => std::future::pending().await,
        }
    }
}

impl<T> Order<T> {
    /// It is let go of.
    pub fn acknowledge(self) {
        // Who ordered it may have lost patience.
        let _ = self.done.send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn it_is_passed_when_every_worker_has_let_go() {
        let barrier = Arc::new(Barrier::default());
        let (mut one, mut other) = (barrier.seat(), barrier.seat());
        let passing = barrier.pass("it");
        tokio::pin!(passing);
        let order = tokio::select! {
            _ = &mut passing => panic!("nobody has let go"),
            order = one.next() => order,
        };
        assert_eq!(order.what, "it");
        order.acknowledge();
        let order = tokio::select! {
            _ = &mut passing => panic!("one has not let go"),
            order = other.next() => order,
        };
        order.acknowledge();
        assert_eq!(passing.await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_takes_no_orders_keeps_no_other_from_its_own() {
        let barrier = Arc::new(Barrier::default());
        let (_stuck, mut lively) = (barrier.seat(), barrier.seat());
        let begin = Instant::now();
        let mut passing = JoinSet::new();
        for number in 0..=WAITING {
            let barrier = barrier.clone();
            passing.spawn(async move { barrier.pass(number).await });
        }
        for _ in 0..=WAITING {
            lively.next().await.acknowledge();
        }
        assert_eq!(begin.elapsed(), Duration::ZERO, "nobody has waited for the one that has stopped");
        let outcomes = passing.join_all().await;
        assert!(outcomes.iter().all(|outcome| *outcome == Err(Stuck { missing: 1, of: 2 })), "{outcomes:?}");
    }

    #[tokio::test]
    async fn a_worker_that_is_gone_holds_nothing() {
        let barrier = Arc::new(Barrier::default());
        let (gone, mut leaving) = (barrier.seat(), barrier.seat());
        drop(gone);
        let passing = barrier.pass(());
        tokio::pin!(passing);
        let order = tokio::select! {
            _ = &mut passing => panic!("one has not let go"),
            order = leaving.next() => order,
        };
        drop((order, leaving));
        assert_eq!(passing.await, Ok(()));
        assert_eq!(barrier.pass(()).await, Ok(()), "nobody is there");
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_has_stopped_is_told_of() {
        let barrier = Arc::new(Barrier::default());
        let (mut well, _stopped) = (barrier.seat(), barrier.seat());
        let working = async { well.next().await.acknowledge() };
        let (passed, ()) = tokio::join!(barrier.pass(()), working);
        assert_eq!(passed, Err(Stuck { missing: 1, of: 2 }));
    }
}
