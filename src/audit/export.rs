//! Checkpoints on their way off the machine, where nobody who can write to its disk can take them back.
//!
//! ```text
//! notary ─▶ Outbox (64, the oldest gives way) ─▶ sink: https, syslog or a file ─▶ counted
//!                                                 └── failure ─▶ again, with growing delays
//! ```
//!
//! Invariant: the trail and the requests never wait for a sink. Each checkpoint covers all before it: one that gave way to newer ones is
//! counted, and no loss.

mod exposed;
mod sink;
mod syslog;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::metrics::Metrics;
use super::note::Note;
use crate::authority::Endpoint;
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::fetch::{Fetcher, RemoteError};
use crate::tasks::{Task, Tasks};
pub use exposed::Exposed;
use sink::Sink;

/// Where checkpoints go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// A POST of each.
    Https(Endpoint),
    /// The machine's own log daemon.
    SyslogSocket(PathBuf),
    /// One elsewhere, by UDP.
    SyslogUdp(SocketAddr),
    /// Appended to a file, on another mount.
    File(PathBuf),
}

impl Target {
    /// What metrics and the log call it. A path of a URL may be something that only its owner should know.
    pub fn name(&self) -> String {
        match self {
            Self::Https(endpoint) => endpoint.authority.to_string(),
            Self::SyslogSocket(path) => format!("syslog:{}", path.display()),
            Self::SyslogUdp(address) => format!("syslog:{address}"),
            Self::File(path) => format!("file:{}", path.display()),
        }
    }
}

/// Checkpoints that wait for one sink.
pub(super) struct Outbox {
    target: Target,
    name: String,
    waiting: Mutex<VecDeque<Arc<Note>>>,
    changed: Notify,
    metrics: Metrics,
}

impl Outbox {
    pub fn new(target: Target, metrics: &Metrics) -> Self {
        let name = target.name();
        for outcome in [SENT, FAILED, SUPERSEDED] {
            metrics.exports.with_label_values(&[&name, outcome]);
        }
        metrics.exported_size.with_label_values(&[&name]);
        Self { target, name, waiting: Mutex::default(), changed: Notify::new(), metrics: metrics.clone() }
    }

    /// A new checkpoint is on the disk.
    pub fn push(&self, note: &Arc<Note>) {
        let mut waiting = self.lock();
        if waiting.len() >= CAPACITY {
            waiting.pop_front();
            self.count(SUPERSEDED);
        }
        waiting.push_back(note.clone());
        self.changed.notify_one();
    }

    fn count(&self, outcome: &str) {
        self.metrics.exports.with_label_values(&[&self.name, outcome]).inc();
    }

    async fn first(&self) -> Arc<Note> {
        loop {
            if let Some(first) = self.lock().front() {
                return first.clone();
            }
            self.changed.notified().await;
        }
    }

    fn sent(&self, note: &Arc<Note>, clock: &dyn Clock) {
        let mut waiting = self.lock();
        if waiting.front().is_some_and(|first| Arc::ptr_eq(first, note)) {
            waiting.pop_front();
        }
        drop(waiting);
        self.count(SENT);
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.metrics.exported_size.with_label_values(&[&self.name]).set(gauge(note.unverified().size));
        let now = clock.now().wall.as_secs();
        self.metrics.exported_time.with_label_values(&[&self.name]).set(gauge(now));
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Note>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sinks, at work as long as this is kept.
pub struct Exports {
    outboxes: Arc<[Outbox]>,
    _tasks: Vec<Task>,
}

impl Exports {
    /// Starts a task for each target of the trail.
    ///
    /// # Errors
    /// When one cannot be called.
    pub fn start(
        recorder: &super::Recorder,
        tasks: &Tasks,
        fetcher: &Arc<Fetcher>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, RemoteError> {
        let outboxes = recorder.outboxes.clone();
        let start = |at: usize| {
            let sink = Sink::new(&outboxes[at].target, fetcher.clone(), clock.clone())?;
            let (outboxes, clock) = (outboxes.clone(), clock.clone());
            let name = format!("export to {}", outboxes[at].name);
            Ok(tasks.essential(&name, async move { match work(&outboxes[at], &sink, &*clock).await {} }))
        };
        let started = (0..outboxes.len()).map(start).collect::<Result<_, RemoteError>>()?;
        Ok(Self { outboxes, _tasks: started })
    }

    /// Waits until nothing waits any more, for two seconds at most: for the last checkpoint.
    pub async fn drain(&self) {
        let empty = || self.outboxes.iter().all(|outbox| outbox.lock().is_empty());
        let waiting = async {
            while !empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(DRAIN, waiting).await.is_err() {
            tracing::warn!("the last checkpoint of the trail could not be exported in time");
        }
    }
}

async fn work(outbox: &Outbox, sink: &Sink, clock: &dyn Clock) -> Infallible {
    let mut failures = 0;
    loop {
        let note = outbox.first().await;
        match sink.send(&note).await {
            Ok(()) => {
                if failures > 0 {
                    tracing::info!(sink = %outbox.name, "checkpoints of the trail are exported again");
                }
                failures = 0;
                outbox.sent(&note, clock);
            }
            Err(error) => {
                failures += 1;
                outbox.count(FAILED);
                if failures == 1 {
                    tracing::warn!(sink = %outbox.name, %error, "a checkpoint of the trail cannot be exported");
                } else {
                    tracing::debug!(sink = %outbox.name, %error, failures, "a checkpoint still cannot be exported");
                }
                tokio::time::sleep(AGAIN.delay(failures, fastrand::f64())).await;
            }
        }
    }
}

const SENT: &str = "sent";
const FAILED: &str = "failed";
const SUPERSEDED: &str = "superseded";

/// A minute of them, or more.
const CAPACITY: usize = 64;

const AGAIN: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };

const DRAIN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
