//! The trail on disks that fail, fill up, or block.

use std::sync::atomic::Ordering;

use super::super::folder::RESERVE_BYTES;
use super::super::metrics::Operation;
use super::super::queue::CAPACITY;
use super::faulty::{FOR_EVER, Panicking};
use super::*;

#[tokio::test]
async fn after_a_failed_fsync_the_segment_is_not_used_again() {
    let fixture = Fixture::new();
    let (recorder, thread) = fixture.open_faulty();
    recorder.record(event("one")).await.expect("written");
    let before = std::fs::read(fixture.segment(0)).expect("there");
    fixture.faults.fail(Operation::Sync, 1);
    recorder.record(event("two")).await.expect("written elsewhere");
    assert_eq!(std::fs::read(fixture.segment(0)).expect("there"), before);
    assert!(recorder.is_healthy());
    recorder.record(event("three")).await.expect("written");
    thread.finish().expect("written");
    assert_eq!(fixture.story(), ["one", "two", "audit_failed", "three"]);
    assert!(fixture.segment(1).exists());
    assert_eq!(fixture.records()[2]["operation"], "sync");
    assert_eq!(fixture.failures(Operation::Sync), 1);
}

#[tokio::test]
async fn a_segment_that_cannot_even_be_cut_leaves_a_good_trail() {
    for failed in [Operation::Write, Operation::Sync] {
        let fixture = Fixture::new();
        let (recorder, thread) = fixture.open_faulty();
        recorder.record(event("one")).await.expect("written");
        fixture.faults.fail(failed, 1);
        fixture.faults.fail(Operation::Cut, 1);
        recorder.record(event("two")).await.expect("written elsewhere");
        thread.finish().expect("written");
        assert!(std::fs::read(fixture.segment(0)).expect("there").len() > 110, "the rest is still there");
        assert_eq!(fixture.failures(Operation::Cut), 1);
        assert_eq!(fixture.story(), ["one", "two", "audit_failed"]);
    }
}

#[tokio::test]
async fn records_fail_in_time_while_no_segment_can_be_opened_and_are_written_later() {
    let fixture = Fixture::new();
    let (recorder, thread) = fixture.open_faulty();
    fixture.faults.fail(Operation::Open, FOR_EVER);
    let fails = until(|| fixture.failures(Operation::Open) >= 2 && fixture.metrics.healthy.get() == 0);
    assert_eq!(recorder.record_all(vec![event("one")], fails).await, Err(Unavailable::GivenUp));
    assert!(!recorder.is_healthy());
    assert_eq!(impatient(&recorder).record(event("nothing")).await, Err(Unavailable::Slow));
    recorder.note(event("two"));
    fixture.faults.fail(Operation::Open, 0);
    record_at_last(&recorder, &event("three")).await;
    assert!(recorder.is_healthy());
    assert_eq!(fixture.metrics.healthy.get(), 1);
    thread.finish().expect("written");
    assert_eq!(fixture.story()[..5], ["one", "audit_failed", "not_done", "two", "three"]);
    assert_eq!(fixture.records()[2]["of"], 0);
}

#[tokio::test]
async fn a_disk_that_stays_broken_is_not_waited_for_at_the_end() {
    let fixture = Fixture::new();
    let (recorder, thread) = fixture.open_with(Pace::default());
    fixture.faults.fail(Operation::Sync, FOR_EVER);
    recorder.note(event("one"));
    recorder.note(event("two"));
    assert!(matches!(thread.finish(), Err(FinishError::Unwritten(2..=4))));
    assert!(fixture.metrics.lost.get() >= 2);
}

#[tokio::test]
async fn a_write_that_blocks_fails_the_record_in_time() {
    let fixture = Fixture::new();
    let (recorder, thread) = fixture.open_faulty();
    recorder.record(event("one")).await.expect("written");
    fixture.faults.block(true);
    assert_eq!(impatient(&recorder).record(event("two")).await, Err(Unavailable::Slow));
    assert!(!recorder.is_healthy());
    fixture.faults.block(false);
    record_at_last(&recorder, &event("three")).await;
    assert!(recorder.is_healthy());
    thread.finish().expect("written");
    assert_eq!(fixture.story()[0], "one");
}

