//! A worker: one thread with a runtime of its own, its own connections, pools and buffers. Workers share the listening
//! sockets, the table of routes and the tokens' slots, and nothing else that a request touches.

use std::cell::{Cell as StdCell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus::IntGauge;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

use super::connection::Server;
use super::cut::Cut;
use super::error::Refusal;
use super::executor::run as run_local;
use super::h1::Buffers;
use super::listener::{Accepted, Listener, Shared as SharedListener};
use super::places::{Full, Outside, Place, Whom};
use super::pulse::Pulses;
use super::rounds::ROUND;
use super::secured::{Arrival, Secured};
use super::stream::Socket;
use super::watch::{Late, Watch};
use super::{Address, Caller, Proxy, Shared};
use crate::barrier::{Order, Orders};
use crate::identity::Inspector;
use crate::tasks::{Failed, Tasks};
use crate::usage::HAND_OVER;

/// How often a worker looks for what rests too long.
const LOOK: Duration = ROUND;

/// How long accepting pauses when the process has no file descriptor left.
const PAUSE: Duration = Duration::from_millis(50);

/// So much of a request that is turned away is read.
const TURNED_AWAY: u64 = 64 * 1024;

/// So much the kernel keeps for a client beyond what is on its way: one that does not read is soon seen as such.
const UNSENT: u32 = 128 * 1024;

/// Of so many connections one makes room.
const SAMPLE: usize = 256;

/// A worker's thread.
pub struct Worker(JoinHandle<()>);

/// What a worker is started with.
pub struct WorkerSettings {
    pub number: usize,
    pub pulses: Arc<Pulses>,
    pub shared: Shared,
    pub listeners: Arc<Vec<Listener>>,
    /// What is to be let go of.
    pub orders: Orders<Cut>,
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
pub(super) struct Desk {
    pub proxy: Proxy,
    inspector: RefCell<Inspector>,
    /// The connections of this worker, for the look at what rests too long.
    seats: RefCell<Vec<Seat>>,
    /// Where in them room was looked for last.
    looked_for_room: StdCell<usize>,
    /// Told when one of them ends.
    ended: Notify,
    pub draining: watch::Receiver<bool>,
    pub server: Server,
    pub buffers: Buffers,
}

/// A connection as the look finds it.
struct Seat {
    watch: Weak<Watch>,
    whom: Whom,
    /// Where it came in under TLS.
    tls: Option<Rc<Arrival>>,
}

impl Seat {
    fn is_outdated(&self, watch: &Watch, now: Duration) -> bool {
        self.tls.as_ref().is_some_and(|arrival| !watch.is_told_to_end() && arrival.is_outdated(now))
    }
}

async fn run(settings: WorkerSettings) {
    let limits = settings.shared.limits.clone();
    let server = Server::new(&limits, settings.shared.clock.clone());
    let buffers = Buffers::default();
    let desk = Rc::new(Desk {
        proxy: Proxy::new(settings.shared.clone(), buffers.clone()),
        inspector: RefCell::new(Inspector::new()),
        seats: RefCell::default(),
        looked_for_room: StdCell::new(0),
        ended: Notify::new(),
        draining: settings.draining.clone(),
        server,
        buffers,
    });
    let WorkerSettings { number, pulses, listeners, mut orders, shared, mut draining, drain, .. } = settings;
    let mut accepting = JoinSet::new();
    for listener in listeners.iter() {
        match listener.share() {
            Ok(socket) => {
                let gauge = shared.metrics.connections.with_label_values(&[&listener.address.to_string()]);
                let is_secured = matches!(listener.address, Address::Tls(_));
                let secured = shared.secured.clone().filter(|_| is_secured);
                if is_secured && secured.is_none() {
                    return tracing::error!("a listener under TLS has no certificate");
                }
                accepting.spawn_local(accept(desk.clone(), socket, secured, gauge));
            }
            Err(error) => return tracing::error!(%error, "a worker cannot share a listener"),
        }
    }
    let mut look = tokio::time::interval(LOOK);
    let mut hand_over = tokio::time::interval(HAND_OVER);
    loop {
        tokio::select! {
            _ = look.tick() => {
                pulses.beat(number);
                desk.look();
            }
            _ = hand_over.tick() => desk.proxy.hand_over_uses(),
            order = orders.next() => desk.let_go(order),
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
    desk.drain();
    let deadline = Instant::now() + drain;
    while desk.has_connections() && Instant::now() < deadline {
        tokio::select! {
            _ = look.tick() => desk.look(),
            _ = hand_over.tick() => desk.proxy.hand_over_uses(),
            order = orders.next() => desk.let_go(order),
            () = desk.ended.notified() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }
}

/// `secured`: where the listener is under TLS.
async fn accept(desk: Rc<Desk>, listener: SharedListener, secured: Option<Arc<Secured>>, gauge: IntGauge) {
    let mut draining = desk.draining.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            // Whoever had connected by then has been accepted: the branch above comes first.
            _ = draining.wait_for(|draining| *draining) => return,
        };
        match accepted {
            Ok(accepted) => {
                desk.clone().take(accepted, secured.as_ref(), gauge.clone());
                // Whoever comes in does so one at a time between the requests of those who are there.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Desk {
    /// Serves a connection, if there is room for it.
    fn take(self: Rc<Self>, accepted: Accepted, secured: Option<&Arc<Secured>>, gauge: IntGauge) {
        let with_cgroup = self.proxy.table().0.clients.have_cgroups();
        let (peer, port) = accepted.peer(&mut self.inspector.borrow_mut(), with_cgroup);
        let tls = secured.map(|secured| Rc::new(Arrival::new(secured.clone(), accepted.from(), accepted.at())));
        let caller = Caller { peer, port, inside: None, tls };
        match accepted {
            Accepted::Tcp(stream, _) => {
                // A socket that has gone already fails at its first read.
                let _ = stream.set_nodelay(true);
                let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
                self.start(stream, caller, gauge);
            }
            Accepted::Unix(stream) => self.start(stream, caller, gauge),
        }
    }

    fn start<S: Socket>(self: Rc<Self>, stream: S, caller: Caller, gauge: IntGauge) {
        match self.proxy.shared.places.take(caller.whom()) {
            Ok(place) => run_local(self.settle(stream, caller, gauge, place)),
            Err(full) => match self.proxy.shared.places.at_the_door() {
                Some(outside) => run_local(self.wait_for_room(stream, caller, gauge, full, outside)),
                // Closed without a word, and counted.
                None => drop(self.refused_unread(Refusal::Overloaded)),
            },
        }
    }

    /// Serves a connection that has a place.
    fn settle<S: Socket>(
        self: Rc<Self>,
        stream: S,
        caller: Caller,
        gauge: IntGauge,
        place: Place,
    ) -> impl Future<Output = ()> {
        let watch = self.seat(&caller);
        let stay = Stay::new(&self, place, gauge);
        self.serve(stream, caller, watch, stay)
    }

    /// For a connection that has a place.
    pub(super) fn seat(&self, caller: &Caller) -> Rc<Watch> {
        let watch = Watch::new();
        self.seats.borrow_mut().push(Seat {
            watch: Rc::downgrade(&watch),
            whom: caller.whom(),
            tls: caller.tls.clone(),
        });
        watch
    }

    /// Whoever has rested longest makes room for who comes now. Where all are busy, there is none.
    async fn wait_for_room<S: Socket>(
        self: Rc<Self>,
        stream: S,
        caller: Caller,
        gauge: IntGauge,
        full: Full,
        outside: Outside,
    ) {
        if !self.make_room(full) {
            return self.turn_away(stream, &caller).await;
        }
        let deadline = Instant::now() + LOOK;
        let place = loop {
            match self.proxy.shared.places.take(caller.whom()) {
                Ok(place) => break place,
                Err(_) if Instant::now() >= deadline => return self.turn_away(stream, &caller).await,
                // It may come free in another worker, whose waiter is woken instead: looked at again before long.
                Err(_) => {
                    let _ = tokio::time::timeout(PAUSE, self.proxy.shared.places.freed()).await;
                }
            }
        };
        drop(outside);
        self.settle(stream, caller, gauge, place).await;
    }

    /// Lets go of the one that has rested longest among some, beginning where the last look for room ended: to look at all of
    /// them for each newcomer would cost those who are served.
    fn make_room(&self, full: Full) -> bool {
        let seats = self.seats.borrow();
        if seats.is_empty() {
            return false;
        }
        let from = self.looked_for_room.get() % seats.len();
        self.looked_for_room.set(from + SAMPLE);
        let some = seats[from..].iter().chain(&seats[..from]).take(SAMPLE);
        let fitting = some.filter(|seat| match full {
            Full::All => true,
            Full::Of(whom) => seat.whom == whom,
        });
        let resting = fitting.filter_map(|seat| {
            let watch = seat.watch.upgrade()?;
            Some((watch.rests()?, watch))
        });
        let Some((_, watch)) = resting.min_by_key(|(rests, _)| *rests) else { return false };
        watch.close(Late::Evicted);
        self.proxy.shared.metrics.closed(Late::Evicted);
        true
    }

    /// Says that there is no room, without reading anything.
    async fn turn_away<S: Socket>(self: Rc<Self>, mut stream: S, caller: &Caller) {
        let text = self.refused_unread(Refusal::Overloaded);
        // Before both have shaken hands, there is nothing that the client could read.
        if caller.tls.is_some() {
            return;
        }
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
    pub(super) fn refused_unread(&self, refusal: Refusal) -> Vec<u8> {
        let response = self.proxy.refuse_unread(refusal);
        let mut text =
            format!("HTTP/1.1 {}\r\ncontent-length: {}\r\n", response.status, response.body.len()).into_bytes();
        for (name, value) in response.fields.iter() {
            text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        text.extend_from_slice(b"\r\n");
        text.extend_from_slice(&response.body);
        text
    }

    /// Has every connection end when what is under way on it is over.
    fn drain(&self) {
        self.seats.borrow().iter().filter_map(|seat| seat.watch.upgrade()).for_each(|watch| watch.drain());
    }

    fn let_go(&self, order: Order<Cut>) {
        self.proxy.let_go(&order.what);
        order.acknowledge();
    }

    fn has_connections(&self) -> bool {
        self.seats.borrow().iter().any(|seat| seat.watch.strong_count() > 0)
    }

    /// Closes the connections that rest too long, and lets the pool do the same.
    fn look(&self) {
        let limits = &self.proxy.shared.limits;
        let (now, wall) = (Instant::now(), self.proxy.shared.clock.now().wall);
        self.seats.borrow_mut().retain(|seat| {
            let Some(watch) = seat.watch.upgrade() else { return false };
            let late = watch.look(now, limits);
            if let Some(late) = late.or_else(|| seat.is_outdated(&watch, wall).then_some(Late::Outdated)) {
                watch.close(late);
                self.proxy.shared.metrics.closed(late);
            }
            true
        });
        self.proxy.sweep();
    }
}

/// A connection's stay with its worker.
pub(super) struct Stay {
    desk: Rc<Desk>,
    gauge: IntGauge,
    _place: Place,
}

impl Stay {
    fn new(desk: &Rc<Desk>, place: Place, gauge: IntGauge) -> Self {
        gauge.inc();
        Self { desk: desk.clone(), gauge, _place: place }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.gauge.dec();
        self.desk.ended.notify_one();
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Tls(address) => write!(f, "tls:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
