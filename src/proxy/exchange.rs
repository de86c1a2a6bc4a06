//! One request and its answer on an upstream's connection: find the connection, attach the token, send, and send again what
//! is certain not to have been processed.
//!
//! Invariant: the token is looked up when the request is written, however long the connection took. A request is sent again
//! only if none of it was written, the upstream says that it did not process it, or it is safe (RFC 9110, section 9.2.2);
//! never a third time.

use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, TE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Incoming};

use super::answer::{self, Fault};
use super::body::RequestBody;
use super::error::Refusal;
use super::pool::{Lease, SendError};
use super::{Proxy, inject};
use crate::dial::Dialer;
use crate::policy::Permit;
use crate::route::{Route, Table, Upstream};
use crate::secret::Needles;
use crate::tls;
use crate::usage::{self, UsageGuard};

/// A pooled connection may turn out to be closed: so many are tried before the request is given up.
const ATTEMPTS: usize = 8;

/// A request that policy lets pass, on its way to a connection.
pub struct Outgoing<'a> {
    pub request: Request<RequestBody>,
    pub path_and_query: PathAndQuery,
    pub permit: Permit<'a>,
    pub route: &'a Route,
    pub cell: &'a Arc<usage::Cell>,
    pub table: &'a Table,
    /// Whether the client takes trailers, which HTTP/2 upstreams are told.
    pub takes_trailers: bool,
}

/// What the upstream answered, and what recognises the token that was sent.
pub struct Answered {
    pub response: Response<Incoming>,
    pub lease: Lease,
    pub needles: Option<Arc<Needles>>,
}

impl Proxy {
    /// Sends the request and waits for the head of its answer.
    ///
    /// # Errors
    /// When there is no connection, no token or no answer.
    pub(super) async fn exchange(&self, outgoing: Outgoing<'_>, usage: &mut UsageGuard) -> Result<Answered, Refusal> {
        let Outgoing { mut request, path_and_query, permit, route, cell, table, takes_trailers } = outgoing;
        let (dialer, acquire_timeout) = (&*table.dialer, table.acquire_timeout);
        let mut may_repeat = true;
        let mut refusal = Refusal::UpstreamProtocol;
        for _ in 0..ATTEMPTS {
            let mut needles = None;
            let mut lease = self.connection(route, cell, dialer, usage).await?;
            address(&mut request, &lease, &route.upstream, &path_and_query, takes_trailers)?;
            if let Some(token) = &route.token {
                // Looked up late: connecting may have outlived a generation.
                let now = self.shared.clock.now();
                let Ok(usable) = token.reader.get(now) else {
                    lease.give_back();
                    self.await_generation(token, acquire_timeout, usage).await?;
                    continue;
                };
                inject::attach(&mut request, &permit, &route.upstream, &lease, &token.placement, &usable)?;
                usage.attached(usable.generation().number, now);
                needles = Some(usable.generation().needles.clone());
            }
            let spare = if may_repeat { Spare::of(&request, &lease) } else { None };
            usage.waits();
            let sent = answer_in_time(&mut lease, request, route.timeouts.response, usage).await;
            usage.resumes();
            match sent? {
                Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    return Err(Fault::Upgrade.into());
                }
                Ok(mut response) => {
                    answer::judge(&mut response, lease.is_http2())?;
                    return Ok(Answered { response, lease, needles });
                }
                Err(SendError::NotSent(unsent, alert)) => {
                    request = *unsent;
                    refusal = alert.map_or(refusal, Refusal::from);
                }
                Err(SendError::Failed(error)) => match spare {
                    Some(spare) if spare.may_follow(&error, &lease) => {
                        tracing::debug!(route = %route.name, %error, "the upstream did not process it: sent again");
                        // The others that rested as long have met the same end.
                        lease.drop_rested();
                        may_repeat = false;
                        request = spare.request(usage);
                    }
                    _ => {
                        tracing::debug!(route = %route.name, %error, "the upstream did not answer");
                        if let Some(fault) = Fault::of(&error) {
                            return Err(fault.into());
                        }
                        // The exchange broke at the client's end, if its body did: the upstream is not to blame.
                        let ours = usage.upload().failure.get().map(Refusal::from);
                        let alert = tls::alert(&error).map(Refusal::from);
                        return Err(ours.or(alert).unwrap_or(Refusal::UpstreamProtocol));
                    }
                },
            }
        }
        Err(refusal)
    }

    async fn connection(
        &self,
        route: &Route,
        cell: &Arc<usage::Cell>,
        dialer: &Dialer,
        usage: &mut UsageGuard,
    ) -> Result<Lease, Refusal> {
        if let Some(lease) = self.pool.take(route, cell).await {
            return Ok(lease);
        }
        usage.waits();
        let dialled = self.pool.dial(route, cell, dialer).await;
        usage.resumes();
        dialled.map_err(|error| {
            tracing::debug!(route = %route.name, %error, "no connection to the upstream");
            Refusal::from(&error)
        })
    }
}

