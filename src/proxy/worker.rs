//! A worker: one thread with a runtime of its own, its own connections, pools and buffers. Workers share the listening
//! sockets, the table of routes and the tokens' slots, and nothing else that a request touches.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::IntGauge;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

use super::error::Refusal;
use super::listener::{Accepted, Listener, Shared as SharedListener};
use super::pulse::Pulses;
use super::watch::{Late, Refuse, Scratch, Watch, Watched, WatchedStream};
use super::{Address, Caller, Proxy, Shared};
use crate::identity::Inspector;
use crate::tasks::{Failed, Tasks};

/// How often a worker looks for what rests too long.
const LOOK: Duration = Duration::from_secs(1);

/// How long accepting pauses when the process has no file descriptor left.
const PAUSE: Duration = Duration::from_millis(50);

/// So much of a request that is turned away is read.
const TURNED_AWAY: u64 = 64 * 1024;

/// As many fields hyper parses without allocating for them.
const HYPERS_FIELDS: usize = 100;

/// A worker's thread.
pub struct Worker(JoinHandle<()>);

/// What a worker is started with.
pub struct WorkerSettings {
    pub number: usize,
    pub pulses: Arc<Pulses>,
    pub shared: Shared,
    pub listeners: Arc<Vec<Listener>>,
    /// Client connections, over all workers.
    pub connections: Arc<AtomicUsize>,
    /// Turns true when nothing more is to be accepted.
    pub draining: watch::Receiver<bool>,
    /// How long what is under way may take from then on.
    pub drain: Duration,
}

impl Worker {
    /// Starts the thread. If it ends before it is told to, `tasks` hears of it.
    pub fn start(settings: WorkerSettings, tasks: Tasks) -> io::Result<Self> {
        let name = format!("worker {}", settings.number);
        let draining = settings.draining.clone();
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
            let end = EndOfThread { name, draining, tasks };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => {
                    LocalSet::new().block_on(&runtime, run(settings));
                    // A resolver that does not answer must not hold the end up.
                    runtime.shutdown_background();
                }
                Err(error) => tracing::error!(%error, "a worker has no runtime"),
            }
            drop(end);
        })?;
        Ok(Self(thread))
    }

    /// Waits for the thread's end. Blocks.
    pub fn join(self) {
        // A panic has been reported by the thread's end already.
        let _ = self.0.join();
    }
}

/// Reports a thread that ends, or panics, though it was not told to drain.
struct EndOfThread {
    name: String,
    draining: watch::Receiver<bool>,
    tasks: Tasks,
}

impl Drop for EndOfThread {
    fn drop(&mut self) {
        if !*self.draining.borrow() {
            let how = if std::thread::panicking() { "it panicked" } else { "it returned" };
            self.tasks.fail(Failed { name: std::mem::take(&mut self.name), how });
        }
    }
}

/// One worker's own things.
struct Desk {
    proxy: Proxy,
    inspector: RefCell<Inspector>,
    connections: Arc<AtomicUsize>,
    /// Those of this worker, for the look at what rests too long.
    watches: RefCell<Vec<Weak<Watch>>>,
    /// Told when one of them ends.
    ended: Notify,
    draining: watch::Receiver<bool>,
    server: http1::Builder,
    scratch: Scratch,
    refuse: Refuse,
}

async fn run(settings: WorkerSettings) {
    let limits = settings.shared.limits.clone();
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        // Told by the watches, which can tell a slow head from a connection that rests.
        .header_read_timeout(None)
        .max_buf_size((2 * limits.header_bytes + limits.target_bytes).max(64 * 1024));
    if limits.header_count > HYPERS_FIELDS {
        server.max_headers(limits.header_count);
    }
    let desk = Rc::new_cyclic(|desk: &Weak<Desk>| Desk {
        proxy: Proxy::new(settings.shared.clone()),
        inspector: RefCell::new(Inspector::new()),
        connections: settings.connections.clone(),
        watches: RefCell::default(),
        ended: Notify::new(),
        draining: settings.draining.clone(),
        server,
        scratch: Scratch::default(),
        refuse: refuse(desk.clone()),
    });
    let WorkerSettings { number, pulses, listeners, shared, mut draining, drain, .. } = settings;
    let mut accepting = JoinSet::new();
    for listener in listeners.iter() {
        match listener.share() {
            Ok(socket) => {
                let gauge = shared.metrics.connections.with_label_values(&[&listener.address.to_string()]);
                accepting.spawn_local(accept(desk.clone(), socket, gauge));
            }
            Err(error) => return tracing::error!(%error, "a worker cannot share a listener"),
        }
    }
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = look.tick() => {
                pulses.beat(number);
                desk.look();
            }
            _ = draining.wait_for(|draining| *draining) => break,
            // The drain ends the accepting, and may be heard of here first.
            Some(_) = accepting.join_next() => match *desk.draining.borrow() {
                true => break,
                // A listener that is not accepted from would be worse than a worker that ends.
                false => return tracing::error!("a worker does not accept any more"),
            },
        }
    }
    drop(listeners);
    while accepting.join_next().await.is_some() {}
    let deadline = Instant::now() + drain;
    while desk.has_connections() && Instant::now() < deadline {
        tokio::select! {
            _ = look.tick() => desk.look(),
            () = desk.ended.notified() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }
}

