//! Answers that carry the token back to the client: an upstream that repeats what it was sent, by mistake or on purpose.
//!
//! ```text
//!  fields, trailers ─▶ redact ─▶ `[redacted]` in the token's place
//!  body, with `scrub` ─▶ Scrubber ─▶ as many bytes, none of them the token's
//! ```
//!
//! Invariant: no more of a body is held back than may be the beginning of a token, and what is put in its place is as long,
//! so that a length that was told stays true.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, IF_RANGE, RANGE};
use http::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::answer::Fault;
use super::body::UpstreamBody;
use super::message::{Fields, Response};
use crate::secret::Needles;
use crate::usage::UsageGuard;

const REDACTED: &[u8] = b"[redacted]";

const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Takes the token out of an answer's head. What is to take it out of the body is returned, where that is wanted.
///
/// # Errors
/// When the body cannot be searched, and is to be.
pub fn scrub(
    response: &mut Response<UpstreamBody>,
    needles: &Arc<Needles>,
    body_too: bool,
    usage: &mut UsageGuard,
) -> Result<Option<Scrubber>, Fault> {
    if redact(response.fields.values_mut(), needles) {
        usage.echoed();
    }
    if !body_too || response.body.is_end_stream() {
        return Ok(None);
    }
    is_plain(&response.fields)?;
    Ok(Some(Scrubber::new(needles.clone())))
}

/// Takes the token out of an answer's fields or trailers, in every form. Returns whether it stood there.
pub fn redact<'v>(values: impl Iterator<Item = &'v mut HeaderValue>, needles: &Needles) -> bool {
    let mut found = false;
    for value in values.filter(|value| needles.are_in(value.as_bytes())) {
        found = true;
        let clean = without(value.as_bytes(), needles);
        *value = HeaderValue::from_maybe_shared(clean).unwrap_or(HeaderValue::from_static("[redacted]"));
    }
    found
}

/// A field's text, with `[redacted]` in the place of each token: a field has no length to keep to.
fn without(text: &[u8], needles: &Needles) -> Bytes {
    // No field of an answer holds this byte.
    const GONE: u8 = 0;
    let mut marked = Zeroizing::new(text.to_vec());
    needles.each(&mut marked, |place| place.fill(GONE));
    let mut clean = Vec::with_capacity(text.len());
    for run in marked.chunk_by(|one, other| (*one == GONE) == (*other == GONE)) {
        clean.extend_from_slice(if run[0] == GONE { REDACTED } else { run });
    }
    clean.into()
}

/// Asks for an answer that can be searched: a whole one, not coded.
pub fn ask_plainly(headers: &mut Fields) {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.remove(GRPC_ACCEPT_ENCODING);
    // A token could be fetched in parts.
    headers.remove(RANGE);
    headers.remove(IF_RANGE);
}

/// Judges whether the body of an answer to such a request can be searched.
///
/// # Errors
/// When it is coded all the same.
fn is_plain(headers: &Fields) -> Result<(), Fault> {
    let mut codings = headers.get_all(CONTENT_ENCODING).chain(headers.get_all(GRPC_ENCODING));
    let plain = codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    if plain { Ok(()) } else { Err(Fault::Coded) }
}

/// Takes the token out of a body as it passes.
pub struct Scrubber {
    needles: Arc<Needles>,
    /// What may be the beginning of a token.
    held: Zeroizing<Vec<u8>>,
    found: bool,
}

impl Scrubber {
    pub fn new(needles: Arc<Needles>) -> Self {
        Self { needles, held: Zeroizing::default(), found: false }
    }

    /// The next bytes of the body: those that may go on now.
    pub fn pass(&mut self, bytes: Bytes) -> Bytes {
        let bytes = if self.held.is_empty() { bytes } else { self.with_held(&bytes) };
        let mut clean = self.clean(bytes);
        let begun = self.needles.begun(&clean);
        self.held = Zeroizing::new(clean.split_off(clean.len() - begun).to_vec());
        clean
    }

    /// What was held back and turned out to be no token: the body has ended.
    pub fn rest(&mut self) -> Bytes {
        Bytes::copy_from_slice(&std::mem::take(&mut self.held))
    }

    /// How many bytes are held back.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether the token has stood in the body.
    pub fn has_found(&self) -> bool {
        self.found
    }

