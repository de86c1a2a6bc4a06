//! Requests that are signed. Of those to AWS the client's own signature is taken out, and another made in its place.
//!
//! ```text
//!  the client's signature ─▶ Signing: where it stands, what it says of the body
//!                               └─▶ settle: what it does not say is found out ─▶ attach, when the request is written
//! ```
//!
//! The client signs with keys that mean nothing, since its program would send nothing otherwise. Only keys that look like
//! those of AWS count as a credential of its own.
//!
//! Invariant: of a body only so much is held as [`Room`] has, and only where no other way leads to a signature.

use std::borrow::Cow;
use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Uri};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use zeroize::Zeroizing;

use super::body::RequestBody;
use super::credentials;
use super::error::Refusal;
use super::inject::with_target;
use super::message::{Fields, Request};
use crate::authority::Scheme;
use crate::clock::Moment;
use crate::hmac::{self, Recipe};
use crate::route::Upstream;
use crate::sigv4::{self, CONTENT_SHA256, Chunks, Form, Keys, Payload, Place, Signable};
use crate::token::Placement;
use crate::usage::UsageGuard;

/// The largest body that is read before it is sent: more than any API of AWS takes but S3, which needs none of it.
const MOST: usize = 16 * 1024 * 1024;

/// Room for what is read first.
const LEAST: usize = 16 * 1024;

/// Of one worker, for all bodies that are held at a time.
const ROOM: usize = 64 * 1024 * 1024;

/// The longest that a signature in a query holds: it is sent at once.
const LONGEST: Duration = Duration::from_secs(15 * 60);

const SHA256_HEADER: HeaderName = HeaderName::from_static(CONTENT_SHA256);
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const SESSION_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// What a signature leaves in a query, and behind that what one of an older kind does, which S3 takes too ("Signature
/// Version 2").
const ALL_PAIRS: [&str; 10] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
    "X-Amz-SignedHeaders",
    "AWSAccessKeyId",
    "Expires",
    "Signature",
];

const PAIRS: &[&str] = ALL_PAIRS.split_at(7).0;
const OLD_PAIRS: &[&str] = ALL_PAIRS.split_at(7).1;

/// How a request is to be signed.
pub struct Signing {
    form: Form,
    /// `None`: nothing is known of the body yet.
    payload: Option<Payload>,
    /// The body, where a template wants it.
    whole: Bytes,
}

/// What a request's own signature says.
pub struct Own<'q> {
    /// `None`: it is not to be signed.
    pub signing: Option<Box<Signing>>,
    /// Without the signature.
    pub query: Option<Cow<'q, str>>,
    /// Whether it was made with keys that look like AWS's own.
    pub shadow: bool,
}

/// Takes the client's own signature out, where ours goes into its place.
///
/// # Errors
/// When it declares a body of a kind that this version does not know.
pub fn take_out<'q>(
    headers: &mut Fields,
    query: Option<&'q str>,
    placement: Option<&Placement>,
) -> Result<Own<'q>, Refusal> {
    let query_stays = |signing| Own { signing, query: query.map(Cow::Borrowed), shadow: false };
    match placement {
        Some(Placement::SigV4(_)) => {}
        Some(Placement::Hmac(_)) => return Ok(query_stays(Some(Box::new(Signing::new(Form::Header, None))))),
        _ => return Ok(query_stays(None)),
    }
    let declared = headers.get(SHA256_HEADER).map(|value| value.to_str().ok().and_then(Payload::parse));
    let payload = match declared {
        None => None,
        Some(Some(payload)) => Some(payload),
        Some(None) => return Err(UNKNOWN_PAYLOAD),
    };
    let mut shadow = false;
    if let Some(id) = headers.get(AUTHORIZATION).and_then(|value| key_id(value.as_bytes())) {
        shadow |= is_of_aws(id);
        headers.remove(AUTHORIZATION);
        if !shadow {
            headers.remove(SESSION_TOKEN);
        }
    }
    headers.remove(DATE);
    let signed = query.map(|query| (query, pairs_of(query))).filter(|(_, pairs)| !pairs.is_empty());
    let Some((signed, pairs)) = signed else {
        return Ok(Own {
            signing: Some(Box::new(Signing::new(Form::Header, payload))),
            query: query.map(Cow::Borrowed),
            shadow,
        });
    };
    if matches!(payload, Some(Payload::Chunks | Payload::ChunksAndTrailers)) {
        return Err(UNKNOWN_PAYLOAD);
    }
    let ids = ["X-Amz-Credential", "AWSAccessKeyId"].map(|name| credentials::value_of(signed, name));
    shadow |= ids.into_iter().flatten().any(|id| is_of_aws(id.as_bytes()));
    let seconds = credentials::value_of(signed, "X-Amz-Expires").and_then(|seconds| seconds.parse().ok());
    let lasts = seconds.map_or(LONGEST, Duration::from_secs).clamp(Duration::from_secs(1), LONGEST);
    let signing = Signing::new(Form::Query { lasts }, payload);
    let query = credentials::without_any(signed, pairs).map(Cow::Owned);
    Ok(Own { signing: Some(Box::new(signing)), query, shadow })
}

