//! Requests that prove themselves by an HMAC (RFC 2104) over what a template makes of them: the key is never sent.
//!
//! ```text
//!  request, time, nonce ─▶ message ─▶ HMAC ─▶ signature ─▶ headers
//! ```
//!
//! Invariant: one message has one time and one nonce, and its headers say the same ones.

mod template;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};

use self::template::Place;
pub use self::template::{NoTemplate, Template};
use crate::secret::Secret;
pub use crate::secret::{KeyForm, NotAKey};
use crate::text;

/// How requests are signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipe {
    pub algorithm: Algorithm,
    pub encoding: Encoding,
    /// How the key is written in the token.
    pub key: KeyForm,
    pub message: Template,
    /// What is sent: the signature in one of them at least.
    pub headers: Vec<(HeaderName, Template)>,
    names: Arc<[HeaderName]>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    Sha256,
    Sha384,
    Sha512,
}

/// How the signature is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    Hex,
    Base64,
}

/// What signs: wiped when the last request that it signs lets go.
pub struct Key(hmac::Key);

/// A request as it is going to be sent.
pub struct Signable<'a> {
    pub method: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// Empty where the recipe does not [need](Recipe::needs_body) it.
    pub body: &'a [u8],
    /// Since the Unix epoch.
    pub at: Duration,
}

/// A header cannot hold what its template makes.
#[derive(Debug, thiserror::Error)]
#[error("what is signed cannot stand in a header")]
pub struct Unwritable;

impl Recipe {
    pub fn new(
        algorithm: Algorithm,
        encoding: Encoding,
        key: KeyForm,
        message: Template,
        headers: Vec<(HeaderName, Template)>,
    ) -> Self {
        let names = headers.iter().map(|(name, _)| name.clone()).collect();
        Self { algorithm, encoding, key, message, headers, names }
    }

    /// The headers that are written.
    pub fn names(&self) -> &Arc<[HeaderName]> {
        &self.names
    }

    /// Whether the body has to be known.
    pub fn needs_body(&self) -> bool {
        let all = self.headers.iter().map(|(_, template)| template).chain([&self.message]);
        all.into_iter().any(|template| template.places().any(Place::is_of_body))
    }

    /// # Errors
    /// When the token is not such a key.
    pub fn key(&self, token: &Secret) -> Result<Key, NotAKey> {
        let algorithm = match self.algorithm {
            Algorithm::Sha256 => hmac::HMAC_SHA256,
            Algorithm::Sha384 => hmac::HMAC_SHA384,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
        };
        Ok(Key(token.hmac_key(algorithm, self.key)?))
    }

    /// The headers that a request is sent with.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn sign(&self, key: &Key, request: &Signable<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, Unwritable> {
        let mut nonce = [0; 16];
        rand::fill(&mut nonce).map_err(|_| Unwritable)?;
        let nonce = text::hex(&nonce);
        let message = self.message.filled(|place| fill(place, request, &nonce, ""));
        let tag = hmac::sign(&key.0, &message);
        let signature = match self.encoding {
            Encoding::Hex => text::hex(tag.as_ref()),
            Encoding::Base64 => STANDARD.encode(tag.as_ref()),
        };
        let header = |(name, template): &(HeaderName, Template)| {
            let value = template.filled(|place| fill(place, request, &nonce, &signature));
            let mut value = HeaderValue::from_bytes(&value).map_err(|_| Unwritable)?;
            value.set_sensitive(true);
            Ok((name.clone(), value))
        };
        self.headers.iter().map(header).collect()
    }
}

fn fill(place: Place, request: &Signable<'_>, nonce: &str, signature: &str) -> Vec<u8> {
    let hashed = || digest(&SHA256, request.body);
    match place {
        Place::Method => request.method.into(),
        Place::Host => request.host.into(),
        Place::Path => request.path.into(),
        Place::Query => request.query.unwrap_or_default().into(),
        Place::Target => match request.query {
            Some(query) => [request.path, "?", query].concat().into_bytes(),
            None => request.path.into(),
        },
        Place::Timestamp => request.at.as_secs().to_string().into_bytes(),
        Place::TimestampMillis => request.at.as_millis().to_string().into_bytes(),
        Place::Time => time(request.at).into_bytes(),
        Place::Nonce => nonce.into(),
        Place::Body => request.body.to_vec(),
        Place::BodySha256 => text::hex(hashed().as_ref()).into_bytes(),
        Place::BodySha256Base64 => STANDARD.encode(hashed().as_ref()).into_bytes(),
        Place::Signature => signature.into(),
    }
}

/// `2027-06-30T12:00:00Z`
fn time(since_epoch: Duration) -> String {
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
