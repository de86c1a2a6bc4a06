//! The life of a token as a pure machine: inputs in, effects out; no clock, no task, no socket.
//!
//! ```text
//!                 answer                  usable_until
//!  Provisioning ──────────▶ Active ─────────────────────▶ Expired
//!       │                   │    ▲ answer (rotation)         │
//!       │                   │    └───────────────────────────┘
//!       └──────── grant ends, or taken out of the config ────┴──▶ Retired
//!
//!  any of them ── quarantine ──▶ Quarantined ── release ──▶ Active with what it held, else Provisioning
//!              ── revoke ──────▶ Revoked ────── release ──▶ Provisioning
//! ```
//!
//! What a source gives twice is no new generation: not while the first is live, and not after it has run out. Where there is a
//! probe, an answer is tried before it goes live: see `trial`.
//!
//! Invariants: at most one issuer call is in flight; calls start at least [`Plan::pace`] apart; a failed call never
//! touches the live generation; an upstream's 401 brings a call forward at most once a generation, and takes nothing out
//! of use; numbers only rise; nothing follows `Retired`. What somebody took away comes back by [`Input::Release`] alone, and
//! what was revoked never: no issuer is asked meanwhile, and an answer that was on its way is discarded.

mod former;
mod inputs;
mod moving;
mod offer;
mod prolonging;
mod rejection;
mod resumed;
mod shortening;
mod trial;

use std::time::Duration;

use super::Rotation;
use super::source::{Class, Reason};
use crate::backoff::Backoff;
use crate::clock::Moment;
use former::Former;
pub use inputs::{Cause, Effect, Fault, Input};
use moving::Moving;
pub use offer::Offer;
use rejection::Rejections;
pub use resumed::Before;
use shortening::Shortening;
use trial::Trial;

/// While a live generation remains, the issuer is given time.
const PATIENT: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };

/// Once requests ask for a generation that is not there, the next attempt is at most this far from the last one.
const IN_DEMAND: Duration = Duration::from_secs(5);

/// What does not change during a token's life.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Plan {
    pub rotation: Rotation,
    /// When the grant ends, since the Unix epoch.
    pub grant_ends: Duration,
    /// The least time between the starts of two calls to the issuer.
    pub pace: Duration,
    /// How often a source without expiry is asked again whether its value has changed.
    pub recheck: Duration,
    /// Readiness waits for the token, so that no request may come that asks for it: its first generation is in demand
    /// from the start.
    pub required: bool,
    /// A new generation is tried before it goes live.
    pub is_probed: bool,
}

/// What the machine knows of a generation; its value is with the supervisor.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Live {
    pub number: u64,
    pub issued: Moment,
    pub expires: Moment,
    /// `expires` less the skew: from here on the generation is not sent any more.
    pub usable_until: Moment,
    refresh_at: Moment,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Phase {
    /// There has been no generation yet, or none since the last one was revoked.
    Provisioning,
    Active(Live),
    /// The last generation ran out, and its issuer has not given another.
    Expired(Live),
    /// Taken out of use, with the generation that was live.
    Quarantined(Option<Live>),
    /// All generations are void.
    Revoked,
    /// The end of the grant. Nothing follows.
    Retired,
}

/// What keeps a token from being used, whatever its issuer gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restraint {
    Quarantined,
    Revoked,
}

