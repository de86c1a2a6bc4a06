//! A file that somebody else replaces: tells when it may be another one.
//!
//! ```text
//!  folder of the file   ─┐
//!                        ├─ inotify ─▶ quiet for a moment ─▶ changed()
//!  folder of its target ┘
//! ```
//!
//! Folders are watched, not the file: Kubernetes switches a symbolic link beside it over, careful programs rename another
//! file into its place, and a watch on the old one would see neither. The folder itself may be replaced, or be gone for a
//! while: which one the path means is looked at again every second.
//!
//! Invariant: this is a hint, never the only way to a new content. A kernel that is out of watches, a file system that tells
//! nothing: whoever reads the file looks at it now and then as well.

use std::fs::metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, sleep, timeout};

/// Whoever writes a file in several steps is done when nothing has happened for so long.
const QUIET: Duration = Duration::from_millis(100);

/// A folder that never rests does not hide a change for longer.
const LONGEST_UNREST: Duration = Duration::from_secs(1);

/// How often to look whether the path still means the folders that are watched.
const LOOK: Duration = Duration::from_secs(1);

/// For several events at a time, each with the longest of names.
const EVENT_BYTES: usize = 4096;

/// A file whose change is waited for.
pub struct WatchedFile {
    path: PathBuf,
    watch: Option<Watch>,
    /// Something has happened that nobody was told of.
    stirred: bool,
    warned: bool,
}

struct Watch {
    events: Receiver,
    folders: Vec<Folder>,
}

/// One folder, told apart from another that takes its name.
#[derive(PartialEq, Eq)]
struct Folder {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl WatchedFile {
    pub fn new(path: PathBuf) -> Self {
        Self { path, watch: None, stirred: false, warned: false }
    }

    /// What has happened until now is known: whoever calls this reads the file next.
    pub fn attend(&mut self) {
        self.drain();
        self.look();
        self.stirred = false;
    }

    /// Resolves when the file may have another content than at the last [`WatchedFile::attend`], once its folder has
    /// come to rest. Nothing is lost when the future is dropped.
    pub async fn changed(&mut self) {
        loop {
            self.look();
            if self.stirred {
                self.rest().await;
                self.stirred = false;
                return;
            }
            match &self.watch {
                Some(watch) => self.stirred |= watch.stirs(LOOK).await,
                None => sleep(LOOK).await,
            }
        }
    }

    async fn rest(&mut self) {
        let Some(watch) = &self.watch else { return };
        let began = Instant::now();
        while began.elapsed() < LONGEST_UNREST && watch.stirs(QUIET).await {}
    }

    /// Watches the folders that the path means now.
    fn look(&mut self) {
        let folders = folders(&self.path);
        // After an event the same folder may be another one that took its number over.
        if !self.stirred && self.watch.as_ref().is_some_and(|watch| watch.folders == folders) {
            return;
        }
        if folders.is_empty() {
            // That they are gone is news too, once: the kernel's word of it goes with the watch.
            self.stirred |= self.watch.take().is_some();
            return;
        }
        self.stirred = true;
        match Watch::new(folders) {
            Ok((watch, None)) => self.watch = Some(watch),
            Ok((watch, Some(error))) => {
                self.watch = Some(watch);
                self.warn(&error);
            }
            Err(error) => {
                self.watch = None;
                self.warn(&error);
            }
        }
    }

    /// Takes out what the kernel has to tell, by asking it: the runtime may not have got round to it.
    fn drain(&mut self) {
        let Some(watch) = &self.watch else { return };
        let mut buffer = [0; EVENT_BYTES];
        loop {
            match rustix::io::read(&watch.events, &mut buffer) {
                Ok(read) if read > 0 => self.stirred = true,
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // No watch any more: the next look makes another.
                Ok(_) | Err(_) => {
                    self.watch = None;
                    return;
                }
            }
        }
    }

    fn warn(&mut self, error: &io::Error) {
        if !self.warned {
            self.warned = true;
            tracing::warn!(
                path = %self.path.display(), %error,
                "the file's folder cannot be watched: it is looked at now and then instead"
            );
        }
    }
}

impl Watch {
    /// A watch of those folders that can be watched, and why another could not.
    fn new(folders: Vec<Folder>) -> io::Result<(Self, Option<io::Error>)> {
        let kernel = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut refused = None;
        for folder in &folders {
            if let Err(error) = inotify::add_watch(&kernel, &folder.path, EVENTS) {
                refused = Some(error.into());
            }
        }
        // To the runtime a pipe is what can be waited for and read. Its `AsyncFd` would say so without the name of a pipe,
        // and is unsafe to make.
        Ok((Self { events: Receiver::from_owned_fd_unchecked(kernel)?, folders }, refused))
    }

