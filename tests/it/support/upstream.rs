//! An API under TLS that writes down every request, and answers as the path says or as the test tells it to.
//!
//! | path ends in | answer |
//! |---|---|
//! | `/status/204` | that status, without a body |
//! | `/chunked` | `ok`, of a length that is not told |
//! | `/bytes/1000` | as many bytes of noise |
//! | else | `ok` |

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, Version};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Gate;
use super::body::{self, Payload};
use super::certificate::Certificate;

pub struct Upstream {
    pub address: SocketAddr,
    pub certificate: Certificate,
    state: Arc<State>,
    serving: JoinSet<()>,
}

/// One request, as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    /// The number of its connection, from 1.
    pub connection: usize,
    pub method: String,
    /// Path and query.
    pub target: String,
    /// `:authority`, where the protocol has it.
    pub authority: Option<String>,
    pub version: Version,
    pub headers: Vec<(String, String)>,
    pub body: Received,
}

/// What has come of a request's body.
#[derive(Clone, Default, Debug)]
pub struct Received {
    pub bytes: usize,
    /// SHA-256, once the body has ended as it should.
    pub complete: Option<String>,
    pub failed: bool,
}

/// What a request is answered with.
pub struct Reply {
    status: u16,
    fields: Vec<(HeaderName, HeaderValue)>,
    payload: Payload,
    gate: Option<Gate>,
    /// Before the request's body has ended.
    early: bool,
}

type Script = Box<dyn Fn(&Seen) -> Reply + Send + Sync>;

struct State {
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    script: Mutex<Script>,
    /// Readers of bodies whose requests are answered already.
    reading: Mutex<JoinSet<()>>,
    open: Mutex<JoinSet<()>>,
}

impl Upstream {
    pub async fn http1() -> Self {
        Self::with("127.0.0.1", Certificate::new(&["127.0.0.1"], &["http/1.1"])).await
    }

    pub async fn http2() -> Self {
        Self::with("127.0.0.1", Certificate::new(&["127.0.0.1"], &["h2"])).await
    }

    /// On another loopback address.
    pub async fn on(ip: &str) -> Self {
        Self::with(ip, Certificate::new(&[ip], &["http/1.1"])).await
    }

    pub async fn with(ip: &str, certificate: Certificate) -> Self {
        let ip: Ipv4Addr = ip.parse().expect("an address");
        let listener = TcpListener::bind((ip, 0)).await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            script: Mutex::new(Box::new(as_the_path_says)),
            reading: Mutex::default(),
            open: Mutex::default(),
        });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, TlsAcceptor::from(certificate.server.clone()), state.clone()));
        Self { address, certificate, state, serving }
    }

    /// From now on answers so.
    pub fn answers(&self, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) {
        *lock(&self.state.script) = Box::new(script);
    }

    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.state.seen).clone()
    }

    pub fn count(&self) -> usize {
        lock(&self.state.seen).len()
    }

    /// The last request.
    pub fn last(&self) -> Seen {
        lock(&self.state.seen).last().cloned().expect("a request")
    }

    /// How many connections have been made to it, TLS or not.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Accepts nothing more: whoever connects is refused.
    pub async fn stop(mut self) {
        self.serving.shutdown().await;
    }

    /// Closes every connection, as an upstream does with those that rest for long.
    pub async fn close_connections(&self) {
        let mut open = std::mem::take(&mut *lock(&self.state.open));
        open.shutdown().await;
    }
}

impl Seen {
    /// Every value of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str()).collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self { status, fields: Vec::new(), payload: Payload::of(""), gate: None, early: false }
    }

    pub fn ok(text: impl Into<Bytes>) -> Self {
        Self::new(200).body(Payload::of(text))
    }

    pub fn body(self, payload: Payload) -> Self {
        Self { payload, ..self }
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value")));
        self
    }

    /// Not before the gate is open.
    pub fn behind(self, gate: &Gate) -> Self {
        Self { gate: Some(gate.clone()), ..self }
    }

    /// Without waiting for the request's body.
    pub fn early(self) -> Self {
        Self { early: true, ..self }
    }
}

pub fn as_the_path_says(seen: &Seen) -> Reply {
    let path = seen.target.split('?').next().unwrap_or_default();
    match path.rsplit('/').collect::<Vec<_>>()[..] {
        [status, "status", ..] => Reply::new(status.parse().expect("a status")),
        [length, "bytes", ..] => Reply::ok(body::noise(length.parse().expect("a length"))),
        ["chunked", ..] => Reply::new(200).body(Payload::chunked("ok")),
        _ => Reply::ok("ok"),
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<State>) {
    loop {
        let (tcp, _) = listener.accept().await.expect("accepts");
        tcp.set_nodelay(true).expect("a socket");
        let number = state.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let (acceptor, own) = (acceptor.clone(), state.clone());
        lock(&state.open).spawn(async move {
            match acceptor.accept(tcp).into_fallible().await {
                Ok(tls) => connection(tls, number, own).await,
                // What is still to be read would turn the end into a reset, and take the alert away.
                Err((_, mut tcp)) => while matches!(tcp.read(&mut [0; 1024]).await, Ok(1..)) {},
            }
        });
    }
}

async fn connection(tls: TlsStream<TcpStream>, number: usize, state: Arc<State>) {
    let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(answer(number, request, state).await) }
    });
    let io = TokioIo::new(tls);
    // What goes wrong is seen by the other side, or meant.
    if is_http2 {
        let _ = http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(20_000)
            .serve_connection(io, service)
            .await;
    } else {
        let _ = http1::Builder::new().serve_connection(io, service).await;
    }
}

async fn answer(number: usize, request: Request<Incoming>, state: Arc<State>) -> Response<Payload> {
    let (parts, incoming) = request.into_parts();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let seen = Seen {
        at: Instant::now(),
        connection: number,
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().map_or(String::new(), ToString::to_string),
        authority: parts.uri.authority().map(ToString::to_string),
        version: parts.version,
        headers: parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body: Received::default(),
    };
    let reply = (lock(&state.script))(&seen);
    let place = {
        let mut all = lock(&state.seen);
        all.push(seen);
        all.len() - 1
    };
    let reading = read(incoming, place, state.clone());
    if reply.early {
        lock(&state.reading).spawn(reading);
    } else {
        reading.await;
    }
    if let Some(gate) = &reply.gate {
        gate.passed().await;
    }
    let mut response = Response::new(reply.payload);
    *response.status_mut() = reply.status.try_into().expect("a status");
    for (name, value) in reply.fields {
        response.headers_mut().append(name, value);
    }
    response
}

/// Reads a request's body to its end, and writes down how far it came.
async fn read(mut incoming: Incoming, place: usize, state: Arc<State>) {
    let mut digest = digest::Context::new(&digest::SHA256);
    loop {
        let frame = incoming.frame().await;
        let mut all = lock(&state.seen);
        let received = &mut all[place].body;
        match frame {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    digest.update(&data);
                    received.bytes += data.len();
                }
            }
            Some(Err(_)) => {
                received.failed = true;
                return;
            }
            None => {
                received.complete = Some(body::hex(digest.finish().as_ref()));
                return;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
