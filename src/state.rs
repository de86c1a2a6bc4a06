//! The state folder: what must be the same after a restart. So far those are keys: of fingerprints, and of the trail.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::secret::Fingerprinter;

const KEY_FILE: &str = "fingerprint.key";

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot use the state folder {}: {error}", .path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("others can write {}: chmod go-w {}", .0.display(), .0.display())]
    Writable(PathBuf),
    #[error("{} belongs to another user", .0.display())]
    Owner(PathBuf),
    #[error("{} is not a key of 32 bytes: move it away, and a new one is made", .0.display())]
    Key(PathBuf),
}

/// Makes the folder if it is not there, with mode 0700, and refuses one that others can write.
pub fn open(folder: &Path) -> Result<(), StateError> {
    let failed = |error| StateError::Io { path: folder.to_owned(), error };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    judge(folder, &std::fs::metadata(folder).map_err(failed)?)
}

/// The fingerprints of this installation: the key is made at the first start and kept.
pub fn fingerprinter(folder: &Path) -> Result<Fingerprinter, StateError> {
    Ok(Fingerprinter::new(&*key(&folder.join(KEY_FILE))?))
}

/// 32 random bytes that are made where they are missing, with mode 0600, and kept.
pub fn key(path: &Path) -> Result<Zeroizing<[u8; 32]>, StateError> {
    let failed = |error| StateError::Io { path: path.to_owned(), error };
    let nofollow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(nofollow).open(path);
    match made {
        Ok(mut file) => {
            let key = Zeroizing::new(Fingerprinter::random_key());
            file.write_all(&*key).and_then(|()| file.sync_all()).map_err(failed)?;
            Ok(key)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let file = OpenOptions::new().read(true).custom_flags(nofollow).open(path).map_err(failed)?;
            judge(path, &file.metadata().map_err(failed)?)?;
            let mut bytes = Zeroizing::new(Vec::with_capacity(33));
            file.take(33).read_to_end(&mut bytes).map_err(failed)?;
            let key = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| StateError::Key(path.to_owned()))?;
            Ok(Zeroizing::new(key))
        }
        Err(error) => Err(failed(error)),
    }
}

fn judge(path: &Path, metadata: &std::fs::Metadata) -> Result<(), StateError> {
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(StateError::Owner(path.to_owned()));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(StateError::Writable(path.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn fingerprints_are_the_same_after_a_restart() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let state = folder.path().join("deep/state");
        open(&state).expect("made");
        let secret = Secret::new("abc");
        let first = fingerprinter(&state).expect("made").of(&secret);
        assert_eq!(fingerprinter(&state).expect("read").of(&secret), first);
        let mode = std::fs::metadata(state.join(KEY_FILE)).expect("there").mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_others_could_have_written_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("chmod");
        assert!(matches!(open(folder.path()), Err(StateError::Writable(_))));
        let state = folder.path().join("state");
        open(&state).expect("made");
        std::fs::write(state.join(KEY_FILE), "short").expect("written");
        std::fs::set_permissions(state.join(KEY_FILE), std::fs::Permissions::from_mode(0o600)).expect("chmod");
        assert!(matches!(fingerprinter(&state), Err(StateError::Key(_))));
    }
}
