//! Signature Version 4 (docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html): requests that prove themselves with
//! keys that are never sent.
//!
//! ```text
//!  head + what is said of the body ─▶ canonical request ─▶ signature ─▶ headers, or pairs of the query
//!                                                             └─▶ signatures of the chunks that follow: see `chunks`
//! ```
//!
//! Invariant: what is signed is what is sent. The one form that differs is the path of S3, which signs the one encoding
//! that it knows of a key, whatever the client wrote.

pub mod chunks;
mod place;

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_lc_rs::digest::{SHA256, digest};
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use http::{HeaderName, HeaderValue};
use percent_encoding::{percent_decode_str, percent_encode};

use crate::secret::{ENCODED_IN_QUERIES, NotAws, Secret};
use crate::text;
pub use chunks::Chunks;
pub use place::Place;

/// What signs: wiped when the last request that it signs lets go.
pub struct Keys(Identity);

impl Keys {
    /// # Errors
    /// When the secret is another one.
    pub fn of(secret: &Secret) -> Result<Self, NotAws> {
        Ok(Self(secret.aws_credentials()?.into()))
    }

    /// What signs the chunks of a body, one after the other, if it comes in chunks that are signed. `seed` is the signature of
    /// its head.
    pub fn chunks(&self, payload: &Payload, scope: Scope<'_>, at: Duration, seed: String) -> Option<Chunks> {
        let has_trailers = match payload {
            Payload::Chunks => false,
            Payload::ChunksAndTrailers => true,
            Payload::Hash(_) | Payload::Unsigned | Payload::UnsignedChunks => return None,
        };
        let credentials = self.0.data::<Credentials>()?;
        let Scope { region, service } = scope;
        let time = SystemTime::UNIX_EPOCH + at;
        let key = v4::generate_signing_key(credentials.secret_access_key(), time, region, service);
        let date = jiff::Timestamp::try_from(time).ok()?.strftime("%Y%m%dT%H%M%SZ").to_string();
        let scope = format!("{}/{region}/{service}/aws4_request", date.split_once('T')?.0);
        Some(Chunks::new(key.as_ref(), date, scope, seed, has_trailers))
    }
}

/// For which region and service a signature holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scope<'a> {
    pub region: &'a str,
    pub service: &'a str,
}

impl Scope<'_> {
    /// S3 has rules of its own: it encodes a path once, wants the body's hash in a header, and takes bodies without one.
    pub fn is_s3(&self) -> bool {
        matches!(self.service, "s3" | "s3-outposts" | "s3-object-lambda")
    }
}

/// A request as far as it is signed.
pub struct Signable<'a> {
    pub method: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    /// Without what an earlier signature left in it.
    pub query: Option<&'a str>,
    /// Those that are to be signed, in lower case.
    pub headers: &'a [(&'a str, &'a str)],
    pub payload: &'a Payload,
    pub form: Form,
    /// Since the Unix epoch.
    pub at: Duration,
}

/// Where the signature stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    Header,
    /// In the query, for as long as that.
    Query {
        lasts: Duration,
    },
}

/// What a signature says of the body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    /// Its SHA-256, in hex.
    Hash(String),
    Unsigned,
    /// It comes in chunks, each of which is signed.
    Chunks,
    /// As `Chunks`, and its trailers are signed too.
    ChunksAndTrailers,
    /// It comes in chunks that nobody signs, with trailers.
    UnsignedChunks,
}

impl Payload {
    pub fn of(body: &[u8]) -> Self {
        Self::Hash(text::hex(digest(&SHA256, body).as_ref()))
    }

    /// As `x-amz-content-sha256` says it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Hash(hash) => hash,
            Self::Unsigned => "UNSIGNED-PAYLOAD",
            Self::Chunks => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            Self::ChunksAndTrailers => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            Self::UnsignedChunks => "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        }
    }

    /// What a client declares; `None`: nothing that this version knows.
    pub fn parse(text: &str) -> Option<Self> {
        let named = [Self::Unsigned, Self::Chunks, Self::ChunksAndTrailers, Self::UnsignedChunks];
        if let Some(named) = named.into_iter().find(|payload| payload.as_str() == text) {
            return Some(named);
        }
        let is_hash = text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
        is_hash.then(|| Self::Hash(text.to_owned()))
    }
}

/// What makes a request a signed one.
#[derive(Default)]
pub struct Signed {
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Encoded, for the end of the query.
    pub query: Option<String>,
    pub signature: String,
}

/// Why a request cannot be signed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a header or the target is nothing that a signature can cover")]
pub struct NotSignable;

/// Signs a request.
///
/// # Errors
/// When it holds what no signature covers.
pub fn signed(request: &Signable<'_>, scope: Scope<'_>, keys: &Keys) -> Result<Signed, NotSignable> {
    let path = if scope.is_s3() { once_encoded(request.path) } else { request.path.to_owned() };
    let target = match request.query {
        Some(query) => format!("https://{}{path}?{query}", request.host),
        None => format!("https://{}{path}", request.host),
    };
    // In the header form the library adds this one itself, and in the query form it is a header like any other.
    let is_added = |name: &str| request.form == Form::Header && name == CONTENT_SHA256;
    let declares = request.headers.iter().any(|(name, _)| is_added(name));
    let headers = request.headers.iter().copied().filter(|(name, _)| !is_added(name));
    let headers = headers.chain([("host", request.host)]);
    let body = SignableBody::Precomputed(request.payload.as_str().to_owned());
    let signable = SignableRequest::new(request.method, target, headers, body).map_err(|_| NotSignable)?;
    let settings = settings(request.form, scope, declares);
    let params = v4::SigningParams::builder()
        .identity(&keys.0)
        .region(scope.region)
        .name(scope.service)
        .time(SystemTime::UNIX_EPOCH + request.at)
        .settings(settings)
        .build();
    let params = params.map_err(|_| NotSignable)?.into();
    let (instructions, signature) = sign(signable, &params).map_err(|_| NotSignable)?.into_parts();
    let (added, pairs) = instructions.into_parts();
    let mut headers = Vec::with_capacity(added.len());
    for header in added {
        let mut value = HeaderValue::from_str(header.value()).map_err(|_| NotSignable)?;
        value.set_sensitive(header.sensitive() || header.name() == "authorization");
        headers.push((HeaderName::from_static(header.name()), value));
    }
    let query = (!pairs.is_empty()).then(|| pairs.iter().map(|(name, value)| pair(name, value)).collect::<Vec<_>>());
    Ok(Signed { headers, query: query.map(|pairs| pairs.join("&")), signature })
}

fn settings(form: Form, scope: Scope<'_>, declares: bool) -> SigningSettings {
    let mut settings = SigningSettings::default();
    settings.excluded_headers = None;
    if scope.is_s3() {
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    }
    match form {
        Form::Header if scope.is_s3() || declares => {
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        }
        Form::Header => {}
        Form::Query { lasts } => {
            settings.signature_location = SignatureLocation::QueryParams;
            settings.expires_in = Some(lasts);
        }
    }
    settings
}

/// The header in which a request says what its body is.
pub const CONTENT_SHA256: &str = "x-amz-content-sha256";

/// The path with every byte but the unreserved ones and slashes encoded, once.
fn once_encoded(path: &str) -> String {
    let segment = |text| percent_encode(&percent_decode_str(text).collect::<Vec<_>>(), ENCODED_IN_QUERIES).to_string();
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

fn pair(name: &str, value: &str) -> String {
    format!("{name}={}", percent_encode(value.as_bytes(), ENCODED_IN_QUERIES))
}

#[cfg(test)]
mod tests;
