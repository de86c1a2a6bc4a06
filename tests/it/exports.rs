//! Checkpoints leave the machine: each place gets what was signed, the last one too.

use countersign::audit::{Note, Verifier};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::support::{Issuer, Setup, Upstream, soon};

/// Takes POSTs, after it has refused the first: their bodies.
async fn receive(listener: TcpListener, bodies: mpsc::Sender<String>) {
    for number in 0.. {
        let (mut tcp, _) = listener.accept().await.expect("accepts");
        let (mut read, mut end) = (Vec::new(), None);
        while end.is_none_or(|end| read.len() < end) {
            assert_ne!(tcp.read_buf(&mut read).await.expect("readable"), 0);
            let text = String::from_utf8_lossy(&read);
            end = text.find("\r\n\r\n").map(|head| {
                let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
                head + 4 + length.expect("a length").parse::<usize>().expect("a number")
            });
        }
        let text = String::from_utf8(read).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("POST /ingest HTTP/1.1\r\n"), "{head}");
        let status = if number == 0 { "503 Service Unavailable" } else { "204 No Content" };
        tcp.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.expect("written");
        if number > 0 && bodies.send(body.to_owned()).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn every_place_gets_the_checkpoints_and_the_last_one_too() {
    let (issuer, upstream) = (Issuer::named("tok", 3600).await, Upstream::http1().await);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/ingest", listener.local_addr().expect("an address"));
    let (sender, mut bodies) = mpsc::channel(64);
    let mut receiving = JoinSet::new();
    receiving.spawn(receive(listener, sender));
    let export = format!(r#"export = ["{url}", "file:kept"]"#);
    let scene = Setup::api(&issuer, &upstream).audit(&export).start().await;
    scene.ready().await;
    let first = soon("a checkpoint", bodies.recv()).await.expect("one");
    let sink = url.trim_start_matches("http://").trim_end_matches("/ingest").to_owned();
    let labels = |outcome: &'static str| [("sink", sink.as_str()), ("outcome", outcome)];
    scene.reaches("countersign_audit_exports_total", &labels("sent"), 1.0).await;
    assert_eq!(scene.metric("countersign_audit_exports_total", &labels("failed")).await, 1.0);
    let kept = scene.folder().join("kept");
    let key = std::fs::read_to_string(scene.folder().join("state/audit/checkpoint.vkey")).expect("there");
    let verifier: Verifier = key.trim_end().parse().expect("a key");
    let open = |text: &str| {
        let notes = Note::parse_all(text).expect("notes");
        notes.iter().map(|note| verifier.open(note).expect("signed").size).collect::<Vec<u64>>()
    };
    assert_eq!(open(&first).len(), 1);

    // The folder goes with the scene, what is open stays.
    let file = std::fs::File::open(&kept).expect("there");
    let records: Vec<Value> = scene.finish().await;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut &file, &mut text).expect("readable");
    assert_eq!(open(&text).last(), Some(&(records.len() as u64)));
    let mut last = first;
    while let Ok(body) = bodies.try_recv() {
        last = body;
    }
    assert_eq!(open(&last), [records.len() as u64]);
    receiving.shutdown().await;
}
