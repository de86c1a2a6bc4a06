//! The path of a request, from a client's connection to the upstream's answer.
//!
//! ```text
//!  listener → worker → identity → target → route → policy → token → pool → inject → upstream → body → usage
//! ```
//!
//! Invariants: nothing reaches an upstream from a request that was refused; the token is looked up when the request is
//! written, however long the connection took; a request waits for its connection and, bounded, for its token, and, where
//! its client is a job that nobody has seen before, for the keys of the job's issuer; and for nothing else.

mod answer;
mod body;
mod challenge;
mod connect;
mod connection;
mod credentials;
mod cut;
mod echo;
mod error;
mod exchange;
mod executor;
mod explain;
mod frames;
mod grpc;
mod h1;
mod head;
mod headers;
mod inject;
mod job;
mod links;

mod listener;
mod message;
mod phantom;
mod places;
mod pool;
mod progress;
mod pulse;
mod replay;
mod rounds;
mod secured;
mod sign;
mod stream;
mod target;
mod trace;
mod tripwire;
mod tunnel;
mod via;
mod wanted;
mod watch;
mod websocket;
mod worker;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, LINK};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode, Version};
use http_body::Body as _;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec};

pub use cut::Cut;
pub use error::Refusal;
pub use explain::{Explanation, explain};
pub use head::Head;
pub use headers::{rebuild_request, rebuild_response};
pub use links::BaseUrl;
pub use listener::{Accepted, BindError, Listener};
pub use message::Fields;
pub use places::Places;
pub use pulse::Pulses;
pub use secured::{Failed, Secured, SecuredError};
pub use target::{By, Target};
pub use tripwire::{Tripped, Tripwires};
pub use tunnel::TunnelLimits;
pub use via::Via;
pub use wanted::{Lack, Want, Wants};
pub use worker::{Worker, WorkerSettings};

use crate::announced;
use crate::audit::Recorder;
use crate::authority::{Authority, Host};
use crate::clock::Clock;
use crate::identity::job::Job;
use crate::identity::{Certificate, ClientIndex, Peer};
use crate::metrics::{Error as MetricsError, Metrics as Registry};
use crate::policy::{Denied, Permit};
use crate::route::{NotAdmitted, Route, RouteToken, Table};
use crate::secret::{Mark, Needles};
use crate::tls;
use crate::token::Placement;
use crate::usage::{self, Observer, UsageGuard};
use body::{ClientBody, Relay, RequestBody, ResponseBody, Trailers, UpstreamBody};
use connect::Onward;
use echo::Scrubber;
use error::{Context, RefusedTotal, RequestIds};
use exchange::{Answered, Outgoing};
use h1::{Buffers, Upgraded};
use links::Base;
use message::{Request, Response};
use pool::{Lease, Pool};
use rounds::Rounds;
use secured::Arrival;
use tunnel::Tunnel;
use watch::Late;
use websocket::Handshake;

/// `[proxy]`
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    pub listen: Vec<Address>,
    /// Of those addresses that are under TLS.
    pub tls: Option<tls::ServerSettings>,
    pub workers: usize,
    pub drain: Duration,
    pub acquire_timeout: Duration,
    /// Whether tunnels lead to hosts without a route, too: `unrouted`.
    pub tunnels: bool,
    pub limits: Limits,
}

/// Where a listener listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    Tcp(SocketAddr),
    /// Under TLS, for apps of other machines too.
    Tls(SocketAddr),
    Unix(PathBuf),
}

/// `[proxy.limits]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Client connections at a time, over all workers.
    pub connections: usize,
    /// Of these, of one user. `None`: all, but where there are several clients, a quarter is left to the others.
    pub connections_per_client: Option<usize>,
    pub header_bytes: usize,
    pub header_count: usize,
    pub target_bytes: usize,
    /// For the whole head of a request.
    pub header_timeout: Duration,
    /// Between two requests of a connection.
    pub idle_timeout: Duration,
    /// Between two pieces of a request's body of known length, and for a client to take some of its answer.
    pub body_timeout: Duration,
    /// Of tunnels that nobody looks into.
    pub tunnel: TunnelLimits,
}

