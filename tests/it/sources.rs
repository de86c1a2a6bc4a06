//! Tokens that no issuer gives: variables, files, and those that we sign.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rcgen::KeyPair;
use tempfile::TempDir;

use crate::support::{SOON, Scene, Setup, Upstream, trail, wait_until};

async fn scene(folder: TempDir, upstream: &Upstream, source: &str) -> Scene {
    let setup = Setup::new().token_from("api", source, "").route("api", upstream, r#"token = "api""#);
    Scene::start_in(Arc::new(folder), &setup).await
}

async fn attached(scene: &Scene, upstream: &Upstream) -> String {
    assert_eq!(scene.get("/api/x").await.status, 200);
    upstream.last().all("authorization").concat()
}

/// Puts a file in the place of another at once, as careful programs do.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("written");
    std::fs::rename(beside, path).expect("renamed");
}

#[tokio::test]
async fn a_variable_holds_a_token() {
    let upstream = Upstream::http1().await;
    // Cargo sets this one for every test.
    let source = r#"{ kind = "env", name = "CARGO_PKG_NAME" }"#;
    let scene = scene(TempDir::new().expect("a folder"), &upstream, source).await;
    assert_eq!(attached(&scene, &upstream).await, "Bearer countersign");
    scene.finish().await;
}

#[tokio::test]
async fn a_variable_that_is_not_there_is_named() {
    let upstream = Upstream::http1().await;
    let source = r#"{ kind = "env", name = "COUNTERSIGN_IT_UNSET" }"#;
    let scene = scene(TempDir::new().expect("a folder"), &upstream, source).await;
    let failure = scene.recorded("token_failed", 1).await.remove(0);
    assert_eq!(failure["detail"], "the environment variable COUNTERSIGN_IT_UNSET is not set");
    assert_eq!(scene.get("/api/x").await.refusal(), (503, "token_unavailable".to_owned()));
    assert_eq!(upstream.connections(), 0);
    scene.finish().await;
}

#[tokio::test]
async fn a_file_with_other_content_is_a_new_generation_and_with_the_same_is_none() {
    let (folder, upstream) = (TempDir::new().expect("a folder"), Upstream::http1().await);
    let path = folder.path().join("token");
    std::fs::write(&path, "one\n").expect("written");
    let scene = scene(folder, &upstream, r#"{ kind = "file", path = "token" }"#).await;
    assert_eq!(attached(&scene, &upstream).await, "Bearer one");

    replace(&path, "one");
    let same = scene.rotate("api").await.expect_err("nothing has changed").to_string();
    assert!(same.contains("live already"), "{same}");
    assert_eq!(scene.metric("countersign_token_generation", &[("token", "api")]).await, 1.0);

    replace(&path, "two");
    wait_until("it is seen", SOON, async || attached(&scene, &upstream).await == "Bearer two").await;
    assert_eq!(scene.metric("countersign_token_generation", &[("token", "api")]).await, 2.0);

    // Bytes that no header can carry, or none at all, take nothing away.
    for bad in ["", "three four", "three\r\nX: y"] {
        replace(&path, bad);
        scene.rotate("api").await.expect_err("no token");
        assert_eq!(attached(&scene, &upstream).await, "Bearer two");
    }
    std::fs::remove_file(&path).expect("removed");
    scene.rotate("api").await.expect_err("no file");
    assert_eq!(attached(&scene, &upstream).await, "Bearer two");
    let records = scene.finish().await;
    assert_eq!((trail::of(&records, "token_issued").len(), trail::of(&records, "token_rotated").len()), (1, 1));
}

#[tokio::test]
async fn a_volume_of_kubernetes_that_is_switched_over_is_seen() {
    let (folder, upstream) = (TempDir::new().expect("a folder"), Upstream::http1().await);
    let volume = folder.path().join("volume");
    let revision = |name: &str, token: &str| {
        std::fs::create_dir_all(volume.join(name)).expect("made");
        std::fs::write(volume.join(name).join("token"), token).expect("written");
        symlink(name, volume.join("..data_tmp")).expect("linked");
        std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).expect("switched over");
    };
    revision("..first", "one");
    symlink("..data/token", volume.join("token")).expect("linked");
    let scene = scene(folder, &upstream, r#"{ kind = "file", path = "volume/token" }"#).await;
    assert_eq!(attached(&scene, &upstream).await, "Bearer one");
    revision("..second", "two");
    wait_until("it is seen", SOON, async || attached(&scene, &upstream).await == "Bearer two").await;
    scene.finish().await;
}

#[tokio::test]
async fn a_signed_token_is_verified_with_the_published_keys() {
    let (folder, upstream) = (TempDir::new().expect("a folder"), Upstream::http1().await);
    let key = folder.path().join("key.pem");
    std::fs::write(&key, KeyPair::generate().expect("a key").serialize_pem()).expect("written");
    let source = r#"{ kind = "signed_jwt", key = "file:key.pem", algorithm = "ES256", issuer = "https://ci.test", subject = "billing", audience = "https://api.test", lifetime = "60s", claims = { role = "reader" } }"#;
    let scene = scene(folder, &upstream, source).await;
    let first = attached(&scene, &upstream).await;
    verify(&scene, &first).await;

    // Another key: what the old one signed is still verified.
    replace(&key, &KeyPair::generate().expect("a key").serialize_pem());
    assert_eq!(scene.rotate("api").await.expect("a generation"), 2);
    let second = attached(&scene, &upstream).await;
    assert_ne!(first, second);
    for token in [first, second] {
        verify(&scene, &token).await;
    }
    let published = scene.ask("/.well-known/jwks.json").await;
    assert_eq!(published.header("content-type"), Some("application/jwk-set+json"));
    let keys: serde_json::Value = serde_json::from_slice(&published.body).expect("JSON");
    assert_eq!(keys["keys"].as_array().map(Vec::len), Some(2));
    assert!(!published.text().contains("\"d\""), "no private part is published");
    scene.finish().await;
}

async fn verify(scene: &Scene, attached: &str) {
    let token = attached.strip_prefix("Bearer ").expect("a bearer token");
    let published: JwkSet = serde_json::from_slice(&scene.ask("/.well-known/jwks.json").await.body).expect("keys");
    let header = jsonwebtoken::decode_header(token).expect("a header");
    let key = published.find(&header.kid.expect("a key's name")).expect("its key is published");
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_issuer(&["https://ci.test"]);
    validation.set_audience(&["https://api.test"]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    let key = DecodingKey::from_jwk(key).expect("a key");
    let claims = jsonwebtoken::decode::<serde_json::Value>(token, &key, &validation).expect("a good signature").claims;
    assert_eq!((&claims["sub"], &claims["role"]), (&"billing".into(), &"reader".into()));
    let life = claims["exp"].as_u64().expect("exp") - claims["iat"].as_u64().expect("iat");
    assert_eq!(life, 60);
}
