//! What the demo prints.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// The left column's width.
const COLUMN: usize = 44;

/// Sends a request as an app would, prints it beside what the API says it received, and returns the fingerprint of the
/// token that the API saw.
pub async fn round_trip(proxy: SocketAddr, target: &str) -> anyhow::Result<String> {
    let request = Request::get(target)
        .header(HOST, proxy.to_string())
        .header(USER_AGENT, "an-app/1.0")
        .header(ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())?;
    let mut sent = vec![format!("GET {target}")];
    sent.extend(request.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or(""))));

    let (status, body) = send(proxy, request).await?;
    ensure!(status == StatusCode::OK, "the proxy answered {status}: {}", String::from_utf8_lossy(&body));
    let answer: Value = serde_json::from_slice(&body).context("the API's answer is not JSON")?;
    let received = &answer["received"];
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let mut seen = vec![format!("{} {}", text(&received["method"]), text(&received["target"]))];
    let headers = received["headers"].as_object().context("the API shows no headers")?;
    seen.extend(headers.iter().map(|(name, value)| format!("{name}: {}", text(value))));
    seen.push(format!(
        "(a token of {} s, scope {})",
        answer["token"]["expires_in_seconds"],
        text(&answer["token"]["scope"])
    ));

    println!("{:COLUMN$}What the API received, over TLS", "What the app sent, in the clear");
    for line in 0..sent.len().max(seen.len()) {
        let (left, right) = (sent.get(line).map_or("", |line| line), seen.get(line).map_or("", |line| line));
        println!("  {left:width$}  {right}", width = COLUMN - 2);
    }
    println!();
    Ok(text(&answer["token"]["fingerprint"]))
}

async fn send(proxy: SocketAddr, request: Request<Empty<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(proxy).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        drop(sender);
        anyhow::Ok((status, body))
    };
    let (exchanged, connected) = tokio::join!(exchange, connection);
    connected?;
    exchanged
}

/// What to type next.
pub fn instructions(proxy: SocketAddr, telemetry: SocketAddr, config: &Path, trail: &Path) {
    println!(
        "\
Countersign runs in front of an issuer of 30-second tokens and an API that says what it received.
The app needs no credential, only this address: http://{proxy}/echo

In another terminal:
  curl http://{proxy}/echo/hello                          # the API receives a token; you never hold one
  curl -H 'Authorization: Bearer mine' http://{proxy}/echo/hello   # what you bring along is taken out
  curl -X DELETE http://{proxy}/echo/hello                # not allowed by the route: nothing is sent
  curl -s http://{telemetry}/metrics | grep countersign_token   # generations come and go
  curl 'http://{telemetry}/readyz?verbose'
  cut -c19- {trail}/trail-*.log                           # the trail of the token's life

The config is {config}. Ctrl-C ends.
",
        trail = trail.display(),
        config = config.display(),
    );
}
