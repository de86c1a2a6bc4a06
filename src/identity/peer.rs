//! What the kernel knows of the process at the other end of a connection: `SO_PEERCRED` on unix sockets, socket
//! diagnostics (`NETLINK_SOCK_DIAG`) for TCP on the loopback interface. Where a client is known by its control group, that of
//! the process that connected to a unix socket.
//!
//! A connection is asked about once, when it is accepted: the owner of an established socket does not change.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};
use tokio::net::UnixStream;

use super::cgroup;

/// The kernel's number for `TCP_ESTABLISHED`.
const ESTABLISHED: u8 = 1;

/// The process at the other end, as the kernel names it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Peer {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Where it has been [asked for](Self::with_cgroup).
    pub cgroup: Option<Arc<str>>,
}

impl Peer {
    pub fn of_unix(stream: &UnixStream) -> Self {
        match stream.peer_cred() {
            Ok(credentials) => Self { uid: Some(credentials.uid()), gid: Some(credentials.gid()), cgroup: None },
            Err(_) => Self::default(),
        }
    }

    /// With its control group, too, which takes a few small reads of what the kernel has in memory.
    pub fn with_cgroup(self, stream: &UnixStream) -> Self {
        Self { cgroup: cgroup::of_peer(stream), ..self }
    }
}

/// Asks the kernel who owns a TCP socket. One a worker; a call takes some ten microseconds and does not wait.
pub struct Inspector(Option<Socket>);

impl Inspector {
    /// Where the kernel gives no diagnostics socket every TCP peer stays unknown, and is refused.
    pub fn new() -> Self {
        match open() {
            Ok(socket) => Self(Some(socket)),
            Err(error) => {
                tracing::error!(%error, "the kernel tells no TCP client's user: only unix sockets know their clients");
                Self(None)
            }
        }
    }

    /// Who holds the other end of a connection from `client` to us at `ours`.
    pub fn tcp(&mut self, client: SocketAddr, ours: SocketAddr) -> Peer {
        // It may have failed for want of a descriptor, which comes back.
        self.0 = self.0.take().or_else(|| open().ok());
        let Some(socket) = &self.0 else { return Peer::default() };
        match ask(socket, client, ours) {
            Ok(uid) => Peer { uid, ..Peer::default() },
            Err(error) => {
                tracing::warn!(%error, "the kernel could not be asked who calls");
                // An answer that comes late must not be taken for the next one's.
                self.0 = open().ok();
                Peer::default()
            }
        }
    }
}

impl Default for Inspector {
    fn default() -> Self {
        Self::new()
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    // The kernel answers within the request itself.
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// The user of the socket whose own end is `client`; `None` unless it is established and some process holds it.
fn ask(socket: &Socket, client: SocketAddr, ours: SocketAddr) -> io::Result<Option<u32>> {
    let (client_ip, our_ip) = (client.ip(), ours.ip());
    let socket_id = SocketId {
        source_port: client.port(),
        destination_port: ours.port(),
        source_address: client_ip,
        destination_address: our_ip,
        interface_id: 0,
        // No cookie: any socket of this name.
        cookie: [0xff; 8],
    };
    let request = InetRequest {
        family: if client_ip.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::ESTABLISHED,
        socket_id,
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answer = Vec::with_capacity(1024);
    socket.recv(&mut answer, 0)?;
    let message = NetlinkMessage::<SockDiagMessage>::deserialize(&answer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    let NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) = message.payload else {
        return Ok(None);
    };
    let found = response.header;
    let same = found.socket_id.source_port == client.port()
        && found.socket_id.destination_port == ours.port()
        && same_ip(found.socket_id.source_address, client_ip)
        && same_ip(found.socket_id.destination_address, our_ip);
    Ok((same && found.state == ESTABLISHED && found.inode != 0).then_some(found.uid))
}

fn same_ip(one: IpAddr, other: IpAddr) -> bool {
    one.to_canonical() == other.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_kernel_tells_whose_a_loopback_connection_is() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("binds");
            let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connects");
            let (accepted, from) = listener.accept().expect("accepts");
            let ours = accepted.local_addr().expect("address");
            let mut inspector = Inspector::new();
            let own = rustix::process::getuid().as_raw();
            assert_eq!(inspector.tcp(from, ours).uid, Some(own), "{address}");
            drop(client);
            assert_eq!(inspector.tcp(from, ours).uid, None, "a closed socket is nobody's");
        }
    }

    #[test]
    fn a_connection_that_is_not_there_is_nobodys() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let ours = listener.local_addr().expect("address");
        let stranger = SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!(Inspector::new().tcp(stranger, ours), Peer::default());
    }
}
