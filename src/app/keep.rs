//! Records of the sealed state that say what may be done: they are there as long as anything is to be remembered.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::admin::NotDone;
use crate::metrics::Error as MetricsError;
use crate::seal::Label;
use crate::store::{Store, StoreError};

/// Why what was remembered cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How long anybody waits for the disk. What it was given by then it may have later.
pub const KEPT_WITHIN: Duration = Duration::from_secs(1);

/// What may wait for a disk that does not answer, each on a thread of its own.
const MOST_WAITING: usize = 8;

pub const NO_ANSWER: &str = "the disk does not answer";

/// Records of one kind, which are written one after the other, in the order in which they were handed in.
pub struct Keeping {
    store: Arc<Store>,
    kind: &'static str,
    turns: Turns,
}

impl Keeping {
    pub fn new(store: Arc<Store>, kind: &'static str) -> Self {
        Self { store, kind, turns: Turns::default() }
    }

    /// Puts a record on the disk; with nothing to remember, takes it away.
    ///
    /// # Errors
    /// When the disk does not do it in time. It may do it later.
    ///
    /// # Panics
    /// If a record cannot be written as JSON: what it says must not be forgotten for that.
    pub async fn keep(&self, name: &str, record: Option<&impl Serialize>) -> Result<(), NotDone> {
        if self.turns.are_many() {
            return Err(NotDone::Unkept(NO_ANSWER.to_owned()));
        }
        match timeout(KEPT_WITHIN, self.hand_in(name, record)).await {
            Ok(Ok(written)) => written.map_err(|error| NotDone::Unkept(error.to_string())),
            Ok(Err(stopped)) => Err(NotDone::Unkept(stopped.to_string())),
            Err(_) => Err(NotDone::Unkept(NO_ANSWER.to_owned())),
        }
    }

    /// The same for what lets something in: `stays` is what holds if it fails, whatever the disk does later.
    ///
    /// # Errors
    /// When the disk does not do it in time: nothing is to be let in then.
    pub async fn lift<R: Serialize>(&self, name: &str, record: Option<&R>, stays: Option<&R>) -> Result<(), NotDone> {
        if self.turns.are_many() {
            return Err(NotDone::NotLifted(NO_ANSWER.to_owned()));
        }
        let kept = self.keep(name, record).await.map_err(NotDone::not_lifted);
        if kept.is_err() {
            // Nobody waits for it: it comes after what was not done in time.
            drop(self.hand_in(name, stays));
        }
        kept
    }

    fn hand_in(&self, name: &str, record: Option<&impl Serialize>) -> JoinHandle<Result<(), StoreError>> {
        let content =
            record.map(|record| serde_json::to_vec(record).expect("records are texts and numbers under names"));
        let (store, kind, name) = (self.store.clone(), self.kind, name.to_owned());
        self.turns.take(move || {
            let label = Label { kind, name: &name };
            content.map_or_else(|| store.remove(label), |content| store.write(label, 1, &content))
        })
    }
}

/// Work that may block, one piece after the other.
#[derive(Default)]
pub struct Turns {
    /// The last one: whoever comes next waits for it.
    last: Mutex<Option<oneshot::Receiver<()>>>,
    waiting: Arc<()>,
}

impl Turns {
    /// Does it when all that came before is done, whether anybody waits for it or not.
    pub fn take<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let (done, turn) = oneshot::channel();
        let before = self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(turn);
        let waits = self.waiting.clone();
        tokio::task::spawn_blocking(move || {
            // An end is told by the sender that is dropped.
            let _ = before.map(oneshot::Receiver::blocking_recv);
            let _until_the_end: (Arc<()>, oneshot::Sender<()>) = (waits, done);
            work()
        })
    }

    /// Whether so many are not done yet that no more should be begun.
    pub fn are_many(&self) -> bool {
        self.waiting() >= MOST_WAITING
    }

    /// How many are not done yet.
    fn waiting(&self) -> usize {
        Arc::strong_count(&self.waiting) - 1
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn turns_are_taken_in_their_order_though_nobody_waits() {
        let turns = Turns::default();
        let (go, gate) = mpsc::sync_channel::<()>(1);
        let (told, order) = mpsc::sync_channel(8);
        drop(turns.take(move || gate.recv()));
        for number in 0..4 {
            let told = told.clone();
            drop(turns.take(move || told.send(number)));
        }
        assert_eq!(turns.waiting(), 5);
        let last = turns.take(move || told.send(4));
        go.send(()).expect("the first waits for it");
        last.await.expect("it ends").expect("somebody listens");
        assert_eq!(order.try_iter().collect::<Vec<i32>>(), [0, 1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn one_that_panics_is_followed_by_the_next() {
        let turns = Turns::default();
        assert!(turns.take(|| panic!("on purpose")).await.is_err());
        assert_eq!(turns.take(|| 1).await.ok(), Some(1));
        assert_eq!(turns.waiting(), 0);
    }
}
