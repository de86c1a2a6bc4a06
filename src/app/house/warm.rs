//! What was live before a restart is taken up again by the tokens that it is still for, and void where there is none.

use super::Ground;
use crate::audit::Event;
use crate::store::StoreError;
use crate::token::Prepared;
use crate::token::revocation::{Cause, Revoker};

/// Of a generation that cannot be taken up the issuer is told when tellings are [resumed](Revoker::resume). Blocks.
pub(super) fn take_up(prepared: &mut [Prepared], ground: &Ground, revoker: &Revoker) -> Result<(), StoreError> {
    let (rested, refused) = ground.resting.open()?;
    for file in refused {
        let (file, reason) = (file.path.display().to_string(), file.why.to_string());
        tracing::error!(
            file,
            reason,
            "a generation from before the restart is not used: its issuer is asked for another"
        );
        ground.recorder.note(Event::StateRejected { file, reason });
    }
    for rested in rested {
        let token = rested.token.clone();
        let own = prepared.iter_mut().find(|prepared| prepared.settings().name == token);
        let (left, cause) = match own {
            Some(prepared) => (prepared.take_up(rested), Cause::Replaced),
            None => (Some(rested), Cause::Retired),
        };
        if let Some(left) = left {
            revoker.leave_behind(&left, cause, &ground.fingerprinter)?;
            ground.resting.scrub_left(&token)?;
        }
    }
    Ok(())
}
