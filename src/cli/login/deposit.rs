//! The file that a sign-in is written to: the one that the config names, replaced as a whole.
//!
//! Invariant: all that could stand in the way is found out before anybody is asked to sign in.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use zeroize::Zeroizing;

/// Room for what is to be in the file, beside it.
pub struct Deposit {
    path: PathBuf,
    folder: PathBuf,
    new: NamedTempFile,
}

#[derive(Debug, thiserror::Error)]
pub enum DepositError {
    #[error("{} is no file: a link would lead elsewhere", .0.display())]
    NotAFile(PathBuf),
    #[error("everybody can write {}: chmod o-w {}", .0.display(), .0.display())]
    Writable(PathBuf),
    #[error("{} belongs to user {}, who could not read it any more: sign in as that user", .0.display(), .1)]
    Owner(PathBuf, u32),
    #[error("{}: {}", .0.display(), .1)]
    Io(PathBuf, io::Error),
}

impl Deposit {
    /// # Errors
    /// When the file cannot be replaced, or somebody else could replace it too.
    pub fn open(path: &Path) -> Result<Self, DepositError> {
        let failed = |error| DepositError::Io(path.to_owned(), error);
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        let of_folder = folder.metadata().map_err(|error| DepositError::Io(folder.clone(), error))?;
        if of_folder.mode() & 0o002 != 0 {
            return Err(DepositError::Writable(folder));
        }
        let before = match path.symlink_metadata() {
            Ok(before) if !before.is_file() => return Err(DepositError::NotAFile(path.to_owned())),
            Ok(before) => Some(before),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let own = rustix::process::geteuid();
        if let Some(before) = before.as_ref().filter(|before| !own.is_root() && before.uid() != own.as_raw()) {
            return Err(DepositError::Owner(path.to_owned(), before.uid()));
        }
        let new = tempfile::Builder::new().prefix(".countersign-login-").tempfile_in(&folder);
        let new = new.map_err(|error| DepositError::Io(folder.clone(), error))?;
        if own.is_root() {
            // Of a file that is not there yet, the folder says whose it is to be.
            let owner = before.as_ref().unwrap_or(&of_folder);
            fchown(new.as_file(), Some(owner.uid()), Some(owner.gid())).map_err(failed)?;
        }
        Ok(Self { path: path.to_owned(), folder, new })
    }

    /// Puts it there, readable by its owner alone. It is on the disk when this returns.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn put(mut self, secret: &Zeroizing<String>) -> Result<(), DepositError> {
        let failed = |error| DepositError::Io(self.path.clone(), error);
        let written = self.new.write_all(secret.as_bytes()).and_then(|()| self.new.write_all(b"\n"));
        written.and_then(|()| self.new.as_file().sync_all()).map_err(failed)?;
        self.new.persist(&self.path).map_err(|error| failed(error.error))?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn secret() -> Zeroizing<String> {
        Zeroizing::new("canary".to_owned())
    }

    #[test]
    fn what_is_put_there_is_for_its_owner_alone_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("refresh-token");
        for _ in 0..2 {
            Deposit::open(&path).expect("a place").put(&secret()).expect("written");
            assert_eq!(std::fs::read_to_string(&path).expect("read"), "canary\n");
            assert_eq!(path.metadata().expect("there").mode() & 0o777, 0o600);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("changed");
        }
        drop(Deposit::open(&path).expect("a place"));
        assert_eq!(folder.path().read_dir().expect("a folder").count(), 1);
    }

    #[test]
    fn a_link_or_a_folder_for_everybody_is_refused_before_anything_is_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("refresh-token");
        symlink("/etc/passwd", &path).expect("a link");
        assert!(matches!(Deposit::open(&path), Err(DepositError::NotAFile(_))));
        assert!(matches!(Deposit::open(&folder.path().join("no/folder")), Err(DepositError::Io(..))));
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("changed");
        assert!(matches!(Deposit::open(&folder.path().join("other")), Err(DepositError::Writable(_))));
    }
}