    /// Waits, at most so long, until something has happened. What exactly is of no interest.
    async fn stirs(&self, most: Duration) -> bool {
        let event = async {
            let mut buffer = [0; EVENT_BYTES];
            loop {
                self.events.readable().await?;
                match self.events.try_read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return read,
                }
            }
        };
        timeout(most, event).await.is_ok()
    }
}

/// The folder that the file's name stands in, and the one that it lies in after all symbolic links.
fn folders(path: &Path) -> Vec<Folder> {
    let target = path.canonicalize().ok();
    let named = [Some(path), target.as_deref()].into_iter().flatten().filter_map(Path::parent);
    let mut found: Vec<Folder> = Vec::new();
    for folder in named {
        let Ok(there) = metadata(folder) else { continue };
        if found.iter().all(|other| (other.device, other.inode) != (there.dev(), there.ino())) {
            found.push(Folder { path: folder.to_owned(), device: there.dev(), inode: there.ino() });
        }
    }
    found
}

/// Everything that may give a name another content, and nothing that reading does. A file that is being written is done when
/// it is closed.
const EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    async fn told(file: &mut WatchedFile) {
        timeout(SOON, file.changed()).await.expect("the change is told");
    }

    /// Whether nothing has happened since it was attended to; waits for nothing.
    fn is_quiet(file: &mut WatchedFile) -> bool {
        file.drain();
        file.look();
        !file.stirred
    }

    fn watched(path: PathBuf) -> WatchedFile {
        let mut file = WatchedFile::new(path);
        file.attend();
        file
    }

    #[tokio::test]
    async fn each_way_of_putting_another_content_there_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        fs::write(&path, "one").expect("written");
        let mut file = watched(path.clone());
        fs::write(&path, "two").expect("written");
        told(&mut file).await;
        fs::write(folder.path().join("new"), "three").expect("written");
        fs::rename(folder.path().join("new"), &path).expect("renamed");
        told(&mut file).await;
        fs::remove_file(&path).expect("removed");
        told(&mut file).await;
        fs::write(&path, "four").expect("written");
        told(&mut file).await;
        assert!(is_quiet(&mut file), "each is told once");
        assert_eq!(fs::read(&path).expect("read"), b"four");
        assert!(is_quiet(&mut file), "reading is no change");
    }

    #[tokio::test]
    async fn a_link_that_is_switched_over_and_the_folder_that_it_leads_to_are_watched() {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = |name: &str| folder.path().join(name);
        for (revision, token) in [("..first", "one"), ("..second", "two")] {
            fs::create_dir(inside(revision)).expect("made");
            fs::write(inside(revision).join("token"), token).expect("written");
        }
        symlink("..first", inside("..data")).expect("linked");
        symlink("..data/token", inside("token")).expect("linked");
        let mut file = watched(inside("token"));
        fs::write(inside("..first/token"), "one and a half").expect("written");
        told(&mut file).await;
        symlink("..second", inside("..data_tmp")).expect("linked");
        fs::rename(inside("..data_tmp"), inside("..data")).expect("switched over");
        told(&mut file).await;
        fs::write(inside("..second/token"), "three").expect("written");
        told(&mut file).await;
    }

    #[tokio::test]
    async fn a_folder_that_goes_and_comes_back_is_watched_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (volume, path) = (folder.path().join("volume"), folder.path().join("volume/token"));
        let mut file = watched(path.clone());
        for content in ["one", "two"] {
            fs::create_dir(&volume).expect("made");
            told(&mut file).await;
            fs::write(&path, content).expect("written");
            told(&mut file).await;
            fs::remove_dir_all(&volume).expect("removed");
        }
    }

    #[tokio::test]
    async fn a_folder_that_is_found_gone_before_the_kernel_says_so_is_told_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let volume = folder.path().join("volume");
        fs::create_dir(&volume).expect("made");
        fs::write(volume.join("token"), "one").expect("written");
        let mut file = watched(volume.join("token"));
        fs::remove_dir_all(&volume).expect("removed");
        told(&mut file).await;
        assert!(is_quiet(&mut file));
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_watched_is_said_once_and_does_no_harm() {
        let mut file = watched("/dev/null/token".into());
        assert!(file.warned, "no folder");
        file.warned = false;
        assert!(is_quiet(&mut file));
        assert!(!file.warned);
    }

    #[tokio::test]
    async fn what_happened_before_the_file_was_attended_to_is_no_news() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let mut file = watched(path.clone());
        fs::write(&path, "one").expect("written");
        assert!(!is_quiet(&mut file));
        file.attend();
        assert!(is_quiet(&mut file));
    }
}
