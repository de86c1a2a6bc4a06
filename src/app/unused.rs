//! Tokens that nobody uses, and those of versions that no client has any more: said ahead of time, then retired.
//!
//! ```text
//! counters of use, routes for nobody ─▶ idle for so long ─▶ sealed state, now and then
//!                     └─▶ warned of a week, a day, an hour ahead ─▶ for `retire_unused`, `retire_after`: retired
//! ```
//!
//! Invariants: a restart does not make a token look used; time in which it could not be used does not count, nor does time
//! in which the proxy did not run; what the wall clock does retires nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntGaugeVec;
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use super::house::House;
use super::keep::OpenError;
use crate::audit::Event;
use crate::clock::Moment;
use crate::config::Config;
use crate::metrics::{Error as MetricsError, Metrics};
use crate::name::TokenName;
use crate::route::Settings;
use crate::seal::Label;
use crate::store::{Store, StoreError};
use crate::tasks::{Task, Tasks};
use crate::token::{Absent, Token};

const HOUR: Duration = Duration::from_secs(3600);

/// How long before it is retired the log says so.
const AHEAD: [Duration; 3] = [Duration::from_secs(7 * 86_400), Duration::from_secs(86_400), HOUR];

const LOOK: Duration = Duration::from_secs(1);

/// How long after a retirement that failed the next attempt comes.
const AGAIN: Duration = Duration::from_secs(60);

/// Why nobody needs a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Why {
    /// Nobody has used it.
    Unused,
    /// No client has a version that its routes are for.
    Outdated,
}

impl Why {
    pub const ALL: [Self; 2] = [Self::Unused, Self::Outdated];

    /// What the records are called in the store.
    fn kind(self) -> &'static str {
        match self {
            Self::Unused => "used",
            Self::Outdated => "outdated",
        }
    }

    fn limit(self, token: &Token) -> Option<Duration> {
        match self {
            Self::Unused => token.settings.retire_unused,
            Self::Outdated => token.settings.retire_after,
        }
    }

    fn gauge(self, metrics: &Metrics) -> Result<IntGaugeVec, MetricsError> {
        let (name, help) = match self {
            Self::Unused => (
                "token_unused_retirement_timestamp_seconds",
                "When the token is retired if it is not used until then, as Unix time.",
            ),
            Self::Outdated => (
                "token_outdated_retirement_timestamp_seconds",
                "When the token is retired if no client has a version of its routes until then, as Unix time.",
            ),
        };
        metrics.gauges(name, help, &["token"])
    }
}

/// For how long nobody has needed tokens.
pub(super) struct Unused {
    why: Why,
    list: Mutex<BTreeMap<TokenName, Known>>,
    store: Arc<Store>,
    retirement: IntGaugeVec,
}

/// What is known of one token.
struct Known {
    kept: Kept,
    /// How often it has been used since the start.
    uses: u64,
    /// What is on the disk.
    written: Option<Kept>,
    /// How many of [`AHEAD`] were said.
    warned: usize,
    /// When it was looked at; `None`: not in this run.
    looked: Option<Moment>,
    /// By the boot clock.
    not_before: Duration,
    /// When the metric says that it ends.
    shown: Duration,
}

/// What lies on the disk.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// Of which grant it is, by its digest: another one begins anew.
    grant: String,
    /// Since when it has not been used, since the Unix epoch: its last use, or from when on it could be.
    since: Duration,
    was_used: bool,
    /// For how long it could have been used, and was not.
    #[serde(default)]
    idle: Duration,
}

/// A token as it is looked at.
struct Seen<'a> {
    name: &'a TokenName,
    grant: &'a str,
    limit: Duration,
    /// How often it has been used since the start.
    uses: u64,
    can_be_used: bool,
}

/// What becomes of a token that nobody uses.
pub(super) enum Outlook {
    /// It has not been looked at since the start.
    Unknown,
    Fine,
    /// It is retired then.
    EndsSoon(Duration),
}

/// What there is to do about a token.
enum Due {
    Nothing,
    Warn { left: Duration },
    Retire { since: Duration, was_used: bool },
}