/// The metrics of the proxy itself.
#[derive(Clone)]
pub struct Metrics {
    refused: RefusedTotal,
    pool: pool::Metrics,
    connections: IntGaugeVec,
    closed: IntCounterVec,
    http2_abuse: IntCounter,
    repeated: IntCounterVec,
    tunnels: tunnel::Metrics,
}

impl Metrics {
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        let help = "Connections of clients, by listener.";
        Ok(Self {
            refused: RefusedTotal::register(registry)?,
            pool: pool::Metrics::register(registry)?,
            connections: registry.gauges("connections", help, &["listener"])?,
            tunnels: tunnel::Metrics::register(registry)?,
            closed: registry.counters(
                "connections_closed_total",
                "Connections of clients that the proxy closed: idle, slow_head, stalled, evicted, outdated.",
                &["why"],
            )?,
            repeated: registry.counters(
                "requests_repeated_total",
                "Requests sent once more: lost (not processed), rejected (a newer token), nonce (another proof).",
                &["cause"],
            )?,
            http2_abuse: registry.counter(
                "http2_abuse_total",
                "Connections of HTTP/2 that were closed for frames that carry nothing.",
            )?,
        })
    }

    fn repeated(&self, cause: &str) {
        self.repeated.with_label_values(&[cause]).inc();
    }

    fn closed(&self, late: Late) {
        self.closed.with_label_values(&[late.as_str()]).inc();
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
    pub via: Via,
    /// Room for connections, of all workers.
    pub places: Arc<Places>,
    /// What refused requests lacked.
    pub wants: Arc<Wants>,
    /// Phantom keys where they cannot be.
    pub tripwires: Arc<Tripwires>,
    /// What listeners under TLS prove themselves with, where there is one.
    pub secured: Option<Arc<Secured>>,
}

/// Who sent a request, and where it came in.
pub struct Caller {
    pub peer: Peer,
    /// Unix sockets have none.
    pub port: Option<u16>,
    /// The tunnel that it came in, if it came in one.
    pub inside: Option<Opened>,
    /// Where it came in under TLS.
    pub tls: Option<Rc<Arrival>>,
}

impl Caller {
    fn certificate(&self) -> Option<&Certificate> {
        self.tls.as_ref().and_then(|arrival| arrival.certificate())
    }
}

/// A tunnel that is looked into.
pub struct Opened {
    pub authority: Authority,
    /// The phantom key that it was opened with.
    pub key: Option<Mark>,
    /// The job that has opened it.
    pub job: Option<Arc<Job>>,
}

/// One worker's proxy.
pub struct Proxy {
    shared: Shared,
    /// The table as this worker saw it last.
    seen: RefCell<Rc<Seen>>,
    observer: Rc<Observer>,
    pool: Pool,
    rounds: Rounds,
    request_ids: RequestIds,
    /// For bodies that are hashed before they are sent.
    room: sign::Room,
}

/// A worker's own handle of a table: its requests share it without touching a counter that other workers touch.
struct Seen(Arc<Table>);

/// What the upstream answered, and the connection it came on.
struct Answer<'t> {
    response: Response<UpstreamBody>,
    lease: Lease,
    route: &'t Route,
    /// What recognises the token that was sent.
    needles: Option<Arc<Needles>>,
    scrubber: Option<Scrubber>,
    /// Whether the client takes trailers.
    trailers: bool,
    /// Where the protocol changes: what the upstream's connection turns into.
    switching: Option<Upgraded>,
}

/// Where a request was refused.
#[derive(Default)]
struct Place<'t> {
    route: Option<&'t Route>,
    /// What would let it pass.
    want: Option<Want>,
}

/// A request as it came in.
struct Asked<'r> {
    caller: &'r Caller,
    head: &'r Head,
    fields: Fields,
    body: RequestBody,
}

