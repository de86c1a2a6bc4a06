//! The trail as its reader finds it.

mod failing;
mod faulty;
mod signed;
mod used;

use std::collections::BTreeMap;
use std::path::Path;

use prometheus::Registry;
use serde_json::Value;
use tempfile::TempDir;

use self::faulty::{Faults, Faulty};
use super::metrics::Operation;
use super::*;
use crate::clock::SystemClock;

/// A trail in a temporary folder.
struct Fixture {
    temporary: TempDir,
    state: TempDir,
    metrics: Metrics,
    faults: Arc<Faults>,
}

impl Fixture {
    fn new() -> Self {
        let metrics = Metrics::register(&Registry::new()).expect("a new registry");
        let [temporary, state] = [(); 2].map(|()| tempfile::tempdir().expect("temporary folder"));
        Self { temporary, state, metrics, faults: Arc::default() }
    }

    fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Beside the folder, as in a state folder.
    fn key(&self) -> std::path::PathBuf {
        self.state.path().join("audit.key")
    }

    fn segment(&self, first: u64) -> std::path::PathBuf {
        self.path().join(format!("trail-{first:020}.log"))
    }

    fn try_open(&self) -> Result<(Recorder, Thread), OpenError> {
        let settings = Settings {
            dir: self.path().to_owned(),
            key: self.key(),
            on_failure: OnFailure::Refuse,
            usage: Usage::RollUp,
            export: Vec::new(),
        };
        open(&settings, Arc::new(SystemClock), self.metrics.clone())
    }

    fn open(&self) -> (Recorder, Thread) {
        patient(self.try_open().expect("a good trail"))
    }

    /// On the disk that fails when it is told to.
    fn open_faulty(&self) -> (Recorder, Thread) {
        self.open_with(Pace { attempt_every: Duration::from_millis(1), ..Pace::default() })
    }

    fn open_with(&self, pace: Pace) -> (Recorder, Thread) {
        let folder = Folder::open(self.path()).expect("free");
        let resumed = resume::resume(&folder, &state::key(&self.key()).expect("a key")).expect("a good trail");
        let disk = Faulty { folder, faults: self.faults.clone() };
        patient(
            start(disk, resumed, Arc::new(SystemClock), self.metrics.clone(), Arc::default(), pace).expect("a thread"),
        )
    }

    /// What the trail tells, which must be a good one. A record that stands there twice is the same both times.
    fn records(&self) -> Vec<Value> {
        let folder = Folder::open(self.path()).expect("the writer let go");
        let mut records = BTreeMap::new();
        for first in folder.segments().expect("readable") {
            let text = std::fs::read_to_string(folder.segment_path(first)).expect("text");
            for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                let record: Value = serde_json::from_str(&line[18..]).expect("JSON");
                let seq = record["seq"].as_u64().expect("a number");
                let before = records.insert(seq, record.clone());
                assert!(before.is_none_or(|before| before == record), "record {seq} is two records");
            }
        }
        let trail = recovery::recover(&folder, &mut review::Review::default()).expect("a good trail");
        assert_eq!(trail.next_seq, records.len() as u64);
        records.into_values().collect()
    }

    /// The causes of the `stop` events, with which these tests count, and the names of the others.
    fn story(&self) -> Vec<String> {
        let tell = |record: &Value| match &record["cause"] {
            Value::String(cause) => cause.clone(),
            _ => record["event"].as_str().expect("a name").to_owned(),
        };
        self.records().iter().map(tell).collect()
    }

    fn failures(&self, operation: Operation) -> u64 {
        self.metrics.failures.with_label_values(&[operation.name()]).get()
    }
}

/// The disk of a busy machine may take longer than callers wait.
fn patient((mut recorder, thread): (Recorder, Thread)) -> (Recorder, Thread) {
    recorder.answer_within = Duration::from_secs(10);
    (recorder, thread)
}

/// As callers have it.
fn impatient(recorder: &Recorder) -> Recorder {
    Recorder { answer_within: ANSWER_WITHIN, ..recorder.clone() }
}

fn event(cause: impl ToString) -> Event {
    Event::Stop { cause: cause.to_string() }
}

/// An event that is no stop.
fn other() -> Event {
    Event::ReloadRefused { problems: 1 }
}

fn requested(request: &str) -> Event {
    let asked = event::tests::samples().into_iter().find_map(|sample| match sample {
        Event::TokenRequested(requested) => Some(Requested { request: request.into(), ..*requested }),
        _ => None,
    });
    Event::TokenRequested(Box::new(asked.expect("a sample of each")))
}

