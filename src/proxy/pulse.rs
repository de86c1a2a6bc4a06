//! Whether the workers still work: each beats once a second, from the loop that also looks after its connections.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The last beat of each worker, as milliseconds since the start.
pub struct Pulses {
    start: Instant,
    last: Vec<AtomicU64>,
}

impl Pulses {
    /// Of that many workers. Before its first beat a worker counts as alive since now.
    pub fn new(workers: usize) -> Self {
        Self { start: Instant::now(), last: (0..workers).map(|_| AtomicU64::new(0)).collect() }
    }

    pub fn beat(&self, worker: usize) {
        if let Some(last) = self.last.get(worker) {
            last.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Whether every worker has beaten within that time.
    pub fn are_felt(&self, within: Duration) -> bool {
        let oldest = self.last.iter().map(|last| last.load(Ordering::Relaxed)).min().unwrap_or(0);
        Duration::from_millis(self.now().saturating_sub(oldest)) <= within
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_worker_that_stands_still_is_enough() {
        let within = Duration::from_secs(5);
        let pulses = Pulses::new(2);
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(pulses.are_felt(within), "they have only just been started");
        pulses.beat(0);
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(!pulses.are_felt(within));
        pulses.beat(1);
        assert!(pulses.are_felt(within));
    }
}
