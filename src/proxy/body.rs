//! Bodies on their way: streamed, counted, and given up when they make no progress. An answer's trailers go on to clients
//! that take them, a request's do not.
//!
//! What a client of HTTP/2 still sends of a request that is over is read for a while: one that is stopped by RST_STREAM, as
//! RFC 9113, section 8.1 has it, may take its answer for lost.
//!
//! Invariant: a body that fails half-way never looks complete at the other side: the error is passed on, and the connection is
//! cut.

mod idle;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use self::idle::IdleTimer;
use super::echo::{self, Scrubber};
use super::executor::run;
use super::h1::{BrokenOff, InboundBody, Inflow, Lost};
use super::headers::rebuild_trailers;
use super::pool::Lease;
use super::replay::Kept;
use crate::route::Route;
use crate::secret::Needles;
use crate::sigv4::Chunks;
use crate::token::Guarded;
use crate::usage::{Upload, UploadFailure, UsageGuard};

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the connection failed: {0}")]
    Http2(#[from] hyper::Error),
    #[error("the client's body broke off: {0}")]
    Client(#[from] BrokenOff),
    #[error("the upstream's body broke off: {0}")]
    Upstream(Lost),
    #[error("the body is not as long as was said")]
    Length,
    #[error("the body made no progress in time")]
    Idle,
    #[error("the body is longer than the route allows")]
    TooLarge,
    #[error("the body does not come in signed chunks, as it says")]
    Chunks,
    #[error("the upstream has answered before the body's end")]
    Answered,
}

/// The longest that the rest of an upload is read that nobody wants. A body that may not rest for as long is not read for as
/// long, either.
pub const LINGER: Duration = Duration::from_secs(30);

/// A client's body on its way to the upstream.
pub struct RequestBody {
    source: Source,
    upload: Rc<Upload>,
    idle: IdleTimer,
    /// Whether its length was told ahead.
    is_known: bool,
    kept: Option<Rc<RefCell<Kept>>>,
    /// Bytes; more fail the body.
    most: u64,
    /// Whether the rest is read though nobody wants it.
    lingers: bool,
    /// Signs it again as it passes.
    chunks: Option<Box<Chunks>>,
}

/// What a client sends.
pub enum ClientBody {
    Http1(InboundBody),
    Http2(Incoming),
    /// Of a stream of HTTP/2 that is to be something other than a request and its answer.
    Nothing,
}

enum Source {
    Client(ClientBody),
    /// What was kept of a body that is sent once more; nothing, if there was none.
    Kept {
        pieces: VecDeque<Bytes>,
        begun: bool,
    },
}

impl RequestBody {
    pub fn new(inner: ClientBody, upload: Rc<Upload>, idle: Duration) -> Self {
        upload.finished.set(inner.is_end_stream());
        let is_known = inner.size_hint().exact().is_some();
        let lingers = matches!(inner, ClientBody::Http2(_));
        let (source, idle) = (Source::Client(inner), IdleTimer::new(idle));
        Self { source, upload, idle, is_known, kept: None, most: u64::MAX, lingers, chunks: None }
    }

    /// Whether the client would take no ordinary answer.
    pub fn is_for_a_stream(&self) -> bool {
        matches!(self.source, Source::Client(ClientBody::Nothing))
    }

    /// Whether none of it has been taken.
    pub fn is_untouched(&self) -> bool {
        match &self.source {
            Source::Client(_) => self.upload.bytes.get() == 0 && self.upload.failure.get().is_none(),
            Source::Kept { begun, .. } => !begun,
        }
    }

    /// Lets it rest no longer than that, nor become longer.
    pub fn limit(&mut self, idle: Duration, most: u64) {
        (self.idle, self.most) = (IdleTimer::new(idle), most);
    }

    /// A body once more; it has been counted.
    pub fn again(pieces: Vec<Bytes>, upload: Rc<Upload>) -> Self {
        let (source, idle) = (Source::Kept { pieces: pieces.into(), begun: false }, IdleTimer::new(Duration::ZERO));
        Self { source, upload, idle, is_known: true, kept: None, most: u64::MAX, lingers: false, chunks: None }
    }

    /// Has its chunks signed again as they pass.
    pub fn sign(&mut self, chunks: Option<Box<Chunks>>) {
        self.chunks = chunks;
    }

    /// Keeps what goes by from now on.
    pub fn keep(&mut self) -> Rc<RefCell<Kept>> {
        self.kept.get_or_insert_default().clone()
    }

    /// All of it, where it lies here already.
    pub fn held(&self) -> Option<Vec<Bytes>> {
        match &self.source {
            Source::Kept { pieces, begun: false } => Some(pieces.iter().cloned().collect()),
            Source::Kept { begun: true, .. } | Source::Client(_) => None,
        }
    }

    /// Reads what the client still sends and throws it away, for a while: it would not get to read its answer if its
    /// connection were closed on it.
    fn drain(&mut self) {
        let nothing = Source::Kept { pieces: VecDeque::new(), begun: true };
        let rest = std::mem::replace(&mut self.source, nothing);
        // A connection of HTTP/1.1 sees to that itself, when the answer is out.
        let Source::Client(ClientBody::Http2(mut inner)) = rest else { return };
        let longest = self.idle.limit.min(LINGER);
        run(async move {
            let rest = async { while let Some(Ok(_)) = inner.frame().await {} };
            let _ = tokio::time::timeout(longest, rest).await;
        });
    }

    fn finish(&self) {
        self.upload.finished.set(true);
        if let Some(kept) = &self.kept {
            kept.borrow_mut().whole();
        }
    }
}

/// What is sent on: the body as it came, or with its chunks signed again.
impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            let polled = this.poll_source(context);
            let Some(chunks) = &mut this.chunks else { return polled };
            let is_last = this.source.is_end_stream();
            let passed = match polled {
                Poll::Ready(Some(Ok(frame))) => frame.into_data().ok().map(|data| chunks.pass(&data)).transpose(),
                Poll::Ready(None) => Ok(None),
                other => return other,
            };
            match passed {
                Ok(_) if is_last && !chunks.is_done() => {}
                Ok(None) => return Poll::Ready(None),
                // Of a chunk that is not whole nothing goes on.
                Ok(Some(signed)) if signed.is_empty() => continue,
                Ok(Some(signed)) => return Poll::Ready(Some(Ok(Frame::data(signed)))),
                Err(error) => tracing::debug!(%error, "the body's chunks cannot be signed again"),
            }
            this.upload.failure.set(Some(UploadFailure::Malformed));
            return Poll::Ready(Some(Err(BodyError::Chunks)));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Client(inner) => inner.size_hint(),
            Source::Kept { pieces, .. } => SizeHint::with_exact(pieces.iter().map(|piece| piece.len() as u64).sum()),
        }
    }
}

