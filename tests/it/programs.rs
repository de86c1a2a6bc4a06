//! Tokens that a program prints.

use std::sync::Arc;

use tempfile::TempDir;

use crate::support::{SOON, Scene, Setup, Upstream, log, trail, wait_until};

/// The app with a token from this script, which finds its folder in `$1`.
async fn scene(script: &str, more: &str, upstream: &Upstream) -> Scene {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("helper");
    std::fs::write(&path, script).expect("written");
    let command = format!(r#"["/bin/sh", "{}", "{}"]"#, path.display(), folder.path().display());
    let source = format!(r#"{{ kind = "exec", command = {command}, {more} }}"#);
    let setup = Setup::new().token_from("api", &source, "").route("api", upstream, r#"token = "api""#);
    Scene::start_in(Arc::new(folder), &setup).await
}

async fn attached(scene: &Scene, upstream: &Upstream) -> String {
    assert_eq!(scene.get("/api/x").await.status, 200);
    upstream.last().all("authorization").concat()
}

#[tokio::test]
async fn what_a_program_prints_is_attached_and_asked_for_anew_before_it_ends() {
    let upstream = Upstream::http1().await;
    let script = r#"
        cd "$1"; echo x >> runs
        echo "{\"token\": \"printed-$(wc -l < runs)\", \"expires_in\": 4, \"scope\": \"read\"}"
    "#;
    let scene = scene(script, r#"format = "json""#, &upstream).await;
    scene.ready().await;
    assert!(attached(&scene, &upstream).await.starts_with("Bearer printed-"));
    let third = async || attached(&scene, &upstream).await == "Bearer printed-3";
    wait_until("two rotations", SOON, third).await;
    let labels = [("token", "api"), ("source", "exec"), ("placement", "bearer")];
    assert_eq!(scene.metric("countersign_token_info", &labels).await, 1.0);
    let records = scene.finish().await;
    assert!(trail::of(&records, "token_rotated").len() >= 2);
    assert_eq!(trail::of(&records, "token_failed").len(), 0);
}

#[tokio::test]
async fn a_program_that_fails_takes_nothing_away_and_its_words_are_for_the_log_alone() {
    let upstream = Upstream::http1().await;
    let script = r#"
        cd "$1"; test -e broken || { echo printed-by-helper; exit; }
        echo printed-by-helper; echo "helper-is-broken, still has printed-by-helper" >&2; exit 3
    "#;
    let scene = scene(script, r#"timeout = "5s", env = ["HOME"]"#, &upstream).await;
    scene.ready().await;
    std::fs::write(scene.folder().join("broken"), "").expect("written");
    let error = scene.rotate("api").await.expect_err("it fails").to_string();
    assert!(error.contains("program"), "{error}");
    assert_eq!(attached(&scene, &upstream).await, "Bearer printed-by-helper");
    let failures =
        scene.metric("countersign_rotation_failures_total", &[("token", "api"), ("reason", "program")]).await;
    assert_eq!(failures, 1.0);
    let failure = scene.recorded("token_failed", 1).await.remove(0);
    assert_eq!(failure["detail"], "/bin/sh ended with code 3");
    let log = log::text();
    let words = log.lines().find(|line| line.contains("helper-is-broken")).expect("its words are logged");
    assert!(words.contains("still has [redacted]") && words.contains("WARN"), "{words}");
    assert!(!log.contains("printed-by-helper"));

    std::fs::remove_file(scene.folder().join("broken")).expect("removed");
    let same = scene.rotate("api").await.expect_err("nothing has changed").to_string();
    assert!(same.contains("live already"), "{same}");
    scene.finish().await;
}

#[tokio::test]
async fn a_program_that_hangs_is_given_up_in_time() {
    let upstream = Upstream::http1().await;
    let scene = scene("sleep 1000", r#"timeout = "200ms""#, &upstream).await;
    let failure = scene.recorded("token_failed", 1).await.remove(0);
    assert_eq!(failure["reason"], "timeout");
    assert_eq!(scene.get("/api/x").await.refusal(), (503, "token_unavailable".to_owned()));
    assert_eq!(upstream.connections(), 0);
    scene.finish().await;
}