/// What is kept of a request without body to send it again.
struct Spare {
    method: Method,
    headers: HeaderMap,
}

impl Spare {
    /// `None` where it would never be used: on a connection of HTTP/1.1 that has not rested, nothing is lost unseen.
    fn of(request: &Request<RequestBody>, lease: &Lease) -> Option<Self> {
        let may_be_lost = lease.is_http2() || (request.method().is_safe() && lease.has_rested());
        let keep = may_be_lost && request.body().is_end_stream();
        keep.then(|| Self { method: request.method().clone(), headers: request.headers().clone() })
    }

    /// Whether the request may be sent again after this failure.
    fn may_follow(&self, error: &hyper::Error, lease: &Lease) -> bool {
        was_not_processed(error) || (self.method.is_safe() && lease.has_rested() && was_closed(error))
    }

    fn request(self, usage: &UsageGuard) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::none(usage.upload().clone()));
        *request.method_mut() = self.method;
        *request.headers_mut() = self.headers;
        request
    }
}

/// Whether the connection ended before the answer's head was whole.
fn was_closed(error: &hyper::Error) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
    let reset = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::ConnectionAborted];
    error.is_incomplete_message() || io.is_some_and(|kind| reset.contains(&kind))
}

/// Whether the upstream says itself that it did not process the request (RFC 9113, section 8.7).
fn was_not_processed(error: &hyper::Error) -> bool {
    let Some(error) = error.source().and_then(|source| source.downcast_ref::<h2::Error>()) else { return false };
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => error.is_reset() && error.is_remote(),
        // Streams that it did process are not ended by this.
        Some(h2::Reason::NO_ERROR) => error.is_go_away() && error.is_remote(),
        _ => false,
    }
}

/// Waits for the answer's head. While the request's body makes progress the upstream is not late.
async fn answer_in_time(
    lease: &mut Lease,
    request: Request<RequestBody>,
    limit: Duration,
    usage: &UsageGuard,
) -> Result<Result<Response<Incoming>, SendError>, Refusal> {
    let mut sending = std::pin::pin!(lease.send(request));
    let mut uploaded = usage.upload().bytes.get();
    loop {
        match tokio::time::timeout(limit, &mut sending).await {
            Ok(sent) => return Ok(sent),
            Err(_) if usage.upload().bytes.get() > uploaded => uploaded = usage.upload().bytes.get(),
            Err(_) => return Err(Refusal::UpstreamTimeout),
        }
    }
}

/// Writes the request's target in the form that the connection's protocol wants.
fn address(
    request: &mut Request<RequestBody>,
    lease: &Lease,
    upstream: &Upstream,
    target: &PathAndQuery,
    takes_trailers: bool,
) -> Result<(), Refusal> {
    if lease.is_http2() {
        let uri = Uri::builder()
            .scheme(upstream.endpoint.scheme.as_str())
            .authority(upstream.host.as_bytes())
            .path_and_query(target.clone())
            .build();
        *request.uri_mut() = uri.map_err(|_| Refusal::QueryAmbiguous)?;
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().remove(HOST);
        if takes_trailers {
            request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        }
    } else {
        *request.uri_mut() = Uri::from(target.clone());
        *request.version_mut() = Version::HTTP_11;
        request.headers_mut().remove(TE);
        if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, upstream.host.clone());
        }
    }
    Ok(())
}
