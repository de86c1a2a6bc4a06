//! What follows when an issuer renews the live generation.

use super::{Run, Supervisor};
use crate::audit::Event;
use crate::clock::Moment;
use crate::token::lifecycle::Live;

impl Supervisor {
    pub(super) fn prolonged(&self, live: Live, run: &Run<'_>, now: Moment) {
        let (token, generation) = (self.settings.name.clone(), live.number);
        self.slot.prolong(live.expires, live.usable_until);
        // Whoever wants another one may have asked for it while this one was renewed.
        if !run.life.expects_answer(now) {
            self.slot.settle();
        }
        self.lay_down();
        self.metrics.live(live.number, live.issued, live.expires);
        let expires = live.expires.to_rfc3339();
        tracing::debug!(%token, generation, expires, "the issuer renewed the live generation");
        self.parts.recorder.note(Event::TokenProlonged { token, generation, expires: live.expires.wall });
    }
}
