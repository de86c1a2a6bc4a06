//! OAuth 2.0: a token endpoint is shown a grant, and perhaps who asks, and issues a token.
//!
//! ```text
//! grant (client credentials | an assertion | another token) + client's proof ─▶ token endpoint ─▶ answer judged
//! ```
//!
//! What differs between the kinds of grants stands in `grant`; all else is the same for each of them.

pub mod assertion;
pub mod bound;
mod endpoints;
pub mod grant;
mod revocation;
mod service_account;
pub mod sign_in;

use std::sync::{Arc, Mutex, PoisonError};

use form_urlencoded::{Serializer, byte_serialize};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use zeroize::Zeroizing;

use self::bound::Binding;
use self::endpoints::Endpoints;
use super::answer::{self, Asked, Reply};
use super::{BuildError, Failure, Issued, IssuerChange, Obtaining, Reason, Revoking, Source};
use crate::authority::Endpoint;
use crate::clock::{Clock, Moment};
use crate::dpop::{self, Key};
use crate::fetch::{Answer, Call, Fetcher, Remote};
use crate::secret::{self, Reference, Secret};
use crate::tls;
pub use grant::Grant;

/// `source = { kind = ..., ... }` of the kinds that ask a token endpoint.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// As the config names it.
    pub kind: &'static str,
    pub grant: Grant,
    pub issuer: Issuer,
    /// Where the issuer is told that a token is void (RFC 7009), where it does not say so itself.
    pub revocation_url: Option<Endpoint>,
    /// What its tokens are bound to, if they are.
    pub dpop: Option<Binding>,
    /// Who asks; `None`: the grant alone says enough.
    pub client: Option<Client>,
    /// What is asked for: `scope`, or the token's scopes joined by spaces; empty: the parameter is not sent.
    pub scope: Vec<String>,
    pub audience: Vec<String>,
    /// RFC 8707
    pub resource: Vec<String>,
    /// Further form fields.
    pub extra: Vec<(String, String)>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub tls: tls::Settings,
}

/// Who is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Issuer {
    /// Whoever answers at this token endpoint.
    At(Endpoint),
    /// It tells itself where its endpoints are (RFC 8414).
    Named {
        /// As it calls itself, byte for byte.
        name: String,
        /// The same, as a URL.
        endpoint: Endpoint,
    },
}

impl Issuer {
    /// For whom a proof is that is shown to it: its name, or else its token endpoint.
    pub fn audience(&self) -> String {
        match self {
            Self::At(token_url) => token_url.to_string(),
            Self::Named { name, .. } => name.clone(),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    pub id: String,
    pub auth: Auth,
}

/// How the client proves itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Auth {
    /// Not at all: the grant proves enough, and the client only says who it is.
    Nothing,
    /// With its secret in `Authorization` (RFC 6749, section 2.3.1).
    Basic(Reference),
    /// With its secret in the form (RFC 6749, section 2.3.1).
    Post(Reference),
    /// With its certificate, which is that of `tls` (RFC 8705, section 2).
    Mtls,
    /// With a JWT that it signs (RFC 7523, section 2.2).
    PrivateKeyJwt(Box<assertion::Settings>),
    /// With a JWT that somebody else signed for it, as a cluster does for its pods (RFC 7523, section 2.2).
    Assertion(Reference),
}

pub struct OAuth {
    settings: Settings,
    endpoints: Endpoints,
    /// What its tokens are bound to since the last call.
    key: Mutex<Option<Arc<Key>>>,
    fetcher: Arc<Fetcher>,
    clock: Arc<dyn Clock>,
}

/// What came back, of what was asked when.
pub(super) struct Posted {
    pub answer: Answer,
    at: Moment,
    /// What the issuer may not make us repeat.
    secrets: Vec<Zeroizing<String>>,
}

/// Why nothing came back.
pub(super) enum Unanswered {
    /// The issuer has not got anything.
    Unsent(Failure),
    /// It may have got it, and answered.
    Lost(Failure),
}

impl Unanswered {
    fn failure(self) -> Failure {
        match self {
            Self::Unsent(failure) | Self::Lost(failure) => failure,
        }
    }
}

/// The client's proof, in each form in which it is sent. All of it is wiped with this.
#[derive(Default)]
struct Proof {
    /// What goes into the `Authorization` header, or nothing.
    basic: Option<Secret>,
    /// The fields of the form.
    posted: Vec<(&'static str, Zeroizing<String>)>,
    /// What the issuer may not make us repeat.
    forms: Vec<Zeroizing<String>>,
}

impl OAuth {
    /// # Errors
    /// When a form field is set twice, or the TLS roots cannot be read.
    pub fn new(settings: Settings, fetcher: Arc<Fetcher>, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        if let Some((name, _)) = settings.extra.iter().find(|(name, _)| OWN_FIELDS.contains(&name.as_str())) {
            return Err(BuildError::ReservedField(name.clone()));
        }
        if let Grant::JwtBearer(grant::Assertion::Signed(signed)) = &settings.grant {
            signed.judge()?;
        }
        let endpoints = Endpoints::new(&settings)?;
        Ok(Self { settings, endpoints, key: Mutex::default(), fetcher, clock })
    }

