//! Asking the source: for a longer life of the live generation where that may do, and else for another.
//!
//! ```text
//!  due ─▶ prolong ── longer ─────────────────────────────▶ Given::Longer
//!            └────── none to be had ─▶ obtain, or alone ─▶ Given::Anew ─▶ Candidate, judged │ unfit, told void
//! ```
//!
//! Invariant: what an issuer may have given is not lost sight of, whoever does not wait for it any more: it is live, on trial, or
//! void and its issuer told so.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Candidate, Run, Supervisor, lock};
use crate::clock::Moment;
use crate::token::Mode;
use crate::token::revocation::Cause;
use crate::token::source::{Failure, Issued, Reason};

/// Above every source's own time limit: a source that hangs all the same does not stop the token's life.
const CALL_LIMIT: Duration = Duration::from_secs(30);

pub(super) type Answer = Result<Given, Failure>;

pub(super) type Asking = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// What came of asking.
pub(super) enum Given {
    /// The generation of this number ends later now.
    Longer { generation: u64, until: Moment },
    /// Another one.
    Anew(Issued),
}

impl Supervisor {
    /// `obtaining` tells whether a generation is asked for.
    pub(super) async fn ask(self: Arc<Self>, may_prolong: bool, obtaining: Arc<AtomicBool>) -> Answer {
        if may_prolong && let Some(longer) = self.prolong().await? {
            return Ok(longer);
        }
        match self.plan.rotation.mode {
            Mode::Overlap => self.obtain(&obtaining).await,
            Mode::Exclusive => self.obtain_alone(&obtaining).await,
        }
    }

    /// Of the live generation.
    async fn prolong(&self) -> Result<Option<Given>, Failure> {
        let live = self.slot.live().map(|live| live.number);
        let known = lock(&self.issued).iter().find(|known| Some(known.number) == live).cloned();
        let Some(known) = known else { return Ok(None) };
        let until = in_time(self.source.prolong(&known.void_by)).await?;
        Ok(until.map(|until| Given::Longer { generation: known.number, until }))
    }

    pub(super) async fn obtain(&self, obtaining: &AtomicBool) -> Answer {
        obtaining.store(true, Ordering::Relaxed);
        in_time(self.source.obtain()).await.map(Given::Anew)
    }

    /// Nobody waits for the answer any more. What it brings is void.
    pub(super) fn abandon(self: &Arc<Self>, run: &mut Run<'_>) {
        let Some(asking) = run.asking.take() else { return };
        if !run.obtaining.load(Ordering::Relaxed) || !self.source.revokes() {
            return;
        }
        let abandoned = self.clone();
        self.parts.revoker.tell_later(async move {
            let Ok(Given::Anew(issued)) = asking.await else { return None };
            let now = abandoned.parts.clock.now();
            let late = abandoned.given(issued.secret, issued.void_by, issued.expires, now);
            abandoned.is_new(&late).then(|| abandoned.telling(late, Cause::Discarded, now, None))
        });
    }

    /// A value that cannot stand in its placement is no answer, whatever source it came from.
    pub(super) fn candidate(&self, issued: Issued) -> Result<Candidate, Failure> {
        let Issued { secret, expires, assumed, granted, void_by, version } = issued;
        let now = self.parts.clock.now();
        let value = self.settings.placement.carry(&secret);
        let new = self.given(secret, void_by, expires, now);
        match value {
            Ok(value) => Ok(Candidate { new, value, expires, assumed, granted, version }),
            Err(error) => {
                self.tell_unused(new, now);
                Err(Failure::transient(Reason::TokenCharset, error.to_string()))
            }
        }
    }
}

async fn in_time<T>(asking: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = || Failure::transient(Reason::Timeout, format!("no answer within {} s", CALL_LIMIT.as_secs()));
    tokio::time::timeout(CALL_LIMIT, asking).await.unwrap_or_else(|_| Err(late()))
}
