//! Judges the answer of a token endpoint (RFC 6749, sections 5.1 and 5.2). Pure: bytes in, a token or a failure out.
//!
//! Invariant: a token that passes is visible ASCII, is a bearer token, has an end, and lacks no scope that was asked for.
//! A failure repeats of the issuer's text what the RFC means for humans, cleaned; never the token, never our secret.

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use self::members::{Member, Members};
use super::lifetime::{ASSUMED_LIFE, NoEnd, end_told, jwt_end};
use super::{Class, Failure, Issued, Reason};
use crate::clock::{Moment, believed};
use crate::fetch::{Answer, retry_after};
use crate::secret::Secret;
use crate::text::redacted;

pub(super) mod members;

/// What the issuer sent.
#[derive(Clone, Copy)]
pub struct Reply<'a> {
    pub status: StatusCode,
    pub content_type: Option<&'a [u8]>,
    pub retry_after: Option<&'a [u8]>,
    pub body: &'a [u8],
}

/// What it is an answer to.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub scopes: &'a [String],
    /// When the request was sent: lifetimes count from there.
    pub at: Moment,
    pub now: Moment,
    /// What the request proved itself with, in each form that it was sent in: never repeated.
    pub secrets: &'a [&'a str],
}

impl<'a> From<&'a Answer> for Reply<'a> {
    fn from(answer: &'a Answer) -> Self {
        fn header(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
            headers.get(name).map(http::HeaderValue::as_bytes)
        }
        Self {
            status: answer.status,
            content_type: header(&answer.headers, CONTENT_TYPE),
            retry_after: header(&answer.headers, RETRY_AFTER),
            body: &answer.body,
        }
    }
}

/// The token of an answer.
///
/// # Errors
/// When there is none, or none that may be used.
pub fn judge(reply: &Reply<'_>, asked: &Asked<'_>) -> Result<Issued, Failure> {
    answered(reply, asked, |members| issued(&members, asked))
}

/// The members of an answer that says yes, as `judge` sees them.
fn answered<T>(
    reply: &Reply<'_>,
    asked: &Asked<'_>,
    judge: impl FnOnce(Members) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let is_json = reply.content_type.is_some_and(is_json);
    match reply.status.as_u16() {
        200 | 201 if !is_json => Err(Failure::transient(Reason::ContentType, "the issuer's answer is not JSON")),
        200 | 201 => {
            let members = Members::parse(reply.body).map_err(|why| Failure::transient(Reason::Malformed, why))?;
            if members.error.is_there() { Err(no(reply, &members, asked)) } else { judge(members) }
        }
        300..=399 => {
            let detail = format!("the issuer redirects ({}), and redirects are not followed", reply.status.as_u16());
            Err(Failure::transient(Reason::Redirected, detail))
        }
        _ => {
            let members = if is_json { Members::parse(reply.body).unwrap_or_default() } else { Members::default() };
            Err(no(reply, &members, asked))
        }
    }
}

/// As [`judge`], where the answer may be a token of any kind (RFC 8693, section 2.2.1): one that is no access token says of
/// its type that it does not apply.
///
/// # Errors
/// As [`judge`].
pub fn judge_exchange(reply: &Reply<'_>, asked: &Asked<'_>) -> Result<Issued, Failure> {
    answered(reply, asked, |mut members| {
        if members.token_type.text().is_some_and(|kind| kind.eq_ignore_ascii_case("N_A")) {
            members.token_type = Member::Absent;
        }
        issued(&members, asked)
    })
}

/// As [`judge`], where the token is to be bound to the key whose proof was shown (RFC 9449, section 5): one that is not is
/// worth as much to a thief as to us.
///
/// # Errors
/// As [`judge`].
pub fn judge_bound(reply: &Reply<'_>, asked: &Asked<'_>) -> Result<Issued, Failure> {
    answered(reply, asked, |mut members| {
        if !members.token_type.text().is_some_and(|kind| kind.eq_ignore_ascii_case("DPoP")) {
            let detail = "the issued token is not bound to the key of `dpop`: its `token_type` is not DPoP";
            return Err(Failure::transient(Reason::TokenType, detail));
        }
        members.token_type = Member::Absent;
        issued(&members, asked)
    })
}

