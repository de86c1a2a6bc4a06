//! Heads, from bytes to what they mean. httparse knows the grammar; how a message's end is told is judged here, and what could
//! be read in two ways is refused.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use httparse::Header;

use super::framing::Framing;
use super::lines::BadLines;
use crate::proxy::Limits;
use crate::proxy::answer::{self, Fault};
use crate::proxy::error::Refusal;
use crate::proxy::head::Head;
use crate::proxy::message::{Fields, Response};

/// Fields that are parsed without allocating for them.
const FIELDS: usize = 128;

/// Fields of trailers.
const TRAILERS: usize = 64;

/// Room in a request's head beside what the limits count.
const BETWEEN_FIELDS: usize = 8 * 1024;

/// The longest method that is looked at.
const METHOD_BYTES: usize = 64;

/// A request's head.
pub struct Request {
    pub head: Head,
    pub fields: Fields,
    pub framing: Framing,
    /// Whether the client wants to use the connection again.
    pub keeps: bool,
    /// Whether the client waits to be told to send its body.
    pub waits: bool,
}

/// The bytes of a request's head, at most.
pub fn most(limits: &Limits) -> usize {
    limits.header_bytes + limits.target_bytes + BETWEEN_FIELDS
}

/// What bytes are answered that are no head.
pub fn refuse_lines(bad: BadLines, begun: &[u8], limits: &Limits) -> Refusal {
    match bad {
        BadLines::LineFeed | BadLines::Empty => Refusal::Framing,
        BadLines::TooLong if !begun.contains(&b'\n') && begun.len() > limits.target_bytes => Refusal::TargetTooLong,
        BadLines::TooLong => Refusal::HeadersTooLarge,
    }
}

/// Reads a request's head.
///
/// # Errors
/// When it is none, or its end or its body's could be read in two ways.
pub fn request(bytes: &Bytes, limits: &Limits) -> Result<Request, Refusal> {
    let mut few = [MaybeUninit::uninit(); FIELDS];
    let mut many = Vec::new();
    let room = room(&mut few, &mut many, limits.header_count);
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(bytes, room) {
        Ok(status) if status.is_complete() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadersTooLarge),
        _ => return Err(Refusal::Framing),
    }
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Refusal::Framing);
    };
    if target.len() > limits.target_bytes {
        return Err(Refusal::TargetTooLong);
    }
    if method.len() > METHOD_BYTES {
        return Err(Refusal::MethodRefused);
    }
    // What one reader takes for a fragment is a part of the path to another.
    if target.contains('#') {
        return Err(Refusal::Framing);
    }
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Refusal::Framing)?;
    let uri = Uri::from_maybe_shared(bytes.slice_ref(target.as_bytes())).map_err(|_| Refusal::Framing)?;
    let version = version(minor);
    let fields = fields(bytes, parsed.headers).ok_or(Refusal::Framing)?;
    let framing = request_framing(&fields, version).ok_or(Refusal::Framing)?;
    let keeps = keeps(&fields, version);
    let waits = version == Version::HTTP_11 && !framing.is_over() && fields.contains(EXPECT);
    Ok(Request { head: Head { method, uri, version }, fields, framing, keeps, waits })
}

/// Reads the head of an answer, and judges it. `is_head`: HEAD was asked, and no body follows.
///
/// # Errors
/// When it is none, or must not go on.
pub fn response(bytes: &Bytes, is_head: bool) -> Result<(Response<Framing>, bool), Fault> {
    let mut few = [MaybeUninit::uninit(); FIELDS];
    let mut many = Vec::new();
    let room = room(&mut few, &mut many, answer::FIELDS);
    let mut parsed = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, bytes, room);
    match status {
        Ok(status) if status.is_complete() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::Fields),
        _ => return Err(Fault::Head),
    }
    let (Some(code), Some(minor)) = (parsed.code, parsed.version) else { return Err(Fault::Head) };
    let status = StatusCode::from_u16(code).map_err(|_| Fault::Status)?;
    let fields = fields(bytes, parsed.headers).ok_or(Fault::Head)?;
    let mut response = Response { status, version: version(minor), fields, body: Framing::NONE };
    let keeps = keeps(&response.fields, response.version);
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        answer::bare(&mut response)?;
        return Ok((response, false));
    }
    answer::judge(&mut response, false)?;
    let framing = response_framing(&response, is_head);
    // What ends with its connection leaves nothing to use again.
    let keeps = keeps && !matches!(framing, Framing::UntilClose);
    Ok((response.map(|_| framing), keeps))
}

