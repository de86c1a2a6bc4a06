//! One request and its answer on an upstream's connection: find the connection, attach the token, send, and send again what
//! is certain not to have been processed.
//!
//! Invariant: the token is looked up when the request is written, and whether it is held back from the client, however long the
//! connection took. A request is sent again
//! only if none of it was written, the upstream says that it did not process it, it is safe and was lost, or it is
//! idempotent (RFC 9110, section 9.2.2) and its token was rejected and has been replaced; never a third time.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, TE, WWW_AUTHENTICATE};
use http::uri::PathAndQuery;
use http::{HeaderValue, StatusCode, Uri};
use memchr::memmem;

use super::answer::Fault;
use super::body::{RequestBody, UpstreamBody};
use super::error::Refusal;
use super::h1::Upgraded;
use super::message::{Request, Response};
use super::pool::{Lease, Lost, SendError};
use super::progress::while_there_is_progress;
use super::replay::Spare;
use super::rounds::Rounds;
use super::sign::Signing;
use super::websocket::Handshake;
use super::{Proxy, inject};
use crate::dial::Dialer;
use crate::dpop::{self, Bound};
use crate::identity::ClientIndex;
use crate::policy::Permit;
use crate::route::{Route, Table, Upstream};
use crate::secret::Needles;
use crate::usage::{self, UsageGuard};

/// A pooled connection may turn out to be closed: so many are tried before the request is given up.
const ATTEMPTS: usize = 8;

/// A request that policy lets pass, on its way to a connection.
pub struct Outgoing<'a> {
    pub request: Request,
    pub body: RequestBody,
    pub permit: Permit<'a>,
    pub route: &'a Route,
    pub client: ClientIndex,
    pub cell: &'a Arc<usage::Cell>,
    pub table: &'a Table,
    /// Whether the client takes trailers, which HTTP/2 upstreams are told.
    pub takes_trailers: bool,
    /// How it is signed, where the token signs.
    pub signing: Option<Box<Signing>>,
}

/// What the upstream answered, and what recognises the token that was sent.
pub struct Answered {
    pub response: Response<UpstreamBody>,
    pub lease: Lease,
    pub needles: Option<Arc<Needles>>,
    /// Where the protocol changes: what the connection turns into.
    pub switching: Option<Upgraded>,
}

impl Proxy {
    /// Sends the request and waits for the head of its answer.
    ///
    /// # Errors
    /// When there is no connection, no token or no answer.
    pub(super) async fn exchange(&self, outgoing: Outgoing<'_>, usage: &mut UsageGuard) -> Result<Answered, Refusal> {
        let Outgoing { mut request, mut body, permit, route, client, cell, table, takes_trailers, signing } = outgoing;
        let (dialer, acquire_timeout) = (&*table.dialer, table.acquire_timeout);
        let mut may_repeat = true;
        let mut refusal = Refusal::UpstreamProtocol;
        for _ in 0..ATTEMPTS {
            let (mut needles, mut bound) = (None, None);
            let mut lease = self.connection(route, cell, dialer, usage).await?;
            route.bars(client)?;
            address(&mut request, &lease, &route.upstream, takes_trailers)?;
            if let Some(token) = &route.token {
                // Looked up late: connecting may have outlived a generation.
                let now = self.shared.clock.now();
                let Ok(usable) = token.reader.get(now) else {
                    lease.give_back();
                    self.await_generation(token, acquire_timeout, usage).await?;
                    continue;
                };
                let signing = (signing.as_deref(), now);
                let upstream = &*route.upstream;
                let chunks =
                    inject::attach(&mut request, &permit, upstream, &lease, &token.placement, &usable, signing)?;
                bound = usable.generation().value.bound().cloned();
                body.sign(chunks);
                usage.attached(usable.generation().number, now);
                needles = Some(usable.generation().needles.clone());
            }
            let keep = may_repeat && may_be_repeated(&request, &lease, route.token.is_some());
            let spare = if keep { Spare::of(&mut body) } else { None };
            usage.waits();
            let limit = route.timeouts.response;
            let sent = answer_in_time(&self.rounds, &mut lease, &request, body, limit, usage).await;
            usage.resumes();
            match sent? {
                Ok(response) if response.status == StatusCode::SWITCHING_PROTOCOLS => {
                    return Err(Fault::Upgrade.into());
                }
                Ok(response) => {
                    // What is not idempotent may have had its effect, whatever the status says (RFC 9110, section 9.2.2).
                    let spare = spare.filter(|_| request.method.is_idempotent());
                    if bound.is_some_and(|bound| wants_nonce(&bound, &route.upstream, &response)) {
                        // That is no word on the token.
                        let Some(again) = spare.and_then(|spare| spare.body(usage)) else {
                            return Ok(Answered { response, lease, needles, switching: None });
                        };
                        self.shared.metrics.repeated("nonce");
                        may_repeat = false;
                        body = again;
                        continue;
                    }
                    let rejection = self.after_rejection(route, &response, spare, &mut needles, acquire_timeout, usage);
                    let Some(again) = rejection.await else {
                        return Ok(Answered { response, lease, needles, switching: None });
                    };
                    may_repeat = false;
                    body = again;
                }
                Err(SendError::NotSent(unsent, alert)) => {
                    body = unsent;
                    refusal = alert.map_or(refusal, Refusal::from);
                }
                Err(SendError::Failed(lost)) => {
                    match spare.and_then(|spare| after_loss(spare, &request, &lost, &lease, usage)) {
                        Some(again) => {
                            tracing::debug!(route = %route.name, %lost, "the upstream did not process it: sent again");
                            self.shared.metrics.repeated("lost");
                            // The others that rested as long have met the same end.
                            lease.drop_rested();
                            may_repeat = false;
                            body = again;
                        }
                        None => {
                            tracing::debug!(route = %route.name, %lost, "the upstream did not answer");
                            withdrawn(route, client)?;
                            // The exchange broke at the client's end, if its body did: the upstream is not to blame.
                            let ours = usage.upload().failure.get().map(Refusal::from);
                            return Err(ours.unwrap_or_else(|| lost.into()));
                        }
                    }
                }
            }
        }
        Err(refusal)
    }

