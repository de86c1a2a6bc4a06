//! The path of a request, from a client's connection to the upstream's answer.
//!
//! ```text
//!  listener → worker → identity → target → route → policy → token → pool → inject → upstream → body → usage
//! ```
//!
//! Invariants: nothing reaches an upstream from a request that was refused; the token is looked up when the request is
//! written, however long the connection took; a request waits for its connection and, bounded, for its token, and for
//! nothing else.

mod answer;
mod body;
mod error;
mod explain;
mod headers;
mod inject;
mod links;
mod listener;
mod pool;
mod pulse;
mod target;
mod watch;
mod worker;

use std::cell::{Cell, RefCell};
use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, ORIGIN};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Incoming};

pub use error::Refusal;
pub use explain::{Explanation, explain};
pub use headers::{rebuild_request, rebuild_response};
pub use links::BaseUrl;
pub use listener::{BindError, Listener};
pub use pulse::Pulses;
pub use target::{By, Head, Target};
pub use worker::{Worker, WorkerSettings};

use crate::audit::Recorder;
use crate::clock::Clock;
use crate::dial::Dialer;
use crate::identity::{ClientIndex, Peer};
use crate::metrics::{Error as MetricsError, Metrics as Registry};
use crate::policy::Permit;
use crate::route::{NotAdmitted, Route, RouteToken, Table, Upstream};
use crate::tls;
use crate::usage::{self, Observer, UsageGuard};
use answer::Fault;
use body::{Relay, RequestBody, ResponseBody};
use error::{Context, RefusedTotal};
use pool::{Lease, Pool, SendError};

/// `[proxy]`
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    pub listen: Vec<Address>,
    pub workers: usize,
    pub drain: Duration,
    pub acquire_timeout: Duration,
    pub limits: Limits,
}

/// Where a listener listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// `[proxy.limits]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Client connections at a time, over all workers.
    pub connections: usize,
    pub header_bytes: usize,
    pub header_count: usize,
    pub target_bytes: usize,
    /// For the whole head of a request.
    pub header_timeout: Duration,
    /// Between two requests of a connection.
    pub idle_timeout: Duration,
    /// Between two pieces of a request's body of known length, and for a client to take some of its answer.
    pub body_timeout: Duration,
}

/// A pooled connection may turn out to be closed: so many are tried before the request is given up.
const ATTEMPTS: usize = 8;

/// No method that an API knows is longer.
const METHOD_BYTES: usize = 32;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The metrics of the proxy itself.
#[derive(Clone)]
pub struct Metrics {
    refused: RefusedTotal,
    pool: pool::Metrics,
    connections: prometheus::IntGaugeVec,
}

impl Metrics {
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        let help = "Connections of clients, by listener.";
        Ok(Self {
            refused: RefusedTotal::register(registry)?,
            pool: pool::Metrics::register(registry)?,
            connections: registry.gauges("connections", help, &["listener"])?,
        })
    }
}

/// What the proxies of all workers share.
#[derive(Clone)]
pub struct Shared {
    pub tables: Arc<ArcSwap<Table>>,
    pub clock: Arc<dyn Clock>,
    pub recorder: Recorder,
    pub limits: Limits,
    pub metrics: Metrics,
    pub usage: usage::Metrics,
    pub access_log: bool,
}

/// Who sent a request, and where it came in.
pub struct Caller {
    pub peer: Peer,
    /// Unix sockets have none.
    pub port: Option<u16>,
}

/// One worker's proxy.
pub struct Proxy {
    shared: Shared,
    /// The table as this worker saw it last.
    seen: RefCell<Rc<Seen>>,
    observer: Rc<Observer>,
    pool: Pool,
    request_ids: RequestIds,
}

/// A worker's own handle of a table: its requests share it without touching a counter that other workers touch.
struct Seen(Arc<Table>);

/// What the upstream answered, and the connection it came on.
struct Answer {
    response: Response<Incoming>,
    lease: Lease,
    idle: Duration,
}

/// A request that policy lets pass, on its way to a connection.
struct Outgoing<'a> {
    request: Request<RequestBody>,
    path_and_query: PathAndQuery,
    permit: Permit<'a>,
    route: &'a Route,
    cell: &'a Arc<usage::Cell>,
    table: &'a Table,
}

