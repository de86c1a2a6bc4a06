//! W3C Trace Context: a request's trace goes on, or begins here. Baggage stays inside: it is written for the app's own
//! services, and an upstream is somebody else's.

use http::{HeaderName, HeaderValue};

use super::message::Fields;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// `00-`, 32 digits of the trace, `-`, 16 of the span, `-`, two of flags.
const LENGTH: usize = 55;
const TRACE: std::ops::Range<usize> = 3..35;
const SPAN: std::ops::Range<usize> = 36..52;
const FLAGS: std::ops::Range<usize> = 53..55;

/// The trace that a request belongs to: 32 hexadecimal digits.
#[derive(Clone, Copy, Debug)]
pub struct TraceId([u8; 32]);

impl AsRef<str> for TraceId {
    fn as_ref(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits")
    }
}

/// Puts our own span under the trace that the request came with. One that is malformed counts as none: a new trace begins,
/// not sampled, and the state of the old one goes.
pub fn carry_on(headers: &mut Fields) -> TraceId {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    match headers.only(TRACEPARENT).map(HeaderValue::as_bytes) {
        Some(parent) if is_valid(parent) => {
            text[TRACE].copy_from_slice(&parent[TRACE]);
            text[FLAGS].copy_from_slice(&parent[FLAGS]);
        }
        _ => {
            write_hex(&mut text[TRACE], &(fastrand::u128(..) | 1).to_be_bytes());
            headers.remove(&TRACESTATE);
        }
    }
    write_hex(&mut text[SPAN], &(fastrand::u64(..) | 1).to_be_bytes());
    let value = HeaderValue::from_bytes(&text).expect("digits and hyphens");
    headers.insert(TRACEPARENT, value);
    headers.remove(&BAGGAGE);
    TraceId(text[TRACE].try_into().expect("as many digits"))
}

/// Whether a value is one of version 00, or of a later version that begins as such.
fn is_valid(value: &[u8]) -> bool {
    let Some(head) = value.get(..LENGTH) else { return false };
    let digits = |range: std::ops::Range<usize>| head[range].iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |range: std::ops::Range<usize>| head[range].iter().all(|b| *b == b'0');
    let hyphens = head[2] == b'-' && head[35] == b'-' && head[52] == b'-';
    let version = &head[..2];
    let length = value.len() == LENGTH || (version != b"00" && value[LENGTH] == b'-');
    hyphens
        && length
        && version != b"ff"
        && digits(0..2)
        && digits(TRACE)
        && digits(SPAN)
        && digits(FLAGS)
        && !zero(TRACE)
        && !zero(SPAN)
}

fn write_hex(digits: &mut [u8], number: &[u8]) {
    for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(number) {
        *pair = PAIRS[usize::from(*byte)];
    }
}

/// Each byte in hexadecimal.
const PAIRS: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 0xf]];
        byte += 1;
    }
    pairs
};

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn carried(parents: &[&str]) -> (String, Option<String>) {
        let mut headers = Fields::new();
        for parent in parents {
            headers.append(TRACEPARENT, HeaderValue::from_str(parent).expect("a value"));
        }
        headers.insert(TRACESTATE, HeaderValue::from_static("vendor=1"));
        headers.insert(BAGGAGE, HeaderValue::from_static("user=7"));
        let id = carry_on(&mut headers);
        assert!(!headers.contains(BAGGAGE));
        assert_eq!(headers.get_all(TRACEPARENT).count(), 1);
        let value = headers.get(TRACEPARENT).expect("one").to_str().expect("text").to_owned();
        assert!(is_valid(value.as_bytes()), "{value}");
        assert_eq!(id.as_ref(), &value[TRACE]);
        (value, headers.get(TRACESTATE).map(|state| state.to_str().expect("text").to_owned()))
    }

    #[test]
    fn a_trace_goes_on_under_a_span_of_our_own() {
        for parent in [PARENT, "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"] {
            let (value, state) = carried(&[parent]);
            assert_eq!((&value[..2], &value[TRACE], &value[FLAGS]), ("00", &PARENT[TRACE], "01"));
            assert_ne!(value[SPAN], PARENT[SPAN]);
            assert_eq!(state.as_deref(), Some("vendor=1"));
        }
    }

    #[test]
    fn what_is_no_trace_is_followed_by_a_new_one() {
        let bad = [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ];
        for parents in bad.iter().map(|bad| vec![*bad]).chain([vec![], vec![PARENT, PARENT]]) {
            let (value, state) = carried(&parents);
            assert_ne!(value[TRACE], PARENT[TRACE], "{parents:?}");
            assert_eq!((&value[FLAGS], state), ("00", None), "{parents:?}");
        }
    }
}
