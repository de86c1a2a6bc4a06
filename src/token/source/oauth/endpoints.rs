//! Where an issuer is asked and told: the config says so, or the issuer itself does (RFC 8414).
//!
//! ```text
//! needed ─▶ younger than an hour? ─▶ in use
//!              └─▶ read anew ─▶ judged ─▶ other than before? ─▶ told, and in use
//!                     └─▶ nothing, or nothing good ─▶ what was told before stays in use; asked again in a minute
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Auth, Issuer, Settings};
use crate::authority::Endpoint;
use crate::clock::{Clock, Moment};
use crate::discovery::{self, Documents, Metadata, Purpose, Standard};
use crate::fetch::{Fetcher, Remote, RemoteError};
use crate::text::printable;
use crate::token::source::{Failure, IssuerChange, Reason};

/// How long an issuer is taken at its word.
const LAST: Duration = Duration::from_secs(3600);

/// From a document that was not to be had, or to which nobody answered, to the next.
const AGAIN: Duration = Duration::from_secs(60);

/// Of what an issuer tells, so much goes into a record.
const LONGEST: usize = 300;

/// Changes that wait to be told: each part of the document can change, once an hour.
const MOST_CHANGES: usize = 32;

pub(super) struct Endpoints {
    place: Place,
    /// Where the config says that the issuer is told.
    revocation: Option<Arc<Remote>>,
}

enum Place {
    Named(Arc<Remote>),
    Told(Box<Told>),
}

/// An issuer that tells itself.
struct Told {
    settings: Settings,
    documents: Documents,
    /// One reads at a time.
    reading: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: Option<Arc<Known>>,
    /// When that is to be read again.
    stale: Option<Moment>,
    /// When it may be read again at the earliest.
    not_before: Option<Moment>,
    changes: Vec<IssuerChange>,
}

struct Known {
    token: Arc<Remote>,
    metadata: Metadata,
    parts: Parts,
}

/// What matters of a document, by name.
type Parts = Vec<(String, String)>;

impl Endpoints {
    /// # Errors
    /// When the issuer cannot be called at all.
    pub fn new(settings: &Settings) -> Result<Self, RemoteError> {
        let remote = |endpoint: &Endpoint| Remote::new(endpoint.clone(), &settings.tls).map(Arc::new);
        let revocation = settings.revocation_url.as_ref().map(remote).transpose()?;
        let place = match &settings.issuer {
            Issuer::At(token_url) => Place::Named(remote(token_url)?),
            Issuer::Named { name, endpoint } => {
                let (name, endpoint, tls) = (name.clone(), endpoint.clone(), settings.tls.clone());
                let issuer = discovery::Settings { name, endpoint, tls };
                let documents = Documents::new(&issuer, &[Standard::OAuth, Standard::OpenId])?;
                let (reading, state) = Default::default();
                Place::Told(Box::new(Told { settings: settings.clone(), documents, reading, state }))
            }
        };
        Ok(Self { place, revocation })
    }

    /// Where tokens are asked for.
    pub async fn token(&self, fetcher: &Fetcher, clock: &dyn Clock) -> Result<Arc<Remote>, Failure> {
        match &self.place {
            Place::Named(remote) => Ok(remote.clone()),
            Place::Told(told) => Ok(told.known(fetcher, clock).await?.token.clone()),
        }
    }

    /// Where the issuer is told that one is void, if it is.
    pub async fn revocation(&self, fetcher: &Fetcher, clock: &dyn Clock) -> Result<Option<Arc<Remote>>, Failure> {
        match (&self.revocation, &self.place) {
            (None, Place::Told(told)) => {
                let known = told.known(fetcher, clock).await?;
                let has_one = known.metadata.has(Purpose::Revocation);
                has_one.then(|| told.remote(&known.metadata, Purpose::Revocation).map_err(failure)).transpose()
            }
            (named, _) => Ok(named.clone()),
        }
    }

    /// What the issuer itself says is for this.
    pub async fn told(
        &self,
        purpose: Purpose,
        fetcher: &Fetcher,
        clock: &dyn Clock,
    ) -> Result<Option<Endpoint>, Failure> {
        let Place::Told(told) = &self.place else { return Ok(None) };
        let known = told.known(fetcher, clock).await?;
        let has_one = known.metadata.has(purpose);
        has_one.then(|| told.endpoint(&known.metadata, purpose).map_err(failure)).transpose()
    }

    /// Whether the issuer says in its answers to a sign-in who it is, as far as it has told (RFC 9207).
    pub fn names_itself(&self) -> bool {
        match &self.place {
            Place::Named(_) => false,
            Place::Told(told) => told.lock().known.as_ref().is_some_and(|known| known.metadata.names_itself()),
        }
    }

    /// Whether the issuer can be told. One that has told nothing of itself yet may be.
    pub fn has_revocation(&self) -> bool {
        self.revocation.is_some()
            || match &self.place {
                Place::Named(_) => false,
                Place::Told(told) => {
                    told.lock().known.as_ref().is_none_or(|known| known.metadata.has(Purpose::Revocation))
                }
            }
    }

    /// Nobody has answered there, or not as an issuer does: it may have moved.
    pub fn doubt(&self) {
        if let Place::Told(told) = &self.place {
            let mut state = told.lock();
            state.stale = state.not_before;
        }
    }

