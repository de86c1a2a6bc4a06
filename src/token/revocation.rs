//! Tells issuers that generations are void (RFC 7009), until they confirm it.
//!
//! ```text
//! Revoker::tell ─▶ Telling ─▶ not before ─▶ issuer ─▶ confirmed | refused | it has run out by itself
//!                                              └── no answer: again, with growing delays
//! ```
//!
//! What is told here has been taken out of use already: nothing waits for it. What is not confirmed yet is sealed on the
//! disk, and told again after a restart; the process does not end before the disk has it.
//!
//! Invariant: a generation that may still be good at its issuer is let go of for four reasons only: the issuer confirms
//! that it is void, refuses to hear of it, the generation runs out, or there are more of them than are kept.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use prometheus::IntCounterVec;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use zeroize::{Zeroize as _, Zeroizing};

use super::Carried;
use super::rest::Rested;
use super::source::{Class, Source};
use crate::audit::{Event, Recorder};
use crate::backoff::Backoff;
use crate::clock::{Clock, Moment};
use crate::metrics::{Error as MetricsError, Metrics as Registry};
use crate::name::TokenName;
use crate::seal::Label;
use crate::secret::{Fingerprint, Fingerprinter, Secret};
use crate::store::{Store, StoreError};
use crate::tasks::{Tasks, Unfinished};

/// What the records of this are called in the store.
const KIND: &str = "revocation";

/// Generations that issuers are told of at a time, at most.
const MOST: usize = 1024;

const AGAIN: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };

/// The longest sleep: a machine that was suspended is noticed within it.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// The longest that requests which still carry a generation keep its issuer from being told, and how often they are looked at.
const LET_GO_WITHIN: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

/// Why a generation is void.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Somebody revoked its token.
    Revoked,
    /// Another generation has taken its place.
    Replaced,
    /// Upstreams refuse it, and the one before has taken its place again.
    RolledBack,
    /// Its grant has ended.
    Retired,
    /// It never went live.
    Discarded,
}

impl Cause {
    const ALL: [Self; 5] = [Self::Revoked, Self::Replaced, Self::RolledBack, Self::Retired, Self::Discarded];

    fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Replaced => "replaced",
            Self::RolledBack => "rolled_back",
            Self::Retired => "retired",
            Self::Discarded => "discarded",
        }
    }
}

/// What came of telling an issuer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
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
    /// What the config says of that source, hashed: whoever another source leads to learns nothing of this.
    pub source_reference: String,
    pub cause: Cause,
    pub not_before: Moment,
    /// Requests that carry it, which are waited for, bounded.
    pub carried: Option<Carried>,
    pub hold: Hold,
    /// Whether it lies on the disk already.
    pub is_kept: bool,
}

impl Telling {
    /// By the fingerprint: generations are counted anew after a restart.
    fn record(&self) -> String {
        record(&self.token, self.fingerprint)
    }
}

fn record(token: &TokenName, fingerprint: Fingerprint) -> String {
    format!("{token}-{fingerprint}")
}

/// Whether an issuer is told yet: until then, what it is to be told can be taken back.
#[derive(Clone, Default)]
pub struct Hold(Arc<AtomicU8>);

impl Hold {
    const WAITS: u8 = 0;
    const TOLD: u8 = 1;
    const TAKEN_BACK: u8 = 2;

    /// From now on it cannot be taken back. Returns whether it has been before.
    fn begin(&self) -> bool {
        self.0.swap(Self::TOLD, Ordering::AcqRel) == Self::TAKEN_BACK
    }

