//! A worker's coarse clock: what waits for long is not worth a timer of its own, with its place in the runtime's wheel, for each
//! request.
//!
//! Invariant: whoever waits is woken when as many rounds have begun as its time has seconds, and holds a place no longer than it
//! waits.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

/// From one round to the next.
pub const ROUND: Duration = Duration::from_secs(1);

/// What lasts less than this has a timer of its own: a round more or less would be too much of it.
pub const SHORT: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Clone, Default)]
pub struct Rounds(Rc<Clockwork>);

#[derive(Default)]
struct Clockwork {
    /// Rounds that have begun.
    begun: Cell<u64>,
    waiting: RefCell<Slab<Waiting>>,
}

struct Waiting {
    /// The round to be woken in.
    due: u64,
    waker: Waker,
}

impl Rounds {
    /// Begins the next one. To be called each [`ROUND`].
    pub fn turn(&self) {
        let now = self.0.begun.get() + 1;
        self.0.begun.set(now);
        for (_, waiting) in self.0.waiting.borrow().iter().filter(|(_, waiting)| waiting.due <= now) {
            waiting.waker.wake_by_ref();
        }
    }

    /// What comes of `work` within that time; `None` when nothing has. Of what is not [`SHORT`], up to a [`ROUND`] is missing: the
    /// one that runs may be nearly over.
    pub async fn within<T>(&self, time: Duration, work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        if time < SHORT {
            // Apart, so that whoever waits for long does not keep room for a timer.
            return Box::pin(tokio::time::timeout(time, work)).await.ok();
        }
        let rounds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        Within { work, rounds: &self.0, due: self.0.begun.get() + rounds, place: None }.await
    }
}

struct Within<'r, W> {
    work: Pin<&'r mut W>,
    rounds: &'r Clockwork,
    due: u64,
    place: Option<usize>,
}

impl<W: Future> Future for Within<'_, W> {
    type Output = Option<W::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<W::Output>> {
        if let Poll::Ready(done) = self.work.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        if self.rounds.begun.get() >= self.due {
            return Poll::Ready(None);
        }
        let rounds = self.rounds;
        match self.place {
            Some(place) => rounds.waiting.borrow_mut()[place].waker.clone_from(context.waker()),
            None => {
                let waiting = Waiting { due: self.due, waker: context.waker().clone() };
                self.place = Some(rounds.waiting.borrow_mut().insert(waiting));
            }
        }
        Poll::Pending
    }
}

impl<W> Drop for Within<'_, W> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.rounds.waiting.borrow_mut().remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::sync::oneshot;
    use tokio::task::LocalSet;

    use super::*;

    /// Waits in a task of its own.
    fn waits(rounds: &Rounds, time: Duration, work: oneshot::Receiver<u8>) -> tokio::task::JoinHandle<Option<u8>> {
        let rounds = rounds.clone();
        let work = async move { work.await.expect("the other end is there") };
        tokio::task::spawn_local(async move { rounds.within(time, pin!(work)).await })
    }

    async fn turn(rounds: &Rounds, times: u64) {
        for _ in 0..times {
            rounds.turn();
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_takes_too_long_is_given_up_when_its_rounds_have_begun() {
        LocalSet::new()
            .run_until(async {
                let rounds = Rounds::default();
                let (_never, work) = oneshot::channel();
                let waiting = waits(&rounds, Duration::from_millis(6500), work);
                tokio::task::yield_now().await;
                turn(&rounds, 6).await;
                assert!(!waiting.is_finished());
                turn(&rounds, 1).await;
                assert_eq!(waiting.await.expect("no panic"), None);
                assert!(rounds.0.waiting.borrow().is_empty());
            })
            .await;
    }

    #[tokio::test]
    async fn what_is_done_in_time_leaves_its_place() {
        LocalSet::new()
            .run_until(async {
                let rounds = Rounds::default();
                let (done, work) = oneshot::channel();
                let waiting = waits(&rounds, Duration::from_secs(10), work);
                tokio::task::yield_now().await;
                turn(&rounds, 3).await;
                assert_eq!(rounds.0.waiting.borrow().len(), 1);
                done.send(7).expect("it is waited for");
                assert_eq!(waiting.await.expect("no panic"), Some(7));
                assert!(rounds.0.waiting.borrow().is_empty());
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_short_does_not_wait_for_a_round() {
        let before = tokio::time::Instant::now();
        let never = std::future::pending::<()>();
        assert_eq!(Rounds::default().within(Duration::from_millis(200), pin!(never)).await, None);
        assert_eq!(before.elapsed(), Duration::from_millis(200));
    }
}
