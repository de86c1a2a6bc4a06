//! Ghosts: what issuers have issued and nobody here has, found where an issuer can be asked for a list.
//!
//! ```text
//!  each 10 minutes ─▶ Source::list, less what is ours or is being voided ─▶ seen twice, half a minute apart ─▶ metric, trail, alert, report
//! ```
//!
//! Invariant: what was issued to us a moment ago is no ghost: only what two looks have found is told. A list that cannot be had
//! changes nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{IntGauge, IntGaugeVec};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, timeout};

use super::house::House;
use crate::audit::Event;
use crate::clock::Moment;
use crate::metrics::{Error as MetricsError, Metrics};
use crate::name::TokenName;
use crate::token::source::{Failure, Ghost, Ghosts as Listed, Reason};
use crate::token::{State, Token};

/// How often it is seen to that those are asked whose time has come.
const TICK: Duration = Duration::from_secs(5);

/// Between two lists of one token.
const EVERY: Duration = Duration::from_secs(600);

/// After one in which somebody is seen for the first time, until the next: as long as an issuer may take over an answer to us.
const SOON: Duration = Duration::from_secs(30);

/// For one list, with all that it takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Issuers that are asked at a time.
const MOST: usize = 4;

/// What is known of the ghosts of all tokens.
pub(super) struct Ghosts {
    figure: IntGauge,
    listed: IntGaugeVec,
    seen: Mutex<BTreeMap<TokenName, Seen>>,
}

/// What is known of one token's.
#[derive(Default)]
struct Seen {
    is_asked: bool,
    /// `None`: at once.
    next: Option<Moment>,
    /// What the last list had.
    last: Listed,
    /// What the last two had, those that are told and the number of the others.
    ghosts: Vec<Ghost>,
    others: usize,
    is_failing: bool,
}

/// What has changed since the list before.
struct News {
    found: Vec<Ghost>,
    gone: Vec<Ghost>,
}

impl Ghosts {
    /// # Errors
    /// When its metrics are there already.
    pub fn new(metrics: &Metrics) -> Result<Self, MetricsError> {
        Ok(Self {
            figure: metrics.gauge(
                "ghosts",
                "What issuers list as issued and nobody here has, of all tokens whose issuers can be asked.",
            )?,
            listed: metrics.gauges(
                "ghosts_listed_timestamp_seconds",
                "When the token's issuer last gave a list of what it has issued, as Unix time.",
                &["token"],
            )?,
            seen: Mutex::default(),
        })
    }

    /// Those of a token, and how many there are besides.
    pub fn of(&self, token: &TokenName) -> (Vec<Ghost>, usize) {
        self.lock().get(token).map(|seen| (seen.ghosts.clone(), seen.others)).unwrap_or_default()
    }

    /// So many tokens at most whose issuers are to be asked now. Of tokens that are gone nothing is kept.
    fn due(&self, tokens: &BTreeMap<TokenName, Arc<Token>>, now: Moment, most: usize) -> Vec<(TokenName, Arc<Token>)> {
        let may_be_asked =
            |token: &Token| token.source().lists() && !matches!(token.look(now).state, State::Pending | State::Denied);
        let mut all = self.lock();
        all.retain(|name, _| {
            let stays = tokens.get(name).is_some_and(|token| token.source().lists());
            if !stays {
                // A series that was never shown is not there to be removed.
                let _ = self.listed.remove_label_values(&[name.as_str()]);
            }
            stays
        });
        self.show(&all);
        let mut due = Vec::new();
        for (name, token) in tokens.iter().filter(|(_, token)| may_be_asked(token)) {
            let seen = all.entry(name.clone()).or_default();
            if due.len() < most && !seen.is_asked && seen.next.is_none_or(|next| next.reached(now)) {
                seen.is_asked = true;
                due.push((name.clone(), token.clone()));
            }
        }
        due
    }

    /// Takes up a list, or why there is none.
    fn take(&self, token: &TokenName, listed: Result<Listed, Failure>, now: Moment) -> Option<News> {
        let mut all = self.lock();
        let seen = all.get_mut(token)?;
        seen.is_asked = false;
        let listed = match listed {
            Ok(listed) => listed,
            Err(failure) => {
                seen.next = Some(now.after(EVERY));
                if !std::mem::replace(&mut seen.is_failing, true) {
                    let (reason, detail) = (failure.reason.as_str(), failure.detail);
                    tracing::warn!(%token, reason, detail, "the issuer does not list what it has issued");
                }
                return None;
            }
        };
        seen.is_failing = false;
        let news = seen.take(listed);
        let is_settled = seen.count() == seen.last.count;
        let pause = if is_settled { EVERY } else { SOON };
        seen.next = Some(now.after(pause.mul_f64(1.0 + 0.2 * fastrand::f64())));
        let listed_at = i64::try_from(now.wall.as_secs()).unwrap_or(i64::MAX);
        self.listed.with_label_values(&[token.as_str()]).set(listed_at);
        self.show(&all);
        Some(news)
    }