impl Unused {
    /// Reads when tokens were used last. A record that cannot be trusted is none. Blocks.
    ///
    /// # Errors
    /// When the folder of the records cannot be read.
    pub fn open(why: Why, store: Arc<Store>, metrics: &Metrics) -> Result<Self, OpenError> {
        let retirement = why.gauge(metrics)?;
        let (records, mut refused) = store.read(why.kind())?;
        let mut list = BTreeMap::new();
        for record in records {
            match (record.name.parse(), serde_json::from_slice::<Kept>(&record.content)) {
                (Ok(name), Ok(kept)) => {
                    list.insert(name, Known { written: Some(kept.clone()), ..Known::new(kept) });
                }
                (_, _) => refused.push(store.refuse(Label { kind: why.kind(), name: &record.name })),
            }
        }
        for file in refused {
            tracing::error!(file = %file.path.display(), why = %file.why, "for how long nobody has needed a token is not known: the record of it is not used");
        }
        Ok(Self { why, list: Mutex::new(list), store, retirement })
    }

    fn look(&self, token: &Seen<'_>, now: Moment) -> Due {
        let mut list = self.list();
        let known = list.entry(token.name.clone()).or_insert_with(|| Known::new(Kept::new(token.grant, now)));
        let due = known.look(token, now);
        let gauge = self.retirement.with_label_values(&[token.name.as_str()]);
        gauge.set(i64::try_from(known.shown.as_secs()).unwrap_or(i64::MAX));
        due
    }

    /// What is worth being written: what is lost otherwise is at most a fiftieth of `limit`, and an hour; or all of it.
    fn pages(&self, limits: &BTreeMap<&TokenName, Duration>, all: bool) -> Vec<(TokenName, Kept)> {
        let list = self.list();
        let is_worth = |name: &TokenName, known: &Known| {
            let least = limits.get(name).map(|limit| if all { Duration::ZERO } else { (*limit / 50).min(HOUR) });
            least.is_some_and(|least| known.is_worth_writing(least))
        };
        let worth = list.iter().filter(|(name, known)| is_worth(name, known));
        worth.map(|(name, known)| (name.clone(), known.kept.clone())).collect()
    }

    /// Puts it on the disk. Blocks.
    fn write(&self, name: &TokenName, kept: Kept) -> Result<(), StoreError> {
        let content = serde_json::to_vec(&kept).expect("texts, durations and a truth are JSON");
        self.store.write(Label { kind: self.why.kind(), name: name.as_str() }, 1, &content)?;
        if let Some(known) = self.list().get_mut(name) {
            known.written = Some(kept);
        }
        Ok(())
    }

    /// Whether a token is retired soon, if nobody uses it.
    pub fn outlook(&self, name: &TokenName) -> Outlook {
        match self.list().get(name) {
            Some(known) if known.looked.is_none() => Outlook::Unknown,
            Some(known) if known.warned > 0 => Outlook::EndsSoon(known.shown),
            Some(_) | None => Outlook::Fine,
        }
    }

    /// There is nothing left to retire.
    fn hide(&self, name: &TokenName) {
        // A family that never had the series says so.
        let _ = self.retirement.remove_label_values(&[name.as_str()]);
    }

    /// Forgets all tokens but these, and tells which were forgotten: their records are to be removed.
    fn retain(&self, limits: &BTreeMap<&TokenName, Duration>) -> Vec<TokenName> {
        let mut list = self.list();
        let gone: Vec<TokenName> = list.keys().filter(|name| !limits.contains_key(name)).cloned().collect();
        for name in &gone {
            list.remove(name);
            self.hide(name);
        }
        gone
    }

    /// Blocks.
    fn remove(&self, name: &TokenName) -> Result<(), StoreError> {
        self.store.remove(Label { kind: self.why.kind(), name: name.as_str() })
    }

    fn list(&self) -> MutexGuard<'_, BTreeMap<TokenName, Known>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn new(grant: &str, now: Moment) -> Self {
        Self { grant: grant.to_owned(), since: now.wall, was_used: false, idle: Duration::ZERO }
    }
}

impl Known {
    fn new(kept: Kept) -> Self {
        Self {
            kept,
            uses: 0,
            written: None,
            warned: 0,
            looked: None,
            not_before: Duration::ZERO,
            shown: Duration::ZERO,
        }
    }