impl Proxy {
    pub fn new(shared: Shared, buffers: Buffers) -> Self {
        Self {
            seen: RefCell::new(Rc::new(Seen(shared.tables.load_full()))),
            observer: Rc::new(Observer::new(shared.usage.clone(), shared.access_log)),
            pool: Pool::new(shared.metrics.pool.clone(), shared.places.clone(), buffers),
            rounds: Rounds::default(),
            request_ids: RequestIds::new(),
            room: sign::Room::new(),
            shared,
        }
    }

    /// Answers one request: with the upstream's answer, or with a refusal. With the answer 101 comes the tunnel that the
    /// client's connection turns into.
    pub async fn handle(
        &self,
        caller: &Caller,
        head: Head,
        fields: Fields,
        body: ClientBody,
    ) -> (Response<ResponseBody>, Option<Onward>) {
        if head.method == Method::CONNECT && caller.inside.is_none() {
            return Box::pin(self.connect(caller, &head, fields)).await;
        }
        let mut usage = UsageGuard::new(&self.observer, &head.method);
        let grpc = head::is_grpc(&head, &fields);
        // One table for the whole request: a reload in the middle cannot mix two configurations.
        let table = self.table();
        let mut place = Place::default();
        let idle = self.shared.limits.body_timeout;
        let body = RequestBody::new(body, usage.upload().clone(), idle);
        let asked = Asked { caller, head: &head, fields, body };
        match self.forward(asked, &table.0, &mut usage, &mut place).await {
            Ok(Answer { response, lease, route, switching: Some(switching), .. }) => {
                let tunnel = Tunnel::new(switching, usage, route.timeouts.idle, lease);
                (response.map(|_| ResponseBody::Switched), Some(Onward::Tunnel(Box::new(tunnel))))
            }
            Ok(Answer { response, lease, route, needles, scrubber, trailers, .. }) => {
                let trailers = trailers.then(|| Trailers::of(route, needles));
                let idle = route.timeouts.idle;
                let relay = |body| Box::new(Relay::new(body, lease, usage, idle, scrubber, trailers));
                let relayed = |body| ResponseBody::Relayed(relay(body));
                (response.map(relayed), None)
            }
            Err(refusal) => (self.refuse(refusal, usage, place, &head, grpc), None),
        }
    }

