//! A trail as others than its writer read it: the running proxy for its admin listener, and commands on a folder or a copy of it.
//! Nothing is locked and nothing is changed.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::Serialize;

use super::book::{self, Kept};
use super::folder::{Growing, Whole, segment_name, segments};
use super::frame::Damage;
use super::note::{NotNote, NotVerifier, Note, Verifier};
use super::scan::{ScanError, Scanner, Step};
use super::tree::{self, Hash, Stored};

/// See the module.
#[derive(Clone, Debug)]
pub struct Archive {
    folder: PathBuf,
}

/// What shows that a record, or a smaller tree, belongs to a tree (RFC 6962, section 2.1).
#[derive(Serialize, Debug)]
pub struct Proof {
    /// The number of the record, or the size of the smaller tree.
    pub of: u64,
    /// The size of the tree.
    pub size: u64,
    /// In base64, as they are needed.
    pub hashes: Vec<String>,
}

impl Archive {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// The key that the trail says it is signed with.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn verifier(&self) -> Result<Verifier, ArchiveError> {
        let bytes = self.bytes(Whole::Verifier.name())?;
        book::parse_verifier(&bytes)
            .map_err(|error| ArchiveError::Verifier { path: self.file(Whole::Verifier.name()), error })
    }

    /// The last checkpoint, as it was signed.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn checkpoint(&self) -> Result<Note, ArchiveError> {
        let bytes = self.bytes(Whole::Checkpoint.name())?;
        book::parse_last(&bytes)
            .map_err(|error| ArchiveError::Note { path: self.file(Whole::Checkpoint.name()), error })
    }

    /// The checkpoints that were kept, as they were signed.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn kept(&self) -> Result<Vec<Note>, ArchiveError> {
        let name = Growing::Checkpoints.name();
        match self.bytes(name) {
            Ok(bytes) => {
                Ok(Kept::parse(&bytes).map_err(|error| ArchiveError::Note { path: self.file(name), error })?.notes)
            }
            Err(ArchiveError::Read { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The records from this number on, as lines of JSON. Ends where a record that is being written begins.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn records(&self, from: u64) -> Result<Records, ArchiveError> {
        let all = self.segments()?;
        // The segment that holds it is the last one that does not begin after it.
        let skip = all.iter().filter(|&&first| first <= from).count().saturating_sub(1);
        Ok(Records {
            archive: self.clone(),
            segments: all.into_iter().skip(skip).collect(),
            at: 0,
            scanner: None,
            from,
        })
    }

    /// What proves that a record is in the tree of that many records.
    ///
    /// # Errors
    /// When there is no such record, or the hashes of the tree cannot be read.
    pub fn inclusion(&self, seq: u64, size: u64) -> Result<Proof, ArchiveError> {
        let tree = self.tree(size)?;
        if seq >= size {
            return Err(ArchiveError::OutOfRange { asked: seq, size });
        }
        Ok(Proof::new(seq, size, &tree::inclusion(seq, size, &tree).map_err(|error| self.unreadable_tree(error))?))
    }

    /// What proves that the tree of `size` records begins with the one of `old`.
    ///
    /// # Errors
    /// When there is no such tree, or its hashes cannot be read.
    pub fn consistency(&self, old: u64, size: u64) -> Result<Proof, ArchiveError> {
        let tree = self.tree(size)?;
        if old > size {
            return Err(ArchiveError::OutOfRange { asked: old, size });
        }
        Ok(Proof::new(old, size, &tree::consistency(old, size, &tree).map_err(|error| self.unreadable_tree(error))?))
    }

    fn tree(&self, size: u64) -> Result<TreeFile, ArchiveError> {
        let tree = TreeFile::open(&self.file(Growing::Tree.name())).map_err(|error| match error.kind() {
            // The first checkpoint brings it.
            io::ErrorKind::NotFound => ArchiveError::OutOfRange { asked: size, size: 0 },
            _ => self.unreadable_tree(error),
        })?;
        let length = tree.0.metadata().map_err(|error| self.unreadable_tree(error))?.len();
        if tree::stored_hashes(size) * Hash::LENGTH as u64 > length {
            return Err(ArchiveError::OutOfRange { asked: size, size: tree::size_of(length / Hash::LENGTH as u64) });
        }
        Ok(tree)
    }

    fn unreadable_tree(&self, error: io::Error) -> ArchiveError {
        ArchiveError::Read { path: self.file(Growing::Tree.name()), error }
    }

    pub(super) fn segments(&self) -> Result<Vec<u64>, ArchiveError> {
        segments(&self.folder).map_err(|error| ArchiveError::Read { path: self.folder.clone(), error })
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn open(&self, name: &str) -> Result<File, ArchiveError> {
        let path = self.file(name);
        open(&path).map_err(|error| ArchiveError::Read { path, error })
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let mut bytes = Vec::new();
        let read = self.open(name)?.take(MOST).read_to_end(&mut bytes);
        read.map(|_| bytes).map_err(|error| ArchiveError::Read { path: self.file(name), error })
    }
}

/// A pipe is not waited for.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file")),
    }
}

impl Proof {
    fn new(of: u64, size: u64, hashes: &[Hash]) -> Self {
        Self { of, size, hashes: hashes.iter().map(ToString::to_string).collect() }
    }
}

/// The stored hashes.
pub struct TreeFile(File);

impl TreeFile {
    pub fn open(path: &Path) -> io::Result<Self> {
        open(path).map(Self)
    }
}

impl Stored for TreeFile {
    type Error = io::Error;

    fn hash(&self, place: u64) -> io::Result<Hash> {
        let mut hash = [0; Hash::LENGTH];
        self.0.read_exact_at(&mut hash, place * Hash::LENGTH as u64)?;
        Ok(Hash(hash))
    }
}

/// Goes through records.
pub struct Records {
    archive: Archive,
    segments: Vec<u64>,
    at: usize,
    scanner: Option<Scanner<File>>,
    from: u64,
}

impl Records {
    /// The next record: its number, and its JSON.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was written.
    pub fn take_next(&mut self) -> Result<Option<(u64, &[u8])>, ArchiveError> {
        loop {
            let Some(&first) = self.segments.get(self.at) else { return Ok(None) };
            let after = self.segments.get(self.at + 1).copied();
            if self.scanner.is_none() {
                self.scanner = Some(Scanner::new(self.archive.open(&segment_name(first))?, first));
            }
            let scanner = self.scanner.as_mut().expect("it was opened");
            let ended = after.is_some_and(|after| scanner.next_seq() >= after);
            let step = if ended { Ok(Step::End) } else { scanner.step() };
            match step {
                Ok(Step::Record) if scanner.next_seq() > self.from => break,
                Ok(Step::Record) => {}
                Ok(Step::End | Step::Torn(_)) => {
                    self.at += 1;
                    self.scanner = None;
                }
                Err(ScanError::Read(error)) => {
                    return Err(ArchiveError::Read { path: self.archive.file(&segment_name(first)), error });
                }
                Err(ScanError::Damaged(damage)) => {
                    let line = scanner.next_seq() - first + 1;
                    return Err(ArchiveError::Damaged { path: self.archive.file(&segment_name(first)), line, damage });
                }
            }
        }
        Ok(self.scanner.as_ref().map(|scanner| (scanner.next_seq() - 1, scanner.json())))
    }
}

/// Why a trail cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("cannot read {}: {error}", .path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{}: {error}", .path.display())]
    Verifier { path: PathBuf, error: NotVerifier },
    #[error("{}, {error}", .path.display())]
    Note { path: PathBuf, error: NotNote },
    #[error("{}:{line}: {damage}. `countersign audit verify` tells more", .path.display())]
    Damaged { path: PathBuf, line: u64, damage: Damage },
    #[error("there is no {asked} in a trail of {size} records, which are numbered from 0")]
    OutOfRange { asked: u64, size: u64 },
}

const MOST: u64 = 64 * 1024 * 1024;
