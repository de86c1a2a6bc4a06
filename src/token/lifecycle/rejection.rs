//! What upstreams that answer 401 may lead to: a 401 is no proof, whoever can provoke one must not drive the issuer.
//!
//! ```text
//!  401 ──▶ the live generation? ──▶ its first? ──▶ a success since the last such refresh? ──▶ refresh, spaced
//! ```
//!
//! Invariant: a 401 provokes at most one refresh per generation, and none after a provoked one until an upstream has
//! accepted what that brought. Provoked refreshes in a row are spaced as failures are.

use crate::backoff::Backoff;
use crate::clock::Moment;

/// What a token's life remembers of rejections.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Rejections {
    /// The live generation was rejected: it has had its refresh, or is to have it.
    live: bool,
    /// No upstream has accepted the token since a rejected generation was replaced.
    unproven: bool,
    /// Provoked refreshes without one in between that was due.
    in_a_row: u32,
    /// When the next may come.
    not_before: Option<Moment>,
}

impl Rejections {
    /// Takes a 401 for the live generation. Returns whether it gets its refresh for that.
    pub(super) fn rejected(&mut self) -> bool {
        let granted = !self.live && !self.unproven;
        self.live |= granted;
        granted
    }

    /// An upstream has accepted the live generation.
    pub(super) fn accepted(&mut self) {
        self.unproven = false;
    }

    /// The live generation is replaced; `provoked` says whether a 401 was the cause.
    pub(super) fn replaced(&mut self, provoked: bool, spacing: Backoff, now: Moment, random: f64) {
        self.unproven |= self.live;
        self.live = false;
        if provoked {
            self.in_a_row = self.in_a_row.saturating_add(1);
            self.not_before = Some(now.after(spacing.delay(self.in_a_row, random)));
        } else {
            self.in_a_row = 0;
            self.not_before = None;
        }
    }

    /// Whether the live generation was rejected: then even one that lives shorter is better.
    pub(super) fn live_is_rejected(&self) -> bool {
        self.live
    }

    /// Whether a 401 means nothing until an upstream has accepted the live generation.
    pub(super) fn unproven(&self) -> bool {
        self.unproven
    }

