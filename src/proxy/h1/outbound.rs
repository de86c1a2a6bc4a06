//! A connection to an upstream: one request at a time, and its answer.
//!
//! ```text
//!  send: head and body out ─┬─▶ answer's head ─▶ Response<Inflow>
//!        (interim answers end here)              Inflow: the answer's body, and what is left to send of the request's
//! ```
//!
//! It belongs to whoever has leased it, and no task watches it in between: whether it has been closed, or has spoken out of
//! turn, is seen when it is taken.
//!
//! Invariant: it is used again only after an answer that was whole, to a request that was whole, with nothing behind it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::Method;
use http_body::{Body as _, Frame, SizeHint};
use tokio::io::AsyncWrite as _;

use super::buffers::{Buffers, Incoming};
use super::framing::{Framing, Piece};
use super::head;
use super::lines::{BadLines, Lines};
use super::pump::{Broken, Pump};
use super::write::{self, Told};
use crate::dial::Stream as Socket;
use crate::proxy::answer::{Fault, HEAD_BYTES, INTERIM};
use crate::proxy::body::{BodyError, RequestBody};
use crate::proxy::cut::Line;
use crate::proxy::message::{Request, Response};
use crate::proxy::places::UpstreamPlace;

/// So much is read of an answer at once, and several times as much is kept for a client that does not read. A few
/// connections may read much, which makes large bodies cheaper; among many, each is a part of what a crowd can cost.
const READ_MUCH: usize = 256 * 1024;
const READ_LITTLE: usize = 16 * 1024;

pub struct Outbound {
    io: Line<Socket>,
    incoming: Incoming,
    /// No request is under way, and none was broken off.
    rests: bool,
    /// It has been looked at since the last request.
    checked: bool,
    place: UpstreamPlace,
}

/// What a connection turns into when its protocol has changed.
pub struct Upgraded {
    pub io: Line<Socket>,
    /// What had been read already.
    pub ahead: Bytes,
    pub place: UpstreamPlace,
}

/// A request of which nothing was written, and why.
pub struct Unsent {
    pub body: RequestBody,
    pub cause: Option<io::Error>,
}

/// Why there is no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error("the connection failed: {0}")]
    Socket(#[from] io::Error),
    #[error("the connection ended")]
    Closed,
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error("the request's body failed: {0}")]
    Body(Box<BodyError>),
}

/// Why a request was not answered.
pub enum Failed {
    Unsent(Unsent),
    Lost(Lost),
}

/// An answer's body as it comes in. It is read from the connection that the answer came on.
pub struct Inflow {
    framing: Framing,
    /// Whether the upstream lets the connection be used again.
    keeps: bool,
    /// What is left to send of the request.
    sending: Option<Box<Sending>>,
}

struct Sending {
    pump: Pump,
    /// Until its end has been read.
    body: Option<RequestBody>,
}

impl Outbound {
    pub fn new(io: Line<Socket>, place: UpstreamPlace, buffers: Buffers) -> Self {
        let at_most = if place.is_one_of_few() { READ_MUCH } else { READ_LITTLE };
        Self { io, incoming: Incoming::new(buffers, at_most), rests: true, checked: false, place }
    }

    /// Whether no request is under way, and none was broken off.
    pub fn rests(&self) -> bool {
        self.rests
    }

    /// Whether it can take a request: it is open, and the upstream has not said anything.
    pub fn is_ready(&mut self) -> bool {
        self.checked = self.rests && self.disturbance(&mut Context::from_waker(Waker::noop())).is_none();
        self.checked
    }

    /// The same of one that has rested for a while: it holds no buffer.
    pub fn rests_well(&mut self) -> bool {
        let is_ready = self.is_ready();
        self.incoming.rest();
        is_ready
    }

    /// What has happened to a connection that rests, if anything has.
    fn disturbance(&mut self, context: &mut Context<'_>) -> Option<Option<io::Error>> {
        match self.incoming.poll_fill(&mut self.io, context) {
            Poll::Pending => None,
            Poll::Ready(Ok(_)) => Some(None),
            Poll::Ready(Err(error)) => Some(Some(error)),
        }
    }

