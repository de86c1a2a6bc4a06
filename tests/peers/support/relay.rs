//! Stands between a client and the proxy, passes every byte on, and counts connections: what a client did is then known without
//! asking it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub struct Relay {
    pub address: SocketAddr,
    opened: Arc<Mutex<Vec<Spoken>>>,
    _serving: JoinSet<()>,
}

/// What the first line of a connection was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spoken {
    Http10,
    Http11,
    Http2,
    /// CONNECT, whatever the version.
    Tunnel,
    /// Nothing that could be understood, or nothing at all.
    Nothing,
}

impl Spoken {
    /// As clients call a version of HTTP: `HTTP/2.0`, `2`...
    pub fn named(name: &str) -> Self {
        match name.trim_start_matches("HTTP/") {
            "1.0" => Self::Http10,
            "1.1" => Self::Http11,
            "2" | "2.0" => Self::Http2,
            _ => Self::Nothing,
        }
    }
}

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Tunnel => "`CONNECT`",
            Self::Nothing => "nothing",
        })
    }
}

impl Relay {
    /// In front of what listens on `to`: on the same port, which is what a client is told, of 127.0.0.1.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", to.port())).await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let opened = Arc::new(Mutex::default());
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, to, opened.clone()));
        Self { address, opened, _serving: serving }
    }

    /// Every connection until now.
    pub fn opened(&self) -> Vec<Spoken> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(listener: TcpListener, to: SocketAddr, opened: Arc<Mutex<Vec<Spoken>>>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.expect("accepts");
        connections.spawn(pass_on(client, to, opened.clone()));
    }
}

async fn pass_on(mut client: TcpStream, to: SocketAddr, opened: Arc<Mutex<Vec<Spoken>>>) {
    let mut start = Vec::new();
    while !start.contains(&b'\n') {
        match client.read_buf(&mut start).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    opened.lock().unwrap_or_else(PoisonError::into_inner).push(spoken(&start));
    // What goes wrong from here on is seen by the client.
    let Ok(mut proxy) = TcpStream::connect(to).await else { return };
    for socket in [&client, &proxy] {
        socket.set_nodelay(true).expect("a socket");
    }
    if proxy.write_all(&start).await.is_ok() {
        let _ = copy_bidirectional(&mut client, &mut proxy).await;
    }
}

fn spoken(start: &[u8]) -> Spoken {
    let line = start.split(|byte| *byte == b'\r').next().unwrap_or_default();
    match line {
        _ if line.starts_with(b"CONNECT ") => Spoken::Tunnel,
        b"PRI * HTTP/2.0" => Spoken::Http2,
        _ if line.ends_with(b" HTTP/1.1") => Spoken::Http11,
        _ if line.ends_with(b" HTTP/1.0") => Spoken::Http10,
        _ => Spoken::Nothing,
    }
}