/// The names of the pairs of a query that are its own signature, and go with that; none where it is not signed.
pub fn pairs_of(query: &str) -> &'static [&'static str] {
    let has = |names: &[&str]| names.iter().all(|name| credentials::value_of(query, name).is_some());
    match (has(OLD_PAIRS), has(&["X-Amz-Signature"])) {
        (true, _) => &ALL_PAIRS,
        (false, true) => PAIRS,
        (false, false) => &[],
    }
}

const UNKNOWN_PAYLOAD: Refusal =
    Refusal::HeaderInvalid("x-amz-content-sha256 is of a kind that cannot be signed again");

/// Whether an `Authorization` is a signature.
pub fn is_signature(authorization: &HeaderValue) -> bool {
    authorization.as_bytes().starts_with(SIGNATURE)
}

/// How signatures begin, whatever their kind.
const SIGNATURE: &[u8] = b"AWS4-";

/// The id of the keys that `AWS4-HMAC-SHA256 Credential=ID/...` was made with.
fn key_id(authorization: &[u8]) -> Option<&[u8]> {
    let parameters = authorization.strip_prefix(SIGNATURE)?;
    let at = memchr::memmem::find(parameters, b"Credential=")? + b"Credential=".len();
    Some(&parameters[at..])
}

/// Whether what begins there looks like the id of keys that AWS gave somebody.
fn is_of_aws(credential: &[u8]) -> bool {
    let id = credential.split(|byte| matches!(byte, b'/' | b'%')).next().unwrap_or_default();
    let plain = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
    id.len() == 20 && (id.starts_with(b"AKIA") || id.starts_with(b"ASIA")) && id.iter().all(plain)
}

impl Signing {
    fn new(form: Form, payload: Option<Payload>) -> Self {
        Self { form, payload, whole: Bytes::new() }
    }

    /// Finds out what the signature has to say of the body. One that has to be read for that is read, and held in `room`.
    ///
    /// # Errors
    /// When it cannot be read, or is too large.
    pub async fn settle<'r>(
        &mut self,
        body: &mut RequestBody,
        placement: &Placement,
        upstream: &Upstream,
        room: &'r Room,
        usage: &mut UsageGuard,
    ) -> Result<Option<Held<'r>>, Refusal> {
        match placement {
            Placement::SigV4(place) => self.settle_payload(body, place, upstream, room, usage).await,
            Placement::Hmac(recipe) if recipe.needs_body() => self.take_whole(body, room, usage).await,
            _ => Ok(None),
        }
    }

    async fn take_whole<'r>(
        &mut self,
        body: &mut RequestBody,
        room: &'r Room,
        usage: &mut UsageGuard,
    ) -> Result<Option<Held<'r>>, Refusal> {
        if body.is_end_stream() {
            return Ok(None);
        }
        usage.waits();
        let read = Box::pin(read(body, room, usage)).await;
        usage.resumes();
        let (whole, held) = read?;
        self.whole = whole.clone();
        *body = RequestBody::again(vec![whole], usage.upload().clone());
        Ok(Some(held))
    }

    /// Signs the request as it is going to be sent, by a template.
    ///
    /// # Errors
    /// When what comes of it cannot be written.
    pub fn attach_hmac(
        &self,
        request: &mut Request,
        recipe: &Recipe,
        upstream: &Upstream,
        key: &hmac::Key,
        now: Moment,
    ) -> Result<(), Refusal> {
        let signable = hmac::Signable {
            method: request.method.as_str(),
            host: upstream.host.to_str().map_err(|_| UNSIGNABLE)?,
            path: request.uri.path(),
            query: request.uri.query(),
            body: &self.whole,
            at: now.wall,
        };
        for (name, value) in recipe.sign(key, &signable).map_err(|_| UNSIGNABLE)? {
            request.fields.insert(name, value);
        }
        Ok(())
    }

    /// What AWS is told of the body, if the client has not said it.
    async fn settle_payload<'r>(
        &mut self,
        body: &mut RequestBody,
        place: &Place,
        upstream: &Upstream,
        room: &'r Room,
        usage: &mut UsageGuard,
    ) -> Result<Option<Held<'r>>, Refusal> {
        if self.payload.is_some() {
            return Ok(None);
        }
        let endpoint = &upstream.endpoint;
        let takes_unsigned = place.scope(&endpoint.authority.host).is_some_and(|scope| scope.is_s3());
        let is_presigned = matches!(self.form, Form::Query { .. });
        if body.is_end_stream() && !(takes_unsigned && is_presigned) {
            self.payload = Some(Payload::of(b""));
            return Ok(None);
        }
        if takes_unsigned && (is_presigned || endpoint.scheme == Scheme::Https) {
            self.payload = Some(Payload::Unsigned);
            return Ok(None);
        }
        usage.waits();
        let read = Box::pin(read(body, room, usage)).await;
        usage.resumes();
        let (whole, held) = read?;
        self.payload = Some(Payload::of(&whole));
        *body = RequestBody::again(vec![whole], usage.upload().clone());
        Ok(Some(held))
    }

    /// Signs the request as it is going to be sent. What is returned signs its body, where that is signed in chunks.
    ///
    /// # Errors
    /// When it holds what no signature covers.
    pub fn attach(
        &self,
        request: &mut Request,
        place: &Place,
        upstream: &Upstream,
        keys: &Keys,
        now: Moment,
    ) -> Result<Option<Box<Chunks>>, Refusal> {
        let scope = place.scope(&upstream.endpoint.authority.host);
        let scope = scope.ok_or(Refusal::HeaderInvalid("nothing says for which region and service to sign"))?;
        let payload = self.payload.as_ref().ok_or(Refusal::HeaderInvalid("nothing is known of the body"))?;
        let host = upstream.host.to_str().map_err(|_| UNSIGNABLE)?;
        let headers = covered(&request.fields)?;
        // A signature of an earlier attempt has run out of time, or was made with other keys.
        let query = match (self.form, request.uri.query()) {
            (Form::Query { .. }, Some(query)) => credentials::without_any(query, PAIRS).map(Zeroizing::new),
            (_, query) => query.map(|query| Zeroizing::new(query.to_owned())),
        };
        let signable = Signable {
            method: request.method.as_str(),
            host,
            path: request.uri.path(),
            query: query.as_ref().map(|query| query.as_str()),
            headers: &headers,
            payload,
            form: self.form,
            at: now.wall,
        };
        let signed = sigv4::signed(&signable, scope, keys).map_err(|_| UNSIGNABLE)?;
        if let Some(pairs) = signed.query {
            request.uri = with_pairs(&request.uri, query.as_ref().map(|query| query.as_str()), &Zeroizing::new(pairs))?;
        }
        for (name, value) in signed.headers {
            request.fields.insert(name, value);
        }
        Ok(keys.chunks(payload, scope, now.wall, signed.signature).map(Box::new))
    }
}

