//! The folder of the trail: who may hold it, what its files are called, and the few operations that the writer does on them.
//!
//! Invariant: every file is opened without following links, and nothing is trusted that another user could have written.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt as _, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock};
use rustix::io::Errno;

/// What is set aside on the disk, so that its being full can be recorded.
pub const RESERVE_BYTES: u64 = 1024 * 1024;

/// What the writer does on the disk. [`Folder`] in the product; tests put one that fails in its place.
pub trait Disk: Send + 'static {
    /// Makes the segment that begins with the record `first`, and makes its name durable. Replaces what an earlier attempt
    /// left under this name: as `first` is not acknowledged, nothing in there is.
    fn create(&self, first: u64) -> io::Result<File>;
    /// Appends all the bytes, or fails after any part of them.
    fn append(&self, segment: &File, bytes: &[u8]) -> io::Result<()>;
    fn sync(&self, segment: &File) -> io::Result<()>;
    fn truncate(&self, segment: &File, length: u64) -> io::Result<()>;
    /// Sets the reserve aside, if it is not there.
    fn reserve(&self) -> io::Result<()>;
    fn release_reserve(&self) -> io::Result<()>;
    /// Puts bytes at a place of a file that grows, and cuts it after them.
    fn put(&self, file: Growing, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Replaces a small file: a reader, and a start after a crash, finds the old one or the new one.
    fn replace(&self, file: Whole, bytes: &[u8]) -> io::Result<()>;
}

/// Files beside the segments that are added to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Growing {
    /// The hashes of the tree, in the order in which they became known.
    Tree,
    /// Checkpoints, one now and then.
    Checkpoints,
}

/// Files beside the segments that are replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whole {
    /// The key that verifies the checkpoints.
    Verifier,
    /// The last checkpoint.
    Checkpoint,
    /// What was used and is not a record yet.
    Journal,
}

impl Growing {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::Checkpoints => "checkpoints",
        }
    }
}

impl Whole {
    pub fn name(self) -> &'static str {
        match self {
            Self::Verifier => "checkpoint.vkey",
            Self::Checkpoint => "checkpoint",
            Self::Journal => "usage.journal",
        }
    }
}

/// A folder that this process alone writes to: the lock lasts as long as the value.
pub struct Folder {
    path: PathBuf,
    handle: File,
    _lock: File,
}

