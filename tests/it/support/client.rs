//! A client of the proxy that writes exactly what it is told to, and reads answers strictly.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::soon;

/// One connection.
pub struct Client {
    stream: Box<dyn Io>,
    /// What was read and not yet taken.
    read: Vec<u8>,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// An answer, its names in lower case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Client {
    pub async fn tcp(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connects");
        stream.set_nodelay(true).expect("a socket");
        Self { stream: Box::new(stream), read: Vec::new() }
    }

    /// As the kernel tells of a process of another user. Needs root.
    pub async fn of_user(user: u32, address: SocketAddr) -> Self {
        // A thread has a user of its own, and so has a socket that it opens.
        let connecting = std::thread::spawn(move || {
            set_thread_res_uid(None, Uid::from_raw(user), None)
                .expect("only root becomes another user: run the tests as root");
            std::net::TcpStream::connect(address).expect("connects")
        });
        let stream = connecting.join().expect("no panic");
        stream.set_nonblocking(true).expect("a socket");
        let stream = TcpStream::from_std(stream).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Self { stream: Box::new(stream), read: Vec::new() }
    }

    /// As [`Client::unix`], of a process of another user. Needs root.
    pub async fn unix_of_user(user: u32, path: &Path) -> Self {
        let path = path.to_owned();
        let connecting = std::thread::spawn(move || {
            set_thread_res_uid(None, Uid::from_raw(user), None)
                .expect("only root becomes another user: run the tests as root");
            std::os::unix::net::UnixStream::connect(path).expect("connects")
        });
        let stream = connecting.join().expect("no panic");
        stream.set_nonblocking(true).expect("a socket");
        Self { stream: Box::new(UnixStream::from_std(stream).expect("a socket")), read: Vec::new() }
    }

    /// Over TLS, to whoever this is.
    pub async fn tls(address: SocketAddr, config: Arc<rustls::ClientConfig>) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let name = rustls_pki_types::ServerName::from(address.ip());
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await?;
        Ok(Self { stream: Box::new(stream), read: Vec::new() })
    }

    /// TLS on a connection that is there, with whoever is at the other end of it.
    pub async fn tls_stream(
        self,
        name: &str,
        config: Arc<rustls::ClientConfig>,
    ) -> io::Result<tokio_rustls::client::TlsStream<impl AsyncRead + AsyncWrite + Unpin + Send + use<>>> {
        assert!(self.read.is_empty(), "nothing came before the handshake");
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).expect("a name");
        soon("a handshake", tokio_rustls::TlsConnector::from(config).connect(name, self.stream)).await
    }

    /// The same as a client.
    pub async fn over_tls(self, name: &str, config: Arc<rustls::ClientConfig>) -> io::Result<Self> {
        let stream = self.tls_stream(name, config).await?;
        Ok(Self { stream: Box::new(stream), read: Vec::new() })
    }

    /// On a connection that is there.
    pub fn on(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self { stream: Box::new(stream), read: Vec::new() }
    }

    pub async fn unix(path: &Path) -> Self {
        Self { stream: Box::new(UnixStream::connect(path).await.expect("connects")), read: Vec::new() }
    }

    /// Writes these bytes and no others. An app does not notice at once that nobody reads any more.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // What came of it is seen in the answer.
        let _ = soon("a write", self.stream.write_all(bytes.as_ref())).await;
        let _ = self.stream.flush().await;
    }

    /// `GET`, in origin form, to `localhost`.
    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        self.answer().await.expect("an answer")
    }

    /// The answer to a request that is not HEAD, whole; interim answers are passed over.
    ///
    /// # Errors
    /// When the connection ends before the answer does, or the answer is not well-formed.
    pub async fn answer(&mut self) -> io::Result<Answer> {
        soon("an answer", self.read_answer(false)).await
    }

    /// The answer to HEAD.
    ///
    /// # Errors
    /// As [`Client::answer`].
    pub async fn answer_to_head(&mut self) -> io::Result<Answer> {
        soon("an answer", self.read_answer(true)).await
    }

    /// The head of an answer alone, of an interim one too.
    ///
    /// # Errors
    /// When the connection ends before.
    pub async fn head(&mut self) -> io::Result<Answer> {
        soon("a head", self.read_head()).await
    }

    /// Exactly so many bytes.
    ///
    /// # Errors
    /// When the connection ends before.
    pub async fn bytes(&mut self, length: usize) -> io::Result<Vec<u8>> {
        soon("bytes", self.take(length)).await
    }

    /// Whether the proxy ends the connection without another byte.
    pub async fn is_closed(&mut self) -> bool {
        self.read.is_empty() && matches!(soon("the end", self.stream.read(&mut [0; 1])).await, Ok(0) | Err(_))
    }

    /// All that comes until the end, and how the end was.
    pub async fn rest(&mut self) -> (Vec<u8>, io::Result<usize>) {
        let mut rest = std::mem::take(&mut self.read);
        let end = soon("the end", self.stream.read_to_end(&mut rest)).await;
        (rest, end)
    }

    async fn read_answer(&mut self, to_head: bool) -> io::Result<Answer> {
        let mut answer = self.read_head().await?;
        while answer.status < 200 {
            answer = self.read_head().await?;
        }
        if to_head || answer.status == 204 || answer.status == 304 {
            return Ok(answer);
        }
        answer.body = match (answer.header("transfer-encoding"), answer.header("content-length")) {
            (Some("chunked"), None) => self.chunked().await?,
            (None, Some(length)) => self.take(length.parse().map_err(|_| odd("content-length"))?).await?,
            (None, None) => {
                self.stream.read_to_end(&mut self.read).await?;
                std::mem::take(&mut self.read)
            }
            _ => return Err(odd("framing")),
        };
        Ok(answer)
    }

    async fn read_head(&mut self) -> io::Result<Answer> {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            self.more().await?;
        };
        let head = String::from_utf8(self.take(end + 4).await?).map_err(|_| odd("head"))?;
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok());
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').ok_or_else(|| odd("field"))?;
            Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        let headers = headers.collect::<io::Result<_>>()?;
        Ok(Answer { status: status.ok_or_else(|| odd("status line"))?, headers, head, body: Vec::new() })
    }

    async fn chunked(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = self.read.windows(2).position(|window| window == b"\r\n") {
                    break end;
                }
                self.more().await?;
            };
            let line = self.take(end + 2).await?;
            let size = std::str::from_utf8(&line[..end]).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
            let size = size.ok_or_else(|| odd("chunk size"))?;
            let chunk = self.take(size + 2).await?;
            if !chunk.ends_with(b"\r\n") {
                return Err(odd("chunk"));
            }
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.read.len() < length {
            self.more().await?;
        }
        let rest = self.read.split_off(length);
        Ok(std::mem::replace(&mut self.read, rest))
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

impl Answer {
    /// The value of a field that stands there once at most.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str());
        let first = values.next();
        assert_eq!(values.next(), None, "{name} stands there twice");
        first
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// The body of an answer that the proxy made itself.
    pub fn problem(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}{}", self.head, self.text());
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Status and reason of an answer that the proxy made itself.
    pub fn refusal(&self) -> (u16, String) {
        (self.status, self.problem()["reason"].as_str().expect("a reason").to_owned())
    }
}

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("an odd {what}"))
}