    fn look(&mut self, token: &Seen<'_>, now: Moment) -> Due {
        if self.kept.grant != token.grant {
            *self = Self { uses: self.uses, ..Self::new(Kept::new(token.grant, now)) };
        }
        let is_used = std::mem::replace(&mut self.uses, token.uses) != token.uses;
        let is_first = self.looked.is_none();
        let before = self.looked.replace(now).unwrap_or(now);
        if is_used || !token.can_be_used {
            self.kept.since = now.wall;
            self.kept.was_used |= is_used;
            self.kept.idle = Duration::ZERO;
            self.warned = 0;
        } else {
            self.kept.idle += now.boot.saturating_sub(before.boot);
        }
        if is_first {
            // Whoever uses it gets the time to.
            self.not_before = now.boot.saturating_add(token.limit.min(HOUR));
        }
        let left = token.limit.saturating_sub(self.kept.idle).max(self.not_before.saturating_sub(now.boot));
        self.show(now.wall.saturating_add(left));
        if left.is_zero() {
            self.not_before = now.boot.saturating_add(AGAIN);
            return Due::Retire { since: self.kept.since, was_used: self.kept.was_used };
        }
        // What is as far ahead as the whole is no warning.
        let passed = AHEAD.iter().filter(|ahead| **ahead < token.limit && left <= **ahead).count();
        if passed > std::mem::replace(&mut self.warned, passed) { Due::Warn { left } } else { Due::Nothing }
    }

    /// The two clocks are not read at the same instant: that much is no other end.
    fn show(&mut self, end: Duration) {
        if end.abs_diff(self.shown) > Duration::from_secs(1) {
            self.shown = end;
        }
    }

    fn is_worth_writing(&self, least: Duration) -> bool {
        self.written.as_ref().is_none_or(|written| {
            let (since, idle) = (self.kept.since.abs_diff(written.since), self.kept.idle.abs_diff(written.idle));
            since > least || idle > least || self.kept.grant != written.grant
        })
    }
}

/// Retires what nobody needs, for ever. It may wait for a reload that is under way.
pub(super) fn watch(tasks: &Tasks, house: Arc<House>) -> Task {
    tasks.essential("unused", async move {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            house.look_after_unused().await;
        }
    })
}

impl House {
    /// Retires what nobody has needed for as long as its `retire_unused` or `retire_after` says.
    async fn look_after_unused(self: &Arc<Self>) {
        for why in Why::ALL {
            self.look_after(why).await;
        }
    }

    async fn look_after(self: &Arc<Self>, why: Why) {
        let (tokens, unneeded) = (self.tokens(), self.unneeded(why));
        let limits = limits(why, &tokens);
        self.forget_uses(why, unneeded.retain(&limits)).await;
        if limits.is_empty() {
            return;
        }
        let (uses, outdated) = match why {
            Why::Unused => (self.uses(), BTreeSet::new()),
            Why::Outdated => (BTreeMap::new(), self.tokens_without_a_version(limits.keys().copied()).await),
        };
        let (register, now) = (self.desk.register(), self.ground.clock.now());
        for (name, limit) in limits {
            let Some(token) = tokens.get(name) else { continue };
            let withdrawn = token.reader.withdrawn();
            if withdrawn == Some(Absent::Retired) {
                unneeded.hide(name);
                continue;
            }
            let grant = register.entitlement(name).standing.map(|case| case.digest.to_string()).unwrap_or_default();
            let can_be_used = withdrawn.is_none() && !token.reader.is_barred();
            let counts = can_be_used && (why == Why::Unused || outdated.contains(name));
            let uses = uses.get(name).copied().unwrap_or_default();
            match unneeded.look(&Seen { name, grant: &grant, limit, uses, can_be_used: counts }, now) {
                Due::Nothing => {}
                Due::Warn { left } => warn(why, token, left),
                Due::Retire { since, was_used } => self.retire_unneeded(why, token, since, was_used).await,
            }
        }
        self.keep_uses_of(why, false).await;
    }

    pub(super) fn unneeded(&self, why: Why) -> &Unused {
        match why {
            Why::Unused => &self.unused,
            Why::Outdated => &self.outdated,
        }
    }

    /// How often each token was used since the start.
    fn uses(&self) -> BTreeMap<TokenName, u64> {
        let mut uses: BTreeMap<TokenName, u64> = BTreeMap::new();
        for (key, totals) in self.ground.usage.ledger().totals() {
            *uses.entry(key.token).or_default() += totals.uses.iter().sum::<u64>();
        }
        uses
    }

