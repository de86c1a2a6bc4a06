//! A message on its way out: its head and its body's pieces, put together to as few writes as they need.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use http_body::Body;

use super::buffers::{Buffers, Draft};
use super::write::{self, Told};
use crate::proxy::body::BodyError;

/// Pieces up to this size are copied together; a larger one is written from where it lies.
const SMALL: usize = 4096;

/// What is being written.
pub struct Pump {
    /// Borrowed from the worker.
    small: Draft,
    /// How much of it has gone out.
    gone: usize,
    buffers: Buffers,
    /// Follows what is small.
    large: Bytes,
    /// Follows what is large.
    after: &'static [u8],
    told: Told,
    /// The body has been read to its end.
    done: bool,
    /// Bytes that have gone out.
    written: u64,
    /// Why there will be no end.
    broken: Option<Broken>,
}

/// Why a message did not go out whole.
#[derive(Debug)]
pub enum Broken {
    Body(BodyError),
    Socket(io::Error),
    /// The body is shorter or longer than its head said.
    Length,
}

impl Pump {
    /// `head`, a buffer of the worker's, goes first; the body's end is told as it says.
    pub fn new(head: Draft, told: Told, buffers: Buffers) -> Self {
        Self {
            small: head,
            gone: 0,
            buffers,
            large: Bytes::new(),
            after: b"",
            told,
            done: told == Told::Not,
            written: 0,
            broken: None,
        }
    }

