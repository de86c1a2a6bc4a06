//! Reads the records of one segment, in order.
//!
//! Invariant: memory is bounded by the longest line, whatever the file holds, and a whole record is told from a torn and from
//! a changed one. Pure but for the reading itself.

use std::io::{self, Read};
use std::ops::Range;

use serde::Deserialize;

use super::frame::{Damage, Decoded, MAX_FRAME, VERSION, decode};

/// Reads a file's frames one by one, in bounded memory, and checks that their numbers follow each other.
pub struct Scanner<R> {
    source: R,
    buffer: Vec<u8>,
    /// Where in the buffer the next frame begins.
    at: usize,
    /// Where in the buffer the last record's JSON is.
    json: Range<usize>,
    /// Where in the file the next frame begins.
    offset: u64,
    next_seq: u64,
}

/// How far a scan got.
#[derive(PartialEq, Eq, Debug)]
pub enum Step {
    /// A whole record that belongs here.
    Record,
    /// The file ends with a whole record.
    End,
    /// The file ends with that many bytes that begin a frame.
    Torn(u64),
}

/// Why a scan cannot go on.
#[derive(Debug)]
pub enum ScanError {
    Read(io::Error),
    Damaged(Damage),
}

impl<R: Read> Scanner<R> {
    pub fn new(source: R, first_seq: u64) -> Self {
        Self { source, buffer: Vec::new(), at: 0, json: 0..0, offset: 0, next_seq: first_seq }
    }

    /// Where the whole records end that were read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The number that the next record must have.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The JSON of the record that was taken last.
    pub fn json(&self) -> &[u8] {
        &self.buffer[self.json.clone()]
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// When the file cannot be read, or holds at [`Scanner::offset`] what does not belong there.
    pub fn step(&mut self) -> Result<Step, ScanError> {
        loop {
            let unread = &self.buffer[self.at..];
            match decode(unread) {
                Decoded::Whole { json, length } => {
                    check_head(json, self.next_seq).map_err(ScanError::Damaged)?;
                    self.at += length;
                    let end = self.at - 1;
                    self.json = end - json.len()..end;
                    self.offset += length as u64;
                    self.next_seq += 1;
                    return Ok(Step::Record);
                }
                Decoded::Damaged(damage) => return Err(ScanError::Damaged(damage)),
                Decoded::Incomplete => {
                    let left = unread.len() as u64;
                    if !self.fill().map_err(ScanError::Read)? {
                        return Ok(if left == 0 { Step::End } else { Step::Torn(left) });
                    }
                }
            }
        }
    }

    /// Reads on; `false` at the end of the file.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let more = (&mut self.source).take(4 * MAX_FRAME as u64).read_to_end(&mut self.buffer)?;
        Ok(more > 0)
    }
}

/// What a reader must know of a record; the rest is for people and later versions.
#[derive(Deserialize)]
struct Head {
    v: u32,
    seq: u64,
}

fn check_head(json: &[u8], expected: u64) -> Result<(), Damage> {
    let head: Head = serde_json::from_slice(json).map_err(|_| Damage::Json)?;
    if head.v != VERSION {
        return Err(Damage::Version(head.v));
    }
    if head.seq != expected {
        return Err(Damage::Number { expected, found: head.seq });
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::frame::{MAX_JSON, encode};
    use super::*;

    /// Frames numbered from `first`, one for each text.
    pub fn file(first: u64, texts: &[&str]) -> Vec<u8> {
        let mut frames = Vec::new();
        for (seq, text) in (first..).zip(texts) {
            let json = serde_json::json!({ "v": 1, "seq": seq, "event": "stop", "cause": text });
            encode(json.to_string().as_bytes(), &mut frames).expect("short");
        }
        frames
    }

    /// The last step of a scan, and where the whole records end.
    fn scan(bytes: &[u8], first: u64) -> Result<(Step, u64), Damage> {
        let mut scanner = Scanner::new(bytes, first);
        loop {
            match scanner.step() {
                Ok(Step::Record) => {}
                Ok(last) => return Ok((last, scanner.offset())),
                Err(ScanError::Damaged(damage)) => return Err(damage),
                Err(ScanError::Read(error)) => panic!("slices can be read: {error}"),
            }
        }
    }

    #[test]
    fn numbers_follow_each_other() {
        let two = file(7, &["a", "b"]);
        assert_eq!(scan(&two, 7), Ok((Step::End, two.len() as u64)));
        assert_eq!(scan(&two, 6), Err(Damage::Number { expected: 6, found: 7 }));
        let twice = [file(7, &["a"]), file(7, &["a"])].concat();
        assert_eq!(scan(&twice, 7), Err(Damage::Number { expected: 8, found: 7 }));
    }

    #[test]
    fn a_record_must_say_its_version_and_its_number() {
        for (json, damage) in [(r#"{"v":2,"seq":0}"#, Damage::Version(2)), (r#"{"v":1}"#, Damage::Json)] {
            let mut frames = Vec::new();
            encode(json.as_bytes(), &mut frames).expect("short");
            assert_eq!(scan(&frames, 0), Err(damage));
        }
    }

    #[test]
    fn the_longest_records_are_read() {
        let longest = format!(r#"{{"v":1,"seq":0,"cause":"{}"}}"#, "x".repeat(MAX_JSON - 26));
        assert_eq!(longest.len(), MAX_JSON);
        let mut frames = Vec::new();
        for seq in 0..3 {
            let numbered = longest.replace("\"seq\":0", &format!("\"seq\":{seq}"));
            encode(numbered.as_bytes(), &mut frames).expect("long enough");
        }
        assert_eq!(scan(&frames, 0), Ok((Step::End, frames.len() as u64)));
    }

    #[test]
    fn a_file_cut_anywhere_is_whole_or_torn_at_the_cut() {
        let bytes = file(0, &["a", "line\nend \u{1b} ä", "c"]);
        let ends: Vec<usize> = (0..=bytes.len()).filter(|&at| at == 0 || bytes[at - 1] == b'\n').collect();
        for cut in 0..=bytes.len() {
            let whole = *ends.iter().filter(|&&end| end <= cut).max().expect("zero is an end");
            let torn = (cut - whole) as u64;
            let expected = if torn == 0 { Step::End } else { Step::Torn(torn) };
            assert_eq!(scan(&bytes[..cut], 0), Ok((expected, whole as u64)), "cut at {cut}");
        }
    }

    #[test]
    fn each_change_of_one_byte_is_found() {
        let bytes = file(0, &["a", "b"]);
        for at in 0..bytes.len() {
            for change in 1..=255 {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                assert!(scan(&changed, 0).is_err(), "byte {at} changed by {change}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_records_are_read_back(texts in prop::collection::vec(".*", 0..20), first in 0..u64::MAX / 2) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let bytes = file(first, &texts);
            prop_assert_eq!(scan(&bytes, first), Ok((Step::End, bytes.len() as u64)));
        }

        #[test]
        fn any_cut_is_repairable_and_any_changed_byte_is_found(
            texts in prop::collection::vec(".{0,40}", 1..8),
            at in any::<prop::sample::Index>(),
            change in 1..=255u8,
        ) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let mut bytes = file(0, &texts);
            let at = at.index(bytes.len());
            prop_assert!(scan(&bytes[..at], 0).is_ok());
            bytes[at] ^= change;
            prop_assert!(scan(&bytes, 0).is_err());
        }

        #[test]
        fn no_bytes_make_a_scan_fail_otherwise(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = scan(&bytes, 0);
        }
    }
}