    pub(super) fn not_before(&self) -> Option<Moment> {
        self.not_before
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{DOWN, START, active, offer, secs};
    use super::super::{Cause, Class, Effect, Fault, Input, Lifecycle, Live, Offer, Phase};
    use super::Moment;

    fn number(machine: &Lifecycle) -> u64 {
        let Phase::Active(live) = machine.phase() else { panic!("active, not {:?}", machine.phase()) };
        live.number
    }

    /// Rejects the live generation and returns whether the issuer is asked at once.
    fn reject(machine: &mut Lifecycle, now: Moment) -> bool {
        machine.step(Input::Rejected { generation: number(machine) }, now, 0.0) == [Effect::Call]
    }

    fn answer(machine: &mut Lifecycle, now: Moment) -> Cause {
        match machine.step(offer(now, 3600), now, 0.0)[..] {
            [Effect::Publish { cause, .. }] => cause,
            ref other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_401_brings_a_refresh_and_leaves_the_generation_in_use() {
        let mut machine = active(3600);
        let now = START.after(secs(100));
        assert!(reject(&mut machine, now));
        assert_eq!(number(&machine), 1);
        assert_eq!(answer(&mut machine, now), Cause::Rejected);
        assert_eq!(number(&machine), 2);
    }

    #[test]
    fn a_generation_has_one_refresh_however_many_requests_are_rejected() {
        let mut machine = active(3600);
        let now = START.after(secs(100));
        assert!(reject(&mut machine, now));
        for _ in 0..1000 {
            assert!(!reject(&mut machine, now));
        }
        let same = Offer { expires: Some(START.after(secs(3600))), unchanged: true, void: false, longer: None };
        assert_eq!(machine.step(Input::Answered(Ok(same)), now, 0.0), [Effect::Unchanged]);
        let planned = machine.wake_at();
        assert!(!reject(&mut machine, now.after(secs(10))));
        assert_eq!(machine.wake_at(), planned, "it goes on as if there had been no 401");
    }

    #[test]
    fn an_upstream_that_always_says_401_has_had_its_refresh() {
        let mut machine = active(3600);
        let mut now = START.after(secs(100));
        assert!(reject(&mut machine, now));
        answer(&mut machine, now);
        for _ in 0..5 {
            assert!(!reject(&mut machine, now.after(secs(60))));
            // The next one is replaced because it is due, and nothing has been accepted since.
            now = machine.wake_at().expect("wakes");
            assert_eq!(machine.step(Input::Timer, now, 0.0), [Effect::Call]);
            assert_eq!(answer(&mut machine, now), Cause::Due);
        }
        machine.step(Input::Accepted, now, 0.0);
        assert!(reject(&mut machine, now.after(secs(60))), "an upstream had accepted it");
    }

    #[test]
    fn an_app_that_is_now_accepted_and_now_rejected_has_the_issuer_asked_less_and_less() {
        let mut machine = active(3600);
        let (mut now, mut calls) = (START.after(secs(10)), 0);
        for _ in 0..1800 {
            let generation = number(&machine);
            let inputs = [Input::Accepted, Input::Rejected { generation }];
            let effects: Vec<_> = inputs.into_iter().flat_map(|input| machine.step(input, now, 0.0)).collect();
            if effects == [Effect::Call] {
                calls += 1;
                assert_eq!(answer(&mut machine, now), Cause::Rejected);
            }
            now = now.after(secs(1));
        }
        assert!((40..=46).contains(&calls), "{calls} in half an hour: every 45 s in the end");
    }

    #[test]
    fn a_401_does_not_hurry_an_issuer_that_fails() {
        let mut machine = active(3600);
        let mut now = machine.wake_at().expect("wakes");
        for _ in 0..4 {
            assert_eq!(machine.step(Input::Timer, now, 1.0), [Effect::Call]);
            machine.step(Input::Answered(Err(DOWN)), now, 1.0);
            let planned = machine.wake_at().expect("wakes");
            assert!(!reject(&mut machine, now));
            assert_eq!(machine.wake_at(), Some(planned));
            now = planned;
        }
    }

    #[test]
    fn a_401_waits_for_the_moment_that_the_issuer_named() {
        let mut machine = active(3600);
        let mut now = START.after(secs(100));
        assert!(reject(&mut machine, now));
        let busy = Fault { class: Class::Transient { retry_after: Some(secs(40)) }, ..DOWN };
        machine.step(Input::Answered(Err(busy)), now, 0.0);
        assert!(!machine.expects_answer(now), "nobody should wait for that");
        assert_eq!(machine.wake_at().expect("wakes").boot, now.after(secs(40)).boot);
        now = now.after(secs(40));
        assert_eq!(machine.step(Input::Timer, now, 0.0), [Effect::Call]);
        assert_eq!(answer(&mut machine, now), Cause::Rejected);
    }

    #[test]
    fn the_call_that_is_in_flight_already_is_the_refresh() {
        let mut machine = active(3600);
        let now = machine.wake_at().expect("wakes");
        assert_eq!(machine.step(Input::Timer, now, 0.0), [Effect::Call]);
        assert!(!reject(&mut machine, now));
        assert!(machine.expects_answer(now));
        assert_eq!(answer(&mut machine, now), Cause::Due);
        assert!(!reject(&mut machine, now.after(secs(60))), "no upstream has accepted it yet");
    }

    #[test]
    fn a_401_to_a_generation_that_was_replaced_means_nothing() {
        let mut machine = active(3600);
        let now = machine.wake_at().expect("wakes");
        machine.step(Input::Timer, now, 0.0);
        answer(&mut machine, now);
        let later = now.after(secs(10));
        assert_eq!(machine.step(Input::Rejected { generation: 1 }, later, 0.0), []);
        assert!(!machine.expects_answer(later));
    }

    #[test]
    fn a_rejected_generation_gives_way_to_one_that_lives_shorter() {
        let mut machine = active(3600);
        let now = START.after(secs(100));
        assert!(reject(&mut machine, now));
        let effects = machine.step(offer(now, 300), now, 0.0);
        assert!(matches!(effects[..], [Effect::Publish { live: Live { number: 2, .. }, .. }]), "{effects:?}");
    }
}