    /// Bytes that have gone out.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Moves on until the message is out, or `body` or `write` has to be waited for. The body is let go of when its end has been
    /// read, before that is written.
    pub fn poll<B>(
        &mut self,
        body: &mut Option<B>,
        context: &mut Context<'_>,
        mut write: impl FnMut(&mut Context<'_>, &[IoSlice<'_>]) -> Poll<io::Result<usize>>,
    ) -> Poll<Result<(), Broken>>
    where
        B: Body<Data = Bytes, Error = BodyError> + Unpin,
    {
        loop {
            let gathered = match self.gather(body, context) {
                Ok(gathered) => gathered,
                Err(broken) => {
                    self.broken.get_or_insert(broken);
                    Poll::Ready(())
                }
            };
            if self.is_empty()
                && let Some(broken) = self.broken.take()
            {
                return Poll::Ready(Err(broken));
            }
            if self.is_empty() {
                return if self.done { Poll::Ready(Ok(())) } else { gathered.map(Ok) };
            }
            let slices = [&self.small[self.gone..], &self.large[..], self.after].map(IoSlice::new);
            let written = match write(context, &slices) {
                Poll::Ready(written) => written,
                // What there is goes out as far as it does at once.
                Poll::Pending => return self.broken.take().map_or(Poll::Pending, |broken| Poll::Ready(Err(broken))),
            };
            match written {
                Ok(0) => return Poll::Ready(Err(Broken::Socket(io::ErrorKind::WriteZero.into()))),
                Ok(written) => self.went_out(written),
                Err(error) => return Poll::Ready(Err(Broken::Socket(error))),
            }
        }
    }

    /// Puts together what can be written at once. Pending: the body has nothing more now.
    fn gather<B>(&mut self, body: &mut Option<B>, context: &mut Context<'_>) -> Result<Poll<()>, Broken>
    where
        B: Body<Data = Bytes, Error = BodyError> + Unpin,
    {
        // What is under way goes first.
        if self.broken.is_some() || !self.large.is_empty() || !self.after.is_empty() {
            return Ok(Poll::Ready(()));
        }
        while !self.done && self.large.is_empty() && self.small.len() < SMALL {
            let Some(source) = body else { break };
            match Pin::new(&mut *source).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.data(data, source.is_end_stream())?,
                    Err(frame) => self.end(frame.into_trailers().ok().as_ref())?,
                },
                Poll::Ready(Some(Err(error))) => return Err(Broken::Body(error)),
                Poll::Ready(None) => self.end(None)?,
                Poll::Pending => return Ok(Poll::Pending),
            }
            if self.done {
                *body = None;
            }
        }
        Ok(Poll::Ready(()))
    }

    fn data(&mut self, data: Bytes, is_last: bool) -> Result<(), Broken> {
        if let Told::Length(left) = &mut self.told {
            *left = left.checked_sub(data.len() as u64).ok_or(Broken::Length)?;
        }
        if !data.is_empty() {
            let chunked = self.told == Told::Chunked;
            if chunked {
                write::chunk(data.len(), &mut self.small);
            }
            let line_end: &[u8] = if chunked { b"\r\n" } else { b"" };
            if data.len() <= SMALL {
                self.small.put(&data);
                self.small.put(line_end);
            } else {
                self.large = data;
                self.after = line_end;
            }
        }
        if is_last { self.end(None) } else { Ok(()) }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Broken> {
        self.done = true;
        match self.told {
            Told::Length(left) if left > 0 => Err(Broken::Length),
            Told::Chunked if self.large.is_empty() => {
                write::trailers(trailers, &mut self.small);
                Ok(())
            }
            Told::Chunked => {
                self.after = b"\r\n0\r\n\r\n";
                Ok(())
            }
            Told::Length(_) | Told::Close | Told::Not => Ok(()),
        }
    }

    fn is_empty(&self) -> bool {
        self.small.is_empty() && self.large.is_empty() && self.after.is_empty()
    }

    fn went_out(&mut self, mut bytes: usize) {
        self.written += bytes as u64;
        let small = bytes.min(self.small.len() - self.gone);
        self.gone += small;
        bytes -= small;
        if self.gone == self.small.len() {
            self.gone = 0;
            self.small.clear();
        }
        let large = bytes.min(self.large.len());
        self.large.advance(large);
        bytes -= large;
        self.after = &self.after[bytes..];
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.buffers.give_back(std::mem::take(&mut self.small));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use http::HeaderValue;
    use http_body::Frame;

    use super::*;

    /// A body of these frames; `None` stands for a moment in which there is none.
    struct Frames(VecDeque<Option<Frame<Bytes>>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            match self.0.pop_front() {
                None => Poll::Ready(None),
                Some(None) => Poll::Pending,
                Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
            }
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    fn draft(text: &str) -> Draft {
        let mut draft = Draft::default();
        draft.put(text.as_bytes());
        draft
    }

    /// What goes out through a socket that takes so many bytes at once, and in how many writes.
    fn pumped(told: Told, frames: &[Option<&str>], at_once: usize) -> (Result<(), Broken>, String, usize) {
        let frames = frames.iter().map(|frame| frame.map(|text| Frame::data(Bytes::copy_from_slice(text.as_bytes()))));
        let (mut body, mut out, mut writes) = (Some(Frames(frames.collect())), Vec::new(), 0);
        let mut pump = Pump::new(draft("head|"), told, Buffers::default());
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..10_000 {
            let write = |_: &mut Context<'_>, slices: &[IoSlice<'_>]| {
                let whole: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                let taken = at_once.min(whole.len());
                out.extend_from_slice(&whole[..taken]);
                writes += 1;
                Poll::Ready(Ok(taken))
            };
            if let Poll::Ready(ended) = pump.poll(&mut body, &mut context, write) {
                return (ended, String::from_utf8(out).expect("text"), writes);
            }
        }
        panic!("it goes on without end");
    }

    #[test]
    fn a_message_goes_out_the_same_however_much_the_socket_takes() {
        let large = "l".repeat(SMALL + 1);
        let frames = [Some("a"), None, Some("bc"), Some(&*large), Some(""), Some("d")];
        let chunked = format!("head|1\r\na\r\n2\r\nbc\r\n1001\r\n{large}\r\n1\r\nd\r\n0\r\n\r\n");
        let plain = format!("head|abc{large}d");
        for at_once in [1, 2, 7, 100, 4096, 1 << 20] {
            for (told, expected) in [
                (Told::Chunked, &chunked),
                (Told::Length(4 + large.len() as u64), &plain),
                (Told::Close, &plain),
                (Told::Not, &"head|".to_owned()),
            ] {
                let (ended, out, _) = pumped(told, &frames, at_once);
                assert!(ended.is_ok() && out == *expected, "{told:?} {at_once}: {ended:?}");
            }
        }
    }

    #[test]
    fn a_small_message_is_one_write_and_a_large_piece_is_not_copied_apart() {
        assert_eq!(pumped(Told::Length(5), &[Some("hello")], 1 << 20).2, 1);
        assert_eq!(pumped(Told::Chunked, &[Some("hello"), Some("you")], 1 << 20).2, 1);
        assert_eq!(pumped(Told::Chunked, &[Some(&"l".repeat(100_000))], 1 << 20).2, 1);
    }

    #[test]
    fn a_body_that_is_not_as_long_as_was_said_breaks_the_message() {
        for frames in [&[Some("hell")][..], &[Some("hello!")], &[], &[Some("hello"), Some("!")]] {
            assert!(matches!(pumped(Told::Length(5), frames, 1000).0, Err(Broken::Length)), "{frames:?}");
        }
    }

    #[test]
    fn what_has_come_of_a_broken_body_goes_out() {
        let (ended, out, _) = pumped(Told::Chunked, &[Some("hello"), None, Some("!")], 3);
        assert!(ended.is_ok() && out.ends_with("\r\n0\r\n\r\n"));
        let (ended, out, _) = pumped(Told::Length(3), &[Some("a"), Some("bcd")], 2);
        assert!(matches!(ended, Err(Broken::Length)) && out == "head|a", "{out}");
    }

    #[test]
    fn trailers_follow_the_last_chunk() {
        let mut fields = HeaderMap::new();
        fields.insert("a", HeaderValue::from_static("b"));
        let frames = [Frame::data(Bytes::from_static(b"x")), Frame::trailers(fields)];
        let mut body = Some(Frames(frames.into_iter().map(Some).collect()));
        let mut pump = Pump::new(Draft::default(), Told::Chunked, Buffers::default());
        let mut out = Vec::new();
        let write = |_: &mut Context<'_>, slices: &[IoSlice<'_>]| {
            slices.iter().for_each(|slice| out.extend_from_slice(slice));
            Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
        };
        assert!(pump.poll(&mut body, &mut Context::from_waker(Waker::noop()), write).is_ready());
        assert_eq!(out, b"1\r\nx\r\n0\r\na: b\r\n\r\n");
    }
}
