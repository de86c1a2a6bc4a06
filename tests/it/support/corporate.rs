//! A company's proxy: it opens tunnels as the test tells it to, and writes down what it is asked and what passes through.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

pub struct Corporate {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    _serving: JoinSet<()>,
}

/// What it does when it is asked.
#[derive(Clone)]
pub enum Manner {
    /// Opens the tunnel to the port that is named, on this machine.
    Tunnels,
    Says(Vec<u8>),
    /// Says nothing, and keeps the connection.
    IsSilent,
}

struct State {
    manner: Manner,
    heads: Vec<String>,
    passed: Vec<u8>,
}

impl Corporate {
    pub async fn start() -> Self {
        Self::listening(None).await
    }

    /// One that is itself reached under TLS.
    pub async fn under_tls(server: ServerConfig) -> Self {
        Self::listening(Some(TlsAcceptor::from(Arc::new(server)))).await
    }

    async fn listening(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let state = State { manner: Manner::Tunnels, heads: Vec::new(), passed: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, tls, state.clone()));
        Self { address, state, _serving: serving }
    }

    pub fn behaves(&self, manner: Manner) {
        lock(&self.state).manner = manner;
    }

    /// Every head that it was sent.
    pub fn heads(&self) -> Vec<String> {
        lock(&self.state).heads.clone()
    }

    /// What clients sent through its tunnels.
    pub fn passed(&self) -> Vec<u8> {
        lock(&self.state).passed.clone()
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.expect("accepts");
        let (tls, state) = (tls.clone(), state.clone());
        connections.spawn(async move {
            match tls {
                None => connection(tcp, &state).await,
                Some(tls) => {
                    if let Ok(tls) = tls.accept(tcp).await {
                        connection(tls, &state).await;
                    }
                }
            }
        });
    }
}

async fn connection(mut client: impl AsyncRead + AsyncWrite + Unpin, state: &Mutex<State>) {
    let Some(head) = head(&mut client).await else { return };
    let manner = {
        let mut state = lock(state);
        state.heads.push(head.clone());
        state.manner.clone()
    };
    match manner {
        Manner::Tunnels => {
            let port = head.split([' ', ':']).nth(2).and_then(|port| port.parse::<u16>().ok()).expect("a port");
            let upstream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("connects");
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.expect("writes");
            tunnel(client, upstream, state).await;
        }
        Manner::Says(bytes) => {
            // The client may have seen enough.
            let _ = client.write_all(&bytes).await;
            let _ = client.flush().await;
            while matches!(client.read(&mut [0; 1024]).await, Ok(1..)) {}
        }
        Manner::IsSilent => while matches!(client.read(&mut [0; 1024]).await, Ok(1..)) {},
    }
}

/// The head, and nothing after it: nobody may speak before the tunnel is open.
async fn head(client: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(client.read_u8().await.ok()?);
    }
    String::from_utf8(bytes).ok()
}

async fn tunnel(client: impl AsyncRead + AsyncWrite, upstream: TcpStream, state: &Mutex<State>) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_upstream, mut to_upstream) = upstream.into_split();
    let there = async {
        let mut bytes = Vec::new();
        while matches!(from_client.read_buf(&mut bytes).await, Ok(1..)) {
            if to_upstream.write_all(&bytes).await.is_err() {
                break;
            }
            lock(state).passed.append(&mut bytes);
        }
        // Its end is the upstream's to hear.
        let _ = to_upstream.shutdown().await;
    };
    let back = async {
        let _ = tokio::io::copy(&mut from_upstream, &mut to_client).await;
        let _ = to_client.shutdown().await;
    };
    tokio::join!(there, back);
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