/// The answer of an issuer that has a form of its own, in JSON, if it says yes.
///
/// # Errors
/// When it says no, or something else.
pub fn judge_form<T: DeserializeOwned>(reply: &Reply<'_>, asked: &Asked<'_>) -> Result<T, Failure> {
    if reply.status.is_success() && reply.content_type.is_some_and(is_json) {
        // A list would pass for an object whose members have no names; the library's own text quotes what it read.
        let is_object = reply.body.trim_ascii_start().first() == Some(&b'{');
        let members = is_object.then(|| serde_json::from_slice(reply.body).ok()).flatten();
        let detail = "the issuer's answer has not the form that it should have";
        return members.ok_or_else(|| Failure::transient(Reason::Malformed, detail));
    }
    answered(reply, asked, |members| Err(no(reply, &members, asked)))
}

/// The token of such an answer: its value, the time at which it ends (RFC 3339), and the scopes that it has.
///
/// # Errors
/// When it may not be used.
pub fn judge_found(token: Member, ends: &Member, granted: Vec<String>, asked: &Asked<'_>) -> Result<Issued, Failure> {
    let expires_in = Member::Number(seconds_until(ends, asked)?);
    let members = Members { access_token: token, expires_in, ..Members::default() };
    let unscoped = Asked { scopes: &[], ..*asked };
    Ok(Issued { granted: Some(sufficient(granted, asked.scopes)?), ..issued(&members, &unscoped)? })
}

/// The code of an answer that says no (RFC 6749, section 5.2).
pub fn error(reply: &Reply<'_>) -> Option<String> {
    let members = reply.content_type.is_some_and(is_json).then(|| Members::parse(reply.body).ok()).flatten()?;
    members.error.text().map(str::to_owned)
}

/// The refresh token of an answer that says yes, whatever else is wrong with it.
pub fn refresh_token(reply: &Reply<'_>) -> Option<Zeroizing<String>> {
    let members = reply.status.is_success().then(|| Members::parse(reply.body).ok()).flatten()?;
    members.refresh_token.text().filter(|token| !token.is_empty()).map(|token| Zeroizing::new(token.to_owned()))
}

/// The token that a program prints: in an object like a token endpoint's, but that the token may be called `token`, and that
/// a time, `expires_at`, may take the place of `expires_in`.
///
/// # Errors
/// When there is none, or none that may be used.
pub fn judge_output(output: &[u8], asked: &Asked<'_>) -> Result<Issued, Failure> {
    let malformed = |why| Failure::transient(Reason::Malformed, why);
    let mut members = Members::parse(output).map_err(malformed)?;
    if members.error.is_there() {
        let detail = format!("it reports an error: {}", said(&members, asked).unwrap_or_default());
        return Err(Failure::transient(Reason::IssuerError, detail));
    }
    match (members.access_token.is_there(), members.token.is_there()) {
        (true, true) => return Err(malformed("it prints both `access_token` and `token`")),
        (false, true) => members.access_token = std::mem::take(&mut members.token),
        (true | false, false) => {}
    }
    match (members.expires_in.is_there(), members.expires_at.is_there()) {
        (true, true) => return Err(malformed("it prints both `expires_in` and `expires_at`")),
        (false, true) => members.expires_in = Member::Number(seconds_until(&members.expires_at, asked)?),
        (true | false, false) => {}
    }
    issued(&members, asked)
}

/// How long a token lives that ends at this time (RFC 3339), from when it was asked for.
fn seconds_until(time: &Member, asked: &Asked<'_>) -> Result<f64, Failure> {
    let end = time.text().map_or(Err(NoEnd::NotATime), |time| end_told(time, asked.at, asked.now));
    end.map(|end| end.remaining(asked.at).as_secs_f64()).map_err(|why| match why {
        NoEnd::NotATime => {
            Failure::transient(Reason::Lifetime, "its `expires_at` is no time like \"2027-06-30T12:00:00Z\"")
        }
        NoEnd::Passed => Failure::transient(Reason::Expired, "its `expires_at` has passed"),
    })
}

