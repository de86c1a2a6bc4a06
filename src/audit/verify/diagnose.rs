//! What was done to a trail that is not what was signed, and where.
//!
//! ```text
//! expected   a b c d e f g        the leaves that `tree` holds, as far as they make the root of a checkpoint
//! found      a b x     f g        the records that are there
//!            ─── ───── ───
//!            same      same, if need be after they were given their own numbers again
//! ```
//!
//! What is between is named by how many were there, how many are, and whether they are the same ones. Where the hashes of the
//! tree are gone too, the numbers of the records and the checkpoints say what they can.

use std::collections::HashSet;
use std::ops::Range;

use super::super::archive::{Archive, ArchiveError, TreeFile};
use super::super::folder::{Growing, segment_name};
use super::super::tree::{Frontier, Hash, Stored as _, place_of_leaf, size_of};
use super::lines::{self, Line};
use super::walk::Walk;
use super::{Finding, Reference, Tampering, beside};

/// See the module.
pub struct Diagnosis<'a> {
    pub archive: &'a Archive,
    pub references: &'a [Reference],
    pub walk: &'a Walk,
    pub is_forked: bool,
}

impl Diagnosis<'_> {
    /// What was done to the records, and to the hashes of their tree.
    pub fn findings(&self) -> Result<Vec<Finding>, ArchiveError> {
        let walk = self.walk;
        let own = self.largest(|reference| !reference.is_trusted);
        let all = self.largest(|_| true);
        if walk.broken.is_none() && walk.wrong.is_none() && walk.records >= own {
            return Ok(match walk.wrong_trusted {
                Some(trusted) => vec![self.fork(trusted.checkpoint.size)?],
                None if walk.records < all => vec![self.put_back(all)?],
                None => self.tree(own).into_iter().collect(),
            });
        }
        if self.is_forked && walk.broken.is_none() && walk.records >= own {
            // One of the two histories is the one that is here.
            return Ok(Vec::new());
        }
        Ok(vec![self.records(all)?])
    }

    fn largest(&self, which: impl Fn(&Reference) -> bool) -> u64 {
        self.references
            .iter()
            .filter(|reference| which(reference))
            .map(|reference| reference.checkpoint.size)
            .max()
            .unwrap_or(0)
    }

    /// The records are what was signed last, and not what was signed before.
    fn fork(&self, size: u64) -> Result<Finding, ArchiveError> {
        let trusted =
            self.references.iter().filter(|reference| reference.is_trusted && reference.checkpoint.size < size);
        let same = trusted.map(|reference| reference.checkpoint.size).max().unwrap_or(0);
        let detail = format!(
            "the trail is another one than the trusted checkpoint of {size} records was signed for: somebody who has the \
             key wrote it anew, from somewhere after record {same} on"
        );
        let lines = self.lines(same)?;
        Ok(self.at(&lines, 0, Tampering::Forked, same, size - same, detail))
    }

    /// All is as it was signed, but not lately.
    fn put_back(&self, size: u64) -> Result<Finding, ArchiveError> {
        let found = self.walk.records;
        let detail = format!(
            "a trusted checkpoint covers {size} records, and {found} are there: the trail was cut, or put back"
        );
        let lines = self.lines(found)?;
        Ok(self.at(&lines, lines.len(), Tampering::Truncated, found, size - found, detail))
    }

    /// The hashes that are only for proofs.
    fn tree(&self, size: u64) -> Option<Finding> {
        if self.walk.has_tree_of(size) {
            return None;
        }
        let name = Growing::Tree.name();
        Some(match self.archive.open(name) {
            Ok(_) => beside(Tampering::Edited, name, 1, "the stored hashes are not those of the records"),
            Err(_) => beside(Tampering::Removed, name, 1, "the stored hashes are not there"),
        })
    }

    fn records(&self, signed: u64) -> Result<Finding, ArchiveError> {
        let start = self.start()?;
        let lines = self.lines(start)?;
        let expected = self.authentic(start);
        let same = lines.iter().zip(&expected).take_while(|(line, hash)| line.hash == Some(**hash)).count();
        if same == expected.len() {
            return Ok(self.by_numbers(&lines, start, same, signed));
        }
        if same == lines.len() {
            let seq = start + same as u64;
            return Ok(self.truncated(&lines, seq, signed.max(start + expected.len() as u64)));
        }
        Ok(Comparison { diagnosis: self, start, lines: &lines, expected: &expected, same }.finding())
    }

    /// The first record of the file in which something may be wrong, or which comes before that.
    fn start(&self) -> Result<u64, ArchiveError> {
        let segments = self.archive.segments()?;
        let holding = |seq: u64| segments.iter().copied().filter(|&first| first <= seq).max().unwrap_or(0);
        let right = self.walk.wrong.map_or(self.walk.records, |_| self.walk.signed);
        let right = self.walk.broken.as_ref().map_or(right, |broken| right.min(broken.segment));
        Ok(holding(right.saturating_sub(1)))
    }

    /// The lines from the file on that holds this record.
    fn lines(&self, seq: u64) -> Result<Vec<Line>, ArchiveError> {
        let segments = self.archive.segments()?;
        let before = segments.iter().filter(|&&first| first <= seq).count().saturating_sub(1);
        lines::read(self.archive, &segments[before..])
    }

    /// The leaves from `start` on that make, with those before, the root of the largest checkpoint that they do.
    fn authentic(&self, start: u64) -> Vec<Hash> {
        let mut leaves = Vec::new();
        let mut authentic = 0;
        let name = self.archive.file(Growing::Tree.name());
        let hashes = std::fs::metadata(&name).map_or(0, |metadata| metadata.len() / Hash::LENGTH as u64);
        let Ok(tree) = TreeFile::open(&name) else { return leaves };
        let mut frontier = Frontier::default();
        let mut ahead = self.references.iter().map(|reference| reference.checkpoint).peekable();
        for index in 0..size_of(hashes) {
            let Ok(leaf) = tree.hash(place_of_leaf(index)) else { break };
            frontier.append(leaf, |_| {});
            if index >= start {
                leaves.push(leaf);
            }
            let size = frontier.size();
            // They stand in the order of their sizes.
            while ahead.next_if(|known| known.size < size).is_some() {}
            let here = ahead.peek().filter(|known| known.size == size);
            if here.is_some_and(|checkpoint| checkpoint.root == frontier.root()) {
                authentic = leaves.len();
            }
        }
        leaves.truncate(authentic);
        leaves
    }

    /// What the numbers of the records tell, and the checkpoints.
    fn by_numbers(&self, lines: &[Line], start: u64, from: usize, signed: u64) -> Finding {
        for (at, line) in lines.iter().enumerate().skip(from) {
            let seq = start + at as u64;
            match line.seq {
                Some(found) if found == seq => {}
                Some(found) if lines[at..].iter().any(|line| line.seq == Some(seq)) => {
                    return self.at(
                        lines,
                        at,
                        Tampering::Reordered,
                        seq,
                        2,
                        format!("record {found} stands before record {seq}"),
                    );
                }
                Some(found) if found > seq => {
                    return self.removed(lines, at, seq, found - seq);
                }
                Some(found) => {
                    let detail = format!("record {found} stands where record {seq} belongs");
                    return self.at(lines, at, Tampering::Spliced, seq, 1, detail);
                }
                None => return self.edited(lines, at, seq, 1),
            }
        }
        let records = start + lines.len() as u64;
        match self.walk.wrong {
            Some(_) if records < signed => {
                let missing = signed - records;
                let detail = format!(
                    "{missing} of {signed} signed records are missing, after record {}; those that follow were numbered anew",
                    self.walk.signed
                );
                let at = usize::try_from(self.walk.signed - start).unwrap_or(0);
                self.at(lines, at, Tampering::Removed, self.walk.signed, missing, detail)
            }
            Some(wrong) => {
                let (first, last) = (self.walk.signed, wrong.checkpoint.size);
                let detail = format!("among the records from {first} up to {last} are others than were signed");
                let at = usize::try_from(first - start).unwrap_or(0);
                self.at(lines, at, Tampering::Edited, first, last - first, detail)
            }
            None if records < signed => self.truncated(lines, records, signed),
            None => {
                let broken = self.walk.broken.as_ref();
                let detail = broken.map_or_else(String::new, |broken| broken.damage.to_string());
                let (segment, line) = broken.map_or((0, 1), |broken| (broken.segment, broken.line));
                Finding { line, ..beside(Tampering::Edited, &segment_name(segment), 1, &detail) }
            }
        }
    }

    fn truncated(&self, lines: &[Line], seq: u64, signed: u64) -> Finding {
        let detail = format!("the trail ends before record {seq}, and {signed} records were signed");
        self.at(lines, lines.len(), Tampering::Truncated, seq, signed - seq, detail)
    }

    fn removed(&self, lines: &[Line], at: usize, seq: u64, count: u64) -> Finding {
        let detail = format!("{} missing", records(seq, count, "is", "are"));
        self.at(lines, at, Tampering::Removed, seq, count, detail)
    }

    fn edited(&self, lines: &[Line], at: usize, seq: u64, count: u64) -> Finding {
        let detail = format!("{} not what was written", records(seq, count, "is", "are"));
        self.at(lines, at, Tampering::Edited, seq, count, detail)
    }

    /// A finding at one of the lines, or after the last.
    fn at(&self, lines: &[Line], at: usize, tampering: Tampering, seq: u64, count: u64, detail: String) -> Finding {
        let (segment, line) = lines.get(at).map_or_else(
            || {
                let last = self.archive.segments().ok().and_then(|all| all.last().copied()).unwrap_or(0);
                (last, lines.iter().rfind(|line| line.segment == last).map_or(1, |line| line.number + 1))
            },
            |line| (line.segment, line.number),
        );
        Finding { tampering, file: segment_name(segment), line, seq: Some(seq), count, detail }
    }
}

