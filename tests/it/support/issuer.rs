//! A token endpoint that writes down each call and answers as the test tells it to.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::Gate;

pub struct Issuer {
    pub address: SocketAddr,
    scheme: &'static str,
    state: Arc<Mutex<State>>,
    _serving: JoinSet<()>,
}

/// One call for a token.
#[derive(Clone, Debug)]
pub struct Call {
    pub at: Instant,
    pub head: String,
    pub fields: BTreeMap<String, String>,
    pub body: String,
}

impl Call {
    /// The value of a header; empty without one.
    pub fn header(&self, name: &str) -> &str {
        let start = format!("{name}: ");
        self.head.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_default()
    }
}

/// What the issuer answers with, as bytes; it closes the connection then.
pub struct Reply {
    bytes: Vec<u8>,
    gate: Option<Gate>,
    hangs: bool,
}

type Standing = Box<dyn FnMut(usize) -> Reply + Send>;

struct State {
    calls: Vec<Call>,
    next: VecDeque<Reply>,
    standing: Standing,
    issued: usize,
}

impl Issuer {
    /// Issues `tok-1`, `tok-2`... which live for an hour.
    pub async fn start() -> Self {
        Self::named("tok", 3600).await
    }

    /// Issues `NAME-1`, `NAME-2`...
    pub async fn named(name: &'static str, life_seconds: u64) -> Self {
        Self::answering(move |number| Reply::token(&format!("{name}-{number}"), life_seconds)).await
    }

    /// Answers the call that is the n-th of its kind, from 1, with what `standing` gives for n.
    pub async fn answering(standing: impl FnMut(usize) -> Reply + Send + 'static) -> Self {
        Self::listening(None, standing).await
    }

    /// As [`Issuer::start`], under TLS.
    pub async fn under_tls(server: ServerConfig) -> Self {
        let standing = |number| Reply::token(&format!("tok-{number}"), 3600);
        Self::listening(Some(TlsAcceptor::from(Arc::new(server))), standing).await
    }

    async fn listening(tls: Option<TlsAcceptor>, standing: impl FnMut(usize) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
        let standing: Standing = Box::new(standing);
        let state = State { calls: Vec::new(), next: VecDeque::new(), standing, issued: 0 };
        let state = Arc::new(Mutex::new(state));
        let address = listener.local_addr().expect("an address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, tls, state.clone()));
        Self { address, scheme, state, _serving: serving }
    }

    pub fn url(&self) -> String {
        format!("{}://{}/token", self.scheme, self.address)
    }

    /// From now on answers otherwise; what stands in the queue goes first.
    pub fn answers(&self, standing: impl FnMut(usize) -> Reply + Send + 'static) {
        self.lock().standing = Box::new(standing);
    }

    /// The next call is answered with this; several stand in a queue.
    pub fn next(&self, reply: Reply) {
        self.lock().next.push_back(reply);
    }

    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    pub fn count(&self) -> usize {
        self.lock().calls.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reply {
    pub fn token(token: &str, life_seconds: u64) -> Self {
        let members = serde_json::json!({"access_token": token, "token_type": "Bearer", "expires_in": life_seconds});
        Self::json(200, &members.to_string())
    }

    pub fn json(status: u16, body: &str) -> Self {
        Self::with(status, "Content-Type: application/json\r\n", body)
    }

    /// `fields` are whole lines of the head.
    pub fn with(status: u16, fields: &str, body: &str) -> Self {
        Self::raw(format!("HTTP/1.1 {status} So\r\nContent-Length: {}\r\n{fields}\r\n{body}", body.len()))
    }

    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), gate: None, hangs: false }
    }

    /// Not before the gate is open.
    pub fn behind(self, gate: &Gate) -> Self {
        Self { gate: Some(gate.clone()), ..self }
    }

    /// And nothing more, but the connection stays.
    pub fn and_hangs(self) -> Self {
        Self { hangs: true, ..self }
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.expect("accepts");
        let (tls, state) = (tls.clone(), state.clone());
        connections.spawn(async move {
            match tls {
                None => exchange(tcp, state).await,
                Some(tls) => match tls.accept(tcp).into_fallible().await {
                    Ok(tls) => exchange(tls, state).await,
                    // What is still to be read would turn the end into a reset, and take the alert away.
                    Err((_, mut tcp)) => while matches!(tcp.read(&mut [0; 1024]).await, Ok(1..)) {},
                },
            }
        });
    }
}

async fn exchange(mut tcp: impl AsyncRead + AsyncWrite + Unpin, state: Arc<Mutex<State>>) {
    let Some((head, body)) = request(&mut tcp).await else { return };
    let fields = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let reply = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.calls.push(Call { at: Instant::now(), head, fields, body });
        match state.next.pop_front() {
            Some(reply) => reply,
            None => {
                state.issued += 1;
                let number = state.issued;
                (state.standing)(number)
            }
        }
    };
    if let Some(gate) = &reply.gate {
        gate.passed().await;
    }
    // The caller may have seen enough already.
    let _ = tcp.write_all(&reply.bytes).await;
    if reply.hangs {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    let _ = tcp.shutdown().await;
}

/// The head and the body; nothing of a connection that ends before.
async fn request(tcp: &mut (impl AsyncRead + Unpin)) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length = length.map_or(0, |digits| digits.parse().expect("a length"));
            if body.len() >= length {
                return Some((head.to_owned(), body.to_owned()));
            }
        }
        if tcp.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