    async fn ask(&self) -> Result<Issued, Failure> {
        let shown = self.settings.grant.show(&self.settings, self.clock.now()).await?;
        let posted = self.post(&shown).await.map_err(Unanswered::failure)?;
        self.judged(&posted)
    }

    /// Shows the token endpoint a grant.
    pub(super) async fn post(&self, shown: &grant::Shown) -> Result<Posted, Unanswered> {
        let remote = self.endpoints.token(&self.fetcher, &*self.clock).await.map_err(Unanswered::Unsent)?;
        let posted = match self.binding_key().await.map_err(Unanswered::Unsent)? {
            Some(key) => self.post_bound(&remote, shown, &key).await,
            None => self.post_to(&remote, shown, None).await,
        };
        if !posted.as_ref().is_ok_and(|posted| is_of_an_issuer(posted.answer.status)) {
            self.endpoints.doubt();
        }
        posted
    }

    /// Shows an endpoint of the issuer who asks, and for what; and that a key of ours is there to be bound to.
    async fn post_to(
        &self,
        remote: &Remote,
        shown: &grant::Shown,
        bound: Option<HeaderValue>,
    ) -> Result<Posted, Unanswered> {
        let proof = self.proof().await.map_err(Unanswered::Unsent)?;
        let mut headers = self.headers(&proof).map_err(Unanswered::Unsent)?;
        headers.extend(bound.map(|bound| (dpop::PROOF, bound)));
        let call = Call { method: Method::POST, remote, headers, body: self.form(shown, &proof.posted) };
        let at = self.clock.now();
        let answer = self.fetcher.send(call).await.map_err(|error| match error.may_have_arrived() {
            true => Unanswered::Lost(error.into()),
            false => Unanswered::Unsent(error.into()),
        })?;
        let secrets = proof.forms.iter().chain(&shown.secrets).cloned().collect();
        Ok(Posted { answer, at, secrets })
    }

    /// The token of an answer.
    pub(super) fn judged(&self, posted: &Posted) -> Result<Issued, Failure> {
        self.judged_as(posted, |reply, asked| match &self.settings.grant {
            _ if self.settings.dpop.is_some() => answer::judge_bound(reply, asked),
            Grant::TokenExchange(_) => answer::judge_exchange(reply, asked),
            Grant::ClientCredentials | Grant::JwtBearer(_) | Grant::RefreshToken => answer::judge(reply, asked),
        })
    }