impl Proxy {
    pub fn new(shared: Shared) -> Self {
        Self {
            seen: RefCell::new(Rc::new(Seen(shared.tables.load_full()))),
            observer: Rc::new(Observer { metrics: shared.usage.clone(), access_log: shared.access_log }),
            pool: Pool::new(shared.metrics.pool.clone()),
            request_ids: RequestIds::new(),
            shared,
        }
    }

    /// Answers one request: with the upstream's answer, or with a refusal.
    pub async fn handle(&self, caller: &Caller, request: Request<Incoming>) -> Response<ResponseBody> {
        let mut usage = UsageGuard::new(&self.observer, request.method());
        // One table for the whole request: a reload in the middle cannot mix two configurations.
        let table = self.table();
        let mut place = None;
        match self.forward(caller, request, &table.0, &mut usage, &mut place).await {
            Ok(Answer { response, lease, idle }) => {
                response.map(|body| ResponseBody::Relayed(Relay::new(body, lease, usage, idle)))
            }
            Err(refusal) => self.refuse(refusal, usage, place),
        }
    }

    async fn forward<'t>(
        &self,
        caller: &Caller,
        request: Request<Incoming>,
        table: &'t Table,
        usage: &mut UsageGuard,
        place: &mut Option<&'t Route>,
    ) -> Result<Answer, Refusal> {
        let (parts, body) = request.into_parts();
        let (head, mut headers) =
            (Head { method: parts.method, uri: parts.uri, version: parts.version }, parts.headers);
        check(&self.shared.limits, &head, &headers)?;
        let target = Target::of(&head, &headers, caller.port)?;
        let client = table.clients.identify(&caller.peer).ok_or(Refusal::ClientUnknown)?;
        let route = find(table, &target, client).ok_or(Refusal::NoRoute)?;
        let cell = route.cell(client);
        usage.of(cell);
        *place = Some(route);
        let permit = route.admit(client, &head.method, target.rest)?;
        usage.judged(permit.path());

        let base = Base::of(&target, &headers);
        let idle = self.body_idle(&headers, route);
        let placement = route.token.as_ref().map(|token| &token.placement.header);
        if rebuild_request(&mut headers, route.upstream.host.clone(), placement) {
            usage.shadow_credential();
        }
        let mut request = Request::new(RequestBody::new(body, usage.upload().clone(), idle));
        *request.method_mut() = head.method.clone();
        *request.headers_mut() = headers;
        let path_and_query = path_and_query(&permit, target.query)?;

        // No dialling for a token that is not there.
        if let Some(token) = &route.token {
            self.await_token(token, table, usage).await?;
        }
        let outgoing = Outgoing { request, path_and_query, permit, route, cell, table };
        let (mut response, lease) = self.send(outgoing, usage).await?;
        usage.answered(response.status());
        rebuild_response(response.headers_mut(), placement);
        if let Some(base) = base {
            base.turn_back(route, response.headers_mut());
        }
        *response.version_mut() = Version::HTTP_11;
        Ok(Answer { response, lease, idle: route.timeouts.idle })
    }

    /// Sees to it that the route's token is there before anything is dialled.
    async fn await_token(&self, token: &RouteToken, table: &Table, usage: &mut UsageGuard) -> Result<(), Refusal> {
        if table.refuse_without_trail && !self.shared.recorder.is_healthy() {
            return Err(Refusal::AuditUnavailable);
        }
        // What is published is checked against the clocks when the request is written.
        if token.reader.is_published() {
            return Ok(());
        }
        self.await_generation(token, table.acquire_timeout, usage).await
    }

    /// Waits, bounded, until the token has a usable generation.
    async fn await_generation(
        &self,
        token: &RouteToken,
        patience: Duration,
        usage: &mut UsageGuard,
    ) -> Result<(), Refusal> {
        usage.waits();
        let ready = token.reader.ready(&*self.shared.clock, patience).await;
        usage.resumes();
        Ok(ready?)
    }

    /// Finds a connection, attaches the token, sends. Where a pooled connection turns out to be closed, the request is sent on
    /// another: if nothing of it was written, or if it is safe and was lost on a connection that had rested.
    async fn send(
        &self,
        outgoing: Outgoing<'_>,
        usage: &mut UsageGuard,
    ) -> Result<(Response<Incoming>, Lease), Refusal> {
        let Outgoing { mut request, path_and_query, permit, route, cell, table } = outgoing;
        let (dialer, acquire_timeout) = (&*table.dialer, table.acquire_timeout);
        // What was sent again is not sent a third time (RFC 9110, section 9.2.2).
        let mut may_repeat = true;
        let mut refusal = Refusal::UpstreamProtocol;
        for _ in 0..ATTEMPTS {
            let mut lease = self.connection(route, cell, dialer, usage).await?;
            address(&mut request, &lease, &route.upstream, &path_and_query)?;
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
            }
            let spare = if may_repeat && lease.has_rested() { Spare::of(&request) } else { None };
            usage.waits();
            let sent = answer_in_time(&mut lease, request, route.timeouts.response, usage).await;
            usage.resumes();
            match sent? {
                Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    return Err(Fault::Upgrade.into());
                }
                Ok(mut response) => {
                    answer::judge(&mut response, lease.is_http2())?;
                    return Ok((response, lease));
                }
                Err(SendError::NotSent(unsent, alert)) => {
                    request = *unsent;
                    refusal = alert.map_or(refusal, Refusal::from);
                }
                Err(SendError::Failed(error)) => {
                    if let Some(spare) = spare.filter(|_| was_closed(&error)) {
                        tracing::debug!(route = %route.name, %error, "a connection that had rested was closed: sent again");
                        // The others that rested as long have met the same end.
                        lease.drop_rested();
                        may_repeat = false;
                        request = spare.request(usage);
                        continue;
                    }
                    tracing::debug!(route = %route.name, %error, "the upstream did not answer");
                    if let Some(fault) = Fault::of(&error) {
                        return Err(fault.into());
                    }
                    // The exchange broke at the client's end, if its body did: the upstream is not to blame.
                    let ours = usage.upload().failure.get().map(Refusal::from);
                    let alert = tls::alert(&error).map(Refusal::from);
                    return Err(ours.or(alert).unwrap_or(Refusal::UpstreamProtocol));
                }
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

    /// An upload of known length may not rest for long; a stream may, as long as the route's idle timeout.
    fn body_idle(&self, headers: &HeaderMap, route: &Route) -> Duration {
        let known = headers.contains_key(CONTENT_LENGTH);
        if known { self.shared.limits.body_timeout } else { route.timeouts.idle }
    }

    fn refuse(&self, refusal: Refusal, mut usage: UsageGuard, place: Option<&Route>) -> Response<ResponseBody> {
        // Nobody hears of a refusal whose client has gone: that request was aborted.
        if !matches!(refusal, Refusal::ClientGone) {
            self.shared.metrics.refused.count(&refusal);
            usage.refused(refusal.status(), refusal.reason());
        }
        if matches!(refusal, Refusal::UpstreamProtocol | Refusal::UpstreamAnswer(_)) {
            usage.upstream_erred();
        }
        let request_id = self.request_ids.next();
        tracing::debug!(reason = refusal.reason(), request_id, "refused");
        let context = Context {
            route: place.map(|route| &route.name),
            token: place.and_then(|route| route.token.as_ref()).map(|token| &token.name),
            request_id: &request_id,
        };
        refusal.into_response(&context).map(|text| ResponseBody::Own { text: Some(text), usage })
    }

    /// Refuses what never became a request: it counts as one all the same.
    fn refuse_unread(&self, refusal: Refusal) -> Response<Bytes> {
        self.shared.metrics.refused.count(&refusal);
        UsageGuard::unread(&self.observer).refused(refusal.status(), refusal.reason());
        let request_id = self.request_ids.next();
        tracing::debug!(reason = refusal.reason(), request_id, "refused");
        let mut response = refusal.into_response(&Context { route: None, token: None, request_id: &request_id });
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }

    fn table(&self) -> Rc<Seen> {
        let newest = self.shared.tables.load();
        let mut seen = self.seen.borrow_mut();
        if !Arc::ptr_eq(&seen.0, &newest) {
            *seen = Rc::new(Seen(Arc::clone(&newest)));
            self.pool.retain(|upstream| newest.routes().iter().any(|route| route.upstream.id == upstream));
        }
        seen.clone()
    }

    /// Lets go of what is not used any more. Called now and then.
    pub fn sweep(&self) {
        self.table();
        self.pool.sweep();
    }
}

