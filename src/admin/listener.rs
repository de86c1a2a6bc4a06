//! Where operators come in: a unix socket, or TCP under TLS, or TCP of this machine alone.
//!
//! ```text
//!  accept ─▶ room (of all, of one source) ─▶ TLS ─▶ one request ─▶ Admin::answer
//! ```
//!
//! Invariant: a connection has one request, a time for each of its steps, and a place that no single source can take from
//! all others.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::answer::Refusal;
use super::proof::Caller;
use super::{Admin, Settings, Source};
use crate::identity::{Inspector, Peer};
use crate::proxy::{self, Accepted, Address, Listener};
use crate::room::{Place, Room};
use crate::systemd::Inherited;
use crate::tls::{self, Server};

/// Connections at a time: operators are few.
const CONNECTIONS: usize = 64;

/// Of these, of one source.
const OF_ONE: usize = 16;

/// For TLS to be set up, and for a head to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// For all of a connection.
const WHOLE: Duration = Duration::from_secs(90);

/// For the work of a call: an issuer may be asked.
const WORK_PATIENCE: Duration = Duration::from_secs(60);

/// How often the sums of denied calls go into the trail.
const SUMS: Duration = Duration::from_secs(1);

/// Where a connection came in.
pub enum Entrance {
    Unix,
    /// Plain, and of this machine alone.
    Loopback(SocketAddr),
    Tls(SocketAddr, Arc<Server>),
}

/// A listener that is bound.
pub struct Door {
    listener: Listener,
    tls: Option<Arc<Server>>,
}

/// Why operators cannot come in.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{0}: give `listen` in [admin] another address")]
    Listener(#[from] proxy::BindError),
    #[error("cannot make the folder of the admin socket, {}: {error}", .folder.display())]
    Folder { folder: std::path::PathBuf, error: io::Error },
    #[error("[admin] `tls`: {0}")]
    Tls(#[from] tls::Error),
}

impl Door {
    /// # Errors
    /// When the address cannot be had, or what TLS needs.
    pub fn bind(settings: &Settings, inherited: &mut Inherited) -> Result<Self, BindError> {
        if let Address::Unix(path) = &settings.listen
            && let Some(folder) = path.parent()
        {
            // One that others may enter: who they are, the kernel says.
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
            made.map_err(|error| BindError::Folder { folder: folder.to_owned(), error })?;
        }
        let tls = settings.tls.as_ref().map(tls::ServerSettings::server).transpose()?.map(Arc::new);
        Ok(Self { listener: Listener::bind(&settings.listen, inherited)?, tls })
    }

    pub fn address(&self) -> &Address {
        &self.listener.address
    }

    fn entrance(&self) -> Entrance {
        match (&self.listener.address, &self.tls) {
            (Address::Unix(_), _) => Entrance::Unix,
            (Address::Tcp(address) | Address::Tls(address), None) => Entrance::Loopback(*address),
            (Address::Tcp(address) | Address::Tls(address), Some(server)) => Entrance::Tls(*address, server.clone()),
        }
    }

    /// Serves until dropped.
    pub async fn serve(self, admin: Arc<Admin>) {
        let entrance = Arc::new(self.entrance());
        let listener = match self.listener.share() {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "the admin listener cannot be used"),
        };
        let (room, mut inspector) = (Room::new(CONNECTIONS, OF_ONE), Inspector::new());
        let mut connections = JoinSet::new();
        let mut sums = tokio::time::interval(SUMS);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = sums.tick() => {
                    admin.record_denials();
                    continue;
                }
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok(accepted) => {
                    let source = source(&accepted, &mut inspector);
                    // Without room the connection is closed.
                    if let Some(place) = room.enter(source) {
                        connections.spawn(connection(accepted, place, entrance.clone(), admin.clone()));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin listener cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// Who is behind a connection, as far as the kernel tells.
fn source(accepted: &Accepted, inspector: &mut Inspector) -> Source {
    let (peer, _) = accepted.peer(inspector, false);
    match (peer.uid, accepted) {
        (Some(uid), _) => Source::User(uid),
        (None, Accepted::Tcp(_, from)) => Source::Address(from.ip().to_canonical()),
        (None, Accepted::Unix(_)) => Source::Unknown,
    }
}

async fn connection(accepted: Accepted, place: Place<Source>, entrance: Arc<Entrance>, admin: Arc<Admin>) {
    let source = place.source().clone();
    let door = Inside { entrance, admin, begun: Mutex::default() };
    let served = async {
        match (accepted, &*door.entrance) {
            (Accepted::Unix(stream), _) => {
                let caller = Caller { peer: Peer::of_unix(&stream), certificate: None, source };
                door.serve(stream, caller).await;
            }
            (Accepted::Tcp(stream, _), Entrance::Tls(_, server)) => {
                door.secure(stream, source, server).await;
            }
            (Accepted::Tcp(stream, _), _) => {
                let caller = Caller { peer: Peer::default(), certificate: None, source };
                door.serve(stream, caller).await;
            }
        }
    };
    if tokio::time::timeout(WHOLE, served).await.is_err() {
        tracing::debug!(source = %place.source(), "an admin connection took too long");
    }
    door.finish().await;
}

/// What one connection comes to, and the calls that it has begun.
struct Inside {
    entrance: Arc<Entrance>,
    admin: Arc<Admin>,
    begun: Mutex<JoinSet<()>>,
}

impl Inside {
    async fn secure(&self, stream: TcpStream, source: Source, server: &Server) {
        let accepting = TlsAcceptor::from(server.config.clone()).accept(stream);
        match tokio::time::timeout(PATIENCE, accepting).await {
            Ok(Ok(stream)) => {
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let certificate = shown.map(|certificate| certificate.clone().into_owned());
                self.serve(stream, Caller { peer: Peer::default(), certificate, source }).await;
            }
            Ok(Err(error)) => tracing::debug!(%source, error = tls::explain(&error), "an admin connection failed"),
            Err(_) => tracing::debug!(%source, "an admin connection took too long"),
        }
    }

    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin, caller: Caller) {
        let caller = Arc::new(caller);
        let service = service_fn(|request| {
            let told = self.begin(request, caller.clone());
            async {
                let answer = tokio::time::timeout(WORK_PATIENCE, told).await;
                Ok::<_, Infallible>(answer.ok().and_then(Result::ok).unwrap_or_else(|| Refusal::Slow.into_response()))
            }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .keep_alive(false)
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = serving.await {
            tracing::debug!(source = %caller.source, %error, "an admin connection failed");
        }
    }

    /// Begins a call, which goes on to its end whether its caller waits for it or not: a revocation that is half done would
    /// be none.
    fn begin(&self, request: Request<Incoming>, caller: Arc<Caller>) -> oneshot::Receiver<Response<Full<Bytes>>> {
        let (tell, told) = oneshot::channel();
        let (admin, entrance) = (self.admin.clone(), self.entrance.clone());
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).spawn(async move {
            // Whoever asked may have gone.
            let _ = tell.send(admin.answer(request, &caller, &entrance).await);
        });
        told
    }

    /// Waits for the end of what was begun.
    async fn finish(self) {
        let mut begun = self.begun.into_inner().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = begun.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a call of an operator failed");
            }
        }
    }
}
