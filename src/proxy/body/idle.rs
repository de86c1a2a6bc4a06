//! How long a body may rest.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// An upload of known length has so long before it has to come at [`BYTES_A_SECOND`] in the mean.
const GRACE: Duration = Duration::from_secs(10);

const BYTES_A_SECOND: u64 = 1024;

/// A clock that runs only while a body is waited for. It costs nothing where the bytes are there already.
pub struct IdleTimer {
    pub limit: Duration,
    since: Option<Instant>,
    /// In all, so far.
    waited: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl IdleTimer {
    pub fn new(limit: Duration) -> Self {
        Self { limit, since: None, waited: Duration::ZERO, sleep: None }
    }

    pub fn progress(&mut self) {
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
    }

    /// Whether so many bytes are less than the slowest of clients sends in the time that they were waited for.
    pub fn is_too_slow(&self, bytes: u64) -> bool {
        let beyond = self.waited.saturating_sub(self.limit.min(GRACE));
        bytes < beyond.as_secs() * BYTES_A_SECOND
    }

    /// Ready when there has been no progress for as long as the limit allows.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let deadline = *self.since.get_or_insert_with(Instant::now) + self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(context)
    }
}
