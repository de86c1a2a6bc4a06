//! A refusal in the words of gRPC: a client of gRPC reads status and message from fields of its own, and takes anything
//! else for a broken server.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, StatusCode};

use super::message::{Fields, Response};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Turns the answer that HTTP would get into one of trailers alone, as gRPC has it: its status is 200, and what went wrong
/// stands in `grpc-status` and `grpc-message`.
pub fn respond(status: StatusCode, reason: &str, detail: &str, mut fields: Fields) -> Response<Bytes> {
    let message = percent_encoded(&format!("{reason}: {detail}"));
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    fields.insert(GRPC_STATUS, HeaderValue::from(code(status)));
    fields.insert(GRPC_MESSAGE, HeaderValue::try_from(message).expect("what is not visible ASCII is encoded"));
    Response { fields, ..Response::new(StatusCode::OK, Bytes::new()) }
}

/// The code that gRPC's own mapping has for a status of HTTP; where several fit, the one that is told from the others.
fn code(status: StatusCode) -> u16 {
    const UNKNOWN: u16 = 2;
    const DEADLINE_EXCEEDED: u16 = 4;
    const PERMISSION_DENIED: u16 = 7;
    const RESOURCE_EXHAUSTED: u16 = 8;
    const UNIMPLEMENTED: u16 = 12;
    const INTERNAL: u16 = 13;
    const UNAVAILABLE: u16 = 14;
    match status.as_u16() {
        400 | 414 | 417 | 421 | 431 | 508 => INTERNAL,
        403 | 407 => PERMISSION_DENIED,
        404 | 405 => UNIMPLEMENTED,
        408 | 504 => DEADLINE_EXCEEDED,
        413 | 429 => RESOURCE_EXHAUSTED,
        502 | 503 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// As the protocol of gRPC encodes messages: whatever is not visible ASCII, and the percent sign itself.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => {
                // Writing to a String does not fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
            _ => encoded.push(char::from(byte)),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_visible_ascii() {
        assert_eq!(percent_encoded("50% of ü\n"), "50%25 of %C3%BC%0A");
    }
}
