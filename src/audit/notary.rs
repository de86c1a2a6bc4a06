//! Signs the trail as it grows.
//!
//! ```text
//! durable records ─▶ Frontier ─▶ hashes ─▶ tree          once a second, or each thousand records:
//!                        └─────▶ Note ───▶ checkpoints   (one now and then)
//!                                  └─────▶ checkpoint ─▶ whoever exports it
//! ```
//!
//! Invariant: a checkpoint covers durable records only, and is itself on the disk before anyone is told; a larger one begins with
//! what the smaller one was signed for, and no two are of one size.

use std::io;
use std::time::Duration;

use super::folder::{Disk, Growing, Whole};
use super::note::{Checkpoint, Note, SigningKey};
use super::tree::{Frontier, Hash, stored_hashes};

/// See the module.
pub struct Notary {
    key: SigningKey,
    frontier: Frontier,
    /// Hashes that are not stored yet.
    hashes: Vec<u8>,
    /// How many are.
    stored: u64,
    last: Option<Checkpoint>,
    kept: Mark,
    /// When the first record came that no checkpoint covers, by the boot clock.
    since: Option<Duration>,
}

/// How far the file of kept checkpoints goes.
#[derive(Clone, Copy, Default)]
pub struct Mark {
    /// The tree of the last one in there.
    pub size: u64,
    /// The file's length.
    pub length: u64,
}

/// When to sign, and what to keep.
#[derive(Clone, Copy)]
pub struct Rhythm {
    /// A checkpoint comes that long after the first record that it covers, or
    pub within: Duration,
    /// when there are so many.
    pub records: u64,
    /// A checkpoint is kept when it covers that many more records than the last one that was.
    pub keep_each: u64,
}

impl Default for Rhythm {
    fn default() -> Self {
        // Within the second, with what it takes to store it.
        Self { within: Duration::from_millis(900), records: 1000, keep_each: 1000 }
    }
}

impl Notary {
    /// Goes on after the records that `frontier` has seen. `stored` hashes of them are in the file, `hashes` are the others.
    pub fn new(
        key: SigningKey,
        frontier: Frontier,
        stored: u64,
        hashes: Vec<u8>,
        last: Option<Checkpoint>,
        kept: Mark,
    ) -> Self {
        Self { key, frontier, hashes, stored, last, kept, since: None }
    }

    /// These records are durable.
    pub fn append(&mut self, leaves: &[Hash], now: Duration) {
        for leaf in leaves {
            self.frontier.append(*leaf, |hash| self.hashes.extend_from_slice(&hash.0));
        }
        self.notice(now);
    }

    /// There may be something new.
    pub fn notice(&mut self, now: Duration) {
        if self.is_news() {
            self.since.get_or_insert(now);
        }
    }

    fn is_news(&self) -> bool {
        self.last.is_none_or(|last| last.size < self.frontier.size())
    }

    /// How long until there is something to sign: `None` while there is nothing new.
    pub fn due(&self, rhythm: &Rhythm, now: Duration) -> Option<Duration> {
        let since = self.since?;
        let new = self.frontier.size() - self.last.map_or(0, |last| last.size);
        Some(if new >= rhythm.records { Duration::ZERO } else { (since + rhythm.within).saturating_sub(now) })
    }

    /// Signs what is there and stores it, if it is new. May be tried again when it fails.
    pub fn publish(&mut self, disk: &impl Disk, rhythm: &Rhythm) -> io::Result<Option<Note>> {
        if !self.is_news() {
            return Ok(None);
        }
        if !self.hashes.is_empty() {
            disk.put(Growing::Tree, self.stored * Hash::LENGTH as u64, &self.hashes)?;
            self.stored = stored_hashes(self.frontier.size());
            self.hashes.clear();
        }
        let checkpoint = Checkpoint { size: self.frontier.size(), root: self.frontier.root() };
        let note = self.key.sign(checkpoint);
        let text = note.to_string();
        if checkpoint.size >= self.kept.size + rhythm.keep_each {
            disk.put(Growing::Checkpoints, self.kept.length, text.as_bytes())?;
            self.kept = Mark { size: checkpoint.size, length: self.kept.length + text.len() as u64 };
        }
        disk.replace(Whole::Checkpoint, text.as_bytes())?;
        self.last = Some(checkpoint);
        self.since = None;
        Ok(Some(note))
    }

    /// Writes down who signs, in a new folder.
    pub fn introduce(&self, disk: &impl Disk) -> io::Result<()> {
        disk.replace(Whole::Verifier, format!("{}\n", self.key.verifier()).as_bytes())
    }
}