    fn with_held(&mut self, bytes: &[u8]) -> Bytes {
        let held = std::mem::take(&mut self.held);
        let mut whole = BytesMut::with_capacity(held.len() + bytes.len());
        whole.extend_from_slice(&held);
        whole.extend_from_slice(bytes);
        whole.freeze()
    }

    fn clean(&mut self, bytes: Bytes) -> Bytes {
        if !self.needles.are_in(&bytes) {
            return bytes;
        }
        self.found = true;
        let mut clean = BytesMut::from(bytes);
        self.needles.each(&mut clean, fill);
        clean.freeze()
    }
}

/// `[redacted]`, made as long as what it takes the place of.
fn fill(place: &mut [u8]) {
    place.fill(b'*');
    let length = place.len().min(REDACTED.len());
    place[..length].copy_from_slice(&REDACTED[..length]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    const TOKEN: &str = "tkn-0123456789abcdef";

    fn needles() -> Arc<Needles> {
        Arc::new(Secret::new(TOKEN).make_needles())
    }

    fn scrubbed<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<u8>, bool) {
        let mut scrubber = Scrubber::new(needles());
        let mut passed = Vec::new();
        for piece in pieces {
            passed.extend_from_slice(&scrubber.pass(Bytes::copy_from_slice(piece)));
            assert!(scrubber.held() < 3 * TOKEN.len(), "no more than the longest form is held back");
        }
        passed.extend_from_slice(&scrubber.rest());
        (passed, scrubber.has_found())
    }

    #[test]
    fn a_token_is_taken_out_of_a_body_wherever_that_is_cut() {
        let text = format!("{{\"headers\": {{\"authorization\": \"Bearer {TOKEN}\"}}, \"tkn-\": 1}} tkn-0123");
        let expected = text.replace(TOKEN, "[redacted]**********");
        for first in 0..=text.len() {
            let (one, rest) = text.as_bytes().split_at(first);
            for second in 0..=rest.len() {
                let (two, three) = rest.split_at(second);
                let (passed, found) = scrubbed([one, two, three]);
                assert_eq!(String::from_utf8(passed).expect("text"), expected, "cut at {first} and {second}");
                assert!(found);
            }
        }
        assert_eq!(scrubbed(text.as_bytes().chunks(1)).0, expected.as_bytes());
    }

    #[test]
    fn what_is_no_token_passes_unchanged() {
        let text = format!("{}{}", &TOKEN[1..], &TOKEN[..TOKEN.len() - 1]).repeat(3);
        for size in 1..text.len() {
            assert_eq!(scrubbed(text.as_bytes().chunks(size)), (text.clone().into_bytes(), false));
        }
        assert_eq!(scrubbed([]), (Vec::new(), false));
    }

    #[test]
    fn an_event_is_not_held_back() {
        let mut scrubber = Scrubber::new(needles());
        let event = Bytes::from_static(b"data: {\"a\": 1}\n\n");
        assert_eq!(scrubber.pass(event.clone()), event);
        assert_eq!(scrubber.held(), 0);
    }

    #[test]
    fn a_token_is_taken_out_of_fields_and_the_rest_of_them_stays() {
        let fields = [
            (
                "location",
                format!("https://a.test/?t={TOKEN}&u={TOKEN}#x"),
                "https://a.test/?t=[redacted]&u=[redacted]#x",
            ),
            ("set-cookie", format!("t={TOKEN}; Secure"), "t=[redacted]; Secure"),
            ("x-short", "tkn-".to_owned(), "tkn-"),
            ("x-near", TOKEN.replace('9', "8"), "tkn-0123456788abcdef"),
        ];
        let lines: Vec<_> = fields.iter().map(|(name, value, _)| (*name, value.as_str())).collect();
        let mut headers = Fields::of(&lines);
        assert!(redact(headers.values_mut(), &needles()));
        for (name, _, expected) in fields {
            assert_eq!(headers.said(name), expected);
        }
        assert!(!redact(headers.values_mut(), &needles()), "nothing is left of it");
    }

    #[test]
    fn an_answer_that_is_coded_cannot_be_searched() {
        let mut headers = Fields::new();
        assert_eq!(is_plain(&headers), Ok(()));
        headers.append(CONTENT_ENCODING, HeaderValue::from_static("Identity"));
        assert_eq!(is_plain(&headers), Ok(()));
        headers.append(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(is_plain(&headers), Err(Fault::Coded));
    }
}
