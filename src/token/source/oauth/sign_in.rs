//! A sign-in: somebody tells the issuer, in a browser, that the proxy may act for them, and the first refresh token comes of it.
//!
//! ```text
//!  by a device  (RFC 8628)   ─▶ a code to type, anywhere ─▶ the issuer is asked whether it was typed ─┐
//!  by a browser (RFC 7636)   ─▶ a URL to open, here      ─▶ the browser comes back with a code ──────┴─▶ refresh token
//! ```
//!
//! Invariants: whatever comes back without the `state` of this sign-in is not of it; one from another issuer is refused; the code
//! that comes back is worth nothing without the verifier, which never leaves this process but for the token endpoint.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use form_urlencoded::Serializer;
use http::Uri;
use zeroize::Zeroizing;

use super::grant::Shown;
use super::{Issuer, OAuth, Posted, Settings as OAuthSettings, Unanswered};
use crate::authority::Endpoint;
use crate::clock::{Clock, Moment};
use crate::discovery::Purpose;
use crate::fetch::{Fetcher, Remote};
use crate::secret::Fingerprinter;
use crate::text::printable;
use crate::token::source::answer::{self, Reply};
use crate::token::source::{BuildError, Failure, Reason};

/// Where a sign-in begins, where the issuer does not say so itself.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Settings {
    pub device_authorization_url: Option<Endpoint>,
    pub authorization_url: Option<Endpoint>,
    /// Asked for besides the scopes of the token, by the sign-in alone: what makes an issuer give a refresh token.
    pub scope: Vec<String>,
}

/// How somebody signs in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// With any browser, by a code.
    Device,
    /// With a browser of this machine.
    Browser,
}

pub struct SignIn {
    oauth: OAuth,
    urls: Settings,
}

/// What somebody is asked to do, and how long that may take.
pub struct Prompt {
    pub url: String,
    /// What to type there.
    pub code: String,
    /// The same in one.
    pub complete: Option<String>,
    device_code: Zeroizing<String>,
    polling: Polling,
}

/// When the issuer is asked the next time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Polling {
    interval: Duration,
    ends: Moment,
}

/// What an answer means for the one who polls.
#[derive(PartialEq, Eq, Debug)]
enum Next {
    Again,
    Over,
}

/// A sign-in that a browser of this machine makes.
#[derive(Clone)]
pub struct Visit {
    /// What to open.
    pub url: String,
    state: String,
    verifier: Zeroizing<String>,
    redirect: String,
    /// Who has to have sent the browser back; `None`: nobody knows its name.
    issuer: Option<String>,
    /// Whether it says so.
    names_itself: bool,
}

/// What a browser that came back brings.
pub enum Returned {
    /// It is not of this sign-in.
    Stranger,
    Code(Zeroizing<String>),
    Failed(Failure),
}

