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
mod offer;
mod prolonging;
mod rejection;
mod shortening;
mod trial;

use std::time::Duration;

use super::Rotation;
use super::probe::Verdict;
use super::source::{Class, Reason};
use crate::backoff::Backoff;
use crate::clock::Moment;
use former::Former;
pub use offer::Offer;
use rejection::Rejections;
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

/// Why a call to the issuer failed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Fault {
    pub reason: Reason,
    pub class: Class,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Input {
    /// Time has passed.
    Timer,
    Answered(Result<Offer, Fault>),
    /// What came of trying the generation that the issuer gave.
    Probed(Verdict),
    /// A request found no usable generation.
    Demand,
    /// An operator, or the demo, wants a new generation now.
    Rotate,
    /// The source has noticed that it has something else to give.
    Changed,
    /// An upstream answered 401 to this generation.
    Rejected {
        generation: u64,
    },
    /// An upstream accepted the live generation.
    Accepted,
    /// Requests of several clients say that upstreams refuse this generation, and took the one before.
    RollBack {
        generation: u64,
    },
    /// Somebody takes the token out of use, and keeps its generation.
    Quarantine,
    /// Somebody voids all generations.
    Revoke,
    /// What was quarantined or revoked may be used again.
    Release,
    /// The config does not hold the token any more, or somebody ends the grant.
    Retire,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Effect {
    /// Ask the issuer; the answer comes back as [`Input::Answered`].
    Call,
    /// Try the offered value, or the same again; the answer comes back as [`Input::Probed`].
    Probe {
        number: u64,
    },
    /// Make the offered value the live generation. `replaces` is the number of the one before it, live or expired.
    Publish {
        live: Live,
        replaces: Option<u64>,
        cause: Cause,
    },
    /// Make the generation before the live one live again.
    RollBack {
        live: Live,
        replaces: u64,
        restores: u64,
    },
    /// The live generation ends later than it did.
    Prolong {
        live: Live,
    },
    /// The offered value is the live one: nothing changes.
    Unchanged,
    /// The call failed, or what it gave was refused, or nobody has answered for that yet; requests
    /// that wait for a generation need not wait for the next attempt.
    Failed {
        fault: Fault,
        attempt: u32,
        retry_at: Moment,
    },
    /// Requests ask for a generation, so the next attempt comes sooner.
    Sooner {
        retry_at: Moment,
    },
    Expire {
        number: u64,
    },
    /// Take the live generation, if there is one, out of use and keep it.
    Quarantine,
    /// Take the live generation out of use and void all that have not run out.
    Revoke,
    /// Publish the generation that was kept.
    Resume {
        live: Live,
    },
    /// The next generation may be used again; whatever was kept is not.
    Reprovision,
    /// The offered value came too late, or the API refuses it: it is void from the start.
    Discard,
    Retire {
        number: u64,
    },
}

/// What brought a call to the issuer about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Its time had come.
    Due,
    /// Somebody wanted it.
    Asked,
    /// The source noticed that it has something else to give.
    Changed,
    /// An upstream answered 401 to the generation before.
    Rejected,
}

impl Cause {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Asked => "asked",
            Self::Changed => "changed",
            Self::Rejected => "rejected",
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
    rejections: Rejections,
    shortening: Shortening,
    former: Option<Former>,
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
            rejections: Rejections::default(),
            shortening: Shortening::default(),
            former: None,
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
        if let Some(due) = due {
            wake = wake.earlier(due);
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
        self.try_again(now, &mut effects);
        if let Call::Due(due) = self.call
            && due.reached(now)
            && !self.is_restrained()
        {
            self.call = Call::InFlight { started: now };
            self.last_started = Some(now);
            self.wanted = None;
            effects.push(Effect::Call);
        }
        effects
    }

