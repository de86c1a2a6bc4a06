//! Reads the trail that is there before anything is added to it.
//!
//! ```text
//! trail-0.log   records 0..F      a segment is named after its first record
//! trail-F.log   records F..       the last one is continued
//! ```
//!
//! Invariant: what a crash or a failing disk leaves behind is repaired and reported; everything else stops the start, and
//! the files stay as they are. Two things can be left behind, neither of them acknowledged to anyone:
//! - The last segment ends in an incomplete line. It is cut.
//! - A segment goes on after the record before `F`: with a batch whose write failed, so that it was written again at the
//!   beginning of the next segment. This rest must be what the next segment begins with, byte for byte. Only where the next
//!   segment is the last may the rest be the longer of the two (the crash came in between); there it is cut.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use super::folder::{Folder, FolderError};
use super::frame::Damage;
use super::review::{Behind, Forged, Review};
use super::scan::{ScanError, Scanner, Step};

/// A trail that can be continued.
#[derive(Debug)]
pub struct Trail {
    /// The number of the next record.
    pub next_seq: u64,
    /// Where the next record goes; `None` in a new folder.
    pub last: Option<Segment>,
    /// How much was cut.
    pub repaired_bytes: u64,
}

/// A segment that is open for appending.
#[derive(Debug)]
pub struct Segment {
    pub file: File,
    /// What is on the disk for certain.
    pub length: u64,
}

/// Checks all segments, shows each record to `review`, and repairs what a crash left behind. Nothing is changed before all is
/// checked.
///
/// # Errors
/// When the trail is not what this program wrote and signed, or cannot be read or repaired.
pub fn recover(folder: &Folder, review: &mut Review) -> Result<Trail, RecoveryError> {
    let segments = folder.segments()?;
    let mut ends = Vec::new();
    for (index, &first_seq) in segments.iter().enumerate() {
        let mut segment = Reading::open(folder, first_seq)?;
        if index == 0 && first_seq != 0 {
            return Err(segment.damaged(0, Damage::Beginning));
        }
        let end = match segments.get(index + 1) {
            None => segment.read_last(review)?,
            Some(&next) => {
                let end = segment.read_up_to(next, review)?;
                let next_is_last = index + 2 == segments.len();
                segment.check_rest(&end, Reading::open(folder, next)?, next_is_last)?;
                end
            }
        };
        ends.push(end);
        // Only the last two can be in need of repair.
        if ends.len() > 2 {
            ends.remove(0);
        }
    }
    review.is_complete().map_err(|error| RecoveryError::Behind { folder: folder.path().to_owned(), error })?;
    repair(folder, &ends)
}

/// Where a segment's own records end.
struct End {
    first_seq: u64,
    next_seq: u64,
    length: u64,
    rest: u64,
}

fn repair(folder: &Folder, ends: &[End]) -> Result<Trail, RecoveryError> {
    let mut trail = Trail { next_seq: 0, last: None, repaired_bytes: 0 };
    for (index, end) in ends.iter().enumerate() {
        let is_last = index + 1 == ends.len();
        if end.rest == 0 && !is_last {
            continue;
        }
        let failed = |error| RecoveryError::Repair { path: folder.segment_path(end.first_seq), error };
        let file = folder.append_segment(end.first_seq)?;
        if end.rest > 0 {
            file.set_len(end.length).map_err(failed)?;
            trail.repaired_bytes += end.rest;
        }
        // What was read may have been in memory only.
        file.sync_all().map_err(failed)?;
        if is_last {
            trail.next_seq = end.next_seq;
            trail.last = Some(Segment { file, length: end.length });
        }
    }
    Ok(trail)
}

/// A segment that is being read.
struct Reading {
    folder: PathBuf,
    path: PathBuf,
    file: File,
    first_seq: u64,
    size: u64,
}

impl Reading {
    fn open(folder: &Folder, first_seq: u64) -> Result<Self, RecoveryError> {
        let path = folder.segment_path(first_seq);
        let file = folder.read_segment(first_seq)?;
        let size = file.metadata().map_err(|error| RecoveryError::Read { path: path.clone(), error })?.len();
        Ok(Self { folder: folder.path().to_owned(), path, file, first_seq, size })
    }

    /// The last segment holds whole records, and perhaps the beginning of one.
    fn read_last(&self, review: &mut Review) -> Result<End, RecoveryError> {
        let mut scanner = Scanner::new(&self.file, self.first_seq);
        while self.step(&mut scanner, review)? == Step::Record {}
        Ok(self.end(&scanner))
    }

