//! A worker's connections to upstreams. They belong to one route and one client, and to this worker: nothing here is shared
//! between threads.
//!
//! ```text
//!  take ─▶ idle ───────────────────▶ Lease ─▶ send ─▶ give_back ─▶ idle
//!  dial ─▶ few at a time, or wait ─▶              └▶ dropped: closed
//! ```
//!
//! Invariants: a connection that was not given back whole is never used again; however many requests come at once, at most
//! [`DIALS`] handshakes of a route and client are under way, and the others wait for those or for a connection that comes
//! free.

mod lease;
mod lost;
mod streams;

use std::cell::{Cell as StdCell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{IntGauge, IntGaugeVec};
use tokio::sync::{Notify, Semaphore};
use tokio::task::coop::has_budget_remaining;
use tokio::time::timeout;

pub use self::lease::{Lease, SendError};
pub use self::lost::Lost;
use self::streams::{Stream, Streams};
use super::answer::HEAD_BYTES;
use super::body::RequestBody;
use super::cut::{Carried, Cut, Line, Lines};
use super::executor::{LocalExecutor, run};
use super::h1::{Buffers, Outbound, Upgraded};
use super::places::{Places, UpstreamPlace};
use crate::authority::Authority;
use crate::dial::{Connection as Dialled, DialError, Dialer, Protocol, Stage, Stream as Socket, Target, TlsKind};
use crate::metrics::{Error as MetricsError, Metrics as Registry};
use crate::name::{ClientName, RouteName};
use crate::route::{Route, Upstream};
use crate::tls::Security;
use crate::usage::Cell;

/// Handshakes at a time, of one route and client in one worker.
const DIALS: usize = 32;

/// For how many sweeps, of one a second, a connection is kept without use.
const IDLE_SWEEPS: u32 = 90;

/// Connections kept idle, of one route and client in one worker.
const IDLE_MOST: usize = 512;

/// A frame of HTTP/2 may be read into this much at once; the default window would slow large bodies down.
const HTTP2_WINDOW: u32 = 1 << 20;

/// `countersign_upstream_connections{route,state}`
#[derive(Clone)]
pub struct Metrics(IntGaugeVec);

impl Metrics {
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        let help = "Connections to upstreams, by state: active, idle.";
        Ok(Self(registry.gauges("upstream_connections", help, &["route", "state"])?))
    }

    fn of(&self, route: &RouteName) -> Gauges {
        let gauge = |state| self.0.with_label_values(&[route.as_str(), state]);
        Gauges { active: gauge("active"), idle: gauge("idle") }
    }
}

struct Gauges {
    active: IntGauge,
    idle: IntGauge,
}

/// A worker's pool.
pub struct Pool {
    entries: RefCell<HashMap<Key, Rc<Entry>, RandomState>>,
    metrics: Metrics,
    places: Arc<Places>,
    buffers: Buffers,
    lines: Rc<Lines>,
}

/// The upstream's id, and the address of the cell of route and client, which the entry keeps alive.
type Key = (u64, usize);

/// The connections of one route and client.
struct Entry {
    /// Keeps its address, which is part of the key, from being used again.
    _cell: Arc<Cell>,
    upstream: Arc<Upstream>,
    carried: Rc<Carried>,
    lines: Rc<Lines>,
    places: Arc<Places>,
    buffers: Buffers,
    gauges: Gauges,
    idle: RefCell<Vec<Idle>>,
    /// Connections of HTTP/2, each of which carries many requests.
    shared: RefCell<Vec<Shared>>,
    /// No route leads here any more: what comes back is closed.
    retired: StdCell<bool>,
    dials: Semaphore,
    /// Whether several handshakes may be under way.
    several: StdCell<bool>,
    /// One waiting request is woken for each connection that comes free.
    freed: Notify,
}

/// A connection of HTTP/2. A request gets a stream before its token is attached: hyper would let it wait for one with the
/// token already on it.
#[derive(Clone)]
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    authority: Rc<Authority>,
    streams: Rc<Streams>,
}

struct Idle {
    connection: Box<Outbound>,
    authority: Rc<Authority>,
    /// Since it was given back: no clock is read for that.
    sweeps: u32,
}

enum Sender {
    Http1(Box<Outbound>),
    Http2 { sender: http2::SendRequest<RequestBody>, _stream: Stream },
}

/// A way to an upstream, and the authority that it was dialled and its certificate verified for.
struct Way {
    sender: Sender,
    authority: Rc<Authority>,
    /// For another request, before: the upstream may be closing it this very moment.
    used: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NoConnection {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("as many connections are open as the process has file descriptors for")]
    NoRoom,
}

impl Pool {
    pub fn new(metrics: Metrics, places: Arc<Places>, buffers: Buffers) -> Self {
        Self { entries: RefCell::default(), metrics, places, buffers, lines: Rc::default() }
    }

    /// Cuts every connection that is meant, whatever is under way on it: nothing more leaves on any of them.
    pub fn let_go(&self, what: &Cut) {
        let cut = self.lines.cut(what);
        for entry in self.entries.borrow().values().filter(|entry| what.means(&entry.carried)) {
            entry.close_idle();
            entry.shared.borrow_mut().clear();
        }
        tracing::debug!(of = %what, cut, "upstream connections were cut");
    }