/// Found lines beside expected leaves, of which the first `same` are the same and the next are not.
struct Comparison<'a> {
    diagnosis: &'a Diagnosis<'a>,
    start: u64,
    lines: &'a [Line],
    expected: &'a [Hash],
    same: usize,
}

impl Comparison<'_> {
    fn finding(&self) -> Finding {
        let Self { diagnosis, start, lines, same, expected } = *self;
        let seq = start + same as u64;
        if lines.len() >= expected.len() {
            let (found, wanted) = self.middle(expected.len());
            let count = wanted.len() as u64;
            if self.are_the_same(found, wanted) {
                let detail =
                    format!("{} in another order than they were written", records(seq, count, "stands", "stand"));
                return diagnosis.at(lines, same, Tampering::Reordered, seq, count, detail);
            }
        }
        let (found, wanted) = self.middle(self.end());
        let count = wanted.len() as u64;
        if found.is_empty() {
            return match wanted.end == expected.len() {
                true => diagnosis.truncated(lines, seq, start + expected.len() as u64),
                false => diagnosis.removed(lines, same, seq, count),
            };
        }
        if wanted.is_empty() {
            let detail = format!("{} that were never written there stand before record {seq}", amount(found.len()));
            return diagnosis.at(lines, same, Tampering::Spliced, seq, found.len() as u64, detail);
        }
        let damaged = lines[found.clone()].iter().any(|line| line.hash.is_none());
        if damaged || (found.len() == wanted.len() && !self.are_foreign(found.clone())) {
            return diagnosis.edited(lines, same, seq, count);
        }
        let detail = match count {
            1 => format!("another stands in the place of record {seq}: {}", amount(found.len())),
            _ => format!("others stand in the place of records {seq} to {}: {}", seq + count - 1, amount(found.len())),
        };
        diagnosis.at(lines, same, Tampering::Spliced, seq, count, detail)
    }

    /// What is not the same of the lines up to `end` and of the expected records.
    fn middle(&self, end: usize) -> (Range<usize>, Range<usize>) {
        let Self { same, expected, .. } = *self;
        let after = (0..(end - same).min(expected.len() - same))
            .take_while(|back| self.is_record(end - 1 - back, expected.len() - 1 - back))
            .count();
        (same..end - after, same..expected.len() - after)
    }

    /// Where the lines end that checkpoints cover: after the last expected record, if that is there.
    fn end(&self) -> usize {
        let last = self.expected.len() - 1;
        let candidates = || (self.same..self.lines.len()).rev();
        let plain = candidates().find(|&at| self.lines[at].hash == Some(self.expected[last]));
        let found = plain.or_else(|| candidates().take(NEAR_THE_END).find(|&at| self.is_record(at, last)));
        found.map_or(self.lines.len(), |at| at + 1)
    }

    /// Whether the line is that record, as it was or with another number.
    fn is_record(&self, at: usize, index: usize) -> bool {
        let (line, expected) = (&self.lines[at], self.expected[index]);
        line.hash == Some(expected)
            || line.renumbered(self.diagnosis.archive, self.start + index as u64) == Some(expected)
    }

    /// Whether the lines are these records in any order.
    fn are_the_same(&self, found: Range<usize>, wanted: Range<usize>) -> bool {
        let by_hash: HashSet<Hash> = self.expected[wanted.clone()].iter().copied().collect();
        let all_known = found.clone().all(|at| self.lines[at].hash.is_some_and(|hash| by_hash.contains(&hash)));
        if all_known || wanted.len() > MOST_TO_TRY {
            let distinct: HashSet<Option<Hash>> = found.clone().map(|at| self.lines[at].hash).collect();
            return all_known && distinct.len() == found.len();
        }
        let mut left: Vec<usize> = wanted.collect();
        found.into_iter().all(|at| match left.iter().position(|&index| self.is_record(at, index)) {
            Some(position) => {
                left.swap_remove(position);
                true
            }
            None => false,
        })
    }

    /// Whether the lines say themselves that they are from elsewhere: by their numbers, or by a time that does not fit in.
    fn are_foreign(&self, found: Range<usize>) -> bool {
        let archive = self.diagnosis.archive;
        let misnumbered = found.clone().any(|at| self.lines[at].seq.is_some_and(|seq| seq != self.start + at as u64));
        let around = found.start.saturating_sub(1)..(found.end + 1).min(self.lines.len());
        let times: Vec<String> = around.filter_map(|at| self.lines[at].time(archive)).collect();
        misnumbered || !times.is_sorted()
    }
}

/// `record 7 is`, `records 7 to 9 are`.
fn records(seq: u64, count: u64, one: &str, many: &str) -> String {
    match count {
        0 | 1 => format!("record {seq} {one}"),
        _ => format!("records {seq} to {} {many}", seq + count - 1),
    }
}

fn amount(count: usize) -> String {
    if count == 1 { "a record".to_owned() } else { format!("{count} records") }
}

/// How many of the last lines are tried with other numbers.
const NEAR_THE_END: usize = 4096;

/// How many records may have been numbered anew in another order, and are still recognised.
const MOST_TO_TRY: usize = 512;