impl Source {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(inner) => inner.is_end_stream(),
            Self::Kept { pieces, .. } => pieces.is_empty(),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if self.lingers && !self.is_end_stream() {
            self.drain();
        }
    }
}

impl RequestBody {
    /// The next of what comes in.
    fn poll_source(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.upload.is_answered() {
            self.drain();
            return Poll::Ready(Some(Err(BodyError::Answered)));
        }
        let inner = match &mut self.source {
            Source::Client(inner) => inner,
            Source::Kept { pieces, begun } => {
                *begun = true;
                return Poll::Ready(pieces.pop_front().map(|piece| Ok(Frame::data(piece))));
            }
        };
        match Pin::new(&mut *inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.progress();
                let ended = inner.is_end_stream();
                let Ok(data) = frame.into_data() else {
                    self.finish();
                    return Poll::Ready(None);
                };
                let bytes = self.upload.bytes.get() + data.len() as u64;
                if bytes > self.most {
                    self.upload.failure.set(Some(UploadFailure::TooLarge));
                    return Poll::Ready(Some(Err(BodyError::TooLarge)));
                }
                self.upload.bytes.set(bytes);
                if let Some(kept) = &self.kept {
                    kept.borrow_mut().piece(&data);
                }
                if ended {
                    self.finish();
                } else if self.is_known && self.idle.is_too_slow(bytes) {
                    self.upload.failure.set(Some(UploadFailure::Idle));
                    return Poll::Ready(Some(Err(BodyError::Idle)));
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Ready(Some(Err(error))) => {
                self.upload.failure.set(Some(failure(&error)));
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Pending => {
                self.upload.wait(context.waker());
                self.idle.poll(context).map(|()| {
                    self.upload.failure.set(Some(UploadFailure::Idle));
                    Some(Err(BodyError::Idle))
                })
            }
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(context).map_err(BodyError::Client),
            Self::Http2(body) => match Pin::new(&mut *body).poll_frame(context) {
                // A reset without an error ends no body.
                Poll::Ready(None) if !body.is_end_stream() => {
                    Poll::Ready(Some(Err(BodyError::Client(BrokenOff::Closed))))
                }
                polled => polled.map_err(BodyError::Http2),
            },
            Self::Nothing => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Nothing => SizeHint::with_exact(0),
        }
    }
}

/// Whether a body broke off because of what it is, or with its connection.
fn failure(error: &BodyError) -> UploadFailure {
    match error {
        BodyError::Client(BrokenOff::Malformed(_)) => UploadFailure::Malformed,
        _ => UploadFailure::Gone,
    }
}

/// What an upstream sends. Of HTTP/1.1 it is read from the connection that is leased for it.
pub enum UpstreamBody {
    Http1(Inflow),
    Http2(Incoming),
}

impl UpstreamBody {
    pub fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(inflow) => inflow.is_end_stream(),
            Self::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(inflow) => inflow.size_hint(),
            Self::Http2(incoming) => incoming.size_hint(),
        }
    }
}

