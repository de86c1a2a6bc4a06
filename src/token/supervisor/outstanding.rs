//! Generations that may still be good at their issuer, and how it is told that they are not.
//!
//! Invariant: what is remembered here is told of once, by whoever takes it out: when another has replaced it, or when nobody
//! may use it any more.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Candidate, Run, Supervisor, lock};
use crate::clock::Moment;
use crate::secret::{Fingerprint, Mark, Secret};
use crate::token::revocation::{self, Telling};

/// Revoked values that are remembered, at most.
const MOST_VOID: usize = 64;

/// How long a generation is told of whose issuer does not say when it ends.
const UNSAID: Duration = Duration::from_secs(24 * 3600);

impl Supervisor {
    /// Remembers what is being tried: whoever ends the token's life meanwhile has it voided too.
    pub(super) fn on_trial(&self, number: u64, candidate: &Candidate) {
        let Candidate { mark, fingerprint, expires, .. } = *candidate;
        let expires = expires.unwrap_or_else(|| self.parts.clock.now().after(UNSAID));
        let value = self.source.revokes().then(|| candidate.secret.clone());
        let mut issued = lock(&self.issued);
        if !issued.iter().any(|known| known.mark == mark) {
            issued.push(Outstanding { number, mark, value, fingerprint, expires });
        }
    }

    /// Keeps what the issuer can be told of later, and has the generations before it voided when their use has ended.
    pub(super) fn outstanding(&self, new: Outstanding, now: Moment) {
        let mark = new.mark;
        let replaced = std::mem::replace(&mut *lock(&self.issued), vec![new]);
        let not_before = now.after(self.settings.rotation.overlap);
        for old in replaced.into_iter().filter(|old| old.mark != mark && !old.expires.reached(now)) {
            self.tell(old, revocation::Cause::Replaced, not_before);
        }
    }

    /// Voids every generation that has not run out.
    pub(in crate::token) fn void_all(&self, cause: revocation::Cause) {
        let now = self.parts.clock.now();
        let not_before = match cause {
            revocation::Cause::Replaced => now.after(self.settings.rotation.overlap),
            revocation::Cause::Revoked | revocation::Cause::Retired | revocation::Cause::Discarded => {
                self.parts.revoker.hurry(&self.settings.name);
                now
            }
        };
        for outstanding in std::mem::take(&mut *lock(&self.issued)) {
            if cause == revocation::Cause::Revoked {
                let mut void = lock(&self.void);
                void.push(outstanding.mark);
                let surplus = void.len().saturating_sub(MOST_VOID);
                void.drain(..surplus);
            }
            if !outstanding.expires.reached(now) {
                self.tell(outstanding, cause, not_before);
            }
        }
    }

    /// What came after the token was taken out of use, or what its API refuses: nobody ever has that generation.
    pub(super) fn discard(&self, run: &mut Run<'_>, now: Moment) {
        run.probing = None;
        let Some(Candidate { secret, mark, fingerprint, expires, .. }) = run.candidate.take() else { return };
        lock(&self.issued).retain(|known| known.mark != mark);
        // What is only found somewhere is not new.
        if !self.source.revokes() || *lock(&self.last_mark) == Some(mark) {
            return;
        }
        let expires = expires.unwrap_or_else(|| now.after(UNSAID));
        let number = self.last_number.load(Ordering::Relaxed) + 1;
        let value = Some(secret);
        self.tell(Outstanding { number, mark, value, fingerprint, expires }, revocation::Cause::Discarded, now);
    }

    fn tell(&self, outstanding: Outstanding, cause: revocation::Cause, not_before: Moment) {
        let Outstanding { number, value: Some(value), fingerprint, expires, .. } = outstanding else { return };
        self.parts.revoker.tell(Telling {
            token: self.settings.name.clone(),
            generation: number,
            fingerprint,
            value,
            expires,
            source: self.source.clone(),
            source_reference: self.parts.source_reference.clone(),
            cause,
            not_before,
            is_kept: false,
        });
    }
}

/// A generation that may still be good at its issuer.
pub(in crate::token) struct Outstanding {
    number: u64,
    mark: Mark,
    /// Where the issuer can be told of it.
    value: Option<Arc<Secret>>,
    fingerprint: Fingerprint,
    expires: Moment,
}

impl Outstanding {
    /// `value`: where the issuer can be told of it.
    pub(super) fn new(
        number: u64,
        mark: Mark,
        fingerprint: Fingerprint,
        expires: Moment,
        value: Option<Arc<Secret>>,
    ) -> Self {
        Self { number, mark, value, fingerprint, expires }
    }
}
