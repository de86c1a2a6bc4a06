//! The step from one source to another, where the config names a `next_source`.
//!
//! ```text
//!  waiting ── a rotation, due or asked for ─▶ asking the next source ── its answer is verified ─▶ live ── it has stood ─▶ moved
//!     ▲ ▲                                          │                                                │
//!     │ └─── no answer, refused, not verified ─────┘                                                │
//!     └───────── rolled back, or nothing follows what has run out ──────────────────────────────────┘
//! ```
//!
//! Invariants: nothing of the next source is live that has not passed its probe; a step that fails leaves the source in use as it
//! was, whose next call is as due as it was before; steps that fail are spaced; what one issuer has said of its calls holds for its
//! own alone.

use super::{Cause, Effect, Fault, Lifecycle, Phase, Plan};
use crate::clock::Moment;
use crate::token::source::Class;

/// How far it is.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Step {
    Waiting,
    /// The next source is asked, or what it gave is tried.
    Asking,
    /// What it gave is live, and may be left again until then.
    Standing {
        until: Moment,
    },
}

/// A source that is to be moved to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Moving {
    other: Other,
    step: Step,
    failures: u32,
    /// When a step is tried again, if nobody asks for it sooner.
    again: Option<Moment>,
}

/// Of the source that is not asked now, what the machine has of the one that is.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Other {
    plan: Plan,
    failures: u32,
    not_before: Option<Moment>,
    needs_login: bool,
}

impl Lifecycle {
    /// With a source to move to, which lives by this plan.
    #[must_use]
    pub fn moving_to(mut self, plan: Plan) -> Self {
        let other = Other { plan, failures: 0, not_before: None, needs_login: false };
        self.moving = Some(Moving { other, step: Step::Waiting, failures: 0, again: None });
        self
    }

    /// Whether what is asked for now comes from the source to move to.
    pub(super) fn asks_next(&self) -> bool {
        self.moving.is_some_and(|moving| moving.step == Step::Asking)
    }

    /// When it will have stood.
    pub(super) fn stands_until(&self) -> Option<Moment> {
        match self.moving?.step {
            Step::Standing { until } => Some(until),
            Step::Waiting | Step::Asking => None,
        }
    }

    /// Whether the call that begins now is for the source to move to: there is something to go back to, and nobody needs another
    /// generation at once.
    pub(super) fn begin_move(&mut self, now: Moment) -> bool {
        let Some(moving) = self.moving else { return false };
        let is_asked = self.cause == Cause::Asked;
        let is_wanted = is_asked || self.cause == Cause::Due;
        let may_be = |moment: Option<Moment>| moment.is_none_or(|moment| moment.reached(now));
        let is_time = may_be(moving.other.not_before) && (is_asked || may_be(moving.again));
        let begins = moving.step == Step::Waiting && is_wanted && is_time && matches!(self.phase, Phase::Active(_));
        if begins {
            self.take_step(Step::Asking);
        }
        begins
    }

    /// What the next source gave is live.
    pub(super) fn stand(&mut self, now: Moment) {
        if self.asks_next() {
            let until = now.after(self.plan.rotation.overlap);
            self.take_step(Step::Standing { until });
        }
    }

    /// Nobody wants to know what the next source gave.
    pub(super) fn leave_off(&mut self) {
        if self.asks_next() {
            self.take_step(Step::Waiting);
        }
    }

    /// The step failed. Returns whether there was one to fail.
    pub(super) fn move_failed(&mut self, fault: Fault, now: Moment, random: f64, effects: &mut Vec<Effect>) -> bool {
        let is_without = !matches!(self.phase, Phase::Active(_)) && self.stands_until().is_some();
        if !self.asks_next() && !is_without {
            return false;
        }
        self.not_before = match fault.class {
            Class::Transient { retry_after } => retry_after.map(|wait| now.after(wait)),
            Class::Refused | Class::Reauthenticate => None,
        };
        let due = match self.phase {
            Phase::Active(live) => live.refresh_at,
            _ => now,
        };
        let not_moved = self.go_back(Some(fault), now, random);
        self.call_next(self.paced(due));
        effects.push(not_moved);
        true
    }

