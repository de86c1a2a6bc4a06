//! Servers that should not be trusted. What they hear beyond the handshake is written down.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::certificate::{Ca, Certificate};
use super::setup::Place;

pub struct Doubtful {
    pub address: SocketAddr,
    certificate: Certificate,
    heard: Heard,
    _serving: JoinSet<()>,
}

/// What a server does with a connection.
#[derive(Clone)]
enum Manner {
    Tls(TlsAcceptor),
    /// Answers the first bytes with these.
    Says(Vec<u8>),
    Closes,
}

type Heard = Arc<Mutex<Vec<u8>>>;

impl Doubtful {
    /// Speaks TLS as configured; `ca` is what the route trusts.
    pub async fn tls(server: ServerConfig, ca: &Ca) -> Self {
        Self::start(Manner::Tls(TlsAcceptor::from(Arc::new(server))), ca).await
    }

    /// Answers the first bytes with these.
    pub async fn says(bytes: impl Into<Vec<u8>>) -> Self {
        Self::start(Manner::Says(bytes.into()), &Ca::new()).await
    }

    /// Closes the connection when it has seen the first bytes.
    pub async fn closes() -> Self {
        Self::start(Manner::Closes, &Ca::new()).await
    }

    async fn start(manner: Manner, ca: &Ca) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let heard = Heard::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, manner, heard.clone()));
        let certificate = Certificate::of(ca.sign(&["unused.test"], |_| {}).server(&[]), ca);
        Self { address, certificate, heard, _serving: serving }
    }

    /// Every byte that came after the handshake, or instead of one.
    pub fn heard(&self) -> Vec<u8> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Place for Doubtful {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn certificate(&self) -> &Certificate {
        &self.certificate
    }
}

async fn serve(listener: TcpListener, manner: Manner, heard: Heard) {
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.expect("accepts");
        connections.spawn(connection(tcp, manner.clone(), heard.clone()));
    }
}

async fn connection(mut tcp: TcpStream, manner: Manner, heard: Heard) {
    match manner {
        Manner::Tls(acceptor) => match acceptor.accept(tcp).into_fallible().await {
            Ok(tls) => listen(tls, &heard).await,
            // What is still to be read would turn the end of the connection into a reset, and take the alert away.
            Err((_, tcp)) => listen(tcp, &Heard::default()).await,
        },
        Manner::Says(bytes) => {
            let hello = tcp.read_buf(&mut Vec::with_capacity(4096)).await;
            if hello.is_ok() && tcp.write_all(&bytes).await.is_ok() {
                listen(tcp, &heard).await;
            }
        }
        Manner::Closes => {
            let _ = tcp.read_buf(&mut Vec::with_capacity(4096)).await;
        }
    }
}

/// Until the other side ends it, well or not.
async fn listen(mut io: impl AsyncRead + Unpin, heard: &Heard) {
    let mut bytes = Vec::new();
    while matches!(io.read_buf(&mut bytes).await, Ok(1..)) {
        heard.lock().unwrap_or_else(PoisonError::into_inner).append(&mut bytes);
    }
}
