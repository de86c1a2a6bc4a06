//! Jobs of continuous integration, which prove themselves by a token that their own issuer has signed for us (OpenID Connect).
//!
//! ```text
//!  token ─▶ known? ────────────────────────────────────────────────▶ Job
//!             └─▶ its issuer's keys ─▶ signature, audience, times ─▶ Job, remembered until it ends
//!                     └─▶ none, or not this one: the issuer is asked, one call at a time and not often ─▶ once more
//! ```
//!
//! Invariants: a token that is for anybody else besides us proves nothing; one that was good stays so until it ends, or until
//! its issuer takes its key back; while an issuer cannot be asked, what is not known already is not let in. Tokens themselves
//! are not kept: they are known by their SHA-256.

mod issuer;
mod keys;
mod subject;
mod token;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use prometheus::IntCounterVec;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::clock::{Clock, Moment};
use crate::fetch::{Fetcher, RemoteError};
use crate::metrics::{Error as MetricsError, Metrics as Registry};
use issuer::Issuer;
use token::{Claims, Token};

pub use crate::discovery::Settings as IssuerSettings;
pub use subject::{Subject, SubjectError};

/// `jwt = { issuer, audience, subject }` of a `[[client]]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Who vouches for it: its name is what its tokens say in `iss`.
    pub issuer: IssuerSettings,
    pub audience: String,
    pub subject: Subject,
}

impl Settings {
    /// Whether this is such a job.
    pub fn is(&self, job: &Job) -> bool {
        *self.issuer.name == *job.issuer.name() && self.audience == job.audience && self.subject.matches(&job.subject)
    }

    /// Whether one job can be both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.issuer.name == other.issuer.name
            && self.audience == other.audience
            && self.subject.overlaps(&other.subject)
    }
}

/// A job that has proved itself.
pub struct Job {
    issuer: Arc<Issuer>,
    audience: String,
    pub subject: String,
    /// When its token, and with it the job as far as we know, comes to its end.
    pub ends: Moment,
    /// What it was let in by.
    key: Arc<str>,
}

impl Job {
    /// Whether what let it in would do so still.
    fn still(&self, now: Moment) -> Result<(), Refused> {
        if self.ends.reached(now) {
            return Err(Refused::Expired);
        }
        if self.issuer.has_taken_back(&self.key) { Err(Refused::KeyUnknown) } else { Ok(()) }
    }
}

/// Why a token proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    #[error("it is not well-formed")]
    Malformed,
    #[error("it is from an issuer, or for an audience, that no `[[client]]` names")]
    Stranger,
    #[error("it is not signed with RS256, ES256 or EdDSA")]
    Algorithm,
    #[error("its issuer has no such key")]
    KeyUnknown,
    #[error("its signature is wrong")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is not good yet")]
    NotYet,
    #[error("its subject is none that a `[[client]]` names, or another process has shown it")]
    Subject,
    #[error("two different ones were shown")]
    Several,
    #[error("its issuer cannot be asked for its keys")]
    Unavailable,
}

impl Refused {
    const ALL: [Self; 10] = [
        Self::Malformed,
        Self::Stranger,
        Self::Algorithm,
        Self::KeyUnknown,
        Self::Signature,
        Self::Expired,
        Self::NotYet,
        Self::Subject,
        Self::Several,
        Self::Unavailable,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Stranger => "stranger",
            Self::Algorithm => "algorithm",
            Self::KeyUnknown => "key_unknown",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYet => "not_yet",
            Self::Subject => "subject",
            Self::Several => "several",
            Self::Unavailable => "unavailable",
        }
    }
}

/// SHA-256 of a token.
type Digest = [u8; digest::SHA256_OUTPUT_LEN];

/// A token as it was shown.
#[derive(Clone, PartialEq)]
pub struct Shown {
    text: Vec<u8>,
    digest: Digest,
}

impl Shown {
    /// `None` for what has not the form of a token.
    pub fn of(text: Cow<'_, [u8]>) -> Option<Self> {
        token::has_form(&text).then(|| {
            let mut digest = [0; digest::SHA256_OUTPUT_LEN];
            digest.copy_from_slice(digest::digest(&digest::SHA256, &text).as_ref());
            Self { text: text.into_owned(), digest }
        })
    }
}

