//! A connection while one request has it.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Version;
use http_body::Frame;
use rustls::AlertDescription;

use super::{Entry, IDLE_MOST, Idle, Lost, Sender, Way};
use crate::authority::Authority;
use crate::proxy::answer;
use crate::proxy::body::{BodyError, RequestBody, UpstreamBody};
use crate::proxy::h1::{self, Failed, Inflow, Outbound, Unsent, Upgraded};
use crate::proxy::message::{Request, Response};
use crate::tls;

/// A connection in use by one request.
pub struct Lease {
    way: Option<Way>,
    entry: Rc<Entry>,
}

/// Why there is no answer.
pub enum SendError {
    /// The connection was closed, maybe with an alert of TLS, before a byte of the request was written: it may be sent on
    /// another.
    NotSent(RequestBody, Option<AlertDescription>),
    Failed(Lost),
}

impl Lease {
    pub(super) fn new(way: Way, entry: Rc<Entry>) -> Self {
        entry.gauges.active.inc();
        Self { way: Some(way), entry }
    }

    /// Whether this connection was dialled to `authority` and, over TLS, its certificate verified for it.
    pub fn reaches(&self, authority: &Authority) -> bool {
        self.way.as_ref().is_some_and(|way| *way.authority == *authority)
    }

    /// Closes every idle connection that has rested: the upstream has closed one of them.
    pub fn drop_rested(&self) {
        self.entry.keep_idle(|idle| idle.sweeps == 0);
    }

    /// Whether the upstream may have closed the connection without our knowing yet.
    pub fn was_used(&self) -> bool {
        self.way.as_ref().is_some_and(|way| way.used)
    }

    pub fn is_http2(&self) -> bool {
        matches!(self.way, Some(Way { sender: Sender::Http2 { .. }, .. }))
    }

    /// Sends the request; resolves with the answer's head, which has been judged.
    ///
    /// # Errors
    /// When there is no answer, or none that may go on.
    pub async fn send(&mut self, request: &Request, body: RequestBody) -> Result<Response<UpstreamBody>, SendError> {
        match self.way.as_mut().map(|way| &mut way.sender) {
            Some(Sender::Http1(connection)) => match connection.send(request, body).await {
                Ok(response) => Ok(response.map(UpstreamBody::Http1)),
                Err(Failed::Unsent(Unsent { body, cause })) => {
                    let alert = cause.as_ref().and_then(|cause| tls::alert(cause));
                    Err(SendError::NotSent(body, alert))
                }
                Err(Failed::Lost(lost)) => Err(SendError::Failed(lost.into())),
            },
            Some(Sender::Http2 { sender, .. }) => {
                let request = in_http2(request, body);
                match sender.try_send_request(request).await.map(Response::from) {
                    Ok(mut response) => match answer::judge(&mut response, true) {
                        Ok(()) => Ok(response.map(UpstreamBody::Http2)),
                        Err(fault) => Err(SendError::Failed(h1::Lost::from(fault).into())),
                    },
                    Err(mut error) => Err(match error.take_message() {
                        Some(request) => SendError::NotSent(request.into_body(), tls::alert(error.error())),
                        None => SendError::Failed(error.into_error().into()),
                    }),
                }
            }
            None => Err(SendError::NotSent(body, None)),
        }
    }

    /// The next piece of an answer of HTTP/1.1.
    pub fn poll_frame(
        &mut self,
        inflow: &mut Inflow,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.http1() {
            Some(connection) => inflow.poll_frame(connection, context),
            None => Poll::Ready(None),
        }
    }

    /// An answer of HTTP/1.1 is over.
    pub fn settle(&mut self, inflow: &Inflow) {
        if let Some(connection) = self.http1() {
            inflow.settle(connection);
        }
    }

    /// Sends on what is left of a request of HTTP/1.1.
    ///
    /// # Errors
    /// When its body fails.
    pub fn poll_upload(&mut self, inflow: &mut Inflow, context: &mut Context<'_>) -> Result<(), BodyError> {
        self.http1().map_or(Ok(()), |connection| inflow.poll_upload(connection, context))
    }

    /// What the connection turns into, after an answer that changes its protocol; `None` of one that does not.
    pub fn upgrade(&mut self) -> Option<Upgraded> {
        match self.way.take()?.sender {
            Sender::Http1(connection) => Some(connection.upgraded()),
            Sender::Http2 { .. } => None,
        }
    }

    fn http1(&mut self) -> Option<&mut Outbound> {
        match self.way.as_mut().map(|way| &mut way.sender) {
            Some(Sender::Http1(connection)) => Some(connection),
            Some(Sender::Http2 { .. }) | None => None,
        }
    }

    /// The request and its answer are over. The connection is used again if it is whole.
    pub fn give_back(mut self) {
        if let Some(Way { sender: Sender::Http1(connection), authority, .. }) = self.way.take()
            && connection.rests()
            && !self.entry.retired.get()
        {
            let mut idle = self.entry.idle.borrow_mut();
            if idle.len() < IDLE_MOST {
                idle.push(Idle { connection, authority, sweeps: 0 });
                self.entry.gauges.idle.inc();
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.entry.gauges.active.dec();
        // Its stream first, so that whoever is woken finds it free.
        self.way = None;
        self.entry.freed.notify_one();
    }
}

/// The request as hyper takes it.
fn in_http2(request: &Request, body: RequestBody) -> http::Request<RequestBody> {
    let mut converted = http::Request::new(body);
    *converted.method_mut() = request.method.clone();
    *converted.uri_mut() = request.uri.clone();
    *converted.version_mut() = Version::HTTP_2;
    *converted.headers_mut() = (&request.fields).into();
    converted
}
