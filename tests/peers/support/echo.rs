//! An upstream that knows a plan of steps: it answers as the last segment of the path says, and writes down each request.
//!
//! | last segment | answer |
//! |---|---|
//! | `large`, `content` | noise, five mebibytes of it |
//! | `events`, or a body with `"stream": true` | events, each held back until the one before was acknowledged by `ack-1`, `ack-2`... |
//! | `sized` | to HEAD: 1234 bytes |
//! | `none` | 204 |
//! | `cached` | 304, if the client has it already |
//! | `redirect`, `redirect-path` | 302 to `landed` beside it: with a whole URL, or a path alone |
//! | else | [`ANSWER`] |
//!
//! The first segment is the run that a request belongs to: `/r7/get`.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::certificates::Certificates;

/// What any SDK can read.
pub const ANSWER: &str = r#"{"id":"ok","object":"list","data":[],"choices":[]}"#;

/// What HEAD tells the length of.
pub const SIZED: usize = 1_234;

/// How many events a stream has.
pub const EVENTS: u32 = 3;

const LARGE: usize = 5 * 1024 * 1024;

/// How long an event waits for the acknowledgement of the one before.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct Echo {
    pub address: SocketAddr,
    state: Arc<State>,
    _serving: JoinSet<()>,
}

/// One request, as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub run: u32,
    pub method: Method,
    /// Path and query, without the run.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

#[derive(Default)]
struct State {
    port: u16,
    large: Bytes,
    seen: Mutex<Vec<Seen>>,
    /// The last event that each run has acknowledged.
    acknowledged: Mutex<HashMap<u32, watch::Sender<u32>>>,
    /// Runs that got an event before they acknowledged the one before.
    late: Mutex<HashSet<u32>>,
    streams: Mutex<JoinSet<()>>,
}

impl Echo {
    /// Serves HTTP/1.1 and HTTP/2 over TLS.
    pub async fn start(certificates: &Certificates) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let large = super::noise(LARGE).into();
        let state = Arc::new(State { port: address.port(), large, ..State::default() });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, acceptor(certificates), state.clone()));
        Self { address, state, _serving: serving }
    }

    /// What it serves as `large`.
    pub fn large(&self) -> Bytes {
        self.state.large.clone()
    }

    /// The requests of a run, in their order.
    pub fn seen(&self, run: u32) -> Vec<Seen> {
        lock(&self.state.seen).iter().filter(|seen| seen.run == run).cloned().collect()
    }

    /// Whether a run did not show that it reads a stream while it comes.
    pub fn was_late(&self, run: u32) -> bool {
        lock(&self.state.late).contains(&run)
    }
}

fn acceptor(certificates: &Certificates) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(&certificates.certificate).expect("a PEM file");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_file(&certificates.key).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate and its key");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.expect("accepts");
        let (acceptor, state) = (acceptor.clone(), state.clone());
        connections.spawn(connection(tcp, acceptor, state));
    }
}

async fn connection(tcp: TcpStream, acceptor: TlsAcceptor, state: Arc<State>) {
    // Who does not trust us, or leaves, is judged by what it did not ask for.
    let Ok(tls) = acceptor.accept(tcp).await else { return };
    let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { answer(request, state).await }
    });
    let io = TokioIo::new(tls);
    if is_http2 {
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(io, service).await;
    }
}

/// An error drops the connection: there is no answer to half a request.
async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Payload>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let (run, rest) = target.trim_start_matches('/').split_once('/').unwrap_or_default();
    let run = run.strip_prefix('r').and_then(|number| number.parse().ok()).unwrap_or_default();
    let seen = Seen { run, method: head.method, target: format!("/{rest}"), headers: head.headers, body };
    lock(&state.seen).push(seen.clone());
    Ok(reply(&seen, &state))
}

fn reply(seen: &Seen, state: &Arc<State>) -> Response<Payload> {
    let path = seen.target.split('?').next().unwrap_or_default();
    let (parent, last) = path.rsplit_once('/').unwrap_or_default();
    let run = seen.run;
    let json = Response::builder().header("content-type", "application/json").header("etag", "\"1\"");
    let response = match last {
        _ if is_streamed(&seen.body) => return events(run, state),
        "events" => return events(run, state),
        "large" | "content" => {
            json.header("content-type", "application/octet-stream").body(Payload::Whole(Some(state.large.clone())))
        }
        "sized" => json.header("content-length", SIZED).body(Payload::Whole(None)),
        // As an object store has it.
        _ if seen.method == Method::PUT => json.body(Payload::Whole(None)),
        "none" => Response::builder().status(204).body(Payload::Whole(None)),
        "cached" if seen.headers.contains_key("if-none-match") => json.status(304).body(Payload::Whole(None)),
        "redirect" => {
            let location = format!("https://api.peers.test:{}/r{run}{parent}/landed", state.port);
            json.status(302).header("location", location).body(Payload::Whole(None))
        }
        "redirect-path" => {
            json.status(302).header("location", format!("/r{run}{parent}/landed")).body(Payload::Whole(None))
        }
        _ => {
            if let Some(number) = last.strip_prefix("ack-").and_then(|number| number.parse().ok()) {
                acknowledged(run, state).send_replace(number);
            }
            json.body(Payload::Whole(Some(ANSWER.into())))
        }
    };
    response.expect("a response")
}

fn is_streamed(body: &Bytes) -> bool {
    serde_json::from_slice(body).is_ok_and(|body: serde_json::Value| body["stream"] == true)
}

fn acknowledged(run: u32, state: &State) -> watch::Sender<u32> {
    lock(&state.acknowledged).entry(run).or_default().clone()
}

/// Server-sent events, as an API of language models has them.
fn events(run: u32, state: &Arc<State>) -> Response<Payload> {
    let (sender, receiver) = mpsc::channel(1);
    let mut acknowledged = acknowledged(run, state).subscribe();
    let shared = state.clone();
    lock(&state.streams).spawn(async move {
        for number in 1..=EVENTS {
            let event = serde_json::json!({
                "id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m",
                "choices": [{ "index": 0, "delta": { "content": number.to_string() } }],
            });
            // A client that has left is judged by what it says it got.
            let _ = sender.send(format!("data: {event}\n\n").into()).await;
            let before = acknowledged.wait_for(|last| *last >= number);
            if number < EVENTS && timeout(PATIENCE, before).await.is_err() {
                lock(&shared.late).insert(run);
            }
        }
        let _ = sender.send("data: [DONE]\n\n".into()).await;
    });
    let response = Response::builder().header("content-type", "text/event-stream");
    response.body(Payload::Pieces(receiver)).expect("a response")
}

/// The body of an answer.
enum Payload {
    Whole(Option<Bytes>),
    Pieces(mpsc::Receiver<Bytes>),
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match self.get_mut() {
            Self::Whole(whole) => Poll::Ready(whole.take()),
            Self::Pieces(pieces) => pieces.poll_recv(context),
        };
        piece.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(whole) => {
                hyper::body::SizeHint::with_exact(whole.as_ref().map_or(0, |whole| whole.len() as u64))
            }
            Self::Pieces(_) => hyper::body::SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
