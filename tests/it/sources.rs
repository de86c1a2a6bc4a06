//! Tokens that no issuer gives: variables, files, and those that we sign.

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use countersign::clock::{Clock as _, SystemClock};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::KeyPair;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::interval;

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

/// A token that says itself that it lives for an hour: nobody looks for another before half of it has passed, unless its
/// file's folder is watched.
fn hourly(name: &str) -> String {
    let exp = SystemClock.now().wall.as_secs() + 3600;
    let claims = serde_json::json!({"sub": name, "exp": exp});
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(b"the tests'")).expect("signed")
}

/// A folder as Kubernetes mounts it: `token` leads through `..data`, which is switched over as a whole.
struct Volume(PathBuf);

impl Volume {
    fn holding(folder: &Path, token: &str) -> Self {
        let volume = Self(folder.join("volume"));
        volume.switch_to("..first", token);
        symlink("..data/token", volume.0.join("token")).expect("linked");
        volume
    }

    fn switch_to(&self, revision: &str, token: &str) {
        std::fs::create_dir_all(self.0.join(revision)).expect("made");
        std::fs::write(self.0.join(revision).join("token"), token).expect("written");
        symlink(revision, self.0.join("..data_tmp")).expect("linked");
        std::fs::rename(self.0.join("..data_tmp"), self.0.join("..data")).expect("switched over");
    }
}

#[tokio::test]
async fn a_volume_of_kubernetes_that_is_switched_over_is_seen_and_no_request_fails() {
    let (folder, upstream) = (TempDir::new().expect("a folder"), Upstream::http1().await);
    let (one, two) = (hourly("one"), hourly("two"));
    let volume = Volume::holding(folder.path(), &one);
    let scene = scene(folder, &upstream, r#"{ kind = "file", path = "volume/token" }"#).await;
    assert_eq!(attached(&scene, &upstream).await, format!("Bearer {one}"));
    let mut client = scene.client().await;
    let mut load = JoinSet::new();
    load.spawn(async move {
        let mut pace = interval(Duration::from_millis(2));
        loop {
            pace.tick().await;
            assert_eq!(client.get("/api/x").await.status, 200);
        }
    });
    // The same bytes in another file are no rotation.
    volume.switch_to("..second", &one);
    volume.switch_to("..third", &two);
    std::fs::remove_dir_all(volume.0.join("..first")).expect("removed");
    wait_until("it is seen", SOON, async || attached(&scene, &upstream).await == format!("Bearer {two}")).await;
    assert!(load.try_join_next().is_none(), "a request failed");
    let records = scene.finish().await;
    assert_eq!((trail::of(&records, "token_issued").len(), trail::of(&records, "token_rotated").len()), (1, 1));
    assert_eq!(trail::of(&records, "token_failed").len(), 0);
}

#[tokio::test]
async fn a_file_that_is_written_in_place_or_renamed_into_it_is_seen_once_it_is_whole() {
    let (folder, upstream) = (TempDir::new().expect("a folder"), Upstream::http1().await);
    let tokens = ["one", "two", "three"].map(hourly);
    let path = folder.path().join("token");
    std::fs::write(&path, &tokens[0]).expect("written");
    let scene = scene(folder, &upstream, r#"{ kind = "file", path = "token" }"#).await;
    assert_eq!(attached(&scene, &upstream).await, format!("Bearer {}", tokens[0]));
    // Emptied first, and written in two pieces.
    let mut file = std::fs::File::create(&path).expect("emptied");
    let (start, end) = tokens[1].split_at(20);
    file.write_all(start.as_bytes()).expect("written");
    file.write_all(end.as_bytes()).expect("written");
    drop(file);
    wait_until("it is seen", SOON, async || attached(&scene, &upstream).await.ends_with(&tokens[1])).await;
    replace(&path, &tokens[2]);
    wait_until("it is seen", SOON, async || attached(&scene, &upstream).await.ends_with(&tokens[2])).await;
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "token_rotated").len(), 2);
    assert_eq!(trail::of(&records, "token_failed").len(), 0);
}

#[tokio::test]
async fn a_folder_that_goes_and_comes_back_takes_nothing_away_and_is_seen() {
    let (folder, upstream) = (TempDir::new().expect("a folder"), Upstream::http1().await);
    let (one, two) = (hourly("one"), hourly("two"));
    let volume = Volume::holding(folder.path(), &one);
    let path = volume.0.clone();
    let scene = scene(folder, &upstream, r#"{ kind = "file", path = "volume/token" }"#).await;
    assert_eq!(attached(&scene, &upstream).await, format!("Bearer {one}"));
    std::fs::remove_dir_all(&path).expect("removed");
    scene.recorded("token_failed", 1).await;
    assert_eq!(attached(&scene, &upstream).await, format!("Bearer {one}"), "it lives on");
    Volume::holding(path.parent().expect("a folder"), &two);
    wait_until("it is seen", SOON, async || attached(&scene, &upstream).await == format!("Bearer {two}")).await;
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
