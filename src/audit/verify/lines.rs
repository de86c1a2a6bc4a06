//! The lines of a trail in which something is wrong, read as far as they can be.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;

use serde::Deserialize;

use super::super::archive::{Archive, ArchiveError};
use super::super::folder::segment_name;
use super::super::frame::{Decoded, MAX_FRAME, decode};
use super::super::tree::Hash;

/// A line, wherever it belongs.
pub struct Line {
    /// The file that it is in, by its first record.
    pub segment: u64,
    /// From 1.
    pub number: u64,
    /// Where its JSON is in the file.
    offset: u64,
    length: usize,
    /// Its leaf: `None` where the line is not whole.
    pub hash: Option<Hash>,
    /// What it says of itself.
    pub seq: Option<u64>,
}

/// What a record says of its place.
#[derive(Deserialize)]
struct Head<'a> {
    seq: u64,
    #[serde(borrow)]
    time: Option<&'a str>,
}

impl Line {
    /// The hash that the record would have with another number.
    pub fn renumbered(&self, archive: &Archive, seq: u64) -> Option<Hash> {
        let own = self.seq?;
        if own == seq {
            return self.hash;
        }
        let json = self.json(archive)?;
        let (before, after) = (format!("\"seq\":{own},"), format!("\"seq\":{seq},"));
        Some(Hash::of_leaf(json.replacen(&before, &after, 1).as_bytes()))
    }

    /// When it was written, by its own words.
    pub fn time(&self, archive: &Archive) -> Option<String> {
        let json = self.json(archive)?;
        serde_json::from_str::<Head<'_>>(&json).ok()?.time.map(ToOwned::to_owned)
    }

    fn json(&self, archive: &Archive) -> Option<String> {
        self.hash?;
        let mut json = vec![0; self.length];
        archive.open(&segment_name(self.segment)).ok()?.read_exact_at(&mut json, self.offset).ok()?;
        String::from_utf8(json).ok()
    }
}

/// All lines of these segments. A batch that was written again at the beginning of the next segment counts once; what a crash left
/// at the very end does not count.
pub fn read(archive: &Archive, segments: &[u64]) -> Result<Vec<Line>, ArchiveError> {
    let mut lines = Vec::new();
    for (index, &segment) in segments.iter().enumerate() {
        let next = segments.get(index + 1).copied();
        let name = segment_name(segment);
        read_segment(archive, segment, next, &mut lines)
            .map_err(|error| ArchiveError::Read { path: archive.file(&name), error })?;
    }
    Ok(lines)
}

fn read_segment(archive: &Archive, segment: u64, next: Option<u64>, lines: &mut Vec<Line>) -> io::Result<()> {
    let open = |segment: u64| archive.open(&segment_name(segment)).map_err(io::Error::other);
    let mut reader = BufReader::new(open(segment)?);
    let (mut bytes, mut offset) = (Vec::new(), 0);
    for number in 1.. {
        bytes.clear();
        // A line that is longer than any record is cut into several, none of which is one.
        let length = (&mut reader).take(MAX_FRAME as u64).read_until(b'\n', &mut bytes)?;
        if length == 0 {
            break;
        }
        let decoded = decode(&bytes);
        let json = match decoded {
            Decoded::Whole { json, .. } => Some(json),
            Decoded::Incomplete if next.is_none() && !bytes.ends_with(b"\n") => break,
            Decoded::Incomplete | Decoded::Damaged(_) => None,
        };
        let seq = json.and_then(|json| Some(serde_json::from_slice::<Head<'_>>(json).ok()?.seq));
        if let Some(next) = next.filter(|next| seq == Some(*next))
            && is_beginning_of(&open(segment)?, offset, &open(next)?)?
        {
            break;
        }
        let line = Line {
            segment,
            number,
            offset: offset + (length - 1 - json.map_or(0, <[u8]>::len)) as u64,
            length: json.map_or(0, <[u8]>::len),
            hash: json.map(Hash::of_leaf),
            seq,
        };
        lines.push(line);
        offset += length as u64;
    }
    Ok(())
}

/// Whether the bytes from `at` on are what the other file begins with.
fn is_beginning_of(file: &File, at: u64, other: &File) -> io::Result<bool> {
    let length = file.metadata()?.len() - at;
    if length > other.metadata()?.len() {
        return Ok(false);
    }
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let (mut ours, mut theirs) = (vec![0; length], vec![0; length]);
    file.read_exact_at(&mut ours, at)?;
    other.read_exact_at(&mut theirs, 0)?;
    Ok(ours == theirs)
}
