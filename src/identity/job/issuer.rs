//! An issuer of jobs' tokens: asked for its keys where they are needed, as OpenID Connect Discovery has it.
//!
//! ```text
//!  /.well-known/openid-configuration ─▶ issuer (ours), jwks_uri ─▶ keys
//! ```
//!
//! Invariants: one call at a time; after an answer the next is 10 seconds away, whatever tokens are shown meanwhile; keys that
//! are older than ten minutes verify nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::timeout;

use super::keys::Keys;
use super::token::Token;
use super::{IssuerSettings, Refused};
use crate::clock::{Clock, Moment};
use crate::discovery::{self, Documents, Purpose, Standard};
use crate::fetch::{Fetcher, Remote, RemoteError};

/// How long keys verify what is new.
const LAST: Duration = Duration::from_secs(600);

/// When keys are fetched anew that are in use: a key that was taken back is noticed by then.
const REFRESH: Duration = Duration::from_secs(300);

/// From an answer to the next call.
const AFTER_ANSWER: Duration = Duration::from_secs(10);

/// From a call that failed to the next.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

pub struct Issuer {
    documents: Documents,
    state: ArcSwap<State>,
    /// Told when it was asked.
    news: watch::Sender<()>,
    /// It is being asked, or about to be.
    is_asked: AtomicBool,
    /// The second, since boot, from which on its keys had better be fetched anew.
    stale_at: AtomicU64,
}

#[derive(Default)]
struct State {
    keys: Option<Arc<Keys>>,
    /// Before which it is not asked.
    not_before: Option<Moment>,
}

impl Issuer {
    /// # Errors
    /// When it cannot be called at all.
    pub fn new(settings: &IssuerSettings) -> Result<Self, RemoteError> {
        Ok(Self {
            documents: Documents::new(settings, &[Standard::OpenId])?,
            state: ArcSwap::default(),
            news: watch::Sender::new(()),
            is_asked: AtomicBool::new(false),
            stale_at: AtomicU64::new(u64::MAX),
        })
    }

    pub fn settings(&self) -> &IssuerSettings {
        self.documents.settings()
    }

    pub fn name(&self) -> &str {
        &self.settings().name
    }

    pub fn is_stale(&self, now: Moment) -> bool {
        now.boot.as_secs() >= self.stale_at.load(Ordering::Relaxed)
    }

    /// Whether this is none of its keys any more.
    pub fn has_taken_back(&self, key: &str) -> bool {
        self.state.load().keys.as_ref().is_some_and(|keys| !keys.has(key))
    }

    /// Whether it is to be asked now: not when it is already.
    pub fn is_to_be_asked(&self) -> bool {
        !self.is_asked.swap(true, Ordering::AcqRel)
    }

    pub fn is_not_asked(&self) {
        self.is_asked.store(false, Ordering::Release);
    }

    /// Judges a token. Where the keys do not do, `ask` has them fetched, and it is judged once more.
    ///
    /// # Errors
    /// When it is not good.
    pub async fn judge(
        &self,
        token: &Token<'_>,
        clock: &dyn Clock,
        patience: Duration,
        ask: impl FnOnce(),
    ) -> Result<(Arc<str>, Moment), Refused> {
        // Listened to before anything is looked at: what comes in between is not missed.
        let mut news = self.news.subscribe();
        let state = self.state.load_full();
        let judged = state.judge(token, clock.now());
        let may_change = matches!(judged, Err(Refused::KeyUnknown | Refused::Unavailable));
        let may_be_asked = state.not_before.is_none_or(|not_before| not_before.reached(clock.now()));
        if !may_change || !may_be_asked {
            return judged;
        }
        ask();
        // Whoever sends is our own: it is there.
        let _ = timeout(patience, news.changed()).await;
        self.state.load().judge(token, clock.now())
    }

    /// Asks for the keys, and says so to all who wait. `None` where it is too soon.
    pub async fn refresh(&self, fetcher: &Fetcher, clock: &dyn Clock) -> Option<Result<(), String>> {
        let asking = Asking(self);
        let before = self.state.load_full();
        if before.not_before.is_some_and(|not_before| !not_before.reached(clock.now())) {
            drop(asking);
            self.news.send_replace(());
            return None;
        }
        let outcome = self.fetch(fetcher, clock).await.map(Arc::new);
        let now = clock.now();
        let (pause, stale) = if outcome.is_ok() { (AFTER_ANSWER, REFRESH) } else { (AFTER_FAILURE, AFTER_ANSWER) };
        self.stale_at.store(now.boot.saturating_add(stale).as_secs(), Ordering::Relaxed);
        let (keys, outcome) = match outcome {
            Ok(keys) => (Some(keys), Ok(())),
            Err(error) => (before.keys.clone(), Err(error)),
        };
        self.state.store(Arc::new(State { keys, not_before: Some(now.after(pause)) }));
        // Before anybody hears of it, so that who is not content may have it asked again.
        drop(asking);
        self.news.send_replace(());
        Some(outcome)
    }

    async fn fetch(&self, fetcher: &Fetcher, clock: &dyn Clock) -> Result<Keys, String> {
        let metadata = self.documents.read(fetcher).await.map_err(|error| error.to_string())?;
        let endpoint = metadata.endpoint(Purpose::Keys).map_err(|error| error.to_string())?;
        let asked = clock.now();
        let remote = Remote::new(endpoint, &self.settings().tls).map_err(|error| error.to_string())?;
        let keys = discovery::get(fetcher, &remote).await.map_err(|error| error.to_string())?;
        Keys::parse(&keys, asked).ok_or_else(|| format!("{} has no key that can be used", remote.endpoint()))
    }
}

/// A call of an issuer, which may be asked again when it is over, however that comes.
struct Asking<'i>(&'i Issuer);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.is_not_asked();
    }
}

impl State {
    fn judge(&self, token: &Token<'_>, now: Moment) -> Result<(Arc<str>, Moment), Refused> {
        let keys = self.keys.as_ref().filter(|keys| !keys.asked.after(LAST).reached(now));
        let (key, ends) = token.judge(keys.ok_or(Refused::Unavailable)?, now)?;
        Ok((key.identity.clone(), ends))
    }
}
