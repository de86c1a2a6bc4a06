//! Rotation with an issuer that makes the one before void as it issues the new one: `mode = "exclusive"`.
//!
//! ```text
//!  due ─▶ hold new requests ─▶ those under way have their answers, or have had time ─▶ call ─▶ swap, or none came ─▶ go on
//!                                                                                       └── late ─▶ go on meanwhile
//! ```
//!
//! Invariant: while the issuer is asked, no request takes the generation, for as long as requests may be held; whatever comes of
//! the call ends that.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::asking::{Answer, Progress};
use super::{Supervisor, Supply};
use crate::token::Carried;
use crate::token::slot::Standing;

/// The longest that requests are held: as long as one waits, if the config does not say otherwise, and as a call takes.
const HELD_WITHIN: Duration = Duration::from_secs(10);

/// The longest part of it that requests under way are waited for. Those that come meanwhile wait as for any generation.
const DRAINED_WITHIN: Duration = Duration::from_secs(5);

/// How often it is looked whether a request carries the generation.
const LOOK: Duration = Duration::from_millis(1);

impl Supervisor {
    /// Asks the issuer when nobody uses what it is going to make void.
    pub(super) async fn obtain_alone(&self, supply: &Arc<Supply>, progress: &Progress) -> Answer {
        let Some(live) = self.slot.live() else { return supply.obtain(progress).await };
        let (generation, carried) = (live.number, Carried::new(&live));
        drop(live);
        let held_at = self.parts.clock.now();
        let held = || self.parts.clock.now().boot.saturating_sub(held_at.boot);
        self.slot.stand(Standing::Held);
        while carried.is_in_use() {
            if held() >= DRAINED_WITHIN {
                tracing::warn!(token = %self.settings.name, generation, "requests still wait for answers while the token is rotated");
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        let mut asking = pin!(supply.obtain(progress));
        let answer = tokio::time::timeout(HELD_WITHIN.saturating_sub(held()), &mut asking).await;
        self.metrics.held(held());
        if let Ok(answer) = answer {
            return answer;
        }
        if progress.is_abandoned() {
            // Whoever holds requests now does so for a call of its own.
            return asking.await;
        }
        // It may make the generation void yet, or may not: the API says.
        tracing::warn!(token = %self.settings.name, generation, "the issuer takes long: requests go on with the generation that it may make void");
        self.slot.let_go();
        asking.await
    }
}