/// What is kept of a request without body to send it again, if it is safe (RFC 9110, section 9.2.2).
struct Spare {
    method: Method,
    headers: HeaderMap,
}

impl Spare {
    fn of(request: &Request<RequestBody>) -> Option<Self> {
        let safe = request.method().is_safe() && request.body().is_end_stream();
        safe.then(|| Self { method: request.method().clone(), headers: request.headers().clone() })
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

/// What a request's head may not have, whatever its route.
fn check(limits: &Limits, head: &Head, headers: &HeaderMap) -> Result<(), Refusal> {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > limits.target_bytes {
        return Err(Refusal::TargetTooLong);
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if headers.len() > limits.header_count || bytes > limits.header_bytes {
        return Err(Refusal::HeadersTooLarge);
    }
    let method = head.method.as_str();
    // Some servers do not mind the case of a method.
    let refused = ["TRACE", "TRACK", "DEBUG"].iter().any(|refused| method.eq_ignore_ascii_case(refused));
    if method.len() > METHOD_BYTES || refused {
        return Err(Refusal::MethodRefused);
    }
    if headers.contains_key(ORIGIN) || headers.get(SEC_FETCH_SITE).is_some_and(is_a_page) {
        return Err(Refusal::BrowserRefused);
    }
    let expects = headers.get(EXPECT).map(HeaderValue::as_bytes);
    if expects.is_some_and(|expects| !expects.eq_ignore_ascii_case(b"100-continue")) {
        return Err(Refusal::ExpectRefused);
    }
    Ok(())
}

fn find<'t>(table: &'t Table, target: &Target<'_>, client: ClientIndex) -> Option<&'t Route> {
    let route = match &target.by {
        By::Prefix { name } => table.named(name),
        By::HostLabel { name } => table.named(name),
        By::Authority { scheme, authority } => table.authority(*scheme, authority, client),
    };
    route.map(|route| &**route)
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

/// The judged path with the query as it came: what is sent.
fn path_and_query(permit: &Permit<'_>, query: Option<&str>) -> Result<PathAndQuery, Refusal> {
    let target = match query {
        None => PathAndQuery::try_from(permit.path()),
        Some(query) => PathAndQuery::try_from(format!("{}?{query}", permit.path())),
    };
    target.map_err(|_| Refusal::QueryAmbiguous)
}

/// Writes the request's target in the form that the connection's protocol wants.
fn address(
    request: &mut Request<RequestBody>,
    lease: &Lease,
    upstream: &Upstream,
    target: &PathAndQuery,
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
    } else {
        *request.uri_mut() = Uri::from(target.clone());
        *request.version_mut() = Version::HTTP_11;
        if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, upstream.host.clone());
        }
    }
    Ok(())
}

/// Whether a browser says that a page of another site is behind the request.
fn is_a_page(site: &HeaderValue) -> bool {
    site != "none" && site != "same-origin"
}

/// The base URL that the app used, kept until the answer's links are turned back.
struct Base {
    host: HeaderValue,
    by_prefix: bool,
}

impl Base {
    /// `None` where the app named the upstream itself.
    fn of(target: &Target<'_>, headers: &HeaderMap) -> Option<Self> {
        let by_prefix = match target.by {
            By::Prefix { .. } => true,
            By::HostLabel { .. } => false,
            By::Authority { .. } => return None,
        };
        Some(Self { host: headers.get(HOST)?.clone(), by_prefix })
    }

    fn turn_back(&self, route: &Route, headers: &mut HeaderMap) {
        let Ok(host) = self.host.to_str() else { return };
        let prefix = self.by_prefix.then_some(route.name.as_str());
        BaseUrl { upstream: &route.upstream.endpoint, host, prefix }.turn_back(headers);
    }
}

impl From<NotAdmitted> for Refusal {
    fn from(not: NotAdmitted) -> Self {
        match not {
            NotAdmitted::Path(error) => error.into(),
            NotAdmitted::Denied(denied) => denied.into(),
        }
    }
}

/// Numbers for refusals, unlike in other workers and other runs.
struct RequestIds {
    run: u64,
    last: Cell<u64>,
}

impl RequestIds {
    fn new() -> Self {
        Self { run: fastrand::u64(..), last: Cell::new(0) }
    }

    fn next(&self) -> String {
        self.last.set(self.last.get() + 1);
        format!("{:016x}-{:x}", self.run, self.last.get())
    }
}
