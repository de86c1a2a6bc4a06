//! The generation before the live one, as long as it may come back: `rotation.overlap`.
//!
//! Invariant: one comes back at most once, under a new number, while it is usable and its issuer has not been told that it is
//! void; and calls that follow are spaced, so that a rotation that is refused again and again drives no issuer.

use std::time::Duration;

use super::{Call, Cause, Effect, Lifecycle, Live, Phase};
use crate::backoff::Backoff;
use crate::clock::Moment;
use crate::token::Mode;

/// Between a roll-back and the next rotation, and between attempts to move to another source.
pub(super) const SPACING: Backoff = Backoff { first: Duration::from_secs(60), most: Duration::from_secs(3600) };

/// What could come back.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Former {
    live: Live,
    until: Moment,
    /// It is of the source that is being left.
    is_left: bool,
}

impl Lifecycle {
    /// The live generation is about to be replaced.
    pub(super) fn keep_former(&mut self, cause: Cause, now: Moment) {
        // What upstreams reject does not come back; the one before it still may.
        if cause == Cause::Rejected {
            return;
        }
        if self.plan.rotation.mode == Mode::Exclusive {
            // Its issuer has made it void.
            return;
        }
        // What replaced another and was not rolled back has proven itself.
        if self.former.is_some() {
            self.rolled_back = 0;
        }
        let is_left = self.asks_next();
        self.former = match self.phase {
            Phase::Active(live) => Some(Former { live, until: now.after(self.plan.rotation.overlap), is_left }),
            _ => None,
        };
    }

    /// The number of the generation that may come back now.
    pub fn former(&self, now: Moment) -> Option<u64> {
        let Phase::Active(_) = self.phase else { return None };
        let former = self.former?;
        let is_good = !former.until.reached(now) && !former.live.usable_until.reached(now);
        is_good.then_some(former.live.number)
    }

    /// Whether a generation is the live one, and the one before it may come back.
    pub fn may_roll_back(&self, generation: u64, now: Moment) -> bool {
        matches!(self.phase, Phase::Active(live) if live.number == generation) && self.former(now).is_some()
    }