/// The most jobs that are known at a time. Those that end first make room; they can prove themselves once more.
const MOST: usize = 1024;

/// Issuers that wait to be asked: each at most once.
const MOST_ASKED: usize = 64;

/// The label of a token that was good.
const VERIFIED: &str = "verified";

/// What is known of jobs, whatever the config that is in force.
pub struct Office {
    clock: Arc<dyn Clock>,
    known: ArcSwap<HashMap<Digest, Arc<Job>>>,
    asks: mpsc::Sender<Arc<Issuer>>,
    tokens: IntCounterVec,
    asked: IntCounterVec,
    /// The second, since boot, of the last line about a token that was refused.
    told: AtomicU64,
}

/// The issuers that are to be asked for their keys.
pub struct Asked(mpsc::Receiver<Arc<Issuer>>);

impl Office {
    /// # Errors
    /// When its metrics are there already.
    pub fn new(clock: Arc<dyn Clock>, registry: &Registry) -> Result<(Arc<Self>, Asked), MetricsError> {
        let tokens = registry.counters(
            "client_tokens_total",
            "Tokens that jobs have shown and that were not known: verified, or why they were refused.",
            &["outcome"],
        )?;
        let asked = registry.counters(
            "client_issuer_requests_total",
            "How often issuers of jobs' tokens were asked for their keys: ok, failed.",
            &["outcome"],
        )?;
        for outcome in Refused::ALL.map(Refused::as_str).into_iter().chain([VERIFIED]) {
            tokens.with_label_values(&[outcome]);
        }
        for outcome in ["ok", "failed"] {
            asked.with_label_values(&[outcome]);
        }
        let (asks, waiting) = mpsc::channel(MOST_ASKED);
        let office = Self { clock, known: ArcSwap::default(), asks, tokens, asked, told: AtomicU64::new(0) };
        Ok((Arc::new(office), Asked(waiting)))
    }

    /// Asks issuers for their keys, for ever: each of them one call at a time.
    pub async fn run(self: Arc<Self>, mut asked: Asked, fetcher: Arc<Fetcher>) {
        let mut calls = JoinSet::new();
        loop {
            tokio::select! {
                Some(issuer) = asked.0.recv() => {
                    let (office, fetcher) = (self.clone(), fetcher.clone());
                    calls.spawn(async move { office.refresh(&issuer, &fetcher).await });
                }
                Some(_) = calls.join_next() => {}
            }
        }
    }

    async fn refresh(&self, issuer: &Arc<Issuer>, fetcher: &Fetcher) {
        let Some(outcome) = issuer.refresh(fetcher, &*self.clock).await else { return };
        self.asked.with_label_values(&[if outcome.is_ok() { "ok" } else { "failed" }]).inc();
        match outcome {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(
                    issuer = issuer.name(),
                    error,
                    "the issuer of jobs' tokens cannot be asked for its keys"
                );
            }
        }
    }

    /// The job that has shown this, if it was good before and is still.
    fn known(&self, digest: &Digest) -> Option<Arc<Job>> {
        let job = self.known.load().get(digest).cloned()?;
        self.still(&job).ok().map(|()| job)
    }

    /// Whether a job that was let in before still is. Its issuer is asked now and then whether it has taken back the key.
    fn still(&self, job: &Job) -> Result<(), Refused> {
        let now = self.clock.now();
        job.still(now)?;
        if job.issuer.is_stale(now) {
            self.ask(&job.issuer);
        }
        Ok(())
    }

    fn remember(&self, digest: Digest, job: &Arc<Job>) {
        let now = self.clock.now();
        self.known.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.retain(|_, job| job.still(now).is_ok());
            if known.len() >= MOST
                && let Some(first) =
                    known.iter().min_by_key(|(_, job)| job.ends.remaining(now)).map(|(digest, _)| *digest)
            {
                known.remove(&first);
            }
            known.insert(digest, job.clone());
            known
        });
    }

    /// Has an issuer asked. Without room for it nothing happens, and the next one tries again.
    fn ask(&self, issuer: &Arc<Issuer>) {
        if issuer.is_to_be_asked() && self.asks.try_send(issuer.clone()).is_err() {
            issuer.is_not_asked();
        }
    }

    /// Counts a token that proves nothing, and tells of it now and then.
    pub fn refused(&self, why: Refused, uid: Option<u32>) {
        self.tokens.with_label_values(&[why.as_str()]).inc();
        let second = self.clock.now().boot.as_secs().max(1);
        if self.told.swap(second, Ordering::Relaxed) != second {
            tracing::warn!(uid, why = why.as_str(), "a token that should prove a job was refused: {why}");
        }
    }
}

