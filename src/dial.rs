//! Resolve, judge every address, connect: for upstreams and for our own calls.
//!
//! ```text
//! authority → resolve once → judge every answer → TCP, the judged addresses raced → TLS, verified → Connection
//!     └──── or: the proxy's authority, likewise ─▶ CONNECT ─▶ a tunnel ────────────┘
//! ```
//!
//! Invariant: what is dialled was judged, and is not resolved again in between; and one bad address among the answers
//! rejects them all, because whoever slipped it in chooses which one is tried. The certificate of a [`Connection`] was
//! verified for the host of its authority.

pub mod address;
mod race;
pub mod stream;
pub mod tunnel;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub use self::address::{Destinations, Kind, Prohibited};
use self::stream::Wire;
pub use self::stream::{Stream, poll_write_pieces};
pub use self::tunnel::Tunnel;
use self::tunnel::TunnelError;
use crate::authority::{Authority, Host};
use crate::text::printable;
use crate::tls::{self, Security};

/// Connects. It keeps no connection and belongs to no runtime: one serves all threads.
pub struct Dialer {
    destinations: ArcSwap<Destinations>,
    tunnel: ArcSwapOption<Tunnel>,
    own: Vec<SocketAddr>,
    resolver: Resolver,
}

/// What to connect to.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub authority: &'a Authority,
    pub security: &'a Security,
    /// For all of it: resolve, connect, handshake.
    pub timeout: Duration,
}

/// An established connection, verified for its authority if it is one under TLS.
#[derive(Debug)]
pub struct Connection {
    pub io: Stream,
    pub authority: Authority,
    pub protocol: Protocol,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protocol {
    Http1,
    Http2,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error(transparent)]
    Prohibited(#[from] Prohibited),
    #[error("{0} is another machine, and the URL is plain http")]
    Clear(SocketAddr),
    #[error("cannot resolve {0}: {1}")]
    Resolve(Host, io::Error),
    #[error("{0} refuses connections")]
    Refused(SocketAddr),
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    #[error("no answer in time: {0}")]
    Timeout(Stage),
    #[error("{0} is the name of a metadata service, which can never be allowed")]
    Metadata(Host),
    /// The proxy on the way cannot be reached.
    #[error("through the proxy {proxy}: {error}")]
    Proxy { proxy: Authority, error: Box<DialError> },
    /// The proxy on the way was reached, and opens no tunnel.
    #[error("through the proxy {proxy}: {error}")]
    Tunnel { proxy: Authority, error: TunnelError },
    #[error("the TLS handshake with {authority} failed: {detail}")]
    Tls { kind: TlsKind, authority: Authority, detail: String },
}

/// How far an attempt came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    Resolve,
    Connect,
    Tunnel,
    Handshake,
}

/// Whether it was the peer's certificate that failed, the peer that ended it, or something else about TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsKind {
    Certificate,
    Alert,
    Protocol,
}

/// Who tells the addresses of a name.
#[derive(Default)]
pub enum Resolver {
    #[default]
    System,
    Given(Box<Answers>),
}

pub type Answers = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

impl Resolver {
    pub fn given(answer: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self::Given(Box::new(answer))
    }
}

impl Dialer {
    /// `own` are the addresses of our own listeners, which are never dialled.
    pub fn new(destinations: Destinations, own: Vec<SocketAddr>) -> Self {
        let destinations = ArcSwap::from_pointee(destinations);
        Self { destinations, tunnel: ArcSwapOption::empty(), own, resolver: Resolver::System }
    }

    /// From now on other destinations are allowed; connections that are there already are not this one's to close.
    pub fn allow(&self, destinations: Destinations) {
        self.destinations.store(Arc::new(destinations));
    }

    /// From now on what is under TLS, and not excepted, goes through a proxy, or nothing does. Tells what was before.
    pub fn through(&self, tunnel: Option<Arc<Tunnel>>) -> Option<Arc<Tunnel>> {
        self.tunnel.swap(tunnel)
    }

    /// Names are resolved by `resolver` instead of the system; its answers are judged all the same.
    pub fn with_resolver(self, resolver: Resolver) -> Self {
        Self { resolver, ..self }
    }

    /// Whether `ip` may be dialled.
    ///
    /// # Errors
    /// When it is not public and not allowed, or is never allowed.
    pub fn judge(&self, ip: IpAddr, port: u16) -> Result<(), Prohibited> {
        if address::is_own(&self.own, ip, port) {
            return Err(Prohibited { address: ip, kind: Kind::Own });
        }
        self.destinations.load().judge(ip)
    }

