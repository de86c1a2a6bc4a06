//! Upstream connections that end when the token they carry is taken out of use, or held back from their client.
//!
//! ```text
//! worker ─ order ─▶ Lines::cut(what) ─▶ each Line that it means: no byte leaves, whoever waits for one is woken to an error
//! ```
//!
//! What a connection still has to say lies in buffers of HTTP/2, TLS and hyper: it is kept from leaving at the one place
//! that all of it passes, so that none of these has to be asked. A request pays for it with one look at a flag of its own
//! worker for each piece that is read or written.
//!
//! Invariant: from when [`Lines::cut`] returns on, nothing is handed to the kernel on a line that it means and that was there
//! before.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::name::{ClientName, TokenName};

/// What is taken from those who have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cut {
    /// A token, from everybody.
    Token(TokenName),
    /// Everything, from a client.
    Client(ClientName),
    /// A token, from a client.
    Use(ClientName, TokenName),
}

/// Whose a line is, and what it carries.
pub struct Carried {
    pub client: ClientName,
    pub token: Option<TokenName>,
}

impl Cut {
    pub fn means(&self, carried: &Carried) -> bool {
        match self {
            Self::Token(token) => carried.token.as_ref() == Some(token),
            Self::Client(client) => carried.client == *client,
            Self::Use(client, token) => carried.client == *client && carried.token.as_ref() == Some(token),
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(token) => write!(f, "token {token}"),
            Self::Client(client) => write!(f, "client {client}"),
            Self::Use(client, token) => write!(f, "token {token} of client {client}"),
        }
    }
}

/// The lines of a worker.
#[derive(Default)]
pub struct Lines(RefCell<Vec<(Rc<Carried>, Weak<Scissors>)>>);

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
#[error("the token of this connection was taken out of use, or held back from its client")]
struct IsCut;

impl Lines {
    /// A line for a connection.
    pub fn lay<S>(&self, carried: &Rc<Carried>, inner: S) -> Line<S> {
        let scissors = Rc::<Scissors>::default();
        self.0.borrow_mut().push((carried.clone(), Rc::downgrade(&scissors)));
        Line { inner, scissors }
    }

    /// Cuts the lines that are meant. Returns how many there were.
    pub fn cut(&self, what: &Cut) -> usize {
        let mut all = self.0.borrow_mut();
        let meant = all.extract_if(.., |(carried, _)| what.means(carried));
        let lines: Vec<Rc<Scissors>> = meant.filter_map(|(_, line)| line.upgrade()).collect();
        drop(all);
        // First all of them, then whoever waits.
        lines.iter().for_each(|line| line.is_cut.set(true));
        lines.iter().for_each(|line| line.wake());
        lines.len()
    }

    /// Forgets those that have ended. Called now and then.
    pub fn sweep(&self) {
        self.0.borrow_mut().retain(|(_, line)| line.strong_count() > 0);
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

    fn token(name: &str) -> Cut {
        Cut::Token(name.parse().expect("a name"))
    }

    fn carried(client: &str, token: Option<&str>) -> Rc<Carried> {
        let token = token.map(|token| token.parse().expect("a name"));
        Rc::new(Carried { client: client.parse().expect("a name"), token })
    }

    fn with(token: &str) -> Rc<Carried> {
        carried("app", Some(token))
    }

    #[test]
    fn a_cut_means_a_token_a_client_or_the_use_of_one_by_the_other() {
        let all =
            [carried("app", Some("a")), carried("app", None), carried("job", Some("a")), carried("job", Some("b"))];
        let (app, a) = ("app".parse::<ClientName>().expect("a name"), "a".parse::<TokenName>().expect("a name"));
        for (cut, meant) in [
            (Cut::Token(a.clone()), [true, false, true, false]),
            (Cut::Client(app.clone()), [true, true, false, false]),
            (Cut::Use(app, a), [true, false, false, false]),
        ] {
            assert_eq!(all.each_ref().map(|carried| cut.means(carried)), meant, "{cut}");
        }
    }

    #[tokio::test]
    async fn on_a_line_that_was_cut_nothing_leaves_and_nobody_waits() {
        let lines = Lines::default();
        let (inner, mut far) = duplex(64);
        let (other_inner, mut other_far) = duplex(64);
        let mut line = lines.lay(&with("a"), inner);
        let mut other = lines.lay(&with("b"), other_inner);
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
        let mut line = lines.lay(&with("a"), inner);
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
        drop(lines.lay(&with("a"), ()));
        let kept = lines.lay(&with("b"), ());
        lines.sweep();
        assert_eq!(lines.0.borrow().len(), 1);
        assert_eq!((lines.cut(&token("a")), lines.cut(&token("b")), lines.cut(&token("b"))), (0, 1, 0));
        drop(kept);
    }

    #[test]
    fn a_later_line_of_the_token_is_another_one() {
        let lines = Lines::default();
        let first = lines.lay(&with("a"), ());
        lines.cut(&token("a"));
        let second = lines.lay(&with("a"), ());
        assert!(first.scissors.judge().is_err() && second.scissors.judge().is_ok());
    }
}