const UNSIGNABLE: Refusal = Refusal::HeaderInvalid("no signature covers it");

/// What is signed of the fields: all that AWS asks for, and nothing that changes on the way.
fn covered(fields: &Fields) -> Result<Vec<(&str, &str)>, Refusal> {
    let is_covered = |name: &HeaderName| {
        let own = name == DATE || name == SESSION_TOKEN;
        let listed = name == CONTENT_TYPE || name == CONTENT_ENCODING || name == "content-md5";
        listed || (name.as_str().starts_with("x-amz-") && !own)
    };
    let covered = fields.iter().filter(|(name, _)| is_covered(name));
    covered.map(|(name, value)| Ok((name.as_str(), text(value)?))).collect()
}

fn text(value: &HeaderValue) -> Result<&str, Refusal> {
    std::str::from_utf8(value.as_bytes()).map_err(|_| UNSIGNABLE)
}

/// The URI with this query and these pairs at its end.
fn with_pairs(uri: &Uri, query: Option<&str>, pairs: &str) -> Result<Uri, Refusal> {
    let others = query.filter(|query| !query.is_empty());
    let target = match others {
        Some(others) => [uri.path(), "?", others, "&", pairs].concat(),
        None => [uri.path(), "?", pairs].concat(),
    };
    with_target(uri, Zeroizing::new(target.into_bytes()))
}

/// Reads a whole body. It lies in one piece: those that it comes in may each hold far more than their bytes. Room is taken as
/// the bytes come: whoever only announces a body takes none from others.
async fn read<'r>(body: &mut RequestBody, room: &'r Room, usage: &UsageGuard) -> Result<(Bytes, Held<'r>), Refusal> {
    if body.size_hint().lower() > MOST as u64 {
        return Err(Refusal::BodyUnsignable);
    }
    let mut held = Held { room, bytes: 0 };
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| usage.upload().failure.get().map_or(Refusal::ClientGone, Refusal::from))?;
        let Ok(data) = frame.into_data() else { continue };
        held.hold(whole.len().saturating_add(data.len()))?;
        whole.reserve_exact(held.bytes - whole.len());
        whole.extend_from_slice(&data);
    }
    Ok((whole.into(), held))
}

/// Room for the bodies that a worker holds while it signs what is said of them.
pub struct Room {
    left: Cell<usize>,
}

/// Some of it, given back when dropped.
pub struct Held<'r> {
    room: &'r Room,
    bytes: usize,
}

impl Room {
    pub fn new() -> Self {
        Self { left: Cell::new(ROOM) }
    }
}

impl Held<'_> {
    /// Takes what is missing for a body of this length, and as much again, so that a body that grows is seldom moved.
    fn hold(&mut self, length: usize) -> Result<(), Refusal> {
        if length > MOST {
            return Err(Refusal::BodyUnsignable);
        }
        if length <= self.bytes {
            return Ok(());
        }
        let missing = (2 * self.bytes).clamp(length.max(LEAST), MOST) - self.bytes;
        let left = self.room.left.get().checked_sub(missing).ok_or(Refusal::NoRoomToSign)?;
        self.room.left.set(left);
        self.bytes += missing;
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.room.left.set(self.room.left.get() + self.bytes);
    }
}

#[cfg(test)]
mod tests;
