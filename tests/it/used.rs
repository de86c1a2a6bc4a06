//! What the trail tells of the use of tokens adds up to what the upstream got.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::upstream::{Reply, as_the_path_says};
use crate::support::{Issuer, Scene, Setup, Upstream, soon, trail, wait_until};

const SOON: Duration = Duration::from_secs(20);

/// The sum of a member of all these records.
fn sum(records: &[&Value], key: &str) -> u64 {
    records.iter().map(|record| record[key].as_u64().expect("a number")).sum()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    std::fs::set_permissions(to, from.metadata().expect("there").permissions()).expect("as they were");
    for entry in std::fs::read_dir(from).expect("readable") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => copy(&path, &to),
            Ok(metadata) if metadata.is_file() => drop(std::fs::copy(&path, &to).expect("copied")),
            _ => {}
        }
    }
}

/// How many requests the journal of this moment tells.
fn in_journal(scene: &Scene) -> u64 {
    let journal = std::fs::read(scene.folder().join("state/audit/usage.journal")).unwrap_or_default();
    let journal: Value = serde_json::from_slice(&journal).unwrap_or_default();
    let used = journal["used"].as_array().cloned().unwrap_or_default();
    sum(&used.iter().collect::<Vec<_>>(), "requests")
}

#[tokio::test]
async fn the_sums_of_all_minutes_are_what_the_upstream_got() {
    let (issuer, upstream) = (Issuer::named("tok", 100_000).await, Upstream::http1().await);
    upstream.answers(as_the_path_says);
    let second = Upstream::on("127.0.0.2").await;
    second.answers(as_the_path_says);
    let setup = Setup::api(&issuer, &upstream).route("other", &second, r#"token = "api""#);
    let scene = setup.start().await;
    scene.ready().await;
    for (minute, path) in ["/api/status/200", "/other/status/404", "/api/status/500"].into_iter().enumerate() {
        for _ in 0..=minute {
            scene.get(path).await;
        }
        scene.clock.advance(Duration::from_secs(60));
        scene.recorded("usage", minute + 1).await;
    }
    scene.get("/api/status/200").await;
    let refused = scene.get("/nothing/status/200").await;
    assert_eq!(refused.status, 404);
    let records = scene.finish().await;
    let usage = trail::of(&records, "usage");
    assert_eq!(usage.len(), 4, "one a minute: {usage:?}");
    assert_eq!(sum(&usage, "requests"), (upstream.count() + second.count()) as u64);
    assert_eq!((&usage[1]["outcomes"]["client_error"], &usage[1]["routes"]["other"]), (&2.into(), &2.into()));
    assert_eq!(usage[2]["outcomes"]["server_error"], 3);
    for record in &usage {
        assert_eq!((&record["token"], &record["client"]), (&"api".into(), &"local".into()));
        assert!(record["from"].as_str().expect("a time").ends_with(":00.000Z"), "{record}");
        assert!(record["recovered"].is_null());
    }
    assert!(trail::of(&records, "usage_gap").is_empty());
}

#[tokio::test]
async fn bytes_are_told_both_ways_and_over_a_reload() {
    let (issuer, upstream) = (Issuer::named("tok", 100_000).await, Upstream::http1().await);
    upstream.answers(|_| Reply::ok("0123456789"));
    let setup = Setup::api(&issuer, &upstream);
    let scene = setup.start().await;
    scene.ready().await;
    let post = "POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\nConnection: close\r\n\r\n1234567";
    assert_eq!(scene.exchange(post).await.status, 200);
    let other = Upstream::on("127.0.0.2").await;
    scene.reload(&setup.clone().route("more", &other, "")).await.expect("taken");
    assert_eq!(scene.exchange(post).await.status, 200);
    let records = scene.finish().await;
    let usage = trail::of(&records, "usage");
    assert_eq!((sum(&usage, "requests"), sum(&usage, "request_bytes"), sum(&usage, "response_bytes")), (2, 14, 20));
}

#[tokio::test]
async fn what_was_used_before_a_crash_is_told_by_the_next_start() {
    let (issuer, upstream) = (Issuer::named("tok", 100_000).await, Upstream::http1().await);
    let setup = Setup::api(&issuer, &upstream);
    let scene = setup.start().await;
    scene.ready().await;
    for _ in 0..5 {
        scene.get("/api/x").await;
    }
    wait_until("the journal has it", SOON, async || in_journal(&scene) == 5).await;
    // What a process that is killed leaves behind.
    let left = Arc::new(TempDir::new().expect("a temporary folder"));
    copy(scene.folder(), left.path());
    let again = Scene::start_in(left, &setup).await;
    let told = again.recorded("usage", 1).await;
    assert_eq!((told.len(), &told[0]["requests"], &told[0]["recovered"]), (1, &5.into(), &true.into()));
    let gap = again.recorded("usage_gap", 1).await;
    assert_eq!(gap[0]["from"], told[0]["until"], "the journal says up to when it knows");
    let records = again.finish().await;
    assert_eq!(sum(&trail::of(&records, "usage"), "requests"), 5);
    // A second start after a good end tells nothing of it again.
    let records = scene.finish().await;
    assert_eq!(sum(&trail::of(&records, "usage"), "requests"), upstream.count() as u64);
}

#[tokio::test]
async fn each_request_is_told_where_the_config_says_so() {
    let (issuer, upstream) = (Issuer::named("tok", 100_000).await, Upstream::http1().await);
    upstream.answers(as_the_path_says);
    let scene = Setup::api(&issuer, &upstream).audit(r#"usage = "each""#).start().await;
    scene.ready().await;
    let paths = (0..300).map(|number| format!("/api/status/{}", if number % 3 == 0 { 404 } else { 200 }));
    for path in paths {
        scene.get(&format!("{path}?secret=query")).await;
    }
    let told = scene.recorded("request", 300).await;
    assert_eq!(told.len(), upstream.count());
    let missing: Vec<&Value> = told.iter().filter(|record| record["status"] == 404).collect();
    assert_eq!(missing.len(), 100);
    let first = missing[0];
    let members = ["token", "client", "route", "host", "method", "path"].map(|key| first[key].as_str().expect("text"));
    assert_eq!(members, ["api", "local", "api", "127.0.0.1", "GET", "/status/404"]);
    assert_eq!((&first["generation"], &first["complete"]), (&1.into(), &true.into()));
    let scrape = scene.scrape().await;
    assert_eq!(scrape.find("countersign_usage_events_lost_total", &[]), Some(0.0));
    let records = soon("the end", scene.finish()).await;
    assert!(trail::of(&records, "usage").is_empty());
    assert!(!serde_json::to_string(&records).expect("JSON").contains("secret=query"));
}
