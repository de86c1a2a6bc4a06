//! Logs, on standard error: lines are written by a thread of their own, so that a reader that does not read never holds a
//! request up; what does not fit into its queue is dropped and counted.
//!
//! Invariants: no secret has a form that could be logged; control characters in what is logged are escaped; of other
//! crates only warnings are shown, whatever the level: they know nothing of what must not be said.

use std::io;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, Opts};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::metrics::{Error as MetricsError, Metrics};

/// Lines that wait to be written.
const QUEUE_LINES: usize = 16 * 1024;

/// `[telemetry] log`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub level: Level,
    pub format: Format,
    /// Whether each request leaves a line.
    pub access: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Text,
    Json,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The log, open until this is dropped: then what waits is written.
pub struct Log {
    _guard: WorkerGuard,
    dropped: ErrorCounter,
}

impl Log {
    /// Opens the log of this process.
    ///
    /// # Errors
    /// When there is one already.
    pub fn open(settings: &Settings) -> Result<Self, tracing::subscriber::SetGlobalDefaultError> {
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(QUEUE_LINES)
            .thread_name("log")
            .finish(io::stderr());
        let dropped = writer.error_counter();
        let filter = EnvFilter::new(format!("warn,countersign={}", settings.level.as_str()));
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
        match settings.format {
            Format::Json => {
                let builder = builder.json().flatten_event(true).with_current_span(false).with_span_list(false);
                tracing::subscriber::set_global_default(builder.finish())?;
            }
            Format::Text => {
                let colour = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
                tracing::subscriber::set_global_default(builder.with_ansi(colour).finish())?;
            }
        }
        Ok(Self { _guard: guard, dropped })
    }

    /// Adds `countersign_log_lines_dropped_total`.
    pub fn register(&self, metrics: &Metrics) -> Result<(), MetricsError> {
        let counter = IntCounter::with_opts(Opts::new(
            "countersign_log_lines_dropped_total",
            "Lines of the log that were dropped because nobody read it fast enough.",
        ))?;
        metrics.registry().register(Box::new(Dropped { counter, dropped: self.dropped.clone() }))
    }
}

/// Shows a counter that is kept elsewhere.
struct Dropped {
    counter: IntCounter,
    dropped: ErrorCounter,
}

impl Collector for Dropped {
    fn desc(&self) -> Vec<&Desc> {
        self.counter.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let total = self.dropped.dropped_lines() as u64;
        self.counter.inc_by(total.saturating_sub(self.counter.get()));
        self.counter.collect()
    }
}
