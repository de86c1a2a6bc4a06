//! Who reads the stream of uses, on the control runtime.
//!
//! Invariant: however much waits to be read, everything else on the runtime gets its turn after each batch, and so does a worker
//! that has to share the core.

use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Clock;
use crate::tasks::{Task, Tasks};
use crate::usage::{Reader, Stream};

/// The readers. Each sees every batch, in the order in which they were taken.
pub(super) struct Reading {
    stream: Arc<Stream>,
    clock: Arc<dyn Clock>,
    readers: Mutex<Vec<Box<dyn Reader>>>,
}

impl Reading {
    pub fn new(stream: &Arc<Stream>, clock: &Arc<dyn Clock>, readers: Vec<Box<dyn Reader>>) -> Arc<Self> {
        Arc::new(Self { stream: stream.clone(), clock: clock.clone(), readers: Mutex::new(readers) })
    }

    pub fn look_after(self: &Arc<Self>, tasks: &Tasks) -> Task {
        let reading = self.clone();
        tasks.essential("uses", async move {
            loop {
                reading.stream.arrived().await;
                while reading.read() {
                    std::thread::yield_now();
                    tokio::task::yield_now().await;
                }
            }
        })
    }

    /// Reads the rest. To be called when the workers have ended.
    pub fn finish(&self) {
        while self.read() {}
    }

    /// Reads one batch, if there is one.
    fn read(&self) -> bool {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        self.stream.read(&*self.clock, &mut readers)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::Method;

    use super::*;
    use crate::clock::SystemClock;
    use crate::metrics::Metrics as Registry;
    use crate::name::ClientName;
    use crate::usage::{Metrics, News, Observer, UsageGuard};

    struct Count(Arc<AtomicUsize>);

    impl Reader for Count {
        fn read(&mut self, _: &News<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn lost(&mut self, _: u64) {}
    }

    #[tokio::test]
    async fn others_get_their_turn_between_two_batches() {
        const BATCHES: usize = 20;
        let metrics = Metrics::register(&Registry::new().expect("metrics")).expect("metrics");
        let route = "api".parse().expect("a name");
        let cell = Arc::new(metrics.cell(&route, "api.example.com", &ClientName::implicit(), None));
        let observer = Rc::new(Observer::new(metrics.clone(), false));
        for _ in 0..BATCHES {
            UsageGuard::new(&observer, &Method::GET).of(&cell);
            observer.hand_over(SystemClock.now());
        }
        let seen = Arc::new(AtomicUsize::new(0));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let reading = Reading::new(metrics.stream(), &clock, vec![Box::new(Count(seen.clone()))]);
        let _task = reading.look_after(&Tasks::new());
        let mut before = 0;
        // As often as it takes the tasks to begin, and then once for each batch.
        for _ in 0..BATCHES * 4 {
            tokio::task::yield_now().await;
            let now = seen.load(Ordering::Relaxed);
            assert!(now - before <= 1, "{} batches were read in one go", now - before);
            before = now;
        }
        assert_eq!(before, BATCHES);
    }
}