impl Restraint {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quarantined => "quarantined",
            Self::Revoked => "revoked",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Call {
    Due(Moment),
    InFlight {
        started: Moment,
    },
    /// What it gave is being tried.
    Trial(Trial),
}

/// One token's life.
#[derive(Clone, PartialEq, Debug)]
pub struct Lifecycle {
    plan: Plan,
    phase: Phase,
    call: Call,
    /// Of the call that is due, or in flight.
    cause: Cause,
    /// Why another generation is wanted although a call is in flight, which may bring a longer life of the live one.
    wanted: Option<Cause>,
    /// A renewal of the live generation has brought nothing: another one has to take its place.
    spent: bool,
    rejections: Rejections,
    shortening: Shortening,
    former: Option<Former>,
    moving: Option<Moving>,
    /// Roll-backs since a rotation that was not rolled back.
    rolled_back: u32,
    last_number: u64,
    last_started: Option<Moment>,
    failures: u32,
    /// The call in flight was made before somebody took the token out of use: its answer is discarded.
    stale: bool,
    /// Not before this moment, whoever asks: the issuer's Retry-After, or its plain no.
    not_before: Option<Moment>,
    /// The last call failed for want of a sign-in: who says that there has been one is believed at once.
    needs_login: bool,
}

impl Lifecycle {
    /// A life whose first call is due at once. `last_number` is that of the last generation known, 0 for none.
    pub fn new(plan: Plan, last_number: u64, now: Moment) -> Self {
        Self {
            plan,
            phase: Phase::Provisioning,
            call: Call::Due(now),
            cause: Cause::Due,
            wanted: None,
            spent: false,
            rejections: Rejections::default(),
            shortening: Shortening::default(),
            former: None,
            moving: None,
            rolled_back: 0,
            last_number,
            last_started: None,
            failures: 0,
            stale: false,
            not_before: None,
            needs_login: false,
        }
    }

    /// A life that begins under restraint, as it had before a restart.
    pub fn restrained(restraint: Restraint, plan: Plan, last_number: u64, now: Moment) -> Self {
        let phase = match restraint {
            Restraint::Quarantined => Phase::Quarantined(None),
            Restraint::Revoked => Phase::Revoked,
        };
        Self { phase, ..Self::new(plan, last_number, now) }
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the last call failed.
    pub fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// Whether [`Input::Demand`] would change anything now, or from the moment that a clock jumps: then requests are the
    /// first to see that a live generation has expired.
    pub fn heeds_demand(&self, now: Moment) -> bool {
        match self.phase {
            Phase::Active(_) => true,
            Phase::Provisioning | Phase::Expired(_) => self.sooner(now).is_some(),
            Phase::Quarantined(_) | Phase::Revoked | Phase::Retired => false,
        }
    }

    /// Whether the issuer's answer may come any moment: it is being asked, or is as soon as the pace allows.
    pub fn expects_answer(&self, now: Moment) -> bool {
        match self.call {
            Call::InFlight { .. } => true,
            Call::Due(due) => due.remaining(now) <= self.plan.pace,
            Call::Trial(trial) => trial.again().is_none(),
        }
    }

    /// Whether a 401 means nothing until an upstream has accepted the live generation: it is what a 401 brought.
    pub fn is_unproven(&self) -> bool {
        self.rejections.unproven()
    }

    /// When [`Input::Timer`] is wanted next; `None` when never.
    pub fn wake_at(&self) -> Option<Moment> {
        if self.phase == Phase::Retired {
            return None;
        }
        let mut wake = self.grant_end(Moment { boot: Duration::MAX, wall: Duration::MAX });
        if let Phase::Active(live) = self.phase {
            wake = wake.earlier(live.usable_until);
        }
        let due = match self.call {
            Call::Due(due) => Some(due).filter(|_| !self.is_restrained()),
            Call::Trial(trial) => trial.again(),
            Call::InFlight { .. } => None,
        };
        let until = self.stands_until().filter(|_| matches!(self.phase, Phase::Active(_)));
        for moment in due.into_iter().chain(until) {
            wake = wake.earlier(moment);
        }
        Some(wake)
    }

    /// Takes one input. `random` in `0.0..1.0` is the jitter's randomness.
    pub fn step(&mut self, input: Input, now: Moment, random: f64) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.phase == Phase::Retired {
            return effects;
        }
        if input == Input::Retire || now.wall >= self.plan.grant_ends {
            self.end_trial(now, &mut effects);
            self.phase = Phase::Retired;
            effects.push(Effect::Retire { number: self.last_number });
            return effects;
        }
        match input {
            Input::Answered(outcome) if self.stale => {
                self.stale = false;
                self.leave_off();
                self.call_next(self.paced(now));
                effects.extend(outcome.is_ok().then_some(Effect::Discard));
            }
            Input::Demand | Input::Rotate | Input::Changed if self.is_restrained() => {}
            Input::Answered(Ok(offer)) => self.answered(offer, now, random, &mut effects),
            Input::Answered(Err(fault)) => self.unanswered(fault, now, random, &mut effects),
            Input::Probed(verdict) => self.probed(verdict, now, random, &mut effects),
            Input::Demand => self.demanded(now, &mut effects),
            Input::Rotate => self.bring_forward(Cause::Asked, now),
            Input::Changed => {
                self.end_stale_trial(now, &mut effects);
                self.bring_forward(Cause::Changed, now);
            }
            Input::Rejected { generation } => self.rejected(generation, now),
            Input::Accepted => self.rejections.accepted(),
            Input::RollBack { generation } => self.roll_back(generation, now, random, &mut effects),
            Input::Quarantine => self.quarantine(now, &mut effects),
            Input::Revoke => self.revoke(now, &mut effects),
            Input::Release => self.release(now, &mut effects),
            Input::Timer | Input::Retire => {}
        }
        if let Phase::Active(live) = self.phase
            && live.usable_until.reached(now)
        {
            self.run_out(live, now, random, &mut effects);
        }
        self.settle_move(now, &mut effects);
        self.try_again(now, &mut effects);
        if let Call::Due(due) = self.call
            && due.reached(now)
            && !self.is_restrained()
        {
            self.call = Call::InFlight { started: now };
            self.last_started = Some(now);
            self.wanted = None;
            effects.push(if self.begin_move(now) { Effect::CallNext } else { Effect::Call });
        }
        effects
    }

