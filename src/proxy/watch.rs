//! What a worker knows of each client connection: whether it rests between two requests, is in the middle of a head, has
//! a request under way, or does not take its answer. One coarse look a second closes what rests too long; no timer is set
//! for a request.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Limits;
use super::body::{BodyError, ResponseBody};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Between two requests.
    Idle,
    /// Some of a head has come.
    Head,
    /// A request is under way.
    Busy,
}

/// One connection's state, shared by its socket, its requests and the worker. It counts its turns from phase to phase
/// instead of reading a clock at each: the look reads one for all.
pub struct Watch {
    phase: Cell<Phase>,
    turns: Cell<u64>,
    /// An answer of ours may still be on its way out.
    answering: Cell<bool>,
    /// An answer broke off.
    broken: Cell<bool>,
    /// The client does not take what is written.
    stalled: Cell<bool>,
    /// The turn that the last look found, and when it was found first.
    found: Cell<(u64, Instant)>,
    close: Notify,
    late: Cell<Late>,
}

/// What the worker's look found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Late {
    Idle,
    Head,
    Stalled,
}

impl Watch {
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            phase: Cell::new(Phase::Idle),
            turns: Cell::new(0),
            answering: Cell::new(false),
            broken: Cell::new(false),
            stalled: Cell::new(false),
            found: Cell::new((0, Instant::now())),
            close: Notify::new(),
            late: Cell::new(Late::Idle),
        })
    }

    /// Looks at the connection: whether it has rested for longer than it may, give or take the time between two looks.
    pub fn look(&self, now: Instant, limits: &Limits) -> Option<Late> {
        let (turn, since) = self.found.get();
        if turn != self.turns.get() {
            self.found.set((self.turns.get(), now));
            return None;
        }
        let rested = now.saturating_duration_since(since);
        match self.phase.get() {
            _ if self.stalled.get() => (rested > limits.body_timeout).then_some(Late::Stalled),
            Phase::Idle => (rested > limits.idle_timeout).then_some(Late::Idle),
            Phase::Head => (rested > limits.header_timeout).then_some(Late::Head),
            Phase::Busy => None,
        }
    }

    /// Tells the connection to end.
    pub fn close(&self, late: Late) {
        self.late.set(late);
        self.close.notify_one();
    }

    /// Resolves when the connection is to end, and why.
    pub async fn closed(&self) -> Late {
        self.close.notified().await;
        self.late.get()
    }

    /// A request is under way until the returned guard is dropped.
    pub fn busy(self: &Rc<Self>) -> Busy {
        self.answering.set(true);
        self.turn(Phase::Busy);
        Busy(self.clone())
    }

    fn received(&self) {
        if self.phase.get() == Phase::Idle {
            self.turn(Phase::Head);
        }
    }

    /// Notes whether the client takes what is written.
    fn written<T>(&self, written: Poll<T>) -> Poll<T> {
        if self.stalled.get() != written.is_pending() {
            self.stalled.set(written.is_pending());
            self.turn(self.phase.get());
        }
        written
    }

    fn turn(&self, phase: Phase) {
        self.phase.set(phase);
        self.turns.set(self.turns.get() + 1);
    }
}

pub struct Busy(Rc<Watch>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.turn(Phase::Idle);
    }
}

/// An answer's body, under way until it is dropped.
pub struct Watched {
    body: ResponseBody,
    busy: Busy,
}

impl Watched {
    pub fn new(body: ResponseBody, busy: Busy) -> Self {
        Self { body, busy }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(Some(Err(_)))) {
            self.busy.0.broken.set(true);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Head and body of a small answer are written as one piece: copying them costs less than a `writev`.
const SMALL: usize = 4096;

/// Where a worker's connections put small pieces together; used within one call and never kept.
pub type Scratch = Rc<RefCell<Vec<u8>>>;

/// Makes our own answer to a head that hyper could not read, of the status that it answers with.
pub type Refuse = Rc<dyn Fn(StatusCode) -> Vec<u8>>;

/// A client's socket that tells its watch when bytes have come, and puts our own words in the place of the bare status
/// line that hyper writes when it cannot read a head.
pub struct WatchedStream<S: AsFd> {
    inner: S,
    watch: Rc<Watch>,
    scratch: Scratch,
    refuse: Refuse,
    /// What is written instead of hyper's words; nothing follows it.
    refusal: Option<Refusal>,
    /// Ended in order.
    shut: bool,
}

struct Refusal {
    text: Vec<u8>,
    written: usize,
}

impl<S: AsFd + AsyncWrite + Unpin> WatchedStream<S> {
    pub fn new(inner: S, watch: Rc<Watch>, scratch: Scratch, refuse: Refuse) -> Self {
        Self { inner, watch, scratch, refuse, refusal: None, shut: false }
    }

    /// Writes a refusal in the place of what hyper says of itself: it says nothing else while no request is under way.
    fn poll_refusal(&mut self, context: &mut Context<'_>, first: &[u8]) -> Option<Poll<io::Result<()>>> {
        if self.refusal.is_none() && !self.watch.answering.get() {
            let status = first.get(9..12).and_then(|digits| StatusCode::from_bytes(digits).ok())?;
            self.refusal = Some(Refusal { text: (self.refuse)(status), written: 0 });
        }
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
}

impl<S: AsFd + AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.watch.received();
        }
        read
    }
}

impl<S: AsFd + AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
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
        if flushed.is_ready() && self.watch.phase.get() != Phase::Busy {
            self.watch.answering.set(false);
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
        let under_way = self.watch.broken.get() || self.watch.phase.get() == Phase::Busy;
        if under_way && !self.shut {
            // A unix socket has no other way to end.
            let _ = SockRef::from(&self.inner).set_linger(Some(Duration::ZERO));
        }
    }
}
