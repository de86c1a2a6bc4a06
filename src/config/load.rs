//! Finds and reads the file, and refuses one that somebody else could have written.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::environment::Environment;
use super::problem::Problems;
use super::sha256;

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Where the file of the whole machine is.
const OF_THE_MACHINE: &str = "/etc/countersign/countersign.toml";

/// Finds the config: what was asked for, `$COUNTERSIGN_CONFIG`, the user's, the machine's. Never one that merely lies in
/// the working directory, where somebody else may have put it.
///
/// # Errors
/// When nothing was asked for and there is none.
pub fn find(explicit: Option<&Path>, environment: &Environment) -> Result<PathBuf, NotFound> {
    if let Some(asked) = explicit.or(environment.config.as_deref()) {
        return Ok(asked.to_owned());
    }
    let places: Vec<PathBuf> = environment.user_config().into_iter().chain([OF_THE_MACHINE.into()]).collect();
    // One that is there but cannot be read is the one: reading it will say why.
    let there = places.iter().find(|place| place.symlink_metadata().is_ok());
    there.cloned().ok_or_else(|| NotFound { places: places.clone() })
}

/// Where a rule stands in a config's text, as line and column from 1. `list` is `allow` or `deny`.
pub fn place_of_rule(text: &str, section: &str, name: &str, list: &str, index: usize) -> Option<(usize, usize)> {
    let table = DeTable::parse(text).ok()?;
    let sections = table.get_ref().get(section)?.get_ref().as_array()?;
    let mut sections = sections.iter().filter_map(|section| section.get_ref().as_table());
    let named = |table: &&DeTable<'_>| table.get("name").and_then(|name| name.get_ref().as_str()) == Some(name);
    let start = sections.find(named)?.get(list)?.get_ref().as_array()?.get(index)?.span().start;
    let before = text.get(..start)?;
    let line = before.rsplit('\n').next()?;
    Some((1 + before.matches('\n').count(), 1 + line.chars().count()))
}

/// There is no config where one is looked for.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no config: neither --config nor $COUNTERSIGN_CONFIG is given, and none of these is there: {}",
    list(places)
)]
pub struct NotFound {
    pub places: Vec<PathBuf>,
}

fn list(places: &[PathBuf]) -> String {
    places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Why a file is no config.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{}: error: the file is not there", .0.display())]
    Missing(PathBuf),
    #[error("{}: error: cannot read the file: {error}", .path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{}: error: this is not a file", .0.display())]
    NotAFile(PathBuf),
    #[error(
        "{path}: error: others than its owner can write the file (mode {mode:04o})\n  help: chmod go-w {path}",
        path = .path.display()
    )]
    Writable { path: PathBuf, mode: u32 },
    #[error(
        "{path}: error: the file belongs to user {owner}, who is neither root nor the proxy's own user\n  \
         help: chown root {path}",
        path = .path.display()
    )]
    Owner { path: PathBuf, owner: u32 },
    #[error("{}: error: the file is larger than 4 MiB", .0.display())]
    TooLarge(PathBuf),
    #[error("{}:{line}: error: the file is not UTF-8 text", .path.display())]
    NotText { path: PathBuf, line: usize },
    #[error("{0}")]
    Problems(Problems),
}

impl LoadError {
    /// The same objects as [`Problems::to_json`], whatever went wrong.
    pub fn to_json(&self) -> serde_json::Value {
        let (path, line) = match self {
            Self::Problems(problems) => return problems.to_json(),
            Self::NotText { path, line } => (path, *line),
            Self::Missing(path) | Self::NotAFile(path) | Self::TooLarge(path) => (path, 1),
            Self::Unreadable { path, .. } | Self::Writable { path, .. } | Self::Owner { path, .. } => (path, 1),
        };
        let text = self.to_string();
        let (message, help) = text.split_once("\n  help: ").map_or((&*text, None), |(text, help)| (text, Some(help)));
        let message = message.split_once("error: ").map_or(message, |(_, message)| message);
        serde_json::json!([{
            "file": path.display().to_string(),
            "line": line,
            "column": 1,
            "severity": "error",
            "message": message,
            "help": help,
        }])
    }
}

/// The text of a config file that could be read, and that nobody else could have written.
pub struct Text {
    path: PathBuf,
    text: String,
}

impl Text {
    /// Reads a file, for a proxy of this user.
    ///
    /// # Errors
    /// When it cannot be read, or could have been written by others.
    pub fn read(path: &Path, uid: u32) -> Result<Self, LoadError> {
        Ok(Self { path: path.to_owned(), text: read(path, uid)? })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// As [`super::Config::digest`].
    pub fn digest(&self) -> String {
        sha256(&self.text)
    }

    /// Whether nothing is written there.
    pub fn is_blank(&self) -> bool {
        self.text.trim().is_empty()
    }
}

/// Reads the file, after symbolic links: what is judged is what was opened.
fn read(path: &Path, uid: u32) -> Result<String, LoadError> {
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => LoadError::Missing(path.to_owned()),
        _ => LoadError::Unreadable { path: path.to_owned(), error },
    };
    // A pipe would have us wait for its writer.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(nonblocking).open(path).map_err(unreadable)?;
    judge(&file.metadata().map_err(unreadable)?, path, uid)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(LoadError::TooLarge(path.to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        LoadError::NotText { path: path.to_owned(), line: 1 + valid.iter().filter(|b| **b == b'\n').count() }
    })
}

/// Who can write the config decides who gets tokens.
fn judge(found: &std::fs::Metadata, path: &Path, uid: u32) -> Result<(), LoadError> {
    let path = path.to_owned();
    let (mode, owner) = (found.mode() & 0o7777, found.uid());
    match () {
        () if !found.is_file() => Err(LoadError::NotAFile(path)),
        () if mode & 0o022 != 0 => Err(LoadError::Writable { path, mode }),
        () if owner != 0 && owner != uid => Err(LoadError::Owner { path, owner }),
        () => Ok(()),
    }
}
