//! A token that somebody took out of use, until somebody lets it in again.

use std::sync::atomic::Ordering;

use super::{Order, RotateError, Run, Supervisor, lock, settle};
use crate::audit::Event;
use crate::token::lifecycle::Restraint;
use crate::token::slot::Standing;

impl Supervisor {
    /// From here on no reader of the slot gets a generation.
    pub(super) fn restrained(&self, restraint: Restraint, run: &mut Run<'_>) {
        self.slot.withdraw(Some(Standing::Restrained(restraint)));
        settle(run, Err(RotateError::Restrained));
        self.note_restraint(restraint, run.order.take().unwrap_or_default());
    }

    /// What a run begins under from now on.
    pub(in crate::token) fn note_restraint(&self, restraint: Restraint, order: Order) {
        let Order { by, reason, since } = order;
        let mut noted = lock(&self.restraint);
        // A quarantine takes nothing from a revocation.
        if matches!(*noted, Some(before) if before == restraint || before == Restraint::Revoked) {
            return;
        }
        *noted = Some(restraint);
        drop(noted);
        let token = self.settings.name.clone();
        let generation = self.last_number.load(Ordering::Relaxed);
        tracing::warn!(%token, generation, by, reason, how = restraint.as_str(), "taken out of use");
        self.parts.recorder.note(match restraint {
            Restraint::Quarantined => Event::TokenQuarantined { token, generation, by, reason, since },
            Restraint::Revoked => Event::TokenRevoked { token, generation, by, reason, since },
        });
    }

    /// `None` where there was none.
    pub(in crate::token) fn forget_restraint(&self) -> Option<()> {
        lock(&self.restraint).take().map(drop)
    }
}
