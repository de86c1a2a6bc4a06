//! `requests`, and `check --policy`

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::{Ended, Place};

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// A place whose token waits for alice, who has a key, and bob, who asks.
fn place(approval: &str) -> Place {
    let digest = |text: &str| -> String {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let place = Place::new(&format!(
        "[[operator]]\nname = \"alice\"\nkey = \"sha256:{}\"\nroles = [\"approver\"]\n\
         [[operator]]\nname = \"bob\"\nkey = \"sha256:{}\"\nroles = [\"requester\"]\n\
         [approval]\ndefault = \"ask\"\n{approval}",
        digest(KEY),
        digest("bobs-key-bobs-key")
    ));
    place.write("token", "the-token");
    place.write("alice.key", KEY);
    place.write("bob.key", "bobs-key-bobs-key");
    place
}

fn as_operator(place: &Place, who: &str, arguments: &[&str]) -> Ended {
    let key = format!("{who}.key");
    place.run(&[arguments, &["--operator-key", &key]].concat())
}

#[test]
fn a_request_is_looked_at_decided_and_submitted_by_commands() {
    let place = place("");
    let _running = place.start();
    place.run(&["wait"]).ok();
    let table = as_operator(&place, "alice", &["requests", "list"]).ok();
    let row: Vec<&str> = table.lines().nth(1).expect("a request").split_whitespace().collect();
    assert_eq!((row[1], row[2]), ("pending", "api"), "{table}");
    let page = as_operator(&place, "alice", &["requests", "show", row[0]]).ok();
    assert!(page.contains("deny * /things/secret") && page.contains("for all clients"), "{page}");
    assert!(page.contains("source:        file, static, settings "), "{page}");
    assert!(page.contains("pending: 0 of 1 approvals (approver)") && page.contains("first use of"), "{page}");
    let said = as_operator(&place, "bob", &["requests", "approve", row[0], "--reason", "mine"]).failed(77);
    assert!(said.contains("(not_allowed)"), "{said}");
    let page = as_operator(&place, "alice", &["requests", "approve", row[0], "--reason", "looked at it"]).ok();
    assert!(page.contains("granted by alice until"), "{page}");
    let submit = ["requests", "submit", "api", "--for", "30m", "--reason", "a hotfix", "--scopes", "admin"];
    let said = as_operator(&place, "bob", &submit).failed(1);
    assert!(said.contains("leave the scopes out"), "{said}");
    let page = as_operator(&place, "bob", &submit[..7]).ok();
    assert!(page.contains("for 1800s") && page.contains("requester:     bob"), "{page}");
    let id = page.lines().next().and_then(|line| line.split_whitespace().nth(1)).expect("an id").to_owned();
    let page = as_operator(&place, "bob", &["requests", "deny", &id, "--reason", "not needed"]).ok();
    assert!(page.contains("denied by bob: not needed"), "{page}");
    let none = as_operator(&place, "alice", &["requests", "show", "0011223344556677"]).failed(1);
    assert!(none.contains("(no_request)"), "{none}");
}

/// A proxy that shows something else than what has the digest.
#[test]
fn what_is_shown_is_what_is_approved_and_signed() {
    let place = place("");
    let pkcs8 = aws_lc_rs::signature::Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new());
    let pem = STANDARD.encode(pkcs8.expect("a key").as_ref());
    place.write("signing.pem", &format!("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n"));
    let request = {
        let _running = place.start();
        place.run(&["wait"]).ok();
        let list = as_operator(&place, "alice", &["requests", "list", "--json"]).json();
        list["requests"][0].clone()
    };
    let id = request["id"].as_str().expect("an id").to_owned();
    let mut lie = request;
    lie["request"]["scopes"] = serde_json::json!(["harmless"]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let heads = std::thread::spawn(move || {
        let mut heads = Vec::new();
        for _ in 0..3 {
            heads.push(answer(&listener, &lie.to_string()));
        }
        heads
    });
    let approve = ["requests", "approve", &id, "--admin", &address];
    let said = as_operator(&place, "alice", &[&approve[..], &["--reason", "looks good"]].concat()).failed(1);
    assert!(said.contains("is not the request") && said.contains("Nothing was approved"), "{said}");
    let signed = [&approve[..], &["--sign", "signing.pem", "--out", "grant.json"]].concat();
    let said = as_operator(&place, "alice", &signed).failed(1);
    assert!(said.contains("is not the request") && !place.path("grant.json").exists(), "{said}");
    let heads = heads.join().expect("the proxy in the middle");
    assert!(heads.iter().all(|head| head.starts_with("GET ")), "{heads:?}");
}

/// Answers one request with this JSON; its first line.
fn answer(listener: &std::net::TcpListener, json: &str) -> String {
    let (mut stream, _) = listener.accept().expect("a caller");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    let length = json.len();
    let text = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{json}"
    );
    stream.write_all(text.as_bytes()).expect("answered");
    String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_refusal_gives_the_command_that_asks_for_what_was_refused() {
    let place = place("");
    let _running = place.start();
    place.run(&["wait"]).ok();
    let mut proxy = TcpStream::connect(place.proxy).expect("connects");
    let request = "DELETE /api/things/7 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    proxy.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    proxy.read_to_string(&mut answer).expect("text");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let problem: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let command = problem["request"].as_str().expect("a command");
    let arguments: Vec<&str> = command.split(' ').skip(1).collect();
    let page = as_operator(&place, "bob", &arguments).ok();
    assert!(page.contains("DELETE /things/7"), "it says what it asks for: {page}");
    let mut old = arguments.clone();
    old[6] = "0011223344556677-1";
    let said = as_operator(&place, "bob", &old).failed(1);
    assert!(said.contains("(no_refusal)") && said.contains("allow"), "{said}");
}

#[test]
fn a_grant_that_is_signed_makes_the_config_pass() {
    let place = place("");
    let said = place.run(&["check", "--policy"]).failed(1);
    assert!(said.contains("token api needs approval, 0 of 1 given (role approver)"), "{said}");
    assert!(place.run(&["check"]).ok().contains("ok"));
    let pkcs8 = aws_lc_rs::signature::Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new());
    let pem = STANDARD.encode(pkcs8.expect("a key").as_ref());
    place.write("signing.pem", &format!("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n"));
    let public = place.run(&["requests", "signer", "signing.pem"]).ok();
    {
        let _running = place.start();
        place.run(&["wait"]).ok();
        let table = as_operator(&place, "alice", &["requests", "list"]).ok();
        let id = table.lines().nth(1).and_then(|line| line.split_whitespace().next()).expect("an id").to_owned();
        std::fs::create_dir(place.path("grants")).expect("a folder");
        let out = ["--sign", "signing.pem", "--out", "grants/api.json"];
        as_operator(&place, "alice", &[&["requests", "approve", &id][..], &out].concat()).ok();
    }
    let config = std::fs::read_to_string(place.path("countersign.toml")).expect("the config");
    let signers = format!("[approval]\nsigners = {{ alice = \"{}\" }}\ngrants = \"grants\"", public.trim());
    place.write_config(&config.replace("[approval]", &signers));
    let said = place.run(&["check", "--policy"]).ok();
    assert!(said.contains("token api is approved by alice"), "{said}");
    let grant = std::fs::read_to_string(place.path("grants/api.json")).expect("the grant");
    place.write("grants/api.json", &grant.replace("\"alice\"", "\"mallory\""));
    let json = place.run(&["check", "--policy", "--json"]);
    assert_eq!(json.code, 1);
    let problems = json.json().to_string();
    assert!(problems.contains("needs approval") && problems.contains("mallory is not among `signers`"), "{problems}");
}
