//! A life that goes on with what was live before a restart.
//!
//! Invariant: it ends no later than it would have, and no later than what is wanted of lives now.

use super::{Call, Lifecycle, Live, Phase, Plan};
use crate::clock::Moment;

/// A generation that was live.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Before {
    pub number: u64,
    pub issued: Moment,
    pub expires: Moment,
}

impl Lifecycle {
    /// With the generation that is live now; `None` where that has no usable life left.
    pub fn resumed(plan: Plan, before: Before, now: Moment, random: f64) -> Option<(Self, Live)> {
        let mut machine = Self::new(plan, before.number, now);
        let Before { number, issued, expires } = before;
        let rotation = plan.rotation;
        let end = expires.earlier(issued.after(rotation.max_life));
        let life = end.wall.saturating_sub(issued.wall);
        let grant = machine.grant_end(now);
        let usable = life - rotation.skew.min(life / 10);
        let usable_until = end.before(life - usable).earlier(grant);
        if usable_until.reached(now) {
            return None;
        }
        let refresh = life.mul_f64((rotation.at - rotation.jitter * random).max(0.05)).min(usable.mul_f64(0.95));
        let live =
            Live { number, issued, expires: end.earlier(grant), usable_until, refresh_at: issued.after(refresh) };
        machine.phase = Phase::Active(live);
        machine.call = Call::Due(live.refresh_at);
        Some((machine, live))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{START, active, plan, secs};
    use super::super::{Effect, Input};
    use super::*;

    fn live(machine: &Lifecycle) -> Live {
        let Phase::Active(live) = machine.phase() else { panic!("active") };
        live
    }

    fn resumed(plan: Plan, number: u64, life: u64, now: Moment) -> Option<(Lifecycle, Live)> {
        let before = Before { number, issued: START, expires: START.after(secs(life)) };
        Lifecycle::resumed(plan, before, now, 0.0)
    }

    #[test]
    fn it_is_what_it_was_and_is_replaced_when_it_would_have_been() {
        let before = active(3600);
        let (mut machine, again) = resumed(plan(), 1, 3600, START.after(secs(600))).expect("good for an hour");
        assert_eq!((again, machine.wake_at()), (live(&before), before.wake_at()));
        assert_eq!(machine.step(Input::Timer, START.after(secs(600)), 0.0), [], "no issuer is asked");
        let due = machine.wake_at().expect("wakes");
        assert_eq!(machine.step(Input::Timer, due, 0.0), [Effect::Call]);
    }

    #[test]
    fn what_is_due_is_asked_for_at_once_while_it_serves() {
        let now = START.after(secs(3000));
        let (mut machine, again) = resumed(plan(), 7, 3600, now).expect("good for ten minutes");
        assert_eq!(machine.step(Input::Timer, now, 0.0), [Effect::Call]);
        assert_eq!((machine.phase(), again.number), (Phase::Active(again), 7));
    }

    #[test]
    fn what_has_run_out_or_is_longer_than_lives_may_be_is_not_taken_up() {
        assert!(resumed(plan(), 1, 100, START.after(secs(95))).is_none(), "within the skew");
        let short = Plan { rotation: crate::token::Rotation { max_life: secs(60), ..plan().rotation }, ..plan() };
        assert!(resumed(short, 1, 3600, START.after(secs(61))).is_none());
        let ended = Plan { grant_ends: START.wall + Duration::from_secs(10), ..plan() };
        assert!(resumed(ended, 1, 3600, START.after(secs(11))).is_none());
    }
}
