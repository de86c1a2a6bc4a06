//! Where clients come in. One listening socket for each address, opened once and shared by descriptor: with SO_REUSEPORT
//! another process of the same user could take a part of the connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::Address;
use crate::identity::{Inspector, Peer};
use crate::systemd::Inherited;

/// Connections that the kernel keeps for us until we accept them.
const BACKLOG: i32 = 4096;

/// A socket that is bound and listens. A unix socket's file goes with it.
pub struct Listener {
    socket: Socket,
    pub address: Address,
    _file: Option<SocketFile>,
}

enum Socket {
    Tcp(std::net::TcpListener),
    Unix(StdUnixListener),
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen on {0}: {1}")]
    Tcp(SocketAddr, io::Error),
    #[error("cannot listen on {}: {error}", .path.display())]
    Unix { path: PathBuf, error: io::Error },
    #[error("cannot listen on {}: another process does", .0.display())]
    Taken(PathBuf),
    #[error("cannot listen on {}: the file is no socket", .0.display())]
    NoSocket(PathBuf),
}

impl Listener {
    /// On the socket that was passed to us with this address, or on one of our own.
    pub fn bind(address: &Address, inherited: &mut Inherited) -> Result<Self, BindError> {
        match address {
            Address::Tcp(tcp) | Address::Tls(tcp) if let Some(socket) = inherited.tcp(*tcp) => {
                Ok(Self { socket: Socket::Tcp(socket), address: address.clone(), _file: None })
            }
            // Its file is the service manager's.
            Address::Unix(path) if let Some(socket) = inherited.unix(path) => {
                Ok(Self { socket: Socket::Unix(socket), address: address.clone(), _file: None })
            }
            Address::Tcp(wanted) => Self::tcp(*wanted, Address::Tcp),
            Address::Tls(wanted) => Self::tcp(*wanted, Address::Tls),
            Address::Unix(path) => {
                remove_stale(path)?;
                let socket = unix(path).map_err(|error| BindError::Unix { path: path.clone(), error })?;
                let file = SocketFile(path.clone());
                Ok(Self { socket: Socket::Unix(socket), address: address.clone(), _file: Some(file) })
            }
        }
    }

    fn tcp(wanted: SocketAddr, address: fn(SocketAddr) -> Address) -> Result<Self, BindError> {
        let socket = tcp(wanted).map_err(|error| BindError::Tcp(wanted, error))?;
        let bound = socket.local_addr().map_err(|error| BindError::Tcp(wanted, error))?;
        Ok(Self { socket: Socket::Tcp(socket), address: address(bound), _file: None })
    }

    /// The same socket for one more worker; called on the worker's own runtime.
    pub fn share(&self) -> io::Result<Shared> {
        match &self.socket {
            Socket::Tcp(socket) => Ok(Shared::Tcp(TcpListener::from_std(socket.try_clone()?)?)),
            Socket::Unix(socket) => Ok(Shared::Unix(UnixListener::from_std(socket.try_clone()?)?)),
        }
    }
}

fn tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    // So that a restart does not wait for the last run's connections to be forgotten; not SO_REUSEPORT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A socket that any user may connect to: who may use it is decided by who they are.
fn unix(path: &Path) -> io::Result<StdUnixListener> {
    let socket = StdUnixListener::bind(path)?;
    socket.set_nonblocking(true)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(socket)
}

/// A socket that nobody listens on any more is a left-over of a run that was killed.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NoSocket(path.to_owned()));
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| BindError::Unix { path: path.to_owned(), error })
        }
        _ => Err(BindError::Taken(path.to_owned())),
    }
}

struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it, which is as good.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A worker's handle of a listening socket.
pub enum Shared {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection that was accepted.
pub enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Shared {
    pub async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, from)| Accepted::Tcp(stream, from)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

impl Accepted {
    /// The address that it comes from; unix sockets have none.
    pub fn from(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(_, from) => Some(from.ip().to_canonical()),
            Self::Unix(_) => None,
        }
    }

    /// The address of ours that it came to.
    pub fn at(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(stream, _) => stream.local_addr().ok().map(|ours| ours.ip().to_canonical()),
            Self::Unix(_) => None,
        }
    }

    /// Who is at the other end, with its control group if that matters, and which of our ports it came to.
    pub fn peer(&self, inspector: &mut Inspector, with_cgroup: bool) -> (Peer, Option<u16>) {
        match self {
            Self::Tcp(stream, from) => match stream.local_addr() {
                Ok(ours) => (inspector.tcp(*from, ours), Some(ours.port())),
                Err(_) => (Peer::default(), None),
            },
            Self::Unix(stream) if with_cgroup => (Peer::of_unix(stream).with_cgroup(stream), None),
            Self::Unix(stream) => (Peer::of_unix(stream), None),
        }
    }
}