    /// Upstreams refuse the live generation.
    pub(super) fn roll_back(&mut self, generation: u64, now: Moment, random: f64, effects: &mut Vec<Effect>) {
        let (Phase::Active(refused), Some(restores)) = (self.phase, self.former(now)) else { return };
        let Some(Former { live, is_left, .. }) = self.former.take_if(|_| refused.number == generation) else { return };
        self.rolled_back = self.rolled_back.saturating_add(1);
        let wait = SPACING.delay(self.rolled_back, random).min(live.usable_until.remaining(now) / 2);
        let refresh_at = now.after(wait);
        let restored = Live { number: self.last_number + 1, refresh_at, ..live };
        self.last_number = restored.number;
        self.spent = false;
        self.phase = Phase::Active(restored);
        let not_moved = is_left.then(|| self.go_back(None, now, random));
        if is_left {
            // What the next source gives from now on is wanted no more.
            self.stale = matches!(self.call, Call::InFlight { .. });
            self.end_trial(now, effects);
        }
        if let Call::Due(_) = self.call {
            self.call_next(self.paced(refresh_at));
        }
        effects.push(Effect::RollBack { live: restored, replaces: generation, restores });
        effects.extend(not_moved);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{DOWN, START, active, offer, plan, secs};
    use super::super::{Cause, Fault, Input, Plan};
    use super::*;
    use crate::token::probe::Verdict;
    use crate::token::source::Class;

    /// A life whose second generation has just taken the place of the first.
    fn rotated() -> (Lifecycle, Moment) {
        let mut machine = active(3600);
        let now = START.after(secs(100));
        assert_eq!(machine.step(Input::Rotate, now, 0.0), [Effect::Call]);
        machine.step(offer(now, 3600), now, 0.0);
        (machine, now)
    }

    fn roll_back(machine: &mut Lifecycle, generation: u64, now: Moment) -> Option<(u64, u64)> {
        match machine.step(Input::RollBack { generation }, now, 0.0)[..] {
            [] => None,
            [Effect::RollBack { live, replaces, restores }] => {
                assert_eq!((machine.phase(), replaces), (Phase::Active(live), generation));
                Some((live.number, restores))
            }
            ref other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_generation_before_comes_back_under_a_new_number_and_ends_when_it_would_have() {
        let (mut machine, now) = rotated();
        let now = now.after(secs(10));
        assert_eq!(roll_back(&mut machine, 1, now), None, "that one is not live");
        assert_eq!(roll_back(&mut machine, 2, now), Some((3, 1)));
        let Phase::Active(restored) = machine.phase() else { panic!("active") };
        assert_eq!(restored.expires, START.after(secs(3600)));
        assert_eq!(machine.wake_at().map(|wake| wake.boot), Some(now.after(secs(60)).boot), "another one comes later");
        assert_eq!(roll_back(&mut machine, 3, now), None, "it has been back once");
    }

    #[test]
    fn a_roll_back_does_not_bring_the_issuer_a_call_before_it_wants_one() {
        let (mut machine, now) = rotated();
        let now = now.after(secs(1));
        assert_eq!(machine.step(Input::Rotate, now, 0.0), [Effect::Call]);
        let class = Class::Transient { retry_after: Some(secs(300)) };
        machine.step(Input::Answered(Err(Fault { class, ..DOWN })), now, 0.0);
        assert_eq!(roll_back(&mut machine, 2, now.after(secs(1))), Some((3, 1)));
        assert_eq!(machine.wake_at().map(|wake| wake.boot), Some(now.after(secs(300)).boot));
    }

    #[test]
    fn only_the_live_generation_is_rolled_back() {
        let (machine, now) = rotated();
        assert!(machine.may_roll_back(2, now));
        assert!(!machine.may_roll_back(1, now) && !machine.may_roll_back(3, now));
        assert!(!machine.may_roll_back(2, now.after(secs(30))), "the window has passed");
    }

    #[test]
    fn after_the_window_nothing_comes_back() {
        let (mut machine, now) = rotated();
        assert_eq!(machine.former(now.after(secs(29))), Some(1));
        assert_eq!(roll_back(&mut machine, 2, now.after(secs(30))), None);
        let mut machine = active(3600);
        assert_eq!(roll_back(&mut machine, 1, START), None, "there is none before the first");
    }

    #[test]
    fn what_a_401_brought_is_rolled_back_to_the_one_before_the_rejected_one() {
        let (mut machine, now) = rotated();
        let then = now.after(secs(1));
        machine.step(Input::Accepted, then, 0.0);
        assert_eq!(machine.step(Input::Rejected { generation: 2 }, then, 0.0), [Effect::Call]);
        let effects = machine.step(offer(then, 3600), then, 0.0);
        assert!(matches!(effects[..], [Effect::Publish { cause: Cause::Rejected, .. }]), "{effects:?}");
        assert_eq!(roll_back(&mut machine, 3, then), Some((4, 1)));
    }

    #[test]
    fn what_was_taken_out_of_use_does_not_come_back_by_a_roll_back() {
        for input in [Input::Quarantine, Input::Revoke] {
            let (mut machine, now) = rotated();
            machine.step(input, now, 0.0);
            assert_eq!(roll_back(&mut machine, 2, now), None, "{input:?}");
            machine.step(Input::Release, now, 0.0);
            assert_eq!(roll_back(&mut machine, 2, now), None, "nor after the release of {input:?}");
        }
    }

    #[test]
    fn rotations_that_are_rolled_back_again_and_again_become_rare() {
        let mut machine = active(86_400);
        let (mut now, mut calls) = (START, 0);
        while now.boot < START.after(secs(3000)).boot {
            now = machine.wake_at().expect("wakes");
            if machine.step(Input::Timer, now, 0.0).contains(&Effect::Call) {
                calls += 1;
                machine.step(offer(now, 86_400), now, 0.0);
                let Phase::Active(live) = machine.phase() else { panic!("active") };
                assert!(roll_back(&mut machine, live.number, now).is_some());
            }
        }
        assert!((3..=8).contains(&calls), "{calls} in less than an hour");
    }

    #[test]
    fn what_is_being_tried_meanwhile_goes_live_under_a_number_of_its_own() {
        let mut machine = Lifecycle::new(Plan { is_probed: true, ..plan() }, 0, START);
        let mut now = START;
        for _ in 0..2 {
            machine.step(Input::Rotate, now, 0.0);
            machine.step(offer(now, 3600), now, 0.0);
            machine.step(Input::Probed(Verdict::Passed), now, 0.0);
            now = now.after(secs(2));
        }
        assert_eq!(machine.step(Input::Rotate, now, 0.0), [Effect::Call]);
        assert_eq!(machine.step(offer(now, 3600), now, 0.0), [Effect::Probe { number: 3 }]);
        assert_eq!(roll_back(&mut machine, 2, now), Some((3, 1)));
        let effects = machine.step(Input::Probed(Verdict::Passed), now, 0.0);
        assert!(matches!(effects[..], [Effect::Publish { live: Live { number: 4, .. }, replaces: Some(3), .. }]));
    }

    #[test]
    fn a_call_that_is_under_way_goes_on() {
        let (mut machine, now) = rotated();
        let then = now.after(secs(5));
        assert_eq!(machine.step(Input::Rotate, then, 0.0), [Effect::Call]);
        assert_eq!(roll_back(&mut machine, 2, then), Some((3, 1)));
        let effects = machine.step(Input::Answered(Err(DOWN)), then, 0.0);
        assert!(matches!(effects[..], [Effect::Failed { .. }]));
    }
}
