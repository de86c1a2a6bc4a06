//! The end: what runs is finished, nothing new begins, and the trail says so last.

use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use crate::support::upstream::Reply;
use crate::support::{Gate, Issuer, SOON, Scene, Setup, Upstream, trail, wait_until};

async fn scene(drain: &str, gate: &Gate) -> (Issuer, Upstream, Scene) {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let held = gate.clone();
    upstream.answers(move |_| Reply::ok("late").behind(&held));
    let scene = Setup::api(&issuer, &upstream).drain(drain).start().await;
    (issuer, upstream, scene)
}

#[tokio::test]
async fn a_request_under_way_is_finished_and_nothing_new_is_taken() {
    let gate = Gate::closed();
    let (_issuer, upstream, mut scene) = scene("20s", &gate).await;
    scene.ready().await;
    let (mut busy, mut idle) = (scene.client().await, scene.client().await);
    busy.send("GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    wait_until("it is at the upstream", SOON, async || upstream.count() == 1).await;
    scene.reaches("countersign_connections", &[], 2.0).await;

    scene.shut_down();
    wait_until("it drains", SOON, async || scene.ask("/readyz?verbose").await.text() == "[-]draining\n").await;
    assert_eq!(scene.ask("/readyz").await.status, 503);
    assert_eq!(scene.ask("/livez").await.status, 200);
    assert!(idle.is_closed().await, "a connection that rests is closed at once");
    wait_until("new connections are refused", Duration::from_secs(3), async || {
        TcpStream::connect(scene.proxy).await.is_err() && UnixStream::connect(&scene.socket).await.is_err()
    })
    .await;

    gate.open();
    let answer = busy.answer().await.expect("an answer");
    assert_eq!((answer.status, answer.text(), answer.header("connection")), (200, "late", Some("close")));
    assert!(busy.is_closed().await);
    let records = scene.finish().await;
    let last = records.last().expect("records");
    assert_eq!((&last["event"], &last["cause"]), (&"stop".into(), &"the test's end".into()));
    assert_eq!(trail::of(&records, "stop").len(), 1);
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut() {
    let gate = Gate::closed();
    let (_issuer, upstream, mut scene) = scene("500ms", &gate).await;
    let mut client = scene.client().await;
    client.send("GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    wait_until("it is at the upstream", SOON, async || upstream.count() == 1).await;
    let began = Instant::now();
    scene.shut_down();
    let records = scene.finish().await;
    let took = began.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_secs(5)).contains(&took), "{took:?}");
    assert!(client.answer().await.is_err(), "no answer that looks whole");
    assert_eq!(records.last().expect("records")["event"], "stop");
}

#[tokio::test]
async fn a_start_after_an_end_goes_on_with_the_same_trail() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let folder = std::sync::Arc::new(tempfile::TempDir::new().expect("a folder"));
    std::fs::write(folder.path().join("client-secret"), "secret").expect("written");
    let setup = Setup::api(&issuer, &upstream);
    let mut fingerprints = Vec::new();
    for run in 1..=2 {
        issuer.answers(|_| crate::support::issuer::Reply::token("tok-same", 3600));
        let scene = Scene::start_in(folder.clone(), &setup).await;
        assert_eq!(scene.get("/api/x").await.status, 200);
        let records = scene.finish().await;
        assert_eq!(trail::of(&records, "start").len(), run);
        assert_eq!(trail::of(&records, "stop").len(), run);
        let live = ["token_issued", "token_resumed"].map(|event| trail::of(&records, event));
        fingerprints = live.iter().flatten().map(|record| record["fingerprint"].clone()).collect();
    }
    assert_eq!(fingerprints.len(), 2);
    assert_eq!(fingerprints[0], fingerprints[1], "the same token is known again after a restart");
}
