//! An upstream that is played by hand: the test accepts its connections, reads the bytes and writes the answers.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificate::Certificate;
use super::soon;

pub struct RawUpstream {
    listener: TcpListener,
    pub address: SocketAddr,
    pub certificate: Certificate,
}

impl RawUpstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
        let address = listener.local_addr().expect("an address");
        Self { listener, address, certificate: Certificate::new(&["127.0.0.1"], &["http/1.1"]) }
    }

    /// The next connection, with its handshake done.
    pub async fn accept(&self) -> RawConnection {
        let accepted = soon("a connection to the upstream", async {
            let (tcp, _) = self.listener.accept().await.expect("accepts");
            TlsAcceptor::from(self.certificate.server.clone()).accept(tcp).await.expect("a handshake")
        });
        RawConnection { stream: accepted.await, read: Vec::new() }
    }

    /// Whether nobody wants to connect.
    pub async fn is_left_alone(&self) -> bool {
        tokio::time::timeout(std::time::Duration::from_millis(200), self.listener.accept()).await.is_err()
    }
}

pub struct RawConnection {
    stream: TlsStream<TcpStream>,
    /// What was read and not yet taken.
    read: Vec<u8>,
}

impl RawConnection {
    /// The next head, up to its empty line.
    pub async fn head(&mut self) -> String {
        let reading = async {
            loop {
                if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                    let head: Vec<u8> = self.read.drain(..end + 4).collect();
                    return String::from_utf8(head).expect("a head in ASCII");
                }
                let read = self.stream.read_buf(&mut self.read).await.expect("reads");
                assert_ne!(read, 0, "the connection ended in a head: {}", String::from_utf8_lossy(&self.read));
            }
        };
        soon("a head", reading).await
    }

    /// Exactly so many bytes of what comes.
    pub async fn bytes(&mut self, length: usize) -> Vec<u8> {
        let reading = async {
            while self.read.len() < length {
                let read = self.stream.read_buf(&mut self.read).await.expect("reads");
                assert_ne!(read, 0, "the connection ended early");
            }
        };
        soon("bytes of a body", reading).await;
        self.read.drain(..length).collect()
    }

    /// All that comes until the other side ends the connection, well or not.
    pub async fn rest(&mut self) -> Vec<u8> {
        let reading = async { while matches!(self.stream.read_buf(&mut self.read).await, Ok(1..)) {} };
        soon("the end of a connection", reading).await;
        std::mem::take(&mut self.read)
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("writes");
        self.stream.flush().await.expect("flushes");
    }

    /// Whether the other side still takes this.
    pub async fn try_write(&mut self, bytes: &str) -> bool {
        self.stream.write_all(bytes.as_bytes()).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Says that nothing more comes, and goes on reading.
    pub async fn stop_writing(&mut self) {
        // The other side may have gone first.
        let _ = self.stream.shutdown().await;
    }

    /// Writes this again and again until the other side has had enough; how many bytes that took.
    pub async fn flood(&mut self, piece: &str) -> usize {
        let pieces = piece.repeat(1024);
        let mut written = 0;
        let writing = async {
            while self.try_write(&pieces).await {
                written += pieces.len();
            }
        };
        soon("the end of a flood", writing).await;
        written
    }

    /// Ends the connection as TLS wants it.
    pub async fn close(mut self) {
        // The other side may have gone first.
        let _ = self.stream.shutdown().await;
    }
}
