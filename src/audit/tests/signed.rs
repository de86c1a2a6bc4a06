//! The trail as it is signed, and what becomes of it when somebody changes what was signed.

use std::path::PathBuf;

use super::super::book;
use super::super::notary::Rhythm;
use super::super::note::{Checkpoint, Note, SigningKey, Verifier};
use super::super::tree::{Frontier, Hash};
use super::*;

impl Fixture {
    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).expect("there")
    }

    fn verifier(&self) -> Verifier {
        book::parse_verifier(self.text("checkpoint.vkey").as_bytes()).expect("a key")
    }

    /// What was signed last.
    fn checkpoint(&self) -> Checkpoint {
        let note = book::parse_last(self.text("checkpoint").as_bytes()).expect("a note");
        self.verifier().open(&note).expect("signed")
    }

    /// The root over the records that stand in the segments.
    fn root(&self) -> Hash {
        let mut frontier = Frontier::default();
        for first in folder::segments(self.path()).expect("readable") {
            for line in std::fs::read_to_string(self.segment(first)).expect("text").lines() {
                frontier.append(Hash::of_leaf(&line.as_bytes()[18..]), |_| {});
            }
        }
        frontier.root()
    }

    async fn write(&self, causes: &[&str]) {
        let (recorder, thread) = self.open();
        for cause in causes {
            recorder.record(event(cause)).await.expect("written");
        }
        thread.finish().expect("written");
    }

    fn refusal(&self) -> String {
        let before = self.everything();
        let error = self.try_open().err().expect("refused").to_string();
        assert_eq!(self.everything(), before, "nothing was changed");
        error
    }

    /// Every file and its bytes.
    fn everything(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = std::fs::read_dir(self.path()).expect("readable").map(|entry| entry.expect("an entry").path());
        entries.map(|path| (path.clone(), std::fs::read(path).expect("readable"))).collect()
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect(what);
}

/// A line as the writer writes it, with another text.
fn forged(line: &str, from: &str, to: &str) -> String {
    let mut frame = Vec::new();
    frame::encode(line[18..].trim_end().replace(from, to).as_bytes(), &mut frame).expect("short");
    String::from_utf8(frame).expect("text")
}

#[tokio::test]
async fn what_is_new_is_signed_by_itself_and_nothing_else_is() {
    let fixture = Fixture::new();
    let (recorder, thread) = fixture.open();
    assert_eq!(fixture.checkpoint(), Checkpoint { size: 0, root: Hash::of_nothing() });
    for cause in ["one", "two", "three"] {
        recorder.record(event(cause)).await.expect("written");
    }
    until("a checkpoint comes", || fixture.checkpoint().size == 3).await;
    assert_eq!(fixture.checkpoint().root, fixture.root());
    until("and is told", || fixture.metrics.checkpoint_size.get() == 3).await;
    let signed = fixture.text("checkpoint");
    thread.finish().expect("written");
    assert_eq!(fixture.text("checkpoint"), signed);
}

#[tokio::test]
async fn a_thousand_records_are_signed_at_once() {
    let fixture = Fixture::new();
    let rhythm = Rhythm { within: Duration::from_secs(3600), records: 10, keep_each: 10 };
    let (recorder, thread) = fixture.open_with(Pace { rhythm, ..Pace::default() });
    for number in 0..25 {
        recorder.record(event(number)).await.expect("written");
    }
    until("two checkpoints are there", || fixture.checkpoint().size >= 20).await;
    thread.finish().expect("written");
    assert_eq!(fixture.checkpoint().size, 25);
    let kept = Note::parse_all(&fixture.text("checkpoints")).expect("notes");
    let sizes: Vec<u64> = kept.iter().map(|note| note.unverified().size).collect();
    assert_eq!(sizes, [10, 20]);
}

#[tokio::test]
async fn a_trail_is_signed_on_after_a_restart_by_the_same_key() {
    let fixture = Fixture::new();
    fixture.write(&["one", "two"]).await;
    let (key, first) = (fixture.text("checkpoint.vkey"), fixture.checkpoint());
    assert_eq!(first, Checkpoint { size: 2, root: fixture.root() });
    fixture.write(&["three"]).await;
    assert_eq!(fixture.text("checkpoint.vkey"), key);
    assert_eq!(fixture.checkpoint(), Checkpoint { size: 3, root: fixture.root() });
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(fixture.key()).expect("there"));
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn each_new_trail_has_an_origin_of_its_own() {
    let (one, two) = (Fixture::new(), Fixture::new());
    one.write(&["one"]).await;
    std::fs::copy(one.key(), two.key()).expect("copied");
    two.write(&["two"]).await;
    assert_ne!(one.verifier().name(), two.verifier().name());
}

#[tokio::test]
async fn a_trail_behind_its_last_checkpoint_is_not_continued() {
    let fixture = Fixture::new();
    fixture.write(&["one", "two", "three"]).await;
    let all = fixture.text("trail-00000000000000000000.log");
    let lines: Vec<&str> = all.split_inclusive('\n').collect();
    for left in 0..3 {
        std::fs::write(fixture.segment(0), lines[..left].concat()).expect("cut");
        let error = fixture.refusal();
        assert!(error.contains("is behind its last checkpoint"), "{error}");
        assert!(error.contains(&format!("signed for 3 records, and {left} are there")), "{error}");
    }
    std::fs::remove_file(fixture.segment(0)).expect("removed");
    assert!(fixture.refusal().contains("3 records, and 0 are there"));
    std::fs::write(fixture.segment(0), &all[..all.len() - 1]).expect("torn, and yet signed");
    assert!(fixture.refusal().contains("3 records, and 2 are there"));
    std::fs::write(fixture.segment(0), all).expect("as it was");
    fixture.write(&["four"]).await;
}

