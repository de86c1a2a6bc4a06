//! Tokens that are bound to a key (RFC 9449): what the issuer and the upstream are shown.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::issuer::Reply as Issued;
use crate::support::upstream::{Reply, Seen};
use crate::support::{Issuer, Scene, Setup, Upstream};

/// Answers with a bound token, once the proof holds the nonce.
async fn issuer() -> Issuer {
    let issuer = Issuer::answering(|number| {
        let token = json!({ "access_token": format!("tok-{number}"), "token_type": "DPoP", "expires_in": 3600 });
        Issued::json(200, &token.to_string())
    })
    .await;
    let wanted = r#"{"error":"use_dpop_nonce"}"#;
    issuer.next(Issued::with(400, "Content-Type: application/json\r\nDPoP-Nonce: of-the-issuer\r\n", wanted));
    issuer
}

fn setup(issuer: &Issuer, upstream: &Upstream, more: &str) -> Setup {
    let source = format!(
        r#"{{ kind = "client_credentials", token_url = "{}", client_id = "api", client_secret = "file:client-secret", dpop = true }}"#,
        issuer.url()
    );
    Setup::new().token_from("api", &source, more).route("api", upstream, r#"token = "api""#)
}

/// The claims of a proof, and the key in it, which has signed it.
fn read(proof: &str) -> (Value, Jwk) {
    let key = decode_header(proof).expect("a header").jwk.expect("a key");
    let mut validation = Validation::new(Algorithm::ES256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    let claims =
        decode(proof, &DecodingKey::from_jwk(&key).expect("a key"), &validation).expect("a good signature").claims;
    (claims, key)
}

/// A server that wants this nonce in each proof.
fn wants(nonce: &'static str) -> impl Fn(&Seen) -> Reply + Send + Sync + 'static {
    move |seen| {
        let has_it = seen.header("dpop").is_some_and(|proof| read(proof).0["nonce"] == nonce);
        let reply = if has_it { Reply::ok("ok") } else { refusal() };
        reply.header("dpop-nonce", nonce)
    }
}

fn refusal() -> Reply {
    Reply::new(401).header("www-authenticate", r#"DPoP error="use_dpop_nonce", error_description="once more""#)
}

fn request(method: &str) -> String {
    format!("{method} /api/x?a=1 HTTP/1.1\r\nHost: localhost\r\nDPoP: mine\r\ndpop_: mine\r\nContent-Length: 0\r\n\r\n")
}

#[tokio::test]
async fn a_bound_token_is_proved_at_its_issuer_and_with_each_request() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let issuer = issuer().await;
        let scene = setup(&issuer, &upstream, "").start().await;
        for method in ["GET", "POST"] {
            assert_eq!(scene.exchange(request(method)).await.status, 200);
        }
        let asked: Vec<(Value, Jwk)> = issuer.calls().iter().map(|call| read(call.header("dpop"))).collect();
        assert_eq!((asked[0].0.get("nonce"), &asked[1].0["nonce"]), (None, &json!("of-the-issuer")));
        assert_eq!((&asked[1].0["htm"], &asked[1].0["htu"]), (&json!("POST"), &json!(issuer.url())));

        let seen = upstream.seen();
        let proofs: Vec<(Value, Jwk)> = seen.iter().map(|seen| read(seen.header("dpop").expect("one"))).collect();
        for ((seen, method), (claims, key)) in seen.iter().zip(["GET", "POST"]).zip(&proofs) {
            assert_eq!(seen.all("authorization"), ["DPoP tok-1"]);
            assert_eq!((seen.all("dpop").len(), seen.header("dpop_")), (1, None), "the app's own is gone");
            let url = format!("https://{}/x", upstream.address);
            assert_eq!((&claims["htm"], &claims["htu"]), (&json!(method), &json!(url)));
            let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"tok-1");
            assert_eq!(claims["ath"], URL_SAFE_NO_PAD.encode(hash));
            let name = |key: &Jwk| key.thumbprint(ThumbprintHash::SHA256).expect("a name");
            assert_eq!(name(key), name(&asked[0].1), "it is bound to the key that the issuer saw");
        }
        assert_ne!(proofs[0].0["jti"], proofs[1].0["jti"]);
        scene.finish().await;
    }
}

/// How often requests were sent once more for a nonce.
async fn repeated(scene: &Scene) -> f64 {
    scene.metric("countersign_requests_repeated_total", &[("cause", "nonce")]).await
}

#[tokio::test]
async fn a_server_that_wants_a_nonce_is_shown_it_and_the_token_is_not_taken_for_bad() {
    let (issuer, upstream) = (issuer().await, Upstream::http1().await);
    let scene = setup(&issuer, &upstream, "").start().await;
    upstream.answers(wants("first"));
    let answer = scene.exchange(request("GET")).await;
    assert_eq!((answer.status, answer.header("dpop-nonce")), (200, None), "it is not the app's");
    assert_eq!((upstream.count(), repeated(&scene).await), (2, 1.0));
    assert_eq!(scene.exchange(request("POST")).await.status, 200);
    assert_eq!(upstream.count(), 3, "the nonce is remembered");

    // What may have had its effect is not sent again; the next one has it.
    upstream.answers(wants("second"));
    assert_eq!(scene.exchange(request("POST")).await.status, 401);
    assert_eq!(scene.exchange(request("POST")).await.status, 200);
    assert_eq!((upstream.count(), repeated(&scene).await), (5, 1.0));
    assert_eq!(issuer.count(), 2, "no generation was replaced");

    // A server that always wants another one is asked twice.
    upstream.answers(|_| refusal().header("dpop-nonce", "another"));
    assert_eq!(scene.exchange(request("GET")).await.status, 401);
    assert_eq!((upstream.count(), repeated(&scene).await), (7, 2.0));
    scene.finish().await;
}

#[tokio::test]
async fn a_restart_goes_on_with_the_generation_and_the_key_that_it_is_bound_to() {
    let (issuer, upstream) = (issuer().await, Upstream::http1().await);
    let folder = Arc::new(TempDir::new().expect("a temporary folder"));
    std::fs::write(folder.path().join("client-secret"), "secret").expect("written");
    let mut names = Vec::new();
    for _ in 0..3 {
        let scene = Scene::start_in(folder.clone(), &setup(&issuer, &upstream, "")).await;
        assert_eq!(scene.exchange(request("GET")).await.status, 200);
        scene.finish().await;
        let seen = upstream.last();
        assert_eq!(seen.all("authorization"), ["DPoP tok-1"]);
        let (claims, key) = read(seen.header("dpop").expect("a proof"));
        assert_eq!(claims["htm"], "GET");
        names.push(key.thumbprint(ThumbprintHash::SHA256).expect("a name"));
    }
    assert!(names.iter().all(|name| *name == names[0]), "one key");
    assert_eq!(issuer.count(), 2, "the issuer was asked by the first run alone, once more for its nonce");
    // What follows is bound to the same key.
    let scene = Scene::start_in(folder.clone(), &setup(&issuer, &upstream, "")).await;
    scene.rotate("api").await.expect("a generation");
    assert_eq!(scene.exchange(request("GET")).await.status, 200);
    scene.finish().await;
    let (_, key) = read(upstream.last().header("dpop").expect("a proof"));
    assert_eq!(key.thumbprint(ThumbprintHash::SHA256).expect("a name"), names[0]);
    let record = std::fs::read(folder.path().join("state/sealed/generation-api.sealed")).expect("it rests");
    assert!(!record.windows(4).any(|bytes| bytes == b"\"key"), "it is sealed");
}

#[tokio::test]
async fn what_is_bound_to_a_key_that_the_config_names_does_not_rest() {
    let (issuer, upstream) = (issuer().await, Upstream::http1().await);
    let folder = Arc::new(TempDir::new().expect("a temporary folder"));
    std::fs::write(folder.path().join("client-secret"), "secret").expect("written");
    let pem = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    std::fs::write(folder.path().join("dpop.pem"), pem).expect("written");
    let source = setup(&issuer, &upstream, "").text();
    let source = source.lines().find_map(|line| line.strip_prefix("source = ")).expect("a source");
    let named = source.replace("dpop = true", "dpop = \"file:dpop.pem\"");
    for generation in ["DPoP tok-1", "DPoP tok-2"] {
        let setup = Setup::new().token_from("api", &named, "").route("api", &upstream, "token = \"api\"");
        let scene = Scene::start_in(folder.clone(), &setup).await;
        assert_eq!(scene.exchange(request("GET")).await.status, 200);
        scene.finish().await;
        assert_eq!(upstream.last().all("authorization"), [generation]);
    }
    assert!(!folder.path().join("state/sealed/generation-api.sealed").exists());
}

#[tokio::test]
async fn a_token_that_is_not_bound_is_not_taken() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = setup(&issuer, &upstream, "").start().await;
    let failed = scene.recorded("token_failed", 1).await.remove(0);
    assert_eq!(failed["reason"], "token_type", "{failed}");
    assert_eq!(scene.get("/api/x").await.status, 503);
    assert_eq!(upstream.count(), 0);
    scene.finish().await;
}
