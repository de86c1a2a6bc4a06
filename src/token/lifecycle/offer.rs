//! What an issuer gives, judged: how long it may be used, and whether it is better than what is live.
//!
//! Invariant: nothing that is made of an offer outlives the offer, the longest life or the grant.

use std::time::Duration;

use super::{Lifecycle, Live};
use crate::clock::Moment;
use crate::token::Mode;

/// An answer that expires this much sooner than the live generation is a worse token, not a new one.
const ROUNDING: Duration = Duration::from_secs(1);

/// What an issuer's good answer says.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Offer {
    /// `None`: a static value, as good as its grant.
    pub expires: Option<Moment>,
    /// The same bytes as the last generation's: this is no rotation.
    pub unchanged: bool,
    /// The bytes of a generation that was revoked.
    pub void: bool,
    /// It is the generation of this number, whose end its issuer has put off.
    pub longer: Option<u64>,
}

impl Lifecycle {
    /// Whether an offer would be a worse token than the live one, which is good.
    pub(super) fn is_worse(&self, offer: Offer, live: Live, now: Moment) -> bool {
        // What its issuer has made void is no better than anything.
        let live_is_good = !self.rejections.live_is_rejected() && self.plan.rotation.mode == Mode::Overlap;
        live_is_good && worse(self.allowed(offer, now), live.expires, now)
    }

    /// The longest that an offer may be used.
    pub(super) fn allowed(&self, offer: Offer, now: Moment) -> Moment {
        let longest = now.after(self.plan.rotation.max_life);
        offer.expires.map_or_else(|| self.grant_end(now), |expires| expires.earlier(longest))
    }

    /// The generation that an offer makes; `None` when it would have no usable life at all.
    pub(super) fn judge(&self, offer: Offer, now: Moment, random: f64) -> Option<Live> {
        let rotation = self.plan.rotation;
        let grant = self.grant_end(now);
        if offer.expires.is_none() {
            let refresh_at = now.after(self.plan.recheck);
            return Some(Live {
                number: self.last_number + 1,
                issued: now,
                expires: grant,
                usable_until: grant,
                refresh_at,
            });
        }
        let mut end = self.allowed(offer, now);
        if rotation.shorten {
            end = end.earlier(now.after(self.shortening.life(end.remaining(now))));
        }
        let life = end.remaining(now);
        if life.is_zero() {
            return None;
        }
        // The issuer's clock may differ from ours; the grant's end is our own.
        let usable = life - rotation.skew.min(life / 10);
        let (expires, usable_until) = (end.earlier(grant), end.before(life - usable).earlier(grant));
        // In time for another attempt, whatever the config says.
        let refresh = life.mul_f64((rotation.at - rotation.jitter * random).max(0.05)).min(usable.mul_f64(0.95));
        // One that lasts as long as the grant has no use for a successor.
        let refresh_at = if usable_until == grant { grant } else { now.after(refresh) };
        Some(Live { number: self.last_number + 1, issued: now, expires, usable_until, refresh_at })
    }

    /// When to ask again for a value that has not changed: of one that expires, after a third of what it has left.
    pub(super) fn recheck(&self, offer: Offer, live: Live, now: Moment) -> Moment {
        match offer.expires {
            Some(_) => now.after((live.usable_until.remaining(now) / 3).max(self.plan.pace)),
            None => now.after(self.plan.recheck),
        }
    }

    /// The end of the grant as a deadline by the wall clock, seen from `now`.
    pub(super) fn grant_end(&self, now: Moment) -> Moment {
        let left = self.plan.grant_ends.saturating_sub(now.wall);
        Moment { boot: now.boot.saturating_add(left), wall: self.plan.grant_ends }
    }
}

/// By the time that each has left: the wall clock may have been set between the two.
fn worse(new: Moment, live: Moment, now: Moment) -> bool {
    new.remaining(now) + ROUNDING < live.remaining(now)
}
