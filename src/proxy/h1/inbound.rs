//! A client's connection: one request after the other, each read when the one before is over.
//!
//! ```text
//!  poll_head ─▶ Request ─▶ (InboundBody reads on) ─▶ poll_answer ─▶ rest of the body? ─▶ poll_head
//!                                                                └─▶ linger, close
//! ```
//!
//! Connection and body share the [`Inbound`], on one thread: each holds it only while it is polled. Towards an upstream of HTTP/2
//! the body is read by another task.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::header::CONNECTION;
use http::{Method, Version};
use http_body::{Body, Frame, SizeHint};

use super::buffers::{Buffers, Incoming};
use super::framing::{Framing, Malformed, Piece};
use super::head::{self, Request};
use super::lines::Lines;
use super::pump::{Broken, Pump};
use super::write::{self, Date, Told};
use crate::proxy::Limits;
use crate::proxy::body::ResponseBody;
use crate::proxy::error::Refusal;
use crate::proxy::message::Response;
use crate::proxy::stream::Socket;
use crate::proxy::watch::Watch;

/// So much of an upload is read at once.
const READ: usize = 64 * 1024;

/// So much is read of requests that were sent ahead of their turn.
const AHEAD: usize = 16 * 1024;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// One connection.
pub struct Inbound {
    io: Box<dyn Socket>,
    incoming: Incoming,
    lines: Lines,
    /// What is still to come of the request's body.
    framing: Framing,
    /// Which request is under way.
    turn: u64,
    /// The client waits to be told to send its body.
    waits: bool,
    /// What is still to be written of having told it.
    telling: &'static [u8],
    /// Who wants to know when the body is over.
    watching: Option<Waker>,
}

/// Why a request's body does not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum BrokenOff {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the client's connection failed: {0}")]
    Socket(#[from] io::Error),
    #[error("the client's connection ended")]
    Closed,
    #[error("the request is over")]
    Over,
}

/// What an answer has to know of its request.
#[derive(Clone, Copy)]
pub struct Asked {
    is_head: bool,
    version: Version,
    keeps: bool,
}

impl Asked {
    pub fn of(request: &Request) -> Self {
        Self { is_head: request.head.method == Method::HEAD, version: request.head.version, keeps: request.keeps }
    }
}

impl Inbound {
    pub fn new(io: Box<dyn Socket>, buffers: Buffers) -> Self {
        Self {
            io,
            incoming: Incoming::new(buffers, READ),
            lines: Lines::default(),
            framing: Framing::NONE,
            turn: 0,
            waits: false,
            telling: b"",
            watching: None,
        }
    }

    /// Reads until a request's head is whole. `None`: the client has ended, or has said nothing and is to end.
    ///
    /// # Errors
    /// When what comes is no head, or comes too late.
    pub fn poll_head(
        &mut self,
        watch: &Watch,
        limits: &Limits,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Request>, Refusal>> {
        loop {
            // RFC 9112, section 2.2: some clients send an empty line too many.
            if self.lines.is_new() && self.incoming.bytes.starts_with(b"\r\n") {
                let _ = self.incoming.bytes.split_to(2);
            }
            if !self.incoming.bytes.is_empty() && self.incoming.bytes[..] != b"\r"[..] {
                watch.received();
                let most = head::most(limits);
                let end = self.lines.end(&self.incoming.bytes, most);
                let end = end.map_err(|bad| head::refuse_lines(bad, &self.incoming.bytes, limits))?;
                if let Some(end) = end {
                    self.lines = Lines::default();
                    let request = head::request(&self.incoming.bytes.split_to(end).freeze(), limits)?;
                    return Poll::Ready(Ok(Some(request)));
                }
            }
            match self.incoming.poll_fill(&mut *self.io, context) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending if watch.head_is_late() => return Poll::Ready(Err(Refusal::RequestTimeout)),
                Poll::Pending if watch.is_told_to_end() && self.incoming.bytes.is_empty() => {
                    return Poll::Ready(Ok(None));
                }
                Poll::Pending => {
                    self.incoming.rest();
                    return Poll::Pending;
                }
            }
        }
    }

    /// A request begins: what comes next is its body.
    pub fn begin(link: &Rc<RefCell<Self>>, framing: Framing, waits: bool) -> InboundBody {
        let mut inbound = link.borrow_mut();
        inbound.turn += 1;
        inbound.framing = framing;
        inbound.waits = waits;
        InboundBody { link: Rc::downgrade(link), turn: inbound.turn }
    }

    /// The request is over: whoever still holds its body gets nothing more of it. Whether all of it had come.
    pub fn end(&mut self) -> bool {
        self.turn += 1;
        self.framing.is_over()
    }

    /// Whether the client has gone while it is waited for something else. What it sends ahead is kept, as far as there is
    /// room for it.
    pub fn is_gone(&mut self, context: &mut Context<'_>) -> bool {
        while self.framing.is_over() && self.incoming.bytes.len() < AHEAD {
            match self.incoming.poll_fill(&mut *self.io, context) {
                Poll::Ready(Ok(0) | Err(_)) => return true,
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return false,
            }
        }
        if !self.framing.is_over() {
            // Another task may be the one that reads it: only then it is known what comes of the connection.
            self.watching = Some(context.waker().clone());
        }
        false
    }

    /// Reads what still comes and throws it away, until the client ends: one whose words were left unread would not get to
    /// read its answer (RFC 9112, section 9.6).
    pub fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if ready!(Pin::new(&mut *self.io).poll_shutdown(context)).is_err() {
            return Poll::Ready(());
        }
        loop {
            self.incoming.bytes.clear();
            match ready!(self.incoming.poll_fill(&mut *self.io, context)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }

    /// Whether all of the request has been asked for and read.
    pub fn is_told(&self) -> bool {
        self.framing.is_over()
    }

    /// Whether all that has come has been read.
    pub fn is_read(&self) -> bool {
        self.framing.is_over() && self.incoming.bytes.is_empty()
    }

    pub fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(context)
    }

