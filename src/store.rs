//! State that outlives a restart: sealed records, a file each, in `sealed/` of the state folder.
//!
//! ```text
//! write   KIND-NAME.new ─ fsync ─ rename to KIND-NAME.sealed ─ fsync of the folder
//! read    whose is it, who may write it, is it a plain file ─ open the seal
//! ```
//!
//! A record is there whole, or as it was before: a crash at any moment leaves one of both. What cannot be trusted is
//! refused by name and stays where it is, for somebody to look at; the others are used.
//!
//! Invariant: nothing is deleted that was not told to be, and what was refused is moved aside before its name is used again.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::seal::{Broken, Instance, Label, Sealer};
use crate::secret::{Fingerprinter, Reference, ResolveError, Secret};

const FOLDER: &str = "sealed";
const KEY_FILE: &str = "state.key";
const INSTANCE_FILE: &str = "instance";
const SUFFIX: &str = "sealed";

/// The largest record, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// Records that wait for the disk at the same time: it takes them in one go.
const SIDE_BY_SIDE: usize = 16;

/// The shortest key that is taken from elsewhere, in bytes.
const SHORTEST_KEY: usize = 32;

pub struct Store {
    folder: PathBuf,
    sealer: Sealer,
    /// Files that were refused, and are still there.
    refused: Mutex<BTreeSet<PathBuf>>,
    /// Two writers of one record have one name for what is not finished.
    writing: Mutex<()>,
}

/// A record as it was written.
pub struct Record {
    pub name: String,
    /// How often it has been written.
    pub generation: u64,
    pub content: Zeroizing<Vec<u8>>,
}

/// A record that is held for whoever has this.
pub struct Lock {
    /// The kernel lets go when it is closed.
    _file: File,
}

