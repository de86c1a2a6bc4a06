//! Whether a trail that somebody puts back to an older one would be noticed: only by what has left its filesystem.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::super::Settings;
use super::Target;

/// Why an older trail could be put back unseen.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Exposed {
    #[error("checkpoints of the trail stay on this machine: whoever can write to its disk can put an older trail back")]
    NoExport,
    #[error(
        "{} lies on the filesystem of the trail itself ({}): whoever puts an older trail back can put it back too",
        export.display(),
        trail.display()
    )]
    SameFilesystem { export: PathBuf, trail: PathBuf },
}

impl Exposed {
    /// All there is to say of a trail with these settings, by what is mounted now.
    pub fn of(settings: &Settings) -> Vec<Self> {
        if settings.export.is_empty() {
            return vec![Self::NoExport];
        }
        let files = settings.export.iter().filter_map(|target| match target {
            Target::File(path) => Some(path),
            Target::Https(_) | Target::SyslogSocket(_) | Target::SyslogUdp(_) => None,
        });
        let own = filesystem(&settings.dir);
        let beside = files.filter(|path| own.is_some() && filesystem(path) == own);
        beside.map(|path| Self::SameFilesystem { export: path.clone(), trail: settings.dir.clone() }).collect()
    }

    pub fn fix(&self) -> &'static str {
        match self {
            Self::NoExport => "add `export` to [audit], as in export = [\"https://trail.example/ingest\"]",
            Self::SameFilesystem { .. } => "name a file on another mount in `export` of [audit], or an https URL",
        }
    }
}

/// The one that a path is on, or will be when it is made.
fn filesystem(path: &Path) -> Option<u64> {
    path.ancestors().find_map(|place| std::fs::metadata(place).ok()).map(|place| place.dev())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::audit::{OnFailure, Usage};

    fn of(folder: &TempDir, export: &[Target]) -> Vec<Exposed> {
        Exposed::of(&Settings {
            dir: folder.path().join("not/there/yet"),
            key: folder.path().join("key"),
            on_failure: OnFailure::Continue,
            usage: Usage::RollUp,
            export: export.to_vec(),
        })
    }

    #[test]
    fn a_trail_that_nothing_leaves_is_exposed() {
        let folder = TempDir::new().expect("a folder");
        assert_eq!(of(&folder, &[]), [Exposed::NoExport]);
        let elsewhere = Target::SyslogUdp(([192, 0, 2, 1], 514).into());
        assert_eq!(of(&folder, &[elsewhere]), []);
    }

    #[test]
    fn a_file_counts_when_it_is_on_another_filesystem() {
        let folder = TempDir::new().expect("a folder");
        let beside = folder.path().join("checkpoints");
        let trail = folder.path().join("not/there/yet");
        let expected = Exposed::SameFilesystem { export: beside.clone(), trail };
        assert_eq!(of(&folder, &[Target::File(beside)]), [expected]);
        // One that is always mounted.
        assert_eq!(of(&folder, &[Target::File("/proc/checkpoints".into())]), []);
    }
}
