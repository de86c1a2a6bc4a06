//! One client's connection, from its first byte to its last: HTTP/1.1, or HTTP/2 by prior knowledge (RFC 9113, section 3.3).
//!
//! ```text
//!  first bytes ─▶ HTTP/1.1 ─▶ Proxy::handle, one after the other ─▶ (101: tunnel)
//!             └─▶ HTTP/2   ─▶ Proxy::handle, many at once
//! ```

use std::cell::RefCell;
use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use hyper::body::{Body, Incoming};
use hyper::rt::{Read, Write};
use hyper::server::conn::http2;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::{Instant, timeout};

use super::body::{ClientBody, LINGER, ResponseBody};
use super::connect::{Inside, Onward};
use super::executor::LocalExecutor;
use super::h1::{self, Answering, Asked, Date, Inbound};
use super::head::Head;
use super::message::Response;
use super::secured::Arrival;
use super::stream::{Socket, Spoken, WatchedStream};
use super::watch::{Late, Watch, Watched};
use super::worker::{Desk, Stay};
use super::{Caller, Limits};
use crate::clock::Clock;

/// Requests at a time on one connection of HTTP/2.
const STREAMS: u32 = 100;

/// What a client of HTTP/2 may send ahead of what is read: of one request, and of all of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What is kept of an answer that its client has made no room for.
const SEND_BUFFER: usize = 64 * 1024;

/// A client that had connected before the drain may still say what it wants.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A client that was refused has heard so by then.
const HEARING: Duration = Duration::from_secs(1);

/// How clients are served, as the limits say.
pub struct Server {
    http2: http2::Builder<LocalExecutor>,
    date: Date,
}

impl Server {
    pub fn new(limits: &Limits, clock: Arc<dyn Clock>) -> Self {
        let mut http2 = http2::Builder::new(LocalExecutor);
        let header_list = limits.header_bytes + limits.target_bytes;
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(u32::try_from(header_list).unwrap_or(u32::MAX))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .enable_connect_protocol();
        Self { http2, date: Date::new(clock) }
    }
}

impl Desk {
    /// Serves a connection to its end.
    pub(super) async fn serve<S: Socket>(self: Rc<Self>, stream: S, caller: Caller, watch: Rc<Watch>, _stay: Stay) {
        match caller.tls.clone() {
            None => self.speak(stream, caller, watch).await,
            // Apart, so that a plain connection does not keep room for it.
            Some(arrival) => Box::pin(self.secure(stream, arrival, caller, watch)).await,
        }
    }

    /// Serves a connection under TLS, once both have shaken hands.
    async fn secure<S: Socket>(self: Rc<Self>, stream: S, arrival: Rc<Arrival>, caller: Caller, watch: Rc<Watch>) {
        let shared = &self.proxy.shared;
        let shaking = arrival.shake_hands(Box::new(stream), shared.limits.header_timeout, &*shared.clock);
        let shaken = until_cut_off(&watch, pin!(shaking)).await;
        if let Some(Some(ended)) = shaken {
            self.speak(ended, caller, watch).await;
        }
    }

    /// Serves what is spoken on a stream: a socket, or what is inside of a tunnel.
    async fn speak<S: Socket>(self: Rc<Self>, stream: S, caller: Caller, watch: Rc<Watch>) {
        let mut stream = WatchedStream::new(stream, watch.clone());
        let spoken = self.first_words(&mut stream, &watch).await;
        match spoken {
            None => {}
            Some(Ok(Spoken::Http1)) => self.serve_http1(stream, Rc::new(caller), watch).await,
            // Apart, so that a connection of HTTP/1.1 does not keep room for it.
            Some(Ok(Spoken::Http2)) => Box::pin(self.serve_http2(stream, Rc::new(caller), watch)).await,
            Some(Err(error)) => tracing::debug!(%error, "a client connection failed"),
        }
    }

    /// Waits until it is clear what the client speaks; `None` if it has nothing to say in time.
    async fn first_words<S: Socket>(
        &self,
        stream: &mut WatchedStream<S>,
        watch: &Watch,
    ) -> Option<std::io::Result<Spoken>> {
        let mut draining = self.draining.clone();
        let mut until = None;
        let mut spoken = pin!(stream.spoken());
        loop {
            tokio::select! {
                biased;
                spoken = &mut spoken => return Some(spoken),
                late = watch.closed() => match late {
                    // It is told so.
                    Late::Head => return Some(Ok(Spoken::Http1)),
                    Late::Idle | Late::Stalled | Late::Evicted | Late::Outdated => return None,
                },
                _ = draining.wait_for(|draining| *draining), if until.is_none() => {
                    until = Some(Instant::now() + LAST_WORDS);
                }
                () = until_then(until), if until.is_some() => return None,
            }
        }
    }

