//! Generations that may still be good at their issuer, and how it is told that they are not.
//!
//! Invariant: what is remembered here is told of once, by whoever takes it out: when another has replaced it, or when nobody
//! may use it any more.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Candidate, Run, Supervisor, Supply, lock};
use crate::clock::Moment;
use crate::secret::{Fingerprint, Mark, Secret};
use crate::token::revocation::{self, Hold, Telling};
use crate::token::{Carried, Generation, Mode};

/// Revoked values that are remembered, at most.
const MOST_VOID: usize = 64;

/// How long a generation is told of whose issuer does not say when it ends, or has not said yet.
const UNSAID: Duration = Duration::from_secs(24 * 3600);

/// The same of one that does not end by itself.
const LASTING: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Supervisor {
    /// What an issuer has just given, under the number that it would have.
    pub(super) fn given(
        &self,
        supply: &Arc<Supply>,
        secret: Secret,
        void_by: Option<Secret>,
        expires: Option<Moment>,
    ) -> Outstanding {
        let number = self.last_number.load(Ordering::Relaxed) + 1;
        let (fingerprint, mark) = (self.parts.fingerprinter.of(&secret), self.parts.fingerprinter.mark(&secret));
        let secret = Arc::new(secret);
        let void_by = void_by.map_or_else(|| secret.clone(), Arc::new);
        let expires = expires.map_or_else(|| self.unsaid(supply), |expires| self.good_until(supply, expires));
        let (supply, hold) = (supply.clone(), Hold::default());
        Outstanding { number, mark, secret, void_by, fingerprint, expires, supply, hold }
    }

    /// Remembers what is being tried: whoever ends the token's life meanwhile has it voided too.
    pub(super) fn on_trial(&self, number: u64, new: &Outstanding) {
        let mut issued = lock(&self.issued);
        if !issued.iter().any(|known| known.mark == new.mark) {
            issued.push(Outstanding { number, ..new.clone() });
        }
    }

    /// Remembers what is live, and has the generations before it voided when their use has ended. `replaced` was live; the
    /// one with the number `former` may come back.
    pub(super) fn outstanding(
        &self,
        new: Outstanding,
        replaced: Option<&Arc<Generation>>,
        former: Option<u64>,
        now: Moment,
    ) {
        let (mark, mode) = (new.mark, new.supply.plan.rotation.mode);
        let before = std::mem::replace(&mut *lock(&self.issued), vec![new]);
        let not_before = match mode {
            Mode::Overlap => now.after(self.settings.rotation.overlap),
            // Its issuer should know already.
            Mode::Exclusive => now,
        };
        let mut kept = lock(&self.former);
        kept.take_if(|kept| Some(kept.number) != former);
        for old in before.into_iter().filter(|old| old.mark != mark && !old.expires.reached(now)) {
            let carried = replaced.filter(|replaced| replaced.number == old.number).map(Carried::new);
            if Some(old.number) == former {
                *kept = Some(old.clone());
            }
            self.tell(old, revocation::Cause::Replaced, not_before, carried);
        }
    }

    /// Where nobody says when a generation ends.
    pub(super) fn unsaid(&self, supply: &Supply) -> Moment {
        self.good_until(supply, self.parts.clock.now().after(UNSAID))
    }

    /// Until when a generation is good at its issuer that is used here until it expires.
    pub(super) fn good_until(&self, supply: &Supply, expires: Moment) -> Moment {
        if supply.source.lasts() { self.parts.clock.now().after(LASTING) } else { expires }
    }

    /// At its issuer the generation of this number ends then, as far as is known.
    pub(super) fn ends(&self, number: u64, expires: Moment) {
        if let Some(known) = lock(&self.issued).iter_mut().find(|known| known.number == number) {
            known.expires = expires;
        }
    }

    /// Whether this voids one of them, or one that its issuer is being told of.
    pub(in crate::token) fn has_issued(&self, void_by: &Secret) -> bool {
        let is_it = |known: &Arc<Secret>| known.same_as(void_by);
        lock(&self.issued).iter().any(|known| is_it(&known.void_by)) || self.parts.revoker.values().iter().any(is_it)
    }

    /// Voids every generation that has not run out.
    pub(in crate::token) fn void_all(&self, cause: revocation::Cause) {
        let now = self.parts.clock.now();
        let not_before = match cause {
            revocation::Cause::Replaced => now.after(self.settings.rotation.overlap),
            revocation::Cause::Revoked
            | revocation::Cause::RolledBack
            | revocation::Cause::Retired
            | revocation::Cause::Discarded => {
                self.parts.revoker.hurry(&self.settings.name);
                now
            }
        };
        self.supplies.scrub();
        lock(&self.warm).take();
        lock(&self.former).take();
        for outstanding in std::mem::take(&mut *lock(&self.issued)) {
            if cause == revocation::Cause::Revoked {
                let mut void = lock(&self.void);
                void.push(outstanding.mark);
                let surplus = void.len().saturating_sub(MOST_VOID);
                void.drain(..surplus);
            }
            if !outstanding.expires.reached(now) {
                self.tell(outstanding, cause, not_before, None);
            }
        }
    }

    /// What came after the token was taken out of use, what its API refuses, what is worse than what is live: nobody ever has
    /// that generation.
    pub(super) fn discard(&self, run: &mut Run<'_>, now: Moment) {
        run.probing = None;
        if let Some(Candidate { new, .. }) = run.candidate.take() {
            self.tell_unused(new, now);
        }
    }

    /// Nobody ever has it.
    pub(super) fn tell_unused(&self, new: Outstanding, now: Moment) {
        if self.is_new(&new) {
            lock(&self.issued).retain(|known| known.mark != new.mark);
            self.tell(new, revocation::Cause::Discarded, now, None);
        }
    }

    /// Whether it is not the last generation, and none that was revoked: those have been told of, or will be.
    pub(super) fn is_new(&self, given: &Outstanding) -> bool {
        *lock(&self.last_mark) != Some(given.mark) && !lock(&self.void).contains(&given.mark)
    }

    pub(super) fn tell(
        &self,
        outstanding: Outstanding,
        cause: revocation::Cause,
        not_before: Moment,
        carried: Option<Carried>,
    ) {
        if outstanding.supply.source.revokes() {
            self.parts.revoker.tell(self.telling(outstanding, cause, not_before, carried));
        }
    }

    pub(super) fn telling(
        &self,
        outstanding: Outstanding,
        cause: revocation::Cause,
        not_before: Moment,
        carried: Option<Carried>,
    ) -> Telling {
        let Outstanding { number, void_by, fingerprint, expires, supply, hold, .. } = outstanding;
        Telling {
            token: self.settings.name.clone(),
            generation: number,
            fingerprint,
            value: void_by,
            expires,
            source: supply.source.clone(),
            source_reference: supply.reference.clone(),
            cause,
            not_before,
            carried,
            hold,
            is_kept: false,
        }
    }
}

/// A generation that may still be good at its issuer.
#[derive(Clone)]
pub(in crate::token) struct Outstanding {
    pub(super) number: u64,
    pub(super) mark: Mark,
    pub(super) secret: Arc<Secret>,
    /// What its issuer is told when it is void.
    pub(super) void_by: Arc<Secret>,
    pub(super) fingerprint: Fingerprint,
    pub(super) expires: Moment,
    /// Who gave it, and is told.
    pub(super) supply: Arc<Supply>,
    /// Of what its issuer is to be told.
    pub(super) hold: Hold,
}
