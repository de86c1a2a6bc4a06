//! A plain client for a single request.

use std::net::SocketAddr;

use bytes::Bytes;
use http::request::Builder;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The `reason` of an answer that the proxy made itself.
    pub fn reason(&self) -> Option<String> {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        problem.get("reason")?.as_str().map(ToOwned::to_owned)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// `GET path`, with further headers, on a connection of its own. `None`: no connection, or no answer.
pub async fn get_with(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Option<Answer> {
    call(address, Request::get(path), headers, Bytes::new()).await
}

/// `POST path` with this JSON, as [`get_with`].
pub async fn post(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &serde_json::Value,
) -> Option<Answer> {
    let request = Request::post(path).header("content-type", "application/json");
    call(address, request, headers, body.to_string().into()).await
}

async fn call(address: SocketAddr, request: Builder, headers: &[(&str, &str)], body: Bytes) -> Option<Answer> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let mut running = JoinSet::new();
    running.spawn(connection);
    let mut request = request.header("host", address.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = sender.send_request(request.body(Full::new(body)).expect("a request")).await.ok()?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    Some(Answer { status: head.status, headers: head.headers, body })
}

/// `GET path`.
pub async fn get(address: SocketAddr, path: &str) -> Option<Answer> {
    get_with(address, path, &[]).await
}