impl Folder {
    /// Makes the folder if it is missing, and takes its lock.
    ///
    /// # Errors
    /// When it cannot be made, belongs to another user, or another process holds it.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let failed = |error| FolderError::Open { path: path.to_owned(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        // A new folder lasts only when its parent is on the disk; not every parent may be read.
        let _ = File::open(path.join("..")).and_then(|parent| parent.sync_all());
        let handle = open(OpenOptions::new().read(true), OFlags::DIRECTORY, path).map_err(failed)?;
        check_owner(&handle, path)?;
        let lock_path = path.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let lock = open_trusted(&mut options, &lock_path)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), handle, _lock: lock }),
            Err(Errno::WOULDBLOCK) => Err(FolderError::Held(path.to_owned())),
            Err(error) => Err(FolderError::Open { path: lock_path, error: error.into() }),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn segment_path(&self, first: u64) -> PathBuf {
        self.path.join(segment_name(first))
    }

    /// The first record's number of each segment, in order. Other files are none of ours.
    pub fn segments(&self) -> Result<Vec<u64>, FolderError> {
        segments(&self.path).map_err(|error| FolderError::Open { path: self.path.clone(), error })
    }

    /// A file beside the segments, to be read: `None` where there is none.
    pub fn read_beside(&self, name: &str) -> Result<Option<File>, FolderError> {
        match open_trusted(OpenOptions::new().read(true), &self.path.join(name)) {
            Ok(file) => Ok(Some(file)),
            Err(FolderError::Open { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A segment, to be read from its beginning.
    pub fn read_segment(&self, first: u64) -> Result<File, FolderError> {
        open_trusted(OpenOptions::new().read(true), &self.segment_path(first))
    }

    /// A segment, to be continued or cut.
    pub fn append_segment(&self, first: u64) -> Result<File, FolderError> {
        open_trusted(OpenOptions::new().append(true), &self.segment_path(first))
    }

    fn reserve_path(&self) -> PathBuf {
        self.path.join("reserve")
    }
}

impl Disk for Folder {
    fn create(&self, first: u64) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.append(true).create_new(true).mode(0o600);
        let path = self.segment_path(first);
        let file = match open(&mut options, OFlags::empty(), &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::remove_file(&path)?;
                open(&mut options, OFlags::empty(), &path)?
            }
            result => result?,
        };
        self.handle.sync_all()?;
        Ok(file)
    }

    fn append(&self, mut segment: &File, bytes: &[u8]) -> io::Result<()> {
        segment.write_all(bytes)
    }

    fn sync(&self, segment: &File) -> io::Result<()> {
        segment.sync_data()
    }

    fn truncate(&self, segment: &File, length: u64) -> io::Result<()> {
        segment.set_len(length)
    }

    fn reserve(&self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = open(&mut options, OFlags::empty(), &self.reserve_path())?;
        if file.metadata()?.blocks() * 512 >= RESERVE_BYTES {
            return Ok(());
        }
        let allocated = match fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES) {
            // A file system that cannot set space aside can still be given something to store.
            Err(Errno::OPNOTSUPP) => (&file).write_all(&vec![0; RESERVE_BYTES as usize]),
            result => result.map_err(Into::into),
        };
        // Half a reserve would take the space that the last records need.
        allocated.and_then(|()| file.sync_all()).or_else(|error| self.release_reserve().and(Err(error)))
    }

    fn release_reserve(&self) -> io::Result<()> {
        match std::fs::remove_file(self.reserve_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            // The space is free only when the removal is on the disk.
            _ => self.handle.sync_all(),
        }
    }

    fn put(&self, file: Growing, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = open(&mut options, OFlags::empty(), &self.path.join(file.name()))?;
        file.write_all_at(bytes, at)?;
        file.set_len(at + bytes.len() as u64)?;
        file.sync_data()
    }

    fn replace(&self, file: Whole, bytes: &[u8]) -> io::Result<()> {
        let path = self.path.join(file.name());
        let new = path.with_file_name(format!("{}.new", file.name()));
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = open(OpenOptions::new().write(true).create_new(true).mode(0o600), OFlags::empty(), &new)?;
        (&file).write_all(bytes)?;
        file.sync_data()?;
        // The name need not be durable: what the older file says holds too.
        std::fs::rename(&new, &path)
    }
}

/// The first record's number of each segment in a folder, in order.
pub fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    let mut segments = Vec::new();
    for entry in folder.read_dir()? {
        segments.extend(entry?.file_name().to_str().and_then(parse_segment_name));
    }
    segments.sort_unstable();
    Ok(segments)
}

/// Whether an operation failed for want of space.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn open(options: &mut OpenOptions, flags: OFlags, path: &Path) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    options.custom_flags(flags.bits().cast_signed()).open(path)
}

/// Opens a file of ours: made with mode 0600 where it is missing and `options` say so.
fn open_trusted(options: &mut OpenOptions, path: &Path) -> Result<File, FolderError> {
    let file = match open(options.mode(0o600), OFlags::empty(), path) {
        Ok(file) => file,
        // What opening a link, and a pipe without a reader or a socket, says.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::LOOP | Errno::NXIO)) => {
            return Err(FolderError::NotAFile(path.to_owned()));
        }
        Err(error) => return Err(FolderError::Open { path: path.to_owned(), error }),
    };
    if !file.metadata().map_err(|error| FolderError::Open { path: path.to_owned(), error })?.is_file() {
        return Err(FolderError::NotAFile(path.to_owned()));
    }
    check_owner(&file, path)?;
    Ok(file)
}

