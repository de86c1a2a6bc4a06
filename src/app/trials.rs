//! Live generations are tried again at their probe, at the pace of `rotation.probe_every`: what an API took yesterday and refuses
//! today is told before requests find out.
//!
//! ```text
//!  due, with jitter ─▶ Token::try_again ─┬─ refused ─▶ trail, log, metric, alert
//!                                        └─ passed, or another generation is live ─▶ over
//! ```
//!
//! Invariants: it says, and takes nothing away; few are under way at a time, and none of a token twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::house::House;
use crate::audit::Event;
use crate::name::TokenName;
use crate::tasks::{Task, Tasks};
use crate::token::probe::Verdict;
use crate::token::{Token, Trial};

const LOOK: Duration = Duration::from_secs(1);

/// Trials that are under way at a time.
const MOST: usize = 4;

/// How much sooner or later than its pace a trial may be, as a share of it.
const JITTER: f64 = 0.1;

/// Which generation of each token its API has refused.
#[derive(Default)]
pub(super) struct Trials(Mutex<BTreeMap<TokenName, u64>>);

impl Trials {
    /// Whether the API refuses this generation, as far as was last tried.
    pub fn is_refused(&self, token: &TokenName, generation: u64) -> bool {
        self.lock().get(token) == Some(&generation)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TokenName, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When each token is tried next.
type Due = BTreeMap<TokenName, Next>;

struct Next {
    /// By the clock that never jumps; `None` while it is tried.
    at: Option<Duration>,
    /// The pace of which that is.
    every: Duration,
}

/// Tries what is due, for ever.
pub(super) fn watch(tasks: &Tasks, house: Arc<House>) -> Task {
    tasks.essential("trials", async move {
        let (mut due, mut trials) = (Due::new(), JoinSet::new());
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => house.begin_trials(&mut due, &mut trials),
                Some(ended) = trials.join_next() => {
                    let (name, trial) = ended.expect("a trial does not panic, and nobody cuts it off");
                    house.tried(&name, trial);
                    due.remove(&name);
                }
            }
        }
    })
}

impl House {
    fn begin_trials(&self, due: &mut Due, trials: &mut JoinSet<(TokenName, Option<Trial>)>) {
        let (tokens, now) = (self.tokens(), self.ground.clock.now().boot);
        let pace = |name: &TokenName| tokens.get(name).and_then(|token| every(token));
        // Another pace begins anew.
        due.retain(|name, next| next.at.is_none() || pace(name) == Some(next.every));
        self.trials.lock().retain(|name, _| tokens.contains_key(name));
        for (name, token) in tokens.iter() {
            let Some(every) = every(token) else { continue };
            let jitter = 1.0 + JITTER * (2.0 * fastrand::f64() - 1.0);
            let first = || Next { at: Some(now + every.mul_f64(jitter)), every };
            let next = due.entry(name.clone()).or_insert_with(first);
            if next.at.is_some_and(|at| now >= at) && trials.len() < MOST {
                next.at = None;
                let (name, token) = (name.clone(), token.clone());
                trials.spawn(async move {
                    let trial = token.try_again().await;
                    (name, trial)
                });
            }
        }
    }

    fn tried(&self, name: &TokenName, trial: Option<Trial>) {
        let Some(Trial { generation, verdict, detail }) = trial else { return };
        let mut refused = self.trials.lock();
        match verdict {
            Verdict::Unanswered => {}
            Verdict::Passed => drop(refused.remove(name)),
            Verdict::Refused => {
                if refused.insert(name.clone(), generation) != Some(generation) {
                    tracing::warn!(token = %name, generation, detail, "the API refuses at its probe what it took before");
                    self.ground.recorder.note(Event::TokenProbeRefused { token: name.clone(), generation, detail });
                }
            }
        }
    }
}

fn every(token: &Token) -> Option<Duration> {
    token.settings.probe.as_ref()?.every
}