    /// Tells the token's supervisor how the upstream took its generation. Where it was rejected, a newer one may be expected
    /// and the request is safe to send again, waits for that one. Meanwhile it lets go of `needles`: a rotation that waits until
    /// nobody uses the generation does not wait for this request.
    async fn after_rejection(
        &self,
        route: &Route,
        response: &Response<UpstreamBody>,
        spare: Option<Spare>,
        needles: &mut Option<Arc<Needles>>,
        patience: Duration,
        usage: &mut UsageGuard,
    ) -> Option<RequestBody> {
        let (token, generation) = (route.token.as_ref()?, usage.generation()?);
        if response.status != StatusCode::UNAUTHORIZED {
            if response.status.is_success() {
                token.reader.succeeded(generation);
            }
            return None;
        }
        if !token.reader.rejected(generation) {
            return None;
        }
        let again = spare?.body(usage)?;
        let let_go = needles.take().map(|needles| Arc::downgrade(&needles));
        usage.waits();
        let newer = Box::pin(token.reader.newer_than(generation, &*self.shared.clock, patience)).await;
        usage.resumes();
        if newer {
            self.shared.metrics.repeated("rejected");
            return Some(again);
        }
        *needles = let_go.and_then(|needles| needles.upgrade());
        // An answer in which the generation cannot be recognised any more is not passed on: the request goes on with what there
        // is now, or is refused for want of it.
        needles.is_none().then_some(again)
    }

    /// Sends a request that asks for another protocol, on a connection of its own.
    ///
    /// # Errors
    /// As [`Proxy::exchange`], and when the upstream grants something else.
    pub(super) async fn switch(
        &self,
        outgoing: Outgoing<'_>,
        handshake: &Handshake,
        usage: &mut UsageGuard,
    ) -> Result<Answered, Refusal> {
        let Outgoing { mut request, mut body, permit, route, client, cell, table, signing, .. } = outgoing;
        usage.waits();
        let dialled = self.pool.dial_alone(route, cell, &table.dialer).await;
        usage.resumes();
        let mut lease = dialled.map_err(|error| Refusal::from(&error))?;
        route.bars(client)?;
        address(&mut request, &lease, &route.upstream, false)?;
        Handshake::ask(&mut request.fields);
        let (mut needles, mut bound) = (None, None);
        if let Some(token) = &route.token {
            if token.reader.get(self.shared.clock.now()).is_err() {
                self.await_generation(token, table.acquire_timeout, usage).await?;
            }
            let now = self.shared.clock.now();
            let usable = token.reader.get(now)?;
            let signing = (signing.as_deref(), now);
            let upstream = &*route.upstream;
            let chunks = inject::attach(&mut request, &permit, upstream, &lease, &token.placement, &usable, signing)?;
            bound = usable.generation().value.bound().cloned();
            body.sign(chunks);
            usage.attached(usable.generation().number, now);
            needles = Some(usable.generation().needles.clone());
        }
        usage.waits();
        let limit = route.timeouts.response;
        let sent = answer_in_time(&self.rounds, &mut lease, &request, body, limit, usage).await;
        usage.resumes();
        let sent = sent?;
        if sent.is_err() {
            withdrawn(route, client)?;
        }
        let response = sent.map_err(|error| match error {
            SendError::NotSent(..) => Refusal::UpstreamProtocol,
            SendError::Failed(lost) => lost.into(),
        })?;
        if let Some(bound) = bound {
            bound.heard(&route.upstream.endpoint, response.fields.get(dpop::NONCE));
        }
        let mut switching = None;
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            handshake.verify(&response.fields)?;
            switching = lease.upgrade();
        } else if !handshake.may_be_answered(response.status) {
            return Err(Fault::Upgrade.into());
        }
        Ok(Answered { response, lease, needles, switching })
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
        // What is rare stands apart: hyper moves the future of a request, and keeps room for one in each connection.
        let dialled = Box::pin(self.pool.dial(route, cell, dialer)).await;
        usage.resumes();
        dialled.map_err(|error| {
            tracing::debug!(route = %route.name, %error, "no connection to the upstream");
            Refusal::from(&error)
        })
    }
}

