//! Secrets of every kind go through the app, which logs at its most talkative; then all that it says and keeps is searched.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use crate::support::body::{Payload, hex};
use crate::support::issuer::Reply;
use crate::support::{Issuer, Scene, Setup, Upstream, log, upstream};

/// What the issuer gives, what proves us to it, and what apps send of their own. No other test has these.
const TOKENS: [&str; 3] = ["cnry1-Qm7xT4vB9zLk2Wd", "cnry2-Hs8yR5nC3pJg6Fa", "cnry3-Vd2wK9tZ7qXb4Me"];
const CLIENT_SECRET: &str = "cnry4-Ub6rN1sD8gPy3Hc";
const NEXT_CLIENT_SECRET: &str = "cnry5-Lw3eS7kF5jAz9Tq";
const OWN: [&str; 3] = ["cnry6-Gx4bM2uV8hRt1Kn", "cnry7-Zp9cE6yJ3dWs5Qf", "cnry8-Nk7aT1xL4vBg8Ru"];

/// Each way in which a secret may hide in a text.
fn forms(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let percent: String = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
    let reversed: String = secret.chars().rev().collect();
    let escaped: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    let numbers = bytes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut forms = vec![secret.to_owned(), hex(bytes), hex(bytes).to_uppercase(), percent.to_lowercase(), percent];
    forms.extend([reversed, escaped, numbers]);
    for shift in 0..3 {
        // In base64 it depends on what goes before; the ends depend on the neighbours and are cut.
        let shifted = [&vec![0; shift][..], bytes].concat();
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let text = engine.encode(&shifted);
            forms.push(text[4..text.len() - 2].to_owned());
        }
    }
    forms
}

/// Where a secret stands that should not.
fn found(place: &str, text: &str) -> Vec<String> {
    let secrets = TOKENS.iter().chain(&OWN).chain([&CLIENT_SECRET, &NEXT_CLIENT_SECRET]);
    let hits = secrets.flat_map(|secret| forms(secret)).filter(|form| text.contains(form.as_str()));
    hits.map(|form| format!("{form} in {place}")).collect()
}

/// The forms in which a careless upstream sends a token back.
fn echoed(token: &str) -> String {
    let percent: String = token.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let base64 = ["", "a", "ab"].map(|before| STANDARD.encode(format!("{before}{token}:x")));
    [token.to_owned(), hex(token.as_bytes()), percent, base64.join(" ")].join(" ")
}

/// An answer that carries the token of its request wherever it can.
fn echo(seen: &upstream::Seen) -> upstream::Reply {
    let sent = seen.header("authorization").expect("a token");
    let echo = echoed(sent.strip_prefix("Bearer ").expect("a bearer token"));
    let known = Payload::of(format!("{{\"authorization\": \"{echo}\"}}\n"));
    let told = Payload::chunked(format!("{{\"authorization\": \"{echo}\"}}\n"));
    let reply = upstream::Reply::new(200).header("x-echo", &echo).header("authorization", sent);
    let reply = reply.header("location", &format!("/x?t={sent}")).header("set-cookie", &format!("t={echo}"));
    reply.body(if seen.target == "/known" { known } else { told })
}