    /// Those for whose routes no client has a version: neither as they are in force, nor as they are written, which may wait for an
    /// approval.
    async fn tokens_without_a_version<'n>(
        &self,
        names: impl Iterator<Item = &'n TokenName>,
    ) -> BTreeSet<&'n TokenName> {
        let table = self.table();
        let in_force = |name: &TokenName| {
            let mut routes = table.routes().iter();
            routes.all(|route| route.is_for_nobody() || route.token.as_ref().is_none_or(|own| own.name != *name))
        };
        let mut outdated: BTreeSet<&TokenName> = names.filter(|name| in_force(name)).collect();
        if !outdated.is_empty() {
            let is_for_somebody = |route: &&Settings| route.clients.as_ref().is_none_or(|clients| !clients.is_empty());
            let routes = |config: &Config| {
                let routes = config.routes.iter().filter(is_for_somebody);
                outdated.retain(|name| !routes.clone().any(|route| route.token.as_ref() == Some(name)));
            };
            self.written(routes).await;
        }
        outdated
    }

    async fn retire_unneeded(&self, why: Why, token: &Token, since: Duration, was_used: bool) {
        let (name, owner) = (&token.settings.name, &token.settings.owner);
        if let Err(error) = self.retire(name).await {
            return tracing::warn!(token = %name, %error, "a token that nobody needs could not be retired");
        }
        self.unneeded(why).hide(name);
        let token = name.clone();
        match why {
            Why::Unused => {
                tracing::warn!(%token, owner, "nobody has used the token for as long as `retire_unused` says: it is retired");
                let last_used = was_used.then_some(since);
                self.ground.recorder.note(Event::TokenUnused { token, last_used });
            }
            Why::Outdated => {
                tracing::warn!(%token, owner, "no client has had a version of the token for as long as `retire_after` says: it is retired");
                self.ground.recorder.note(Event::TokenOutdated { token, since });
            }
        }
    }

    /// Writes down for how long nobody has needed tokens: all of it.
    pub(super) async fn keep_uses(self: &Arc<Self>) {
        for why in Why::ALL {
            self.keep_uses_of(why, true).await;
        }
    }

    /// The same: all of it, or what is worth it.
    async fn keep_uses_of(self: &Arc<Self>, why: Why, all: bool) {
        let pages = self.unneeded(why).pages(&limits(why, &self.tokens()), all);
        if pages.is_empty() {
            return;
        }
        let house = self.clone();
        let writing = tokio::task::spawn_blocking(move || {
            for (name, kept) in pages {
                if let Err(error) = house.unneeded(why).write(&name, kept) {
                    tracing::error!(token = %name, %error, "for how long nobody has needed the token is not kept: a restart would not know it");
                }
            }
        });
        if writing.await.is_err() {
            tracing::error!("for how long nobody has needed tokens is not kept: writing it failed");
        }
    }

    /// Removes the records of tokens that are not looked after any more.
    async fn forget_uses(self: &Arc<Self>, why: Why, gone: Vec<TokenName>) {
        if gone.is_empty() {
            return;
        }
        let house = self.clone();
        let removing = tokio::task::spawn_blocking(move || {
            for name in gone {
                if let Err(error) = house.unneeded(why).remove(&name) {
                    tracing::warn!(token = %name, %error, "the record of how long nobody has needed the token could not be removed");
                }
            }
        });
        if removing.await.is_err() {
            tracing::error!("the records of how long nobody has needed tokens that have gone could not be removed");
        }
    }
}

fn warn(why: Why, token: &Token, left: Duration) {
    let (token, owner) = (&token.settings.name, &token.settings.owner);
    let hours = left.as_secs().div_ceil(3600);
    match why {
        Why::Unused => tracing::warn!(%token, owner, hours, "nobody uses the token: it is retired soon"),
        Why::Outdated => {
            tracing::warn!(%token, owner, hours, "no client has a version of the token any more: it is retired soon");
        }
    }
}