    fn answered(&mut self, offer: Offer, now: Moment, random: f64, effects: &mut Vec<Effect>) {
        let Call::InFlight { started } = self.call else { return };
        let refused = |reason| Fault { reason, class: Class::Transient { retry_after: None } };
        let judged = match (self.phase, offer.unchanged) {
            // What was revoked does not come back, whoever gives it.
            _ if offer.void => Err(refused(Reason::Revoked)),
            (Phase::Active(live), _) if offer.longer.is_some() => {
                effects.extend(self.prolonged(live, started, offer, now, random));
                return;
            }
            // It came too late.
            _ if offer.longer.is_some() => Err(refused(Reason::Expired)),
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
        self.rejections.replaced(cause == Cause::Rejected, PATIENT, now, random);
        if cause == Cause::Due && matches!(self.phase, Phase::Active(_)) {
            self.shortening.lived();
        }
        self.succeeded();
        self.last_number = live.number;
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
        {
            return self.go_live(trial, now, random, effects);
        }
        self.phase = Phase::Expired(live);
        self.shortening.failed();
        effects.push(Effect::Expire { number: live.number });
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
                    let due = self.paced(now);
                    self.call_next(self.not_before.map_or(due, |told| due.later(told)));
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

    fn call_next(&mut self, due: Moment) {
        self.call = Call::Due(due);
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
        if cause != Cause::Rejected || due.remaining(now) < planned.remaining(now) {
            self.call = Call::Due(due);
            self.cause = cause;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Mode;
    use proptest::prelude::*;

    pub(super) const START: Moment =
        Moment { boot: Duration::from_secs(1_000), wall: Duration::from_secs(1_700_000_000) };
    pub(super) const DOWN: Fault = Fault { reason: Reason::Connect, class: Class::Transient { retry_after: None } };
    const NO: Fault = Fault { reason: Reason::InvalidClient, class: Class::Refused };

    pub(super) fn plan() -> Plan {
        Plan {
            rotation: Rotation {
                overlap: secs(30),
                shorten: false,
                mode: Mode::Overlap,
                at: 0.7,
                jitter: 0.1,
                skew: Duration::from_secs(30),
                max_life: Duration::from_secs(3600),
            },
            grant_ends: START.wall + Duration::from_secs(86_400),
            pace: Duration::from_secs(1),
            recheck: Duration::from_secs(2),
            required: false,
            is_probed: false,
        }
    }

    pub(super) fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    pub(super) fn offer(now: Moment, life: u64) -> Input {
        Input::Answered(Ok(Offer { expires: Some(now.after(secs(life))), unchanged: false, void: false, longer: None }))
    }

    /// A life that has just received a first generation of `life` seconds.
    pub(super) fn active(life: u64) -> Lifecycle {
        let mut machine = Lifecycle::new(plan(), 0, START);
        assert_eq!(machine.step(Input::Timer, START, 0.0), [Effect::Call]);
        let effects = machine.step(offer(START, life), START, 0.0);
        assert!(matches!(effects[..], [Effect::Publish { replaces: None, .. }]), "{effects:?}");
        machine
    }

    #[test]
    fn a_generation_is_replaced_at_seven_tenths_of_its_life() {
        let mut machine = active(100);
        assert_eq!(machine.wake_at().expect("wakes").boot, START.after(secs(70)).boot);
        assert_eq!(machine.step(Input::Timer, START.after(secs(69)), 0.0), []);
        let then = START.after(secs(70));
        assert_eq!(machine.step(Input::Timer, then, 0.0), [Effect::Call]);
        let effects = machine.step(offer(then, 100), then, 0.0);
        assert!(matches!(
            effects[..],
            [Effect::Publish { live: Live { number: 2, .. }, replaces: Some(1), cause: Cause::Due }]
        ));
    }

    #[test]
    fn jitter_only_brings_the_replacement_forward() {
        let mut machine = Lifecycle::new(plan(), 0, START);
        machine.step(Input::Timer, START, 0.0);
        machine.step(offer(START, 100), START, 1.0);
        assert_eq!(machine.wake_at().expect("wakes").boot, START.after(secs(60)).boot);
    }

    #[test]
    fn the_skew_is_at_most_a_tenth_of_the_life() {
        let Phase::Active(short) = active(100).phase() else { panic!("active") };
        assert_eq!(short.usable_until, START.after(secs(90)));
        let Phase::Active(long) = active(1000).phase() else { panic!("active") };
        assert_eq!(long.usable_until, START.after(secs(970)));
    }

    #[test]
    fn a_failed_rotation_keeps_the_live_generation_until_its_expiry() {
        let mut machine = active(100);
        let mut now = START.after(secs(70));
        machine.step(Input::Timer, now, 0.0);
        machine.step(Input::Answered(Err(DOWN)), now, 0.0);
        assert!(matches!(machine.phase(), Phase::Active(live) if live.number == 1));
        now = START.after(secs(90));
        let effects = machine.step(Input::Timer, now, 0.0);
        assert!(effects.contains(&Effect::Expire { number: 1 }), "{effects:?}");
        assert!(matches!(machine.phase(), Phase::Expired(_)));
    }

    #[test]
    fn for_want_of_a_sign_in_nobody_is_asked_until_there_has_been_one() {
        let mut machine = Lifecycle::new(plan(), 0, START);
        machine.step(Input::Timer, START, 0.0);
        let fault = Fault { reason: Reason::InvalidGrant, class: Class::Reauthenticate };
        machine.step(Input::Answered(Err(fault)), START, 0.0);
        let later = START.after(secs(60));
        for input in [Input::Timer, Input::Demand] {
            assert_eq!(machine.step(input, later, 0.0), [], "{input:?}");
        }
        assert_eq!(machine.step(Input::Changed, later, 0.0), [Effect::Call]);
    }

    #[test]
    fn what_has_expired_does_not_come_back_as_a_new_generation() {
        let mut machine = active(100);
        let mut now = START.after(secs(91));
        machine.step(Input::Timer, now, 0.0);
        let same = Input::Answered(Ok(Offer {
            expires: Some(START.after(secs(100))),
            unchanged: true,
            void: false,
            longer: None,
        }));
        let effects = machine.step(same, now, 0.0);
        assert!(matches!(effects[..], [Effect::Failed { fault: Fault { reason: Reason::Expired, .. }, .. }]));
        now = machine.wake_at().expect("wakes");
        assert_eq!(machine.step(Input::Timer, now, 0.0), [Effect::Call]);
    }

    #[test]
    fn a_wall_clock_set_back_does_not_make_new_generations_worse() {
        let mut machine = active(3000);
        let back = Moment { boot: START.boot + secs(2100), wall: START.wall - secs(3600) };
        machine.step(Input::Timer, back, 0.0);
        let effects = machine.step(offer(back, 3000), back, 0.0);
        assert!(matches!(effects[..], [Effect::Publish { .. }]), "{effects:?}");
    }

    #[test]
    fn a_late_share_of_the_life_still_leaves_time_for_the_call() {
        let rotation = Rotation { at: 0.95, jitter: 0.0, ..plan().rotation };
        let mut machine = Lifecycle::new(Plan { rotation, ..plan() }, 0, START);
        machine.step(Input::Timer, START, 0.0);
        machine.step(offer(START, 60), START, 0.0);
        let Phase::Active(live) = machine.phase() else { panic!("active") };
        assert!(machine.wake_at().expect("wakes").boot + secs(1) < live.usable_until.boot);
    }

    #[test]
    fn a_life_of_less_than_a_second_does_not_hurry_the_calls() {
        let mut machine = active(1);
        let now = START.after(Duration::from_millis(900));
        assert_eq!(machine.step(Input::Timer, now, 0.0), [Effect::Expire { number: 1 }]);
        assert_eq!(machine.step(Input::Timer, START.after(secs(1)), 0.0), [Effect::Call]);
    }

    #[test]
    fn a_required_token_is_asked_for_every_five_seconds_until_its_first_generation() {
        let mut machine = Lifecycle::new(Plan { required: true, ..plan() }, 0, START);
        let mut now = START;
        for _ in 0..8 {
            machine.step(Input::Timer, now, 1.0);
            machine.step(Input::Answered(Err(DOWN)), now, 1.0);
            let next = machine.wake_at().expect("wakes");
            assert!(next.boot - now.boot <= secs(5));
            now = next;
        }
    }

    #[test]
    fn demand_brings_the_next_attempt_to_five_seconds_after_the_last() {
        let mut machine = Lifecycle::new(plan(), 0, START);
        let mut now = START;
        for _ in 0..8 {
            now = machine.wake_at().expect("wakes");
            machine.step(Input::Timer, now, 1.0);
            machine.step(Input::Answered(Err(DOWN)), now, 1.0);
        }
        let asked = now.after(secs(2));
        machine.step(Input::Demand, asked, 1.0);
        assert_eq!(machine.wake_at().expect("wakes").boot, now.after(secs(5)).boot);
    }

    #[test]
    fn an_issuers_retry_after_holds_whoever_asks() {
        let mut machine = Lifecycle::new(plan(), 0, START);
        machine.step(Input::Timer, START, 0.0);
        let busy = Fault { class: Class::Transient { retry_after: Some(secs(40)) }, ..DOWN };
        machine.step(Input::Answered(Err(busy)), START, 0.0);
        machine.step(Input::Demand, START.after(secs(10)), 0.0);
        assert_eq!(machine.wake_at().expect("wakes").boot, START.after(secs(40)).boot);
    }

    #[test]
    fn demand_shows_that_a_clock_has_jumped() {
        let mut machine = active(3600);
        let now = START.after(secs(10));
        assert!(machine.heeds_demand(now));
        assert_eq!(machine.step(Input::Demand, now, 0.0), [], "nobody should ask for what is there");
        let jumped = Moment { boot: now.boot, wall: now.wall + secs(3600) };
        assert_eq!(
            machine.step(Input::Demand, jumped, 0.0),
            [Effect::Sooner { retry_at: START.after(secs(1)) }, Effect::Expire { number: 1 }, Effect::Call]
        );
        assert!(!machine.heeds_demand(jumped), "the call is in flight");
    }

    #[test]
    fn a_plain_no_is_not_hurried_by_demand() {
        let mut machine = Lifecycle::new(plan(), 0, START);
        let mut now = START;
        for _ in 0..8 {
            now = machine.wake_at().expect("wakes");
            machine.step(Input::Timer, now, 1.0);
            machine.step(Input::Answered(Err(NO)), now, 1.0);
        }
        machine.step(Input::Demand, now.after(secs(1)), 1.0);
        assert_eq!(machine.wake_at().expect("wakes").boot, now.after(secs(60)).boot);
    }

    #[test]
    fn a_worse_token_never_replaces_a_good_one() {
        let mut machine = active(100);
        let now = START.after(secs(70));
        machine.step(Input::Timer, now, 0.0);
        let effects = machine.step(offer(now, 5), now, 0.0);
        assert!(matches!(effects[..], [Effect::Failed { fault: Fault { reason: Reason::Worse, .. }, .. }]));
        assert!(matches!(machine.phase(), Phase::Active(live) if live.number == 1));
    }

    #[test]
    fn the_same_bytes_are_no_rotation() {
        let mut machine = active(100);
        let now = START.after(secs(70));
        machine.step(Input::Timer, now, 0.0);
        let same = Offer { expires: Some(START.after(secs(100))), unchanged: true, void: false, longer: None };
        assert_eq!(machine.step(Input::Answered(Ok(same)), now, 0.0), [Effect::Unchanged]);
        assert!(machine.wake_at().expect("wakes").boot > now.boot);
    }

    #[test]
    fn a_grant_that_ended_retires_its_token_for_good() {
        let mut machine = active(100);
        let end = Moment { boot: START.boot, wall: START.wall + secs(86_400) };
        assert_eq!(machine.step(Input::Timer, end, 0.0), [Effect::Retire { number: 1 }]);
        assert_eq!(machine.wake_at(), None);
        assert_eq!(machine.step(Input::Rotate, end, 0.0), []);
        assert_eq!(machine.step(offer(end, 100), end, 0.0), []);
    }

    #[test]
    fn a_generation_never_outlives_its_grant_or_the_longest_life() {
        let Phase::Active(live) = active(1_000_000).phase() else { panic!("active") };
        assert_eq!(live.expires, START.after(secs(3600)));
        let mut machine = Lifecycle::new(Plan { grant_ends: START.wall + secs(50), ..plan() }, 0, START);
        machine.step(Input::Timer, START, 0.0);
        machine.step(offer(START, 100), START, 0.0);
        assert!(matches!(machine.phase(), Phase::Active(live) if live.expires == START.after(secs(50))));
    }

    #[test]
    fn a_static_value_is_asked_for_again_and_lives_as_long_as_its_grant() {
        let mut machine = Lifecycle::new(plan(), 0, START);
        machine.step(Input::Timer, START, 0.0);
        machine.step(
            Input::Answered(Ok(Offer { expires: None, unchanged: false, void: false, longer: None })),
            START,
            0.0,
        );
        assert!(matches!(machine.phase(), Phase::Active(live) if live.expires.wall == plan().grant_ends));
        assert_eq!(machine.wake_at().expect("wakes").boot, START.after(secs(2)).boot);
    }

    #[test]
    fn a_source_that_has_something_else_is_asked_at_once_and_no_faster_than_its_pace() {
        let mut machine = active(1000);
        let now = START.after(secs(10));
        assert_eq!(machine.step(Input::Changed, now, 0.0), [Effect::Call]);
        let same = Offer { expires: Some(START.after(secs(1000))), unchanged: true, void: false, longer: None };
        machine.step(Input::Answered(Ok(same)), now, 0.0);
        assert_eq!(machine.step(Input::Changed, now, 0.0), []);
        assert_eq!(machine.wake_at().expect("wakes").boot, now.after(secs(1)).boot);
    }

    #[test]
    fn what_is_quarantined_comes_back_with_what_it_had() {
        let mut machine = active(1000);
        let now = START.after(secs(10));
        assert_eq!(machine.step(Input::Quarantine, now, 0.0), [Effect::Quarantine]);
        assert_eq!(machine.step(Input::Quarantine, now, 0.0), [], "it is already");
        for input in [Input::Timer, Input::Demand, Input::Rotate, Input::Changed, Input::Rejected { generation: 1 }] {
            assert_eq!(machine.step(input, START.after(secs(750)), 0.0), [], "{input:?}");
        }
        let effects = machine.step(Input::Release, START.after(secs(760)), 0.0);
        assert!(matches!(effects[..], [Effect::Resume { live: Live { number: 1, .. } }, Effect::Call]), "{effects:?}");
        assert!(matches!(machine.phase(), Phase::Active(Live { number: 1, .. })));
    }

    #[test]
    fn what_ran_out_in_quarantine_is_provisioned_anew() {
        let mut machine = active(100);
        machine.step(Input::Quarantine, START.after(secs(10)), 0.0);
        let now = START.after(secs(95));
        assert_eq!(machine.step(Input::Timer, now, 0.0), []);
        assert_eq!(machine.step(Input::Release, now, 0.0), [Effect::Reprovision, Effect::Call]);
        let effects = machine.step(offer(now, 100), now, 0.0);
        assert!(matches!(effects[..], [Effect::Publish { live: Live { number: 2, .. }, replaces: Some(1), .. }]));
    }

    #[test]
    fn a_revoked_generation_never_comes_back() {
        let mut machine = active(1000);
        let now = START.after(secs(10));
        assert_eq!(machine.step(Input::Revoke, now, 0.0), [Effect::Revoke]);
        assert_eq!(machine.step(Input::Quarantine, now, 0.0), [], "a quarantine takes nothing from it");
        assert_eq!(machine.phase(), Phase::Revoked);
        assert_eq!(machine.step(Input::Release, now, 0.0), [Effect::Reprovision, Effect::Call]);
        let same = Offer { expires: Some(START.after(secs(1000))), unchanged: true, void: true, longer: None };
        let effects = machine.step(Input::Answered(Ok(same)), now, 0.0);
        assert!(matches!(effects[..], [Effect::Failed { fault: Fault { reason: Reason::Revoked, .. }, .. }]));
        assert_eq!(machine.phase(), Phase::Provisioning);
    }

    #[test]
    fn an_answer_that_was_on_its_way_is_discarded() {
        for restrain in [Input::Quarantine, Input::Revoke] {
            let mut machine = active(100);
            let now = START.after(secs(70));
            assert_eq!(machine.step(Input::Timer, now, 0.0), [Effect::Call]);
            machine.step(restrain, now, 0.0);
            machine.step(Input::Release, now, 0.0);
            assert_eq!(machine.step(offer(now, 100), now, 0.0), [Effect::Discard], "{restrain:?}");
            let next = now.after(secs(1));
            assert_eq!(machine.step(Input::Timer, next, 0.0), [Effect::Call], "and another one is asked for");
            assert!(matches!(machine.step(offer(next, 100), next, 0.0)[..], [Effect::Publish { .. }]));
        }
    }

    #[test]
    fn a_restraint_outlives_a_restart_and_its_grant_does_not() {
        for restraint in [Restraint::Quarantined, Restraint::Revoked] {
            let mut machine = Lifecycle::restrained(restraint, plan(), 4, START);
            assert_eq!(machine.step(Input::Timer, START.after(secs(60)), 0.0), []);
            let effects = machine.step(Input::Release, START.after(secs(60)), 0.0);
            assert_eq!(effects, [Effect::Reprovision, Effect::Call]);
            let mut machine = Lifecycle::restrained(restraint, plan(), 4, START);
            let end = Moment { boot: START.boot, wall: START.wall + secs(86_400) };
            assert_eq!(machine.step(Input::Timer, end, 0.0), [Effect::Retire { number: 4 }]);
        }
    }

    #[test]
    fn a_year_of_rotations_takes_no_time() {
        let mut machine = Lifecycle::new(Plan { grant_ends: START.wall + secs(400 * 86_400), ..plan() }, 0, START);
        let mut now = START;
        let mut published = 0;
        while now.boot < START.boot + secs(365 * 86_400) {
            now = machine.wake_at().expect("wakes");
            if machine.step(Input::Timer, now, 0.5) == [Effect::Call] {
                published +=
                    usize::from(matches!(machine.step(offer(now, 3600), now, 0.5)[..], [Effect::Publish { .. }]));
            }
        }
        assert!(published > 13_000, "{published}");
    }

    fn inputs() -> impl Strategy<Value = (Input, u64, f64)> {
        let expires = (0u64..5_000).prop_map(|s| Offer {
            expires: Some(START.after(secs(s))),
            unchanged: false,
            void: false,
            longer: None,
        });
        let faults = prop_oneof![
            Just(DOWN),
            Just(NO),
            (0u64..700).prop_map(|s| Fault { class: Class::Transient { retry_after: Some(secs(s)) }, ..DOWN }),
        ];
        let input = prop_oneof![
            6 => Just(Input::Timer),
            2 => expires.prop_map(|offer| Input::Answered(Ok(offer))),
            1 => any::<bool>().prop_map(|unchanged| Input::Answered(Ok(Offer { expires: None, unchanged, void: false, longer: None }))),
            2 => faults.prop_map(|fault| Input::Answered(Err(fault))),
            2 => prop_oneof![Just(Verdict::Passed), Just(Verdict::Refused), Just(Verdict::Unanswered)].prop_map(Input::Probed),
            2 => Just(Input::Demand),
            1 => Just(Input::Rotate),
            1 => Just(Input::Changed),
            2 => any::<bool>().prop_map(|live| Input::Rejected { generation: u64::from(live) }),
            1 => Just(Input::Accepted),
            1 => (0u64..4).prop_map(|generation| Input::RollBack { generation }),
            1 => Just(Input::Quarantine),
            1 => Just(Input::Revoke),
            2 => Just(Input::Release),
        ];
        (input, 0u64..40_000, 0.0f64..1.0)
    }

    proptest! {
        #[test]
        fn whatever_happens_the_invariants_hold(is_probed: bool, steps in proptest::collection::vec(inputs(), 1..200)) {
            let plan = Plan { grant_ends: START.wall + secs(4_000), is_probed, ..plan() };
            let mut machine = Lifecycle::new(plan, 0, START);
            let (mut now, mut in_flight, mut last_call, mut last_number) = (START, false, None, 0);
            // Whether an upstream has accepted the token since a 401 had it replaced.
            let mut proven = true;
            // Whether somebody has taken the token out of use, and the last number that was revoked.
            let (mut restrained, mut revoked) = (false, 0);
            // Whether a generation is being tried.
            let mut on_trial = false;
            for (mut input, millis, random) in steps {
                now = now.after(Duration::from_millis(millis));
                if let (Input::Rejected { generation: 1 }, Phase::Active(live)) = (input, machine.phase()) {
                    input = Input::Rejected { generation: live.number };
                }
                if let (Input::RollBack { generation: 1.. }, Phase::Active(live)) = (input, machine.phase()) {
                    input = Input::RollBack { generation: live.number };
                }
                let before = machine.phase();
                let effects = machine.step(input, now, random);
                if let Input::Answered(_) = input {
                    in_flight = false;
                }
                proven |= input == Input::Accepted;
                match input {
                    Input::Quarantine => restrained = true,
                    Input::Revoke => (restrained, revoked) = (true, last_number),
                    Input::Release => restrained = false,
                    _ => {}
                }
                if machine.phase() != Phase::Retired {
                    prop_assert_eq!(machine.is_restrained(), restrained);
                }
                for effect in &effects {
                    match *effect {
                        Effect::Call => {
                            prop_assert!(!restrained, "asked for what nobody may use");
                            prop_assert!(!in_flight, "two calls in flight");
                            prop_assert!(!on_trial, "asked while a generation is being tried");
                            if let Some(last) = last_call {
                                prop_assert!(now.boot - last >= plan.pace, "calls too close");
                            }
                            (in_flight, last_call) = (true, Some(now.boot));
                        }
                        Effect::Probe { .. } => {
                            prop_assert!(is_probed && !in_flight && !restrained);
                            on_trial = true;
                        }
                        Effect::Discard => {
                            prop_assert!(on_trial || matches!(input, Input::Answered(_)), "nothing to discard");
                            on_trial = false;
                        }
                        Effect::Prolong { live } => {
                            prop_assert!(!restrained, "prolonged what nobody may use");
                            prop_assert_eq!(live.number, last_number);
                        }
                        Effect::Publish { live, cause, .. } => {
                            prop_assert!(!restrained, "published what nobody may use");
                            prop_assert_eq!(is_probed, on_trial, "live without a trial");
                            prop_assert!(input != Input::Probed(Verdict::Refused), "live against the API's word");
                            on_trial = false;
                            prop_assert!(proven || cause != Cause::Rejected, "a 401 drove the issuer");
                            proven &= cause != Cause::Rejected;
                            prop_assert!(live.number > last_number);
                            prop_assert!(!live.usable_until.reached(now), "published what cannot be used");
                            prop_assert!(live.expires.wall <= plan.grant_ends);
                            last_number = live.number;
                        }
                        Effect::RollBack { live, replaces, restores } => {
                            prop_assert!(!restrained && restores > revoked && restores < replaces);
                            prop_assert!(live.number > last_number && !live.usable_until.reached(now));
                            last_number = live.number;
                        }
                        Effect::Failed { .. } => {
                            if let (Phase::Active(old), Phase::Active(new)) = (before, machine.phase()) {
                                prop_assert_eq!(old, new, "a failure changed the live generation");
                            }
                        }
                        Effect::Resume { live } => {
                            prop_assert!(!restrained && live.number > revoked, "a revoked one came back");
                        }
                        Effect::Unchanged
                        | Effect::Sooner { .. }
                        | Effect::Expire { .. }
                        | Effect::Quarantine
                        | Effect::Revoke
                        | Effect::Reprovision
                        | Effect::Retire { .. } => {}
                    }
                }
                match machine.phase() {
                    Phase::Active(live) => prop_assert!(!live.usable_until.reached(now)),
                    Phase::Retired => prop_assert_eq!(machine.wake_at(), None),
                    Phase::Quarantined(_) | Phase::Revoked => prop_assert!(restrained),
                    Phase::Provisioning | Phase::Expired(_) => {
                        prop_assert!(in_flight || machine.wake_at().is_some(), "stuck");
                    }
                }
            }
        }
    }
}