#[tokio::test]
async fn records_that_were_forged_are_not_signed() {
    let fixture = Fixture::new();
    fixture.write(&["one", "two", "three"]).await;
    let all = fixture.text("trail-00000000000000000000.log");
    let line = all.lines().nth(1).expect("three lines");
    std::fs::write(fixture.segment(0), all.replace(&format!("{line}\n"), &forged(line, "two", "owt"))).expect("forged");
    let error = fixture.refusal();
    assert!(error.contains("the first 3 records are not those that their checkpoint was signed for"), "{error}");
    assert!(error.contains("countersign audit verify --dir"), "{error}");
}

#[tokio::test]
async fn a_trail_whose_checkpoint_or_key_was_taken_is_not_continued() {
    let fixture = Fixture::new();
    fixture.write(&["one"]).await;
    let [note, verifier] = ["checkpoint", "checkpoint.vkey"].map(|name| fixture.text(name));
    std::fs::remove_file(fixture.file("checkpoint")).expect("removed");
    assert!(fixture.refusal().contains("their checkpoint is not there"));
    std::fs::remove_file(fixture.file("checkpoint.vkey")).expect("removed");
    assert!(fixture.refusal().contains("records that nobody has signed"));
    std::fs::write(fixture.file("checkpoint.vkey"), verifier).expect("restored");
    std::fs::write(fixture.file("checkpoint"), note.replace("\n1\n", "\n0\n")).expect("edited");
    assert!(fixture.refusal().contains("its signature is wrong"));
    std::fs::write(fixture.file("checkpoint"), &note).expect("restored");
    std::fs::write(fixture.key(), [7; 32]).expect("another");
    assert!(fixture.refusal().contains("another key"));
}

#[tokio::test]
async fn two_signed_trees_of_one_size_are_a_fork() {
    let fixture = Fixture::new();
    fixture.write(&["one"]).await;
    let seed = std::fs::read(fixture.key()).expect("there").try_into().expect("32 bytes");
    let key = SigningKey::new(fixture.verifier().name(), &seed);
    let other = key.sign(Checkpoint { size: 1, root: Hash::of_leaf(b"another") });
    std::fs::write(fixture.file("checkpoints"), other.to_string()).expect("written");
    assert!(fixture.refusal().contains("the trail was forked"));
}

#[tokio::test]
async fn hashes_that_are_lost_or_wrong_are_computed_anew() {
    let fixture = Fixture::new();
    fixture.write(&["one", "two", "three", "four", "five"]).await;
    let right = std::fs::read(fixture.file("tree")).expect("there");
    assert_eq!(right.len(), 8 * 32);
    let wrong: Vec<u8> = right.iter().enumerate().map(|(at, byte)| if at == 70 { byte ^ 1 } else { *byte }).collect();
    let longer = [&right[..], &[0; 40]].concat();
    for damaged in [&[][..], &right[..100], &wrong, &longer] {
        std::fs::write(fixture.file("tree"), damaged).expect("damaged");
        fixture.write(&["more"]).await;
        let now = std::fs::read(fixture.file("tree")).expect("there");
        assert!(now.starts_with(&right));
        let size = fixture.checkpoint().size;
        assert_eq!(now.len() as u64, 32 * tree::stored_hashes(size));
    }
}

#[tokio::test]
async fn a_crash_leaves_a_trail_that_is_signed_on_wherever_it_came() {
    let fixture = Fixture::new();
    fixture.write(&["one", "two"]).await;
    let signed = fixture.everything();
    fixture.write(&["three", "four"]).await;
    let (before, after) = (&signed[&fixture.segment(0)], fixture.everything()[&fixture.segment(0)].clone());
    for length in before.len()..=after.len() {
        for (path, bytes) in &signed {
            std::fs::write(path, bytes).expect("as it was signed");
        }
        std::fs::write(fixture.segment(0), &after[..length]).expect("as far as it came");
        fixture.write(&["five"]).await;
        let checkpoint = fixture.checkpoint();
        assert_eq!(checkpoint.root, fixture.root(), "{length} bytes");
        assert_eq!(checkpoint.size, fixture.records().len() as u64);
    }
}

#[tokio::test]
async fn a_trail_that_cannot_be_signed_is_unhealthy_until_it_is() {
    let fixture = Fixture::new();
    let rhythm = Rhythm { within: Duration::ZERO, ..Rhythm::default() };
    let (recorder, thread) =
        fixture.open_with(Pace { rhythm, attempt_every: Duration::from_millis(1), ..Pace::default() });
    fixture.faults.fail(Operation::Checkpoint, faulty::FOR_EVER);
    recorder.record(event("one")).await.expect("it is written all the same");
    until("that is seen", || !recorder.is_healthy()).await;
    assert_eq!(fixture.checkpoint().size, 0);
    fixture.faults.fail(Operation::Checkpoint, 0);
    until("it is tried again", || recorder.is_healthy()).await;
    assert!(fixture.failures(Operation::Checkpoint) > 0);
    thread.finish().expect("written");
    assert_eq!(fixture.story(), ["one", "audit_failed"]);
    assert_eq!(fixture.checkpoint(), Checkpoint { size: 2, root: fixture.root() });
}

#[tokio::test]
async fn a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for() {
    for name in ["trail-00000000000000000000.log", "checkpoint", "checkpoint.vkey", "tree", "lock"] {
        let fixture = Fixture::new();
        fixture.write(&["one"]).await;
        std::fs::remove_file(fixture.file(name)).expect("removed");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, fixture.file(name), kind, 0o600.into(), 0).expect("a pipe");
        let error = fixture.try_open().err().expect("refused").to_string();
        assert!(error.contains("is not a plain file"), "{name}: {error}");
    }
}
