//! The checkpoints that stand beside the records: the last one, and one now and then of those before.
//!
//! ```text
//! checkpoint.vkey   the key that verifies them, and their origin
//! checkpoint        the last one, replaced by each new one
//! checkpoints       the kept ones, one after the other: a crash may have cut the last of them short
//! ```

use std::io::Read as _;

use super::folder::{Folder, FolderError, Growing, Whole};
use super::note::{self, Checkpoint, DASH, NotNote, NotSigned, NotVerifier, Note, Verifier};

/// What was found beside the records.
pub struct Book {
    pub verifier: Verifier,
    pub last: Option<Note>,
    pub kept: Kept,
}

/// The kept checkpoints.
#[derive(Default)]
pub struct Kept {
    pub notes: Vec<Note>,
    /// How long they are together; what follows was cut short.
    pub length: u64,
}

impl Book {
    /// `None` where no key was ever written down: in a new folder.
    ///
    /// # Errors
    /// When a file cannot be read, or is not what was written.
    pub fn read(folder: &Folder) -> Result<Option<Self>, BookError> {
        let Some(verifier) = bytes(folder, Whole::Verifier.name())? else { return Ok(None) };
        let verifier = parse_verifier(&verifier).map_err(BookError::Verifier)?;
        let last = bytes(folder, Whole::Checkpoint.name())?.map(|bytes| parse_last(&bytes)).transpose();
        let kept = bytes(folder, Growing::Checkpoints.name())?.map(|bytes| Kept::parse(&bytes)).transpose();
        let not_note = |file| move |error| BookError::Note { file, error };
        Ok(Some(Self {
            verifier,
            last: last.map_err(not_note(Whole::Checkpoint.name()))?,
            kept: kept.map_err(not_note(Growing::Checkpoints.name()))?.unwrap_or_default(),
        }))
    }

    /// What the notes say, smallest tree first.
    ///
    /// # Errors
    /// When the key has not signed one of them.
    pub fn checkpoints(&self) -> Result<Vec<Checkpoint>, BookError> {
        let (last, kept) = (Whole::Checkpoint.name(), Growing::Checkpoints.name());
        let notes = self.kept.notes.iter().map(|note| (kept, note)).chain(self.last.iter().map(|note| (last, note)));
        let open = |(file, note)| self.verifier.open(note).map_err(|error| BookError::NotSigned { file, error });
        let mut checkpoints: Vec<Checkpoint> = notes.map(open).collect::<Result<_, _>>()?;
        checkpoints.sort_by_key(|checkpoint| checkpoint.size);
        checkpoints.dedup();
        match checkpoints.windows(2).find(|two| two[0].size == two[1].size) {
            Some(two) => Err(BookError::Forked(two[0].size)),
            None => Ok(checkpoints),
        }
    }
}

impl Kept {
    /// # Errors
    /// When something other than checkpoints, and the beginning of one, is in there.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotNote> {
        let text = whole_characters(bytes);
        let failed = match Note::parse_all(text) {
            Ok(notes) => return Ok(Self { notes, length: text.len() as u64 }),
            Err(failed) => failed,
        };
        // What a crash cut short begins where the last whole note ends.
        let ends = text.match_indices(DASH).filter_map(|(at, _)| Some(at + text[at..].find('\n')? + 1));
        let length = ends.last().unwrap_or(0);
        let notes = Note::parse_all(&text[..length])?;
        if note::is_beginning(&text[length..]) { Ok(Self { notes, length: length as u64 }) } else { Err(failed) }
    }
}

/// The text without a character that is cut short at its end; nothing where bytes are no text at all.
fn whole_characters(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).expect("it was found to be valid")
        }
        // A control character, which no note holds.
        Err(_) => "\0\n",
    }
}

/// The one key of the file.
pub fn parse_verifier(bytes: &[u8]) -> Result<Verifier, NotVerifier> {
    let text = std::str::from_utf8(bytes).map_err(|_| NotVerifier)?;
    text.strip_suffix('\n').unwrap_or(text).parse()
}

/// The one note of the file.
pub fn parse_last(bytes: &[u8]) -> Result<Note, NotNote> {
    let text = std::str::from_utf8(bytes).map_err(|_| NotNote { line: 1 })?;
    let [note] = <[Note; 1]>::try_from(Note::parse_all(text)?).map_err(|_| NotNote { line: 1 })?;
    if note.to_string() == text { Ok(note) } else { Err(NotNote { line: 1 }) }
}

/// All of a file beside the records, if it is there.
pub fn bytes(folder: &Folder, name: &'static str) -> Result<Option<Vec<u8>>, BookError> {
    let Some(file) = folder.read_beside(name)? else { return Ok(None) };
    let mut bytes = Vec::new();
    match file.take(MOST).read_to_end(&mut bytes) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) => Err(FolderError::Open { path: folder.path().join(name), error }.into()),
    }
}

/// Why the checkpoints beside the records do not count.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("checkpoint.vkey: {0}")]
    Verifier(NotVerifier),
    #[error("{file}, {error}")]
    Note { file: &'static str, error: NotNote },
    #[error("a checkpoint in {file} does not count: {error}")]
    NotSigned { file: &'static str, error: NotSigned },
    #[error("two checkpoints of {0} records differ, and both are signed: the trail was forked")]
    Forked(u64),
}

/// Checkpoints of 10 million records are shorter by far.
const MOST: u64 = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::super::note::SigningKey;
    use super::super::tree::Hash;
    use super::*;

    #[test]
    fn a_kept_checkpoint_that_a_crash_cut_short_is_left_out() {
        let key = SigningKey::new("countersign/test", &[7; 32]);
        let note = |size| key.sign(Checkpoint { size, root: Hash::of_leaf(b"a") }).to_string();
        let (one, two) = (note(1), note(2));
        for cut in 0..=two.len() {
            let bytes = [one.as_bytes(), &two.as_bytes()[..cut]].concat();
            let kept = Kept::parse(&bytes).unwrap_or_else(|error| panic!("torn at {cut} at most: {error}"));
            let whole = if cut == two.len() { one.len() + two.len() } else { one.len() };
            assert_eq!(kept.length, whole as u64, "cut at {cut}");
        }
        assert!(Kept::parse(format!("x\n{one}").as_bytes()).is_err());
        assert!(Kept::parse(format!("{one}x\n{two}").as_bytes()).is_err());
    }

    #[test]
    fn no_changed_byte_of_a_kept_checkpoint_passes_for_one_that_was_cut_short() {
        let key = SigningKey::new("countersign/test", &[7; 32]);
        let note = key.sign(Checkpoint { size: 1, root: Hash::of_leaf(b"a") });
        let bytes = note.to_string().into_bytes();
        for at in 0..bytes.len() {
            for change in [1, 2, 4, 8, 16, 32, 64, 128] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                let counts = Kept::parse(&changed)
                    .is_ok_and(|kept| kept.notes.is_empty() || key.verifier().open(&kept.notes[0]).is_ok());
                assert!(!counts, "byte {at} changed by {change}");
            }
        }
    }
}