    fn answered(&mut self, offer: Offer, now: Moment, random: f64, effects: &mut Vec<Effect>) {
        let Call::InFlight { started } = self.call else { return };
        let refused = Fault::passing;
        let judged = match (self.phase, offer.unchanged) {
            // What was revoked does not come back, whoever gives it.
            _ if offer.void => Err(refused(Reason::Revoked)),
            (Phase::Active(live), _) if offer.longer.is_some() => {
                effects.extend(self.prolonged(live, started, offer, now, random));
                return;
            }
            // It came too late.
            _ if offer.longer.is_some() => Err(refused(Reason::Expired)),
            // Another source may give for a shorter time, and what is live already.
            _ if self.asks_next() => self.judge(offer, now, random).ok_or(refused(Reason::Lifetime)),
            (Phase::Active(live), true) => {
                self.succeeded();
                self.call_next(self.recheck(offer, live, now));
                effects.push(Effect::Unchanged);
                return;
            }
            // Back in time, as when a clock that ran ahead was set right; else it stays expired.
            (Phase::Expired(old), true) if old.usable_until.reached(now) => Err(refused(Reason::Expired)),
            (Phase::Expired(old), true) => Ok(Live { number: self.last_number + 1, issued: now, ..old }),
            (Phase::Active(before), false) => match self.judge(offer, now, random) {
                // Of a life that we make shorter ourselves the issuer knows nothing.
                Some(_) if self.is_worse(offer, before, now) => Err(refused(Reason::Worse)),
                judged => judged.ok_or(refused(Reason::Lifetime)),
            },
            (Phase::Provisioning | Phase::Expired(_) | Phase::Quarantined(_) | Phase::Revoked | Phase::Retired, _) => {
                self.judge(offer, now, random).ok_or(refused(Reason::Lifetime))
            }
        };
        match judged {
            Ok(live) if self.plan.is_probed => {
                self.call = Call::Trial(Trial::of(live, self.cause, started));
                effects.push(Effect::Probe { number: live.number });
            }
            Ok(live) => self.publish(live, self.cause, started, now, random, effects),
            Err(fault) => self.failed(fault, started, now, random, effects),
        }
    }