#[tokio::test]
async fn the_trail_takes_back_what_was_given_up_while_it_was_written_and_never_has_what_waited_behind() {
    let fixture = Fixture::new();
    let (recorder, thread) = fixture.open_faulty();
    recorder.record(event("one")).await.expect("written");
    fixture.faults.block(true);
    let granted = |request: &str| Event::AccessGranted {
        request: request.into(),
        digest: String::new(),
        token: "github".parse().expect("a name"),
        by: "alice".into(),
        until: None,
    };
    let asked = |request: &str| vec![requested(request), granted(request)];
    let hangs = until(|| fixture.faults.hung.load(Ordering::SeqCst) == 1);
    assert_eq!(recorder.record_all(asked("a"), hangs).await, Err(Unavailable::GivenUp));
    assert_eq!(recorder.record_all(asked("b"), async {}).await, Err(Unavailable::GivenUp));
    fixture.faults.block(false);
    recorder.record_all(asked("c"), pending()).await.expect("written");
    assert_eq!(fixture.metrics.records.with_label_values(&["not_done"]).get(), 2);
    let measured = |recorder: &Recorder| recorder.figures().iter().map(|week| week.count).collect::<Vec<_>>();
    assert_eq!(measured(&recorder), [1], "only what was done");
    thread.finish().expect("written");
    let story =
        ["one", "token_requested", "access_granted", "not_done", "not_done", "token_requested", "access_granted"];
    assert_eq!(fixture.story(), story);
    let records = fixture.records();
    assert_eq!(
        [&records[3]["of"], &records[4]["of"], &records[5]["request"]],
        [&1.into(), &2.into(), &Value::from("c")]
    );
    let (recorder, thread) = fixture.open();
    assert_eq!(measured(&recorder), [1], "and so after a restart");
    thread.finish().expect("written");
}

#[tokio::test]
async fn a_disk_that_hangs_is_seen_though_nobody_waits_for_a_record() {
    let fixture = Fixture::new();
    let (recorder, thread) = fixture.open_faulty();
    recorder.record(event("one")).await.expect("written");
    fixture.faults.block(true);
    recorder.note(other());
    let seen = until(|| !recorder.is_healthy());
    tokio::time::timeout(Duration::from_secs(10), seen).await.expect("it is seen");
    recorder.look();
    assert_eq!(fixture.metrics.healthy.get(), 0);
    fixture.faults.block(false);
    let over = until(|| recorder.is_healthy() && fixture.metrics.healthy.get() == 1);
    tokio::time::timeout(Duration::from_secs(10), over).await.expect("it goes on");
    thread.finish().expect("written");
}

#[tokio::test]
async fn what_finds_the_queue_full_is_counted_in_the_trail() {
    let fixture = Fixture::new();
    let (recorder, thread) = fixture.open_faulty();
    // A writer that only starts says that all is well once it has its reserve, and might say so after the queue was full.
    recorder.record(other()).await.expect("written");
    fixture.faults.block(true);
    let mut outcome = Ok(Recorded::default());
    // The writer may take some late, and then no more.
    for _ in 0..5 {
        for _ in 0..2 * CAPACITY {
            recorder.note(other());
        }
        outcome = recorder.record(event("one")).await;
        if outcome == Err(Unavailable::Full) {
            break;
        }
    }
    assert_eq!(outcome, Err(Unavailable::Full));
    assert!(!recorder.is_healthy());
    fixture.faults.block(false);
    record_at_last(&recorder, &event("two")).await;
    assert!(recorder.is_healthy());
    thread.finish().expect("written");
    let records = fixture.records();
    let lost: u64 = records.iter().filter_map(|record| record["count"].as_u64()).sum();
    let written = records.iter().filter(|record| record["event"] == "reload_refused").count();
    assert!(lost > 0);
    assert_eq!(lost, fixture.metrics.lost.get());
    let failed = records.iter().filter(|record| record["event"] == "stop").count();
    assert!(failed >= 1);
    assert!(lost + written as u64 > 1 + 2 * CAPACITY as u64);
}

