//! What follows when a token is moved from its source to the next one, or is not.
//!
//! Invariant: what is told of a move is told when it has stood, or has failed; until then there are rotations and roll-backs.

use std::sync::Arc;

use super::{RotateError, Run, Supervisor, Supply, settle};
use crate::audit::Event;
use crate::clock::Moment;
use crate::token::lifecycle::Fault;

/// The reason of a move that upstreams refuse.
const ROLLED_BACK: &str = "rolled_back";

impl Supervisor {
    /// What this one gave is live.
    pub(super) fn use_from_now_on(&self, supply: &Arc<Supply>) {
        if self.supplies.put_in_use(supply) {
            self.metrics.comes_from(supply.source.kind());
        }
    }

    pub(super) fn not_moved(&self, fault: Option<Fault>, attempt: u32, again: Moment, run: &mut Run<'_>, now: Moment) {
        self.discard(run, now);
        let Some(next) = self.supplies.to_move_to() else { return };
        let own = self.supplies.own();
        self.use_from_now_on(own);
        let (reason, said) = match fault {
            Some(fault) => (fault.reason.as_str(), super::worse_words(fault.reason)),
            None => (ROLLED_BACK, "upstreams refuse what it gave"),
        };
        let detail = run.detail.take().unwrap_or_else(|| said.to_owned());
        let (token, source, to) = (self.settings.name.clone(), own.source.kind(), next.source.kind());
        let again_seconds = again.remaining(now).as_secs_f64();
        tracing::warn!(%token, source, to, reason, detail, attempt, again_seconds, "the token is not moved to its next source");
        self.metrics.moved(if fault.is_some() { "failure" } else { ROLLED_BACK });
        self.parts.recorder.note(Event::TokenMoveFailed { token, source, to, reason, detail, attempt });
        settle(run, Err(RotateError::Issuer(reason)));
    }

    pub(super) fn moved(&self, generation: u64) {
        let Some(next) = self.supplies.to_move_to() else { return };
        self.supplies.settle();
        let (token, from, source) = (self.settings.name.clone(), self.supplies.own().source.kind(), next.source.kind());
        tracing::info!(%token, generation, from, source, "the token has moved to its next source");
        self.metrics.moved("success");
        self.parts.recorder.note(Event::TokenMoved { token, generation, from, source });
    }
}