    /// Connects to `target`, within its timeout.
    ///
    /// # Errors
    /// When an address is prohibited, none answers in time, or the peer does not prove that it is the authority.
    pub async fn connect(&self, target: &Target<'_>) -> Result<Connection, DialError> {
        let Target { authority, security, timeout } = *target;
        let deadline = Instant::now() + timeout;
        let (io, protocol) = match security {
            Security::Plain => (Stream::Plain(self.reach(authority, true, deadline).await?), Protocol::Http1),
            Security::Tls(config) => match self.tunnel.load_full().filter(|tunnel| tunnel.takes(authority)) {
                None => {
                    let tcp = self.reach(authority, false, deadline).await?;
                    let (tls, protocol) = handshake(tcp, authority, config, deadline).await?;
                    (Stream::Tls(Box::new(tls)), protocol)
                }
                Some(tunnel) => {
                    let io = self.open(&tunnel, authority, deadline).await?;
                    let (tls, protocol) = handshake(io, authority, config, deadline).await?;
                    (Stream::Tunnelled(Box::new(tls)), protocol)
                }
            },
        };
        Ok(Connection { io, authority: authority.clone(), protocol })
    }

    /// A way to `authority` for bytes that are not ours to read: who is at its other end is for its user to verify.
    ///
    /// # Errors
    /// When an address is prohibited, or none answers in time.
    pub async fn connect_blindly(&self, authority: &Authority, timeout: Duration) -> Result<Stream, DialError> {
        let deadline = Instant::now() + timeout;
        match self.tunnel.load_full().filter(|tunnel| tunnel.takes(authority)) {
            None => Ok(Stream::Plain(self.reach(authority, false, deadline).await?)),
            Some(tunnel) => self.open(&tunnel, authority, deadline).await,
        }
    }

    /// As [`Dialer::connect`], but that the address of a metadata service is open too, directly and in the clear, as those
    /// speak: for the sources that ask one, and for no request of an app.
    ///
    /// # Errors
    /// As [`Dialer::connect`].
    pub async fn connect_to_metadata(&self, target: &Target<'_>) -> Result<Connection, DialError> {
        let Target { authority, security, timeout } = *target;
        match (&authority.host, security) {
            (Host::Ip(ip), Security::Plain) if address::is_metadata(*ip) => {
                let connecting = timeout_at(Instant::now() + timeout, open(SocketAddr::new(*ip, authority.port)));
                let tcp = connecting.await.map_err(|_| DialError::Timeout(Stage::Connect))??;
                Ok(Connection { io: Stream::Plain(tcp), authority: authority.clone(), protocol: Protocol::Http1 })
            }
            _ => self.connect(target).await,
        }
    }

    /// A tunnel to an authority. An address is judged here; what a name leads to is known to the proxy only.
    async fn open(&self, tunnel: &Tunnel, authority: &Authority, deadline: Instant) -> Result<Stream, DialError> {
        match &authority.host {
            Host::Ip(ip) => self.judge(*ip, authority.port)?,
            host if tunnel::names_metadata(host) => return Err(DialError::Metadata(host.clone())),
            Host::Name(_) => {}
        }
        let to_proxy = async {
            let tcp = self.reach(&tunnel.proxy, false, deadline).await?;
            match &tunnel.security {
                Security::Plain => Ok(Stream::Plain(tcp)),
                Security::Tls(config) => {
                    let (tls, _) = handshake(tcp, &tunnel.proxy, config, deadline).await?;
                    Ok(Stream::Tls(Box::new(tls)))
                }
            }
        };
        let unreachable = |error| DialError::Proxy { proxy: tunnel.proxy.clone(), error: Box::new(error) };
        let io = to_proxy.await.map_err(unreachable)?;
        let opening = timeout_at(deadline, tunnel.open(io, authority)).await;
        let opened = opening.map_err(|_| unreachable(DialError::Timeout(Stage::Tunnel)))?;
        opened.map_err(|error| DialError::Tunnel { proxy: tunnel.proxy.clone(), error })
    }

