//! The Security Token Service: keys of a role that end by themselves, for who shows other keys or a JWT
//! (docs.aws.amazon.com/STS/latest/APIReference).
//!
//! ```text
//!  keys ─▶ AssumeRole, signed ──────────────┐
//!  JWT  ─▶ AssumeRoleWithWebIdentity ───────┴▶ XML judged ─▶ Issued | Failure
//! ```

use std::sync::Arc;
use std::time::Duration;

use form_urlencoded::Serializer;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use zeroize::Zeroizing;

use super::machine::Machine;
use super::{ends, fixed, issued, unusable};
use crate::authority::Endpoint;
use crate::clock::{Clock, Moment};
use crate::fetch::{Answer, Call, Fetcher, Remote, retry_after};
use crate::secret::{Reference, Secret};
use crate::sigv4::{self, Form, Keys, Payload, Signable};
use crate::text::redacted;
use crate::tls;
use crate::token::source::{BuildError, Class, Failure, Issued, Obtaining, Reason, Source};

/// `source = { kind = "aws_assume_role", ... }`, or `"aws_web_identity"`
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    pub url: Endpoint,
    /// For which region the call is signed, where the host does not say it.
    pub place: sigv4::Place,
    pub role: String,
    /// What the role's use is called in the records of AWS.
    pub session_name: String,
    pub external_id: Option<String>,
    pub lifetime: Duration,
    pub proof: Proof,
    pub tls: tls::Settings,
}

/// What proves that the role may be had.
#[derive(Clone, PartialEq, Debug)]
pub enum Proof {
    Keys(fixed::Settings),
    Machine(super::machine::Settings),
    /// A JWT that an identity provider signed, which the role trusts.
    WebIdentity(Reference),
}

pub struct Sts {
    settings: Settings,
    machine: Option<Machine>,
    remote: Remote,
    fetcher: Arc<Fetcher>,
    clock: Arc<dyn Clock>,
}

impl Settings {
    pub(super) fn kind(&self) -> &'static str {
        match self.proof {
            Proof::Keys(_) | Proof::Machine(_) => "aws_assume_role",
            Proof::WebIdentity(_) => "aws_web_identity",
        }
    }
}

impl Sts {
    /// # Errors
    /// When the TLS roots cannot be read.
    pub fn new(settings: Settings, fetcher: Arc<Fetcher>, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        let remote = Remote::new(settings.url.clone(), &settings.tls)?;
        let machine = match &settings.proof {
            Proof::Machine(machine) => Some(Machine::new(machine.clone(), fetcher.clone(), clock.clone())?),
            Proof::Keys(_) | Proof::WebIdentity(_) => None,
        };
        Ok(Self { settings, machine, remote, fetcher, clock })
    }

    async fn ask(&self) -> Result<Issued, Failure> {
        let mut shown = Zeroizing::new(String::new());
        let (body, keys) = match (&self.settings.proof, &self.machine) {
            (Proof::WebIdentity(token), _) => {
                let token = token.obtain().await.map_err(|error| unusable(&error))?;
                shown.push_str(token.expose_to_issuer().map_err(|error| unusable(&error))?);
                (self.form("AssumeRoleWithWebIdentity", Some(&shown)), None)
            }
            (Proof::Keys(keys), _) => (self.form("AssumeRole", None), Some(keys.obtain().await?)),
            (Proof::Machine(_), Some(machine)) => (self.form("AssumeRole", None), Some(machine.ask().await?.secret)),
            (Proof::Machine(_), None) => return Err(unusable(&"nobody is there to ask for keys")),
        };
        let asked_at = self.clock.now();
        let headers = match &keys {
            Some(keys) => self.signed(&body, keys, asked_at)?,
            None => HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(FORM))]),
        };
        if let Some(token) = headers.get(SESSION_TOKEN).and_then(|token| token.to_str().ok()) {
            shown.push_str(token);
        }
        let answer = self.fetcher.send(Call { method: Method::POST, remote: &self.remote, headers, body }).await?;
        judge(&answer, &shown, asked_at, self.clock.now())
    }

    fn form(&self, action: &str, token: Option<&str>) -> Zeroizing<Vec<u8>> {
        let Settings { role, session_name, external_id, lifetime, .. } = &self.settings;
        // In one piece from the start: growing would leave copies behind.
        let room = 4096 + 3 * token.map_or(0, str::len);
        let mut form = Serializer::new(String::with_capacity(room));
        form.append_pair("Action", action).append_pair("Version", "2011-06-15");
        form.append_pair("RoleArn", role).append_pair("RoleSessionName", session_name);
        form.append_pair("DurationSeconds", &lifetime.as_secs().to_string());
        form.extend_pairs(external_id.iter().map(|id| ("ExternalId", id)));
        form.extend_pairs(token.iter().map(|token| ("WebIdentityToken", token)));
        Zeroizing::new(form.finish().into_bytes())
    }

    fn signed(&self, body: &[u8], keys: &Secret, now: Moment) -> Result<HeaderMap, Failure> {
        let Endpoint { scheme, authority, path } = self.remote.endpoint();
        let scope = self.settings.place.scope(&authority.host);
        let scope = scope.ok_or_else(|| unusable(&"nothing says for which region the call is signed"))?;
        let request = Signable {
            method: "POST",
            host: &authority.to_header(*scheme),
            path,
            query: None,
            headers: &[("content-type", FORM)],
            payload: &Payload::of(body),
            form: Form::Header,
            at: now.wall,
        };
        let keys = Keys::of(keys).map_err(|error| unusable(&error))?;
        let signed = sigv4::signed(&request, scope, &keys).map_err(|error| unusable(&error))?;
        let mut headers: HeaderMap = signed.headers.into_iter().collect();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(FORM));
        Ok(headers)
    }
}