impl SignIn {
    /// # Errors
    /// As [`OAuth::new`].
    pub fn new(
        settings: OAuthSettings,
        urls: Settings,
        fetcher: Arc<Fetcher>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, BuildError> {
        Ok(Self { oauth: OAuth::new(settings, fetcher, clock)?, urls })
    }

    /// The ways that there are, the one first that works anywhere.
    ///
    /// # Errors
    /// When the issuer does not tell.
    pub async fn ways(&self) -> Result<Vec<Way>, Failure> {
        let mut ways = Vec::new();
        for (way, purpose) in [(Way::Device, Purpose::DeviceAuthorization), (Way::Browser, Purpose::Authorization)] {
            if self.url(purpose).await?.is_some() {
                ways.push(way);
            }
        }
        Ok(ways)
    }

    async fn url(&self, purpose: Purpose) -> Result<Option<Endpoint>, Failure> {
        let named = match purpose {
            Purpose::DeviceAuthorization => &self.urls.device_authorization_url,
            _ => &self.urls.authorization_url,
        };
        match named {
            Some(url) => Ok(Some(url.clone())),
            None => self.oauth.endpoints.told(purpose, &self.oauth.fetcher, &*self.oauth.clock).await,
        }
    }

    fn scope(&self) -> String {
        let all: Vec<&str> = self.oauth.settings.scope.iter().chain(&self.urls.scope).map(String::as_str).collect();
        all.join(" ")
    }

    async fn needed(&self, purpose: Purpose) -> Result<Endpoint, Failure> {
        let none = || Failure::refused(Reason::InvalidTarget, format!("the issuer has no `{}`", purpose.name()));
        self.url(purpose).await?.ok_or_else(none)
    }

    /// Asks for a code that somebody types.
    ///
    /// # Errors
    /// When the issuer gives none.
    pub async fn prompt(&self) -> Result<Prompt, Failure> {
        let endpoint = self.needed(Purpose::DeviceAuthorization).await?;
        let remote = Remote::new(endpoint, &self.oauth.settings.tls);
        let remote = remote.map_err(|error| Failure::refused(Reason::Tls, error.to_string()))?;
        let posted =
            self.oauth.post_to(&remote, &Shown::scope(&self.scope()), None).await.map_err(Unanswered::failure)?;
        let told: Told = self.oauth.judged_as(&posted, answer::judge_form)?;
        told.prompt(posted.at)
    }

    /// Waits until somebody has typed the code.
    ///
    /// # Errors
    /// When they say no, or the time is over, or the issuer gives no refresh token.
    pub async fn wait(&self, prompt: Prompt) -> Result<Zeroizing<String>, Failure> {
        let Prompt { device_code, mut polling, .. } = prompt;
        loop {
            tokio::time::sleep(polling.interval).await;
            if polling.ends.reached(self.oauth.clock.now()) {
                return Err(Failure::refused(Reason::InvalidGrant, "nobody has signed in in time"));
            }
            match self.oauth.post(&Shown::device_code(&device_code)).await {
                Ok(posted) => {
                    let error = answer::error(&Reply::from(&posted.answer));
                    match polling.follow(error.as_deref(), posted.answer.status.is_server_error()) {
                        Next::Again => {}
                        Next::Over => return self.refresh_token(&posted),
                    }
                }
                // Where the network is gone for a while, somebody may type all the same (RFC 8628, section 3.5).
                Err(_) => polling.slower(),
            }
        }
    }

    /// Begins a sign-in whose browser comes back to `redirect`, a URL of this machine.
    ///
    /// # Errors
    /// When the issuer does not say where it begins.
    pub async fn visit(&self, redirect: &str) -> Result<Visit, Failure> {
        let endpoint = self.needed(Purpose::Authorization).await?;
        let settings = &self.oauth.settings;
        let (state, verifier) = (random(), Zeroizing::new(random()));
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
        let scope = self.scope();
        let id = settings.client.as_ref().map(|client| client.id.as_str());
        let mut query = Serializer::new(String::new());
        query.append_pair("response_type", "code").append_pair("redirect_uri", redirect).append_pair("state", &state);
        query.append_pair("code_challenge", &challenge).append_pair("code_challenge_method", "S256");
        query.extend_pairs(id.map(|id| ("client_id", id)));
        query.extend_pairs((!scope.is_empty()).then_some(("scope", &scope)));
        query.extend_pairs(settings.audience.iter().map(|audience| ("audience", audience)));
        query.extend_pairs(settings.resource.iter().map(|resource| ("resource", resource)));
        query.extend_pairs(settings.extra.iter().map(|(name, value)| (name, value)));
        let issuer = match &settings.issuer {
            Issuer::Named { name, .. } => Some(name.clone()),
            Issuer::At(_) => None,
        };
        let names_itself = self.oauth.endpoints.names_itself();
        let url = format!("{endpoint}?{}", query.finish());
        Ok(Visit { url, state, verifier, redirect: redirect.to_owned(), issuer, names_itself })
    }

    /// Shows the issuer the code that a browser brought back.
    ///
    /// # Errors
    /// When it gives no refresh token for it.
    pub async fn redeem(&self, visit: &Visit, code: &Zeroizing<String>) -> Result<Zeroizing<String>, Failure> {
        let shown = Shown::authorization_code(code, &visit.verifier, &visit.redirect);
        let posted = self.oauth.post(&shown).await.map_err(Unanswered::failure)?;
        self.refresh_token(&posted)
    }

    /// What comes of a sign-in. The access token beside it is let go of: the proxy has its own ones issued, and records them.
    fn refresh_token(&self, posted: &Posted) -> Result<Zeroizing<String>, Failure> {
        self.oauth.judged(posted)?;
        answer::refresh_token(&Reply::from(&posted.answer)).ok_or_else(|| {
            let detail =
                "the issuer gave no refresh token: many want `sign_in_scope = \"offline_access\"`, or a field in `extra`";
            Failure::refused(Reason::TokenMissing, detail)
        })
    }
}

/// The answer of a device authorization endpoint (RFC 8628, section 3.2).
#[derive(serde::Deserialize)]
struct Told {
    device_code: String,
    user_code: String,
    #[serde(alias = "verification_url")]
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u64,
    interval: Option<u64>,
}

impl Told {
    /// What of it may be shown to somebody who does as it says.
    fn prompt(self, asked: Moment) -> Result<Prompt, Failure> {
        let urls = [Some(&self.verification_uri), self.verification_uri_complete.as_ref()];
        let is_code =
            self.user_code.len() <= LONGEST_CODE && self.user_code.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !urls.into_iter().flatten().all(|url| may_be_opened(url))
            || !is_code
            || self.user_code.is_empty()
            || self.device_code.is_empty()
        {
            let detail = "the issuer's answer names no code to type, or no https URL to type it at";
            return Err(Failure::transient(Reason::Malformed, detail));
        }
        let shown = |url: &str| printable(url, LONGEST_URL);
        let ends = asked.after(Duration::from_secs(self.expires_in).min(LONGEST));
        let interval = Duration::from_secs(self.interval.unwrap_or(USUAL)).clamp(SHORTEST, SLOWEST);
        Ok(Prompt {
            url: shown(&self.verification_uri),
            code: self.user_code,
            complete: self.verification_uri_complete.as_deref().map(shown),
            device_code: Zeroizing::new(self.device_code),
            polling: Polling { interval, ends },
        })
    }
}

/// Whether a person may be sent there: under TLS, or to this machine.
fn may_be_opened(url: &str) -> bool {
    let Ok(url) = url.parse::<Uri>() else { return false };
    let host = url.host().unwrap_or_default();
    match url.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => matches!(host, "127.0.0.1" | "[::1]" | "localhost"),
        _ => false,
    }
}