/// A file that is not used.
#[derive(Debug)]
pub struct Refused {
    pub path: PathBuf,
    /// Of the record that it would be.
    pub name: String,
    pub why: RefusedBecause,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum RefusedBecause {
    #[error("it belongs to another user")]
    Owner,
    #[error("others can read or write it (mode {0:04o}): chmod 600")]
    Mode(u32),
    #[error("it is no plain file")]
    NotAFile,
    #[error("it is larger than 1 MiB")]
    TooLarge,
    #[error("it cannot be read: {0}")]
    Unreadable(io::Error),
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// Why there is no store, or a record could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot use {}: {error}", .path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{} is not used: {why}", .path.display())]
    File { path: PathBuf, why: RefusedBecause },
    #[error("{} does not hold what was written there: move it away, and what was sealed with it too", .0.display())]
    Content(PathBuf),
    #[error("`key` of [state]: {0}")]
    Key(#[from] ResolveError),
    #[error("`key` of [state] ({0}) is shorter than 32 bytes: `openssl rand -hex 32` makes one")]
    ShortKey(Reference),
}

impl Store {
    /// Opens the store of a state folder, and makes what is missing. The key is the config's, or one of our own beside what
    /// it seals. Blocks.
    ///
    /// # Errors
    /// When a folder or a key cannot be used.
    pub fn open(state: &Path, key: Option<&Reference>) -> Result<Self, StoreError> {
        let folder = state.join(FOLDER);
        let failed = |error| StoreError::Io { path: folder.clone(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
        let metadata = std::fs::symlink_metadata(&folder).map_err(failed)?;
        if !metadata.is_dir() {
            return Err(StoreError::File { path: folder, why: RefusedBecause::NotAFile });
        }
        judge(&metadata).map_err(|why| StoreError::File { path: folder.clone(), why })?;
        let key = match key {
            Some(reference) => {
                let key = reference.resolve()?;
                let long = key.len() >= SHORTEST_KEY;
                long.then_some(key).ok_or_else(|| StoreError::ShortKey(reference.clone()))?
            }
            None => Secret::new(&*Zeroizing::new(own::<32>(&state.join(KEY_FILE))?).to_vec()),
        };
        let instance: Instance = own(&state.join(INSTANCE_FILE))?;
        Ok(Self { folder, sealer: Sealer::new(&key, instance), refused: Mutex::default(), writing: Mutex::default() })
    }

    /// Whether a state folder has one.
    pub fn is_there(state: &Path) -> bool {
        state.join(FOLDER).is_dir()
    }

    /// Every record of a kind, and what looks like one but cannot be trusted. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn read(&self, kind: &str) -> Result<(Vec<Record>, Vec<Refused>), StoreError> {
        let failed = |error| StoreError::Io { path: self.folder.clone(), error };
        let (mut records, mut refused) = (Vec::new(), Vec::new());
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            paths.push(entry.map_err(failed)?.path());
        }
        paths.sort();
        for path in paths {
            let Some(name) = name_of(&path, kind) else { continue };
            let opened = read_file(&path, MAX_BYTES).and_then(|sealed| {
                let label = Label { kind, name: &name };
                Ok(self.sealer.open(label, &sealed)?)
            });
            match opened {
                Ok((content, generation)) => records.push(Record { name, generation, content }),
                Err(why) => {
                    self.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
                    refused.push(Refused { path, name, why });
                }
            }
        }
        Ok((records, refused))
    }

    /// What was read here has a content that its reader does not know: like all that is not used, it is moved aside before
    /// its name is used again.
    pub fn refuse(&self, label: Label<'_>) -> Refused {
        let path = self.path(label);
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
        Refused { path, name: label.name.to_owned(), why: Broken::Form.into() }
    }

    /// One record, if it is there. Blocks.
    ///
    /// # Errors
    /// When there is one that cannot be trusted. It stays where it is.
    pub fn read_one(&self, label: Label<'_>) -> Result<Option<Record>, StoreError> {
        let path = self.path(label);
        let opened = match read_file(&path, MAX_BYTES) {
            Err(RefusedBecause::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            sealed => sealed.and_then(|sealed| Ok(self.sealer.open(label, &sealed)?)),
        };
        match opened {
            Ok((content, generation)) => Ok(Some(Record { name: label.name.to_owned(), generation, content })),
            Err(why) => Err(StoreError::File { path, why }),
        }
    }

    /// Writes a record; it is durable when this returns. Blocks.
    ///
    /// # Errors
    /// When it could not be written: what was there before is still there.
    pub fn write(&self, label: Label<'_>, generation: u64, content: &[u8]) -> Result<(), StoreError> {
        let path = self.path(label);
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.put(label, generation, content)?;
        std::fs::rename(path.with_extension("new"), &path)
            .and_then(|()| self.sync())
            .map_err(|error| StoreError::Io { path, error })
    }

    /// Writes several records; all are durable when this returns. What the disk takes long for is done side by side. Blocks.
    ///
    /// # Errors
    /// When one could not be written. Each of the others is as it was before, or as it is to be.
    pub fn write_all(&self, kind: &str, records: &[Record]) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let share = records.len().div_ceil(SIDE_BY_SIDE).max(1);
        let put = |records: &[Record]| {
            records
                .iter()
                .try_for_each(|record| self.put(Label { kind, name: &record.name }, record.generation, &record.content))
        };
        std::thread::scope(|scope| {
            let shares: Vec<_> = records.chunks(share).map(|share| scope.spawn(move || put(share))).collect();
            shares.into_iter().try_for_each(|share| share.join().unwrap_or_else(|panic| resume_unwind(panic)))
        })?;
        for record in records {
            let path = self.path(Label { kind, name: &record.name });
            std::fs::rename(path.with_extension("new"), &path).map_err(|error| StoreError::Io { path, error })?;
        }
        self.sync().map_err(|error| StoreError::Io { path: self.folder.clone(), error })
    }

    /// Has a record on the disk, under the name of one that is not finished.
    fn put(&self, label: Label<'_>, generation: u64, content: &[u8]) -> Result<(), StoreError> {
        let path = self.path(label);
        let new = path.with_extension("new");
        let failed = |error| StoreError::Io { path: path.clone(), error };
        let sealed = self.sealer.seal(label, generation, content);
        if self.refused.lock().unwrap_or_else(PoisonError::into_inner).remove(&path) {
            set_aside(&path).map_err(failed)?;
        }
        // What a crash left behind may be anything.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut file = nofollow().write(true).create_new(true).mode(0o600).open(&new).map_err(failed)?;
        file.write_all(&sealed).and_then(|()| file.sync_all()).map_err(failed)
    }

    /// Deletes a record. One that is not there is gone already. Blocks.
    ///
    /// # Errors
    /// When it is still there.
    pub fn remove(&self, label: Label<'_>) -> Result<(), StoreError> {
        let path = self.path(label);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::Io { path, error }),
            _ => self.sync().map_err(|error| StoreError::Io { path, error }),
        }
    }