    /// Serves requests until one side has enough, or the connection is cut off.
    async fn serve_http1<S: Socket>(self: Rc<Self>, stream: WatchedStream<S>, caller: Rc<Caller>, watch: Rc<Watch>) {
        if *self.draining.borrow() {
            watch.drain();
        }
        let link = Rc::new(RefCell::new(Inbound::new(Box::new(stream), self.buffers.clone())));
        let served = until_cut_off(&watch, pin!(self.converse(&link, &caller, &watch))).await;
        let Some(Some(onward)) = served else { return };
        let Some(link) = Rc::into_inner(link) else { return };
        let (io, early) = link.into_inner().into_parts();
        match onward {
            Onward::Tunnel(tunnel) => {
                let _busy = watch.busy();
                // Apart, as what follows is.
                until_cut_off(&watch, Box::pin(tunnel.run(&self.proxy.rounds, io, early)).as_mut()).await;
            }
            // Apart, so that a connection that is none of these does not keep room for it.
            Onward::Inside(inside) => Box::pin(self.look_into(inside, io, early, &caller, watch)).await,
        }
    }

    /// Serves the requests inside of a tunnel.
    pub(super) async fn look_into(
        self: Rc<Self>,
        inside: Inside,
        io: Box<dyn Socket>,
        early: Bytes,
        caller: &Caller,
        watch: Rc<Watch>,
    ) {
        let limit = self.proxy.shared.limits.header_timeout;
        let accepting = timeout(limit, inside.accept(io, early));
        let Some(accepted) = until_cut_off(&watch, pin!(accepting)).await else { return };
        let (ended, opened, _place) = match accepted {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => return tracing::debug!(%error, "a tunnel's handshake failed"),
            Err(_) => return tracing::debug!("a tunnel's handshake took too long"),
        };
        // What has come so far was no request: now it rests.
        drop(watch.busy());
        let Caller { peer, port, tls, .. } = caller;
        let caller = Caller { peer: peer.clone(), port: *port, inside: Some(opened), tls: tls.clone() };
        let served: Pin<Box<dyn Future<Output = ()>>> = Box::pin(self.speak(ended, caller, watch));
        served.await;
    }

    /// One request after the other. Returns the tunnel that the connection turns into, if it does.
    async fn converse(&self, link: &Rc<RefCell<Inbound>>, caller: &Caller, watch: &Rc<Watch>) -> Option<Onward> {
        let limits = &self.proxy.shared.limits;
        loop {
            let request = match poll_fn(|context| link.borrow_mut().poll_head(watch, limits, context)).await {
                Ok(Some(request)) => request,
                Ok(None) => return None,
                Err(refusal) => {
                    let busy = watch.busy();
                    let text = self.refused_unread(refusal);
                    let mut rest = &*text;
                    // A client that does not hear it has gone.
                    let _ = poll_fn(|context| link.borrow_mut().poll_say(&mut rest, context)).await;
                    drop(busy);
                    self.linger(link, watch).await;
                    return None;
                }
            };
            let busy = watch.busy();
            let asked = Asked::of(&request);
            let (response, tunnel) = self.answer(link, caller, request).await?;
            // A refusal comes at once, and nobody reads what is still on its way to it.
            let ends = watch.is_told_to_end() || (response.body.is_own() && !link.borrow().is_told());
            let unfinished = watch.answers();
            let mut answering = Answering::new(response, asked, ends, &mut link.borrow_mut(), &self.server.date);
            match poll_fn(|context| answering.poll(link, context)).await {
                Ok(keeps) => {
                    unfinished.finish();
                    if tunnel.is_some() {
                        return tunnel;
                    }
                    drop((answering, busy));
                    let is_whole = link.borrow_mut().end();
                    if !keeps || !is_whole {
                        self.part(link, watch).await;
                        return None;
                    }
                }
                Err(broken) => {
                    tracing::debug!(?broken, "an answer broke off");
                    return None;
                }
            }
        }
    }

