//! Disks that do not work.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use rustix::io::Errno;

use super::super::folder::{Disk, Folder, Growing, RESERVE_BYTES, Whole};
use super::super::metrics::Operation;

/// A disk that fails when it is told to.
pub struct Faulty {
    pub folder: Folder,
    pub faults: Arc<Faults>,
}

#[derive(Default)]
pub struct Faults {
    /// How many times each operation will fail with EIO.
    errors: [AtomicUsize; Operation::ALL.len()],
    /// How many bytes are free; `None`: enough.
    free: Mutex<Option<u64>>,
    /// Whether writing blocks.
    blocked: Mutex<bool>,
    unblocked: Condvar,
    /// How often a write came and found that.
    pub hung: AtomicUsize,
    pub syncs: AtomicUsize,
}

pub const FOR_EVER: usize = usize::MAX;

impl Faults {
    pub fn fail(&self, operation: Operation, times: usize) {
        self.errors[operation as usize].store(times, Ordering::SeqCst);
    }

    fn check(&self, operation: Operation) -> io::Result<()> {
        let less = |times: usize| if times == FOR_EVER { Some(times) } else { times.checked_sub(1) };
        let errors = &self.errors[operation as usize];
        match errors.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
            Ok(_) => Err(Errno::IO.into()),
            Err(_) => Ok(()),
        }
    }

    pub fn block(&self, blocked: bool) {
        *self.blocked.lock().expect("not poisoned") = blocked;
        self.unblocked.notify_all();
    }

    fn wait_while_blocked(&self) {
        let blocked = self.blocked.lock().expect("not poisoned");
        self.hung.fetch_add(usize::from(*blocked), Ordering::SeqCst);
        drop(self.unblocked.wait_while(blocked, |blocked| *blocked).expect("not poisoned"));
    }

    pub fn set_free(&self, bytes: Option<u64>) {
        *self.free.lock().expect("not poisoned") = bytes;
    }

    /// Takes so much space, or what there is.
    fn occupy(&self, bytes: u64) -> Result<(), u64> {
        let mut free = self.free.lock().expect("not poisoned");
        match *free {
            Some(there) if there < bytes => Err(there),
            Some(there) => {
                *free = Some(there - bytes);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Disk for Faulty {
    fn create(&self, first: u64) -> io::Result<File> {
        self.faults.check(Operation::Open)?;
        self.folder.create(first)
    }

    fn append(&self, segment: &File, bytes: &[u8]) -> io::Result<()> {
        self.faults.wait_while_blocked();
        if let Err(error) = self.faults.check(Operation::Write) {
            self.folder.append(segment, &bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        if let Err(there) = self.faults.occupy(bytes.len() as u64) {
            self.folder.append(segment, &bytes[..usize::try_from(there).expect("small")])?;
            return Err(Errno::NOSPC.into());
        }
        self.folder.append(segment, bytes)
    }

    fn sync(&self, segment: &File) -> io::Result<()> {
        self.faults.check(Operation::Sync)?;
        self.faults.syncs.fetch_add(1, Ordering::SeqCst);
        self.folder.sync(segment)
    }

    fn truncate(&self, segment: &File, length: u64) -> io::Result<()> {
        self.faults.check(Operation::Cut)?;
        self.folder.truncate(segment, length)
    }

    fn reserve(&self) -> io::Result<()> {
        self.faults.check(Operation::Reserve)?;
        self.faults.occupy(RESERVE_BYTES).map_err(|_| Errno::NOSPC)?;
        self.folder.reserve()
    }

    fn release_reserve(&self) -> io::Result<()> {
        if self.folder.path().join("reserve").exists() {
            let mut free = self.faults.free.lock().expect("not poisoned");
            *free = free.map(|bytes| bytes + RESERVE_BYTES);
        }
        self.folder.release_reserve()
    }

    fn put(&self, file: Growing, at: u64, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.faults.check(Operation::Checkpoint) {
            self.folder.put(file, at, &bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.folder.put(file, at, bytes)
    }

    fn replace(&self, file: Whole, bytes: &[u8]) -> io::Result<()> {
        self.faults.check(Operation::Checkpoint)?;
        self.folder.replace(file, bytes)
    }
}

/// A disk that brings its thread down.
pub struct Panicking;

impl Disk for Panicking {
    fn create(&self, _: u64) -> io::Result<File> {
        // Without the panic hook, whose trace takes longer than a record may.
        std::panic::resume_unwind(Box::new("as the test wants it"))
    }

    fn append(&self, _: &File, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self, _: &File) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, _: &File, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn reserve(&self) -> io::Result<()> {
        Ok(())
    }

    fn release_reserve(&self) -> io::Result<()> {
        Ok(())
    }

    fn put(&self, _: Growing, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn replace(&self, _: Whole, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}
