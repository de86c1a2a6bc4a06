//! Alerts: what somebody has to know, told outside of this process.
//!
//! ```text
//!  raise, over ─▶ Board: open alerts, and what each sink is still to be told ─▶ a task for each sink ─▶ counted
//!                   └─▶ sealed state: what was not told before a restart is told after it
//! ```
//!
//! Invariants: who raises an alert waits for nothing; an alert that is open is told once, and once more when it is over;
//! there is room for so many alerts, and what finds none is counted and logged.

mod alertmanager;
mod board;
mod delivery;
mod shelf;
mod sink;
mod webhook;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{IntCounterVec, IntGauge};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::authority::Endpoint;
use crate::clock::Clock;
use crate::fetch::Fetcher;
use crate::metrics::{Error as MetricsError, Metrics};
use crate::name::{ClientName, RouteName, SinkName, TokenName};
use crate::store::{Store, StoreError};
use crate::tasks::{Task, Tasks};
use board::{Board, Raised};
pub use sink::{Kind, PrepareError, Prepared, Settings, prepare};

/// Something that somebody has to know, as long as it is so.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Alert {
    /// What it is about: as long as an alert with this key is open, another one is the same.
    pub key: String,
    /// Its kind, as `CountersignRotationFailing`: the runbook `rotation-failing` is about it.
    pub name: String,
    pub severity: Severity,
    pub token: Option<TokenName>,
    pub route: Option<RouteName>,
    pub client: Option<ClientName>,
    /// One line.
    pub summary: String,
    /// What is known, and what to do.
    pub description: String,
    /// Since when it is so, since the Unix epoch.
    pub started: Duration,
}

/// How grave it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    pub const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Critical];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// One step graver, as far as there is one.
    pub const fn raised(self) -> Self {
        match self {
            Self::Low => Self::Medium,
            Self::Medium => Self::High,
            Self::High | Self::Critical => Self::Critical,
        }
    }
}

/// All alerts, and those who are told of them.
pub struct Alerts {
    shared: Arc<Shared>,
    running: Mutex<Vec<Running>>,
}

/// What the sinks' tasks have of it.
struct Shared {
    board: Mutex<Board>,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    figures: Figures,
    /// One writes at a time.
    writing: tokio::sync::Mutex<()>,
    /// Counts changes of the board.
    changes: watch::Sender<u64>,
}

/// A sink of the config in force.
struct Running {
    settings: Settings,
    /// None of a sink that never keeps anybody waiting.
    _task: Option<Task>,
}

struct Figures {
    outcomes: IntCounterVec,
    open: IntGauge,
}

/// Why there are no alerts.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