/// An answer's body on its way to the client. What it needs stands elsewhere: an answer is moved several times until it is written.
pub enum ResponseBody {
    /// An answer of our own; `None`: it ends with its head.
    Own {
        text: Option<Bytes>,
        usage: Box<UsageGuard>,
    },
    Relayed(Box<Relay>),
    /// None: the protocol changes, and its bytes take another way.
    Switched,
}

impl ResponseBody {
    pub fn own(text: Bytes, usage: UsageGuard) -> Self {
        Self::Own { text: Some(text).filter(|text| !text.is_empty()), usage: Box::new(usage) }
    }

    /// Whether it is our own.
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Own { .. })
    }

    /// Sends on what is left of the request.
    ///
    /// # Errors
    /// When its body fails.
    pub fn poll_upload(&mut self, context: &mut Context<'_>) -> Result<(), BodyError> {
        match self {
            Self::Relayed(relay) => relay.poll_upload(context),
            Self::Own { .. } | Self::Switched => Ok(()),
        }
    }
}

/// An upstream's body. Its connection goes back to the pool when the last byte has been handed on, not when somebody asks
/// for more: nobody asks again after the last byte of a body of known length.
pub struct Relay {
    inner: UpstreamBody,
    /// Until the last byte.
    lease: Option<Lease>,
    usage: UsageGuard,
    idle: IdleTimer,
    /// Where the token is to be taken out.
    scrubber: Option<Box<Scrubber>>,
    /// `None`: the client takes none.
    trailers: Option<Trailers>,
    /// Trailers that have come, and stand behind what was held back.
    late: Option<Box<Frame<Bytes>>>,
}

/// What becomes of an answer's trailers.
pub struct Trailers {
    /// The headers that the token went into.
    placement: Option<Guarded>,
    needles: Option<Arc<Needles>>,
}

impl Trailers {
    pub fn of(route: &Route, needles: Option<Arc<Needles>>) -> Self {
        let placement = route.token.as_ref().map(|token| token.placement.guarded());
        Self { placement, needles }
    }
}

impl Relay {
    pub fn new(
        inner: UpstreamBody,
        lease: Lease,
        usage: UsageGuard,
        idle: Duration,
        scrubber: Option<Scrubber>,
        trailers: Option<Trailers>,
    ) -> Self {
        let (idle, scrubber) = (IdleTimer::new(idle), scrubber.map(Box::new));
        let mut relay = Self { inner, lease: Some(lease), usage, idle, scrubber, trailers, late: None };
        if relay.inner.is_end_stream() {
            relay.finish();
        }
        relay
    }

    fn poll_upload(&mut self, context: &mut Context<'_>) -> Result<(), BodyError> {
        match (&mut self.inner, &mut self.lease) {
            (UpstreamBody::Http1(inflow), Some(lease)) => lease.poll_upload(inflow, context),
            _ => Ok(()),
        }
    }

