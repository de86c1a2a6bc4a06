//! Bytes in both directions, once client and upstream have agreed to speak something other than HTTP.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional};

use super::h1::Upgraded;
use super::pool::Lease;
use super::progress::while_there_is_progress;
use crate::usage::UsageGuard;

/// An upstream's half of a tunnel, which waits for the client's.
pub struct Tunnel {
    upstream: Upgraded,
    usage: UsageGuard,
    /// The longest that neither side may say anything.
    idle: Duration,
    /// The upstream's connection counts as in use.
    _lease: Lease,
}

impl Tunnel {
    pub fn new(upstream: Upgraded, usage: UsageGuard, idle: Duration, lease: Lease) -> Self {
        Self { upstream, usage, idle, _lease: lease }
    }

    /// Carries bytes until both sides have ended, or neither says anything for too long. `early` is what the client said
    /// before it heard that the protocol had changed.
    pub async fn run(self, client: impl AsyncRead + AsyncWrite + Unpin, early: Bytes) {
        let Self { upstream, mut usage, idle, .. } = self;
        let Upgraded { io: upstream, ahead, place: _place } = upstream;
        let (sent, received) = (Rc::new(Cell::new(early.len() as u64)), Rc::new(Cell::new(ahead.len() as u64)));
        let mut client = Counted { inner: client, read: sent.clone() };
        let mut upstream = Counted { inner: upstream, read: received.clone() };
        let carried = async {
            upstream.write_all(&early).await?;
            upstream.flush().await?;
            client.write_all(&ahead).await?;
            client.flush().await?;
            copy_bidirectional(&mut client, &mut upstream).await.map(drop)
        };
        let ended = while_there_is_progress(carried, idle, || sent.get() + received.get()).await;
        usage.upload().bytes.set(sent.get());
        usage.downloaded(usize::try_from(received.get()).unwrap_or(usize::MAX));
        match ended {
            Some(Ok(())) => usage.complete(),
            Some(Err(error)) => tracing::debug!(%error, "a tunnel broke"),
            None => tracing::debug!("a tunnel was idle for too long"),
        }
    }
}

/// A stream whose bytes are counted as they are read.
struct Counted<S> {
    inner: S,
    read: Rc<Cell<u64>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        self.read.set(self.read.get() + (buffer.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