    /// A connection to the route's upstream that is there already, verified and ready for one request.
    pub async fn take(&self, route: &Route, cell: &Arc<Cell>) -> Option<Lease> {
        let entry = self.entry(route, cell);
        let way = entry.take().await?;
        Some(Lease::new(way, entry))
    }

    /// A new connection to the route's upstream, or one that comes free meanwhile.
    ///
    /// # Errors
    /// When none can be dialled or comes free within the route's time for connecting.
    pub async fn dial(&self, route: &Route, cell: &Arc<Cell>, dialer: &Dialer) -> Result<Lease, NoConnection> {
        let entry = self.entry(route, cell);
        let limit = route.timeouts.connect;
        match timeout(limit, entry.dial_or_wait(dialer, limit)).await {
            Ok(way) => Ok(Lease::new(way?, entry)),
            Err(_) => Err(DialError::Timeout(Stage::Connect).into()),
        }
    }

    /// A connection of HTTP/1.1 for a request that asks for another protocol.
    ///
    /// # Errors
    /// When it cannot be dialled within the route's time for connecting.
    pub async fn dial_alone(&self, route: &Route, cell: &Arc<Cell>, dialer: &Dialer) -> Result<Lease, NoConnection> {
        let entry = self.entry(route, cell);
        let limit = route.timeouts.connect;
        match timeout(limit, entry.dial_alone(dialer, limit)).await {
            Ok(way) => Ok(Lease::new(way?, entry)),
            Err(_) => Err(DialError::Timeout(Stage::Connect).into()),
        }
    }

    /// A way to an authority that is nobody's but one client's, and that nobody looks into.
    ///
    /// # Errors
    /// When it cannot be dialled in time.
    pub async fn dig(
        &self,
        authority: &Authority,
        client: &ClientName,
        dialer: &Dialer,
        timeout: Duration,
    ) -> Result<Upgraded, NoConnection> {
        let place = self.places.take_upstream().ok_or(NoConnection::NoRoom)?;
        let io = dialer.connect_blindly(authority, timeout).await?;
        let carried = Rc::new(Carried { client: client.clone(), token: None });
        Ok(Upgraded { io: self.lines.lay(&carried, io), ahead: Bytes::new(), place })
    }

    /// Closes what has been idle for long, and forgets what no route uses any more. Called once a second.
    pub fn sweep(&self) {
        self.lines.sweep();
        self.entries.borrow_mut().retain(|_, entry| {
            entry.keep_idle(|idle| {
                idle.sweeps += 1;
                idle.sweeps <= IDLE_SWEEPS && idle.connection.rests_well()
            });
            let mut shared = entry.shared.borrow_mut();
            shared.retain(|shared| !shared.sender.is_closed() && shared.streams.sweep());
            Rc::strong_count(entry) > 1 || !shared.is_empty() || !entry.idle.borrow().is_empty()
        });
    }

    /// Drops the connections of upstreams that the predicate does not know any more.
    pub fn retain(&self, known: impl Fn(u64) -> bool) {
        self.entries.borrow_mut().retain(|(upstream, _), entry| {
            let keep = known(*upstream);
            if !keep {
                entry.retired.set(true);
                entry.close_idle();
                entry.shared.borrow_mut().clear();
            }
            keep
        });
    }

    fn entry(&self, route: &Route, cell: &Arc<Cell>) -> Rc<Entry> {
        let key = (route.upstream.id, Arc::as_ptr(cell) as usize);
        let mut entries = self.entries.borrow_mut();
        let entry = entries.entry(key).or_insert_with(|| {
            Rc::new(Entry {
                _cell: cell.clone(),
                upstream: route.upstream.clone(),
                carried: Rc::new(Carried {
                    client: cell.client.clone(),
                    token: route.token.as_ref().map(|token| token.name.clone()),
                }),
                lines: self.lines.clone(),
                places: self.places.clone(),
                buffers: self.buffers.clone(),
                gauges: self.metrics.of(&route.name),
                idle: RefCell::default(),
                shared: RefCell::default(),
                retired: StdCell::new(false),
                dials: Semaphore::new(1),
                several: StdCell::new(false),
                freed: Notify::new(),
            })
        });
        entry.clone()
    }
}

impl Entry {
    /// A connection that is there already.
    async fn take(&self) -> Option<Way> {
        loop {
            if let Some(way) = self.shared_way() {
                return Some(way);
            }
            let Idle { mut connection, authority, sweeps } = self.idle.borrow_mut().pop()?;
            self.gauges.idle.dec();
            // Who has used up its turn would be told that nothing has come, whatever has.
            if sweeps > 0 || !has_budget_remaining() {
                // If the upstream's end has come in with the request, the runtime gets to see it first.
                tokio::task::yield_now().await;
            }
            if connection.is_ready() {
                return Some(Way { sender: Sender::Http1(connection), authority, used: true });
            }
        }
    }