    fn show(&self, all: &BTreeMap<TokenName, Seen>) {
        let count: usize = all.values().map(Seen::count).sum();
        self.figure.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TokenName, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn count(&self) -> usize {
        self.ghosts.len() + self.others
    }

    fn take(&mut self, listed: Listed) -> News {
        let is_in = |list: &[Ghost], ghost: &Ghost| list.iter().any(|other| other.id == ghost.id);
        let ghosts: Vec<Ghost> = listed.told.iter().filter(|ghost| is_in(&self.last.told, ghost)).cloned().collect();
        let others = |listed: &Listed| listed.count.saturating_sub(listed.told.len());
        self.others = others(&listed).min(others(&self.last));
        let found = ghosts.iter().filter(|ghost| !is_in(&self.ghosts, ghost)).cloned().collect();
        let gone = self.ghosts.iter().filter(|ghost| !is_in(&ghosts, ghost)).cloned().collect();
        (self.ghosts, self.last) = (ghosts, listed);
        News { found, gone }
    }
}

impl House {
    /// Looks for ghosts, for ever.
    pub(super) async fn look_for_ghosts(self: Arc<Self>) {
        let mut looks = JoinSet::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    let free = MOST.saturating_sub(looks.len());
                    for (name, token) in self.ghosts.due(&self.tokens(), self.ground.clock.now(), free) {
                        looks.spawn(self.clone().look_for_ghosts_of(name, token));
                    }
                }
                Some(look) = looks.join_next() => look.expect("it does not panic, and nobody cuts it off"),
            }
        }
    }

    async fn look_for_ghosts_of(self: Arc<Self>, name: TokenName, token: Arc<Token>) {
        let source = token.source();
        // Another token may have the same issuer, and what is replaced has its generations until its last request has ended.
        let own: Vec<Arc<Token>> = self.tokens().values().cloned().chain(self.all_replaced()).collect();
        let is_ours = move |void_by: &_| own.iter().any(|token| token.has_issued(void_by));
        let listed = match timeout(LIMIT, source.list(&is_ours)).await {
            Ok(listed) => listed,
            Err(_) => {
                let detail = format!("no list within {} s", LIMIT.as_secs());
                Err(Failure::transient(Reason::Timeout, detail))
            }
        };
        let Some(news) = self.ghosts.take(&name, listed, self.ground.clock.now()) else { return };
        for Ghost { id, issued, expires } in news.found {
            tracing::warn!(token = %name, id, "the issuer lists what nobody here has: a ghost");
            self.ground.recorder.note(Event::GhostFound { token: name.clone(), id, issued, expires });
        }
        for Ghost { id, .. } in news.gone {
            self.ground.recorder.note(Event::GhostGone { token: name.clone(), id });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(ids: &[&str], count: usize) -> Listed {
        let ghost = |id: &&str| Ghost { id: (*id).to_owned(), issued: None, expires: None };
        Listed { told: ids.iter().map(ghost).collect(), count }
    }

    #[test]
    fn only_what_two_lists_have_is_told_and_once() {
        let mut seen = Seen::default();
        let mut look = |ids: &[&str], count| {
            let News { found, gone } = seen.take(listed(ids, count));
            let ids = |ghosts: Vec<Ghost>| ghosts.into_iter().map(|ghost| ghost.id).collect::<Vec<_>>().join(" ");
            (ids(found), ids(gone), seen.others)
        };
        let is = |found: &str, gone: &str, others| (found.to_owned(), gone.to_owned(), others);
        assert_eq!(look(&["a", "new"], 2), is("", "", 0));
        assert_eq!(look(&["a", "b"], 2), is("a", "", 0), "what was new is ours by now");
        assert_eq!(look(&["a", "b"], 5), is("b", "", 0));
        assert_eq!(look(&["b"], 3), is("", "a", 2));
        assert_eq!(look(&[], 0), is("", "b", 0));
        assert_eq!(look(&["a"], 1), is("", "", 0), "it comes back like any other");
    }
}
