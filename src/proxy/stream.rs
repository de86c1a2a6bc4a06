//! A client's socket: it finds out which protocol is spoken, and tells its watch what comes and goes.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::frames::FrameMeter;
use super::watch::Watch;
use crate::dial::poll_write_pieces;

/// How a client of HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// GOAWAY: no stream above the highest possible one has been processed, ENHANCE_YOUR_CALM (RFC 9113, section 6.8).
const CALM_DOWN: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0xb];

/// A stream that clients come in on.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Has its end look like none, so that what was said on it does not look whole.
    fn break_off(&self);
}

impl Socket for TcpStream {
    fn break_off(&self) {
        // It is about to be closed, whatever comes of this.
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

impl Socket for UnixStream {
    /// It has no other way to end.
    fn break_off(&self) {}
}

/// What is spoken on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spoken {
    Http1,
    Http2,
}

pub struct WatchedStream<S: Socket> {
    inner: S,
    watch: Rc<Watch>,
    first: First,
    /// Once HTTP/2 is spoken.
    meter: Option<FrameMeter>,
    /// Ended in order.
    shut: bool,
}

/// The first bytes, which tell the protocol; they are read again by whoever speaks it.
struct First {
    bytes: [u8; PREFACE.len()],
    have: usize,
    given: usize,
}

impl<S: Socket> WatchedStream<S> {
    pub fn new(inner: S, watch: Rc<Watch>) -> Self {
        let first = First { bytes: [0; PREFACE.len()], have: 0, given: 0 };
        Self { inner, watch, first, meter: None, shut: false }
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
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.watch.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = poll_write_pieces(Pin::new(&mut self.inner), context, pieces);
        self.watch.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: Socket> Socket for WatchedStream<S> {
    fn break_off(&self) {
        self.inner.break_off();
    }
}

impl<S: Socket> Drop for WatchedStream<S> {
    /// An answer that ends with its connection, as all do in HTTP/1.0, would look whole if the connection ended in order.
    fn drop(&mut self) {
        if self.watch.is_broken_off() && !self.shut {
            self.inner.break_off();
        }
    }
}
