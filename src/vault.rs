//! Client of a Vault or an OpenBao, for secrets that the config refers to and for sources of tokens.
//!
//! ```text
//!  path ─▶ logged in? ─▶ call ─▶ 403? is it the login? then anew, once ─▶ Answer | Error
//!             ▲ one at a time, with growing delays after failures
//!             └── renewed ahead of its end, as long as that helps
//! ```
//!
//! Invariant: at most one login is under way, and the token that it gave is in memory alone: it is wiped when another takes
//! its place, and void when the process ends. No error repeats a secret, or what proved us.

mod answer;
mod login;
mod read;
mod template;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method};
use tokio::sync::{Mutex, watch};
use zeroize::Zeroizing;

pub use answer::{Answer, Data, Error};
pub use login::Auth;
pub use login::object;
use login::{Login, Token};
pub use read::{Engine, Read, field};
pub use template::{Template, TemplateError};

use crate::authority::Endpoint;
use crate::clock::Clock;
use crate::fetch::{Call, Fetcher, Remote, RemoteError};
use crate::tasks::{Task, Tasks};
use crate::tls;

/// `[vault]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub url: Endpoint,
    pub namespace: Option<String>,
    pub auth: Auth,
    pub tls: tls::Settings,
}

pub struct Vault {
    auth: Auth,
    /// What stands before each path.
    base: Remote,
    /// Of each call.
    headers: HeaderMap,
    fetcher: Arc<Fetcher>,
    clock: Arc<dyn Clock>,
    login: Mutex<Login>,
    /// The number of the last login: what an older one was given ends with it.
    logins: watch::Sender<u64>,
    /// Which engine is mounted where, as far as that has been asked.
    engines: StdMutex<BTreeMap<String, Engine>>,
}

/// One request.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    pub method: &'a Method,
    /// Without the API's version: `secret/data/ci`.
    pub path: &'a str,
    /// A JSON object, or nothing.
    pub body: &'a [u8],
}

impl Ask<'_> {
    pub fn get(path: &str) -> Ask<'_> {
        Ask { method: &Method::GET, path, body: &[] }
    }

    pub fn post<'a>(path: &'a str, body: &'a [u8]) -> Ask<'a> {
        Ask { method: &Method::POST, path, body }
    }
}

impl Vault {
    /// # Errors
    /// When the TLS roots cannot be read, or the settings cannot be written into a request.
    pub fn new(settings: &Settings, fetcher: Arc<Fetcher>, clock: Arc<dyn Clock>) -> Result<Self, RemoteError> {
        let base = Remote::new(settings.url.below("/v1"), &settings.tls)?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // What an agent demands, so that no request can be forged by way of it.
        headers.insert(REQUEST, HeaderValue::from_static("true"));
        if let Some(namespace) = &settings.namespace {
            let value = HeaderValue::from_str(namespace);
            let value = value.map_err(|_| RemoteError::NotRequestable(settings.url.clone()))?;
            headers.insert(NAMESPACE, value);
        }
        Ok(Self {
            auth: settings.auth.clone(),
            base,
            headers,
            fetcher,
            clock,
            login: Mutex::default(),
            logins: watch::Sender::new(0),
            engines: StdMutex::default(),
        })
    }

    /// Makes a call as whoever is logged in.
    ///
    /// # Errors
    /// When there is no login, no answer, or one that says no.
    pub async fn ask(&self, ask: Ask<'_>) -> Result<Answer, Error> {
        let token = self.token().await?;
        let refused = match self.send(ask, Some(&token), &[]).await {
            Err(error @ Error::Denied { .. }) => error,
            outcome => return outcome,
        };
        // A token that is void and a policy that is narrow look alike from outside.
        if !token.is_settled(self.clock.now()) || self.is_good(&token).await {
            return Err(refused);
        }
        let Some(token) = self.token_after(&token).await? else { return Err(refused) };
        self.send(ask, Some(&token), &[]).await
    }

    /// The number of the login that calls are made with from now on, as far as is known.
    ///
    /// # Errors
    /// When there is no login.
    pub async fn login(&self) -> Result<u64, Error> {
        self.token().await.map(|token| token.serial)
    }

    /// The number of the login that calls are made with now. What the vault gave to an older one ends with that one.
    pub fn serial(&self) -> u64 {
        *self.logins.borrow()
    }

    /// Resolves when another login than this one has taken its place.
    pub async fn logged_in_since(&self, serial: u64) {
        // The sender is our own: it is there.
        let _ = self.logins.subscribe().wait_for(|now| *now > serial).await;
    }

    /// Keeps the login good as long as the task is there.
    pub fn look_after(self: &Arc<Self>, tasks: &Tasks) -> Task {
        let vault = self.clone();
        tasks.essential("vault", async move {
            loop {
                // What goes wrong is said where it happens.
                let _ = vault.token().await;
                tokio::time::sleep(LOOK).await;
            }
        })
    }

    /// One exchange, without a look at whether the token is good. No error repeats the token, or what is `shown`.
    async fn send(&self, ask: Ask<'_>, token: Option<&Token>, shown: &[&str]) -> Result<Answer, Error> {
        let remote = self.base.below(&format!("/{}", ask.path)).map_err(|error| Error::Path(error.to_string()))?;
        let mut headers = self.headers.clone();
        let token = token.map(|token| token.secret.header_value("", "")).transpose().map_err(|_| Error::Token)?;
        headers.extend(token.clone().map(|token| (TOKEN, token)));
        // In one piece from the start: growing would leave copies behind.
        let body = Zeroizing::new(ask.body.to_vec());
        let call = Call { method: ask.method.clone(), remote: &remote, headers, body };
        let answer = self.fetcher.send(call).await.map_err(|error| Error::Unreached(Arc::new(error)))?;
        let token = token.as_ref().and_then(|token| token.to_str().ok());
        answer::judge(&answer, ask.path, token.into_iter().chain(shown.iter().copied()), self.clock.now())
    }

    /// Whether the vault still knows a token. Where it does not say, it may.
    async fn is_good(&self, token: &Token) -> bool {
        let looked = self.send(Ask::get("auth/token/lookup-self"), Some(token), &[]).await;
        !matches!(looked, Err(Error::Denied { .. }))
    }
}

/// How often it is looked whether the login has to be renewed: a machine that was suspended is noticed within it.
const LOOK: Duration = Duration::from_secs(1);

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");

const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");

const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

#[cfg(test)]
mod tests;