    /// Writes bytes that are no answer to a request.
    pub fn poll_say(&mut self, bytes: &mut &[u8], context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !bytes.is_empty() {
            let written = ready!(Pin::new(&mut *self.io).poll_write(context, bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *bytes = &bytes[written..];
        }
        Pin::new(&mut *self.io).poll_flush(context)
    }

    /// The socket, and what has been read of it and not been used.
    pub fn into_parts(self) -> (Box<dyn Socket>, Bytes) {
        (self.io, self.incoming.bytes.freeze())
    }

    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if std::mem::take(&mut self.waits) {
            self.telling = CONTINUE;
        }
        loop {
            let mut telling = self.telling;
            let told = self.poll_say(&mut telling, context);
            self.telling = telling;
            ready!(told)?;
            match self.framing.take(&mut self.incoming.bytes)? {
                Piece::Data(data) => {
                    self.framing.look_ahead(&mut self.incoming.bytes)?;
                    self.note_end();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // A request's trailers end here.
                Piece::Trailers(_) | Piece::End => {
                    self.note_end();
                    return Poll::Ready(None);
                }
                Piece::Nothing => {
                    if ready!(self.incoming.poll_fill(&mut *self.io, context))? == 0 {
                        return Poll::Ready(Some(Err(BrokenOff::Closed)));
                    }
                }
            }
        }
    }
}

impl Inbound {
    fn note_end(&mut self) {
        if self.framing.is_over()
            && let Some(watching) = self.watching.take()
        {
            watching.wake();
        }
    }
}

/// An answer on its way to the client.
pub struct Answering {
    pump: Pump,
    /// Until its end has been read: it is counted before the client can know of it.
    body: Option<ResponseBody>,
    keeps: bool,
}

impl Answering {
    /// `ends`: the connection is not to be used again, whatever the client wants.
    pub fn new(response: Response<ResponseBody>, asked: Asked, ends: bool, inbound: &mut Inbound, date: &Date) -> Self {
        let told = told(&response, asked);
        let says_so = response.fields.get(CONNECTION).is_some_and(|value| value == "close");
        let keeps = asked.keeps && !ends && !says_so && told != Told::Close;
        let buffers = inbound.incoming.buffers.clone();
        let mut out = buffers.draft();
        // What has been begun is ended first.
        if inbound.telling.len() < CONTINUE.len() {
            out.put(inbound.telling);
        }
        inbound.telling = b"";
        // A client that was never told to send its body may send it, or not: where the next request begins is not certain.
        let waits = std::mem::take(&mut inbound.waits);
        let keeps = keeps && !waits;
        write::response(&response, told, asked.version, keeps, date, &mut out);
        let body = Some(response.body).filter(|_| told != Told::Not);
        Self { pump: Pump::new(out, told, buffers), body, keeps }
    }

    /// Writes on. Resolves with whether the connection may be used again.
    ///
    /// # Errors
    /// When the answer cannot be brought to its end: the connection must not look as if it had.
    pub fn poll(&mut self, link: &RefCell<Inbound>, context: &mut Context<'_>) -> Poll<Result<bool, Broken>> {
        let write = |context: &mut Context<'_>, slices: &[io::IoSlice<'_>]| {
            Pin::new(&mut *link.borrow_mut().io).poll_write_vectored(context, slices)
        };
        match self.pump.poll(&mut self.body, context, write) {
            Poll::Ready(Ok(())) => {
                ready!(Pin::new(&mut *link.borrow_mut().io).poll_flush(context)).map_err(Broken::Socket)?;
                Poll::Ready(Ok(self.keeps))
            }
            Poll::Ready(Err(broken)) => Poll::Ready(Err(broken)),
            Poll::Pending => {
                let _ = Pin::new(&mut *link.borrow_mut().io).poll_flush(context).map_err(Broken::Socket)?;
                // The client may take its time with the answer while the upstream still takes the request.
                if let Some(Err(error)) = self.body.as_mut().map(|body| body.poll_upload(context)) {
                    return Poll::Ready(Err(Broken::Body(error)));
                }
                match link.borrow_mut().is_gone(context) {
                    true => Poll::Ready(Err(Broken::Socket(io::ErrorKind::ConnectionReset.into()))),
                    false => Poll::Pending,
                }
            }
        }
    }
}

/// How the end of an answer's body is told.
fn told(response: &Response<ResponseBody>, asked: Asked) -> Told {
    let status = response.status;
    let has_none = asked.is_head || matches!(response.body, ResponseBody::Switched);
    if has_none || status.is_informational() || matches!(status.as_u16(), 204 | 304) {
        return Told::Not;
    }
    match response.body.size_hint().exact() {
        Some(length) => Told::Length(length),
        None if asked.version == Version::HTTP_10 => Told::Close,
        None => Told::Chunked,
    }
}

/// The body of a request. Whoever holds it does not hold the connection.
pub struct InboundBody {
    link: Weak<RefCell<Inbound>>,
    turn: u64,
}

impl InboundBody {
    /// The connection, as long as this request is under way on it.
    fn link(&self) -> Option<Rc<RefCell<Inbound>>> {
        self.link.upgrade().filter(|link| link.borrow().turn == self.turn)
    }
}

impl Body for InboundBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.link() {
            Some(link) => link.borrow_mut().poll_body(context),
            None => Poll::Ready(Some(Err(BrokenOff::Over))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.link().is_some_and(|link| link.borrow().framing.is_over())
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.link().and_then(|link| link.borrow().framing.left());
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