    fn publish(
        &mut self,
        live: Live,
        cause: Cause,
        started: Moment,
        now: Moment,
        random: f64,
        effects: &mut Vec<Effect>,
    ) {
        let replaces = (self.last_number > 0).then_some(self.last_number);
        self.keep_former(cause, now);
        self.stand(now);
        self.rejections.replaced(cause == Cause::Rejected, PATIENT, now, random);
        if cause == Cause::Due && matches!(self.phase, Phase::Active(_)) {
            self.shortening.lived();
        }
        self.succeeded();
        self.last_number = live.number;
        self.spent = false;
        self.phase = Phase::Active(live);
        self.call_next(live.refresh_at.later(started.after(self.plan.pace)));
        effects.push(Effect::Publish { live, replaces, cause });
    }

    /// Whether somebody has taken the token out of use.
    pub fn is_restrained(&self) -> bool {
        matches!(self.phase, Phase::Quarantined(_) | Phase::Revoked)
    }

    /// What is being tried takes the place of one that runs out, whoever has not answered for it.
    fn run_out(&mut self, live: Live, now: Moment, random: f64, effects: &mut Vec<Effect>) {
        if let Call::Trial(trial) = self.call
            && !trial.live.usable_until.reached(now)
            && !self.asks_next()
        {
            return self.go_live(trial, now, random, effects);
        }
        self.phase = Phase::Expired(live);
        self.shortening.failed();
        effects.push(Effect::Expire { number: live.number });
        // Nothing of the next source follows it in time.
        let late = match self.call {
            Call::Trial(_) => Reason::ProbeUnanswered,
            Call::Due(_) => Reason::Expired,
            Call::InFlight { .. } => return,
        };
        self.move_failed(Fault::passing(late), now, random, effects);
    }

    fn quarantine(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let held = match self.phase {
            Phase::Active(live) => Some(live),
            Phase::Provisioning | Phase::Expired(_) => None,
            Phase::Quarantined(_) | Phase::Revoked | Phase::Retired => return,
        };
        self.end_trial(now, effects);
        self.former = None;
        self.phase = Phase::Quarantined(held);
        self.stale = matches!(self.call, Call::InFlight { .. });
        effects.push(Effect::Quarantine);
    }

    fn revoke(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Revoked {
            self.end_trial(now, effects);
            self.former = None;
            self.phase = Phase::Revoked;
            self.stale = matches!(self.call, Call::InFlight { .. });
            effects.push(Effect::Revoke);
        }
    }

    fn release(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Quarantined(Some(live)) if !live.usable_until.reached(now) => {
                self.phase = Phase::Active(live);
                if let Call::Due(_) = self.call {
                    self.call_next(self.paced(live.refresh_at));
                }
                effects.push(Effect::Resume { live });
            }
            Phase::Quarantined(_) | Phase::Revoked => {
                self.phase = Phase::Provisioning;
                self.failures = 0;
                if let Call::Due(_) = self.call {
                    self.call_next(self.paced(now));
                }
                effects.push(Effect::Reprovision);
            }
            Phase::Provisioning | Phase::Active(_) | Phase::Expired(_) | Phase::Retired => {}
        }
    }

    /// A moment, but not sooner than the pace allows the next call.
    fn paced(&self, due: Moment) -> Moment {
        self.last_started.map_or(due, |started| started.after(self.plan.pace).later(due))
    }

    /// Calls at that moment, or as soon after it as the issuer wants.
    fn call_next(&mut self, due: Moment) {
        self.call = Call::Due(self.not_before.map_or(due, |not_before| due.later(not_before)));
        self.cause = Cause::Due;
    }

    fn succeeded(&mut self) {
        self.failures = 0;
        self.not_before = None;
        self.needs_login = false;
    }

