//! Heads, from what they mean to bytes.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use http::header::{CONNECTION, CONTENT_LENGTH, DATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use super::buffers::Draft;
use crate::clock::Clock;
use crate::proxy::message::{Request, Response};

/// How the end of a body is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// There is none, and nothing has to say so.
    Not,
    Length(u64),
    Chunked,
    /// By the end of the connection.
    Close,
}

/// A request's head. It goes to its target in origin form.
pub fn request(request: &Request, body: Told, out: &mut Draft) {
    let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
    line(out, &[request.method.as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"]);
    fields(request.fields.iter(), out);
    match body {
        Told::Length(length) => told_length(length, out),
        Told::Chunked => out.put(b"transfer-encoding: chunked\r\n"),
        // RFC 9110, section 8.6: a method that usually has a body says that there is none.
        Told::Not | Told::Close if matches!(request.method, Method::POST | Method::PUT | Method::PATCH) => {
            told_length(0, out);
        }
        Told::Not | Told::Close => {}
    }
    out.put(b"\r\n");
}

/// An answer's head, for a client of this version. `keeps`: the connection may be used again.
pub fn response<B>(response: &Response<B>, body: Told, version: Version, keeps: bool, date: &Date, out: &mut Draft) {
    let status = response.status;
    line(
        out,
        &[b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", status.canonical_reason().unwrap_or("").as_bytes(), b"\r\n"],
    );
    let headers = &response.fields;
    match body {
        // What an answer to HEAD says of the length is said of another answer.
        Told::Not => fields(headers.iter(), out),
        Told::Length(_) | Told::Chunked | Told::Close => {
            fields(headers.iter().filter(|(name, _)| **name != CONTENT_LENGTH), out);
        }
    }
    match body {
        Told::Length(length) => told_length(length, out),
        Told::Chunked => out.put(b"transfer-encoding: chunked\r\n"),
        Told::Not | Told::Close => {}
    }
    if !headers.contains(CONNECTION) {
        match (keeps, version) {
            (true, Version::HTTP_10) => out.put(b"connection: keep-alive\r\n"),
            (false, Version::HTTP_10) | (true, _) => {}
            (false, _) => out.put(b"connection: close\r\n"),
        }
    }
    if !headers.contains(DATE) && status != StatusCode::SWITCHING_PROTOCOLS {
        date.write(out);
    }
    out.put(b"\r\n");
}

/// The fields after the last chunk, and the end.
pub fn trailers(trailers: Option<&HeaderMap>, out: &mut Draft) {
    out.put(b"0\r\n");
    if let Some(trailers) = trailers {
        fields(trailers.iter(), out);
    }
    out.put(b"\r\n");
}

/// The line before a chunk.
pub fn chunk(length: usize, out: &mut Draft) {
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut left = length;
    while left > 0 || at == digits.len() {
        at -= 1;
        digits[at] = b"0123456789abcdef"[left & 0xf];
        left >>= 4;
    }
    line(out, &[&digits[at..], b"\r\n"]);
}

fn fields<'f>(fields: impl Iterator<Item = (&'f HeaderName, &'f HeaderValue)>, out: &mut Draft) {
    fields.for_each(|(name, value)| field(out, name.as_str(), value.as_bytes()));
}

fn field(out: &mut Draft, name: &str, value: &[u8]) {
    line(out, &[name.as_bytes(), b": ", value, b"\r\n"]);
}

fn told_length(length: u64, out: &mut Draft) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut left = length;
    while left > 0 || at == digits.len() {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    line(out, &[b"content-length: ", &digits[at..], b"\r\n"]);
}

fn line(out: &mut Draft, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.put(part));
}

/// The time of day as answers tell it, put into words once a second.
#[derive(Clone)]
pub struct Date(Rc<RefCell<(u64, String)>>, std::sync::Arc<dyn Clock>);

impl Date {
    pub fn new(clock: std::sync::Arc<dyn Clock>) -> Self {
        Self(Rc::new(RefCell::new((u64::MAX, String::new()))), clock)
    }

    fn write(&self, out: &mut Draft) {
        let now = self.1.now().wall.as_secs();
        let mut said = self.0.borrow_mut();
        if said.0 != now {
            *said = (now, httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(now)));
        }
        field(out, DATE.as_str(), said.1.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::ManualClock;
    use crate::proxy::message::Fields;

    fn written(write: impl FnOnce(&mut Draft)) -> String {
        let mut out = Draft::default();
        write(&mut out);
        String::from_utf8(out.to_vec()).expect("text")
    }

    #[test]
    fn a_request_tells_its_end_once() {
        let uri = "/x?y=1".parse().expect("a target");
        let mut asked = Request { method: Method::GET, uri, fields: Fields::of(&[("a", "b")]) };
        assert_eq!(written(|out| request(&asked, Told::Not, out)), "GET /x?y=1 HTTP/1.1\r\na: b\r\n\r\n");
        asked.method = Method::POST;
        let table = [
            (Told::Not, "content-length: 0\r\n"),
            (Told::Length(u64::MAX), "content-length: 18446744073709551615\r\n"),
            (Told::Chunked, "transfer-encoding: chunked\r\n"),
        ];
        for (told, line) in table {
            let text = written(|out| request(&asked, told, out));
            assert_eq!(text, format!("POST /x?y=1 HTTP/1.1\r\na: b\r\n{line}\r\n"));
        }
    }

    #[test]
    fn an_answer_says_what_becomes_of_the_connection() {
        let date = Date::new(Arc::new(ManualClock::default()));
        let fields = Fields::of(&[("date", "now"), ("content-length", "7")]);
        let answer = Response { fields, ..Response::new(StatusCode::OK, ()) };
        let text = |told, version, keeps| written(|out| response(&answer, told, version, keeps, &date, out));
        let head = "HTTP/1.1 200 OK\r\ndate: now\r\n";
        let table = [
            (Told::Length(5), Version::HTTP_11, true, "content-length: 5\r\n"),
            (Told::Length(5), Version::HTTP_11, false, "content-length: 5\r\nconnection: close\r\n"),
            (Told::Length(5), Version::HTTP_10, true, "content-length: 5\r\nconnection: keep-alive\r\n"),
            (Told::Chunked, Version::HTTP_11, true, "transfer-encoding: chunked\r\n"),
            (Told::Close, Version::HTTP_10, false, ""),
            (Told::Not, Version::HTTP_11, true, "content-length: 7\r\n"),
        ];
        for (told, version, keeps, lines) in table {
            assert_eq!(text(told, version, keeps), format!("{head}{lines}\r\n"), "{told:?} {version:?} {keeps}");
        }
    }

    #[test]
    fn an_answer_without_a_date_gets_one() {
        let clock = Arc::new(ManualClock::default());
        let date = Date::new(clock);
        let text = written(|out| {
            response(&Response::new(StatusCode::OK, ()), Told::Length(0), Version::HTTP_11, true, &date, out);
        });
        assert!(text.contains("\r\ndate: ") && text.contains(" GMT\r\n"), "{text}");
    }

    #[test]
    fn a_chunk_is_announced_in_hexadecimal() {
        for (length, line) in [(0, "0\r\n"), (10, "a\r\n"), (16, "10\r\n"), (0xdead, "dead\r\n")] {
            assert_eq!(written(|out| chunk(length, out)), line);
        }
    }
}