/// Waits for something to become true.
async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::task::yield_now().await;
    }
}

/// Tries until the disk takes a record again.
async fn record_at_last(recorder: &Recorder, event: &Event) {
    let tries = async {
        while recorder.record(event.clone()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), tries).await.expect("the disk works again");
}

#[tokio::test]
async fn a_recorded_event_is_in_the_file_when_record_returns() {
    let fixture = Fixture::new();
    let (recorder, thread) = fixture.open();
    recorder.record(event("one")).await.expect("written");
    let line = std::fs::read_to_string(fixture.segment(0)).expect("there");
    assert!(line[18..].starts_with(r#"{"v":1,"seq":0,"time":"20"#), "{line}");
    assert!(line.ends_with("Z\",\"event\":\"stop\",\"cause\":\"one\"}\n"), "{line}");
    assert_eq!(fixture.metrics.records.with_label_values(&["stop"]).get(), 1);
    thread.finish().expect("written");
}

#[tokio::test]
async fn a_trail_goes_on_after_a_restart() {
    let fixture = Fixture::new();
    for run in 0..3 {
        let (recorder, thread) = fixture.open();
        recorder.record(event(2 * run)).await.expect("written");
        recorder.note(event(2 * run + 1));
        thread.finish().expect("written");
        assert_eq!(recorder.record(event("late")).await, Err(Unavailable::Stopped));
        assert!(!recorder.is_healthy());
    }
    assert_eq!(fixture.story(), ["0", "1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_recorded() {
    let fixture = Fixture::new();
    let (recorder, thread) = fixture.open();
    recorder.record(event("one")).await.expect("written");
    thread.finish().expect("written");
    let bytes = std::fs::read(fixture.segment(0)).expect("there");
    // The next record, as far as a crash let it come.
    let torn = &bytes[..bytes.len() - 3];
    std::fs::write(fixture.segment(0), [&bytes, torn].concat()).expect("torn");
    fixture.open().1.finish().expect("written");
    assert_eq!(fixture.story(), ["one", "audit_tail_repaired"]);
    assert_eq!(fixture.records()[1]["bytes"], torn.len());
}

#[tokio::test]
async fn a_trail_that_somebody_changed_is_not_continued() {
    let fixture = Fixture::new();
    let (recorder, thread) = fixture.open_with(Pace { segment_bytes: 1, ..Pace::default() });
    for cause in ["one", "two", "three"] {
        recorder.record(event(cause)).await.expect("written");
    }
    thread.finish().expect("written");
    assert_eq!(fixture.story(), ["one", "two", "three"]);
    let refused = |word: &str| {
        let error = fixture.try_open().err().expect("refused").to_string();
        assert!(error.contains(word), "{error}");
        assert!(error.contains(&fixture.path().display().to_string()), "{error}");
    };
    let two = std::fs::read_to_string(fixture.segment(1)).expect("there");

    std::fs::write(fixture.segment(1), two.replace("two", "six")).expect("edited");
    refused("byte 0: the record does not match its checksum");
    std::fs::remove_file(fixture.segment(1)).expect("removed");
    refused("record 1 is missing");
    std::os::unix::fs::symlink("elsewhere", fixture.segment(1)).expect("linked");
    refused("is not a plain file");
    std::fs::remove_file(fixture.segment(1)).expect("removed");
    std::fs::write(fixture.segment(1), &two).expect("restored");
    fixture.open().1.finish().expect("as it was");
}

#[test]
fn a_trail_has_one_writer() {
    let fixture = Fixture::new();
    let (_recorder, thread) = fixture.open();
    let error = fixture.try_open().err().expect("held").to_string();
    assert!(error.contains("another process") && error.contains(&fixture.path().display().to_string()), "{error}");
    thread.finish().expect("written");
    fixture.open().1.finish().expect("free again");
}

#[tokio::test]
async fn a_record_that_is_too_long_is_refused_and_counted() {
    let fixture = Fixture::new();
    let (recorder, thread) = fixture.open();
    let result = recorder.record(event("x".repeat(frame::MAX_JSON))).await;
    assert_eq!(result, Err(Unavailable::TooLong(TooLong)));
    thread.finish().expect("written");
    assert_eq!(fixture.story(), ["audit_records_lost"]);
}
