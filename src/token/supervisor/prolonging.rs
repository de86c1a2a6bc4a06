//! What follows when an issuer renews the live generation.

use super::{Run, Supervisor};
use crate::audit::Event;
use crate::clock::Moment;
use crate::token::lifecycle::{Input, Live};

impl Supervisor {
    pub(super) fn prolonged<'a>(&'a self, live: Live, run: &mut Run<'a>, now: Moment) {
        let (token, generation) = (self.settings.name.clone(), live.number);
        self.slot.prolong(live.expires, live.usable_until);
        self.slot.settle();
        self.last_ends(live.expires);
        self.metrics.live(live.number, live.issued, live.expires);
        let expires = live.expires.to_rfc3339();
        tracing::debug!(%token, generation, expires, "the issuer renewed the live generation");
        self.parts.recorder.note(Event::TokenProlonged { token, generation, expires: live.expires.wall });
        // Whoever wanted another one while it was renewed still does.
        if !run.rotating.is_empty() {
            for effect in run.life.step(Input::Rotate, now, fastrand::f64()) {
                self.carry_out(effect, run, now);
            }
        }
    }
}