    /// What the issuer has changed since this was last asked.
    pub fn changes(&self) -> Vec<IssuerChange> {
        match &self.place {
            Place::Named(_) => Vec::new(),
            Place::Told(told) => std::mem::take(&mut told.lock().changes),
        }
    }
}

impl Told {
    async fn known(&self, fetcher: &Fetcher, clock: &dyn Clock) -> Result<Arc<Known>, Failure> {
        let _reading = self.reading.lock().await;
        let before = {
            let state = self.lock();
            if let Some(known) = state.known.as_ref().filter(|_| !is_over(state.stale, clock.now())) {
                return Ok(known.clone());
            }
            state.known.clone()
        };
        let read = self.documents.read(fetcher).await.and_then(|metadata| self.judge(metadata, before.as_deref()));
        let mut state = self.lock();
        let now = clock.now();
        state.not_before = Some(now.after(AGAIN));
        match (read, before) {
            (Ok(known), before) => {
                let known = known.map(Arc::new).or(before).expect("what is as before was known before");
                state.stale = Some(now.after(LAST));
                state.follow(&self.documents.settings().name, &known);
                Ok(known)
            }
            (Err(error), Some(before)) => {
                let issuer = &self.documents.settings().name;
                tracing::warn!(issuer, %error, "the issuer's metadata cannot be had: what it told before stays in use");
                state.stale = state.not_before;
                Ok(before)
            }
            (Err(error), None) => Err(failure(error)),
        }
    }

    /// `None`: it is what it was before.
    fn judge(&self, metadata: Metadata, before: Option<&Known>) -> Result<Option<Known>, discovery::Error> {
        let methods = methods(self.settings.client.as_ref().map(|client| &client.auth));
        let parts = parts(&metadata, methods);
        if before.is_some_and(|before| before.parts == parts) {
            return Ok(None);
        }
        let token = self.remote(&metadata, Purpose::Token)?;
        Ok(Some(Known { token, metadata, parts }))
    }

    fn endpoint(&self, metadata: &Metadata, purpose: Purpose) -> Result<Endpoint, discovery::Error> {
        match self.settings.tls.identity {
            Some(_) => metadata.endpoint_under_certificate(purpose),
            None => metadata.endpoint(purpose),
        }
    }

    fn remote(&self, metadata: &Metadata, purpose: Purpose) -> Result<Arc<Remote>, discovery::Error> {
        let remote = Remote::new(self.endpoint(metadata, purpose)?, &self.settings.tls);
        remote.map(Arc::new).map_err(|error| discovery::Error::Remote(purpose, error.into()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Puts into use what is known now, and notes what is other than before.
    fn follow(&mut self, issuer: &str, known: &Arc<Known>) {
        if let Some(before) = self.known.replace(known.clone()) {
            let room = MOST_CHANGES.saturating_sub(self.changes.len());
            self.changes.extend(differences(issuer, &before.parts, &known.parts).into_iter().take(room));
        }
    }
}

fn is_over(moment: Option<Moment>, now: Moment) -> bool {
    moment.is_none_or(|moment| moment.reached(now))
}

/// What matters to whoever uses it: where things are, and whether our way of proving ourselves is among those that are taken.
fn parts(metadata: &Metadata, methods: &[&str]) -> Parts {
    let shown = |text: &str| printable(text, LONGEST);
    let urls = metadata.urls().map(|(set, name, url)| (format!("{set}{name}"), shown(url)));
    let is_taken = methods.iter().any(|method| metadata.takes(method));
    let own = if is_taken { "our own is among them" } else { "our own is not among them" };
    urls.chain([("token_endpoint_auth_methods_supported".to_owned(), own.to_owned())]).collect()
}

/// As issuers call them (RFC 7591, section 2; RFC 8705, section 2).
fn methods(auth: Option<&Auth>) -> &'static [&'static str] {
    match auth {
        None | Some(Auth::Nothing) => &["none", "client_secret_basic"],
        Some(Auth::Basic(_)) => &["client_secret_basic"],
        Some(Auth::Post(_)) => &["client_secret_post"],
        Some(Auth::Mtls) => &["tls_client_auth", "self_signed_tls_client_auth"],
        Some(Auth::PrivateKeyJwt(_) | Auth::Assertion(_)) => &["private_key_jwt"],
    }
}

fn differences(issuer: &str, before: &Parts, after: &Parts) -> Vec<IssuerChange> {
    let value =
        |parts: &Parts, name: &str| parts.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let names = before.iter().chain(after).map(|(name, _)| name);
    let mut changes: Vec<IssuerChange> = Vec::new();
    for what in names {
        let (before, after) = (value(before, what), value(after, what));
        if before != after && changes.iter().all(|known| known.what != *what) {
            changes.push(IssuerChange { issuer: issuer.to_owned(), what: what.clone(), before, after });
        }
    }
    changes
}

fn failure(error: discovery::Error) -> Failure {
    let reason = match &error {
        discovery::Error::Fetch(_, error) => Reason::from(&**error),
        discovery::Error::Status(_, status) if status.is_redirection() => Reason::Redirected,
        discovery::Error::Status(..) => Reason::Status,
        _ => Reason::Malformed,
    };
    Failure::transient(reason, format!("the issuer's metadata: {error}"))
}

#[cfg(test)]
mod tests;