    fn poll_inner(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match (&mut self.inner, &mut self.lease) {
            (UpstreamBody::Http1(inflow), Some(lease)) => lease.poll_frame(inflow, context),
            // It was over when the connection was given back.
            (UpstreamBody::Http1(_), None) => Poll::Ready(None),
            (UpstreamBody::Http2(incoming), _) => Pin::new(incoming).poll_frame(context).map_err(BodyError::Http2),
        }
    }

    fn finish(&mut self) {
        self.usage.complete();
        if let Some(mut lease) = self.lease.take() {
            if let UpstreamBody::Http1(inflow) = &self.inner {
                lease.settle(inflow);
            }
            // An answer that came before the request's end leaves the connection in the middle of a message.
            if self.usage.upload().finished.get() {
                lease.give_back();
            } else {
                self.usage.upload().answered();
            }
        }
    }

    /// Trailers go on to a client that takes them, without what has no place in them.
    fn pass_trailers(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let Trailers { placement, needles } = self.trailers.as_ref()?;
        let mut trailers = frame.into_trailers().ok()?;
        rebuild_trailers(&mut trailers, placement.as_ref().map(Guarded::as_slice));
        if needles.as_ref().is_some_and(|needles| echo::redact(trailers.values_mut(), needles)) {
            self.usage.echoed();
        }
        Some(Frame::trailers(trailers))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(trailers) = self.late.take() {
            return Poll::Ready(Some(Ok(*trailers)));
        }
        loop {
            return match self.poll_inner(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.idle.progress();
                    let data = match frame.into_data() {
                        Ok(data) => data,
                        Err(frame) => {
                            let trailers = self.pass_trailers(frame);
                            return Poll::Ready(self.end(trailers).map(Ok));
                        }
                    };
                    let is_last = self.inner.is_end_stream();
                    let data = self.scrub(data, is_last);
                    if is_last {
                        self.finish();
                    } else if data.is_empty() {
                        // All of it is held back: what follows tells what it is.
                        continue;
                    }
                    self.usage.downloaded(data.len());
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
                Poll::Ready(Some(Err(error))) => {
                    // What fails at the client's end is not the upstream's to answer for.
                    if matches!(error, BodyError::Upstream(_) | BodyError::Http2(_)) {
                        self.usage.upstream_erred();
                    }
                    Poll::Ready(Some(Err(error)))
                }
                Poll::Ready(None) => Poll::Ready(self.end(None).map(Ok)),
                Poll::Pending => {
                    // The request may be what moves.
                    self.usage.goes_on();
                    self.idle.poll(context).map(|()| Some(Err(BodyError::Idle)))
                }
            };
        }
    }

    /// Takes the token out of the next bytes.
    fn scrub(&mut self, data: Bytes, is_last: bool) -> Bytes {
        let Some(scrubber) = &mut self.scrubber else { return data };
        let mut clean = scrubber.pass(data);
        if is_last && scrubber.held() > 0 {
            clean = [clean, scrubber.rest()].concat().into();
        }
        if scrubber.has_found() {
            self.usage.echoed();
        }
        clean
    }

    /// The body has ended: what was held back goes before its trailers.
    fn end(&mut self, trailers: Option<Frame<Bytes>>) -> Option<Frame<Bytes>> {
        self.finish();
        let Some(scrubber) = self.scrubber.as_mut().filter(|scrubber| scrubber.held() > 0) else { return trailers };
        let rest = scrubber.rest();
        self.usage.downloaded(rest.len());
        self.late = trailers.map(Box::new);
        Some(Frame::data(rest))
    }

    fn is_end_stream(&self) -> bool {
        let is_held = self.late.is_some() || self.scrubber.as_ref().is_some_and(|scrubber| scrubber.held() > 0);
        self.inner.is_end_stream() && !is_held
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own { text, usage } => Poll::Ready(text.take().map(|text| {
                usage.downloaded(text.len());
                Ok(Frame::data(text))
            })),
            Self::Relayed(relay) => relay.poll(context),
            Self::Switched => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own { text, .. } => text.is_none(),
            Self::Relayed(relay) => relay.is_end_stream(),
            Self::Switched => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own { text, .. } => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Relayed(relay) => relay.inner.size_hint(),
            Self::Switched => SizeHint::with_exact(0),
        }
    }
}
