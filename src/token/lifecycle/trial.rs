//! A new generation is tried against the API that it is for, before it goes live.
//!
//! ```text
//!  answer ──▶ tried ── passed ───────────────────────────▶ live
//!               │ ▲── no answer ─▶ again, with growing delays, until the one before it is about to run out ─▶ live
//!               └──── refused ───▶ dropped: the one before it stays
//! ```
//!
//! Invariant: a refused generation is never live. One that nobody answers for goes live only where there would be no token
//! else: nobody has said that it is bad, and its issuer says that it is good.

use super::{Call, Cause, Effect, Fault, Lifecycle, Live, PATIENT, Phase};
use crate::clock::Moment;
use crate::token::probe::{TIME_LIMIT, Verdict};
use crate::token::source::Reason;

/// What is tried, and how far that is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Trial {
    pub live: Live,
    pub cause: Cause,
    /// When its issuer was asked for it.
    pub started: Moment,
    /// Probes that nobody has answered.
    unanswered: u32,
    /// When it is tried again; `None` while a probe is under way.
    again: Option<Moment>,
}

impl Trial {
    pub(super) fn of(live: Live, cause: Cause, started: Moment) -> Self {
        Self { live, cause, started, unanswered: 0, again: None }
    }

    pub(super) fn again(&self) -> Option<Moment> {
        self.again
    }
}

impl Lifecycle {
    /// What came of a probe.
    pub(super) fn probed(&mut self, verdict: Verdict, now: Moment, random: f64, effects: &mut Vec<Effect>) {
        let Call::Trial(trial @ Trial { again: None, .. }) = self.call else { return };
        match verdict {
            Verdict::Passed => self.go_live(trial, now, random, effects),
            Verdict::Refused => self.failed(Fault::passing(Reason::Probe), trial.started, now, random, effects),
            // The source in use is not left for what nobody has verified.
            Verdict::Unanswered if self.asks_next() => {
                self.failed(Fault::passing(Reason::ProbeUnanswered), trial.started, now, random, effects);
            }
            Verdict::Unanswered => {
                let unanswered = trial.unanswered.saturating_add(1);
                let again = now.after(PATIENT.delay(unanswered, random));
                let in_time =
                    |live: Live| live.usable_until.remaining(now) > again.remaining(now).saturating_add(TIME_LIMIT);
                match self.phase {
                    Phase::Active(live) if in_time(live) => {
                        self.call = Call::Trial(Trial { unanswered, again: Some(again), ..trial });
                        let fault = Fault::passing(Reason::ProbeUnanswered);
                        effects.push(Effect::Failed { fault, attempt: unanswered, retry_at: again });
                    }
                    _ => self.go_live(trial, now, random, effects),
                }
            }
        }
    }

    /// A probe is due again.
    pub(super) fn try_again(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if let Call::Trial(trial) = self.call
            && trial.again.is_some_and(|again| again.reached(now))
        {
            self.call = Call::Trial(Trial { again: None, ..trial });
            effects.push(Effect::Probe { number: self.last_number + 1 });
        }
    }

    /// Somebody wants to know now.
    pub(super) fn hurry_trial(&mut self, now: Moment) {
        if let Call::Trial(trial @ Trial { again: Some(_), .. }) = self.call {
            self.call = Call::Trial(Trial { again: Some(now), ..trial });
        }
    }

    /// The source has something else to give: what waits to be tried again is not it.
    pub(super) fn end_stale_trial(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if let Call::Trial(Trial { again: Some(_), .. }) = self.call {
            self.end_trial(now, effects);
        }
    }

    /// Nobody may use what is being tried.
    pub(super) fn end_trial(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if let Call::Trial(_) = self.call {
            self.leave_off();
            self.call_next(self.paced(now));
            effects.push(Effect::Discard);
        }
    }

