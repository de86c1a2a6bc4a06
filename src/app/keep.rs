//! Records of the sealed state that say what may be done: they are there as long as anything is to be remembered.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
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
const KEPT_WITHIN: Duration = Duration::from_secs(1);

/// What may wait for a disk that does not answer, each on a thread of its own.
const MOST_WAITING: usize = 8;

/// Why something is not on the disk, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// So much waits that nothing was begun.
    #[error("the disk does not answer")]
    NotBegun,
    /// It may still be done.
    #[error("the disk does not answer")]
    NotInTime,
    #[error(transparent)]
    Stopped(#[from] JoinError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

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
        let kept = self.turns.within(self.writing(name, record)).await;
        kept.map_err(|error| NotDone::Unkept(error.to_string()))
    }

    /// The same for what lets something in: `stays` is what holds if it fails, whatever the disk does later.
    ///
    /// # Errors
    /// When the disk does not do it in time: nothing is to be let in then.
    pub async fn lift<R: Serialize>(&self, name: &str, record: Option<&R>, stays: Option<&R>) -> Result<(), NotDone> {
        let kept = self.turns.within_or(self.writing(name, record), || self.writing(name, stays)).await;
        kept.map_err(|error| NotDone::NotLifted(error.to_string()))
    }

    fn writing<R: Serialize>(
        &self,
        name: &str,
        record: Option<&R>,
    ) -> impl FnOnce() -> Result<(), StoreError> + Send + 'static + use<R> {
        let content =
            record.map(|record| serde_json::to_vec(record).expect("records are texts and numbers under names"));
        let (store, kind, name) = (self.store.clone(), self.kind, name.to_owned());
        move || {
            let label = Label { kind, name: &name };
            content.map_or_else(|| store.remove(label), |content| store.write(label, 1, &content))
        }
    }
}

/// Puts something on the disk, and blocks meanwhile.
pub trait Write: FnOnce() -> Result<(), StoreError> + Send + 'static {}

impl<W: FnOnce() -> Result<(), StoreError> + Send + 'static> Write for W {}

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

    /// Writes something, unless too much waits already; it is waited for, and not without end.
    ///
    /// # Errors
    /// When it is not done in time, or was not begun.
    pub async fn within(&self, write: impl Write) -> Result<(), NotKept> {
        if self.waiting() >= MOST_WAITING {
            return Err(NotKept::NotBegun);
        }
        timeout(KEPT_WITHIN, self.take(write)).await.map_err(|_| NotKept::NotInTime)???;
        Ok(())
    }

    /// The same of what does not count if it fails: then `instead` is written after it, whatever the disk does later, and nobody
    /// waits for that.
    ///
    /// # Errors
    /// As there.
    pub async fn within_or<W: Write>(&self, write: impl Write, instead: impl FnOnce() -> W) -> Result<(), NotKept> {
        let kept = self.within(write).await;
        if !matches!(kept, Ok(()) | Err(NotKept::NotBegun)) {
            drop(self.take(instead()));
        }
        kept
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