impl Alerts {
    /// Takes up what was open, and what was not told, before a restart. Blocks.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn open(store: Arc<Store>, clock: Arc<dyn Clock>, metrics: &Metrics) -> Result<Self, OpenError> {
        let figures = Figures {
            outcomes: metrics.counters(
                "alerts_total",
                "What sinks were told, or not: delivered, failed (an attempt), dropped.",
                &["sink", "outcome"],
            )?,
            open: metrics.gauge("alerts_open", "Alerts whose cause goes on.")?,
        };
        let board = shelf::read(&store)?;
        figures.open.set(board.open());
        let shared = Shared {
            board: Mutex::new(board),
            store,
            clock,
            figures,
            writing: tokio::sync::Mutex::default(),
            changes: watch::Sender::new(0),
        };
        Ok(Self { shared: Arc::new(shared), running: Mutex::default() })
    }

    /// Opens an alert, unless one with its key is open and as grave. Never waits.
    pub fn raise(&self, alert: Alert) {
        let now = self.shared.clock.now().wall;
        let alert = alert.bounded();
        match self.shared.board().raise(alert.clone(), now) {
            Raised::Known => return,
            Raised::NoRoom { is_first } => {
                if is_first {
                    let sinks = self.running();
                    let sinks = sinks.iter().filter(|sink| sink.settings.wants(&alert));
                    sinks.for_each(|sink| self.shared.figures.count(&sink.settings.name, DROPPED));
                    let (name, summary) = (&alert.name, &alert.summary);
                    tracing::error!(alert = name, summary, "an alert is not told: there are too many already");
                }
                return;
            }
            Raised::Begun => {}
        }
        self.log(&alert, None);
        self.shared.changed();
    }

    /// What an alert was about is over. Never waits; of one that is not open there is nothing to tell.
    pub fn over(&self, key: &str) {
        let now = self.shared.clock.now().wall;
        let Some((alert, ended)) = self.shared.board().over(key, now) else { return };
        self.log(&alert, Some(ended));
        self.shared.changed();
    }

    /// The keys of open alerts that begin so, in their order: those of before a restart too.
    pub fn open_below(&self, prefix: &str) -> Vec<String> {
        self.shared.board().open_below(prefix)
    }

    /// Tells these sinks from now on. One that is as it was goes on; a new one is told what is open.
    pub fn settle(&self, sinks: Vec<Prepared>, tasks: &Tasks, fetcher: &Arc<Fetcher>) {
        let mut running = self.running();
        let mut before: Vec<Running> = std::mem::take(&mut *running);
        let mut waiting = BTreeMap::new();
        for Prepared { settings, place } in sinks {
            let name = settings.name.clone();
            OUTCOMES.iter().for_each(|outcome| drop(self.shared.figures.of(&name, outcome)));
            let same = before.iter().position(|old| old.settings == settings);
            if place.is_some() {
                waiting.insert(name.clone(), (settings.severity, same.is_none()));
            }
            running.push(match same {
                Some(at) => before.swap_remove(at),
                None => {
                    let task = place.map(|place| delivery::start(&self.shared, &settings, place, fetcher, tasks));
                    Running { settings, _task: task }
                }
            });
        }
        drop(running);
        self.shared.board().settle(&waiting, self.shared.clock.now().wall);
        self.shared.changed();
    }

    /// Keeps on the disk what changes, as long as the task lives.
    pub fn look_after(&self, tasks: &Tasks) -> Task {
        let shared = self.shared.clone();
        tasks.essential("alerts", async move {
            let mut changes = shared.changes.subscribe();
            loop {
                let kept = shelf::keep(&shared).await;
                let again = async {
                    tokio::time::sleep(AGAIN).await;
                    Ok(())
                };
                let changed = tokio::select! {
                    changed = changes.changed() => changed,
                    changed = again, if !kept => changed,
                };
                // The sender is held right here.
                changed.expect("what is shared outlives this");
            }
        })
    }

    /// Writes what is not on the disk yet: at the end.
    pub async fn keep(&self) {
        shelf::keep(&self.shared).await;
    }

    fn log(&self, alert: &Alert, ended: Option<Duration>) {
        for sink in self.running().iter() {
            if matches!(sink.settings.kind, Kind::Log) && sink.settings.wants(alert) {
                alert.log(ended);
                self.shared.figures.count(&sink.settings.name, DELIVERED);
            }
        }
    }

    fn running(&self) -> MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.figures.open.set(self.board().open());
        self.changes.send_modify(|change| *change += 1);
    }
}

impl Figures {
    fn of(&self, sink: &SinkName, outcome: &str) -> prometheus::IntCounter {
        self.outcomes.with_label_values(&[sink.as_str(), outcome])
    }

    fn count(&self, sink: &SinkName, outcome: &str) {
        self.of(sink, outcome).inc();
    }
}

impl Alert {
    /// With texts that any sink takes, and that a record has room for.
    fn bounded(self) -> Self {
        Self {
            key: bounded(self.key, 200),
            name: bounded(self.name, 100),
            summary: bounded(self.summary, 300),
            description: bounded(self.description, 1500),
            ..self
        }
    }

    /// Where what to do is written: `rotation-failing.md` for `CountersignRotationFailing`.
    fn runbook(&self, folder: Option<&Endpoint>) -> String {
        let name = self.name.strip_prefix("Countersign").unwrap_or(&self.name);
        let mut file = String::new();
        for char in name.chars() {
            if char.is_ascii_uppercase() && !file.is_empty() {
                file.push('-');
            }
            file.push(char.to_ascii_lowercase());
        }
        match folder {
            Some(folder) => folder.below(&format!("/{file}.md")).to_string(),
            None => format!("docs/runbooks/{file}.md"),
        }
    }

    fn log(&self, ended: Option<Duration>) {
        let Self { name, severity, summary, description, .. } = self;
        let label = |label: Option<&str>| label.unwrap_or("").to_owned();
        let (token, route) = (self.token.as_ref().map(TokenName::as_str), self.route.as_ref().map(RouteName::as_str));
        let client = label(self.client.as_ref().map(ClientName::as_str));
        let (token, route, severity) = (label(token), label(route), severity.as_str());
        match ended {
            None => tracing::warn!(alert = name, severity, token, route, client, description, "{summary}"),
            Some(_) => tracing::info!(alert = name, severity, token, route, client, "over: {summary}"),
        }
    }
}

/// So many characters at most, and none that ends a line.
fn bounded(text: String, most: usize) -> String {
    if text.chars().count() <= most && !text.contains(char::is_control) {
        return text;
    }
    text.chars().take(most).map(|char| if char.is_control() { ' ' } else { char }).collect()
}

const DELIVERED: &str = "delivered";
const FAILED: &str = "failed";
const DROPPED: &str = "dropped";
const OUTCOMES: [&str; 3] = [DELIVERED, FAILED, DROPPED];

/// How soon it is tried again to write what could not be written.
const AGAIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
