//! How fast the trail is written and verified, on a real disk: `cargo bench --bench trail`. `COUNTERSIGN_BENCH_RECORDS` writes and
//! verifies another number than 10 million, `COUNTERSIGN_BENCH_DIR` does it elsewhere than under `target`.
//!
//! The records are those of requests, handed over as workers do, each checkpoint as in earnest: within a second or a thousand records.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign::audit::{self, Archive, Event, OnFailure, Request, Settings, Trusted, Usage};
use countersign::clock::{Clock, SystemClock};
use prometheus::Registry;

const BATCH: u64 = 128;

fn request(number: u64) -> Event {
    Event::Request(Request {
        token: Some("github".into()),
        route_token: None,
        client: "billing".into(),
        route: "github".into(),
        host: "api.github.com".into(),
        method: "GET",
        path: format!("/repos/octo/hello/issues/{number}"),
        status: 200,
        reason: None,
        generation: Some(7),
        request_bytes: 0,
        response_bytes: 5120,
        duration_ms: 41,
        complete: true,
    })
}

fn seconds(from: Duration) -> f64 {
    (SystemClock.now().boot - from).as_secs_f64()
}

fn main() {
    // What cargo passes along is for other harnesses.
    let records: u64 =
        std::env::var("COUNTERSIGN_BENCH_RECORDS").map_or(10_000_000, |text| text.parse().expect("a number"));
    let parent = std::env::var("COUNTERSIGN_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    let folder = tempfile::tempdir_in(parent).expect("a folder");
    let dir: PathBuf = folder.path().join("audit");
    let key = folder.path().join("audit.key");
    let settings =
        Settings { dir: dir.clone(), key, on_failure: OnFailure::Continue, usage: Usage::Each, export: Vec::new() };
    let metrics = audit::Metrics::register(&Registry::new()).expect("a new registry");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);

    let begin = SystemClock.now().boot;
    let (recorder, thread) = audit::open(&settings, clock.clone(), metrics).expect("a new trail");
    let (mut number, mut waited) = (0, 0_u64);
    while number < records {
        let most = BATCH.min(records - number);
        let batch: Vec<_> = (number..number + most).map(|number| (clock.now().wall, request(number))).collect();
        if recorder.has_room_for(batch.len()) {
            recorder.hand_over(batch);
            number += most;
        } else {
            waited += 1;
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    // It waits for 5 seconds at most, and there are fewer records left than that takes.
    thread.finish().expect("all of it is written");
    let took = seconds(begin);
    let bytes: u64 =
        dir.read_dir().expect("there").map(|entry| entry.expect("an entry").metadata().expect("readable").len()).sum();
    println!(
        "written: {records} records in {took:.1} s: {:.0} a second, {} bytes each",
        records as f64 / took,
        bytes / records
    );
    println!("         the one who hands over had to wait {waited} times");

    let begin = SystemClock.now().boot;
    let archive = Archive::new(&dir);
    let trusted = Trusted { verifier: None, notes: vec![archive.checkpoint().expect("signed")] };
    let report = audit::verify(&archive, &trusted).expect("readable");
    let took = seconds(begin);
    assert!(report.findings.is_empty() && report.signed == records, "{report:?}");
    println!("verified: {} records in {took:.1} s: {:.0} a second", report.records, records as f64 / took);

    let metrics = audit::Metrics::register(&Registry::new()).expect("a new registry");
    let begin = SystemClock.now().boot;
    let (_, thread) = audit::open(&settings, clock, metrics).expect("as it was left");
    println!("started on again in {:.1} s", seconds(begin));
    thread.finish().expect("nothing to write");

    let begin = SystemClock.now().boot;
    let proved: Vec<u64> = (0..records).step_by(usize::try_from(records / 1000 + 1).expect("small")).collect();
    for seq in &proved {
        archive.inclusion(*seq, records).expect("a proof");
    }
    println!("proof of inclusion: {:.0} us each, of {}", seconds(begin) * 1e6 / proved.len() as f64, proved.len());
}
