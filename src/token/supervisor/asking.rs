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
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::{Candidate, Run, Supervisor, Supply, lock};
use crate::clock::Moment;
use crate::secret::Secret;
use crate::tasks::Unfinished;
use crate::token::Mode;
use crate::token::placement::{Placed, Unfit};
use crate::token::revocation::Cause;
use crate::token::source::{Failure, Issued, Reason};

/// Above every source's own time limit: a source that hangs all the same does not stop the token's life.
const CALL_LIMIT: Duration = Duration::from_secs(30);

pub(super) type Answer = Result<Given, Failure>;

/// What came of asking.
pub(super) enum Given {
    /// The generation of this number ends later now.
    Longer { generation: u64, until: Moment },
    /// Another one.
    Anew(Issued, Arc<Supply>),
}

/// How far asking is, and whether anybody still wants to know.
#[derive(Default)]
pub(super) struct Progress {
    /// A generation is being asked for: the issuer may have made one.
    obtaining: AtomicBool,
    abandoned: AtomicBool,
}

impl Progress {
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }
}

/// The call that is under way. Whoever drops it does not wait for its answer any more: what that brings is void.
pub(super) struct Asking {
    supervisor: Arc<Supervisor>,
    supply: Arc<Supply>,
    progress: Arc<Progress>,
    call: Option<Pin<Box<dyn Future<Output = Answer> + Send>>>,
    /// Where an answer that nobody waits for has to be looked at.
    unfinished: Option<Unfinished>,
}

impl Asking {
    pub(super) fn begin(supervisor: &Arc<Supervisor>, supply: Arc<Supply>, may_prolong: bool) -> Self {
        let progress = Arc::<Progress>::default();
        let call = supervisor.clone().ask(supply.clone(), may_prolong, progress.clone());
        let unfinished = supply.source.revokes().then(|| supervisor.parts.revoker.unfinished());
        Self { supervisor: supervisor.clone(), supply, progress, call: Some(Box::pin(call)), unfinished }
    }
}

impl Future for Asking {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let Some(call) = &mut self.call else { return Poll::Pending };
        let answer = ready!(call.as_mut().poll(context));
        self.call = None;
        Poll::Ready(answer)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let (Some(call), Some(unfinished)) = (self.call.take(), self.unfinished.take()) else { return };
        if !self.progress.obtaining.load(Ordering::Relaxed) {
            return;
        }
        self.progress.abandoned.store(true, Ordering::Relaxed);
        let (abandoned, supply) = (self.supervisor.clone(), self.supply.clone());
        tracing::info!(token = %abandoned.settings.name, "nobody waits for the issuer's answer any more: what it brings is void");
        let late = async move {
            let Ok(Given::Anew(issued, _)) = call.await else { return None };
            let now = abandoned.parts.clock.now();
            let late = abandoned.given(&supply, issued.secret, issued.void_by, issued.expires);
            abandoned.is_new(&late).then(|| abandoned.telling(late, Cause::Discarded, now, None))
        };
        self.supervisor.parts.revoker.tell_later(late, unfinished);
    }
}

impl Supervisor {
    async fn ask(self: Arc<Self>, supply: Arc<Supply>, may_prolong: bool, progress: Arc<Progress>) -> Answer {
        if may_prolong && let Some(longer) = self.prolong().await? {
            return Ok(longer);
        }
        match supply.plan.rotation.mode {
            Mode::Overlap => supply.obtain(&progress).await,
            Mode::Exclusive => self.obtain_alone(&supply, &progress).await,
        }
    }

    /// Of the live generation.
    async fn prolong(&self) -> Result<Option<Given>, Failure> {
        let live = self.slot.live().map(|live| live.number);
        let known = lock(&self.issued).iter().find(|known| Some(known.number) == live).cloned();
        let Some(known) = known else { return Ok(None) };
        // Until there is an answer its issuer may take it for as long as it likes: whoever voids it meanwhile has to know.
        self.ends(known.number, self.unsaid(&known.supply).later(known.expires));
        let until = in_time(known.supply.source.prolong(&known.void_by)).await?;
        self.ends(known.number, until.unwrap_or(known.expires));
        Ok(until.map(|until| Given::Longer { generation: known.number, until }))
    }

    /// Nobody waits for an answer any more, and nobody uses what has come.
    pub(super) fn abandon(&self, run: &mut Run<'_>) {
        run.asking = None;
        self.discard(run, self.parts.clock.now());
    }

    /// As it stands in its placement, bound to the key that its source has, if it has one.
    pub(super) fn placed(&self, secret: &Secret, supply: &Supply) -> Result<Placed, Unfit> {
        self.settings.placement.bind(secret, supply.source.proof_key())
    }

    /// A value that cannot stand in its placement is no answer, whatever source it came from.
    pub(super) fn candidate(&self, issued: Issued, supply: Arc<Supply>) -> Result<Candidate, Failure> {
        let Issued { secret, expires, assumed, granted, void_by, version } = issued;
        let now = self.parts.clock.now();
        let value = self.placed(&secret, &supply);
        let new = self.given(&supply, secret, void_by, expires);
        match value {
            Ok(value) => Ok(Candidate { new, value, expires, assumed, granted, version }),
            Err(error) => {
                self.tell_unused(new, now);
                Err(Failure::transient(Reason::TokenCharset, error.to_string()))
            }
        }
    }
}

impl Supply {
    pub(super) async fn obtain(self: &Arc<Self>, progress: &Progress) -> Answer {
        progress.obtaining.store(true, Ordering::Relaxed);
        in_time(self.source.obtain()).await.map(|issued| Given::Anew(issued, self.clone()))
    }
}

async fn in_time<T>(asking: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = || Failure::transient(Reason::Timeout, format!("no answer within {} s", CALL_LIMIT.as_secs()));
    tokio::time::timeout(CALL_LIMIT, asking).await.unwrap_or_else(|_| Err(late()))
}