fn check_owner(file: &File, path: &Path) -> Result<(), FolderError> {
    let found = file.metadata().map_err(|error| FolderError::Open { path: path.to_owned(), error })?;
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own {
        return Err(FolderError::Owner { path: path.to_owned(), found: found.uid(), own });
    }
    if found.mode() & 0o022 != 0 {
        return Err(FolderError::Mode { path: path.to_owned(), mode: found.mode() & 0o7777 });
    }
    Ok(())
}

/// What the segment that begins with this record is called.
pub fn segment_name(first: u64) -> String {
    format!("trail-{first:020}.log")
}

fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("trail-")?.strip_suffix(".log")?;
    let first = digits.parse().ok()?;
    // Only the one spelling of each number.
    (segment_name(first) == name).then_some(first)
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("cannot open {}: {error}", .path.display())]
    Open {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("another process writes its audit trail to {}: each process needs its own audit.dir", .0.display())]
    Held(PathBuf),
    #[error("{} is not a plain file; nothing in the audit folder may be a link or a device", .0.display())]
    NotAFile(PathBuf),
    #[error("{} belongs to user {found}, and this process runs as user {own}", .path.display())]
    Owner { path: PathBuf, found: u32, own: u32 },
    #[error("{} has mode {mode:04o}: others than its owner may write to it", .path.display())]
    Mode { path: PathBuf, mode: u32 },
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_segment_is_named_after_its_first_record() {
        assert_eq!(segment_name(42), "trail-00000000000000000042.log");
        for first in [0, 42, u64::MAX] {
            assert_eq!(parse_segment_name(&segment_name(first)), Some(first));
        }
        for other in ["trail-42.log", "trail-+0000000000000000042.log", "trail-00000000000000000042.log.gz", "lock"] {
            assert_eq!(parse_segment_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_folder_has_one_holder() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let path = temporary.path().join("a/audit");
        let first = Folder::open(&path).expect("free");
        let error = Folder::open(&path).err().expect("held").to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        drop(first);
        Folder::open(&path).expect("free again");
        assert_eq!(path.metadata().expect("there").mode() & 0o7777, 0o700);
    }

    #[test]
    fn what_others_may_write_is_not_trusted() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let folder = Folder::open(temporary.path()).expect("free");
        folder.create(0).expect("created");
        let path = folder.segment_path(0);
        assert_eq!(path.metadata().expect("there").mode() & 0o7777, 0o600);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o620)).expect("chmod");
        assert!(matches!(folder.read_segment(0), Err(FolderError::Mode { mode: 0o620, .. })));
        drop(folder);
        std::fs::set_permissions(temporary.path(), PermissionsExt::from_mode(0o777)).expect("chmod");
        assert!(matches!(Folder::open(temporary.path()), Err(FolderError::Mode { mode: 0o777, .. })));
    }

    #[test]
    fn a_link_is_not_followed() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let folder = Folder::open(temporary.path()).expect("free");
        std::fs::write(temporary.path().join("elsewhere"), "").expect("write");
        std::os::unix::fs::symlink("elsewhere", folder.segment_path(0)).expect("link");
        assert!(matches!(folder.read_segment(0), Err(FolderError::NotAFile(_))));
        (&folder.create(0).expect("replaced")).write_all(b"x").expect("written");
        assert_eq!(std::fs::read(temporary.path().join("elsewhere")).expect("there"), b"");
    }

    #[test]
    fn the_reserve_holds_space_until_it_is_released() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let folder = Folder::open(temporary.path()).expect("free");
        for _ in 0..2 {
            folder.reserve().expect("space");
            assert!(folder.reserve_path().metadata().expect("there").blocks() * 512 >= RESERVE_BYTES);
        }
        for _ in 0..2 {
            folder.release_reserve().expect("released");
            assert!(!folder.reserve_path().exists());
        }
    }
}
