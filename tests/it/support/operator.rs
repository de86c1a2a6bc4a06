//! Calls of the admin API, as operators make them.

use std::net::SocketAddr;
use std::path::PathBuf;

use countersign::proxy::Address;
use serde_json::{Value, json};

use super::client::Answer;
use super::{Client, Scene};

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