    /// Sends the request, and resolves with the answer's head. What was sent of the request before its body stays with the
    /// caller.
    ///
    /// # Errors
    /// When there is no answer, or none that may go on.
    pub async fn send(&mut self, request: &Request, body: RequestBody) -> Result<Response<Inflow>, Failed> {
        self.rests = false;
        if !std::mem::take(&mut self.checked)
            && let Some(cause) = poll_fn(|context| Poll::Ready(self.disturbance(context))).await
        {
            return Err(Failed::Unsent(Unsent { body, cause }));
        }
        let is_head = request.method == Method::HEAD;
        let told = told(&body);
        let buffers = self.incoming.buffers.clone();
        let mut head = buffers.draft();
        write::request(request, told, &mut head);
        let mut sending = Some(Sending { pump: Pump::new(head, told, buffers), body: Some(body) });
        let mut answer = Answer { lines: Lines::default(), interim: 0, is_head };
        let answered = poll_fn(|context| self.poll_exchange(&mut sending, &mut answer, context)).await;
        match (answered, sending) {
            (Ok((response, keeps)), sending) => Ok(response.map(|framing| {
                let sending = sending.map(Box::new);
                Inflow { framing, keeps, sending }
            })),
            // Nobody has heard of it, and none of its body has been taken.
            (Err(lost), Some(Sending { pump, body: Some(body) })) if pump.written() == 0 && body.is_untouched() => {
                let cause = if let Lost::Socket(error) = lost { Some(error) } else { None };
                Err(Failed::Unsent(Unsent { body, cause }))
            }
            (Err(lost), _) => Err(Failed::Lost(lost)),
        }
    }

    /// Writes what there is to write, and reads until the head of an answer is whole.
    fn poll_exchange(
        &mut self,
        sending: &mut Option<Sending>,
        answer: &mut Answer,
        context: &mut Context<'_>,
    ) -> Poll<Result<(Response<Framing>, bool), Lost>> {
        let mut unwritten = None;
        if let Some(Sending { pump, body }) = sending {
            match self.poll_send(pump, body, context) {
                Poll::Ready(Ok(())) => *sending = None,
                Poll::Ready(Err(Broken::Socket(error))) if pump.written() == 0 => {
                    return Poll::Ready(Err(error.into()));
                }
                // An upstream that wants no more may still have said why.
                Poll::Ready(Err(Broken::Socket(error))) => unwritten = Some(error),
                Poll::Ready(Err(Broken::Body(error))) => return Poll::Ready(Err(Lost::Body(Box::new(error)))),
                Poll::Ready(Err(Broken::Length)) => return Poll::Ready(Err(Lost::Body(Box::new(BodyError::Length)))),
                Poll::Pending => {}
            }
        }
        // Nothing can be an answer to what has not been said.
        if sending.as_ref().is_some_and(|sending| sending.pump.written() == 0) {
            return Poll::Pending;
        }
        loop {
            if let Some(whole) = answer.take(&mut self.incoming.bytes)? {
                return Poll::Ready(Ok(whole));
            }
            let lost = match self.incoming.poll_fill(&mut self.io, context) {
                Poll::Ready(Ok(0)) => Lost::Closed,
                Poll::Ready(Ok(_)) => continue,
                Poll::Ready(Err(error)) => error.into(),
                Poll::Pending => match unwritten {
                    None => return Poll::Pending,
                    Some(error) => error.into(),
                },
            };
            return Poll::Ready(Err(lost));
        }
    }

    fn poll_send(
        &mut self,
        pump: &mut Pump,
        body: &mut Option<RequestBody>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let io = &mut self.io;
        let pumped =
            pump.poll(body, context, |context, slices| Pin::new(&mut *io).poll_write_vectored(context, slices))?;
        // TLS takes more than the socket does: what it holds goes out while the body is waited for, too.
        let flushed = Pin::new(&mut self.io).poll_flush(context).map_err(Broken::Socket)?;
        if pumped.is_ready() { flushed.map(Ok) } else { Poll::Pending }
    }

