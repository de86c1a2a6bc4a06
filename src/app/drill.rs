//! A compromise, rehearsed in a drill or told by detection: the token is replaced while requests go on, and each step is timed.
//!
//! ```text
//! the trail has it ─▶ replace: a new generation is live ─▶ quarantine: nobody carries the old one ─▶ revoke: its issuer confirms
//! ```
//!
//! Invariant: one drill of a token at a time. Nothing that is under way is cut. The old generation is voided at its issuer when no
//! request carries it any more, or those that do were sent long ago.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::house::House;
use crate::admin::{Drill, NotDrilled, Step};
use crate::audit::{Event, Exchanged};
use crate::name::TokenName;
use crate::token::revocation::Outcome;
use crate::token::{Carried, Order};

/// How often it is looked whether somebody carries the old generation.
const LOOK: Duration = Duration::from_millis(2);

/// What was sent so long ago has been judged by its upstream.
const LET_GO_WITHIN: Duration = Duration::from_secs(10);

/// How long the issuer may take to confirm. It is told on afterwards.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(15);

/// Why a generation is replaced.
#[derive(Clone, Copy)]
enum Purpose {
    Drill,
    /// Its use is unusual.
    Misuse,
}

impl Purpose {
    fn started(self, name: &TokenName, generation: u64, order: Order) -> Event {
        let (token, Order { by, reason, since }) = (name.clone(), order);
        match self {
            Self::Drill => Event::DrillStarted { token, generation, by, reason },
            Self::Misuse => Event::ReplacementStarted { token, generation, by, reason, since },
        }
    }
}

/// Tokens of which a drill is under way: two of one token would each take the other's generation for its own.
#[derive(Default)]
pub(super) struct Drills(Mutex<BTreeSet<TokenName>>);

/// A drill, until it is over.
struct UnderWay<'d> {
    drills: &'d Drills,
    token: TokenName,
}

impl Drills {
    /// `None` while another one of this token is under way.
    fn begin(&self, token: &TokenName) -> Option<UnderWay<'_>> {
        self.lock().insert(token.clone()).then(|| UnderWay { drills: self, token: token.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<TokenName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.drills.lock().remove(&self.token);
    }
}

impl House {
    /// Rehearses a compromise of a token.
    pub(super) async fn drill(&self, name: &TokenName, order: Order) -> Result<Drill, NotDrilled> {
        self.exchange(name, order, Purpose::Drill).await
    }

    /// A token is compromised, as far as can be told.
    pub(super) async fn replace(&self, name: &TokenName, order: Order) -> Result<Drill, NotDrilled> {
        self.exchange(name, order, Purpose::Misuse).await
    }

    /// Replaces the live generation of a token, has it let go of, and has it voided at its issuer.
    async fn exchange(&self, name: &TokenName, order: Order, purpose: Purpose) -> Result<Drill, NotDrilled> {
        let token = self.tokens().get(name).cloned().ok_or(NotDrilled::NoToken)?;
        let _under_way = self.drills.begin(name).ok_or(NotDrilled::UnderWay)?;
        let now = self.ground.clock.now();
        let live = token.look(now).generation.filter(|live| !live.usable_until.reached(now));
        let live = live.ok_or(NotDrilled::NotInUse)?;
        let (replaced, carried) = (live.number, Carried::new(&live));
        drop(live);
        // Before anything is waited for: the token may be rotated at any moment, and its old generation's telling be under way.
        let voided = token.source().revokes().then(|| self.revoker.expect(name, replaced));
        let started = purpose.started(name, replaced, order);
        if let Err(error) = self.ground.recorder.record(started).await {
            self.revoker.expect_no_more(name, replaced);
            return Err(error.into());
        }
        let begun = Instant::now();
        let rotated = token.control.rotate().await;
        let mut steps = vec![Step { name: "replace", took: begun.elapsed(), is_done: rotated.is_ok(), note: None }];
        let generation = match rotated {
            Ok(generation) => generation,
            Err(error) => {
                self.exchanged(name, purpose, replaced, None, &steps);
                return Err(error.into());
            }
        };
        // Nobody goes back to what may be in strange hands.
        token.control.forget_former().await;
        steps.push(let_go(&carried).await);
        steps.push(self.void(name, replaced, voided).await);
        self.exchanged(name, purpose, replaced, Some(generation), &steps);
        Ok(Drill { token: name.clone(), replaced, generation, steps, took: begun.elapsed() })
    }

    /// Has the issuer told at once, and waits for its word.
    async fn void(&self, name: &TokenName, replaced: u64, voided: Option<oneshot::Receiver<Outcome>>) -> Step {
        let begun = Instant::now();
        let note = match voided {
            None => Some("the token's source has nobody to tell: the generation is good until it expires"),
            Some(voided) => {
                self.revoker.hurry_one(name, replaced);
                missing(timeout(CONFIRMED_WITHIN, voided).await.ok().and_then(Result::ok))
            }
        };
        Step { name: "revoke", took: begun.elapsed(), is_done: note.is_none(), note }
    }

    /// The end of it, in the trail.
    fn exchanged(&self, name: &TokenName, purpose: Purpose, replaced: u64, generation: Option<u64>, steps: &[Step]) {
        self.revoker.expect_no_more(name, replaced);
        let took = |name| {
            let step = steps.iter().find(|step| step.name == name);
            step.map(|step| u64::try_from(step.took.as_millis()).unwrap_or(u64::MAX))
        };
        let token = name.clone();
        let complete = generation.is_some() && steps.iter().all(|step| step.is_done);
        let (replace_ms, quarantine_ms, revoke_ms) = (took("replace"), took("quarantine"), took("revoke"));
        let exchanged = Exchanged { token, replaced, generation, complete, replace_ms, quarantine_ms, revoke_ms };
        self.ground.recorder.note(match purpose {
            Purpose::Drill => Event::DrillFinished(exchanged),
            Purpose::Misuse => Event::ReplacementFinished(exchanged),
        });
    }
}

/// What is missing after a revocation that came out like this, or not in time.
fn missing(outcome: Option<Outcome>) -> Option<&'static str> {
    match outcome {
        Some(Outcome::Success | Outcome::Expired) => None,
        Some(Outcome::Refused) => Some("the issuer refuses to void the generation: it is good until it expires"),
        Some(Outcome::Dropped) => Some("the issuer is not told: there are too many others to tell of"),
        Some(Outcome::Failure) | None => Some("the issuer has not confirmed it yet, and is told until it does"),
    }
}

/// Waits, bounded, until nobody has the generation.
async fn let_go(carried: &Carried) -> Step {
    let begun = Instant::now();
    while !carried.is_let_go() && begun.elapsed() < LET_GO_WITHIN {
        sleep(LOOK).await;
    }
    let is_done = !carried.is_being_written();
    let note = match (is_done, carried.is_awaited()) {
        (true, false) => None,
        (true, true) => {
            Some("requests that were sent with it long ago wait for their answers, or for the rest of them")
        }
        (false, _) => Some("requests with it are still being written"),
    };
    Step { name: "quarantine", took: begun.elapsed(), is_done, note }
}
