//! Upstream connections that end when the token they carry is taken out of use.
//!
//! ```text
//! worker ─ order ─▶ Lines::cut(token) ─▶ each Line of that token: no byte leaves, whoever waits for one is woken to an error
//! ```
//!
//! What a connection still has to say lies in buffers of HTTP/2, TLS and hyper: it is kept from leaving at the one place
//! that all of it passes, so that none of these has to be asked. A request pays for it with one look at a flag of its own
//! worker for each piece that is read or written.
//!
//! Invariant: from when [`Lines::cut`] returns on, nothing is handed to the kernel on a line of that token that was there
//! before.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::name::TokenName;

/// The lines of a worker, by the token that they carry.
#[derive(Default)]
pub struct Lines(RefCell<HashMap<TokenName, Vec<Weak<Scissors>>>>);

/// A connection that can be cut.
pub struct Line<S> {
    inner: S,
    scissors: Rc<Scissors>,
}

#[derive(Default)]
struct Scissors {
    is_cut: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

/// What whoever uses a line learns that was cut.
#[derive(Debug, thiserror::Error)]
#[error("the token of this connection was taken out of use")]
struct IsCut;

impl Lines {
    /// A line for a connection of a route with this token.
    pub fn lay<S>(&self, token: Option<&TokenName>, inner: S) -> Line<S> {
        let scissors = Rc::<Scissors>::default();
        if let Some(token) = token {
            let mut lines = self.0.borrow_mut();
            if !lines.contains_key(token) {
                lines.insert(token.clone(), Vec::new());
            }
            if let Some(lines) = lines.get_mut(token) {
                lines.push(Rc::downgrade(&scissors));
            }
        }
        Line { inner, scissors }
    }

    /// Cuts the lines of a token. Returns how many there were.
    pub fn cut(&self, token: &TokenName) -> usize {
        let lines = self.0.borrow_mut().remove(token).unwrap_or_default();
        let lines: Vec<Rc<Scissors>> = lines.iter().filter_map(Weak::upgrade).collect();
        // First all of them, then whoever waits.
        lines.iter().for_each(|line| line.is_cut.set(true));
        lines.iter().for_each(|line| line.wake());
        lines.len()
    }

    /// Forgets those that have ended. Called now and then.
    pub fn sweep(&self) {
        self.0.borrow_mut().retain(|_, lines| {
            lines.retain(|line| line.strong_count() > 0);
            !lines.is_empty()
        });
    }
}

impl Scissors {
    fn wake(&self) {
        for waiting in [&self.reader, &self.writer] {
            if let Some(waker) = waiting.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    fn judge(&self) -> io::Result<()> {
        if self.is_cut.get() { Err(io::Error::new(io::ErrorKind::ConnectionAborted, IsCut)) } else { Ok(()) }
    }
}

/// Remembers who waits, if it is not who waited last.
fn waits<T>(waiting: &RefCell<Option<Waker>>, polled: Poll<T>, context: &Context<'_>) -> Poll<T> {
    if polled.is_pending() {
        let mut waiting = waiting.borrow_mut();
        if !waiting.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waiting = Some(context.waker().clone());
        }
    }
    polled
}

impl<S: AsyncRead + Unpin> AsyncRead for Line<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.scissors.judge()?;
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        waits(&self.scissors.reader, polled, context)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.scissors.judge()?;
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        waits(&self.scissors.writer, polled, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.scissors.judge()?;
        let polled = Pin::new(&mut self.inner).poll_write_vectored(context, pieces);
        waits(&self.scissors.writer, polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.scissors.judge()?;
        let polled = Pin::new(&mut self.inner).poll_flush(context);
        waits(&self.scissors.writer, polled, context)
    }

    /// An orderly end would carry what TLS still has to say.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.scissors.judge()?;
        let polled = Pin::new(&mut self.inner).poll_shutdown(context);
        waits(&self.scissors.writer, polled, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    fn token(name: &str) -> TokenName {
        name.parse().expect("a name")
    }

    #[tokio::test]
    async fn on_a_line_that_was_cut_nothing_leaves_and_nobody_waits() {
        let lines = Lines::default();
        let (inner, mut far) = duplex(64);
        let (other_inner, mut other_far) = duplex(64);
        let mut line = lines.lay(Some(&token("a")), inner);
        let mut other = lines.lay(Some(&token("b")), other_inner);
        line.write_all(b"before").await.expect("written");
        let waiting = async {
            let mut byte = [0; 1];
            line.read(&mut byte).await
        };
        let cutting = async {
            tokio::task::yield_now().await;
            assert_eq!(lines.cut(&token("a")), 1);
        };
        let (read, ()) = tokio::join!(waiting, cutting);
        assert_eq!(read.expect_err("cut").kind(), io::ErrorKind::ConnectionAborted);
        assert!(
            line.write_all(b"after").await.is_err() && line.flush().await.is_err() && line.shutdown().await.is_err()
        );
        drop(line);
        let mut seen = Vec::new();
        far.read_to_end(&mut seen).await.expect("read");
        assert_eq!(seen, b"before");
        other.write_all(b"on").await.expect("another token's");
        drop(other);
        let mut seen = Vec::new();
        other_far.read_to_end(&mut seen).await.expect("read");
        assert_eq!(seen, b"on");
    }

    #[tokio::test]
    async fn whoever_waits_to_write_is_woken() {
        let lines = Lines::default();
        let (inner, _far) = duplex(4);
        let mut line = lines.lay(Some(&token("a")), inner);
        let cutting = async {
            tokio::task::yield_now().await;
            lines.cut(&token("a"));
        };
        let (written, ()) = tokio::join!(line.write_all(b"more than fits"), cutting);
        assert!(written.is_err());
    }

    #[test]
    fn lines_that_have_ended_are_forgotten() {
        let lines = Lines::default();
        drop(lines.lay(Some(&token("a")), ()));
        let kept = lines.lay(Some(&token("b")), ());
        lines.sweep();
        assert_eq!(lines.0.borrow().len(), 1);
        assert_eq!((lines.cut(&token("a")), lines.cut(&token("b")), lines.cut(&token("b"))), (0, 1, 0));
        drop(kept);
    }

    #[test]
    fn a_later_line_of_the_token_is_another_one() {
        let lines = Lines::default();
        let first = lines.lay(Some(&token("a")), ());
        lines.cut(&token("a"));
        let second = lines.lay(Some(&token("a")), ());
        assert!(first.scissors.judge().is_err() && second.scissors.judge().is_ok());
    }
}
