//! GitHub Apps: a JWT of the App buys an installation's token, for some repositories and permissions ("Generating an
//! installation access token for a GitHub App", docs.github.com).
//!
//! The token's scopes are the permissions, as in `contents:read`; a level covers those below it. Invariant: no token without
//! `permissions` of its own is asked for; GitHub would give it all that the App may do.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use jsonwebtoken::{Algorithm, Header};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::answer::members::Member;
use super::answer::{self, Asked, Reply};
use super::{BuildError, Failure, Issued, Obtaining, Reason, Revoking, Source, private_key};
use crate::authority::Endpoint;
use crate::clock::{Clock, Moment};
use crate::fetch::{Call, Fetcher, Remote};
use crate::secret::{Reference, Secret};
use crate::tls;

/// `source = { kind = "github_app", ... }`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// GitHub's API, or that of a GitHub Enterprise Server.
    pub api_url: Endpoint,
    /// The App's client ID or its number.
    pub app: String,
    pub installation: u64,
    /// The App's private key, PEM.
    pub key: Reference,
    /// Names of repositories; empty: all that the installation has.
    pub repositories: Vec<String>,
    /// `NAME:LEVEL`, as in `contents:read`: the token's scopes.
    pub permissions: Vec<String>,
    pub tls: tls::Settings,
}

pub struct GithubApp {
    settings: Settings,
    tokens: Remote,
    revocation: Remote,
    fetcher: Arc<Fetcher>,
    clock: Arc<dyn Clock>,
}

#[derive(serde::Deserialize)]
struct Answer {
    #[serde(default)]
    token: Member,
    #[serde(default)]
    expires_at: Member,
    #[serde(default)]
    permissions: BTreeMap<String, String>,
}

impl GithubApp {
    /// # Errors
    /// When the TLS roots cannot be read.
    pub fn new(settings: Settings, fetcher: Arc<Fetcher>, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        let remote = |path: String| Remote::new(settings.api_url.below(&path), &settings.tls);
        let tokens = remote(format!("/app/installations/{}/access_tokens", settings.installation))?;
        let revocation = remote("/installation/token".to_owned())?;
        Ok(Self { tokens, revocation, settings, fetcher, clock })
    }

    async fn ask(&self) -> Result<Issued, Failure> {
        let asked_at = self.clock.now();
        let proof = Secret::new(self.sign(asked_at).await?.as_bytes());
        let call = Call {
            method: Method::POST,
            remote: &self.tokens,
            headers: headers(&proof)?,
            body: Zeroizing::new(self.wish()?.to_string().into_bytes()),
        };
        let answer = self.fetcher.send(call).await?;
        let shown = text_of(&proof)?;
        let secrets = [shown];
        let asked =
            Asked { scopes: &self.settings.permissions, at: asked_at, now: self.clock.now(), secrets: &secrets };
        let answer: Answer = answer::judge_form(&Reply::from(&answer), &asked)?;
        answer::judge_found(answer.token, &answer.expires_at, self.granted(&answer.permissions), &asked)
    }

    /// A minute in the past, for a clock that runs ahead of GitHub's, which then takes it for ten minutes at most.
    async fn sign(&self, now: Moment) -> Result<Zeroizing<String>, Failure> {
        let issued_at = now.wall.as_secs().saturating_sub(60);
        let claims = json!({ "iss": self.settings.app, "iat": issued_at, "exp": issued_at + 360 });
        private_key::sign_under(Header::new(Algorithm::RS256), &self.settings.key, &claims).await
    }

    /// The highest level of each permission that is among the scopes.
    fn wish(&self) -> Result<Value, Failure> {
        let refused = |detail| Err(Failure::refused(Reason::InvalidScope, detail));
        let mut highest: BTreeMap<&str, Level> = BTreeMap::new();
        for scope in &self.settings.permissions {
            let Some((name, level)) = permission(scope) else {
                return refused(format!("{scope:?} is no permission of a GitHub App, as in \"contents:read\""));
            };
            highest.entry(name).and_modify(|highest| *highest = level.max(*highest)).or_insert(level);
        }
        if highest.is_empty() {
            return refused("no scope is asked for: GitHub would give all that the App may do".to_owned());
        }
        let permissions: Map<String, Value> =
            highest.into_iter().map(|(name, level)| (name.to_owned(), json!(level.as_str()))).collect();
        Ok(match self.settings.repositories.as_slice() {
            [] => json!({ "permissions": permissions }),
            repositories => json!({ "permissions": permissions, "repositories": repositories }),
        })
    }

    /// What GitHub says that it granted, and what of the scopes that covers.
    fn granted(&self, permissions: &BTreeMap<String, String>) -> Vec<String> {
        let asked = &self.settings.permissions;
        let is_covered = |scope: &&String| {
            permission(scope).is_some_and(|(name, level)| {
                let granted = permissions.get(name).and_then(|granted| Level::parse(granted));
                granted.is_some_and(|granted| granted >= level)
            })
        };
        let told = permissions.iter().map(|(name, level)| format!("{name}:{level}"));
        // Each token has it, whether it was asked for or not.
        let told = told.filter(|scope| scope != "metadata:read" && !asked.contains(scope));
        asked.iter().filter(is_covered).cloned().chain(told).collect()
    }

    async fn tell_void(&self, value: &Secret) -> Result<(), Failure> {
        let call = Call {
            method: Method::DELETE,
            remote: &self.revocation,
            headers: headers(value)?,
            body: Zeroizing::default(),
        };
        let asked_at = self.clock.now();
        let answer = self.fetcher.send(call).await?;
        if answer.status == http::StatusCode::UNAUTHORIZED {
            // It knows the token no more.
            return Ok(());
        }
        let secrets = [text_of(value)?];
        let asked = Asked { scopes: &[], at: asked_at, now: self.clock.now(), secrets: &secrets };
        answer::judge_revocation(&Reply::from(&answer), &asked)
    }
}

impl Source for GithubApp {
    fn obtain(&self) -> Obtaining<'_> {
        Box::pin(self.ask())
    }

    fn kind(&self) -> &'static str {
        "github_app"
    }

    fn revokes(&self) -> bool {
        true
    }

    fn revoke<'a>(&'a self, value: &'a Secret) -> Revoking<'a> {
        Box::pin(self.tell_void(value))
    }
}

/// How much a permission lets one do: each level more than the one before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    Read,
    Write,
    Admin,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        [Self::Read, Self::Write, Self::Admin].into_iter().find(|level| level.as_str() == text)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// The permission that a scope is, and its level.
pub fn permission(scope: &str) -> Option<(&str, Level)> {
    let (name, level) = scope.split_once(':')?;
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    is_name.then_some((name, Level::parse(level)?))
}

fn headers(bearer: &Secret) -> Result<HeaderMap, Failure> {
    let unfit = |error: crate::secret::NotVisibleAscii| Failure::transient(Reason::Secret, error.to_string());
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-github-api-version", HeaderValue::from_static("2022-11-28"));
    headers.insert(AUTHORIZATION, bearer.header_value("Bearer ", "").map_err(unfit)?);
    Ok(headers)
}

fn text_of(secret: &Secret) -> Result<&str, Failure> {
    secret.expose_to_issuer().map_err(|error| Failure::transient(Reason::Secret, error.to_string()))
}

#[cfg(test)]
mod tests;
