//! For tests: a server that takes one request and answers with the bytes that it is told to.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Fetcher, Remote};
use crate::authority::Endpoint;
use crate::dial::{Destinations, Dialer};
use crate::tls;

pub struct Scripted {
    listener: TcpListener,
}

impl Scripted {
    pub async fn start() -> Self {
        Self { listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds") }
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::parse(&format!("http://{}/token", self.listener.local_addr().expect("well-formed")))
            .expect("well-formed")
    }

    pub fn remote(&self) -> Remote {
        Remote::new(self.endpoint(), &tls::Settings::default()).expect("well-formed")
    }

    /// Takes a request, answers it with `answer` and closes; the request as it came.
    pub async fn answer(&self, answer: impl AsRef<[u8]>) -> String {
        let (request, mut tcp) = self.request().await;
        // The client may have gone when it has seen enough.
        let _ = tcp.write_all(answer.as_ref()).await;
        let _ = tcp.shutdown().await;
        request
    }

    /// Takes a request, and leaves the answer to the caller.
    pub async fn request(&self) -> (String, TcpStream) {
        let (mut tcp, _) = self.listener.accept().await.expect("accepts");
        let mut bytes = Vec::new();
        while !complete(&bytes) {
            assert_ne!(tcp.read_buf(&mut bytes).await.expect("accepts"), 0, "the request was cut off");
        }
        (String::from_utf8(bytes).expect("reads"), tcp)
    }
}

/// A fetcher that may call this machine.
pub fn fetcher() -> Arc<Fetcher> {
    let allow = vec!["127.0.0.0/8".parse().expect("well-formed")];
    Arc::new(Fetcher::new(Arc::new(Dialer::new(Destinations { allow }, Vec::new()))))
}

fn complete(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |n| n.parse().expect("well-formed"));
    body.len() >= length
}
