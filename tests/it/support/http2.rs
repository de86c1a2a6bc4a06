//! A client of the proxy that speaks HTTP/2 by prior knowledge.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::body::Payload;
use super::soon;

pub struct Http2Client {
    sender: http2::SendRequest<Payload>,
    base: String,
    _connection: JoinSet<()>,
}

/// An answer, whole.
pub struct Whole {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Http2Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connects");
        Self::over(stream, &format!("http://localhost:{}", address.port())).await
    }

    /// On a connection that is there, to whom it calls by this base.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, base: &str) -> Self {
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = soon("a handshake", handshake).await.expect("a handshake");
        let mut running = JoinSet::new();
        running.spawn(async move {
            // Its end is seen in what is sent.
            let _ = connection.await;
        });
        Self { sender, base: base.to_owned(), _connection: running }
    }

    /// A request to this path, in base-URL form.
    pub fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("{}{path}", self.base))
    }

    /// Sends a request; the head of its answer.
    pub async fn send(&mut self, request: Request<Payload>) -> Response<Incoming> {
        soon("a free stream", self.sender.ready()).await.expect("a connection");
        soon("an answer", self.sender.send_request(request)).await.expect("an answer")
    }

    /// Sends a request without waiting for its answer.
    pub fn start(
        &mut self,
        request: Request<Payload>,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + Send + use<> {
        self.sender.send_request(request)
    }

    /// Asks for a stream that carries bytes: its answer's head, and the stream where it is granted.
    pub async fn open(&mut self, request: Request<Payload>) -> (Response<()>, Option<TokioIo<Upgraded>>) {
        let mut response = self.send(request).await;
        let stream = match response.status().is_success() {
            true => Some(soon("a stream", hyper::upgrade::on(&mut response)).await.expect("a stream")),
            false => None,
        };
        (response.map(drop), stream.map(TokioIo::new))
    }

    pub async fn exchange(&mut self, request: Request<Payload>) -> Whole {
        whole(self.send(request).await).await
    }

    pub async fn get(&mut self, path: &str) -> Whole {
        let request = self.request("GET", path).body(Payload::of("")).expect("a request");
        self.exchange(request).await
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

pub async fn whole(response: Response<Incoming>) -> Whole {
    let (parts, body) = response.into_parts();
    let collected = soon("the whole answer", body.collect()).await.expect("a body");
    let trailers = collected.trailers().cloned();
    Whole { status: parts.status.as_u16(), headers: parts.headers, body: collected.to_bytes(), trailers }
}

impl Whole {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub fn reason(&self) -> (u16, String) {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).expect("JSON");
        (self.status, problem["reason"].as_str().expect("a reason").to_owned())
    }
}
