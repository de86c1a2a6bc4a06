//! Lives that are shorter than they might be, tried step by step while nothing fails: `rotation.shorten`.
//!
//! ```text
//!  three lives without a failure ──▶ a quarter shorter, and so on, down to a sixteenth, or to five minutes
//!  a failure ──▶ two of these steps back, and twice as many good lives before the next one
//! ```
//!
//! Invariant: no life is longer than it would be without, and none that was longer becomes shorter than five minutes. No step is
//! as large as a change of the issuer's own that is worth telling: a factor of two.

use std::time::Duration;

/// So much is left of a life that is made shorter.
const STEP: f64 = 0.75;

const LEAST_SHARE: f64 = 1.0 / 16.0;

const LEAST_LIFE: Duration = Duration::from_secs(300);

/// Lives without a failure before the next step: at first, and at most.
const GOOD: u32 = 3;
const MOST_GOOD: u32 = 48;

/// How short the lives of one token have become.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Shortening {
    /// Of the life that the issuer and `max_life` allow.
    share: f64,
    /// Lives without a failure since the last step.
    good: u32,
    /// So many of them are wanted.
    wanted: u32,
    /// Something has failed in the present life: it counts once.
    failed: bool,
}

impl Default for Shortening {
    fn default() -> Self {
        Self { share: 1.0, good: 0, wanted: GOOD, failed: false }
    }
}

impl Shortening {
    /// How long a generation is used that might be used for so long.
    pub(super) fn life(&self, allowed: Duration) -> Duration {
        allowed.mul_f64(self.share).max(LEAST_LIFE.min(allowed))
    }

    /// A generation was replaced when its time had come.
    pub(super) fn lived(&mut self) {
        if std::mem::take(&mut self.failed) {
            return;
        }
        self.good += 1;
        if self.good >= self.wanted {
            self.good = 0;
            self.share = (self.share * STEP).max(LEAST_SHARE);
        }
    }

    /// A call failed, an upstream said 401, or a generation ran out.
    pub(super) fn failed(&mut self) {
        if !std::mem::replace(&mut self.failed, true) {
            self.good = 0;
            self.wanted = (self.wanted * 2).min(MOST_GOOD);
            self.share = (self.share / STEP / STEP).min(1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{DOWN, START, offer, plan, secs};
    use super::super::{Effect, Input, Lifecycle, Phase, Plan};
    use super::*;
    use crate::clock::Moment;
    use crate::token::Rotation;

    /// A life of generations that their issuer gives for an hour.
    struct Life {
        machine: Lifecycle,
        now: Moment,
    }

    impl Life {
        fn new(rotation: Rotation) -> Self {
            let plan = Plan { rotation, grant_ends: START.wall + secs(86_400 * 365), ..plan() };
            let mut life = Self { machine: Lifecycle::new(plan, 0, START), now: START };
            assert_eq!(life.machine.step(Input::Timer, START, 0.0), [Effect::Call]);
            life
        }

        /// The issuer answers, and the generation is used until its time has come; how long it might have been, in seconds.
        fn live(&mut self) -> u64 {
            let effects = self.machine.step(offer(self.now, 3600), self.now, 0.0);
            assert!(matches!(effects[..], [Effect::Publish { .. }]), "{effects:?}");
            let Phase::Active(live) = self.machine.phase() else { panic!("active") };
            self.now = self.machine.wake_at().expect("wakes");
            assert!(self.machine.step(Input::Timer, self.now, 0.0).contains(&Effect::Call));
            live.expires.remaining(live.issued).as_secs()
        }

        fn fail(&mut self) {
            self.machine.step(Input::Answered(Err(DOWN)), self.now, 0.0);
            self.now = self.machine.wake_at().expect("wakes");
            self.machine.step(Input::Timer, self.now, 0.0);
        }
    }

    fn shortening() -> Rotation {
        Rotation { shorten: true, ..plan().rotation }
    }

    #[test]
    fn lives_become_shorter_while_nothing_fails_and_never_too_short() {
        let mut life = Life::new(shortening());
        let lives: Vec<u64> = (0..40).map(|_| life.live()).collect();
        assert_eq!(lives[..8], [3600, 3600, 3600, 3600, 2700, 2700, 2700, 2025]);
        assert!(lives.is_sorted_by(|before, after| before >= after), "{lives:?}");
        assert_eq!(lives.last(), Some(&300));
    }

    #[test]
    fn without_being_asked_for_lives_stay_as_long_as_they_may_be() {
        let mut life = Life::new(plan().rotation);
        assert!((0..20).all(|_| life.live() == 3600));
    }

    #[test]
    fn a_failure_makes_lives_longer_and_the_next_try_later() {
        let mut life = Life::new(shortening());
        for _ in 0..8 {
            life.live();
        }
        // An outage of several calls is one failure.
        life.fail();
        life.fail();
        assert_eq!(life.live(), 3600);
        let lives: Vec<u64> = (0..7).map(|_| life.live()).collect();
        assert_eq!(lives, [3600, 3600, 3600, 3600, 3600, 3600, 2700]);
    }

    #[test]
    fn a_rejection_makes_lives_longer() {
        let mut life = Life::new(shortening());
        for _ in 0..5 {
            life.live();
        }
        life.machine.step(offer(life.now, 3600), life.now, 0.0);
        let Phase::Active(live) = life.machine.phase() else { panic!("active") };
        let effects = life.machine.step(Input::Rejected { generation: live.number }, life.now, 0.0);
        assert_eq!(effects, [], "the pace holds");
        life.now = life.machine.wake_at().expect("wakes");
        assert_eq!(life.machine.step(Input::Timer, life.now, 0.0), [Effect::Call]);
        assert_eq!(life.live(), 3600);
    }

    /// Who follows lives from outside takes a factor of two for another issuer's word.
    #[test]
    fn no_life_is_twice_or_half_as_long_as_the_one_before() {
        let mut life = Life::new(shortening());
        let mut before = life.live();
        for turn in 0..200 {
            if turn % 11 == 10 {
                life.fail();
            }
            let next = life.live();
            assert!(next < before * 19 / 10 && next > before * 7 / 10, "{before} s, then {next} s");
            before = next;
        }
    }

    /// Replaced early, a generation has more left than its successor is given.
    #[test]
    fn a_shorter_life_is_no_worse_token() {
        let mut life = Life::new(Rotation { at: 0.1, jitter: 0.0, ..shortening() });
        assert!((0..40).map(|_| life.live()).last() == Some(300));
    }

    #[test]
    fn what_lives_for_less_than_five_minutes_stays_as_it_is() {
        let mut shortening = Shortening::default();
        (0..60).for_each(|_| shortening.lived());
        assert_eq!(shortening.life(secs(60)), secs(60));
        assert_eq!(shortening.life(secs(600)), secs(300));
        assert_eq!(shortening.life(secs(16_000)), secs(1000));
    }
}
