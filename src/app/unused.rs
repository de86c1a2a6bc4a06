//! Tokens that nobody uses: said ahead of time, then retired.
//!
//! ```text
//! counters of use ─▶ last used ─▶ sealed state, now and then
//!                        └─▶ warned of a week, a day, an hour ahead ─▶ `retire_unused` later: retired
//! ```
//!
//! Invariant: a restart does not make a token look used, and time in which it could not be used does not count.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntGaugeVec;
use serde::{Deserialize, Serialize};

use super::house::House;
use crate::audit::Event;
use crate::metrics::{Error as MetricsError, Metrics};
use crate::name::TokenName;
use crate::seal::Label;
use crate::store::{Store, StoreError};
use crate::token::{Absent, Token};

/// What the records of this are called in the store.
const KIND: &str = "used";

const HOUR: Duration = Duration::from_secs(3600);

/// How long before it is retired the log says so.
const AHEAD: [Duration; 3] = [Duration::from_secs(7 * 86_400), Duration::from_secs(86_400), HOUR];

/// How long after a retirement that failed the next attempt comes.
const AGAIN: Duration = Duration::from_secs(60);

/// When tokens were used last.
pub(super) struct Unused {
    list: Mutex<BTreeMap<TokenName, Known>>,
    store: Arc<Store>,
    retirement: IntGaugeVec,
}

/// What is known of one token. Times are since the Unix epoch.
struct Known {
    kept: Kept,
    /// How often it has been used since the start.
    uses: u64,
    /// The last use that is on the disk.
    written: Option<Duration>,
    /// How many of [`AHEAD`] were said.
    warned: usize,
    not_before: Duration,
}

/// What lies on the disk.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    /// Of which grant it is, by its digest: another one begins anew.
    grant: String,
    /// Since when it has not been used: its last use, or from when on it could be.
    since: Duration,
    was_used: bool,
}

/// What there is to do about a token.
enum Due {
    Nothing,
    Warn { left: Duration },
    Retire { last_used: Option<Duration> },
}

impl Unused {
    /// Reads when tokens were used last. A record that cannot be trusted is none. Blocks.
    ///
    /// # Errors
    /// When the folder of the records cannot be read.
    pub fn open(store: Arc<Store>, metrics: &Metrics) -> Result<Self, OpenError> {
        let retirement = metrics.gauges(
            "token_unused_retirement_timestamp_seconds",
            "When the token is retired if it is not used until then, as Unix time.",
            &["token"],
        )?;
        let (records, refused) = store.read(KIND)?;
        for file in refused {
            tracing::error!(file = %file.path.display(), why = %file.why, "when a token was used last is not known: the record of it is not used");
        }
        let known = records.into_iter().filter_map(|record| {
            let kept: Kept = serde_json::from_slice(&record.content).ok()?;
            let written = Some(kept.since);
            Some((record.name.parse().ok()?, Known { kept, uses: 0, written, warned: 0, not_before: Duration::ZERO }))
        });
        Ok(Self { list: Mutex::new(known.collect()), store, retirement })
    }

    /// Looks at a token of this grant that has been used so often since the start.
    fn look(&self, token: &Token, grant: &str, limit: Duration, uses: u64, now: Duration) -> Due {
        let mut list = self.list();
        let known = list.entry(token.settings.name.clone()).or_insert_with(|| Known::new(grant, now));
        if known.kept.grant != grant {
            *known = Known { uses: known.uses, ..Known::new(grant, now) };
        }
        let is_used = std::mem::replace(&mut known.uses, uses) != uses;
        let cannot_be_used = token.reader.withdrawn().is_some() || token.reader.is_barred();
        if is_used || cannot_be_used {
            known.kept.since = known.kept.since.max(now);
            known.kept.was_used |= is_used;
            known.warned = 0;
        }
        let end = known.kept.since.saturating_add(limit);
        let gauge = self.retirement.with_label_values(&[token.settings.name.as_str()]);
        gauge.set(i64::try_from(end.as_secs()).unwrap_or(i64::MAX));
        let left = end.saturating_sub(now);
        if left.is_zero() && now >= known.not_before {
            known.not_before = now.saturating_add(AGAIN);
            return Due::Retire { last_used: known.kept.was_used.then_some(known.kept.since) };
        }
        // What is as far ahead as the whole is no warning.
        let passed = AHEAD.iter().filter(|ahead| **ahead < limit && left <= **ahead).count();
        if passed > std::mem::replace(&mut known.warned, passed) { Due::Warn { left } } else { Due::Nothing }
    }