/// The tokens that are retired when nobody needs them, and after how long.
fn limits(why: Why, tokens: &BTreeMap<TokenName, Arc<Token>>) -> BTreeMap<&TokenName, Duration> {
    tokens.iter().filter_map(|(name, token)| Some((name, why.limit(token)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const LIMIT: Duration = Duration::from_secs(30 * 86_400);

    /// One token, its time and its state.
    struct Scene {
        name: TokenName,
        now: Moment,
        uses: u64,
        known: Known,
    }

    impl Scene {
        fn new() -> Self {
            let now = Moment { boot: DAY, wall: 20_000 * DAY };
            let mut scene =
                Self { name: "api".parse().expect("a name"), now, uses: 0, known: Known::new(Kept::new("grant", now)) };
            scene.look();
            scene
        }

        fn look(&mut self) -> Due {
            let (name, uses) = (&self.name, self.uses);
            self.known.look(&Seen { name, grant: "grant", limit: LIMIT, uses, can_be_used: true }, self.now)
        }

        fn after(&mut self, time: Duration) -> Due {
            self.now = self.now.after(time);
            self.look()
        }

        /// Another run, after the proxy and its machine were off for so long.
        fn restarted_after(&mut self, time: Duration) -> Due {
            let kept = serde_json::to_string(&self.known.kept).expect("JSON");
            self.known = Known::new(serde_json::from_str(&kept).expect("what was written"));
            self.now = Moment { boot: Duration::from_secs(30), wall: self.now.wall + time };
            self.uses = 0;
            self.look()
        }
    }

    #[test]
    fn a_token_is_retired_when_it_was_idle_for_so_long() {
        let mut scene = Scene::new();
        assert!(matches!(scene.after(LIMIT - 7 * DAY - HOUR), Due::Nothing));
        assert!(matches!(scene.after(HOUR), Due::Warn { left } if left == 7 * DAY));
        assert!(matches!(scene.after(6 * DAY), Due::Warn { left } if left == DAY));
        assert_eq!(scene.known.shown, scene.now.wall + DAY);
        assert!(matches!(scene.after(DAY - HOUR), Due::Warn { left } if left == HOUR));
        assert!(matches!(scene.after(HOUR), Due::Retire { was_used: false, .. }));
        assert!(matches!(scene.after(Duration::from_secs(1)), Due::Nothing), "the next attempt is later");
        assert!(matches!(scene.after(AGAIN), Due::Retire { .. }));
    }

    #[test]
    fn a_use_begins_it_anew() {
        let mut scene = Scene::new();
        scene.after(29 * DAY);
        scene.uses = 1;
        scene.after(Duration::from_secs(1));
        let used = scene.now.wall;
        assert!(matches!(scene.after(LIMIT - HOUR), Due::Warn { .. }));
        assert!(matches!(scene.after(HOUR), Due::Retire { since, was_used: true } if since == used));
    }

    #[test]
    fn whatever_the_wall_clock_does_nothing_is_retired() {
        let mut scene = Scene::new();
        scene.now.wall += 400 * DAY;
        assert!(matches!(scene.look(), Due::Nothing));
        scene.now.wall = Duration::ZERO;
        assert!(matches!(scene.look(), Due::Nothing));
        assert!(matches!(scene.after(LIMIT), Due::Retire { .. }), "and nothing is put off");
    }

    #[test]
    fn time_in_which_the_proxy_did_not_run_does_not_count() {
        let mut scene = Scene::new();
        scene.after(20 * DAY);
        assert!(matches!(scene.restarted_after(100 * DAY), Due::Nothing));
        assert!(matches!(scene.after(10 * DAY - HOUR), Due::Warn { .. }), "what was before does");
        assert!(matches!(scene.after(HOUR), Due::Retire { .. }));
    }

    #[test]
    fn nothing_is_retired_without_a_warning_and_an_hour_to_use_it() {
        let mut scene = Scene::new();
        scene.after(LIMIT - Duration::from_secs(10));
        assert!(matches!(scene.restarted_after(Duration::ZERO), Due::Warn { left } if left == HOUR));
        assert!(matches!(scene.after(HOUR - Duration::from_secs(1)), Due::Nothing));
        scene.uses = 1;
        assert!(matches!(scene.after(Duration::from_secs(1)), Due::Nothing));
    }

    #[test]
    fn what_is_on_the_disk_is_not_written_again() {
        let mut scene = Scene::new();
        assert!(scene.known.is_worth_writing(HOUR), "nothing is");
        scene.known.written = Some(scene.known.kept.clone());
        scene.after(HOUR);
        assert!(!scene.known.is_worth_writing(HOUR));
        assert!(scene.known.is_worth_writing(Duration::ZERO), "the end keeps all");
        scene.after(Duration::from_secs(1));
        assert!(scene.known.is_worth_writing(HOUR));
    }
}