/// Says in our own words what hyper would say in a bare status line.
fn refuse(desk: Weak<Desk>) -> Refuse {
    Rc::new(move |status| {
        let refusal = match status {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Refusal::HeadersTooLarge,
            StatusCode::URI_TOO_LONG => Refusal::TargetTooLong,
            _ => Refusal::Framing,
        };
        desk.upgrade().map(|desk| desk.refused_unread(refusal)).unwrap_or_default()
    })
}

async fn accept(desk: Rc<Desk>, listener: SharedListener, gauge: IntGauge) {
    let mut draining = desk.draining.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            // Whoever had connected by then has been accepted: the branch above comes first.
            _ = draining.wait_for(|draining| *draining) => return,
        };
        match accepted {
            Ok(accepted) => desk.clone().take(accepted, gauge.clone()),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Desk {
    /// Serves a connection, if there is room for it.
    fn take(self: Rc<Self>, accepted: Accepted, gauge: IntGauge) {
        let (peer, port) = accepted.peer(&mut self.inspector.borrow_mut());
        let caller = Caller { peer, port };
        let place = Place::take(&self, gauge);
        match accepted {
            Accepted::Tcp(stream, _) => {
                // A socket that has gone already fails at its first read.
                let _ = stream.set_nodelay(true);
                self.start(stream, caller, place);
            }
            Accepted::Unix(stream) => self.start(stream, caller, place),
        }
    }

    fn start<S>(self: Rc<Self>, stream: S, caller: Caller, place: Option<Place>)
    where
        S: AsFd + AsyncRead + AsyncWrite + Unpin + 'static,
    {
        match place {
            Some(place) => tokio::task::spawn_local(self.serve(stream, caller, place)),
            None => tokio::task::spawn_local(self.turn_away(stream)),
        };
    }

    async fn serve<S>(self: Rc<Self>, stream: S, caller: Caller, _place: Place)
    where
        S: AsFd + AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let watch = Watch::new();
        self.watches.borrow_mut().push(Rc::downgrade(&watch));
        let caller = Rc::new(caller);
        let service = service_fn(|request: Request<Incoming>| {
            let (desk, caller, busy) = (self.clone(), caller.clone(), watch.busy());
            async move {
                let response = desk.proxy.handle(&caller, request).await;
                Ok::<_, Infallible>(response.map(|body| Watched::new(body, busy)))
            }
        });
        let refuse = self.refuse.clone();
        let stream = TokioIo::new(WatchedStream::new(stream, watch.clone(), self.scratch.clone(), refuse));
        let mut connection = pin!(self.server.serve_connection(stream, service));
        let mut draining = self.draining.clone();
        let mut told = false;
        let ended = loop {
            tokio::select! {
                ended = connection.as_mut() => break ended,
                late = watch.closed() => match late {
                    // It may have begun a request this very moment, which is then answered.
                    Late::Idle => connection.as_mut().graceful_shutdown(),
                    Late::Head | Late::Stalled => break Ok(()),
                },
                _ = draining.wait_for(|draining| *draining), if !told => {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a client connection failed");
        }
    }

    /// Says that there is no room, without reading anything.
    async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(self: Rc<Self>, mut stream: S) {
        let text = self.refused_unread(Refusal::Overloaded);
        // Its request is read and thrown away: closing on it would take the refusal back. A client that takes its time
        // does without.
        let answering = async {
            stream.write_all(&text).await?;
            stream.shutdown().await?;
            tokio::io::copy(&mut (&mut stream).take(TURNED_AWAY), &mut tokio::io::sink()).await
        };
        let _ = tokio::time::timeout(LOOK, answering).await;
    }

    /// A refusal of what was never read as a request, as it is written; counted here.
    fn refused_unread(&self, refusal: Refusal) -> Vec<u8> {
        let response = self.proxy.refuse_unread(refusal);
        let mut text =
            format!("HTTP/1.1 {}\r\ncontent-length: {}\r\n", response.status(), response.body().len()).into_bytes();
        for (name, value) in response.headers() {
            text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        text.extend_from_slice(b"\r\n");
        text.extend_from_slice(response.body());
        text
    }

    fn has_connections(&self) -> bool {
        self.watches.borrow().iter().any(|watch| watch.strong_count() > 0)
    }

    /// Closes the connections that rest too long, and lets the pool do the same.
    fn look(&self) {
        let limits = &self.proxy.shared.limits;
        let now = Instant::now();
        self.watches.borrow_mut().retain(|watch| {
            let Some(watch) = watch.upgrade() else { return false };
            if let Some(late) = watch.look(now, limits) {
                if late == Late::Head {
                    self.proxy.shared.metrics.refused.count(&Refusal::RequestTimeout);
                }
                watch.close(late);
            }
            true
        });
        self.proxy.sweep();
    }
}

/// A connection's place under the limit; given back when dropped.
struct Place {
    desk: Rc<Desk>,
    gauge: IntGauge,
}

impl Place {
    fn take(desk: &Rc<Desk>, gauge: IntGauge) -> Option<Self> {
        let most = desk.proxy.shared.limits.connections;
        let taken = desk.connections.fetch_add(1, Ordering::Relaxed);
        if taken >= most {
            desk.connections.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        gauge.inc();
        Some(Self { desk: desk.clone(), gauge })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gauge.dec();
        self.desk.connections.fetch_sub(1, Ordering::Relaxed);
        self.desk.ended.notify_one();
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
