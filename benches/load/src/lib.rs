//! What the load generators and the origin share: one thread, sockets that do not block, and epoll.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// Waits for sockets, each known by a number.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poller {
    /// # Errors
    /// When the system has no more descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, events: Vec::with_capacity(256) })
    }

    /// # Errors
    /// When the system does not take it.
    pub fn add(&self, socket: impl AsFd, number: usize) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(number as u64), EventFlags::IN)?)
    }

    /// The sockets that can be read, after at most this long; `None`: however long that takes.
    ///
    /// # Errors
    /// When the system cannot be asked.
    pub fn wait(&mut self, most: Option<Duration>) -> io::Result<Vec<usize>> {
        self.events.clear();
        let most = most.map(|most| Timespec {
            tv_sec: most.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: most.subsec_nanos().into(),
        });
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), most.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let numbers = self.events.iter().map(|event| event.data.u64());
        Ok(numbers.map(|number| usize::try_from(number).expect("a number that was added")).collect())
    }
}

/// A socket and what has come on it.
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    chunk: Box<[u8; 65_536]>,
}

/// What a read found.
#[derive(PartialEq, Eq)]
pub enum Came {
    Something,
    End,
}

impl Connection {
    /// # Errors
    /// When the socket takes no options.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::new(), chunk: Box::new([0; 65_536]) })
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads once; epoll tells if there is more. An error reads like an end.
    pub fn read(&mut self) -> Came {
        match self.stream.read(&mut *self.chunk) {
            Ok(0) => Came::End,
            Ok(length) => {
                self.received.extend_from_slice(&self.chunk[..length]);
                Came::Something
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Came::Something,
            Err(_) => Came::End,
        }
    }

    /// Writes a message that fits into an empty socket's buffer.
    ///
    /// # Errors
    /// When the other side is gone, or has not read what it got.
    pub fn write(&mut self, message: &[u8]) -> io::Result<()> {
        self.stream.write_all(message)
    }

    pub fn received(&self) -> &[u8] {
        &self.received
    }

    pub fn forget(&mut self, length: usize) {
        self.received.drain(..length);
    }
}

/// The value of `--NAME`, as a number or whatever else can be read from text.
///
/// # Panics
/// When it is missing or unreadable: whoever calls these programs is a script.
pub fn option<T: std::str::FromStr>(name: &str) -> T {
    let mut words = std::env::args().skip_while(|word| *word != format!("--{name}"));
    let value = words.nth(1).unwrap_or_else(|| panic!("--{name} is missing"));
    value.parse().unwrap_or_else(|_| panic!("--{name} {value} cannot be read"))
}