/// Whether a head stands before the answer proper. 101 is the last that comes of HTTP on its connection.
///
/// # Errors
/// When it looks like one, and is none.
pub fn is_interim(bytes: &[u8]) -> Result<bool, Fault> {
    // `HTTP/1.1 100`
    if bytes.get(9) != Some(&b'1') {
        return Ok(false);
    }
    let mut fields = [MaybeUninit::uninit(); FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields);
    match (status, parsed.code) {
        (Ok(status), Some(code @ 100..=199)) if status.is_complete() => Ok(code != 101),
        _ => Err(Fault::Head),
    }
}

/// The fields after the last chunk.
pub fn trailers(bytes: &Bytes) -> Option<HeaderMap> {
    let mut lines = [httparse::EMPTY_HEADER; TRAILERS];
    let parsed = httparse::parse_headers(bytes, &mut lines).ok()?;
    let httparse::Status::Complete((_, lines)) = parsed else { return None };
    fields(bytes, lines).map(HeaderMap::from)
}

fn room<'r, 'b>(
    few: &'r mut [MaybeUninit<Header<'b>>],
    many: &'r mut Vec<MaybeUninit<Header<'b>>>,
    most: usize,
) -> &'r mut [MaybeUninit<Header<'b>>] {
    if most <= few.len() {
        return &mut few[..most];
    }
    many.resize(most, MaybeUninit::uninit());
    many
}

fn version(minor: u8) -> Version {
    if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 }
}

/// The fields as parts of the bytes that they came in.
fn fields(bytes: &Bytes, lines: &[Header<'_>]) -> Option<Fields> {
    // Some are added on the way: room for them is made once.
    let mut fields = Fields::with_capacity(lines.len() + ADDED_FIELDS);
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        fields.append(name, HeaderValue::from_maybe_shared(bytes.slice_ref(line.value)).ok()?);
    }
    Some(fields)
}

/// Host, token, trace and Via of a request; of an answer, length and date.
const ADDED_FIELDS: usize = 4;

/// RFC 9112, section 6.3, without its leniences: one way to tell the end, told once.
fn request_framing(headers: &Fields, version: Version) -> Option<Framing> {
    let (mut codings, mut lengths) = (headers.get_all(TRANSFER_ENCODING), headers.get_all(CONTENT_LENGTH));
    match (codings.next(), lengths.next()) {
        (None, None) => Some(Framing::NONE),
        (None, Some(length)) if lengths.next().is_none() => answer::number(length).map(Framing::Length),
        (Some(coding), None) if codings.next().is_none() && version == Version::HTTP_11 => {
            coding.as_bytes().eq_ignore_ascii_case(b"chunked").then(Framing::chunked)
        }
        _ => None,
    }
}

/// The same for an answer that has been judged.
fn response_framing<B>(response: &Response<B>, is_head: bool) -> Framing {
    let headers = &response.fields;
    if is_head || matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Framing::NONE;
    }
    if headers.contains(TRANSFER_ENCODING) {
        return Framing::chunked();
    }
    match headers.get(CONTENT_LENGTH).and_then(answer::number) {
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    }
}

fn keeps(headers: &Fields, version: Version) -> bool {
    // As nearly always.
    let mut values = headers.get_all(CONNECTION);
    if version == Version::HTTP_11 && values.all(|value| value == "keep-alive") {
        return true;
    }
    let names = |option: &[u8]| {
        let mut values = headers.get_all(CONNECTION).map(HeaderValue::as_bytes);
        values
            .any(|value| value.split(|byte| *byte == b',').any(|named| named.trim_ascii().eq_ignore_ascii_case(option)))
    };
    if version == Version::HTTP_10 { names(b"keep-alive") } else { !names(b"close") }
}
