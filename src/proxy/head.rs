//! What a request's head may not have, whatever its route.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, ORIGIN, TE};
use http::{HeaderName, HeaderValue, Method, Uri, Version};

use super::error::Refusal;
use super::message::Fields;
use super::{Limits, answer};

/// A request's first line.
pub struct Head {
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
}

/// No method that an API knows is longer.
const METHOD_BYTES: usize = 32;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Judges a head by itself.
///
/// # Errors
/// When it is more than the limits allow, comes from a web page, or asks for what is never forwarded.
pub fn judge(head: &Head, headers: &Fields, limits: &Limits) -> Result<(), Refusal> {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > limits.target_bytes {
        return Err(Refusal::TargetTooLong);
    }
    if headers.len() > limits.header_count || headers.bytes() > limits.header_bytes {
        return Err(Refusal::HeadersTooLarge);
    }
    let method = head.method.as_str();
    // Some servers do not mind the case of a method.
    let refused = ["TRACE", "TRACK", "DEBUG"].iter().any(|refused| method.eq_ignore_ascii_case(refused));
    if method.len() > METHOD_BYTES || refused {
        return Err(Refusal::MethodRefused);
    }
    if headers.contains(ORIGIN) || headers.get(SEC_FETCH_SITE).is_some_and(is_a_page) {
        return Err(Refusal::BrowserRefused);
    }
    let expects = headers.get(EXPECT).map(HeaderValue::as_bytes);
    if expects.is_some_and(|expects| !expects.eq_ignore_ascii_case(b"100-continue")) {
        return Err(Refusal::ExpectRefused);
    }
    if head.version == Version::HTTP_2 { judge_http2(head, headers) } else { Ok(()) }
}

/// Whether a length is one that every server can count: many do it with a sign (RFC 9110, section 8.6).
fn is_of_a_length(headers: &Fields) -> bool {
    headers.get(CONTENT_LENGTH).is_none_or(|value| answer::number(value).is_some())
}

/// What h2 lets pass and HTTP/1.1 could not say.
fn judge_http2(head: &Head, headers: &Fields) -> Result<(), Refusal> {
    if !is_of_a_length(headers) {
        return Err(Refusal::Framing);
    }
    // `:authority` may be left out by those who translate from HTTP/1.1 (RFC 9113, section 8.3.1), and has to agree with
    // Host where both are there; here it has to be there.
    if head.uri.authority().is_none() {
        return Err(Refusal::HostMismatch);
    }
    if head.uri.path() == "*" && head.method != Method::OPTIONS {
        return Err(Refusal::HeaderInvalid("`:path` is `*`"));
    }
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let padded = |value: &HeaderValue| is_space(value.as_bytes().first()) || is_space(value.as_bytes().last());
    if headers.values().any(padded) {
        return Err(Refusal::HeaderInvalid("a field's value begins or ends with a space"));
    }
    Ok(())
}

/// Whether a browser says that a page of another site is behind the request.
fn is_a_page(site: &HeaderValue) -> bool {
    site != "none" && site != "same-origin"
}

/// Whether the client takes trailers (RFC 9110, section 6.5.1).
pub fn takes_trailers(headers: &Fields) -> bool {
    let takes = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or("");
        text.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
    };
    headers.get_all(TE).any(takes)
}

/// Puts the crumbs of a cookie together again: HTTP/2 may split it, HTTP/1.1 may not (RFC 9113, section 8.2.3), and of two
/// fields some servers read one.
pub fn join_cookies(headers: &mut Fields) {
    if headers.get_all(COOKIE).count() < 2 {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).map(HeaderValue::as_bytes).collect();
    let whole =
        HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).expect("values that were values, and between them `; `");
    headers.insert(COOKIE, whole);
}

/// Whether a request speaks gRPC, whose errors are told in its own fields.
pub fn is_grpc(head: &Head, headers: &Fields) -> bool {
    if head.version != Version::HTTP_2 {
        return false;
    }
    let content = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = content.and_then(|content| content.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crumbs_of_a_cookie_are_put_together() {
        let mut headers = Fields::new();
        join_cookies(&mut headers);
        assert!(headers.is_empty());
        for crumb in ["a=1", "b=2; c=3", "d"] {
            headers.append(COOKIE, HeaderValue::from_static(crumb));
        }
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(COOKIE).collect::<Vec<_>>(), ["a=1; b=2; c=3; d"]);
    }

    #[test]
    fn trailers_are_taken_when_the_client_says_so() {
        for (te, takes) in [("trailers", true), ("gzip;q=0.5, Trailers", true), ("gzip", false), ("", false)] {
            let mut headers = Fields::new();
            headers.insert(TE, HeaderValue::from_static(te));
            assert_eq!(takes_trailers(&headers), takes, "{te}");
        }
    }
}