    /// The answer to one request; `None` when the client has gone before there was one.
    async fn answer(
        &self,
        link: &Rc<RefCell<Inbound>>,
        caller: &Caller,
        request: h1::Request,
    ) -> Option<(Response<ResponseBody>, Option<Onward>)> {
        let body = Inbound::begin(link, request.framing, request.waits);
        let (head, fields) = (request.head, request.fields);
        let mut answer = pin!(self.proxy.handle(caller, head, fields, ClientBody::Http1(body)));
        poll_fn(|context| match answer.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending if link.borrow_mut().is_gone(context) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Ends a connection of which nothing is expected any more.
    async fn part(&self, link: &Rc<RefCell<Inbound>>, watch: &Rc<Watch>) {
        if link.borrow().is_read() {
            // A client that has gone already is not told.
            let _ = poll_fn(|context| link.borrow_mut().poll_end(context)).await;
        } else {
            self.linger(link, watch).await;
        }
    }

    async fn linger(&self, link: &Rc<RefCell<Inbound>>, watch: &Rc<Watch>) {
        let longest = self.proxy.shared.limits.body_timeout.min(LINGER);
        let linger = || poll_fn(|context| link.borrow_mut().poll_linger(context));
        // Nobody else gets its room before it can have heard what it was told.
        let busy = watch.busy();
        if timeout(longest.min(HEARING), linger()).await.is_ok() {
            return;
        }
        drop(busy);
        let _ = timeout(longest.saturating_sub(HEARING), linger()).await;
    }

    async fn serve_http2<S: Socket>(self: Rc<Self>, stream: WatchedStream<S>, caller: Rc<Caller>, watch: Rc<Watch>) {
        let (desk, own) = (self.clone(), watch.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (desk, caller, busy) = (desk.clone(), caller.clone(), own.busy());
            // hyper and the runtime move the future of a request several times, which is cheaper when it stands elsewhere.
            Box::pin(async move {
                if request.method() == Method::CONNECT {
                    return Ok(Box::pin(desk.connect_http2(request, caller, busy)).await);
                }
                let (parts, body) = request.into_parts();
                let head = Head { method: parts.method, uri: parts.uri, version: parts.version };
                // Only CONNECT asks for another protocol here.
                let (response, _) =
                    desk.proxy.handle(&caller, head, parts.headers.into(), ClientBody::Http2(body)).await;
                Ok::<_, Infallible>(http::Response::from(response.map(|body| Watched::new(body, busy))))
            })
        });
        let mut connection = self.server.http2.serve_connection(TokioIo::new(stream), service);
        if let Some(Err(error)) = self.attend(&mut connection, &watch).await {
            tracing::debug!(%error, "a client connection failed");
            if watch.is_flooded() {
                self.proxy.count_http2_abuse();
            }
        }
    }

    /// Polls a connection to its end, and tells it when it is to come to one. `None`: it was cut off.
    async fn attend<C: Graceful>(&self, connection: &mut C, watch: &Watch) -> Option<C::Output> {
        let mut draining = self.draining.clone();
        let mut told = false;
        loop {
            tokio::select! {
                ended = &mut *connection => return Some(ended),
                late = watch.closed() => match late {
                    Late::Idle | Late::Outdated => Pin::new(&mut *connection).graceful_shutdown(),
                    // It may have begun a request after it was chosen, which is answered.
                    Late::Evicted if watch.is_busy() => Pin::new(&mut *connection).graceful_shutdown(),
                    // h2 waits for heads itself.
                    Late::Head => {}
                    Late::Stalled | Late::Evicted => return None,
                },
                _ = draining.wait_for(|draining| *draining), if !told => {
                    told = true;
                    Pin::new(&mut *connection).graceful_shutdown();
                }
            }
        }
    }
}

/// hyper's connections, which can be told to come to an end.
trait Graceful: Future<Output = Result<(), hyper::Error>> + Unpin {
    fn graceful_shutdown(self: Pin<&mut Self>);
}

impl<I, B, S> Graceful for http2::Connection<I, S, LocalExecutor>
where
    S: HttpService<Incoming, ResBody = B> + Unpin,
    S::Future: 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    I: Read + Write + Unpin,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        http2::Connection::graceful_shutdown(self);
    }
}

/// What comes of it; `None` when the connection is to end without another word. It stays where its caller has pinned it: a
/// future that takes another by value keeps room for it twice.
fn until_cut_off<T>(watch: &Watch, mut serving: Pin<&mut impl Future<Output = T>>) -> impl Future<Output = Option<T>> {
    poll_fn(move |context| {
        watch.attend(context);
        match serving.as_mut().poll(context) {
            Poll::Ready(served) => Poll::Ready(Some(served)),
            Poll::Pending if watch.is_cut_off() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
}

async fn until_then(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
