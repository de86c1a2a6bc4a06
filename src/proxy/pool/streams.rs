//! How many requests a connection of HTTP/2 carries, and may carry.

use std::cell::Cell;
use std::rc::Rc;

use super::IDLE_SWEEPS;

/// Requests at a time on one connection, if the peer allows as many.
const STREAMS: usize = 100;

/// The streams of one connection.
pub struct Streams {
    used: Cell<usize>,
    /// What the peer allows now, as the connection's task saw it last.
    allowed: Cell<usize>,
    /// For how many sweeps none has been used.
    idle_sweeps: Cell<u32>,
}

impl Streams {
    pub fn new() -> Rc<Self> {
        Rc::new(Self { used: Cell::new(0), allowed: Cell::new(STREAMS), idle_sweeps: Cell::new(0) })
    }

    /// The peer allows so many from now on.
    pub fn allow(&self, streams: usize) {
        self.allowed.set(streams);
    }

    /// Whether the connection is to be kept.
    pub fn sweep(&self) -> bool {
        let idle = if self.used.get() == 0 { self.idle_sweeps.get() + 1 } else { 0 };
        self.idle_sweeps.set(idle);
        idle <= IDLE_SWEEPS
    }
}

/// One stream, until dropped.
pub struct Stream(Rc<Streams>);

impl Stream {
    pub fn take(streams: &Rc<Streams>) -> Option<Self> {
        if streams.used.get() >= streams.allowed.get().min(STREAMS) {
            return None;
        }
        streams.used.set(streams.used.get() + 1);
        Some(Self(streams.clone()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.used.set(self.0.used.get() - 1);
    }
}
