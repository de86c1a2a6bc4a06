//! A client's socket as hyper sees it: it tells its watch what comes and goes, puts our own words in the place of the bare
//! status line that hyper writes when it cannot read a head, and finds out which protocol is spoken.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::StatusCode;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::frames::FrameMeter;
use super::watch::Watch;

/// How a client of HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Head and body of a small answer are written as one piece: copying them costs less than a `writev`.
const SMALL: usize = 4096;

/// GOAWAY: no stream above the highest possible one has been processed, ENHANCE_YOUR_CALM (RFC 9113, section 6.8).
const CALM_DOWN: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0xb];

/// Where a worker's connections put small pieces together; used within one call and never kept.
pub type Scratch = Rc<RefCell<Vec<u8>>>;

/// Makes our own answer to a head that hyper could not read, of the status that it answers with.
pub type Refuse = Rc<dyn Fn(StatusCode) -> Vec<u8>>;

/// A socket that clients come in on.
pub trait Socket: AsyncRead + AsyncWrite + AsFd + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + AsFd + Unpin + 'static> Socket for S {}

/// What is spoken on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spoken {
    Http1,
    Http2,
}

pub struct WatchedStream<S: AsFd> {
    inner: S,
    watch: Rc<Watch>,
    scratch: Scratch,
    refuse: Refuse,
    /// What is written instead of hyper's words; nothing follows it.
    refusal: Option<Refusal>,
    first: First,
    /// Once HTTP/2 is spoken.
    meter: Option<FrameMeter>,
    /// Ended in order.
    shut: bool,
}

struct Refusal {
    text: Vec<u8>,
    written: usize,
}

/// The first bytes, which tell the protocol; they are read again by whoever speaks it.
struct First {
    bytes: [u8; PREFACE.len()],
    have: usize,
    given: usize,
}

impl<S: Socket> WatchedStream<S> {
    pub fn new(inner: S, watch: Rc<Watch>, scratch: Scratch, refuse: Refuse) -> Self {
        let first = First { bytes: [0; PREFACE.len()], have: 0, given: 0 };
        Self { inner, watch, scratch, refuse, refusal: None, first, meter: None, shut: false }
    }

    /// Reads until it is clear what is spoken. Nothing is allocated until the first bytes have come.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn spoken(&mut self) -> io::Result<Spoken> {
        let mut bytes = [0; PREFACE.len()];
        let mut have = 0;
        while have < PREFACE.len() && bytes[..have] == PREFACE[..have] {
            let read = self.read(&mut bytes[have..]).await?;
            if read == 0 {
                break;
            }
            have += read;
        }
        self.first = First { bytes, have, given: 0 };
        if bytes != *PREFACE {
            return Ok(Spoken::Http1);
        }
        self.watch.speaks_http2();
        self.meter = Some(FrameMeter::default());
        Ok(Spoken::Http2)
    }

    /// Writes our own refusal in the place of what hyper says of itself: it says nothing else while no request is under way.
    fn poll_refusal(&mut self, context: &mut Context<'_>, first: &[u8]) -> Option<Poll<io::Result<()>>> {
        if self.refusal.is_none() && !self.watch.is_answering() && self.meter.is_none() {
            let status = first.get(9..12).and_then(|digits| StatusCode::from_bytes(digits).ok())?;
            self.refusal = Some(Refusal { text: (self.refuse)(status), written: 0 });
        }
        self.poll_write_refusal(context)
    }

    fn poll_write_refusal(&mut self, context: &mut Context<'_>) -> Option<Poll<io::Result<()>>> {
        let Self { inner, refusal, watch, .. } = self;
        let refusal = refusal.as_mut()?;
        while let Some(rest) = refusal.text.get(refusal.written..).filter(|rest| !rest.is_empty()) {
            match watch.written(Pin::new(&mut *inner).poll_write(context, rest)) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(written)) => refusal.written += written,
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => return Some(Poll::Pending),
            }
        }
        Some(Poll::Ready(Ok(())))
    }

    /// Answers a head that is late, and reads no more of it.
    fn poll_late_head(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.refusal.is_none() {
            self.refusal = Some(Refusal { text: (self.refuse)(StatusCode::REQUEST_TIMEOUT), written: 0 });
        }
        self.poll_write_refusal(context).unwrap_or(Poll::Ready(Ok(())))
    }

    /// Notes what has come; an error when it is more than we put up with.
    fn received(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        let Some(meter) = &mut self.meter else {
            if !bytes.is_empty() {
                self.watch.received();
            }
            return Ok(());
        };
        let idle_frames = meter.read(bytes);
        if idle_frames > 0 && self.watch.received_idle_frames(idle_frames) {
            // Whether it gets through or not, this is the end.
            let _ = Pin::new(&mut self.inner).poll_write(context, &CALM_DOWN);
            return Err(io::Error::other(TooManyFrames));
        }
        Ok(())
    }
}

/// The client sent more frames that carry nothing than a second may bring.
#[derive(Debug, thiserror::Error)]
#[error("too many frames that carry nothing")]
struct TooManyFrames;

impl<S: Socket> AsyncRead for WatchedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.watch.head_is_late() {
            return this.poll_late_head(context);
        }
        let First { bytes, have, given } = &mut this.first;
        if *given < *have {
            let length = (*have - *given).min(buffer.remaining());
            buffer.put_slice(&bytes[*given..*given + length]);
            *given += length;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        match Pin::new(&mut this.inner).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => Poll::Ready(this.received(context, &buffer.filled()[before..])),
            other => other,
        }
    }
}

impl<S: Socket> AsyncWrite for WatchedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(refused) = self.poll_refusal(context, bytes) {
            return refused.map_ok(|()| bytes.len());
        }
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.watch.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let first = pieces.first().map_or(&[][..], |piece| piece);
        if let Some(refused) = self.poll_refusal(context, first) {
            return refused.map_ok(|()| bytes);
        }
        if bytes > SMALL {
            let written = Pin::new(&mut self.inner).poll_write_vectored(context, pieces);
            return self.watch.written(written);
        }
        let Self { inner, scratch, watch, .. } = &mut *self;
        let mut whole = scratch.borrow_mut();
        whole.clear();
        pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
        watch.written(Pin::new(inner).poll_write(context, &whole))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        if flushed.is_ready() {
            self.watch.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: AsFd> Drop for WatchedStream<S> {
    /// An answer that ends with its connection, as all do in HTTP/1.0, would look whole if the connection ended in order.
    fn drop(&mut self) {
        if self.watch.is_broken_off() && !self.shut {
            // A unix socket has no other way to end.
            let _ = SockRef::from(&self.inner).set_linger(Some(Duration::ZERO));
        }
    }
}