#[tokio::test]
async fn records_that_wait_together_share_a_sync() {
    let fixture = Fixture::new();
    let (recorder, thread) = fixture.open_faulty();
    fixture.faults.block(true);
    for _ in 0..200 {
        recorder.note(other());
    }
    fixture.faults.block(false);
    thread.finish().expect("written");
    assert_eq!(fixture.records().len(), 200);
    assert!(fixture.faults.syncs.load(Ordering::SeqCst) <= 3);
}

#[tokio::test]
async fn a_full_disk_is_recorded_in_the_reserve_and_so_is_the_stop() {
    let fixture = Fixture::new();
    fixture.faults.set_free(Some(RESERVE_BYTES + 150));
    let (recorder, thread) = fixture.open_faulty();
    recorder.record(event("one")).await.expect("room for one");
    assert!(fixture.path().join("reserve").exists());
    recorder.record(event("two")).await.expect("the reserve has room");
    assert!(!recorder.is_healthy());
    assert!(!fixture.path().join("reserve").exists());
    let refused = impatient(&recorder).record(event("nothing")).await;
    assert_eq!(refused, Err(Unavailable::Slow), "the room that is left is for the stop");
    recorder.note(other());
    recorder.note(event("stop"));
    assert!(matches!(thread.finish(), Err(FinishError::Unwritten(1))));
    assert_eq!(fixture.story(), ["one", "two", "audit_failed", "stop", "audit_records_lost"]);
    assert_eq!(fixture.records()[4]["count"], 1);
    assert_eq!(fixture.metrics.lost.get(), 1);
}

#[tokio::test]
async fn when_the_disk_has_room_again_the_reserve_is_made_anew() {
    let fixture = Fixture::new();
    fixture.faults.set_free(Some(RESERVE_BYTES));
    let (recorder, thread) = fixture.open_faulty();
    recorder.record(event("one")).await.expect("the reserve has room");
    assert!(!recorder.is_healthy());
    recorder.note(other());
    fixture.faults.set_free(None);
    record_at_last(&recorder, &event("two")).await;
    assert!(recorder.is_healthy());
    assert!(fixture.path().join("reserve").exists());
    thread.finish().expect("written");
    assert_eq!(fixture.story()[..3], ["one", "audit_failed", "reload_refused"]);
}

#[tokio::test]
async fn a_disk_that_is_full_at_the_start_is_waited_for() {
    let fixture = Fixture::new();
    fixture.faults.set_free(Some(0));
    let (recorder, thread) = fixture.open_faulty();
    assert_eq!(impatient(&recorder).record(event("one")).await, Err(Unavailable::Slow));
    assert!(!recorder.is_healthy());
    fixture.faults.set_free(None);
    record_at_last(&recorder, &event("two")).await;
    assert!(recorder.is_healthy());
    thread.finish().expect("written");
    assert_eq!(fixture.story()[0], "two");
}

#[tokio::test]
async fn nobody_waits_for_a_thread_that_died() {
    let fixture = Fixture::new();
    let folder = Folder::open(fixture.path()).expect("free");
    let resumed = resume::resume(&folder, &[7; 32]).expect("a new trail");
    let (recorder, thread) =
        start(Panicking, resumed, Arc::new(SystemClock), fixture.metrics.clone(), Arc::default(), Pace::default())
            .expect("a thread");
    assert_eq!(recorder.record(event("one")).await, Err(Unavailable::Stopped));
    assert!(!recorder.is_healthy());
    assert_eq!(recorder.record(event("two")).await, Err(Unavailable::Stopped));
    assert!(matches!(thread.finish(), Err(FinishError::Died)));
}
