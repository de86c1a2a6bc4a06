//! Listening sockets that the service manager opened before we were started (LISTEN_FDS): clients that come meanwhile wait
//! instead of being refused, over a restart too.
//!
//! Invariant: each is used for the address that it has, or the start fails: one that is forgotten would keep its clients
//! waiting for ever.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;

/// The number of the first one (SD_LISTEN_FDS_START).
const FIRST: usize = 3;

/// Those that nobody has taken yet.
#[derive(Default)]
pub struct Inherited(Vec<Socket>);

enum Socket {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, PathBuf),
}

/// Why a socket that was passed to us cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    #[error(
        "the service manager passed descriptor {0}, which is neither a TCP nor a unix stream socket with an address: {1}"
    )]
    Kind(usize, io::Error),
    #[error("the service manager passed descriptor {0}, a socket that does not listen: its unit needs `Accept=no`")]
    Connected(usize),
    #[error(
        "the service manager passed sockets that nothing in the config listens on: {}\n  help: add them to `listen` in \
         [proxy], or take them out of the .socket unit", .0.join(", ")
    )]
    Unused(Vec<String>),
}

impl Inherited {
    /// Takes what was passed to this process. To be called once, before there is a second thread.
    ///
    /// # Errors
    /// When something was passed that is no listening socket.
    pub fn take() -> Result<Self, InheritError> {
        let mut passed = ListenFd::from_env();
        let sockets = (0..passed.len()).map(|number| socket(&mut passed, number));
        Ok(Self(sockets.collect::<Result<_, _>>()?))
    }

    /// The one with this address.
    pub fn tcp(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let at = self.0.iter().position(|socket| matches!(socket, Socket::Tcp(_, own) if *own == address))?;
        match self.0.swap_remove(at) {
            Socket::Tcp(listener, _) => Some(listener),
            Socket::Unix(..) => None,
        }
    }

    /// The one with this path.
    pub fn unix(&mut self, path: &Path) -> Option<UnixListener> {
        let at = self.0.iter().position(|socket| matches!(socket, Socket::Unix(_, own) if own == path))?;
        match self.0.swap_remove(at) {
            Socket::Unix(listener, _) => Some(listener),
            Socket::Tcp(..) => None,
        }
    }

    /// # Errors
    /// When one is left: then all that are left are named.
    pub fn none_left(&self) -> Result<(), InheritError> {
        let name = |socket: &Socket| match socket {
            Socket::Tcp(_, address) => address.to_string(),
            Socket::Unix(_, path) => format!("unix:{}", path.display()),
        };
        if self.0.is_empty() { Ok(()) } else { Err(InheritError::Unused(self.0.iter().map(name).collect())) }
    }
}

fn socket(passed: &mut ListenFd, number: usize) -> Result<Socket, InheritError> {
    let descriptor = FIRST + number;
    let kind = |error| InheritError::Kind(descriptor, error);
    let unnamed = || kind(io::ErrorKind::AddrNotAvailable.into());
    // What is no TCP socket is left where it is.
    if let Ok(Some(listener)) = passed.take_tcp_listener(number) {
        listens(&listener, descriptor)?;
        listener.set_nonblocking(true).map_err(kind)?;
        let address = listener.local_addr().map_err(kind)?;
        return Ok(Socket::Tcp(listener, address));
    }
    let listener = passed.take_unix_listener(number).map_err(kind)?.ok_or_else(unnamed)?;
    listens(&listener, descriptor)?;
    listener.set_nonblocking(true).map_err(kind)?;
    let address = listener.local_addr().map_err(kind)?;
    let path = address.as_pathname().ok_or_else(unnamed)?.to_owned();
    Ok(Socket::Unix(listener, path))
}

fn listens(socket: &impl std::os::fd::AsFd, descriptor: usize) -> Result<(), InheritError> {
    match socket_acceptconn(socket) {
        Ok(true) => Ok(()),
        Ok(false) => Err(InheritError::Connected(descriptor)),
        Err(error) => Err(InheritError::Kind(descriptor, error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_goes_to_the_address_that_it_has_and_what_is_left_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("proxy.sock");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = tcp.local_addr().expect("an address");
        let unix = UnixListener::bind(&path).expect("bound");
        let mut inherited = Inherited(vec![Socket::Tcp(tcp, address), Socket::Unix(unix, path.clone())]);
        assert!(inherited.tcp(([127, 0, 0, 1], 1).into()).is_none());
        assert!(inherited.unix(Path::new("/nowhere")).is_none());
        let said = inherited.none_left().expect_err("two are left").to_string();
        assert!(said.contains(&format!("{address}, unix:{}", path.display())), "{said}");
        assert!(inherited.tcp(address).is_some());
        assert!(inherited.tcp(address).is_none(), "taken once");
        assert!(inherited.unix(&path).is_some());
        inherited.none_left().expect("none");
    }
}
