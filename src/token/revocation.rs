//! Tells issuers that generations are void (RFC 7009), until they confirm it.
//!
//! ```text
//! Revoker::tell ─▶ Telling ─▶ not before ─▶ issuer ─▶ confirmed | refused | it has run out by itself
//!                                              └── no answer: again, with growing delays
//! ```
//!
//! What is told here has been taken out of use already: nothing waits for it.
//!
//! Invariant: a generation that may still be good at its issuer is let go of for four reasons only: the issuer confirms
//! that it is void, refuses to hear of it, the generation runs out, or there are more of them than [`MOST`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounterVec;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::source::{Class, Source};
use crate::audit::{Event, Recorder};
use crate::backoff::Backoff;
use crate::clock::{Clock, Moment};
use crate::metrics::{Error as MetricsError, Metrics as Registry};
use crate::name::TokenName;
use crate::secret::{Fingerprint, Secret};

/// Generations that issuers are told of at a time, at most.
const MOST: usize = 1024;

const AGAIN: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };

/// The longest sleep: a machine that was suspended is noticed within it.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// Why a generation is void.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Somebody revoked its token.
    Revoked,
    /// Another generation has taken its place.
    Replaced,
    /// Its grant has ended.
    Retired,
    /// It came after its token was taken out of use.
    Discarded,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Replaced => "replaced",
            Self::Retired => "retired",
            Self::Discarded => "discarded",
        }
    }
}

/// What came of telling an issuer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// The issuer confirmed it.
    Success,
    /// It did not answer well; it is told again.
    Failure,
    /// It does not want to hear of it.
    Refused,
    /// The generation ran out before the issuer confirmed anything.
    Expired,
    /// There were too many to tell of.
    Dropped,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Dropped => "dropped",
        }
    }
}

/// A generation that its issuer is to be told of.
pub struct Telling {
    pub token: TokenName,
    pub generation: u64,
    pub fingerprint: Fingerprint,
    pub value: Arc<Secret>,
    pub expires: Moment,
    pub source: Arc<dyn Source>,
    pub cause: Cause,
    pub not_before: Moment,
}

/// Takes what is to be told.
#[derive(Clone)]
pub struct Revoker(Arc<Shared>);

struct Shared {
    sender: mpsc::Sender<Telling>,
    hurries: Mutex<HashMap<TokenName, Arc<Notify>>>,
    told: IntCounterVec,
    clock: Arc<dyn Clock>,
    recorder: Recorder,
}

/// What has been taken and is told by [`run`].
pub struct Tellings(mpsc::Receiver<Telling>);

impl Revoker {
    /// # Errors
    /// When the registry has a metric of the same name.
    pub fn new(
        registry: &Registry,
        clock: Arc<dyn Clock>,
        recorder: Recorder,
    ) -> Result<(Self, Tellings), MetricsError> {
        let help = "Generations that issuers were told are void, by cause and outcome.";
        let told = registry.counters("revocations_total", help, &["token", "cause", "outcome"])?;
        let (sender, receiver) = mpsc::channel(MOST);
        let shared = Shared { sender, hurries: Mutex::default(), told, clock, recorder };
        Ok((Self(Arc::new(shared)), Tellings(receiver)))
    }

    /// Has an issuer told. Where there are too many to tell of already, this one is dropped, and said to be.
    pub fn tell(&self, telling: Telling) {
        if let Err(mpsc::error::TrySendError::Full(telling) | mpsc::error::TrySendError::Closed(telling)) =
            self.0.sender.try_send(telling)
        {
            self.0.ended(&telling, Outcome::Dropped, 0);
        }
    }

    /// What waits for its time, of this token, waits no more.
    pub fn hurry(&self, token: &TokenName) {
        if let Some(hurry) = self.0.hurries().get(token) {
            hurry.notify_waiters();
        }
    }

    /// Tells issuers until dropped.
    pub async fn run(self, mut tellings: Tellings) {
        let mut pursued = JoinSet::new();
        loop {
            tokio::select! {
                Some(telling) = tellings.0.recv(), if pursued.len() < MOST => {
                    pursued.spawn(self.0.clone().pursue(telling));
                }
                Some(_) = pursued.join_next() => {}
                else => return,
            }
        }
    }
}

impl Shared {
    fn hurries(&self) -> MutexGuard<'_, HashMap<TokenName, Arc<Notify>>> {
        self.hurries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pursue(self: Arc<Self>, telling: Telling) {
        let hurry = self.hurries().entry(telling.token.clone()).or_default().clone();
        tokio::select! {
            () = self.wait(telling.not_before) => {}
            () = hurry.notified() => {}
        }
        let mut attempts = 0;
        loop {
            if telling.expires.reached(self.clock.now()) {
                return self.ended(&telling, Outcome::Expired, attempts);
            }
            attempts += 1;
            let Err(failure) = telling.source.revoke(&telling.value).await else {
                return self.ended(&telling, Outcome::Success, attempts);
            };
            let delay = AGAIN.delay(attempts, fastrand::f64());
            let delay = match failure.class {
                Class::Refused => return self.ended(&telling, Outcome::Refused, attempts),
                Class::Transient { retry_after } => retry_after.map_or(delay, |told| told.max(delay)),
                Class::Reauthenticate => delay,
            };
            self.count(&telling, Outcome::Failure);
            let (token, reason, detail) = (&telling.token, failure.reason.as_str(), &failure.detail);
            tracing::warn!(%token, reason, detail, attempts, "the issuer did not confirm that a generation is void");
            self.wait(self.clock.now().after(delay)).await;
        }
    }

    async fn wait(&self, until: Moment) {
        loop {
            let left = until.remaining(self.clock.now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
        }
    }

    fn count(&self, telling: &Telling, outcome: Outcome) {
        let labels = [telling.token.as_str(), telling.cause.as_str(), outcome.as_str()];
        self.told.with_label_values(&labels).inc();
    }

    /// The end of a telling, which is one record.
    fn ended(&self, telling: &Telling, outcome: Outcome, attempts: u32) {
        self.count(telling, outcome);
        let Telling { token, generation, fingerprint, cause, .. } = telling;
        let (cause, outcome) = (cause.as_str(), outcome.as_str());
        tracing::info!(%token, generation, %fingerprint, cause, outcome, attempts, "the issuer was told that a generation is void");
        self.recorder.note(Event::GenerationRevoked {
            token: token.clone(),
            generation: *generation,
            fingerprint: *fingerprint,
            cause,
            outcome,
            attempts,
        });
    }
}