/// The issuers of a configuration, and what they vouch for.
pub struct Jobs {
    office: Arc<Office>,
    issuers: Vec<Arc<Issuer>>,
    /// Issuers with the audiences that clients name.
    meant: Vec<(usize, String)>,
}

impl Jobs {
    /// `None` where no client is a job. Issuers of `before` that stay as they are keep their keys.
    ///
    /// # Errors
    /// When an issuer cannot be called at all.
    pub fn new<'s>(
        settings: impl IntoIterator<Item = &'s Settings>,
        office: &Arc<Office>,
        before: Option<&Self>,
    ) -> Result<Option<Self>, RemoteError> {
        let mut jobs = Self { office: office.clone(), issuers: Vec::new(), meant: Vec::new() };
        for Settings { issuer, audience, .. } in settings {
            let at = match jobs.issuers.iter().position(|known| known.name() == issuer.name) {
                Some(at) => at,
                None => {
                    let kept = before.and_then(|before| before.issuers.iter().find(|kept| *kept.settings() == *issuer));
                    jobs.issuers.push(match kept {
                        Some(kept) => kept.clone(),
                        None => Arc::new(Issuer::new(issuer)?),
                    });
                    jobs.issuers.len() - 1
                }
            };
            jobs.meant.push((at, audience.clone()));
        }
        Ok((!jobs.issuers.is_empty()).then_some(jobs))
    }

    pub fn office(&self) -> &Office {
        &self.office
    }

    /// The token that a text is, if it is meant for us, good or not.
    pub fn meant(&self, text: Cow<'_, [u8]>) -> Option<Shown> {
        let is_meant = |shown: &Shown| {
            self.office.known.load().contains_key(&shown.digest)
                || Token::parse(&shown.text).is_some_and(|token| self.issuer(&token.claims).is_some())
        };
        Shown::of(text).filter(is_meant)
    }

    /// The job that a token proves. Waits no longer than `patience` for its issuer's keys.
    ///
    /// # Errors
    /// When it proves none.
    pub async fn verify(&self, shown: &Shown, patience: Duration) -> Result<Arc<Job>, Refused> {
        if let Some(job) = self.office.known(&shown.digest) {
            return Ok(job);
        }
        let token = Token::parse(&shown.text).ok_or(Refused::Malformed)?;
        let (issuer, audience) = self.issuer(&token.claims).ok_or(Refused::Stranger)?;
        let (key, ends) = issuer.judge(&token, &*self.office.clock, patience, || self.office.ask(issuer)).await?;
        let job = Job { issuer: issuer.clone(), audience: audience.to_owned(), subject: token.claims.sub, ends, key };
        let job = Arc::new(job);
        self.office.remember(shown.digest, &job);
        self.office.tokens.with_label_values(&[VERIFIED]).inc();
        Ok(job)
    }

    /// A job that was let in before, if it has not ended since, nor its key been taken back.
    ///
    /// # Errors
    /// When it has.
    pub fn still(&self, job: &Arc<Job>) -> Result<Arc<Job>, Refused> {
        self.office.still(job).map(|()| job.clone())
    }

    /// Who has made such a token for us, and for which of our names; if anybody.
    fn issuer<'c>(&self, claims: &'c Claims) -> Option<(&Arc<Issuer>, &'c str)> {
        let audience = claims.audience()?;
        let mut meant = self.meant.iter();
        let (at, _) = meant.find(|(at, wanted)| self.issuers[*at].name() == claims.iss && wanted == audience)?;
        Some((&self.issuers[*at], audience))
    }
}