    /// Another segment holds the records up to `next`, and perhaps a rest.
    fn read_up_to(&self, next: u64, review: &mut Review) -> Result<End, RecoveryError> {
        let mut scanner = Scanner::new(&self.file, self.first_seq);
        while scanner.next_seq() < next {
            if self.step(&mut scanner, review)? != Step::Record {
                return Err(self.damaged(scanner.offset(), Damage::Missing(scanner.next_seq())));
            }
        }
        Ok(self.end(&scanner))
    }

    fn step(&self, scanner: &mut Scanner<&File>, review: &mut Review) -> Result<Step, RecoveryError> {
        let step = scanner.step().map_err(|error| match error {
            ScanError::Read(error) => self.unreadable(error),
            ScanError::Damaged(damage) => self.damaged(scanner.offset(), damage),
        })?;
        if step == Step::Record {
            let seen = review.see(scanner.json());
            seen.map_err(|error| RecoveryError::Forged {
                folder: self.folder.clone(),
                path: self.path.clone(),
                error,
            })?;
        }
        Ok(step)
    }

    fn end(&self, scanner: &Scanner<&File>) -> End {
        let length = scanner.offset();
        let rest = self.size.saturating_sub(length);
        End { first_seq: self.first_seq, next_seq: scanner.next_seq(), length, rest }
    }

    /// What follows the records of this segment must be what the next one begins with.
    fn check_rest(&mut self, end: &End, mut next: Reading, next_is_last: bool) -> Result<(), RecoveryError> {
        if end.rest > next.size && !next_is_last {
            return Err(self.damaged(end.length, Damage::Rest));
        }
        self.file.seek(SeekFrom::Start(end.length)).map_err(|error| self.unreadable(error))?;
        let mut both = end.rest.min(next.size);
        let (mut ours, mut theirs) = (vec![0; CHUNK], vec![0; CHUNK]);
        while both > 0 {
            let chunk = usize::try_from(both).unwrap_or(CHUNK).min(CHUNK);
            self.file.read_exact(&mut ours[..chunk]).map_err(|error| self.unreadable(error))?;
            next.file.read_exact(&mut theirs[..chunk]).map_err(|error| next.unreadable(error))?;
            if ours[..chunk] != theirs[..chunk] {
                return Err(self.damaged(end.length, Damage::Rest));
            }
            both -= chunk as u64;
        }
        Ok(())
    }

    fn unreadable(&self, error: io::Error) -> RecoveryError {
        RecoveryError::Read { path: self.path.clone(), error }
    }

    fn damaged(&self, offset: u64, damage: Damage) -> RecoveryError {
        RecoveryError::Damaged { folder: self.folder.clone(), path: self.path.clone(), offset, damage }
    }
}

/// Why a trail cannot be continued.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("cannot read {}: {error}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("cannot repair the end of {}: {error}", .path.display())]
    Repair {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error(
        "{}, byte {offset}: {damage}. No crash leaves a trail like that. Keep {} as it is, for investigation, and start \
         with another audit.dir",
        .path.display(),
        .folder.display()
    )]
    Damaged { folder: PathBuf, path: PathBuf, offset: u64, damage: Damage },
    #[error(
        "{}: {error}. `countersign audit verify --dir {}` tells more. Keep that folder as it is, for investigation, and start \
         with another audit.dir",
        .path.display(),
        .folder.display()
    )]
    Forged { folder: PathBuf, path: PathBuf, error: Forged },
    #[error(
        "the trail in {} is behind its last checkpoint: {error}. No crash takes signed records away. Keep that folder as it is, \
         for investigation, and start with another audit.dir",
        .folder.display()
    )]
    Behind { folder: PathBuf, error: Behind },
}

