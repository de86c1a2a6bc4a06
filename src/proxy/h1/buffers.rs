//! Where a worker's connections read into: a buffer is taken when bytes may come, and given back when none have.

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What a connection that has said little reads at once.
pub const FIRST_READ: usize = 4 * 1024;

/// So many buffers are kept; what is more goes back to the system.
const KEPT: usize = 64;

/// A worker's free buffers.
#[derive(Clone, Default)]
pub struct Buffers(Rc<RefCell<Vec<BytesMut>>>);

impl Buffers {
    fn take(&self) -> BytesMut {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes back a buffer in which nothing is left.
    fn give_back(&self, buffer: BytesMut) {
        let mut free = self.0.borrow_mut();
        if free.len() < KEPT {
            free.push(buffer);
        }
    }
}

/// What has been read of a connection and not yet been used.
pub struct Incoming {
    pub bytes: BytesMut,
    buffers: Buffers,
    /// How much is read at once, as long as nothing has told otherwise.
    at_once: usize,
    at_most: usize,
}

impl Incoming {
    /// A connection that may come to read so much at once.
    pub fn new(buffers: Buffers, at_most: usize) -> Self {
        Self { bytes: BytesMut::new(), buffers, at_once: FIRST_READ, at_most }
    }

    /// Reads more. 0: the other side has ended. Where nothing comes and nothing is left to use, no buffer is held.
    pub fn poll_fill(
        &mut self,
        io: &mut (impl AsyncRead + Unpin + ?Sized),
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.bytes.capacity() == 0 {
            self.bytes = self.buffers.take();
        }
        self.bytes.reserve(self.at_once);
        let polled = pin!(io.read_buf(&mut self.bytes)).poll(context);
        if polled.is_pending() && self.bytes.is_empty() {
            self.rest();
        }
        let read = ready!(polled)?;
        if read >= self.at_once {
            // Large bodies are cheaper in large pieces.
            self.at_once = (self.at_once * 4).min(self.at_most);
        }
        Poll::Ready(Ok(read))
    }

    /// A message is over, and nothing of another has come.
    fn rest(&mut self) {
        let buffer = std::mem::take(&mut self.bytes);
        // One that has grown goes back to the system.
        if std::mem::replace(&mut self.at_once, FIRST_READ) == FIRST_READ {
            self.buffers.give_back(buffer);
        }
    }
}