    /// Puts on the disk what is worth it: what is lost otherwise is at most a fiftieth of `limit`, and an hour. Blocks.
    fn write(&self, name: &TokenName, least: Duration) -> Result<(), StoreError> {
        let kept = match self.list().get_mut(name) {
            Some(known) if known.written.is_none_or(|written| known.kept.since > written + least) => {
                known.written = Some(known.kept.since);
                known.kept.clone()
            }
            Some(_) | None => return Ok(()),
        };
        let content = serde_json::to_vec(&kept).expect("a text, a duration and a truth are JSON");
        self.store.write(Label { kind: KIND, name: name.as_str() }, 1, &content)
    }

    /// The token is not looked after any more.
    fn forget(&self, name: &TokenName) {
        // A family that never had the series says so.
        let _ = self.retirement.remove_label_values(&[name.as_str()]);
    }

    fn list(&self) -> MutexGuard<'_, BTreeMap<TokenName, Known>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn new(grant: &str, now: Duration) -> Self {
        let kept = Kept { grant: grant.to_owned(), since: now, was_used: false };
        Self { kept, uses: 0, written: None, warned: 0, not_before: Duration::ZERO }
    }
}

impl House {
    /// Retires what has not been used for as long as its `retire_unused` says. Called each second.
    pub(super) async fn look_after_unused(self: &Arc<Self>) {
        let tokens = self.tokens();
        if tokens.values().all(|token| token.settings.retire_unused.is_none()) {
            return;
        }
        let mut uses: BTreeMap<TokenName, u64> = BTreeMap::new();
        for (key, totals) in self.ground.usage.ledger().totals() {
            *uses.entry(key.token).or_default() += totals.uses.iter().sum::<u64>();
        }
        let (register, now) = (self.desk.register(), self.ground.clock.now().wall);
        for (name, token) in tokens.iter() {
            let is_over = token.reader.withdrawn() == Some(Absent::Retired);
            let Some(limit) = token.settings.retire_unused.filter(|_| !is_over) else {
                self.unused.forget(name);
                continue;
            };
            let grant = register.entitlement(name).standing.map(|case| case.digest.to_string()).unwrap_or_default();
            match self.unused.look(token, &grant, limit, uses.get(name).copied().unwrap_or_default(), now) {
                Due::Nothing => {}
                Due::Warn { left } => {
                    let owner = &token.settings.owner;
                    tracing::warn!(token = %name, owner, hours = left.as_secs() / 3600, "nobody uses the token: it is retired soon");
                }
                Due::Retire { last_used } => self.retire_unused(token, last_used).await,
            }
        }
        self.keep_uses(false).await;
    }

    async fn retire_unused(&self, token: &Token, last_used: Option<Duration>) {
        let (name, owner) = (&token.settings.name, &token.settings.owner);
        match self.retire(name).await {
            Ok(()) => {
                tracing::warn!(token = %name, owner, "nobody has used the token for as long as `retire_unused` says: it is retired");
                self.unused.forget(name);
                self.ground.recorder.note(Event::TokenUnused { token: name.clone(), last_used });
            }
            Err(error) => tracing::warn!(token = %name, %error, "a token that nobody uses could not be retired"),
        }
    }

    /// Writes down when tokens were used last: all of it, or what is worth it.
    pub(super) async fn keep_uses(self: &Arc<Self>, all: bool) {
        let (house, tokens) = (self.clone(), self.tokens());
        let writing = tokio::task::spawn_blocking(move || {
            for (name, token) in tokens.iter() {
                let Some(limit) = token.settings.retire_unused else { continue };
                let least = if all { Duration::ZERO } else { (limit / 50).min(HOUR) };
                if let Err(error) = house.unused.write(name, least) {
                    tracing::error!(token = %name, %error, "when the token was used last is not kept: a restart would take it for older");
                }
            }
        });
        if writing.await.is_err() {
            tracing::error!("when tokens were used last is not kept: writing it failed");
        }
    }
}

/// Why it cannot be told when tokens were used last.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}
