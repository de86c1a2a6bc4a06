//! Takes up the trail where it ended: its key, its checkpoints, its records, its tree. Begins one in a folder that is new.
//!
//! Invariant: what is signed next begins with all that was ever signed. Where that cannot be shown, nothing starts, and nothing in
//! the folder is changed. Each trail has an origin of its own, so that one key never signs two trees of one name and size.

use std::path::PathBuf;

use super::book::{self, Book, BookError};
use super::figures::{Figures, Weeks};
use super::folder::{Disk as _, Folder, FolderError, Growing, Whole};
use super::notary::{Mark, Notary, Rhythm};
use super::note::SigningKey;
use super::recovery::{RecoveryError, Trail, recover};
use super::review::Review;
use super::scan::{Scanner, Step};
use super::tree::{Frontier, Hash, stored_hashes};
use super::used::{Left, Used, unfinished_since};

/// A trail that can be written on, and who signs it.
pub struct Resumed {
    pub trail: Trail,
    pub notary: Notary,
    /// What had begun and was not over.
    pub figures: Figures,
    /// What was over.
    pub weeks: Weeks,
    /// What was used before, and is not a record.
    pub used: Vec<Used>,
    /// From when on use may be lost, if the process before did not tell its end.
    pub unfinished_since: Option<String>,
}

/// # Errors
/// When the trail is not the one that was signed last, with the same key.
pub fn resume(folder: &Folder, seed: &[u8; 32]) -> Result<Resumed, ResumeError> {
    let path = || folder.path().to_owned();
    let has_records = folder.segments()?.iter().any(|&first| is_written(folder, first));
    let Some(book) = Book::read(folder)? else {
        return if has_records { Err(ResumeError::Unsigned(path())) } else { begin(folder, seed) };
    };
    let key = SigningKey::new(book.verifier.name(), seed);
    if *key.verifier() != book.verifier {
        return Err(ResumeError::OtherKey(path()));
    }
    if book.last.is_none() && has_records {
        return Err(ResumeError::NoCheckpoint(path()));
    }
    let checkpoints = book.checkpoints()?;
    let last = checkpoints.last().copied();
    let left = Left::new(&book::bytes(folder, Whole::Journal.name())?.unwrap_or_default());
    let mut review = Review::new(checkpoints, folder.read_beside(Growing::Tree.name())?, left);
    let trail = recover(folder, &mut review)?;
    let (stored, hashes) = if review.knows_all_hashes() {
        (review.stored_right, std::mem::take(&mut review.missing))
    } else {
        (rebuild(folder)?, Vec::new())
    };
    let size = book.kept.notes.last().map_or(0, |note| note.unverified().size);
    let kept = Mark { size, length: book.kept.length };
    let mut notary = Notary::new(key, review.frontier, stored, hashes, last, kept);
    if last.is_none() {
        notary.publish(folder, &Rhythm::default()).map_err(ResumeError::Sign)?;
    }
    let unfinished_since = unfinished_since(&review.last, review.left.until());
    let (figures, weeks) = review.figures.finish();
    Ok(Resumed { trail, notary, figures, weeks, used: review.left.into_used(), unfinished_since })
}

fn is_written(folder: &Folder, first: u64) -> bool {
    std::fs::symlink_metadata(folder.segment_path(first))
        .is_ok_and(|metadata| !metadata.is_file() || metadata.len() > 0)
}

/// The tree without records is signed first: from then on a trail without a checkpoint is one that somebody took it from.
fn begin(folder: &Folder, seed: &[u8; 32]) -> Result<Resumed, ResumeError> {
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| ResumeError::Random)?;
    let key = SigningKey::new(&format!("countersign/{:016x}", u64::from_be_bytes(random)), seed);
    let mut notary = Notary::new(key, Frontier::default(), 0, Vec::new(), None, Mark::default());
    notary.introduce(folder).map_err(ResumeError::Sign)?;
    notary.publish(folder, &Rhythm::default()).map_err(ResumeError::Sign)?;
    let trail = recover(folder, &mut Review::default())?;
    let (figures, weeks) = (Figures::default(), Weeks::default());
    Ok(Resumed { trail, notary, figures, weeks, used: Vec::new(), unfinished_since: None })
}

/// Stores the hashes of the whole tree anew, from records that are what was signed. Returns how many those are.
fn rebuild(folder: &Folder) -> Result<u64, ResumeError> {
    tracing::warn!(folder = %folder.path().display(), "the hashes of the trail's tree are computed anew");
    let segments = folder.segments()?;
    let (mut frontier, mut hashes, mut stored) = (Frontier::default(), Vec::new(), 0);
    for (index, &first) in segments.iter().enumerate() {
        let next = segments.get(index + 1).copied().unwrap_or(u64::MAX);
        let mut scanner = Scanner::new(folder.read_segment(first)?, first);
        // They were read a moment ago, to their end.
        while scanner.next_seq() < next && matches!(scanner.step(), Ok(Step::Record)) {
            frontier.append(Hash::of_leaf(scanner.json()), |hash| hashes.extend_from_slice(&hash.0));
            if hashes.len() >= CHUNK {
                folder.put(Growing::Tree, stored * Hash::LENGTH as u64, &hashes).map_err(ResumeError::Sign)?;
                stored = stored_hashes(frontier.size());
                hashes.clear();
            }
        }
    }
    folder.put(Growing::Tree, stored * Hash::LENGTH as u64, &hashes).map_err(ResumeError::Sign)?;
    Ok(stored_hashes(frontier.size()))
}

/// Why a trail is not gone on with.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("{0}. {KEEP}")]
    Book(#[from] BookError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error("{} holds records that nobody has signed: checkpoint.vkey is not there. {KEEP}", .0.display())]
    Unsigned(PathBuf),
    #[error("{} holds records, and their checkpoint is not there. {KEEP}", .0.display())]
    NoCheckpoint(PathBuf),
    #[error(
        "the trail in {} was signed with another key than this state folder's audit.key: put that key back, or start with \
         another audit.dir",
        .0.display()
    )]
    OtherKey(PathBuf),
    #[error("cannot write a checkpoint: {0}")]
    Sign(#[source] std::io::Error),
    #[error("the operating system has no randomness to give")]
    Random,
}

const KEEP: &str = "Keep that folder as it is, for investigation, and start with another audit.dir";

const CHUNK: usize = 4 * 1024 * 1024;