/// Whether the issuer confirms that a token is void (RFC 7009, section 2.2), which it also does of one that it does not know.
///
/// # Errors
/// When it does not. Only a plain "not of this kind" is its last word: what else it says may pass.
pub fn judge_revocation(reply: &Reply<'_>, asked: &Asked<'_>) -> Result<(), Failure> {
    if matches!(reply.status, StatusCode::OK | StatusCode::NO_CONTENT) {
        return Ok(());
    }
    let members = Members::parse(reply.body).unwrap_or_default();
    let mut failure = no(reply, &members, asked);
    failure.class = match failure.class {
        Class::Transient { retry_after } => Class::Transient { retry_after },
        Class::Refused if members.error.text() == Some("unsupported_token_type") => Class::Refused,
        Class::Refused | Class::Reauthenticate => Class::Transient { retry_after: None },
    };
    Err(failure)
}

fn issued(members: &Members, asked: &Asked<'_>) -> Result<Issued, Failure> {
    if !is_bearer(&members.token_type) {
        return Err(Failure::transient(Reason::TokenType, "the issued token is not a bearer token"));
    }
    let secret = match &members.access_token {
        Member::Text(token) if token.is_empty() => return Err(token_missing()),
        Member::Text(token) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            let detail = "the issued token holds something other than visible ASCII";
            return Err(Failure::transient(Reason::TokenCharset, detail));
        }
        Member::Text(token) => Secret::new(token.as_bytes()),
        Member::Absent | Member::Null | Member::Number(_) | Member::Other => return Err(token_missing()),
    };
    let granted = granted(&members.scope, asked.scopes)?;
    let (expires, assumed) = end(&secret, &members.expires_in, asked)?;
    Ok(Issued { secret, expires: Some(expires), assumed, granted, void_by: None, version: None })
}

/// Some issuers leave the type out, which RFC 6749 forbids and nobody minds.
fn is_bearer(token_type: &Member) -> bool {
    match token_type {
        Member::Absent | Member::Null => true,
        Member::Text(kind) => kind.eq_ignore_ascii_case("bearer"),
        Member::Number(_) | Member::Other => false,
    }
}

fn token_missing() -> Failure {
    Failure::transient(Reason::TokenMissing, "the issuer's answer has no `access_token`")
}

/// When the token ends, and whether that is our own assumption.
fn end(secret: &Secret, expires_in: &Member, asked: &Asked<'_>) -> Result<(Moment, bool), Failure> {
    let (life, missing) = match seconds(expires_in) {
        Some(0) => return Err(Failure::transient(Reason::Lifetime, "the issuer's `expires_in` is no time to live")),
        Some(life) => (believed(life), false),
        None => (ASSUMED_LIFE, true),
    };
    let told = asked.at.after(life);
    if told.reached(asked.now) {
        return Err(Failure::transient(Reason::Expired, "the token had ended before the issuer's answer was here"));
    }
    Ok(match jwt_end(secret, asked.now)? {
        Some(end) if end.remaining(asked.now) < told.remaining(asked.now) => (end.earlier(told), false),
        Some(_) | None => (told, missing),
    })
}

/// `expires_in` in whole seconds; zero stands for everything that is none; `None`: it is missing.
fn seconds(expires_in: &Member) -> Option<u64> {
    match expires_in {
        Member::Absent => None,
        // The cast takes negative numbers for zero, and what is too large for the largest.
        Member::Number(seconds) => Some(*seconds as u64),
        Member::Text(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().unwrap_or(u64::MAX))
        }
        Member::Text(_) | Member::Null | Member::Other => Some(0),
    }
}

