//! The service manager that started us, if one did: what it is told (sd_notify), and the sockets that it opened for us.
//!
//! ```text
//!  start ─▶ STATUS ─▶ READY ─▶ RELOADING, READY ─▶ ... ─▶ STOPPING
//!                       └─ WATCHDOG, as long as the workers are alive
//! ```
//!
//! Invariant: READY is said once a request would be served, and RELOADING only after it: to systemd, whatever is said
//! after RELOADING is a start that has succeeded.

mod inherited;

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, io};

use rustix::time::{ClockId, clock_gettime};

pub use inherited::{InheritError, Inherited};

/// Meant for this process: whatever it starts must not speak to the manager in its name, nor take its sockets.
pub const OURS_ALONE: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// The service manager; without one, nobody is told anything.
pub struct Manager {
    socket: Option<UnixDatagram>,
    patience: Option<Duration>,
    ready: AtomicBool,
}

impl Manager {
    /// Nobody.
    pub fn none() -> Self {
        Self { socket: None, patience: None, ready: AtomicBool::new(false) }
    }

    /// The one that the variables of this process name.
    ///
    /// # Errors
    /// When there is one, and it cannot be spoken to: it would wait in vain.
    pub fn of_this_process() -> io::Result<Self> {
        let set = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty());
        let number = |name| set(name)?.to_str()?.parse::<u64>().ok();
        let socket = set("NOTIFY_SOCKET").map(|name| connect(&name)).transpose()?;
        let for_us = set("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(std::process::id().into());
        let patience = number("WATCHDOG_USEC").filter(|micros| for_us && *micros > 0).map(Duration::from_micros);
        Ok(Self { socket, patience, ready: AtomicBool::new(false) })
    }

    /// Whether anybody listens.
    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// How often the manager wants to hear that we are alive: twice as often as it acts on it.
    pub fn watchdog(&self) -> Option<Duration> {
        self.socket.as_ref().and(self.patience).map(|patience| patience / 2)
    }

    /// Requests are served from now on.
    pub fn ready(&self, status: &str) {
        self.ready.store(true, Ordering::Relaxed);
        self.tell(&format!("READY=1\nSTATUS={status}\n"));
    }

    pub fn status(&self, status: &str) {
        self.tell(&format!("STATUS={status}\n"));
    }

    /// Another config is being taken.
    pub fn reloading(&self) {
        if self.ready.load(Ordering::Relaxed) {
            // By this clock systemd matches the message with its own order to reload; no token's life depends on it.
            let now = clock_gettime(ClockId::Monotonic);
            let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
            self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\n"));
        }
    }

    /// The reload is over, however it went.
    pub fn reloaded(&self) {
        if self.ready.load(Ordering::Relaxed) {
            self.tell("READY=1\n");
        }
    }

    /// Nothing new is taken on any more.
    pub fn stopping(&self, status: &str) {
        self.ready.store(false, Ordering::Relaxed);
        self.tell(&format!("STOPPING=1\nSTATUS={status}\n"));
    }

    pub fn alive(&self) {
        self.tell("WATCHDOG=1\n");
    }

    fn tell(&self, message: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(message.as_bytes())
        {
            // A manager that does not read must not hold us up: the socket does not block.
            tracing::warn!(%error, "the service manager cannot be told how we are");
        }
    }
}

/// `/run/systemd/notify`, or `@name` in the abstract namespace.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager() -> (Manager, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().expect("a pair");
        (Manager { socket: Some(ours), patience: Some(Duration::from_secs(30)), ready: AtomicBool::new(false) }, theirs)
    }

    fn heard(theirs: &UnixDatagram) -> String {
        theirs.set_nonblocking(true).expect("a socket");
        let mut buffer = [0; 1024];
        theirs.recv(&mut buffer).map_or_else(|_| String::new(), |read| String::from_utf8_lossy(&buffer[..read]).into())
    }

    #[test]
    fn a_reload_before_the_start_is_over_is_not_told() {
        let (manager, theirs) = manager();
        manager.reloading();
        manager.reloaded();
        assert_eq!(heard(&theirs), "");
        manager.ready("3 tokens");
        assert_eq!(heard(&theirs), "READY=1\nSTATUS=3 tokens\n");
        manager.reloading();
        let said = heard(&theirs);
        let micros = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("what systemd 253 asks for");
        assert!(micros.trim_end().parse::<u64>().expect("a number") > 0);
        manager.reloaded();
        assert_eq!(heard(&theirs), "READY=1\n");
        manager.stopping("draining");
        assert_eq!(heard(&theirs), "STOPPING=1\nSTATUS=draining\n");
        manager.reloaded();
        assert_eq!(heard(&theirs), "", "nothing takes the end back");
    }

    #[test]
    fn the_manager_hears_twice_as_often_as_it_asks() {
        assert_eq!(manager().0.watchdog(), Some(Duration::from_secs(15)));
        assert_eq!(Manager::none().watchdog(), None);
    }

    #[test]
    fn a_name_in_the_abstract_namespace_is_reached() {
        let name = format!("countersign-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let theirs = UnixDatagram::bind_addr(&address).expect("bound");
        let ours = connect(OsStr::new(&format!("@{name}"))).expect("connected");
        ours.send(b"READY=1\n").expect("sent");
        assert_eq!(heard(&theirs), "READY=1\n");
    }
}
