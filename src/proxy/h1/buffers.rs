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
    /// An empty buffer.
    pub fn take(&self) -> BytesMut {
        let mut buffer = self.0.borrow_mut().pop().unwrap_or_default();
        buffer.reserve(FIRST_READ);
        buffer
    }

    /// Takes back a buffer that is not needed any more. One that has grown goes back to the system.
    pub fn give_back(&self, mut buffer: BytesMut) {
        let mut free = self.0.borrow_mut();
        if free.len() < KEPT && buffer.capacity() <= FIRST_READ {
            buffer.clear();
            free.push(buffer);
        }
    }
}

/// What has been read of a connection and not yet been used.
pub struct Incoming {
    pub bytes: BytesMut,
    pub buffers: Buffers,
    /// How much is read at once, as long as nothing has told otherwise.
    at_once: usize,
    at_most: usize,
}

impl Incoming {
    /// A connection that may come to read so much at once.
    pub fn new(buffers: Buffers, at_most: usize) -> Self {
        Self { bytes: BytesMut::new(), buffers, at_once: FIRST_READ, at_most }
    }

    /// Reads more. 0: the other side has ended.
    pub fn poll_fill(
        &mut self,
        io: &mut (impl AsyncRead + Unpin + ?Sized),
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.bytes.capacity() == 0 {
            self.bytes = self.buffers.take();
        }
        if self.bytes.capacity() - self.bytes.len() < self.at_once / 4 {
            self.bytes.reserve(self.at_once);
        }
        let read = ready!(pin!(io.read_buf(&mut self.bytes)).poll(context))?;
        if read >= self.at_once {
            // Large bodies are cheaper in large pieces.
            self.at_once = (self.at_once * 4).min(self.at_most);
        }
        Poll::Ready(Ok(read))
    }

    /// Holds no buffer as long as nothing comes.
    pub fn rest(&mut self) {
        if !self.bytes.is_empty() || self.bytes.capacity() == 0 {
            return;
        }
        let buffer = std::mem::take(&mut self.bytes);
        // One that has grown goes back to the system.
        if std::mem::replace(&mut self.at_once, FIRST_READ) == FIRST_READ {
            self.buffers.give_back(buffer);
        }
    }
}
