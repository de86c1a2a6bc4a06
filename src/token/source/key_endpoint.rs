//! An API that hands out keys: one is made for each generation, and deleted when that is void.
//!
//! ```text
//!  obtain ─▶ create ─▶ key and id ─▶ live ─▶ void ─▶ delete, by the id ─▶ confirmed, or again
//!                └─ an id without a key that could be used ─▶ delete at once
//! ```
//!
//! Invariant: what the API's own answer names is deleted, if it is of no use. Of a call whose answer did not come whole nobody
//! knows the key, nor whether there is one: that is said.

mod template;

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::Value;
use zeroize::{Zeroize as _, Zeroizing};

pub use self::template::{Filling, Template, TemplateError};
use super::answer::{self, Asked, Reply};
use super::lifetime::end_told;
use super::{BuildError, Class, Failure, Issued, Obtaining, Reason, Revoking, Source, found};
use crate::authority::Endpoint;
use crate::clock::{Clock, Moment};
use crate::fetch::{Answer, Call, FetchError, Fetcher, Remote};
use crate::secret::{Reference, Secret};
use crate::tls;
use crate::token::placement::{Placed, Placement};

/// `source = { kind = "key_endpoint", ... }`
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// What proves to the API that we may.
    pub secret: Reference,
    /// Where that goes.
    pub auth: Placement,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub create: Create,
    /// Where the answer has the key, its id and its end, as JSON pointers (RFC 6901).
    pub key: String,
    pub id: String,
    /// `None`: the API does not say, and it lives until it is deleted.
    pub expires: Option<String>,
    /// How long a key is used, where the API does not say.
    pub life: Duration,
    pub delete: Delete,
    pub tls: tls::Settings,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Create {
    pub url: Endpoint,
    pub method: Method,
    pub body: Option<Template>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delete {
    /// The scheme and the host.
    pub base: Endpoint,
    /// The path, with the id in it or in the body.
    pub path: Template,
    pub method: Method,
    pub body: Option<Template>,
    /// Whether a 404 says that there is no such key, and not that we may not see it.
    pub missing_is_gone: bool,
}

pub struct KeyEndpoint {
    settings: Settings,
    create: Remote,
    base: Remote,
    fetcher: Arc<Fetcher>,
    clock: Arc<dyn Clock>,
}

impl KeyEndpoint {
    /// # Errors
    /// When the TLS roots cannot be read.
    pub fn new(settings: Settings, fetcher: Arc<Fetcher>, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        let create = Remote::new(settings.create.url.clone(), &settings.tls)?;
        let base = Remote::new(settings.delete.base.clone(), &settings.tls)?;
        Ok(Self { settings, create, base, fetcher, clock })
    }

    async fn ask(&self) -> Result<Issued, Failure> {
        let own = self.own_secret().await?;
        let Create { method, body, .. } = &self.settings.create;
        let asked_at = self.clock.now();
        let filling = Filling { id: None, life: self.settings.life, now: asked_at };
        let sent = self.call(&own, method, &self.create, body.as_ref(), &filling).await?;
        let answer = sent.map_err(|error| {
            let lost = if error.may_have_arrived() { ": a key may have been made that nobody here knows" } else { "" };
            let failure = Failure::from(error);
            Failure { detail: failure.detail + lost, ..failure }
        })?;
        let secrets = [text_of(&own)?];
        let asked = Asked { scopes: &[], at: asked_at, now: self.clock.now(), secrets: &secrets };
        // Anything but a yes is told as other issuers' noes are.
        let reply = Reply::from(&answer);
        let whole: serde_json::Map<String, Value> = answer::judge_form(&reply, &asked)?;
        let whole = Wiped(Value::Object(whole));
        let id = whole.text(&self.settings.id).map(|id| Secret::new(id.as_bytes()));
        let issued = self.issued(&whole, &asked);
        match (issued, id) {
            (Ok(issued), Some(id)) => Ok(Issued { void_by: Some(id), ..issued }),
            (Err(failure), Some(id)) => Err(self.without_use(&id, failure).await),
            (_, None) => {
                let detail =
                    format!("the answer has no id at {}: the key that it made cannot be deleted", self.settings.id);
                Err(Failure::transient(Reason::Malformed, detail))
            }
        }
    }

    /// The key of an answer, with its end.
    fn issued(&self, answer: &Wiped, asked: &Asked<'_>) -> Result<Issued, Failure> {
        let Some(key) = answer.text(&self.settings.key) else {
            let detail = format!("the answer has no key at {}", self.settings.key);
            return Err(Failure::transient(Reason::TokenMissing, detail));
        };
        let issued = found(Secret::new(key.as_bytes()), asked.now)?;
        let told = match &self.settings.expires {
            None => asked.at.after(self.settings.life),
            Some(pointer) => self.end(answer, pointer, asked)?,
        };
        let expires = issued.expires.map_or(told, |own| own.earlier(told));
        Ok(Issued { expires: Some(expires), ..issued })
    }

    /// When the API says that the key ends: a time (RFC 3339), or seconds since the Unix epoch.
    fn end(&self, answer: &Wiped, pointer: &str, asked: &Asked<'_>) -> Result<Moment, Failure> {
        let time = match answer.0.pointer(pointer) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Number(seconds)) => seconds.as_u64().map(|seconds| {
                let wall = Duration::from_secs(seconds);
                Moment { wall, ..asked.now }.to_rfc3339()
            }),
            _ => None,
        };
        time.and_then(|time| end_told(&time, asked.at, asked.now).ok()).ok_or_else(|| {
            let detail = format!("the answer has no time at {pointer} that is still to come");
            Failure::transient(Reason::Lifetime, detail)
        })
    }

    /// The failure, when what cannot be used is deleted: of that nobody else knows.
    async fn without_use(&self, id: &Secret, failure: Failure) -> Failure {
        if let Err(other) = self.delete(id).await {
            let kept = "the key that it made is not deleted";
            tracing::warn!(detail = other.detail, "{kept}: it is of no use, and stays at its API");
            return Failure { detail: format!("{}, and {kept}", failure.detail), ..failure };
        }
        failure
    }

    async fn delete(&self, id: &Secret) -> Result<(), Failure> {
        let own = self.own_secret().await?;
        let Delete { path, method, body, missing_is_gone, .. } = &self.settings.delete;
        let asked_at = self.clock.now();
        let filling = Filling { id: Some(text_of(id)?), life: self.settings.life, now: asked_at };
        let target = self
            .base
            .below(&path.in_path(&filling))
            .map_err(|error| Failure::transient(Reason::Malformed, error.to_string()))?;
        let answer = self.call(&own, method, &target, body.as_ref(), &filling).await??;
        match answer.status {
            status if status.is_success() => Ok(()),
            StatusCode::GONE => Ok(()),
            StatusCode::NOT_FOUND if *missing_is_gone => Ok(()),
            _ => {
                let secrets = [text_of(&own)?];
                let asked = Asked { scopes: &[], at: asked_at, now: self.clock.now(), secrets: &secrets };
                answer::judge_revocation(&Reply::from(&answer), &asked).map_err(|failure| match failure.class {
                    // The key stays good until somebody deletes it: a right can be given back.
                    Class::Refused => Failure { class: Class::Transient { retry_after: None }, ..failure },
                    _ => failure,
                })
            }
        }
    }

    async fn own_secret(&self) -> Result<Secret, Failure> {
        self.settings.secret.obtain().await.map_err(|error| Failure::transient(Reason::Secret, error.to_string()))
    }

    async fn call(
        &self,
        own: &Secret,
        method: &Method,
        remote: &Remote,
        body: Option<&Template>,
        filling: &Filling<'_>,
    ) -> Result<Result<Answer, FetchError>, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.extend(self.settings.headers.iter().cloned());
        let unfit = |error: String| Failure::transient(Reason::Secret, error);
        let Placed::Value(proof) = self.settings.auth.carry(own).map_err(|error| unfit(error.to_string()))? else {
            return Err(unfit("it signs, and is sent nowhere".to_owned()));
        };
        let place = match &self.settings.auth {
            Placement::Header { name, .. } => name.clone(),
            _ => AUTHORIZATION,
        };
        headers.insert(place, proof);
        let body = body.map(|body| body.in_json(filling).into_bytes());
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let body = Zeroizing::new(body.unwrap_or_default());
        Ok(self.fetcher.send(Call { method: method.clone(), remote, headers, body }).await)
    }
}

impl Source for KeyEndpoint {
    fn obtain(&self) -> Obtaining<'_> {
        Box::pin(self.ask())
    }

    fn kind(&self) -> &'static str {
        "key_endpoint"
    }

    fn revokes(&self) -> bool {
        true
    }

    fn revoke<'a>(&'a self, value: &'a Secret) -> Revoking<'a> {
        Box::pin(self.delete(value))
    }

    fn lasts(&self) -> bool {
        self.settings.expires.is_none()
    }
}

/// An answer, whose texts are wiped when it is done with.
struct Wiped(Value);

impl Wiped {
    /// A text that is not empty, or a number as it is written: some APIs count their keys.
    fn text(&self, pointer: &str) -> Option<Zeroizing<String>> {
        let text = match self.0.pointer(pointer)? {
            Value::String(text) if !text.is_empty() => text.clone(),
            Value::Number(number) if number.is_u64() => number.to_string(),
            _ => return None,
        };
        Some(Zeroizing::new(text))
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(members) => members.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn text_of(secret: &Secret) -> Result<&str, Failure> {
    secret.expose_to_issuer().map_err(|error| Failure::transient(Reason::Secret, error.to_string()))
}
