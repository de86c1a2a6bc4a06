//! The generation before the live one takes its place again: upstreams refuse the new one.
//!
//! Invariant: what comes back is good at its issuer, which has not been told otherwise and is not any more; what goes is voided
//! there at once.

use super::{Outstanding, Run, Supervisor, lock};
use crate::audit::Event;
use crate::clock::Moment;
use crate::token::lifecycle::Live;
use crate::token::revocation::{Cause, Hold};

impl Supervisor {
    /// Whether the former generation may come back: nobody has told its issuer that it is void, and nobody will.
    pub(super) fn take_back_former(&self) -> bool {
        lock(&self.former).as_ref().is_some_and(|former| !former.supply.source.revokes() || former.hold.take_back())
    }

    pub(super) fn roll_back(&self, live: Live, replaces: u64, run: &Run<'_>, now: Moment) {
        let Some(former) = lock(&self.former).take() else { return };
        let Ok(value) = self.placed(&former.secret, &former.supply) else { return };
        let (fingerprint, restores) = (former.fingerprint, former.number);
        self.put_in_slot(&live, &former.secret, value, fingerprint, run.life.is_unproven());
        *lock(&self.last_mark) = Some(former.mark);
        self.use_from_now_on(&former.supply);
        let expires = self.good_until(&former.supply, live.expires);
        let restored = Outstanding { number: live.number, expires, hold: Hold::default(), ..former };
        // What is being tried is no part of this.
        let on_trial = run.candidate.as_ref().map(|candidate| candidate.new.mark);
        let refused = lock(&self.issued).extract_if(.., |known| Some(known.mark) != on_trial).collect::<Vec<_>>();
        lock(&self.issued).push(restored);
        for refused in refused {
            self.tell(refused, Cause::RolledBack, now, None);
        }
        self.lay_down();
        let token = self.settings.name.clone();
        tracing::warn!(%token, generation = live.number, replaces, restores, %fingerprint, "upstreams refuse the new generation: the one before is live again");
        self.metrics.live(live.number, live.issued, live.expires);
        self.metrics.rotated("rolled_back");
        self.parts.recorder.note(Event::TokenRolledBack {
            token,
            generation: live.number,
            replaces,
            restores,
            fingerprint,
            expires: live.expires.wall,
        });
    }
}