const CHUNK: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::super::scan::tests::file;
    use super::*;

    /// A folder that holds these segments.
    fn trail(segments: &[(u64, &[u8])]) -> (TempDir, Folder) {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let folder = Folder::open(temporary.path()).expect("free");
        for (first_seq, bytes) in segments {
            std::fs::write(folder.segment_path(*first_seq), bytes).expect("write");
        }
        (temporary, folder)
    }

    /// `(next number, last segment's length, bytes cut)`, or the damage and where.
    fn outcome(segments: &[(u64, &[u8])]) -> Result<(u64, u64, u64), (String, u64, Damage)> {
        let (_temporary, folder) = trail(segments);
        match recover(&folder, &mut Review::default()) {
            Ok(trail) => Ok((trail.next_seq, trail.last.map_or(0, |last| last.length), trail.repaired_bytes)),
            Err(RecoveryError::Damaged { path, offset, damage, .. }) => {
                for (first_seq, bytes) in segments {
                    assert_eq!(std::fs::read(folder.segment_path(*first_seq)).expect("there"), *bytes);
                }
                let name = path.file_name().expect("a file").to_string_lossy().trim_start_matches("trail-").to_owned();
                Err((name.trim_start_matches('0').to_owned(), offset, damage))
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_new_folder_begins_with_record_0() {
        assert_eq!(outcome(&[]), Ok((0, 0, 0)));
        assert_eq!(outcome(&[(0, b"")]), Ok((0, 0, 0)));
    }

    #[test]
    fn segments_follow_each_other() {
        let (one, two, three) = (file(0, &["a", "b"]), file(2, &["c"]), file(3, &["d"]));
        let length = three.len() as u64;
        assert_eq!(outcome(&[(0, &one), (2, &two), (3, &three)]), Ok((4, length, 0)));
        assert_eq!(outcome(&[(0, &one), (3, &three)]), Err((".log".into(), one.len() as u64, Damage::Missing(2))));
        assert_eq!(outcome(&[(2, &two), (3, &three)]), Err(("2.log".into(), 0, Damage::Beginning)));
        let swapped = Damage::Number { expected: 2, found: 3 };
        assert_eq!(outcome(&[(0, &one), (2, &three), (3, &two)]), Err(("2.log".into(), 0, swapped)));
    }

    #[test]
    fn only_the_end_of_the_last_segment_may_be_incomplete() {
        let (one, two) = (file(0, &["a", "b"]), file(2, &["c", "d"]));
        let whole = file(2, &["c"]).len() as u64;
        let torn = &two[..two.len() - 5];
        assert_eq!(outcome(&[(0, &one), (2, torn)]), Ok((3, whole, torn.len() as u64 - whole)));
        let half = file(0, &["a"]).len() as u64;
        assert_eq!(outcome(&[(0, &one[..one.len() - 5]), (2, &two)]), Err((".log".into(), half, Damage::Missing(1))));
    }

    #[test]
    fn a_batch_that_was_written_again_may_be_left_over_before() {
        let (one, two, three) = (file(0, &["a"]), file(1, &["b", "c"]), file(3, &["d"]));
        let end = one.len() as u64;
        for rest in 0..=two.len() {
            let left = [&one[..], &two[..rest]].concat();
            let segments: [(u64, &[u8]); 3] = [(0, &left), (1, &two), (3, &three)];
            assert_eq!(outcome(&segments), Ok((4, three.len() as u64, 0)), "{rest} bytes were left");
            assert_eq!(outcome(&segments[..2]), Ok((3, two.len() as u64, rest as u64)), "{rest} bytes were left");
        }
        for other in [file(1, &["x"]), file(1, &["b", "c", "d"]), b"\0".to_vec()] {
            let left = [one.clone(), other].concat();
            let segments: [(u64, &[u8]); 3] = [(0, &left), (1, &two), (3, &three)];
            assert_eq!(outcome(&segments), Err((".log".into(), end, Damage::Rest)));
        }
    }

    #[test]
    fn a_crash_between_two_attempts_is_repaired() {
        let (one, two) = (file(0, &["a"]), file(1, &["b", "c"]));
        let left = [&one[..], &two[..]].concat();
        let whole = file(1, &["b"]).len();
        for again in 0..two.len() {
            let kept = if again < whole { 0 } else { whole };
            let next_seq = if again < whole { 1 } else { 2 };
            let cut = (two.len() + again - kept) as u64;
            assert_eq!(outcome(&[(0, &left), (1, &two[..again])]), Ok((next_seq, kept as u64, cut)), "{again} bytes");
        }
    }

    #[test]
    fn the_error_names_file_and_byte_and_says_what_to_do() {
        let bytes = String::from_utf8(file(0, &["one", "two"])).expect("text").replace("two", "owt");
        let (temporary, folder) = trail(&[(0, bytes.as_bytes())]);
        let error = recover(&folder, &mut Review::default()).expect_err("edited").to_string();
        let start = format!(
            "{}/trail-00000000000000000000.log, byte {}: the record does not match",
            temporary.path().display(),
            file(0, &["one"]).len()
        );
        assert!(error.starts_with(&start), "{error}");
        assert!(error.ends_with("start with another audit.dir"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_trail_is_continued_wherever_a_crash_cut_it(
            texts in prop::collection::vec(".{0,20}", 1..6),
            at in any::<prop::sample::Index>(),
        ) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let bytes = file(0, &texts);
            let cut = at.index(bytes.len() + 1);
            let (_temporary, folder) = trail(&[(0, &bytes[..cut])]);
            let first = recover(&folder, &mut Review::default()).expect("repairable");
            let again = recover(&folder, &mut Review::default()).expect("repaired");
            prop_assert_eq!(again.repaired_bytes, 0);
            prop_assert_eq!(again.next_seq, first.next_seq);
        }
    }
}
