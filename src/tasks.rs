//! Named tasks on the control runtime: nothing runs unsupervised.
//!
//! An essential task that ends before it is told to takes the process out of ready and down. A restarted task (a token's
//! supervisor) is started again with back-off when it panics. One that goes to its end does so whoever waits for it: the
//! process ends after it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::backoff::Backoff;

const RESTART: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(30) };

/// Starts tasks, knows of the first that failed, and how many have to come to their end.
#[derive(Clone)]
pub struct Tasks {
    failure: Arc<watch::Sender<Option<Failed>>>,
    unfinished: Arc<watch::Sender<usize>>,
}

/// A task that ended though it should not have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the task {name} ended: {how}")]
pub struct Failed {
    pub name: String,
    pub how: &'static str,
}

/// Stops its task when dropped.
#[must_use]
pub struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Tasks {
    #[expect(clippy::new_without_default, reason = "a set of tasks is no plain value")]
    pub fn new() -> Self {
        Self { failure: Arc::new(watch::Sender::new(None)), unfinished: Arc::new(watch::Sender::new(0)) }
    }

    /// Runs `task` until the returned [`Task`] is dropped; if it ends before, [`Tasks::failed`] resolves.
    pub fn essential(&self, name: &str, task: impl Future<Output = ()> + Send + 'static) -> Task {
        let (tasks, name) = (self.clone(), name.to_owned());
        Task(spawn(async move {
            let how = match Aborting(spawn(task)).ended().await {
                Ended::Returned => "it returned",
                Ended::Panicked => "it panicked",
            };
            tasks.fail(Failed { name, how });
        }))
    }

    /// Runs what `make` makes until it returns; after a panic it is made anew, with back-off, and `crashed` is called.
    pub fn restarted<F>(
        &self,
        name: &str,
        mut make: impl FnMut() -> F + Send + 'static,
        mut crashed: impl FnMut() + Send + 'static,
    ) -> Task
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let name = name.to_owned();
        Task(spawn(async move {
            let mut crashes = 0;
            while let Ended::Panicked = Aborting(spawn(make())).ended().await {
                crashes += 1;
                crashed();
                tracing::error!(task = %name, crashes, "a task panicked and is started again");
                tokio::time::sleep(RESTART.delay(crashes, fastrand::f64())).await;
            }
        }))
    }

    /// Runs `task` to its end, also when nobody waits for what comes of it any more. `None`: it panicked.
    pub async fn to_the_end<T: Send + 'static>(
        &self,
        name: &str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (unfinished, name) = (self.unfinished(), name.to_owned());
        // It goes on when its handle is dropped.
        let watched = spawn(async move {
            let _unfinished = unfinished;
            let ended = spawn(task).await;
            if ended.is_err() {
                tracing::error!(task = %name, "a task panicked");
            }
            ended.ok()
        });
        watched.await.ok().flatten()
    }

    /// As long as this is there, something has not come to its end.
    pub fn unfinished(&self) -> Unfinished {
        Unfinished::one_more(self.unfinished.clone())
    }

    /// Resolves when none of the tasks runs that go to their end.
    pub async fn at_rest(&self) {
        // The sender is our own: it is there.
        let _ = self.unfinished.subscribe().wait_for(|unfinished| *unfinished == 0).await;
    }

    /// Resolves when an essential task has ended.
    pub async fn failed(&self) -> Failed {
        let mut failure = self.failure.subscribe();
        loop {
            if let Some(failed) = failure.borrow_and_update().clone() {
                return failed;
            }
            if failure.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Reports a failure of something supervised elsewhere, as a thread.
    pub fn fail(&self, failed: Failed) {
        tracing::error!(task = %failed.name, how = failed.how, "an essential task ended");
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(failed);
            first
        });
    }
}

/// Something on its way to its end, counted.
pub struct Unfinished(Arc<watch::Sender<usize>>);

impl Unfinished {
    fn one_more(count: Arc<watch::Sender<usize>>) -> Self {
        count.send_modify(|unfinished| *unfinished += 1);
        Self(count)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.send_modify(|unfinished| *unfinished -= 1);
    }
}

enum Ended {
    Returned,
    Panicked,
}

/// A task that ends with whoever waits for it.
struct Aborting(JoinHandle<()>);

impl Aborting {
    async fn ended(mut self) -> Ended {
        match (&mut self.0).await {
            Ok(()) => Ended::Returned,
            Err(_) => Ended::Panicked,
        }
    }
}

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[expect(clippy::disallowed_methods, reason = "this is where tasks are supervised")]
fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(task)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn an_essential_task_that_ends_is_a_failure() {
        let tasks = Tasks::new();
        let _task = tasks.essential("short", async {});
        assert_eq!(tasks.failed().await, Failed { name: "short".into(), how: "it returned" });
    }

    #[tokio::test(start_paused = true)]
    async fn a_restarted_task_comes_back_after_a_panic() {
        let runs = Arc::new(AtomicU32::new(0));
        let (seen, done) = (runs.clone(), Arc::new(tokio::sync::Notify::new()));
        let finished = done.clone();
        let _task = Tasks::new().restarted(
            "clumsy",
            move || {
                let (run, finished) = (seen.fetch_add(1, Ordering::SeqCst), finished.clone());
                async move {
                    assert!(run >= 2, "still clumsy");
                    finished.notify_one();
                }
            },
            || {},
        );
        done.notified().await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn what_goes_to_its_end_does_so_when_nobody_waits_for_it_any_more() {
        let tasks = Tasks::new();
        tasks.at_rest().await;
        assert_eq!(tasks.to_the_end("short", async { 1 }).await, Some(1));
        assert_eq!(tasks.to_the_end("clumsy", async { panic!("on purpose") }).await, None::<()>);
        tasks.at_rest().await;

        let (begun, may_end) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
        let done = Arc::new(AtomicU32::new(0));
        let (own_begun, own_may_end, own_done) = (begun.clone(), may_end.clone(), done.clone());
        let task = tasks.to_the_end("long", async move {
            own_begun.notify_one();
            own_may_end.notified().await;
            own_done.store(1, Ordering::SeqCst);
        });
        tokio::select! {
            _ = task => unreachable!("it may not end yet"),
            () = begun.notified() => {}
        }
        let rest = tasks.at_rest();
        tokio::pin!(rest);
        tokio::select! {
            biased;
            () = &mut rest => unreachable!("it has not ended"),
            () = tokio::task::yield_now() => {}
        }
        may_end.notify_one();
        rest.await;
        assert_eq!(done.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_dropped_task_stops() {
        let alive = Arc::new(());
        let (held, tasks) = (alive.clone(), Tasks::new());
        let task = tasks.essential("endless", async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        drop(task);
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