/// Where keys that end bring what makes them good.
const SESSION_TOKEN: &str = "x-amz-security-token";

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

impl Source for Sts {
    fn obtain(&self) -> Obtaining<'_> {
        Box::pin(self.ask())
    }

    fn kind(&self) -> &'static str {
        self.settings.kind()
    }
}

/// `shown` is what the call proved itself with, or nothing: it is never repeated.
fn judge(answer: &Answer, shown: &str, asked_at: Moment, now: Moment) -> Result<Issued, Failure> {
    let malformed = || Failure::transient(Reason::Malformed, "the answer of STS has not the form that it should have");
    let text = std::str::from_utf8(&answer.body).map_err(|_| malformed())?;
    match answer.status.as_u16() {
        200 => {}
        300..=399 => {
            let detail = format!("STS redirects ({}), and redirects are not followed", answer.status.as_u16());
            return Err(Failure::transient(Reason::Redirected, detail));
        }
        _ => return Err(refusal(answer, text, shown, now)),
    }
    let value = |name| element(text, name).ok_or_else(malformed);
    let token = value("SessionToken")?;
    let secret =
        Secret::of_aws(value("AccessKeyId")?.as_bytes(), value("SecretAccessKey")?.as_bytes(), Some(token.as_bytes()));
    let secret = secret.map_err(|error| Failure::transient(Reason::TokenCharset, error.to_string()))?;
    Ok(issued(secret, Some(ends(value("Expiration")?, asked_at, now)?)))
}

/// What stands in the one element of this name, if that is plain text.
fn element<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (value, rest) = rest.split_once(&format!("</{name}>"))?;
    let is_only = !rest.contains(&format!("<{name}>"));
    (is_only && !value.contains(['<', '&'])).then_some(value.trim())
}

/// STS says no, or cannot. Of its words the code is told, and the message where it is plain text.
fn refusal(answer: &Answer, text: &str, shown: &str, now: Moment) -> Failure {
    let status = answer.status.as_u16();
    let said = |name, most| element(text, name).map(|said| redacted(said, [shown], most));
    let code = said("Code", 100);
    let detail = match (&code, said("Message", 200)) {
        (None, _) => format!("STS answered {status}"),
        (Some(code), None) => format!("STS answered {status}: {code}"),
        (Some(code), Some(message)) => format!("STS answered {status}: {code} ({message})"),
    };
    let wait = answer.headers.get(http::header::RETRY_AFTER).and_then(|value| retry_after(value.as_bytes(), now));
    let transient = Class::Transient { retry_after: wait };
    let (reason, class) = match (status, code.as_deref()) {
        (429, _) | (_, Some("Throttling" | "ThrottlingException" | "RequestLimitExceeded")) => {
            (Reason::RateLimited, transient)
        }
        (408 | 425 | 500..=599, _) => (Reason::Status, transient),
        (_, Some("AccessDenied" | "AccessDeniedException")) => (Reason::AccessDenied, Class::Refused),
        (_, Some("InvalidClientTokenId" | "SignatureDoesNotMatch" | "InvalidAccessKeyId")) => {
            (Reason::InvalidClient, Class::Refused)
        }
        // What was shown has ended, and is read anew for the next call; or a clock is wrong.
        (_, Some("ExpiredToken" | "ExpiredTokenException" | "RequestExpired" | "IDPCommunicationError")) => {
            (Reason::InvalidGrant, transient)
        }
        (_, Some("InvalidIdentityToken" | "IDPRejectedClaim" | "InvalidToken")) => {
            (Reason::InvalidGrant, Class::Refused)
        }
        (_, Some("ValidationError" | "MalformedPolicyDocument" | "MissingParameter" | "InvalidParameterValue")) => {
            (Reason::InvalidRequest, Class::Refused)
        }
        (_, Some(_)) => (Reason::IssuerError, Class::Refused),
        (400..=499, None) => (Reason::Status, Class::Refused),
        (_, None) => (Reason::Status, transient),
    };
    Failure { reason, class, detail }
}

#[cfg(test)]
mod tests;