    async fn forward<'t>(
        &self,
        asked: Asked<'_>,
        table: &'t Table,
        usage: &mut UsageGuard,
        place: &mut Place<'t>,
    ) -> Result<Answer<'t>, Refusal> {
        let Asked { caller, head, fields: mut headers, mut body } = asked;
        head::judge(head, &headers, &self.shared.limits)?;
        if self.shared.via.is_in(&headers) {
            return Err(Refusal::Loop);
        }
        let target = match &caller.inside {
            None => {
                let is_upstream = |authority: &Authority| table.is_upstream(authority);
                let is_ours = |host: &Host| caller.tls.as_ref().is_some_and(|arrival| arrival.is_at(host));
                Target::of(head, &headers, caller.port, is_upstream, is_ours)?
            }
            Some(opened) => Target::inside(head, &headers, &opened.authority)?,
        };
        let job = job::of(table, caller, &mut headers, usage).await?;
        let known = phantom::identify(table, caller, head, &headers, job.as_deref())?;
        let client = known.client;
        let route = find(table, &target, client);
        known.settle(table, caller, route, &target, &mut headers)?;
        let route = route.ok_or(Refusal::NoRoute)?;
        let cell = route.cell(client);
        usage.of(cell);
        place.route = Some(route);
        route.holds_back(client)?;
        let permit = route.admit(client, &head.method, target.rest).inspect_err(|not| {
            if matches!(not, NotAdmitted::Denied(Denied::Method | Denied::Path)) {
                place.want = Want::of(route, &head.method, target.rest);
            }
        })?;
        usage.judged(permit.path(), permit.rule());
        let most = enter(route, &body, usage)?;

        let base = Base::of(&target, head, &headers);
        let idle = self.body_idle(&headers, route);
        let takes_trailers = head::takes_trailers(&headers);
        let handshake = if route.websocket { Handshake::asked(head, &headers)? } else { None };
        if handshake.is_none() && body.is_for_a_stream() {
            return Err(Refusal::HeaderInvalid("the route takes no such `:protocol`: see `websocket` of the route"));
        }
        let placement = route.token.as_ref().map(|token| &token.placement);
        let guarded = placement.map(Placement::guarded_headers);
        let own = sign::take_out(&mut headers, target.query, placement)?;
        let shadow = rebuild_request(&mut headers, route.upstream.host.clone(), guarded);
        let (query, in_places) = credentials::clear(&mut headers, own.query.as_deref(), placement);
        if shadow || (in_places && !known.is_in_pairs()) || own.shadow {
            usage.shadow_credential();
        }
        if route.scrub {
            echo::ask_plainly(&mut headers);
        }
        head::join_cookies(&mut headers);
        usage.traced(trace::carry_on(&mut headers));
        self.shared.via.sign(&mut headers, head.version);
        body.limit(idle, most);
        let uri = path_and_query(&permit, query.as_deref())?.into();
        let request = Request { method: head.method.clone(), uri, fields: headers };

        // No dialling for a token that is not there.
        if let Some(token) = &route.token {
            self.await_token(token, table, usage).await?;
        }
        let mut signing = own.signing;
        let _held = match (&mut signing, placement) {
            (Some(signing), Some(placement)) => {
                signing.settle(&mut body, placement, &route.upstream, &self.room, usage).await?
            }
            _ => None,
        };
        let outgoing = Outgoing { request, body, permit, route, client, cell, table, takes_trailers, signing };
        let answered = match handshake {
            None => self.exchange(outgoing, usage).await?,
            Some(handshake) => Box::pin(self.switch(outgoing, &handshake, usage)).await?,
        };
        let mut answer = taken_in(answered, route, usage)?;
        answer.trailers = takes_trailers;
        if matches!(answer.response.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            self.tell_what_is_lacking(route, &mut answer.response.fields);
        }
        if let Some(base) = base {
            base.turn_back(route, &mut answer.response.fields, caller.tls.is_some());
        }
        Ok(answer)
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
        let ready = Box::pin(token.reader.ready(&*self.shared.clock, patience)).await;
        usage.resumes();
        Ok(ready?)
    }

    /// An upload of known length may not rest for long; a stream may, as long as the route's idle timeout.
    fn body_idle(&self, headers: &Fields, route: &Route) -> Duration {
        let known = headers.contains(CONTENT_LENGTH);
        if known { self.shared.limits.body_timeout } else { route.timeouts.idle }
    }

    fn refuse(
        &self,
        refusal: Refusal,
        mut usage: UsageGuard,
        place: Place<'_>,
        head: &Head,
        grpc: bool,
    ) -> Response<ResponseBody> {
        // Nobody hears of a refusal whose client has gone: that request was aborted.
        if !matches!(refusal, Refusal::ClientGone) {
            self.shared.metrics.refused.count(&refusal);
            usage.refused(refusal.status(), refusal.reason());
        }
        if let Refusal::Tripped(tripped) = &refusal {
            self.shared.tripwires.trip(tripped);
        }
        if matches!(refusal, Refusal::UpstreamProtocol | Refusal::UpstreamAnswer(_)) {
            usage.upstream_erred();
        }
        let request_id = self.request_ids.next();
        tracing::debug!(reason = refusal.reason(), request_id, "refused");
        let can_be_asked_for = place.want.is_some();
        if let Some(want) = place.want {
            self.shared.wants.keep(&request_id, want);
        }
        let context = Context {
            route: place.route.map(|route| &route.name),
            token: place.route.and_then(|route| route.token.as_ref()).map(|token| &token.name),
            request_id: &request_id,
            can_be_asked_for,
            version: head.version,
            grpc,
        };
        let mut response = refusal.into_response(&context);
        if head.method == Method::HEAD {
            let length = HeaderValue::from(response.body.len());
            response.fields.insert(CONTENT_LENGTH, length);
            response.body.clear();
        }
        response.map(|text| ResponseBody::own(text, usage))
    }

    /// Refuses what never became a request: it counts as one all the same.
    fn refuse_unread(&self, refusal: Refusal) -> Response<Bytes> {
        self.shared.metrics.refused.count(&refusal);
        UsageGuard::unread(&self.observer).refused(refusal.status(), refusal.reason());
        let request_id = self.request_ids.next();
        tracing::debug!(reason = refusal.reason(), request_id, "refused");
        let version = Version::HTTP_11;
        let context = Context { request_id: &request_id, version, ..Context::default() };
        let mut response = refusal.into_response(&context);
        response.fields.insert(CONNECTION, HeaderValue::from_static("close"));
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

    /// A client of HTTP/2 sent more frames that carry nothing than it may.
    fn count_http2_abuse(&self) {
        self.shared.metrics.http2_abuse.inc();
    }

    /// Lets go of what was taken out of use, or is held back from now on: nothing of it leaves any more.
    pub fn let_go(&self, what: &Cut) {
        self.pool.let_go(what);
    }

    /// Hands over what is known of the requests that have ended, and of those that last. Called now and then.
    pub fn hand_over_uses(&self) {
        self.observer.hand_over(self.shared.clock.now());
    }

    /// Lets go of what is not used any more, and wakes what has waited for too long. Called once a second.
    pub fn sweep(&self) {
        self.rounds.turn();
        self.table();
        self.pool.sweep();
    }
}

