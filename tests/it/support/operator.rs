//! Calls of the admin API, as operators make them.

use std::net::SocketAddr;
use std::path::PathBuf;

use countersign::proxy::Address;
use serde_json::{Value, json};

use super::client::Answer;
use super::{Client, SOON, Scene, wait_for};

pub fn socket(scene: &Scene) -> PathBuf {
    match &scene.admin {
        Address::Unix(path) => path.clone(),
        Address::Tcp(address) | Address::Tls(address) => panic!("{address} is no unix socket"),
    }
}

pub fn tcp(scene: &Scene) -> SocketAddr {
    match &scene.admin {
        Address::Tcp(address) | Address::Tls(address) => *address,
        Address::Unix(path) => panic!("{} is no TCP address", path.display()),
    }
}

/// What the approver of [`super::Setup::operators`] calls with.
pub const APPROVER: Option<&str> = Some("the approver's key");

/// `key = "sha256:..."` of a bearer key.
pub fn key(key: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("key = \"sha256:{hex}\"")
}

/// A call as text: `POST /v1/reload`, further fields, and a body for POST.
pub fn call(line: &str, host: &str, fields: &[(&str, &str)], body: &str) -> String {
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = if line.starts_with("POST") { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
    format!("{line} HTTP/1.1\r\nHost: {host}\r\n{fields}{length}\r\n{body}")
}

pub const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Calls as our own user, over the unix socket.
pub async fn own(scene: &Scene, line: &str, body: &str) -> Answer {
    let fields = if line.starts_with("POST") { &[JSON][..] } else { &[] };
    sent(Client::unix(&socket(scene)).await, &call(line, "localhost", fields, body)).await
}

pub async fn sent(mut client: Client, text: &str) -> Answer {
    client.send(text).await;
    client.answer().await.expect("an answer")
}

pub fn json_of(answer: &Answer) -> Value {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{}{}", answer.head, answer.text());
    serde_json::from_slice(&answer.body).expect("JSON")
}

/// Does something to a token: as our own user, or with a key.
pub async fn act(scene: &Scene, token: &str, what: &str, key: Option<&str>) -> Answer {
    let bearer = format!("Bearer {}", key.unwrap_or_default());
    let fields = [JSON, ("Authorization", &*bearer)];
    let fields = if key.is_some() { &fields[..] } else { &fields[..1] };
    let body = json!({ "reason": "the test wants it" }).to_string();
    let text = call(&format!("POST /v1/tokens/{token}/{what}"), "localhost", fields, &body);
    sent(Client::unix(&socket(scene)).await, &text).await
}

/// Lets a token in again, as the approver. Nothing is let in while the trail is slow: then it is tried again.
pub async fn release(scene: &Scene, token: &str) -> Answer {
    wait_for("an answer", SOON, async || {
        let answer = act(scene, token, "release", APPROVER).await;
        (answer.status != 503).then_some(answer)
    })
    .await
}

/// Lets a client in again, as [`release`].
pub async fn release_client(scene: &Scene, client: &str) -> Answer {
    let line = format!("POST /v1/clients/{client}/release");
    wait_for("an answer", SOON, async || {
        let answer = approver(scene, &line, json!({ "reason": "it was a test" })).await;
        (answer.status != 503).then_some(answer)
    })
    .await
}

/// What the approver calls.
pub async fn approver(scene: &Scene, line: &str, body: Value) -> Answer {
    let bearer = format!("Bearer {}", APPROVER.expect("it has a key"));
    let fields = [JSON, ("Authorization", &*bearer)];
    let fields = if line.starts_with("POST") { &fields[..] } else { &fields[1..] };
    sent(Client::unix(&socket(scene)).await, &call(line, "localhost", fields, &body.to_string())).await
}
