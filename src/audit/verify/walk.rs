//! One pass over all the records, as quick as it gets, up to the first place where something is not as it was written.
//!
//! Invariant: each record is hashed once, in bounded memory.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};

use super::super::archive::{Archive, ArchiveError};
use super::super::folder::{Growing, segment_name};
use super::super::frame::Damage;
use super::super::scan::{ScanError, Scanner, Step};
use super::super::tree::{Frontier, Hash, stored_hashes};
use super::Reference;

/// How far the records are what was signed.
pub struct Walk {
    /// Whole records, up to the first place that is broken.
    pub records: u64,
    /// The last reference that agrees, before the first that does not.
    pub signed: u64,
    /// The first reference of the trail itself that does not agree, and the first that is trusted.
    pub wrong: Option<Reference>,
    pub wrong_trusted: Option<Reference>,
    pub broken: Option<Broken>,
    pub torn_bytes: u64,
    /// How many of the stored hashes are those of the records, before the first that is not.
    pub stored_right: u64,
}

/// Where the lines stop being a trail.
pub struct Broken {
    pub segment: u64,
    pub line: u64,
    pub damage: Damage,
}

impl Walk {
    pub fn through(archive: &Archive, references: &[Reference]) -> Result<Self, ArchiveError> {
        let stored = archive.open(Growing::Tree.name()).ok().map(|file| BufReader::with_capacity(BUFFER, file));
        let mut pass = Pass { frontier: Frontier::default(), references, stored, walk: Self::new() };
        pass.judge();
        let segments = archive.segments()?;
        if let Some(&first) = segments.first().filter(|&&first| first != 0) {
            pass.walk.broken = Some(Broken { segment: first, line: 1, damage: Damage::Beginning });
            return Ok(pass.walk);
        }
        for (index, &first) in segments.iter().enumerate() {
            pass.segment(archive, first, segments.get(index + 1).copied(), index + 2 == segments.len())?;
            if pass.walk.broken.is_some() {
                break;
            }
        }
        pass.walk.records = pass.frontier.size();
        Ok(pass.walk)
    }

    fn new() -> Self {
        Self { records: 0, signed: 0, wrong: None, wrong_trusted: None, broken: None, torn_bytes: 0, stored_right: 0 }
    }

    /// Whether the hashes of so many records are all stored, and right.
    pub fn has_tree_of(&self, size: u64) -> bool {
        self.stored_right >= stored_hashes(size)
    }
}

struct Pass<'a> {
    frontier: Frontier,
    /// Those that are not reached yet.
    references: &'a [Reference],
    stored: Option<BufReader<File>>,
    walk: Walk,
}

impl Pass<'_> {
    fn segment(
        &mut self,
        archive: &Archive,
        first: u64,
        next: Option<u64>,
        next_is_last: bool,
    ) -> Result<(), ArchiveError> {
        let name = segment_name(first);
        let unreadable = |error| ArchiveError::Read { path: archive.file(&name), error };
        let file = archive.open(&name)?;
        let mut scanner = Scanner::new(&file, first);
        let damage = loop {
            if next.is_some_and(|next| scanner.next_seq() >= next) {
                break None;
            }
            match (scanner.step(), next) {
                (Ok(Step::Record), _) => self.see(scanner.json()),
                (Ok(Step::End), None) => break None,
                (Ok(Step::Torn(bytes)), None) => {
                    self.walk.torn_bytes = bytes;
                    break None;
                }
                (Ok(Step::End | Step::Torn(_)), Some(_)) => break Some(Damage::Missing(scanner.next_seq())),
                (Err(ScanError::Damaged(damage)), _) => break Some(damage),
                (Err(ScanError::Read(error)), _) => return Err(unreadable(error)),
            }
        };
        let damage = match (damage, next) {
            (None, Some(next)) => {
                let next = archive.open(&segment_name(next))?;
                let same = rest_is_repeated(&file, scanner.offset(), &next, next_is_last);
                (!same.map_err(unreadable)?).then_some(Damage::Rest)
            }
            (damage, _) => damage,
        };
        let line = scanner.next_seq() - first + 1;
        self.walk.broken = damage.map(|damage| Broken { segment: first, line, damage });
        Ok(())
    }

    fn see(&mut self, json: &[u8]) {
        let Self { frontier, stored, walk, .. } = self;
        frontier.append(Hash::of_leaf(json), |hash| {
            let mut found = [0; Hash::LENGTH];
            match stored.as_mut().map(|stored| stored.read_exact(&mut found)) {
                Some(Ok(())) if found == hash.0 => walk.stored_right += 1,
                _ => *stored = None,
            }
        });
        self.judge();
    }

    fn judge(&mut self) {
        while let Some((reference, rest)) = self.references.split_first() {
            if reference.checkpoint.size != self.frontier.size() {
                break;
            }
            self.references = rest;
            let slot = if reference.is_trusted { &mut self.walk.wrong_trusted } else { &mut self.walk.wrong };
            if reference.checkpoint.root != self.frontier.root() {
                slot.get_or_insert(*reference);
            } else if self.walk.wrong.is_none() {
                self.walk.signed = reference.checkpoint.size;
            }
        }
    }
}

/// What follows a segment's own records was written again at the beginning of the next one, which may be the shorter of the two
/// only where it is the last: there a crash came in between.
fn rest_is_repeated(mut file: &File, at: u64, next: &File, next_is_last: bool) -> io::Result<bool> {
    file.seek(SeekFrom::Start(at))?;
    let (mut ours, mut theirs) = (BufReader::new(file), BufReader::new(next));
    loop {
        let length = ours.fill_buf()?.len().min(theirs.fill_buf()?.len());
        if length == 0 {
            return Ok(ours.buffer().is_empty() || next_is_last);
        }
        if ours.buffer()[..length] != theirs.buffer()[..length] {
            return Ok(false);
        }
        ours.consume(length);
        theirs.consume(length);
    }
}

const BUFFER: usize = 256 * 1024;
