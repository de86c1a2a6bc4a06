//! What was live before a restart, and what is to be found after the next one.
//!
//! Invariant: what is taken up is remembered as good at its issuer from that moment on, whether it goes live or not.

use std::sync::atomic::Ordering;

use super::{Outstanding, Supervisor, Supply, lock};
use crate::audit::Event;
use crate::clock::Moment;
use crate::token::lifecycle::{Before, Lifecycle};
use crate::token::placement::Placed;
use crate::token::rest::{Laid, Rested};
use crate::token::revocation;

/// What waits for its life to begin.
pub(in crate::token) struct Warm {
    before: Before,
    value: Placed,
    known: Outstanding,
}

impl Supervisor {
    /// Goes on with what was live before a restart. What may not be used is given back.
    pub(in crate::token) fn take_up(&self, rested: Rested) -> Option<Rested> {
        let (now, supply) = (self.parts.clock.now(), self.supplies.in_use());
        let (secret, key) = (rested.secret(), rested.key());
        let value = key.ok().and_then(|key| self.settings.placement.bind(&secret, key).ok());
        let Some((value, (issued, expires))) = value.zip(supply.rest.times(&rested, now)) else {
            return Some(rested);
        };
        let before = Before { number: rested.number, issued, expires };
        let is_good = Lifecycle::resumed(supply.plan, before, now, 0.0).is_some();
        let may_be_used = lock(&self.restraint).is_none() && supply.source.outlives_us();
        if !is_good || !may_be_used || !supply.rest.take_over(&rested) {
            return Some(rested);
        }
        if let Some(key) = value.bound().map(|bound| bound.key().clone()) {
            supply.source.go_on_with(key);
        }
        *lock(&self.granted) = rested.granted().map(Into::into);
        self.last_number.store(rested.number.saturating_sub(1), Ordering::Relaxed);
        let known = self.given(&supply, secret, Some(rested.void_by()), Some(expires));
        self.last_number.store(rested.number, Ordering::Relaxed);
        lock(&self.issued).push(known.clone());
        *lock(&self.warm) = Some(Warm { before, value, known });
        None
    }

    /// The life that goes on with it, now that it may.
    pub(super) fn resumed(&self, now: Moment) -> Option<Lifecycle> {
        let Warm { before, value, known } = lock(&self.warm).take()?;
        let (life, live) = Lifecycle::resumed(known.supply.plan, before, now, fastrand::f64())?;
        self.put_in_slot(&live, &known.secret, value, known.fingerprint, false);
        *lock(&self.last_mark) = Some(known.mark);
        self.metrics.live(live.number, live.issued, live.expires);
        let (token, fingerprint) = (self.settings.name.clone(), known.fingerprint);
        tracing::info!(%token, generation = live.number, %fingerprint, expires = live.expires.to_rfc3339(), "the generation from before the restart is live");
        self.parts.recorder.note(Event::TokenResumed {
            token,
            generation: live.number,
            fingerprint,
            expires: live.expires.wall,
        });
        Some(life)
    }

    /// What was taken up may not be used after all.
    pub(in crate::token) fn leave_cold(&self) {
        if lock(&self.warm).is_some() {
            self.void_all(revocation::Cause::Retired);
        }
    }

    /// Has the live generation rest, if a restart may find it: what nobody says the end of is looked for anew.
    pub(super) fn lay_down(&self) {
        let Some(live) = self.slot.live() else { return };
        let known = lock(&self.issued).iter().find(|known| known.number == live.number).cloned();
        let may_rest = |known: &Outstanding| {
            let Supply { source, rest, plan, .. } = &*known.supply;
            rest.is_on() && source.outlives_us() && live.expires.wall < plan.grant_ends
        };
        let Some(known) = known.filter(may_rest) else { return self.supplies.scrub() };
        let granted = lock(&self.granted).clone();
        let key = live.value.bound().map(|bound| &**bound.key());
        known.supply.rest.put(&Laid {
            number: live.number,
            secret: &known.secret,
            void_by: &known.void_by,
            issued: live.issued,
            expires: live.expires,
            good_until: known.expires,
            granted: granted.as_deref(),
            revokes: known.supply.source.revokes(),
            key,
        });
    }
}