/// An answer without what is the connection's, or the token's.
fn taken_in<'t>(answered: Answered, route: &'t Route, usage: &mut UsageGuard) -> Result<Answer<'t>, Refusal> {
    let Answered { mut response, lease, needles, switching } = answered;
    usage.answered(response.status);
    let placement = route.token.as_ref().map(|token| &token.placement);
    let ends = rebuild_response(&mut response.fields, placement.map(Placement::guarded_headers));
    credentials::clear_answer(&mut response.fields, placement, route.keeps_cookies);
    let scrubber = match &needles {
        Some(needles) => echo::scrub(&mut response, needles, route.scrub, usage)?,
        None => None,
    };
    if ends && let Some(voice) = route.voice() {
        let fields = &response.fields;
        voice.says(fields.get(announced::DEPRECATION), fields.get(announced::SUNSET), fields.get_all(LINK));
    }
    if switching.is_some() {
        Handshake::ask(&mut response.fields);
    }
    Ok(Answer { response, lease, route, needles, scrubber, trailers: false, switching })
}

fn find<'t>(table: &'t Table, target: &Target<'_>, client: ClientIndex) -> Option<&'t Route> {
    let route = match &target.by {
        By::Prefix { name } => table.named(name),
        By::HostLabel { name } => table.named(name),
        By::Authority { scheme, authority } => table.authority(*scheme, authority, client),
    };
    route.map(|route| &**route)
}

/// Takes a place among the client's requests on this route. Returns how long the body may become.
fn enter(route: &Route, body: &RequestBody, usage: &mut UsageGuard) -> Result<u64, Refusal> {
    let most = route.limits.body.unwrap_or(u64::MAX);
    if body.size_hint().lower() > most {
        return Err(Refusal::BodyTooLarge);
    }
    if usage.enters(route.limits.concurrency) { Ok(most) } else { Err(Refusal::Busy) }
}

/// The judged path with the query as it came: what is sent.
fn path_and_query(permit: &Permit<'_>, query: Option<&str>) -> Result<PathAndQuery, Refusal> {
    let target = match query {
        None => PathAndQuery::try_from(permit.path()),
        Some(query) => PathAndQuery::try_from(format!("{}?{query}", permit.path())),
    };
    target.map_err(|_| Refusal::QueryAmbiguous)
}
