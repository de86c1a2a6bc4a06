//! The review of access in the running whole: its books, its schedule and its metrics.
//!
//! ```text
//!  each 5 s      how tokens stand, if it has changed ─▶ metrics; a date that was missed ─▶ log, trail
//!  each minute, and at the end    ─▶ sealed state
//! ```
//!
//! Invariant: a review counts when the trail has it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{Gauge, IntGauge};

use super::keep::OpenError;
use crate::audit::{AccessCounts, Event, Recorder, Unavailable, Week, time_text};
use crate::clock::{Clock, Moment};
use crate::metrics::{Error as MetricsError, Metrics};
use crate::name::{OperatorName, TokenName};
use crate::review::books::{Page, write};
use crate::review::report::{Entry, Facts, Report, Sums, Trend};
use crate::review::{Books, Figure, Memory, Pen, Settings};
use crate::seal::Label;
use crate::store::Store;
use crate::usage::Reader;

/// What is remembered of reviews, as the store knows it.
const LABEL: Label<'static> = Label { kind: "review", name: "memory" };

/// How long it holds what was found of the tokens, where nothing changes.
const JUDGED_FOR: Duration = Duration::from_secs(60);

/// How soon the trail is told again how tokens stand: where that has changed, and where it has not.
const TOLD_AFTER: Duration = Duration::from_secs(300);
const TOLD_EVERY: Duration = Duration::from_secs(86_400);

pub(super) struct Review {
    store: Arc<Store>,
    recorder: Recorder,
    clock: Arc<dyn Clock>,
    gauges: Gauges,
    books: Arc<Books>,
    state: Mutex<State>,
    /// One writes at a time.
    writing: tokio::sync::Mutex<()>,
}

struct State {
    settings: Settings,
    memory: Memory,
    /// How often it was written.
    written: u64,
    is_changed: bool,
    judged: Option<Judged>,
    told: Told,
}

/// How tokens stood when the trail was last told, and when it is told again: changed, and unchanged.
struct Told {
    counts: Option<AccessCounts>,
    changed: Moment,
    unchanged: Moment,
}

/// What was found, and of what.
struct Judged {
    facts: Vec<Facts>,
    news: u64,
    window: Duration,
    /// Time itself changes what counts as used.
    until: Moment,
    sums: Sums,
}

struct Gauges {
    ratio: Gauge,
    unused: IntGauge,
    long_lived: IntGauge,
    reviewed: IntGauge,
    overdue: IntGauge,
}