    /// The issuer gave none.
    fn unanswered(&mut self, fault: Fault, now: Moment, random: f64, effects: &mut Vec<Effect>) {
        if let Call::InFlight { started } = self.call {
            self.failed(fault, started, now, random, effects);
        }
    }

    fn failed(&mut self, fault: Fault, started: Moment, now: Moment, random: f64, effects: &mut Vec<Effect>) {
        if self.move_failed(fault, now, random, effects) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.shortening.failed();
        let mut delay = PATIENT.delay(self.failures, random);
        if self.plan.required && self.phase == Phase::Provisioning && fault.class != Class::Refused {
            delay = delay.min(IN_DEMAND);
        }
        let due = now.after(delay).later(started.after(self.plan.pace));
        let (due, not_before) = match fault.class {
            Class::Transient { retry_after: None } => (due, None),
            Class::Transient { retry_after: Some(wait) } => {
                let told = now.after(wait);
                (due.later(told), Some(told))
            }
            Class::Refused => (due, Some(due)),
            Class::Reauthenticate => (now.after(Duration::from_secs(3600)), Some(now.after(Duration::from_secs(3600)))),
        };
        self.not_before = not_before;
        self.needs_login = fault.class == Class::Reauthenticate;
        self.call = Call::Due(due);
        effects.push(Effect::Failed { fault, attempt: self.failures, retry_at: due });
    }

    fn demanded(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if let Some(retry_at) = self.sooner(now) {
            self.call = Call::Due(retry_at);
            effects.push(Effect::Sooner { retry_at });
        }
    }

    /// The moment to which demand would bring the next call forward; `None` where it changes nothing.
    fn sooner(&self, now: Moment) -> Option<Moment> {
        let (Call::Due(due), Some(started)) = (self.call, self.last_started) else { return None };
        if matches!(self.phase, Phase::Active(live) if !live.usable_until.reached(now)) {
            return None;
        }
        let wait = if self.failures == 0 { self.plan.pace } else { IN_DEMAND.max(self.plan.pace) };
        let sooner = self.not_before.map_or(started.after(wait), |told| started.after(wait).later(told));
        (sooner.boot < due.boot).then_some(sooner)
    }

    /// A 401 is no proof: the generation stays in use until another takes its place.
    fn rejected(&mut self, generation: u64, now: Moment) {
        let live = matches!(self.phase, Phase::Active(live) if live.number == generation);
        if live && self.rejections.rejected() {
            self.shortening.failed();
            // After a failure the next attempt is on its way already, when the issuer's back-off lets it.
            if !self.has_failed() || matches!(self.call, Call::InFlight { .. }) {
                self.bring_forward(Cause::Rejected, now);
            }
        }
    }

    fn bring_forward(&mut self, cause: Cause, now: Moment) {
        if matches!(cause, Cause::Asked | Cause::Rejected) {
            self.hurry_trial(now);
        }
        let planned = match self.call {
            Call::Due(planned) => planned,
            Call::InFlight { .. } => {
                if self.wanted != Some(Cause::Asked) {
                    self.wanted = Some(cause);
                }
                return;
            }
            Call::Trial(_) => return,
        };
        let mut due = self.last_started.map_or(now, |started| started.after(self.plan.pace).later(now));
        let signed_in = self.needs_login && matches!(cause, Cause::Asked | Cause::Changed);
        if let Some(not_before) = self.not_before
            && !signed_in
        {
            due = due.later(not_before);
        }
        if let Some(not_before) = self.rejections.not_before()
            && cause == Cause::Rejected
        {
            due = due.later(not_before);
        }
        let (left, planned) = (due.remaining(now), planned.remaining(now));
        if cause != Cause::Rejected || left < planned || (left == planned && self.cause == Cause::Due) {
            self.call = Call::Due(due);
            self.cause = cause;
        }
    }
}

#[cfg(test)]
mod tests;
