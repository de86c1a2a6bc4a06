//! Rotation with an issuer that makes the one before void as it issues the new one: `mode = "exclusive"`.
//!
//! ```text
//!  due ─▶ hold new requests ─▶ those under way have their answers, or have had time ─▶ call ─▶ swap, or none came ─▶ go on
//! ```
//!
//! Invariant: while the issuer is asked, no request takes the generation; whatever comes of the call ends that.

use std::time::Duration;

use super::{Answer, Supervisor};
use crate::token::Carried;
use crate::token::slot::Standing;

/// The longest that requests under way are waited for. Those that come meanwhile wait as for any generation.
const DRAINED_WITHIN: Duration = Duration::from_secs(5);

/// How often it is looked whether a request carries the generation.
const LOOK: Duration = Duration::from_millis(1);

impl Supervisor {
    /// Asks the issuer when nobody uses what it is going to make void.
    pub(super) async fn ask_alone(&self, may_prolong: bool) -> Answer {
        let Some(live) = self.slot.live() else { return self.ask(may_prolong).await };
        let (generation, carried) = (live.number, Carried::new(&live));
        drop(live);
        let held_at = self.parts.clock.now();
        self.slot.stand(Standing::Held);
        while carried.is_in_use() {
            if self.parts.clock.now().boot.saturating_sub(held_at.boot) >= DRAINED_WITHIN {
                tracing::warn!(token = %self.settings.name, generation, "requests still wait for answers while the token is rotated");
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        let answer = self.ask(may_prolong).await;
        self.metrics.held(self.parts.clock.now().boot.saturating_sub(held_at.boot));
        answer
    }
}