    /// The bytes of the connection, after an answer that changes its protocol.
    pub fn upgraded(self) -> Upgraded {
        Upgraded { io: self.io, ahead: self.incoming.bytes.freeze(), place: self.place }
    }
}

/// How the end of a request's body is told.
fn told(body: &RequestBody) -> Told {
    match body.size_hint().exact() {
        Some(0) => Told::Not,
        Some(length) => Told::Length(length),
        None => Told::Chunked,
    }
}

/// How far an answer's head has come.
struct Answer {
    lines: Lines,
    interim: u8,
    is_head: bool,
}

impl Answer {
    fn take(&mut self, bytes: &mut BytesMut) -> Result<Option<(Response<Framing>, bool)>, Fault> {
        while !bytes.is_empty() {
            let end = self.lines.end(bytes, HEAD_BYTES).map_err(|bad| match bad {
                BadLines::LineFeed => Fault::LineEnd,
                BadLines::Empty => Fault::EmptyLine,
                BadLines::TooLong => Fault::HeadBytes,
            })?;
            let Some(end) = end else { return Ok(None) };
            let head = bytes.split_to(end).freeze();
            if !head::is_interim(&head)? {
                return head::response(&head, self.is_head).map(Some);
            }
            self.lines = Lines::default();
            self.interim += 1;
            if self.interim > INTERIM {
                return Err(Fault::Interim);
            }
        }
        Ok(None)
    }
}

impl Inflow {
    /// The next piece of the body, from the connection that the answer came on.
    pub fn poll_frame(
        &mut self,
        connection: &mut Outbound,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Err(error) = self.poll_upload(connection, context) {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            let piece = self.framing.take(&mut connection.incoming.bytes).map_err(|_| Lost::Fault(Fault::Chunks));
            let frame = match piece.map_err(BodyError::Upstream)? {
                Piece::Data(data) => {
                    let ahead = self.framing.look_ahead(&mut connection.incoming.bytes);
                    ahead.map_err(|_| BodyError::Upstream(Fault::Chunks.into()))?;
                    Some(Frame::data(data))
                }
                Piece::Trailers(trailers) => Some(Frame::trailers(trailers)),
                Piece::End => None,
                Piece::Nothing => match ready!(connection.incoming.poll_fill(&mut connection.io, context)) {
                    Ok(0) if matches!(self.framing, Framing::UntilClose) => {
                        self.framing = Framing::NONE;
                        None
                    }
                    Ok(0) => return Poll::Ready(Some(Err(BodyError::Upstream(Lost::Closed)))),
                    Ok(_) => continue,
                    Err(error) => return Poll::Ready(Some(Err(BodyError::Upstream(error.into())))),
                },
            };
            return Poll::Ready(frame.map(Ok));
        }
    }

    /// Sends on what is left of the request, while its answer is on its way already.
    ///
    /// # Errors
    /// When the request's body fails: the upstream must not take what it has for all of it.
    pub fn poll_upload(&mut self, connection: &mut Outbound, context: &mut Context<'_>) -> Result<(), BodyError> {
        let Some(sending) = &mut self.sending else { return Ok(()) };
        match connection.poll_send(&mut sending.pump, &mut sending.body, context) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            // It wants no more. What it says may be whole all the same; the connection is not used again.
            Poll::Ready(Err(Broken::Socket(_))) => self.keeps = false,
            Poll::Ready(Err(Broken::Body(error))) => return Err(error),
            Poll::Ready(Err(Broken::Length)) => return Err(BodyError::Length),
        }
        self.sending = None;
        Ok(())
    }

    /// The answer is over: the connection rests if nothing of either message is left.
    pub fn settle(&self, connection: &mut Outbound) {
        connection.rests = self.keeps && self.sending.is_none() && connection.incoming.bytes.is_empty();
    }

    pub fn is_end_stream(&self) -> bool {
        self.framing.is_over()
    }

    pub fn size_hint(&self) -> SizeHint {
        self.framing.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