    /// The next source is the token's own from now on, if it has stood.
    pub(super) fn settle_move(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let has_stood = self.stands_until().is_some_and(|until| until.reached(now));
        if let Phase::Active(live) = self.phase
            && has_stood
        {
            self.moving = None;
            effects.push(Effect::Moved { number: live.number });
        }
    }

    /// The source that the token had is asked again. `None`: upstreams refuse what the next one gave.
    pub(super) fn go_back(&mut self, fault: Option<Fault>, now: Moment, random: f64) -> Effect {
        self.take_step(Step::Waiting);
        let Some(moving) = &mut self.moving else { return Effect::NotMoved { fault, attempt: 0, again: now } };
        moving.failures = moving.failures.saturating_add(1);
        let again = now.after(super::former::SPACING.delay(moving.failures, random));
        moving.again = Some(again);
        let again = moving.other.not_before.map_or(again, |not_before| again.later(not_before));
        Effect::NotMoved { fault, attempt: moving.failures, again }
    }

    /// What the machine has of a source is always that of the one which is asked.
    fn take_step(&mut self, step: Step) {
        let Some(moving) = &mut self.moving else { return };
        let of_next = |step: Step| step != Step::Waiting;
        if of_next(moving.step) != of_next(step) {
            let Other { plan, failures, not_before, needs_login } = &mut moving.other;
            std::mem::swap(&mut self.plan, plan);
            std::mem::swap(&mut self.failures, failures);
            std::mem::swap(&mut self.not_before, not_before);
            std::mem::swap(&mut self.needs_login, needs_login);
        }
        moving.step = step;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{DOWN, START, offer, plan, secs};
    use super::super::{Input, Live};
    use super::*;
    use crate::token::probe::Verdict;
    use crate::token::source::Reason;

    /// The pace tells the plans apart.
    fn plans() -> (Plan, Plan) {
        let own = Plan { is_probed: true, ..plan() };
        (own, Plan { pace: secs(7), ..own })
    }

    /// A life whose first generation, of an hour, is live, and which has a source to move to.
    fn active() -> Lifecycle {
        let (own, next) = plans();
        let mut machine = Lifecycle::new(own, 0, START).moving_to(next);
        assert_eq!(machine.step(Input::Timer, START, 0.0), [Effect::Call], "there is nothing to go back to yet");
        machine.step(offer(START, 3600), START, 0.0);
        machine.step(Input::Probed(Verdict::Passed), START, 0.0);
        machine
    }

    /// At the moment of its rotation, for which the next source is asked.
    fn asking() -> (Lifecycle, Moment) {
        let mut machine = active();
        let now = machine.wake_at().expect("wakes");
        assert_eq!(machine.step(Input::Timer, now, 0.0), [Effect::CallNext]);
        (machine, now)
    }

    /// With a generation of the next source live.
    fn standing() -> (Lifecycle, Moment) {
        let (mut machine, now) = asking();
        assert_eq!(machine.step(offer(now, 600), now, 0.0), [Effect::Probe { number: 2 }]);
        let effects = machine.step(Input::Probed(Verdict::Passed), now, 0.0);
        assert!(matches!(effects[..], [Effect::Publish { replaces: Some(1), .. }]), "{effects:?}");
        (machine, now)
    }

    fn live(machine: &Lifecycle) -> Live {
        let Phase::Active(live) = machine.phase() else { panic!("active") };
        live
    }

    #[test]
    fn a_rotation_that_is_due_or_asked_for_asks_the_next_source_and_one_that_a_401_brings_does_not() {
        let now = START.after(secs(100));
        assert_eq!(active().step(Input::Rotate, now, 0.0), [Effect::CallNext]);
        assert_eq!(active().step(Input::Rejected { generation: 1 }, now, 0.0), [Effect::Call]);
        assert_eq!(active().step(Input::Changed, now, 0.0), [Effect::Call]);
    }

    #[test]
    fn what_the_next_source_gives_is_verified_stands_and_is_the_tokens_own_then() {
        let (mut machine, now) = standing();
        assert_eq!(live(&machine).expires, now.after(secs(600)), "it may live for a shorter time");
        let until = machine.wake_at().expect("wakes");
        assert_eq!(until.boot, now.after(secs(30)).boot);
        assert_eq!(machine.step(Input::Timer, until, 0.0), [Effect::Moved { number: 2 }]);
        let due = machine.wake_at().expect("wakes");
        assert_eq!(machine.step(Input::Timer, due, 0.0), [Effect::Call], "by the source that is in use");
        assert_eq!(machine.plan, plans().1);
    }

    #[test]
    fn one_that_the_api_refuses_or_does_not_answer_for_is_dropped_and_the_rotation_is_the_old_sources() {
        for (verdict, reason) in [(Verdict::Refused, Reason::Probe), (Verdict::Unanswered, Reason::ProbeUnanswered)] {
            let (mut machine, now) = asking();
            machine.step(offer(now, 600), now, 0.0);
            let effects = machine.step(Input::Probed(verdict), now, 0.0);
            let [Effect::NotMoved { fault: Some(fault), attempt: 1, .. }] = effects[..] else { panic!("{effects:?}") };
            assert_eq!((fault.reason, live(&machine).number), (reason, 1));
            let soon = machine.wake_at().expect("wakes");
            assert_eq!(soon.boot, now.after(plans().0.pace).boot, "what was due is due");
            assert_eq!(machine.step(Input::Timer, soon, 0.0), [Effect::Call]);
            assert_eq!(machine.plan, plans().0);
        }
    }

    #[test]
    fn steps_that_fail_are_spaced_but_for_those_that_somebody_asks_for() {
        let mut machine = active();
        let mut now = START.after(secs(10));
        for attempt in 1..=3 {
            assert_eq!(machine.step(Input::Rotate, now, 0.0), [Effect::CallNext]);
            let effects = machine.step(Input::Answered(Err(DOWN)), now, 0.0);
            assert!(matches!(effects[..], [Effect::NotMoved { attempt: counted, .. }] if counted == attempt));
            now = now.after(secs(10));
        }
        let due = machine.wake_at().expect("wakes");
        assert!(!machine.has_failed(), "the source in use has not been asked");
        assert_eq!(machine.step(Input::Timer, due, 0.0), [Effect::CallNext], "the spacing has passed by then");
        machine.step(Input::Answered(Err(DOWN)), due, 0.0);
        let soon = machine.wake_at().expect("wakes");
        assert_eq!(machine.step(Input::Timer, soon, 0.0), [Effect::Call], "and this time it has not");
    }

    #[test]
    fn nobody_asks_an_issuer_that_has_said_when_it_wants_to_be_asked_again() {
        let mut machine = active();
        let now = START.after(secs(10));
        machine.step(Input::Rotate, now, 0.0);
        let told = Fault { class: Class::Transient { retry_after: Some(secs(600)) }, ..DOWN };
        let effects = machine.step(Input::Answered(Err(told)), now, 0.0);
        let [Effect::NotMoved { again, .. }] = effects[..] else { panic!("{effects:?}") };
        assert_eq!(again, now.after(secs(600)));
        assert_eq!(machine.step(Input::Rotate, now.after(secs(300)), 0.0), [Effect::Call]);
    }

    #[test]
    fn upstreams_that_refuse_it_bring_the_old_source_back() {
        let (mut machine, now) = standing();
        let now = now.after(secs(5));
        let effects = machine.step(Input::RollBack { generation: 2 }, now, 0.0);
        let [Effect::RollBack { restores: 1, .. }, Effect::NotMoved { fault: None, attempt: 1, .. }] = effects[..]
        else {
            panic!("{effects:?}")
        };
        assert_eq!((live(&machine).number, machine.plan), (3, plans().0));
        let due = machine.wake_at().expect("wakes");
        assert_eq!(due.boot, now.after(secs(60)).boot);
        assert_eq!(machine.step(Input::Timer, due, 0.0), [Effect::CallNext], "the spacing has passed by then");
    }

    #[test]
    fn what_the_next_issuer_wants_of_its_callers_does_not_keep_the_old_one_from_being_asked() {
        let busy = Fault { class: Class::Transient { retry_after: Some(secs(3000)) }, ..DOWN };
        let rotated = |machine: &mut Lifecycle, now| {
            assert_eq!(machine.step(Input::Rotate, now, 0.0), [Effect::Call]);
            machine.step(Input::Answered(Err(busy)), now, 0.0);
        };
        // Upstreams refuse what it gave.
        let (mut machine, now) = standing();
        let now = now.after(secs(8));
        rotated(&mut machine, now);
        machine.step(Input::RollBack { generation: 2 }, now, 0.0);
        let due = machine.wake_at().expect("wakes");
        assert_eq!(due.boot, now.after(secs(60)).boot);
        assert_eq!(machine.step(Input::Timer, due, 0.0), [Effect::Call], "the other one wants to be left alone");
        // It runs out.
        let (mut machine, now) = asking();
        machine.step(offer(now, 20), now, 0.0);
        machine.step(Input::Probed(Verdict::Passed), now, 0.0);
        let ended = live(&machine).usable_until;
        rotated(&mut machine, now.after(secs(8)));
        let effects = machine.step(Input::Timer, ended, 0.0);
        let [Effect::Expire { number: 2 }, Effect::NotMoved { fault: Some(fault), .. }, Effect::Call] = effects[..]
        else {
            panic!("{effects:?}")
        };
        assert_eq!((fault.reason, machine.plan), (Reason::Expired, plans().0));
    }

    #[test]
    fn what_the_next_source_gives_after_a_roll_back_is_wanted_no_more() {
        for is_tried in [false, true] {
            let (mut machine, now) = standing();
            let now = now.after(secs(8));
            assert_eq!(machine.step(Input::Rotate, now, 0.0), [Effect::Call]);
            if is_tried {
                machine.step(offer(now, 600), now, 0.0);
            }
            let effects = machine.step(Input::RollBack { generation: 2 }, now, 0.0);
            assert_eq!(effects.contains(&Effect::Discard), is_tried, "{effects:?}");
            let late = if is_tried { Input::Probed(Verdict::Passed) } else { offer(now, 600) };
            let effects = machine.step(late, now, 0.0);
            assert_eq!(effects, if is_tried { vec![] } else { vec![Effect::Discard] });
            assert_eq!((live(&machine).number, machine.plan), (3, plans().0));
        }
    }

    #[test]
    fn where_nothing_follows_what_the_next_source_gave_the_old_one_is_asked() {
        let (mut machine, now) = {
            let (mut machine, now) = asking();
            machine.step(offer(now, 10), now, 0.0);
            machine.step(Input::Probed(Verdict::Passed), now, 0.0);
            (machine, now)
        };
        let due = machine.wake_at().expect("wakes");
        assert_eq!(machine.step(Input::Timer, due, 0.0), [Effect::Call]);
        let ended = now.after(secs(10));
        assert_eq!(machine.step(Input::Timer, ended, 0.0), [Effect::Expire { number: 2 }]);
        let effects = machine.step(Input::Answered(Err(DOWN)), ended, 0.0);
        assert!(matches!(effects[..], [Effect::NotMoved { .. }, Effect::Call]), "{effects:?}");
        assert_eq!(machine.plan, plans().0);
    }

    #[test]
    fn what_is_tried_when_the_live_one_runs_out_is_not_taken_unverified() {
        let (mut machine, now) = asking();
        machine.step(offer(now, 600), now, 0.0);
        let ended = live(&machine).usable_until;
        let effects = machine.step(Input::Timer, ended, 0.0);
        assert!(
            matches!(effects[..], [Effect::Expire { number: 1 }, Effect::NotMoved { .. }, Effect::Call]),
            "{effects:?}"
        );
    }

    #[test]
    fn what_is_taken_out_of_use_meanwhile_goes_on_with_the_old_source() {
        for input in [Input::Quarantine, Input::Revoke] {
            for is_tried in [false, true] {
                let (mut machine, now) = asking();
                if is_tried {
                    machine.step(offer(now, 600), now, 0.0);
                }
                machine.step(input, now, 0.0);
                machine.step(Input::Answered(Err(DOWN)), now, 0.0);
                assert_eq!(machine.plan, plans().0, "{input:?}");
                machine.step(Input::Release, now.after(secs(10)), 0.0);
                assert_eq!(machine.step(Input::Probed(Verdict::Passed), now.after(secs(10)), 0.0), []);
            }
        }
    }
}