impl Prompt {
    /// For how long the code is good.
    pub fn lasts(&self, now: Moment) -> Duration {
        self.polling.ends.remaining(now)
    }
}

impl Polling {
    fn follow(&mut self, error: Option<&str>, is_down: bool) -> Next {
        match error {
            Some("authorization_pending") => {}
            Some("slow_down") => self.slower(),
            Some(_) => return Next::Over,
            None if is_down => self.slower(),
            None => return Next::Over,
        }
        Next::Again
    }

    fn slower(&mut self) {
        self.interval = (self.interval + SLOWER).min(SLOWEST);
    }
}

impl Visit {
    /// Judges the query that a browser came back with.
    pub fn returned(&self, query: &str) -> Returned {
        let all = |name: &str| -> Vec<Cow<'_, str>> {
            let pairs = form_urlencoded::parse(query.as_bytes());
            pairs.filter(|(written, _)| written == name).map(|(_, value)| value).collect()
        };
        let one = |name: &str| match all(name).as_slice() {
            [value] => Some(value.to_string()),
            _ => None,
        };
        if one("state").as_deref() != Some(&self.state) {
            return Returned::Stranger;
        }
        let (issuer, told) = (self.issuer.as_deref(), one("iss"));
        let is_other = issuer.is_some() && (told.is_some() || self.names_itself) && told.as_deref() != issuer;
        if is_other {
            let detail = "the browser was sent back by another issuer than the one of the config (RFC 9207)";
            return Returned::Failed(Failure::refused(Reason::InvalidGrant, detail));
        }
        match (one("code").map(Zeroizing::new), one("error")) {
            (Some(code), None) if !code.is_empty() => Returned::Code(code),
            (None, Some(error)) => {
                let reason = if error == "access_denied" { Reason::AccessDenied } else { Reason::IssuerError };
                let said: Vec<String> = [Some(error), one("error_description")].into_iter().flatten().collect();
                let detail = format!("the issuer says: {}", printable(&said.join(": "), LONGEST_SAID));
                Returned::Failed(Failure::refused(reason, detail))
            }
            _ => {
                let detail = "the browser came back with neither a code nor an error";
                Returned::Failed(Failure::refused(Reason::Malformed, detail))
            }
        }
    }
}

/// 32 random bytes, as a verifier and a state are written (RFC 7636, section 4.1).
fn random() -> String {
    URL_SAFE_NO_PAD.encode(Fingerprinter::random_key())
}

/// Between two polls, where the issuer does not say (RFC 8628, section 3.2), and what it may say.
const USUAL: u64 = 5;
const SHORTEST: Duration = Duration::from_secs(1);
const SLOWEST: Duration = Duration::from_secs(60);

/// RFC 8628, section 3.5.
const SLOWER: Duration = Duration::from_secs(5);

/// Nobody types for longer.
const LONGEST: Duration = Duration::from_secs(1800);

const LONGEST_CODE: usize = 64;
const LONGEST_URL: usize = 1000;
const LONGEST_SAID: usize = 200;

#[cfg(test)]
mod tests;