    /// The generation stays good. Returns whether that is so: its issuer may have been told already.
    pub fn take_back(&self) -> bool {
        self.0.compare_exchange(Self::WAITS, Self::TAKEN_BACK, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// What lies on the disk of one.
#[derive(Serialize, Deserialize)]
struct Kept {
    token: String,
    generation: u64,
    /// Wiped with this.
    value: String,
    /// Milliseconds since the Unix epoch.
    expires: u64,
    cause: String,
    source: String,
}

impl Kept {
    /// The content of a record; `None` of what is no text.
    fn sealable(
        token: &TokenName,
        generation: u64,
        value: &Secret,
        expires: Duration,
        cause: Cause,
        source: &str,
    ) -> Option<Zeroizing<Vec<u8>>> {
        let value = value.expose_to_issuer().ok()?;
        let kept = Self {
            token: token.to_string(),
            generation,
            value: value.to_owned(),
            expires: u64::try_from(expires.as_millis()).unwrap_or(u64::MAX),
            cause: cause.as_str().to_owned(),
            source: source.to_owned(),
        };
        // In one piece from the start: growing would leave copies behind.
        let mut content = Zeroizing::new(Vec::with_capacity(2 * value.len() + 512));
        serde_json::to_writer(&mut *content, &kept).ok().map(|()| content)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

/// Takes what is to be told.
#[derive(Clone)]
pub struct Revoker(Arc<Shared>);

/// Somebody waits for what comes of telling an issuer of one generation.
struct Awaited {
    /// Has it told at once.
    hurry: Arc<Notify>,
    done: oneshot::Sender<Outcome>,
}

struct Shared {
    sender: mpsc::Sender<Taken>,
    hurries: Mutex<HashMap<TokenName, Arc<Notify>>>,
    awaited: Mutex<HashMap<(TokenName, u64), Awaited>>,
    /// What voids the generations that issuers are being told of.
    values: Mutex<Vec<Weak<Secret>>>,
    told: IntCounterVec,
    clock: Arc<dyn Clock>,
    recorder: Recorder,
    store: Arc<Store>,
    tasks: Tasks,
}

struct Taken {
    what: What,
    /// Until the disk has it.
    unfinished: Unfinished,
}

/// What is to be told, or what an issuer may still answer to somebody who is not interested any more.
enum What {
    Known(Box<Telling>),
    Awaited(Pin<Box<dyn Future<Output = Option<Telling>> + Send>>),
}

/// What has been taken and is told by the task.
pub struct Tellings(mpsc::Receiver<Taken>);

impl Revoker {
    /// # Errors
    /// When the registry has a metric of the same name.
    pub fn new(
        registry: &Registry,
        clock: Arc<dyn Clock>,
        recorder: Recorder,
        store: Arc<Store>,
        tasks: Tasks,
    ) -> Result<(Self, Tellings), MetricsError> {
        let help = "Generations that issuers were told are void, by cause and outcome.";
        let told = registry.counters("revocations_total", help, &["token", "cause", "outcome"])?;
        let (sender, receiver) = mpsc::channel(MOST);
        let shared = Shared {
            sender,
            hurries: Mutex::default(),
            awaited: Mutex::default(),
            values: Mutex::default(),
            told,
            clock,
            recorder,
            store,
            tasks,
        };
        Ok((Self(Arc::new(shared)), Tellings(receiver)))
    }

    /// Has an issuer told. Where there are too many to tell of already, this one is dropped, and said to be.
    pub fn tell(&self, telling: Telling) {
        let mut values = self.0.values();
        values.retain(|value| value.strong_count() > 0);
        values.push(Arc::downgrade(&telling.value));
        drop(values);
        let taken = Taken { what: What::Known(Box::new(telling)), unfinished: self.unfinished() };
        let refused = self.0.sender.try_send(taken).map_err(TrySendError::into_inner);
        if let Err(Taken { what: What::Known(telling), .. }) = refused {
            self.0.ended(&telling, Outcome::Dropped, 0);
        }
    }

    /// Has an issuer told of what it may still give. Where there are too many to tell of already, nobody looks at that.
    pub fn tell_later(&self, telling: impl Future<Output = Option<Telling>> + Send + 'static, unfinished: Unfinished) {
        if self.0.sender.try_send(Taken { what: What::Awaited(Box::pin(telling)), unfinished }).is_err() {
            tracing::warn!("an issuer's answer is not waited for: too many are told of void generations");
        }
    }

    /// Of what an issuer may have to be told: the process does not end meanwhile.
    pub fn unfinished(&self) -> Unfinished {
        self.0.tasks.unfinished()
    }

    /// Goes on with what a former run has not had confirmed. `source` says who is to be told of a token that came from the
    /// source that is known by this reference. Where it is not known now, the record stays for a run that knows it. Blocks.
    ///
    /// # Errors
    /// When the folder of the records cannot be read.
    pub fn resume(&self, source: impl Fn(&TokenName, &str) -> Option<Arc<dyn Source>>) -> Result<(), StoreError> {
        let (records, refused) = self.0.store.read(KIND)?;
        for file in refused {
            let (file, reason) = (file.path.display().to_string(), file.why.to_string());
            tracing::error!(
                file,
                reason,
                "an issuer is not told that a generation is void: the record of it is not used"
            );
            self.0.recorder.note(Event::StateRejected { file, reason });
        }
        let now = self.0.clock.now();
        for record in records {
            let Ok(kept) = serde_json::from_slice::<Kept>(&record.content) else { continue };
            // What the issuer is told is not always the token: whose it was stands in the name.
            let fingerprint = record.name.rsplit_once('-').and_then(|(_, hex)| hex.parse().ok());
            let (Ok(token), Some(fingerprint)) = (kept.token.parse::<TokenName>(), fingerprint) else { continue };
            let value = Secret::new(kept.value.as_bytes());
            let expires = Duration::from_millis(kept.expires);
            let Some(source) = source(&token, &kept.source).filter(|source| source.revokes()) else {
                tracing::warn!(%token, generation = kept.generation, "the source that a void generation came from is not there: nobody is told");
                if expires <= now.wall {
                    self.0.store.remove(Label { kind: KIND, name: &record.name })?;
                }
                continue;
            };
            self.tell(Telling {
                fingerprint,
                token,
                generation: kept.generation,
                value: Arc::new(value),
                expires: now.after(expires.saturating_sub(now.wall)),
                source,
                source_reference: kept.source.clone(),
                cause: Cause::ALL.into_iter().find(|cause| cause.as_str() == kept.cause).unwrap_or(Cause::Revoked),
                not_before: now,
                carried: None,
                hold: Hold::default(),
                is_kept: true,
            });
        }
        Ok(())
    }

    /// Writes down that a generation of a former run is void, for [`Revoker::resume`]. Blocks.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn leave_behind(&self, rested: &Rested, cause: Cause, marks: &Fingerprinter) -> Result<(), StoreError> {
        let (token, generation) = (&rested.token, rested.number);
        if !rested.revokes() || rested.good_until() <= self.0.clock.now().wall {
            return Ok(());
        }
        let fingerprint = marks.of(&rested.secret());
        tracing::info!(%token, generation, %fingerprint, cause = cause.as_str(), "a generation from before the restart is not taken up");
        let (value, source) = (rested.void_by(), rested.source());
        let content = Kept::sealable(token, generation, &value, rested.good_until(), cause, source);
        let name = record(token, fingerprint);
        content.map_or(Ok(()), |content| self.0.store.write(Label { kind: KIND, name: &name }, generation, &content))
    }

    /// What voids the generations that issuers are being told of.
    pub(super) fn values(&self) -> Vec<Arc<Secret>> {
        self.0.values().iter().filter_map(Weak::upgrade).collect()
    }

    /// What waits for its time, of this token, waits no more.
    pub fn hurry(&self, token: &TokenName) {
        if let Some(hurry) = self.0.hurries().get(token) {
            hurry.notify_waiters();
        }
    }

    /// What will come of telling the issuer of a generation that is going to be replaced. One waits at a time.
    pub fn expect(&self, token: &TokenName, generation: u64) -> oneshot::Receiver<Outcome> {
        let (done, outcome) = oneshot::channel();
        self.0.awaited().insert((token.clone(), generation), Awaited { hurry: Arc::default(), done });
        outcome
    }

    /// What is [expected](Self::expect) of this generation is told at once.
    pub fn hurry_one(&self, token: &TokenName, generation: u64) {
        if let Some(awaited) = self.0.awaited().get(&(token.clone(), generation)) {
            // Kept until it is heard: the telling may not have come yet.
            awaited.hurry.notify_one();
        }
    }

    /// Nobody waits any more.
    pub fn expect_no_more(&self, token: &TokenName, generation: u64) {
        self.0.awaited().remove(&(token.clone(), generation));
    }

    /// Tells issuers until dropped.
    pub async fn run(self, mut tellings: Tellings) {
        let mut pursued = JoinSet::new();
        loop {
            tokio::select! {
                Some(taken) = tellings.0.recv(), if pursued.len() < MOST => {
                    pursued.spawn(self.0.clone().see_to(taken));
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

    fn awaited(&self) -> MutexGuard<'_, HashMap<(TokenName, u64), Awaited>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn values(&self) -> MutexGuard<'_, Vec<Weak<Secret>>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn see_to(self: Arc<Self>, taken: Taken) {
        let telling = match taken.what {
            What::Known(telling) => Some(*telling),
            What::Awaited(telling) => telling.await,
        };
        let Some(telling) = telling else { return };
        if !telling.is_kept {
            self.keep(&telling).await;
        }
        drop(taken.unfinished);
        self.pursue(telling).await;
    }

    async fn pursue(self: Arc<Self>, telling: Telling) {
        let hurry = self.hurries().entry(telling.token.clone()).or_default().clone();
        let one = (telling.token.clone(), telling.generation);
        let own = self.awaited().get(&one).map(|awaited| awaited.hurry.clone()).unwrap_or_default();
        tokio::select! {
            () = self.wait_for_use(&telling) => {}
            () = hurry.notified() => {}
            () = own.notified() => {}
        }
        if telling.hold.begin() {
            return self.forget(&telling).await;
        }
        let (outcome, attempts) = self.tell(&telling).await;
        self.forget(&telling).await;
        self.ended(&telling, outcome, attempts);
    }

    /// Tells the issuer until there is an outcome.
    async fn tell(&self, telling: &Telling) -> (Outcome, u32) {
        let mut attempts = 0;
        loop {
            if telling.expires.reached(self.clock.now()) {
                return (Outcome::Expired, attempts);
            }
            attempts += 1;
            let Err(failure) = telling.source.revoke(&telling.value).await else {
                return (Outcome::Success, attempts);
            };
            let delay = AGAIN.delay(attempts, fastrand::f64());
            let delay = match failure.class {
                Class::Refused => return (Outcome::Refused, attempts),
                Class::Transient { retry_after } => retry_after.map_or(delay, |told| told.max(delay)),
                Class::Reauthenticate => delay,
            };
            self.count(telling, Outcome::Failure);
            let (token, reason, detail) = (&telling.token, failure.reason.as_str(), &failure.detail);
            tracing::warn!(%token, reason, detail, attempts, "the issuer did not confirm that a generation is void");
            self.wait(self.clock.now().after(delay)).await;
        }
    }

    /// Seals what is to be told. Where that fails, it is told all the same, and not after a restart.
    async fn keep(&self, telling: &Telling) {
        let Telling { token, generation, value, expires, cause, source_reference, .. } = telling;
        let content = Kept::sealable(token, *generation, value, expires.wall, *cause, source_reference);
        let Some(content) = content else { return };
        let (store, name, generation) = (self.store.clone(), telling.record(), telling.generation);
        let writing = move || store.write(Label { kind: KIND, name: &name }, generation, &content);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(writing).await {
            let token = &telling.token;
            tracing::error!(%token, %error, "cannot write down what an issuer is to be told: a restart would forget it");
        }
    }

    async fn forget(&self, telling: &Telling) {
        let (store, name) = (self.store.clone(), telling.record());
        let removing = move || store.remove(Label { kind: KIND, name: &name });
        if let Ok(Err(error)) = tokio::task::spawn_blocking(removing).await {
            tracing::warn!(token = %telling.token, %error, "what an issuer was told is told again after a restart");
        }
    }

    /// Until its time has come and no request carries it any more, or those that do have had time enough.
    async fn wait_for_use(&self, telling: &Telling) {
        self.wait(telling.not_before).await;
        let deadline = telling.not_before.after(LET_GO_WITHIN);
        while telling.carried.as_ref().is_some_and(|carried| !carried.is_let_go())
            && !deadline.reached(self.clock.now())
        {
            tokio::time::sleep(LOOK).await;
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
        let (cause, words) = (cause.as_str(), outcome.as_str());
        tracing::info!(%token, generation, %fingerprint, cause, outcome = words, attempts, "the issuer was told that a generation is void");
        self.recorder.note(Event::GenerationRevoked {
            token: token.clone(),
            generation: *generation,
            fingerprint: *fingerprint,
            cause,
            outcome: words,
            attempts,
        });
        if let Some(awaited) = self.awaited().remove(&(token.clone(), *generation)) {
            // Whoever waited may have gone.
            let _ = awaited.done.send(outcome);
        }
    }
}
