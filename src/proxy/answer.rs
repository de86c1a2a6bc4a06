//! What an upstream answers, judged before it goes on: an answer that two parties could read differently is refused, and the
//! connection that it came on is not used again.
//!
//! Invariant: of a judged answer the framing can be read in one way only, and nothing of the upstream's own words is left
//! outside of its fields and body.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, StatusCode, Version};

use super::message::{Fields, Response};

/// Fields of an answer, at most.
pub const FIELDS: usize = 100;

/// Bytes of an answer's head, at most.
pub const HEAD_BYTES: usize = 64 * 1024;

/// Interim answers (1xx) to one request, at most. They end here: none is passed on.
pub const INTERIM: u8 = 8;

/// Why an answer is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    #[error("a line of its head ends without a carriage return")]
    LineEnd,
    #[error("an empty line stands before it")]
    EmptyLine,
    #[error("its head is not one of HTTP/1.1")]
    Head,
    #[error("its body's chunks are malformed")]
    Chunks,
    #[error("its head is larger than {HEAD_BYTES} bytes")]
    HeadBytes,
    #[error("its head has more than {FIELDS} fields")]
    Fields,
    #[error("more than {INTERIM} interim answers came before it")]
    Interim,
    #[error("it changes the protocol, and nobody asked for that")]
    Upgrade,
    #[error("its status is not one of HTTP")]
    Status,
    #[error("its version is not that of its connection")]
    Version,
    #[error("its transfer coding is something other than `chunked`, or has no place in it")]
    TransferEncoding,
    #[error("it has both a transfer coding and a length")]
    TwoFramings,
    #[error("its length is not one number")]
    ContentLength,
    #[error("it has a length, and a status that has no body")]
    LengthOfNothing,
    #[error("its body is coded although that was not asked for, and the route wants it searched")]
    Coded,
}

/// Takes out what would carry words of the upstream's past an answer's fields: the reason phrase. Of an answer that changes the
/// protocol nothing else is judged here: whether that was asked for, its sender knows.
///
/// # Errors
/// When it has more fields, or larger ones, than an answer may have.
pub fn bare<B>(response: &mut Response<B>) -> Result<(), Fault> {
    bounds(&response.fields)
}

/// Judges an answer's head as it was read.
///
/// # Errors
/// When the answer must not go on.
pub fn judge<B>(response: &mut Response<B>, is_http2: bool) -> Result<(), Fault> {
    let (status, version) = (response.status, response.version);
    if !(200..=599).contains(&status.as_u16()) {
        return Err(Fault::Status);
    }
    let fits =
        if is_http2 { version == Version::HTTP_2 } else { [Version::HTTP_10, Version::HTTP_11].contains(&version) };
    if !fits {
        return Err(Fault::Version);
    }
    bare(response)?;
    framing(&mut response.fields, status, version)
}

fn bounds(headers: &Fields) -> Result<(), Fault> {
    if headers.len() > FIELDS {
        return Err(Fault::Fields);
    }
    if headers.bytes() > HEAD_BYTES { Err(Fault::HeadBytes) } else { Ok(()) }
}

/// RFC 9112, section 6.3, without its leniences.
fn framing(headers: &mut Fields, status: StatusCode, version: Version) -> Result<(), Fault> {
    let has_length = headers.contains(CONTENT_LENGTH);
    if headers.contains(TRANSFER_ENCODING) {
        let coding = headers.only(TRANSFER_ENCODING).map_or(&b""[..], |coding| coding.as_bytes().trim_ascii());
        let chunked = coding.eq_ignore_ascii_case(b"chunked");
        if !chunked || version != Version::HTTP_11 || status == StatusCode::NO_CONTENT {
            return Err(Fault::TransferEncoding);
        }
        return if has_length { Err(Fault::TwoFramings) } else { Ok(()) };
    }
    if !has_length {
        return Ok(());
    }
    let (length, is_plain) = length(headers).ok_or(Fault::ContentLength)?;
    if status == StatusCode::NO_CONTENT {
        // Many servers say 0 here, which nobody can read otherwise than they mean it.
        headers.remove(CONTENT_LENGTH);
        return if length == 0 { Ok(()) } else { Err(Fault::LengthOfNothing) };
    }
    if !is_plain {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(())
}

/// The one length of all fields that tell it (RFC 9110, section 8.6), and whether it stands there once, without zeros in front:
/// as nearly always.
fn length(headers: &Fields) -> Option<(u64, bool)> {
    let mut values = headers.get_all(CONTENT_LENGTH);
    let first = values.next()?;
    let length = number(first)?;
    let mut is_plain = first == "0" || first.as_bytes()[0] != b'0';
    for other in values {
        is_plain = false;
        if number(other) != Some(length) {
            return None;
        }
    }
    Some((length, is_plain))
}

/// What a `Content-Length` says: digits alone, and no more than what those can count who count with a sign.
pub fn number(value: &HeaderValue) -> Option<u64> {
    let mut number = 0_i64;
    for byte in value.as_bytes() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(i64::from(digit))?;
    }
    if value.is_empty() { None } else { u64::try_from(number).ok() }
}

#[cfg(test)]
mod tests;
