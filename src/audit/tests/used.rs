//! What was used before a crash, and after a good end.

use super::super::folder::{Disk as _, Whole};
use super::super::used::Journal;
use super::*;

fn sums(token: &str, requests: u64) -> Used {
    let (token, client, from) = (token.into(), "local".into(), "2026-11-22T10:00:00.000Z".into());
    Used { token, client, from, requests, ..Used::default() }
}

/// The journal as it lies there.
fn journal(fixture: &Fixture) -> Journal {
    let bytes = std::fs::read(fixture.path().join("usage.journal")).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

async fn until_kept(fixture: &Fixture, count: usize) {
    let waiting = async {
        while journal(fixture).used.len() != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the journal is written");
}

#[tokio::test]
async fn what_the_journal_holds_is_recorded_once() {
    let fixture = Fixture::new();
    let (recorder, thread) = fixture.open();
    recorder.record(event("one")).await.expect("written");
    recorder.keep(vec![sums("a", 1), sums("b", 2)]);
    until_kept(&fixture, 2).await;
    assert_eq!(journal(&fixture).after, 1);
    // The minute is over for one of them: then it ends without the journal being written anew.
    recorder.roll_up(vec![sums("a", 3)], Duration::ZERO).expect("room");
    recorder.record(other()).await.expect("written");
    thread.finish().expect("written");

    for _ in 0..2 {
        fixture.open().1.finish().expect("written");
        let records = fixture.records();
        let told: Vec<_> = records
            .iter()
            .filter(|record| record["event"] == "usage")
            .map(|record| (record["token"].as_str().expect("text"), record["requests"].as_u64().expect("a number")))
            .collect();
        assert_eq!(told, [("a", 3), ("b", 2)]);
        assert!(journal(&fixture).used.is_empty());
    }
}

#[tokio::test]
async fn an_end_without_a_stop_is_told() {
    let fixture = Fixture::new();
    let (recorder, thread) = fixture.open();
    recorder.record(other()).await.expect("written");
    thread.finish().expect("written");
    let time: jiff::Timestamp = fixture.records()[0]["time"].as_str().expect("text").parse().expect("a time");
    let (recorder, thread) = fixture.open();
    recorder.record(event("stop")).await.expect("written");
    thread.finish().expect("written");
    fixture.open().1.finish().expect("written");
    assert_eq!(fixture.story(), ["reload_refused", "usage_gap", "stop"]);
    let from: jiff::Timestamp = fixture.records()[1]["from"].as_str().expect("text").parse().expect("a time");
    assert_eq!((time - from).total(jiff::Unit::Second).expect("seconds"), 1.0, "within which use is kept");
}

#[tokio::test]
async fn nothing_before_the_journal_is_said_to_be_missing() {
    let fixture = Fixture::new();
    let (recorder, thread) = fixture.open();
    recorder.record(other()).await.expect("written");
    recorder.keep(vec![Used { until: "2126-11-22T10:00:59.000Z".into(), ..sums("a", 1) }, sums("b", 1)]);
    until_kept(&fixture, 2).await;
    thread.finish().expect("written");
    fixture.open().1.finish().expect("written");
    let gap = fixture.records().into_iter().find(|record| record["event"] == "usage_gap").expect("a gap");
    assert_eq!(gap["from"], "2126-11-22T10:00:59.000Z");
}

#[tokio::test]
async fn what_is_no_journal_tells_nothing() {
    let fixture = Fixture::new();
    fixture.open().1.finish().expect("written");
    let folder = Folder::open(fixture.path()).expect("free");
    folder.replace(Whole::Journal, b"{\"after\":").expect("written");
    drop(folder);
    fixture.open().1.finish().expect("written");
    assert_eq!(fixture.story(), [] as [&str; 0]);
}

#[tokio::test]
async fn requests_that_find_no_room_are_counted_in_the_trail() {
    let fixture = Fixture::new();
    let (recorder, thread) = fixture.open();
    recorder.hand_over((0..queue::BULK_CAPACITY + 1).map(|_| (Duration::ZERO, other())).collect());
    assert!(recorder.is_healthy());
    recorder.record(event("one")).await.expect("written");
    thread.finish().expect("written");
    assert_eq!(fixture.story(), ["one", "audit_records_lost"]);
    assert_eq!(fixture.records()[1]["count"], queue::BULK_CAPACITY as u64 + 1);
}