/// An upstream that sends the token back wherever it can, on a route that looks into bodies and on one that does not.
async fn hear_echoes(scene: &Scene, upstreams: [&Upstream; 2]) -> Vec<String> {
    let mut said = Vec::new();
    upstreams.iter().for_each(|upstream| upstream.answers(echo));
    for (path, body_too) in [("/api/x", false), ("/scrubbed/known", true), ("/scrubbed/told", true)] {
        let answer = scene.exchange(format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert_eq!(answer.status, 200);
        assert!(answer.header("x-echo").is_some_and(|echo| echo.contains("[redacted]")));
        assert_eq!(found("a body", answer.text()).is_empty(), body_too, "{path}: {}", answer.text());
        said.push(answer.head.clone());
    }
    upstreams[1].answers(|seen| {
        upstream::Reply::ok(seen.header("authorization").expect("a token").to_owned())
            .header("content-encoding", "gzip")
    });
    let answer = scene.exchange("POST /scrubbed/x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(answer.status, 502);
    said.push(format!("{}{}", answer.head, answer.text()));
    said
}

/// Every request and answer that leaves a word somewhere.
async fn live(scene: &Scene, issuer: &Issuer, upstream: &Upstream, setup: &Setup) -> Vec<String> {
    let mut said = Vec::new();
    let own = format!("Authorization: Bearer {}\r\nCookie: s={}\r\nX-Api-Key: {0}", OWN[0], OWN[1]);
    let good = format!(
        "POST /api/x?key={} HTTP/1.1\r\nHost: localhost\r\n{own}\r\nContent-Length: 21\r\n\r\n{}",
        OWN[2], OWN[2]
    );
    assert_eq!(scene.exchange(&good).await.status, 200);
    assert_eq!(upstream.last().all("authorization"), [format!("Bearer {}", TOKENS[0])]);

    let refused = [
        ("POST /api/", "POST /none/"),
        ("POST /api/x", "POST /api/denied"),
        ("POST /api/x", "POST /api/a//b"),
        ("Host: localhost", "Host: evil.test"),
        ("Host: localhost", "Host: localhost\r\nExpect: cnry8-Nk7aT1xL4vBg8Ru"),
        ("POST ", "TRACE "),
    ];
    for (from, to) in refused {
        let answer = scene.exchange(good.replacen(from, to, 1)).await;
        assert!(answer.status >= 400);
        said.push(format!("{}{}", answer.head, answer.text()));
    }

    // An issuer that repeats what it was told, and what it should have given.
    let echo = |secret: &str| {
        let members = serde_json::json!({"error": "invalid_request", "error_description": format!("bad: {secret}"), "access_token": TOKENS[1]});
        Reply::json(400, &members.to_string())
    };
    issuer.next(echo(CLIENT_SECRET));
    scene.rotate("api").await.expect_err("refused");
    issuer.next(Reply::json(200, &format!(r#"{{"access_token":"{}\r\n","expires_in":60}}"#, TOKENS[1])));
    scene.rotate("api").await.expect_err("a line end");
    issuer.next(Reply::with(500, "", TOKENS[1]));
    scene.rotate("api").await.expect_err("down");
    issuer.next(Reply::token(TOKENS[1], 3600));
    std::fs::write(scene.folder().join("client-secret"), NEXT_CLIENT_SECRET).expect("written");
    scene.rotate("api").await.expect("a generation");
    assert_eq!(scene.exchange(&good).await.status, 200);
    issuer.next(Reply::token(TOKENS[2], 3600));
    let edited = setup.clone().without("token", "api").token("api", issuer, "reason = \"another\"");
    scene.reload(&edited).await.expect("a good config");
    assert_eq!(scene.exchange(&good).await.status, 200);
    assert_eq!(upstream.last().all("authorization"), [format!("Bearer {}", TOKENS[2])]);
    upstream
        .answers(|seen| upstream::Reply::new(500).header("authorization", seen.header("authorization").unwrap_or("")));
    let answer = scene.exchange(&good).await;
    said.push(format!("{}{}", answer.head, answer.text()));
    said
}

/// All that the telemetry listener says.
async fn ask(scene: &Scene) -> Vec<String> {
    let mut said = Vec::new();
    for path in ["/metrics", "/readyz?verbose", "/startupz?verbose", "/.well-known/jwks.json", "/none"] {
        said.push(scene.ask(path).await.text().to_owned());
    }
    said
}

#[tokio::test]
async fn no_secret_is_said_or_kept_in_any_form() {
    let (issuer, upstream, scrubbed) = (Issuer::start().await, Upstream::http1().await, Upstream::http2().await);
    issuer.next(Reply::token(TOKENS[0], 3600));
    let route = "token = \"api\"\nallow = [\"POST /x\"]";
    let setup = Setup::new().token("api", &issuer, "").route("api", &upstream, route);
    let setup = setup.route("scrubbed", &scrubbed, "token = \"api\"\nscrub = true");
    let folder = std::sync::Arc::new(tempfile::TempDir::new().expect("a folder"));
    std::fs::write(folder.path().join("client-secret"), CLIENT_SECRET).expect("written");
    let scene = Scene::start_in(folder.clone(), &setup).await;
    let mut said = live(&scene, &issuer, &upstream, &setup).await;
    said.extend(hear_echoes(&scene, [&upstream, &scrubbed]).await);
    said.extend(ask(&scene).await);
    said.push(format!("{:?}", setup.config(scene.folder())));
    scene.finish().await;

    let mut hits: Vec<String> = said.iter().flat_map(|text| found("an answer", text)).collect();
    let log = log::text();
    assert!(log.contains("\"/x\"") || log.contains("/x"), "requests are logged");
    hits.extend(found("the log", &log));
    let mut folders = vec![folder.path().join("state")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = std::fs::read(&path).expect("read");
                hits.extend(found(&path.display().to_string(), &String::from_utf8_lossy(&bytes)));
            }
        }
    }
    assert_eq!(hits, Vec::<String>::new());
}

#[test]
fn each_form_of_a_secret_would_be_found() {
    let secret = TOKENS[0];
    for before in ["", "a", "ab", "Bearer "] {
        let text = STANDARD_NO_PAD.encode(format!("{before}{secret}:x"));
        assert!(!found("base64", &text).is_empty(), "{before:?}");
    }
    assert!(!found("raw", &format!("x{secret}y")).is_empty());
    assert!(!found("debug", &format!("{:?}", secret.as_bytes())).is_empty());
    assert!(found("nothing", "an innocent text").is_empty());
}
