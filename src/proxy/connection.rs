//! One client's connection, from its first byte to its last: HTTP/1.1, or HTTP/2 by prior knowledge (RFC 9113, section 3.3).
//!
//! ```text
//!  first bytes ─▶ HTTP/1.1 ─▶ Proxy::handle ─▶ (101: tunnel)
//!             └─▶ HTTP/2   ─▶ Proxy::handle, many at once
//! ```

use std::cell::RefCell;
use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use http::Request;
use hyper::body::{Body, Incoming};
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;

use super::executor::LocalExecutor;
use super::stream::{Socket, Spoken, WatchedStream};
use super::watch::{Late, Watch, Watched};
use super::worker::{Desk, Stay};
use super::{Caller, Limits};

/// As many fields hyper parses without allocating for them.
const HYPERS_FIELDS: usize = 100;

/// Room in a head beside what the limits count.
const BETWEEN_FIELDS: usize = 8 * 1024;

/// Requests at a time on one connection of HTTP/2.
const STREAMS: u32 = 100;

/// What a client of HTTP/2 may send ahead of what is read: of one request, and of all of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What is kept of an answer that its client has made no room for.
const SEND_BUFFER: usize = 64 * 1024;

/// A client that had connected before the drain may still say what it wants.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How clients are served, as the limits say.
pub struct Server {
    http1: http1::Builder,
    http2: http2::Builder<LocalExecutor>,
}

impl Server {
    pub fn new(limits: &Limits) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            // Told by the watches, which can tell a slow head from a connection that rests.
            .header_read_timeout(None)
            // A head and what stands between its fields; and as much of an answer that is not taken.
            .max_buf_size(limits.header_bytes + limits.target_bytes + BETWEEN_FIELDS);
        if limits.header_count > HYPERS_FIELDS {
            http1.max_headers(limits.header_count);
        }
        let mut http2 = http2::Builder::new(LocalExecutor);
        let header_list = limits.header_bytes + limits.target_bytes;
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(u32::try_from(header_list).unwrap_or(u32::MAX))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER);
        Self { http1, http2 }
    }
}

impl Desk {
    /// Serves a connection to its end.
    pub(super) async fn serve<S: Socket>(self: Rc<Self>, stream: S, caller: Caller, watch: Rc<Watch>, _stay: Stay) {
        let mut stream = WatchedStream::new(stream, watch.clone(), self.scratch.clone(), self.refuse.clone());
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
                    // The stream answers that itself.
                    Late::Head => {}
                    Late::Idle | Late::Stalled | Late::Evicted => return None,
                },
                _ = draining.wait_for(|draining| *draining), if until.is_none() => {
                    until = Some(Instant::now() + LAST_WORDS);
                }
                () = until_then(until), if until.is_some() => return None,
            }
        }
    }

    async fn serve_http1<S: Socket>(&self, stream: WatchedStream<S>, caller: Rc<Caller>, watch: Rc<Watch>) {
        let tunnel = RefCell::new(None);
        let service = service_fn(|request: Request<Incoming>| {
            let (caller, busy, tunnel) = (caller.clone(), watch.busy(), &tunnel);
            async move {
                let (response, switched) = self.proxy.handle(&caller, request).await;
                if switched.is_some() {
                    tunnel.replace(switched);
                }
                Ok::<_, Infallible>(response.map(|body| Watched::new(body, busy)))
            }
        });
        let mut connection = self.server.http1.serve_connection(TokioIo::new(stream), service);
        match self.attend(&mut connection, &watch).await {
            Some(Ok(())) => {
                if let Some(tunnel) = tunnel.take() {
                    let _busy = watch.busy();
                    let parts = connection.into_parts();
                    tunnel.run(parts.io.into_inner(), parts.read_buf).await;
                }
            }
            Some(Err(error)) => tracing::debug!(%error, "a client connection failed"),
            None => {}
        }
    }

    async fn serve_http2<S: Socket>(self: Rc<Self>, stream: WatchedStream<S>, caller: Rc<Caller>, watch: Rc<Watch>) {
        let (desk, own) = (self.clone(), watch.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (desk, caller, busy) = (desk.clone(), caller.clone(), own.busy());
            async move {
                // Only HTTP/1.1 asks for another protocol here.
                let (response, _) = desk.proxy.handle(&caller, request).await;
                Ok::<_, Infallible>(response.map(|body| Watched::new(body, busy)))
            }
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
                    Late::Idle => Pin::new(&mut *connection).graceful_shutdown(),
                    // It may have begun a request after it was chosen, which is answered.
                    Late::Evicted if watch.is_busy() => Pin::new(&mut *connection).graceful_shutdown(),
                    // The stream answers that itself, when the connection reads on.
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

impl<I, B, S> Graceful for http1::Connection<I, S>
where
    S: HttpService<Incoming, ResBody = B> + Unpin,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    I: Read + Write + Unpin,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        http1::Connection::graceful_shutdown(self);
    }
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

async fn until_then(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
