//! A longer life of the same generation, where its issuer renews what it has given.

use super::{Cause, Effect, Lifecycle, Live, Offer, Phase};
use crate::clock::Moment;

impl Lifecycle {
    /// Whether the call that is being made may bring a longer life of the live generation, or has to bring another: somebody
    /// wants another, or an upstream has rejected this one.
    pub fn may_prolong(&self) -> bool {
        let is_good = self.cause == Cause::Due && !self.spent && !self.rejections.live_is_rejected();
        is_good && matches!(self.phase, Phase::Active(_))
    }

    /// The live generation, which ends later now; unless it is another one by now, which goes on as it does. Whoever wanted
    /// another one while this one was renewed still does.
    pub(super) fn prolonged(
        &mut self,
        live: Live,
        started: Moment,
        offer: Offer,
        now: Moment,
        random: f64,
    ) -> Option<Effect> {
        self.succeeded();
        let longer = self.longer(live, started, offer, now, random);
        match self.wanted.take() {
            Some(cause) => self.bring_forward(cause, now),
            None if longer.is_none() => return Some(Effect::Unchanged),
            None => {}
        }
        longer.map(|live| Effect::Prolong { live })
    }

    /// It began when it began: `max_life` counts from there.
    fn longer(&mut self, live: Live, started: Moment, offer: Offer, now: Moment, random: f64) -> Option<Live> {
        if offer.longer != Some(live.number) {
            self.call_next(self.paced(live.refresh_at));
            return None;
        }
        let most = live.issued.after(self.plan.rotation.max_life);
        let bounded = Offer { expires: offer.expires.map(|expires| expires.earlier(most)), ..offer };
        let later = |longer: &Live| longer.expires.remaining(now) > live.expires.remaining(now);
        let Some(longer) = self.judge(bounded, now, random).filter(later) else {
            self.spent = true;
            self.call_next(self.paced(now));
            return None;
        };
        let longer = Live { number: live.number, issued: live.issued, ..longer };
        self.phase = Phase::Active(longer);
        self.call_next(longer.refresh_at.later(started.after(self.plan.pace)));
        Some(longer)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{DOWN, START, active, offer, secs};
    use super::super::{Cause, Effect, Input, Lifecycle, Live, Offer, Phase};
    use crate::clock::Moment;

    /// As when an issuer renews what it has given, `life` seconds from `now`.
    fn renewed(now: Moment, life: u64) -> Input {
        renewed_one(1, now, life)
    }

    fn renewed_one(number: u64, now: Moment, life: u64) -> Input {
        let expires = Some(now.after(secs(life)));
        Input::Answered(Ok(Offer { expires, unchanged: true, void: false, longer: Some(number) }))
    }

    fn live(machine: &Lifecycle) -> Live {
        let Phase::Active(live) = machine.phase() else { panic!("active") };
        live
    }

    #[test]
    fn a_renewed_generation_is_the_same_one_and_lasts_longer() {
        let mut machine = active(100);
        let first = live(&machine);
        let now = machine.wake_at().expect("wakes");
        assert_eq!(machine.step(Input::Timer, now, 0.0), [Effect::Call]);
        assert!(machine.may_prolong());
        let effects = machine.step(renewed(now, 100), now, 0.0);
        let second = live(&machine);
        assert_eq!(effects, [Effect::Prolong { live: second }]);
        assert_eq!((second.number, second.issued), (first.number, first.issued));
        assert_eq!(second.expires, now.after(secs(100)));
        assert_eq!(second.usable_until, now.after(secs(90)));
        assert!(machine.wake_at().expect("wakes").remaining(now) > secs(50), "asked again in its own time");
    }

    #[test]
    fn a_401_or_a_wish_for_another_during_a_renewal_has_another_asked_for() {
        for (input, cause) in [(Input::Rejected { generation: 1 }, Cause::Rejected), (Input::Rotate, Cause::Asked)] {
            // Whether the renewal helps or not.
            for life in [100, 1] {
                let mut machine = active(100);
                let now = machine.wake_at().expect("wakes");
                machine.step(Input::Timer, now, 0.0);
                assert_eq!(machine.step(input, now, 0.0), []);
                let now = now.after(secs(2));
                let effects = machine.step(renewed(now, life), now, 0.0);
                assert_eq!(effects.last(), Some(&Effect::Call), "{input:?}");
                assert!(!effects.contains(&Effect::Unchanged) && !machine.may_prolong());
                let effects = machine.step(offer(now, 100), now, 0.0);
                assert!(matches!(effects[..], [Effect::Publish { cause: published, .. }] if published == cause));
            }
        }
    }

    #[test]
    fn a_401_after_a_failure_is_not_forgotten_either() {
        let mut machine = active(1000);
        let now = machine.wake_at().expect("wakes");
        machine.step(Input::Timer, now, 0.0);
        machine.step(Input::Answered(Err(DOWN)), now, 0.0);
        let now = machine.wake_at().expect("wakes");
        assert_eq!(machine.step(Input::Timer, now, 0.0), [Effect::Call]);
        machine.step(Input::Rejected { generation: 1 }, now, 0.0);
        let now = now.after(secs(2));
        assert_eq!(machine.step(renewed(now, 1000), now, 0.0).last(), Some(&Effect::Call));
    }

    #[test]
    fn what_renews_a_generation_that_is_not_live_any_more_changes_nothing() {
        let mut machine = active(1000);
        let now = START.after(secs(10));
        machine.step(Input::Rotate, now, 0.0);
        machine.step(offer(now, 2000), now, 0.0);
        let second = live(&machine);
        let now = machine.wake_at().expect("wakes");
        assert_eq!(machine.step(Input::Timer, now, 0.0), [Effect::Call]);
        assert_eq!(machine.step(renewed_one(1, now, 3000), now, 0.0), [Effect::Unchanged]);
        assert_eq!(live(&machine), second);
    }

    #[test]
    fn renewals_end_with_the_longest_life() {
        let mut machine = active(1000);
        let issued = live(&machine).issued;
        let most = issued.after(secs(3600));
        while live(&machine).expires != most {
            let now = machine.wake_at().expect("wakes");
            machine.step(Input::Timer, now, 0.0);
            assert!(matches!(machine.step(renewed(now, 1000), now, 0.0)[..], [Effect::Prolong { .. }]));
        }
        let now = machine.wake_at().expect("wakes");
        machine.step(Input::Timer, now, 0.0);
        assert_eq!(machine.step(renewed(now, 1000), now, 0.0), [Effect::Unchanged]);
    }

    #[test]
    fn what_brings_no_more_time_changes_nothing() {
        let mut machine = active(100);
        let first = live(&machine);
        let now = machine.wake_at().expect("wakes");
        machine.step(Input::Timer, now, 0.0);
        assert_eq!(machine.step(renewed(now, 20), now, 0.0), [Effect::Unchanged]);
        assert_eq!(live(&machine), first);
        // Its time has come all the same.
        let now = now.after(secs(1));
        assert_eq!(machine.step(Input::Timer, now, 0.0), [Effect::Call]);
        assert!(!machine.may_prolong(), "another one takes its place");
    }

    #[test]
    fn whoever_wants_another_generation_gets_one() {
        let mut machine = active(1000);
        let number = live(&machine).number;
        machine.step(Input::Accepted, START, 0.0);
        for wanted in [Input::Rotate, Input::Changed, Input::Rejected { generation: number }] {
            let mut machine = machine.clone();
            let now = START.after(secs(10));
            assert_eq!(machine.step(wanted, now, 0.0), [Effect::Call], "{wanted:?}");
            assert!(!machine.may_prolong(), "{wanted:?}");
        }
    }

    #[test]
    fn a_renewal_that_fails_is_tried_again_and_takes_nothing() {
        let mut machine = active(100);
        let first = live(&machine);
        let now = machine.wake_at().expect("wakes");
        machine.step(Input::Timer, now, 0.0);
        machine.step(Input::Answered(Err(DOWN)), now, 0.0);
        assert_eq!(live(&machine), first);
        let again = machine.wake_at().expect("wakes");
        assert_eq!(machine.step(Input::Timer, again, 0.0), [Effect::Call]);
        assert!(machine.may_prolong());
    }
}