    /// A new connection, or one that comes free meanwhile.
    async fn dial_or_wait(&self, dialer: &Dialer, limit: Duration) -> Result<Way, NoConnection> {
        loop {
            tokio::select! {
                biased;
                () = self.freed.notified() => {}
                permit = self.dials.acquire() => {
                    let _permit = permit.expect("the semaphore is never closed");
                    let way = match self.take().await {
                        Some(way) => Ok(way),
                        None => self.dial(dialer, limit).await,
                    };
                    if !matches!(way, Ok(Way { sender: Sender::Http2 { .. }, .. })) {
                        self.allow_several();
                    }
                    // Whoever waits tries next: for a stream of this connection, or to hear the same error.
                    self.freed.notify_one();
                    return way;
                }
            }
            if let Some(way) = self.take().await {
                return Ok(way);
            }
        }
    }

    /// Until an upstream has shown that it speaks HTTP/1.1, its first connection may do for all requests.
    fn allow_several(&self) {
        if !self.several.replace(true) {
            self.dials.add_permits(DIALS - 1);
        }
    }

    fn shared_way(&self) -> Option<Way> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|shared| !shared.sender.is_closed());
        shared.iter().find_map(|shared| {
            let stream = Stream::take(&shared.streams)?;
            Some(shared.way(stream))
        })
    }

    async fn dial(&self, dialer: &Dialer, timeout: Duration) -> Result<Way, NoConnection> {
        let (Reached { io, protocol, authority }, place) = self.reach(dialer, &self.upstream.security, timeout).await?;
        match protocol {
            Protocol::Http1 => Ok(self.http1(io, authority, place)),
            Protocol::Http2 => {
                let authority = Rc::new(authority);
                let shared = self.http2(io, authority.clone(), place).await;
                let shared = shared.map_err(|error| failed(&authority, &error))?;
                let stream = Stream::take(&shared.streams).ok_or(DialError::Timeout(Stage::Handshake))?;
                Ok(shared.way(stream))
            }
        }
    }

    async fn dial_alone(&self, dialer: &Dialer, timeout: Duration) -> Result<Way, NoConnection> {
        let security = self.upstream.security.of_http1();
        let (Reached { io, authority, .. }, place) = self.reach(dialer, &security, timeout).await?;
        Ok(self.http1(io, authority, place))
    }

    fn http1(&self, io: Line<Socket>, authority: Authority, place: UpstreamPlace) -> Way {
        let connection = Box::new(Outbound::new(io, place, self.buffers.clone()));
        Way { sender: Sender::Http1(connection), authority: Rc::new(authority), used: false }
    }

    async fn reach(
        &self,
        dialer: &Dialer,
        security: &Security,
        timeout: Duration,
    ) -> Result<(Reached, UpstreamPlace), NoConnection> {
        let place = self.places.take_upstream().ok_or(NoConnection::NoRoom)?;
        let target = Target { authority: &self.upstream.endpoint.authority, security, timeout };
        let Dialled { io, protocol, authority } = dialer.connect(&target).await?;
        let io = self.lines.lay(&self.carried, io);
        Ok((Reached { io, protocol, authority }, place))
    }

    async fn http2(
        &self,
        io: Line<Socket>,
        authority: Rc<Authority>,
        place: UpstreamPlace,
    ) -> Result<Shared, hyper::Error> {
        let (sender, mut connection) = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .initial_stream_window_size(HTTP2_WINDOW)
            .initial_connection_window_size(2 * HTTP2_WINDOW)
            .max_header_list_size(HEAD_BYTES as u32)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(io))
            .await?;
        let streams = Streams::new();
        let seen = streams.clone();
        run(async move {
            let _place = place;
            let ended = poll_fn(|context| {
                let polled = Pin::new(&mut connection).poll(context);
                seen.allow(connection.current_max_send_streams());
                polled
            });
            if let Err(error) = ended.await {
                tracing::debug!(%error, "an upstream connection failed");
            }
        });
        let shared = Shared { sender, authority, streams };
        self.shared.borrow_mut().push(shared.clone());
        Ok(shared)
    }

    fn close_idle(&self) {
        self.keep_idle(|_| false);
    }

    fn keep_idle(&self, mut keep: impl FnMut(&mut Idle) -> bool) {
        self.idle.borrow_mut().retain_mut(|idle| {
            let kept = keep(idle);
            if !kept {
                self.gauges.idle.dec();
            }
            kept
        });
    }
}

/// A connection that was dialled, as a line that can be cut.
struct Reached {
    io: Line<Socket>,
    protocol: Protocol,
    authority: Authority,
}

fn failed(authority: &Authority, error: &hyper::Error) -> DialError {
    DialError::Tls { kind: TlsKind::Protocol, authority: authority.clone(), detail: error.to_string() }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.close_idle();
    }
}

impl Shared {
    fn way(&self, stream: Stream) -> Way {
        let sender = Sender::Http2 { sender: self.sender.clone(), _stream: stream };
        Way { sender, authority: self.authority.clone(), used: false }
    }
}