    /// The addresses of an authority, in the order in which to try them: all of them judged.
    async fn resolve(&self, authority: &Authority) -> Result<Vec<SocketAddr>, DialError> {
        let unresolved = |error| DialError::Resolve(authority.host.clone(), error);
        let port = authority.port;
        let addresses: Vec<SocketAddr> = match (&authority.host, &self.resolver) {
            (Host::Ip(ip), _) => vec![SocketAddr::new(*ip, port)],
            (Host::Name(name), Resolver::System) => {
                tokio::net::lookup_host((&**name, port)).await.map_err(unresolved)?.collect()
            }
            (Host::Name(name), Resolver::Given(answer)) => {
                answer(name).map_err(unresolved)?.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
            }
        };
        if addresses.is_empty() {
            return Err(unresolved(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
        }
        for address in &addresses {
            self.judge(address.ip(), port)?;
        }
        Ok(alternating(addresses))
    }

    /// Resolves an authority, judges all its addresses, and connects to the first that answers.
    async fn reach(&self, authority: &Authority, is_plain: bool, deadline: Instant) -> Result<Wire, DialError> {
        let resolving = timeout_at(deadline, self.resolve(authority)).await;
        let addresses = resolving.map_err(|_| DialError::Timeout(Stage::Resolve))??;
        if let Some(address) = addresses.iter().find(|address| is_plain && !address.ip().is_loopback()) {
            return Err(DialError::Clear(*address));
        }
        let racing = race::race(&addresses[..addresses.len().min(MAX_ATTEMPTS)], open);
        timeout_at(deadline, racing).await.map_err(|_| DialError::Timeout(Stage::Connect))?
    }
}

async fn open(address: SocketAddr) -> Result<Wire, DialError> {
    let connected = TcpStream::connect(address).await.and_then(|tcp| {
        tcp.set_nodelay(true)?;
        Ok(Wire(tcp))
    });
    connected.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused(address),
        _ => DialError::Connect(address, error),
    })
}

async fn handshake<I: AsyncRead + AsyncWrite + Unpin>(
    io: I,
    authority: &Authority,
    config: &Arc<ClientConfig>,
    deadline: Instant,
) -> Result<(TlsStream<I>, Protocol), DialError> {
    let failed = |kind, detail: String| DialError::Tls { kind, authority: authority.clone(), detail };
    let name = match &authority.host {
        Host::Ip(ip) => ServerName::from(*ip),
        Host::Name(name) => ServerName::try_from(name.to_string())
            .map_err(|_| failed(TlsKind::Certificate, "no certificate can be valid for such a name".to_owned()))?,
    };
    let shaking = timeout_at(deadline, TlsConnector::from(config.clone()).connect(name, io)).await;
    let tls = shaking
        .map_err(|_| DialError::Timeout(Stage::Handshake))?
        .map_err(|error| failed(kind_of(&error), printable(&tls::explain(&error), MAX_DETAIL)))?;
    let protocol = match tls.get_ref().1.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        Some(_) | None => Protocol::Http1,
    };
    Ok((tls, protocol))
}

fn kind_of(error: &io::Error) -> TlsKind {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(
            rustls::Error::InvalidCertificate(_)
            | rustls::Error::InvalidCertRevocationList(_)
            | rustls::Error::NoCertificatesPresented
            | rustls::Error::UnsupportedNameType,
        ) => TlsKind::Certificate,
        Some(rustls::Error::AlertReceived(_)) => TlsKind::Alert,
        // A reset, no version or cipher in common: the list is the library's and grows.
        Some(_) | None => TlsKind::Protocol,
    }
}

/// The families in turn, that of the resolver's first answer first: a family without a way out costs one attempt.
fn alternating(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = addresses.first().map(SocketAddr::is_ipv6);
    let (mut one, mut other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| Some(a.is_ipv6()) == first);
    one.reverse();
    other.reverse();
    let mut order = Vec::with_capacity(one.len() + other.len());
    while !one.is_empty() || !other.is_empty() {
        order.extend(one.pop());
        order.extend(other.pop());
    }
    order
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "the name was still being resolved",
            Self::Connect => "the connection was still being opened",
            Self::Tunnel => "the proxy had not opened the tunnel yet",
            Self::Handshake => "the TLS handshake was still going on",
        })
    }
}

/// A name may have hundreds of addresses; a timeout has room for a few.
const MAX_ATTEMPTS: usize = 6;

/// Characters of a TLS error that are kept: it may list the names of a peer's certificate.
const MAX_DETAIL: usize = 300;

#[cfg(test)]
mod tests;