/// Takes note of what a server wants to read in the next proof, and says whether it wanted that already (RFC 9449, section 9).
fn wants_nonce(bound: &Bound, upstream: &Upstream, response: &Response<UpstreamBody>) -> bool {
    bound.heard(&upstream.endpoint, response.fields.get(dpop::NONCE));
    let mut challenges = response.fields.get_all(WWW_AUTHENTICATE).map(HeaderValue::as_bytes);
    response.status == StatusCode::UNAUTHORIZED
        && response.fields.contains(dpop::NONCE)
        && challenges.any(|challenge| memmem::find(challenge, dpop::USE_NONCE.as_bytes()).is_some())
}

/// A token that was taken out of use meanwhile, or held back from the client, has its connections cut: that is why nothing came
/// of it.
fn withdrawn(route: &Route, client: ClientIndex) -> Result<(), Refusal> {
    route.bars(client)?;
    let withdrawn = route.token.as_ref().and_then(|token| token.reader.withdrawn());
    withdrawn.map_or(Ok(()), |absent| Err(absent.into()))
}

/// Whether a request may have to be sent again: with the token that follows one that is rejected, or where it can be lost
/// unseen.
fn may_be_repeated(request: &Request, lease: &Lease, has_token: bool) -> bool {
    let may_be_lost = lease.is_http2() || (request.method.is_safe() && lease.was_used());
    may_be_lost || (has_token && request.method.is_idempotent())
}

/// The request once more, if this failure says that it was not processed, or it is safe and was lost on a connection that
/// had been used before.
fn after_loss(spare: Spare, request: &Request, lost: &Lost, lease: &Lease, usage: &UsageGuard) -> Option<RequestBody> {
    let was_lost = request.method.is_safe() && lease.was_used() && lost.was_closed();
    if was_lost || lost.was_not_processed() { spare.body(usage) } else { None }
}

/// Waits for the answer's head. While the request's body makes progress the upstream is not late.
async fn answer_in_time(
    rounds: &Rounds,
    lease: &mut Lease,
    request: &Request,
    body: RequestBody,
    limit: Duration,
    usage: &mut UsageGuard,
) -> Result<Result<Response<UpstreamBody>, SendError>, Refusal> {
    let uploaded = || {
        usage.goes_on();
        usage.upload().bytes.get()
    };
    let sending = pin!(lease.send(request, body));
    while_there_is_progress(rounds, sending, limit, uploaded).await.ok_or(Refusal::UpstreamTimeout)
}

/// Puts the request into the form that the connection's protocol wants.
fn address(request: &mut Request, lease: &Lease, upstream: &Upstream, takes_trailers: bool) -> Result<(), Refusal> {
    if lease.is_http2() {
        let target = request.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        let uri = Uri::builder()
            .scheme(upstream.endpoint.scheme.as_str())
            .authority(upstream.host.as_bytes())
            .path_and_query(target)
            .build();
        request.uri = uri.map_err(|_| Refusal::QueryAmbiguous)?;
        request.fields.remove(HOST);
        if takes_trailers {
            request.fields.insert(TE, HeaderValue::from_static("trailers"));
        }
    } else {
        request.fields.remove(TE);
        if !request.fields.contains(HOST) {
            request.fields.insert(HOST, upstream.host.clone());
        }
    }
    Ok(())
}