    pub(super) fn go_live(&mut self, trial: Trial, now: Moment, random: f64, effects: &mut Vec<Effect>) {
        if trial.live.usable_until.reached(now) {
            self.failed(Fault::passing(Reason::Lifetime), trial.started, now, random, effects);
        } else {
            // A roll-back may have taken its number.
            let live = Live { number: self.last_number + 1, ..trial.live };
            self.publish(live, trial.cause, trial.started, now, random, effects);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{START, offer, plan, secs};
    use super::super::{Input, Plan};
    use super::*;

    /// A life whose first generation of `life` seconds has passed its probe.
    fn active(life: u64) -> Lifecycle {
        let mut machine = Lifecycle::new(Plan { is_probed: true, ..plan() }, 0, START);
        assert_eq!(machine.step(Input::Timer, START, 0.0), [Effect::Call]);
        assert_eq!(machine.step(offer(START, life), START, 0.0), [Effect::Probe { number: 1 }]);
        assert_eq!(machine.phase(), Phase::Provisioning, "nobody has it yet");
        let effects = machine.step(Input::Probed(Verdict::Passed), START, 0.0);
        assert!(matches!(effects[..], [Effect::Publish { replaces: None, .. }]), "{effects:?}");
        machine
    }

    /// At the moment of its rotation, with a second generation of `life` seconds that is being tried.
    fn on_trial(life: u64) -> (Lifecycle, Moment) {
        let mut machine = active(life);
        let now = machine.wake_at().expect("wakes");
        assert_eq!(machine.step(Input::Timer, now, 0.0), [Effect::Call]);
        assert_eq!(machine.step(offer(now, life), now, 0.0), [Effect::Probe { number: 2 }]);
        (machine, now)
    }

    fn number(machine: &Lifecycle) -> Option<u64> {
        match machine.phase() {
            Phase::Active(live) => Some(live.number),
            _ => None,
        }
    }

    #[test]
    fn a_generation_that_passes_takes_the_place_of_the_one_before() {
        let (mut machine, now) = on_trial(3600);
        assert_eq!(number(&machine), Some(1));
        let effects = machine.step(Input::Probed(Verdict::Passed), now.after(secs(1)), 0.0);
        assert!(matches!(effects[..], [Effect::Publish { live: Live { number: 2, .. }, replaces: Some(1), .. }]));
    }

    #[test]
    fn a_refused_generation_is_dropped_and_the_one_before_stays_until_another_passes() {
        let (mut machine, now) = on_trial(3600);
        let effects = machine.step(Input::Probed(Verdict::Refused), now, 0.0);
        let [Effect::Failed { fault, retry_at, .. }] = effects[..] else { panic!("{effects:?}") };
        assert_eq!((fault.reason, number(&machine)), (Reason::Probe, Some(1)));
        assert_eq!(machine.step(Input::Timer, retry_at, 0.0), [Effect::Call], "another one is asked for");
        machine.step(offer(retry_at, 3600), retry_at, 0.0);
        machine.step(Input::Probed(Verdict::Passed), retry_at, 0.0);
        assert_eq!(number(&machine), Some(2));
    }

    #[test]
    fn without_an_answer_the_one_before_serves_as_long_as_it_can_and_no_other_is_asked_for() {
        let (mut machine, mut now) = on_trial(3600);
        let Phase::Active(first) = machine.phase() else { panic!("active") };
        let mut probes = 1;
        loop {
            let effects = machine.step(Input::Probed(Verdict::Unanswered), now, 1.0);
            let [Effect::Failed { fault, retry_at, .. }] = effects[..] else {
                assert!(matches!(effects[..], [Effect::Publish { live: Live { number: 2, .. }, .. }]), "{effects:?}");
                break;
            };
            assert_eq!((fault.reason, number(&machine)), (Reason::ProbeUnanswered, Some(1)));
            assert_eq!(machine.wake_at(), Some(retry_at));
            now = retry_at;
            assert_eq!(machine.step(Input::Timer, now, 1.0), [Effect::Probe { number: 2 }]);
            probes += 1;
        }
        assert!(!first.usable_until.reached(now), "there was a token all the time");
        assert!((15..40).contains(&probes), "{probes} probes in a quarter of an hour");
    }

    #[test]
    fn a_first_generation_goes_live_without_an_answer_and_not_against_one() {
        for (verdict, goes_live) in [(Verdict::Unanswered, true), (Verdict::Refused, false)] {
            let mut machine = Lifecycle::new(Plan { is_probed: true, ..plan() }, 0, START);
            machine.step(Input::Timer, START, 0.0);
            machine.step(offer(START, 100), START, 0.0);
            machine.step(Input::Probed(verdict), START, 0.0);
            assert_eq!(number(&machine).is_some(), goes_live, "{verdict:?}");
        }
    }

    #[test]
    fn a_probe_that_is_late_does_not_leave_requests_without_a_token() {
        let (mut machine, _) = on_trial(100);
        let Phase::Active(first) = machine.phase() else { panic!("active") };
        let effects = machine.step(Input::Timer, first.usable_until, 0.0);
        assert!(matches!(effects[..], [Effect::Publish { live: Live { number: 2, .. }, .. }]), "{effects:?}");
        assert_eq!(machine.step(Input::Probed(Verdict::Refused), first.usable_until, 0.0), [], "that is too late");
    }

    #[test]
    fn what_is_being_tried_is_dropped_when_its_token_is_taken_out_of_use() {
        for (input, effect) in [
            (Input::Quarantine, Effect::Quarantine),
            (Input::Revoke, Effect::Revoke),
            (Input::Retire, Effect::Retire { number: 1 }),
        ] {
            let (mut machine, now) = on_trial(3600);
            assert_eq!(machine.step(input, now, 0.0), [Effect::Discard, effect]);
            assert_eq!(machine.step(Input::Probed(Verdict::Passed), now, 0.0), [], "{input:?}");
        }
    }

    #[test]
    fn a_source_that_has_something_else_by_then_is_asked_again() {
        let (mut machine, now) = on_trial(3600);
        machine.step(Input::Probed(Verdict::Unanswered), now, 0.0);
        let now = now.after(secs(2));
        assert_eq!(machine.step(Input::Changed, now, 0.0), [Effect::Discard, Effect::Call]);
        machine.step(offer(now, 3600), now, 0.0);
        machine.step(Input::Probed(Verdict::Passed), now, 0.0);
        assert_eq!(number(&machine), Some(2));
    }

    #[test]
    fn a_rotation_that_is_asked_for_meanwhile_is_the_one_under_way() {
        let (mut machine, now) = on_trial(3600);
        for input in [Input::Rotate, Input::Changed, Input::Rejected { generation: 1 }, Input::Demand] {
            assert_eq!(machine.step(input, now.after(secs(2)), 0.0), [], "{input:?}");
        }
        let (mut machine, now) = on_trial(3600);
        machine.step(Input::Probed(Verdict::Unanswered), now, 0.0);
        assert_eq!(machine.step(Input::Rotate, now, 0.0), [Effect::Probe { number: 2 }], "it is tried again at once");
    }
}