/// The scopes that were granted, if the issuer names them: it must do so where they differ from what was asked.
fn granted(scope: &Member, asked: &[String]) -> Result<Option<Vec<String>>, Failure> {
    let text = match scope {
        Member::Absent | Member::Null => return Ok(None),
        Member::Text(text) if text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) => text,
        Member::Text(_) | Member::Number(_) | Member::Other => {
            return Err(Failure::refused(Reason::Scope, "the issuer's `scope` is not a list of scopes"));
        }
    };
    let granted: Vec<String> = text.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
    sufficient(granted, asked).map(Some)
}

/// What was granted, if nothing of what was asked for is missing.
fn sufficient(granted: Vec<String>, asked: &[String]) -> Result<Vec<String>, Failure> {
    match asked.iter().find(|scope| !granted.contains(scope)) {
        Some(lacking) => Err(Failure::refused(
            Reason::Scope,
            format!("the issuer did not grant the scope {lacking:?} that was asked"),
        )),
        None => Ok(granted),
    }
}

/// The issuer says no, or cannot.
fn no(reply: &Reply<'_>, members: &Members, asked: &Asked<'_>) -> Failure {
    let status = reply.status.as_u16();
    let detail = match said(members, asked) {
        Some(said) => format!("the issuer answered {status}: {said}"),
        None => format!("the issuer answered {status}"),
    };
    let transient = Class::Transient { retry_after: reply.retry_after.and_then(|told| retry_after(told, asked.now)) };
    let (reason, class) = match (status, members.error.text().map(reason_of)) {
        (429, _) => (Reason::RateLimited, transient),
        (408 | 425 | 500..=599, _) => (Reason::Status, transient),
        (_, Some(Some(reason))) => (reason, Class::Refused),
        (_, Some(None)) if members.error.text().is_some_and(is_passing) => (Reason::IssuerError, transient),
        (_, Some(None)) => (Reason::IssuerError, Class::Refused),
        (400..=499, None) => (Reason::Status, Class::Refused),
        (200 | 201, None) => (Reason::IssuerError, Class::Refused),
        (_, None) => (Reason::Status, transient),
    };
    Failure { reason, class, detail }
}

/// The error codes of RFC 6749 (section 5.2), RFC 8628 and RFC 8707.
fn reason_of(code: &str) -> Option<Reason> {
    match code {
        "access_denied" => Some(Reason::AccessDenied),
        "invalid_client" => Some(Reason::InvalidClient),
        "invalid_grant" => Some(Reason::InvalidGrant),
        "invalid_request" => Some(Reason::InvalidRequest),
        "invalid_scope" => Some(Reason::InvalidScope),
        "invalid_target" => Some(Reason::InvalidTarget),
        "unauthorized_client" => Some(Reason::UnauthorizedClient),
        "unsupported_grant_type" => Some(Reason::UnsupportedGrantType),
        _ => None,
    }
}

fn is_passing(code: &str) -> bool {
    matches!(code, "temporarily_unavailable" | "server_error" | "slow_down")
}

/// What the issuer says went wrong, fit for a log: no secret, no control characters, not much.
fn said(members: &Members, asked: &Asked<'_>) -> Option<String> {
    let description = members.error_description.text().or(members.message.text());
    let text = match (members.error.text(), description) {
        (None, None) => return None,
        (Some(code), None) => code.to_owned(),
        (None, Some(description)) => description.to_owned(),
        (Some(code), Some(description)) => format!("{code} ({description})"),
    };
    let tokens = [&members.access_token, &members.token, &members.refresh_token].into_iter().filter_map(Member::text);
    let text = redacted(&text, asked.secrets.iter().copied().chain(tokens), MAX_SAID);
    (!text.is_empty()).then_some(text)
}

/// `application/json`, or something that says that it is JSON (RFC 6839), with any parameters.
fn is_json(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    let essence = essence.trim_ascii().to_ascii_lowercase();
    essence == b"application/json" || (essence.starts_with(b"application/") && essence.ends_with(b"+json"))
}

/// Characters of the issuer's own words that are kept.
const MAX_SAID: usize = 200;

#[cfg(test)]
mod tests;
