//! OAuth 2.0 client credentials (RFC 6749, section 4.4): we prove ourselves to a token endpoint, and it issues a token.

pub mod assertion;
mod revocation;

use std::sync::Arc;

use form_urlencoded::{Serializer, byte_serialize};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use zeroize::Zeroizing;

use super::answer::{self, Asked, Reply};
use super::{BuildError, Failure, Issued, Obtaining, Reason, Revoking, Source, nobody_to_tell};
use crate::authority::Endpoint;
use crate::clock::Clock;
use crate::fetch::{Call, Fetcher, Remote};
use crate::secret::{self, Reference, Secret};
use crate::tls;

/// `source = { kind = "client_credentials", ... }`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub token_url: Endpoint,
    /// Where the issuer is told that a token is void (RFC 7009).
    pub revocation_url: Option<Endpoint>,
    pub client_id: String,
    pub auth: Auth,
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

/// How the client proves itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Auth {
    /// With its secret in `Authorization` (RFC 6749, section 2.3.1).
    Basic(Reference),
    /// With its secret in the form (RFC 6749, section 2.3.1).
    Post(Reference),
    /// With its certificate, which is that of `tls` (RFC 8705, section 2).
    Mtls,
    /// With a JWT that it signs (RFC 7523, section 2.2).
    PrivateKeyJwt(Box<assertion::Settings>),
}

pub struct ClientCredentials {
    settings: Settings,
    remote: Remote,
    revocation: Option<Remote>,
    fetcher: Arc<Fetcher>,
    clock: Arc<dyn Clock>,
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

impl ClientCredentials {
    /// # Errors
    /// When a form field is set twice, or the TLS roots cannot be read.
    pub fn new(settings: Settings, fetcher: Arc<Fetcher>, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        if let Some((name, _)) = settings.extra.iter().find(|(name, _)| RESERVED.contains(&name.as_str())) {
            return Err(BuildError::ReservedField(name.clone()));
        }
        let remote = Remote::new(settings.token_url.clone(), &settings.tls)?;
        let revocation = settings.revocation_url.clone();
        let revocation = revocation.map(|endpoint| Remote::new(endpoint, &settings.tls)).transpose()?;
        Ok(Self { settings, remote, revocation, fetcher, clock })
    }

    async fn ask(&self) -> Result<Issued, Failure> {
        let proof = self.proof()?;
        let call = Call {
            method: Method::POST,
            remote: &self.remote,
            headers: self.headers(&proof)?,
            body: self.form(&proof.posted),
        };
        let asked_at = self.clock.now();
        let answer = self.fetcher.send(call).await?;
        let secrets: Vec<&str> = proof.forms.iter().map(|form| form.as_str()).collect();
        let asked = Asked { scopes: &self.settings.scope, at: asked_at, now: self.clock.now(), secrets: &secrets };
        answer::judge(&Reply::from(&answer), &asked)
    }

    fn proof(&self) -> Result<Proof, Failure> {
        let (secret, is_posted) = match &self.settings.auth {
            Auth::Basic(secret) => (secret, false),
            Auth::Post(secret) => (secret, true),
            // It was given in the handshake.
            Auth::Mtls => return Ok(Proof::default()),
            Auth::PrivateKeyJwt(settings) => {
                let signed = assertion::sign(settings, &self.settings.client_id, self.clock.now())?;
                let posted = vec![
                    ("client_assertion_type", Zeroizing::new(ASSERTION_TYPE.to_owned())),
                    ("client_assertion", signed.clone()),
                ];
                return Ok(Proof { basic: None, posted, forms: vec![signed] });
            }
        };
        let unusable = |detail| Failure::transient(Reason::Secret, detail);
        let secret = secret.resolve().map_err(|error| unusable(error.to_string()))?;
        let plain = secret.expose_to_issuer().map_err(|error| unusable(error.to_string()))?;
        let encoded = encode(plain);
        let basic = secret::basic(&encode(&self.settings.client_id), encoded.as_bytes());
        let plain = Zeroizing::new(plain.to_owned());
        let (header, posted) = if is_posted {
            (None, vec![("client_secret", plain.clone())])
        } else {
            (Some(Secret::new(basic.as_bytes())), Vec::new())
        };
        Ok(Proof { basic: header, posted, forms: vec![plain, encoded, basic] })
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

    fn form(&self, posted: &[(&'static str, Zeroizing<String>)]) -> Zeroizing<Vec<u8>> {
        let settings = &self.settings;
        let scope = settings.scope.join(" ");
        let mut fields = vec![("grant_type", "client_credentials")];
        fields.extend((!scope.is_empty()).then_some(("scope", scope.as_str())));
        fields.extend(settings.audience.iter().map(|audience| ("audience", audience.as_str())));
        fields.extend(settings.resource.iter().map(|resource| ("resource", resource.as_str())));
        fields.extend(settings.extra.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        fields.extend(self.own_name());
        fields.extend(posted.iter().map(|(name, value)| (*name, value.as_str())));
        form_of(&fields)
    }

    /// Who proves itself in the header says there who it is, too.
    fn own_name(&self) -> Option<(&'static str, &str)> {
        let names_itself = !matches!(self.settings.auth, Auth::Basic(_));
        names_itself.then_some(("client_id", self.settings.client_id.as_str()))
    }
}

impl Source for ClientCredentials {
    fn obtain(&self) -> Obtaining<'_> {
        Box::pin(self.ask())
    }

    fn kind(&self) -> &'static str {
        "client_credentials"
    }

    fn revokes(&self) -> bool {
        self.revocation.is_some()
    }

    fn revoke<'a>(&'a self, value: &'a Secret) -> Revoking<'a> {
        match &self.revocation {
            Some(remote) => Box::pin(self.tell_void(remote, value)),
            None => Box::pin(async { Err(nobody_to_tell()) }),
        }
    }
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

/// Form fields of our own.
const RESERVED: [&str; 6] =
    ["grant_type", "client_id", "client_secret", "client_assertion", "client_assertion_type", "scope"];

/// RFC 7523, section 2.2.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

#[cfg(test)]
mod tests;
