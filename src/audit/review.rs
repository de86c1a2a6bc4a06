//! What a start looks for in the records that are there: whether they are what the checkpoints were signed for, and which
//! hashes of their tree are stored.
//!
//! Invariant: each record is hashed once. Memory is bounded, however much of the stored hashes is missing: what does not fit is
//! told as lost, and is computed anew later.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Read as _};

use super::figures::{Reading, Told};
use super::note::Checkpoint;
use super::tree::{Frontier, Hash, stored_hashes};
use super::used::Left;

/// See the module.
#[derive(Default)]
pub struct Review {
    pub frontier: Frontier,
    /// What was signed and is not reached yet, the smallest first.
    expected: VecDeque<Checkpoint>,
    stored: Option<BufReader<File>>,
    /// How many stored hashes are right.
    pub stored_right: u64,
    /// The hashes that follow them, if there are not too many.
    pub missing: Vec<u8>,
    pub overflowed: bool,
    /// The last record.
    pub last: Vec<u8>,
    /// What was used before, and is not a record.
    pub left: Left,
    pub figures: Reading,
}

impl Review {
    /// `checkpoints` from the smallest to the largest.
    pub fn new(checkpoints: Vec<Checkpoint>, stored: Option<File>, left: Left) -> Self {
        let stored = stored.map(|file| BufReader::with_capacity(BUFFER, file));
        Self { expected: checkpoints.into(), stored, left, ..Self::default() }
    }

    /// The next record.
    ///
    /// # Errors
    /// When a checkpoint was signed for other records.
    pub fn see(&mut self, json: &[u8]) -> Result<(), Forged> {
        self.judge()?;
        self.left.see(self.frontier.size(), json);
        if let Some(told) = Told::read(json) {
            self.figures.see(told);
        }
        let Self { frontier, stored, stored_right, missing, overflowed, .. } = self;
        frontier.append(Hash::of_leaf(json), |hash| {
            if is_stored(stored, hash) {
                *stored_right += 1;
                return;
            }
            *stored = None;
            if missing.len() < MOST_MISSING {
                missing.extend_from_slice(&hash.0);
            } else {
                *overflowed = true;
            }
        });
        self.last.clear();
        self.last.extend_from_slice(json);
        self.judge()
    }

    fn judge(&mut self) -> Result<(), Forged> {
        while let Some(checkpoint) = self.expected.front().filter(|next| next.size == self.frontier.size()) {
            if checkpoint.root != self.frontier.root() {
                return Err(Forged { size: checkpoint.size });
            }
            self.expected.pop_front();
        }
        Ok(())
    }

    /// # Errors
    /// When there should be more records.
    pub fn is_complete(&mut self) -> Result<(), Behind> {
        match self.expected.back() {
            Some(last) if last.size > self.frontier.size() => {
                Err(Behind { size: last.size, found: self.frontier.size() })
            }
            _ => Ok(()),
        }
    }

    /// Whether all that is known of the tree is in the file, or in [`Review::missing`].
    pub fn knows_all_hashes(&self) -> bool {
        let missing = (self.missing.len() / Hash::LENGTH) as u64;
        !self.overflowed && self.stored_right + missing == stored_hashes(self.frontier.size())
    }
}

fn is_stored(stored: &mut Option<BufReader<File>>, hash: Hash) -> bool {
    let mut found = [0; Hash::LENGTH];
    let read = stored.as_mut().map(|stored| stored.read_exact(&mut found));
    matches!(read, Some(io::Result::Ok(()))) && found == hash.0
}

/// The records are not those that a checkpoint was signed for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the first {size} records are not those that their checkpoint was signed for")]
pub struct Forged {
    pub size: u64,
}

/// There are fewer records than a checkpoint was signed for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it was signed for {size} records, and {found} are there")]
pub struct Behind {
    pub size: u64,
    pub found: u64,
}

const BUFFER: usize = 256 * 1024;

/// In bytes: of half a million records.
const MOST_MISSING: usize = 32 * 1024 * 1024;
