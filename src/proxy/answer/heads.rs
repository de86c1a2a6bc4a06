//! The heads of answers as bytes, on their way to hyper: some of what makes a head ambiguous cannot be seen any more once
//! hyper has read it, and hyper reads interim answers without an end.
//!
//! ```text
//!  Expected::head ─▶ head ─▶ interim? ─▶ head ─▶ ... ─▶ final: whatever follows is not looked at
//! ```
//!
//! A connection of HTTP/1 carries one request at a time, and its head is announced before it is sent. Between two requests
//! nothing may come: hyper closes the connection then.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use memchr::memchr;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Fault, HEAD_BYTES, INTERIM};

/// What a connection may receive next; shared by its stream and by whoever sends requests on it.
#[derive(Default)]
pub struct Expected(Cell<Option<Progress>>);

/// How far the heads of an answer have come.
#[derive(Clone, Copy, Default)]
struct Progress {
    interim: u8,
    head: Head,
}

/// How far one head has come.
#[derive(Clone, Copy, Default)]
struct Head {
    bytes: usize,
    /// The three digits of its status line.
    status: [u8; 3],
    /// Bytes of the line that is not yet at its end.
    line: usize,
    last: u8,
}

/// Where the digits stand in `HTTP/1.1 200 OK`.
const STATUS: usize = 9;

impl Expected {
    /// A request is about to be sent: what comes next is the head of its answer.
    pub fn head(&self) {
        self.0.set(Some(Progress::default()));
    }

    fn received(&self, bytes: &[u8]) -> Result<(), Fault> {
        let Some(mut progress) = self.0.get() else { return Ok(()) };
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(end) = progress.head.take(rest)? else {
                self.0.set(Some(progress));
                return Ok(());
            };
            if !progress.head.is_interim() {
                self.0.set(None);
                return Ok(());
            }
            progress = Progress { interim: progress.interim + 1, head: Head::default() };
            if progress.interim > INTERIM {
                return Err(Fault::Interim);
            }
            rest = &rest[end..];
        }
        self.0.set(Some(progress));
        Ok(())
    }
}

impl Head {
    /// Takes in what has come of the head. `Some`: so many bytes of it, and the head is whole.
    fn take(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let mut at = 0;
        while let Some(line) = memchr(b'\n', &bytes[at..]) {
            let end = at + line;
            let before = if line > 0 { bytes[end - 1] } else { self.last };
            if before != b'\r' {
                return Err(Fault::LineEnd);
            }
            let is_first = self.bytes == self.line;
            self.note(&bytes[at..=end], is_first);
            // The carriage return and the line feed.
            let is_empty = std::mem::take(&mut self.line) == 2;
            at = end + 1;
            if self.bytes > HEAD_BYTES {
                return Err(Fault::HeadBytes);
            }
            if is_empty {
                return if is_first { Err(Fault::EmptyLine) } else { Ok(Some(at)) };
            }
        }
        let is_first = self.bytes == self.line;
        self.note(&bytes[at..], is_first);
        if self.bytes > HEAD_BYTES { Err(Fault::HeadBytes) } else { Ok(None) }
    }

    /// Notes bytes of one line.
    fn note(&mut self, bytes: &[u8], is_first: bool) {
        if is_first {
            for (at, digit) in self.status.iter_mut().enumerate() {
                let place = (STATUS + at).checked_sub(self.line);
                *digit = place.and_then(|place| bytes.get(place)).copied().unwrap_or(*digit);
            }
        }
        self.line += bytes.len();
        self.bytes += bytes.len();
        self.last = bytes.last().copied().unwrap_or(self.last);
    }

    /// 101 is the last that comes of HTTP/1 on its connection.
    fn is_interim(&self) -> bool {
        self.status[0] == b'1' && self.status != *b"101"
    }
}

/// A connection's bytes, of which the heads of answers are looked at.
pub struct Checked<S> {
    inner: S,
    expected: Rc<Expected>,
}

impl<S> Checked<S> {
    pub fn new(inner: S, expected: Rc<Expected>) -> Self {
        Self { inner, expected }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Checked<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
        Poll::Ready(Ok(this.expected.received(&buffer.filled()[before..])?))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Checked<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINAL: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\na\nb\n\n";

    /// What comes of bytes that arrive in pieces of one size.
    fn judged(bytes: &[u8], size: usize) -> Result<(), Fault> {
        let expected = Expected::default();
        expected.head();
        bytes.chunks(size).try_for_each(|piece| expected.received(piece))
    }

    /// In pieces of every size the same.
    #[track_caller]
    fn comes_to(bytes: &[u8], outcome: Result<(), Fault>) {
        for size in (1..40).chain([bytes.len()]) {
            assert_eq!(judged(bytes, size), outcome, "in pieces of {size}: {}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_line_of_a_head_ends_as_it_should_and_a_body_is_not_looked_at() {
        comes_to(FINAL, Ok(()));
        comes_to(b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\n", Err(Fault::LineEnd));
        comes_to(b"HTTP/1.1 200 OK\r\nContent-Length: 5\n\r\n", Err(Fault::LineEnd));
        comes_to(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\n", Err(Fault::LineEnd));
        comes_to(b"HTTP/1.1 103 \r\n\r\nHTTP/1.1 200 OK\nA: b\r\n\r\n", Err(Fault::LineEnd));
        comes_to(b"\r\nHTTP/1.1 200 OK\r\n\r\n", Err(Fault::EmptyLine));
        comes_to(b"\n", Err(Fault::LineEnd));
    }

    #[test]
    fn so_many_interim_answers_pass_and_no_more() {
        for interim in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"] {
            for (many, outcome) in [(0, Ok(())), (8, Ok(())), (9, Err(Fault::Interim)), (500, Err(Fault::Interim))] {
                comes_to(&[interim.repeat(many).as_bytes(), FINAL].concat(), outcome);
            }
        }
        // The next protocol is not ours to read.
        comes_to(&b"HTTP/1.1 101 Switching Protocols\r\n\r\n".repeat(20), Ok(()));
    }

    #[test]
    fn the_interim_answers_are_counted_for_each_request() {
        let expected = Expected::default();
        for _ in 0..3 {
            expected.head();
            let answer = ["HTTP/1.1 100 Continue\r\n\r\n".repeat(8).as_bytes(), FINAL].concat();
            assert_eq!(expected.received(&answer), Ok(()));
        }
    }

    #[test]
    fn a_head_comes_to_its_end_or_is_refused() {
        let head = |bytes: usize| format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(bytes - 24)).into_bytes();
        assert_eq!(head(HEAD_BYTES).len(), HEAD_BYTES);
        for (bytes, outcome) in [(HEAD_BYTES, Ok(())), (HEAD_BYTES + 1, Err(Fault::HeadBytes))] {
            for size in [1, 1000, HEAD_BYTES + 1] {
                assert_eq!(judged(&head(bytes), size), outcome, "{bytes} in pieces of {size}");
            }
        }
        assert_eq!(judged(&b"HTTP/1.1 200 OK\r\n".repeat(5000), 999), Err(Fault::HeadBytes));
        assert_eq!(judged(&b"HTTP/1.1".repeat(10_000), 999), Err(Fault::HeadBytes));
    }
}