    fn judged_as<T>(
        &self,
        posted: &Posted,
        judge: impl FnOnce(&Reply<'_>, &Asked<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let secrets: Vec<&str> = posted.secrets.iter().map(|secret| secret.as_str()).collect();
        let asked = Asked { scopes: &self.settings.scope, at: posted.at, now: self.clock.now(), secrets: &secrets };
        judge(&Reply::from(&posted.answer), &asked)
    }

    async fn proof(&self) -> Result<Proof, Failure> {
        let Some(client) = &self.settings.client else { return Ok(Proof::default()) };
        match &client.auth {
            // Or it was given in the handshake.
            Auth::Nothing | Auth::Mtls => Ok(Proof::default()),
            Auth::Basic(secret) | Auth::Post(secret) => {
                let plain = text_of(secret).await?;
                let encoded = encode(&plain);
                let basic = secret::basic(&encode(&client.id), encoded.as_bytes());
                let (header, posted) = if matches!(client.auth, Auth::Post(_)) {
                    (None, vec![("client_secret", plain.clone())])
                } else {
                    (Some(Secret::new(basic.as_bytes())), Vec::new())
                };
                Ok(Proof { basic: header, posted, forms: vec![plain, encoded, basic] })
            }
            Auth::PrivateKeyJwt(settings) => {
                Ok(Proof::assertion(assertion::sign(settings, &client.id, self.clock.now()).await?))
            }
            Auth::Assertion(signed) => Ok(Proof::assertion(text_of(signed).await?)),
        }
    }

    fn headers(&self, proof: &Proof) -> Result<HeaderMap, Failure> {
        let mut headers: HeaderMap = self.settings.headers.iter().cloned().collect();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        if let Some(basic) = &proof.basic {
            let value = basic.header_value("Basic ", "");
            let value = value.map_err(|error| Failure::transient(Reason::Secret, error.to_string()))?;
            headers.insert(AUTHORIZATION, value);
        }
        Ok(headers)
    }

    fn form(&self, shown: &grant::Shown, posted: &[(&'static str, Zeroizing<String>)]) -> Zeroizing<Vec<u8>> {
        let settings = &self.settings;
        let scope = settings.scope.join(" ");
        let mut fields: Vec<(&str, &str)> = shown.fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        fields.extend((!scope.is_empty() && !shown.names_scope).then_some(("scope", scope.as_str())));
        fields.extend(settings.audience.iter().map(|audience| ("audience", audience.as_str())));
        fields.extend(settings.resource.iter().map(|resource| ("resource", resource.as_str())));
        fields.extend(settings.extra.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        fields.extend(self.own_name());
        fields.extend(posted.iter().map(|(name, value)| (*name, value.as_str())));
        form_of(&fields)
    }

    /// Who proves itself in the header says there who it is, too.
    fn own_name(&self) -> Option<(&'static str, &str)> {
        let client = self.settings.client.as_ref()?;
        let names_itself = !matches!(client.auth, Auth::Basic(_));
        names_itself.then_some(("client_id", client.id.as_str()))
    }
}

impl Source for OAuth {
    fn obtain(&self) -> Obtaining<'_> {
        Box::pin(self.ask())
    }

    fn kind(&self) -> &'static str {
        self.settings.kind
    }

    fn revokes(&self) -> bool {
        self.endpoints.has_revocation()
    }

    fn revoke<'a>(&'a self, value: &'a Secret) -> Revoking<'a> {
        Box::pin(self.tell_void(value))
    }

    /// A key that lies somewhere else may be another one by then.
    fn outlives_us(&self) -> bool {
        self.settings.dpop.as_ref().is_none_or(|binding| *binding == Binding::Made)
    }

    fn proof_key(&self) -> Option<Arc<Key>> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn go_on_with(&self, key: Arc<Key>) {
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }

    fn issuer_changes(&self) -> Vec<IssuerChange> {
        self.endpoints.changes()
    }
}

impl Proof {
    fn assertion(signed: Zeroizing<String>) -> Self {
        let posted = vec![
            ("client_assertion_type", Zeroizing::new(ASSERTION_TYPE.to_owned())),
            ("client_assertion", signed.clone()),
        ];
        Self { basic: None, posted, forms: vec![signed] }
    }
}

/// What a token endpoint answers with (RFC 6749, section 5), or whoever stands before one that is there.
fn is_of_an_issuer(status: StatusCode) -> bool {
    !status.is_redirection()
        && !matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE)
}

/// A secret as it is now.
pub(super) async fn text_of(secret: &Reference) -> Result<Zeroizing<String>, Failure> {
    let unusable = |detail| Failure::transient(Reason::Secret, detail);
    let secret = secret.obtain().await.map_err(|error| unusable(error.to_string()))?;
    let plain = secret.expose_to_issuer().map_err(|error| unusable(error.to_string()))?;
    Ok(Zeroizing::new(plain.to_owned()))
}

/// Room for all of it, each byte percent-encoded: a buffer that grows leaves copies behind that nobody wipes.
fn form_of(fields: &[(&str, &str)]) -> Zeroizing<Vec<u8>> {
    let room = fields.iter().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
    let form = Serializer::new(String::with_capacity(room)).extend_pairs(fields).finish();
    Zeroizing::new(form.into_bytes())
}

/// As a form writes it (RFC 6749, appendix B).
fn encode(text: &str) -> Zeroizing<String> {
    let mut encoded = Zeroizing::new(String::with_capacity(3 * text.len()));
    encoded.extend(byte_serialize(text.as_bytes()));
    encoded
}

/// Form fields that the source itself sends, whatever its grant.
pub const OWN_FIELDS: [&str; 23] = [
    "grant_type",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "scope",
    "audience",
    "resource",
    "assertion",
    "subject_token",
    "subject_token_type",
    "actor_token",
    "actor_token_type",
    "requested_token_type",
    "refresh_token",
    "device_code",
    "code",
    "code_verifier",
    "code_challenge",
    "code_challenge_method",
    "redirect_uri",
    "response_type",
    "state",
];

/// RFC 7523, section 2.2.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

#[cfg(test)]
mod tests;
