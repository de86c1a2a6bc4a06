//! What a worker's connections read into and write from: a buffer is taken when there may be something for it, and given back
//! when there is not.

use std::cell::RefCell;
use std::io;
use std::ops::Deref;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use zeroize::Zeroize as _;

/// What a connection that has said little reads at once.
pub const FIRST_READ: usize = 4 * 1024;

/// Most heads are no longer.
const USUAL_HEAD: usize = 1024;

/// A head and the pieces of a body that are put together with it are seldom longer.
const LARGEST_DRAFT: usize = 16 * 1024;

/// So many buffers of each kind are kept; what is more goes back to the system.
const KEPT: usize = 64;

/// A worker's free buffers.
#[derive(Clone, Default)]
pub struct Buffers(Rc<Free>);

#[derive(Default)]
struct Free {
    /// To read into.
    reading: RefCell<Vec<BytesMut>>,
    /// To write from.
    writing: RefCell<Vec<Draft>>,
}

impl Buffers {
    /// Where a message is put together.
    pub fn draft(&self) -> Draft {
        self.0.writing.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes back what a message was put together in. One that has grown goes back to the system.
    pub fn give_back(&self, mut draft: Draft) {
        draft.clear();
        let mut free = self.0.writing.borrow_mut();
        if free.len() < KEPT && draft.0.capacity() <= LARGEST_DRAFT {
            free.push(draft);
        }
    }

    fn take(&self) -> BytesMut {
        self.0.reading.borrow_mut().pop().unwrap_or_default()
    }

    fn put_back(&self, buffer: BytesMut) {
        let mut free = self.0.reading.borrow_mut();
        if free.len() < KEPT {
            free.push(buffer);
        }
    }
}

/// Where a message is put together. It may hold a token, and is wiped wherever it leaves one behind.
#[derive(Default)]
pub struct Draft(Vec<u8>);

impl Draft {
    pub fn put(&mut self, bytes: &[u8]) {
        if self.0.capacity() - self.0.len() < bytes.len() {
            self.grow(bytes.len());
        }
        self.0.extend_from_slice(bytes);
    }

    /// Moves into a larger place.
    #[cold]
    fn grow(&mut self, by: usize) {
        let mut larger = Vec::with_capacity((self.0.len() + by).next_power_of_two().max(USUAL_HEAD));
        larger.extend_from_slice(&self.0);
        std::mem::replace(&mut self.0, larger).zeroize();
    }

    pub fn clear(&mut self) {
        self.0.fill(0);
        self.0.clear();
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Deref for Draft {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
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
            self.buffers.put_back(buffer);
        }
    }
}