    /// Holds a record for one user of it, in this process or another, until it is dropped; `None`: somebody else does. Blocks
    /// for as long as opening a file does.
    ///
    /// # Errors
    /// When there can be no file for it.
    pub fn lock(&self, label: Label<'_>) -> Result<Option<Lock>, StoreError> {
        let path = self.path(label).with_extension("lock");
        let failed = |error| StoreError::Io { path: path.clone(), error };
        let file = nofollow().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Where a record lies, to be named to somebody.
    pub fn path(&self, label: Label<'_>) -> PathBuf {
        self.folder.join(format!("{}-{}.{SUFFIX}", label.kind, label.name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

/// The name of the record that a file of this name holds.
fn name_of(path: &Path, kind: &str) -> Option<String> {
    if path.extension() != Some(OsStr::new(SUFFIX)) {
        return None;
    }
    Some(path.file_stem()?.to_str()?.strip_prefix(kind)?.strip_prefix('-')?.to_owned())
}

/// The first free name beside the file's own.
fn set_aside(path: &Path) -> io::Result<()> {
    let aside = (1..).map(|number| path.with_extension(format!("refused-{number}")));
    let free = aside.into_iter().find(|aside| aside.symlink_metadata().is_err());
    free.map_or(Ok(()), |free| std::fs::rename(path, free))
}

/// Random bytes in a file of our own, made the first time that they are needed.
fn own<const LENGTH: usize>(path: &Path) -> Result<[u8; LENGTH], StoreError> {
    let failed = |error| StoreError::Io { path: path.to_owned(), error };
    match nofollow().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let random = Zeroizing::new(Fingerprinter::random_key());
            let mut bytes = [0; LENGTH];
            for (byte, random) in bytes.iter_mut().zip(random.iter()) {
                *byte = *random;
            }
            file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
            Ok(bytes)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let refused = |why| StoreError::File { path: path.to_owned(), why };
            let bytes = read_file(path, LENGTH as u64).map_err(refused)?;
            bytes.as_slice().try_into().map_err(|_| StoreError::Content(path.to_owned()))
        }
        Err(error) => Err(failed(error)),
    }
}

fn read_file(path: &Path, most: u64) -> Result<Zeroizing<Vec<u8>>, RefusedBecause> {
    let file = nofollow().read(true).open(path).map_err(RefusedBecause::Unreadable)?;
    let metadata = file.metadata().map_err(RefusedBecause::Unreadable)?;
    if !metadata.is_file() {
        return Err(RefusedBecause::NotAFile);
    }
    judge(&metadata)?;
    if metadata.len() > most {
        return Err(RefusedBecause::TooLarge);
    }
    // In one piece from the start: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len() + 1).unwrap_or(0)));
    file.take(most + 1).read_to_end(&mut bytes).map_err(RefusedBecause::Unreadable)?;
    Ok(bytes)
}

/// Files are ours alone.
fn judge(metadata: &std::fs::Metadata) -> Result<(), RefusedBecause> {
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(RefusedBecause::Owner);
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 { Err(RefusedBecause::Mode(mode)) } else { Ok(()) }
}

/// Neither follows a symbolic link nor waits for a pipe's other end.
fn nofollow() -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    options.custom_flags(i32::try_from(flags.bits()).unwrap_or(0));
    options
}

#[cfg(test)]
mod tests;