impl Review {
    /// Takes up what was written before; what cannot be used is said, and begun anew. Blocks.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn open(
        store: Arc<Store>,
        recorder: Recorder,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
        settings: Settings,
    ) -> Result<Arc<Self>, OpenError> {
        let (books, mut refused) = Books::open(&store)?;
        let (records, of_reviews) = store.read(LABEL.kind)?;
        refused.extend(of_reviews);
        let record = records.into_iter().find(|record| record.name == LABEL.name);
        let written = record.as_ref().map_or(0, |record| record.generation);
        let memory = record.and_then(|record| {
            let memory = serde_json::from_slice(&record.content);
            memory.map_err(|_| refused.push(store.refuse(LABEL))).ok()
        });
        for refused in refused {
            let (file, reason) = (refused.path.display().to_string(), refused.why.to_string());
            tracing::warn!(
                file,
                reason,
                "what tokens were used for, or who has reviewed it, is lost in part: a record is not used"
            );
            recorder.note(Event::StateRejected { file, reason });
        }
        let state = State {
            settings,
            is_changed: memory.is_none(),
            memory: memory.unwrap_or_else(|| Memory::new(clock.now().wall)),
            written,
            judged: None,
            // Not before tokens have their generations.
            told: Told { counts: None, changed: clock.now().after(TOLD_AFTER), unchanged: clock.now() },
        };
        Ok(Arc::new(Self {
            gauges: Gauges::register(metrics)?,
            books: Arc::new(books),
            state: Mutex::new(state),
            writing: tokio::sync::Mutex::default(),
            store,
            recorder,
            clock,
        }))
    }

    /// Who writes the books.
    pub fn pen(&self) -> Box<dyn Reader> {
        Box::new(Pen(self.books.clone()))
    }

    /// Another schedule.
    pub fn settle(&self, settings: Settings) {
        self.lock().settings = settings;
    }

    /// Since when a token is known.
    pub fn known_since(&self, token: &TokenName) -> Duration {
        let now = self.clock.now().wall;
        self.lock().memory.known_since(token).unwrap_or(now)
    }

    pub fn report(&self, facts: &[Facts]) -> Report {
        let now = self.clock.now().wall;
        let (entries, sums) = self.judge(facts);
        let entries = entries.into_iter().zip(facts).map(|(entry, facts)| entry.propose(facts)).collect();
        let state = self.lock();
        Report {
            made: time_text(now),
            since: time_text(state.memory.since),
            window_seconds: state.settings.window().as_secs(),
            sums,
            review: state.memory.standing(state.settings, now),
            tokens: entries,
            figures: self.recorder.figures().into_iter().map(figure).collect(),
            trend: self
                .recorder
                .trend()
                .into_iter()
                .map(|(week, counts)| Trend { week, sums: counts.into() })
                .collect(),
        }
    }

    fn judge(&self, facts: &[Facts]) -> (Vec<Entry>, Sums) {
        let (now, window) = (self.clock.now().wall, self.lock().settings.window());
        let entry = |facts: &Facts| self.books.read(&facts.name, |books| Entry::of(facts, books, now, window));
        let entries: Vec<Entry> = facts.iter().map(entry).collect();
        let active = entries.iter().zip(facts).filter(|(_, facts)| facts.is_active).map(|(entry, _)| entry);
        let sums = Sums::of(active);
        (entries, sums)
    }

    /// As [`Review::judge`] finds them: anew where something has changed, and now and then.
    fn sums(&self, facts: Vec<Facts>) -> Sums {
        let (now, news, window) = (self.clock.now(), self.books.news(), self.lock().settings.window());
        let is_so = |judged: &&Judged| {
            judged.news == news && judged.window == window && !judged.until.reached(now) && judged.facts == facts
        };
        if let Some(judged) = self.lock().judged.as_ref().filter(is_so) {
            return judged.sums;
        }
        let (_, sums) = self.judge(&facts);
        self.lock().judged = Some(Judged { facts, news, window, until: now.after(JUDGED_FOR), sums });
        sums
    }

    /// Whether nobody has looked since the last review was due.
    pub fn is_overdue(&self) -> bool {
        let state = self.lock();
        state.memory.is_overdue(state.settings, self.clock.now().wall)
    }

    /// Shows how tokens stand now, and says that a review is overdue. Called now and then.
    pub fn look(&self, facts: Vec<Facts>) {
        let now = self.clock.now().wall;
        let is_new = self.lock().memory.meet(facts.iter().map(|facts| &facts.name), now);
        let sums = self.sums(facts);
        self.tell(&sums);
        let mut state = self.lock();
        let State { settings, memory, is_changed, .. } = &mut *state;
        *is_changed |= is_new;
        let missed = memory.missed(*settings, now);
        *is_changed |= missed.is_some();
        self.gauges.show(&sums, memory.last(), memory.is_overdue(*settings, now));
        drop(state);
        if let Some(due) = missed {
            tracing::warn!(due = time_text(due), "a review of access is overdue: countersign report");
            self.recorder.note(Event::ReviewOverdue { due });
        }
    }

    /// Has in the trail how tokens stand, so that it is seen whether that gets better.
    fn tell(&self, sums: &Sums) {
        let (counts, now) = (sums.counts(), self.clock.now());
        let mut state = self.lock();
        let next = if state.told.counts == Some(counts) { state.told.unchanged } else { state.told.changed };
        if next.reached(now) {
            let (changed, unchanged) = (now.after(TOLD_AFTER), now.after(TOLD_EVERY));
            state.told = Told { counts: Some(counts), changed, unchanged };
            self.recorder.note(Event::AccessMeasured(counts));
        }
    }

    /// Somebody has looked at the report.
    ///
    /// # Errors
    /// When the trail cannot be written: then it does not count.
    pub async fn reviewed(&self, by: OperatorName, reason: String) -> Result<(), Unavailable> {
        self.recorder.record(Event::AccessReviewed { by: by.clone(), reason: reason.clone() }).await?;
        self.remember(by, reason);
        self.keep().await;
        Ok(())
    }

    fn remember(&self, by: OperatorName, reason: String) {
        let now = self.clock.now().wall;
        let mut state = self.lock();
        state.memory.reviewed(now, by.to_string(), reason);
        state.is_changed = true;
        self.gauges.reviewed(state.memory.last());
        self.gauges.overdue.set(0);
    }

    /// Writes what has changed. What cannot be written is said, and nothing depends on it.
    pub async fn keep(&self) {
        let _one = self.writing.lock().await;
        let (now, window) = (self.clock.now().wall, self.lock().settings.window());
        let pages: Vec<Page> = self.books.turn(now, window);
        let memory = self.changed_memory();
        if pages.is_empty() && memory.is_none() {
            return;
        }
        let store = self.store.clone();
        let writing = tokio::task::spawn_blocking(move || {
            write(&store, &pages);
            if let Some((written, content)) = memory
                && let Err(error) = store.write(LABEL, written, &content)
            {
                tracing::warn!(%error, "what is known of reviews could not be kept");
            }
        });
        if writing.await.is_err() {
            tracing::error!("writing the books of uses failed");
        }
    }

    fn changed_memory(&self) -> Option<(u64, Vec<u8>)> {
        let mut state = self.lock();
        if !std::mem::take(&mut state.is_changed) {
            return None;
        }
        state.written += 1;
        Some((state.written, serde_json::to_vec(&state.memory).ok()?))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn figure(week: Week) -> Figure {
    Figure {
        name: week.figure.to_owned(),
        week: week.begins,
        count: week.count,
        mean_seconds: week.mean.as_secs_f64(),
        worst_seconds: week.worst.as_secs_f64(),
    }
}

impl Gauges {
    fn register(metrics: &Metrics) -> Result<Self, MetricsError> {
        Ok(Self {
            ratio: metrics.ratio(
                "tokens_least_privilege_ratio",
                "Tokens that used every allow rule and, as far as is known, every scope in the window of review, and whose \
                 routes all have a list; over all active tokens.",
            )?,
            unused: metrics.gauge("tokens_unused", "Active tokens that were not used in the window of review.")?,
            long_lived: metrics.gauge(
                "tokens_long_lived",
                "Active tokens whose generation lives longer than `max_life` of their rotation, or does not end by itself.",
            )?,
            reviewed: metrics.gauge(
                "review_timestamp_seconds",
                "When access was last reviewed, as Unix time; 0 if it never was.",
            )?,
            overdue: metrics.gauge("review_overdue", "1 while a review of access is overdue.")?,
        })
    }

    fn show(&self, sums: &Sums, last: Option<Duration>, is_overdue: bool) {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.ratio.set(sums.least_privilege_ratio);
        self.unused.set(number(sums.unused));
        self.long_lived.set(number(sums.long_lived));
        self.reviewed(last);
        self.overdue.set(i64::from(is_overdue));
    }

    fn reviewed(&self, last: Option<Duration>) {
        self.reviewed.set(last.map_or(0, |last| i64::try_from(last.as_secs()).unwrap_or(i64::MAX)));
    }
}
