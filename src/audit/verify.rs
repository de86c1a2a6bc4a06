//! Whether a trail is what was written, offline, on the folder or a copy of it: and if not, what was done to it, and where.
//!
//! ```text
//! checkpoints ─ verified with the key ─▶ references ─┐
//! records ─▶ leaves ─▶ Frontier ─▶ roots ────────────┴─ walk ─▶ all as signed
//!               │                                         └───▶ diagnose ─▶ edited, removed, truncated, ...
//! tree ─▶ leaves, as far as their root is a reference's ──────────┘
//! ```
//!
//! Invariant: nothing counts that no signature covers. The hashes in `tree` say where something was done, never whether: they count
//! as far as they make the root of a checkpoint.

mod diagnose;
mod lines;
mod walk;

use std::fmt;

use serde_json::{Value, json};

use self::diagnose::Diagnosis;
use self::walk::Walk;
use super::archive::{Archive, ArchiveError};
use super::folder::{Growing, Whole};
use super::note::{Checkpoint, NotSigned, Note, Verifier};

/// What the one who asks has from elsewhere.
#[derive(Default)]
pub struct Trusted {
    /// The key of the trail; otherwise the one beside the records is taken for it.
    pub verifier: Option<Verifier>,
    /// Checkpoints of the trail.
    pub notes: Vec<Note>,
}

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// Whole records that are there.
    pub records: u64,
    /// How many of them the last checkpoint covers that they agree with.
    pub signed: u64,
    /// Who signed.
    pub origin: String,
    /// Bytes of a record that is not complete, as a crash leaves it or a copy of a trail that was being written.
    pub torn_bytes: u64,
    pub findings: Vec<Finding>,
}

/// Something that was done to the trail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub tampering: Tampering,
    /// The file, as it is called in the folder.
    pub file: String,
    /// From 1; the line after the last where nothing follows.
    pub line: u64,
    /// The first record that is affected, where records are.
    pub seq: Option<u64>,
    /// How many records are.
    pub count: u64,
    pub detail: String,
}

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tampering {
    /// Bytes are others than were written.
    Edited,
    /// Records are missing that others follow.
    Removed,
    /// The end is missing.
    Truncated,
    /// Records stand in another order.
    Reordered,
    /// Records stand there that were written elsewhere, or nowhere.
    Spliced,
    /// There are two histories, and both were signed.
    Forked,
}

impl Tampering {
    pub fn name(self) -> &'static str {
        match self {
            Self::Edited => "edited",
            Self::Removed => "removed",
            Self::Truncated => "truncated",
            Self::Reordered => "reordered",
            Self::Spliced => "spliced",
            Self::Forked => "forked",
        }
    }
}

/// `FILE:LINE: edited: record 7 is not the one that was signed`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.tampering.name(), self.detail)
    }
}

impl Report {
    /// For programs.
    pub fn to_json(&self) -> Value {
        let finding = |finding: &Finding| {
            let Finding { tampering, file, line, seq, count, detail } = finding;
            json!({
                "tampering": tampering.name(), "file": file, "line": line, "seq": seq, "count": count, "detail": detail,
            })
        };
        json!({
            "ok": self.findings.is_empty(),
            "origin": self.origin,
            "records": self.records,
            "signed": self.signed,
            "torn_bytes": self.torn_bytes,
            "findings": self.findings.iter().map(finding).collect::<Vec<Value>>(),
        })
    }
}

/// Looks at the whole trail.
///
/// # Errors
/// When it cannot be read, or what is trusted is not of this trail.
pub fn verify(archive: &Archive, trusted: &Trusted) -> Result<Report, VerifyError> {
    let mut findings = Vec::new();
    let own = archive.verifier();
    let verifier = match (&trusted.verifier, own) {
        (Some(given), Ok(own)) if *given != own => {
            let detail = format!("it is the key of {}, not of {}", own.name(), given.name());
            findings.push(beside(Tampering::Edited, Whole::Verifier.name(), 1, &detail));
            given.clone()
        }
        (Some(given), Ok(_)) => given.clone(),
        (Some(given), Err(error)) => {
            findings.push(unreadable(Whole::Verifier.name(), &error));
            given.clone()
        }
        (None, Ok(own)) => own,
        (None, Err(error)) => return Err(VerifyError::NoKey(error)),
    };
    let mut references = Vec::new();
    for note in &trusted.notes {
        let checkpoint = verifier.open(note).map_err(VerifyError::Trusted)?;
        references.push(Reference { checkpoint, is_trusted: true });
    }
    references.extend(own_references(archive, &verifier, &mut findings));
    references.sort_by_key(|reference| (reference.checkpoint.size, reference.is_trusted));
    let forked = references.windows(2).find(|two| {
        two[0].checkpoint.size == two[1].checkpoint.size && two[0].checkpoint.root != two[1].checkpoint.root
    });
    if let Some(two) = forked {
        let size = two[0].checkpoint.size;
        let detail = format!("two checkpoints of {size} records are signed, and differ");
        findings.push(Finding { count: size, ..beside(Tampering::Forked, Whole::Checkpoint.name(), 2, &detail) });
    }
    let walk = Walk::through(archive, &references)?;
    findings
        .extend(Diagnosis { archive, references: &references, walk: &walk, is_forked: forked.is_some() }.findings()?);
    Ok(Report {
        records: walk.records,
        signed: walk.signed,
        origin: verifier.name().to_owned(),
        torn_bytes: walk.torn_bytes,
        findings,
    })
}

/// A checkpoint that the key has signed.
#[derive(Clone, Copy)]
struct Reference {
    checkpoint: Checkpoint,
    /// Whether it was kept elsewhere.
    is_trusted: bool,
}

/// The checkpoints beside the records. What is wrong with them is found.
fn own_references(archive: &Archive, verifier: &Verifier, findings: &mut Vec<Finding>) -> Vec<Reference> {
    let mut references: Vec<Reference> = Vec::new();
    let mut open = |file: &str, line: u64, note: &Note| match verifier.open(note) {
        Ok(checkpoint) => references.push(Reference { checkpoint, is_trusted: false }),
        Err(error) => {
            let detail = format!("the checkpoint of {} records does not count: {error}", note.unverified().size);
            findings.push(beside(Tampering::Edited, file, line, &detail));
        }
    };
    let (mut broken, mut last) = (Vec::new(), 0);
    match archive.kept() {
        Ok(kept) => {
            for (number, note) in (0..).zip(&kept) {
                open(Growing::Checkpoints.name(), number * LINES_OF_A_NOTE + 1, note);
                if note.unverified().size <= last && number > 0 {
                    let detail = "a smaller checkpoint follows a larger one";
                    let line = number * LINES_OF_A_NOTE + 1;
                    broken.push(beside(Tampering::Reordered, Growing::Checkpoints.name(), line, detail));
                }
                last = note.unverified().size;
            }
        }
        Err(error) => broken.push(unreadable(Growing::Checkpoints.name(), &error)),
    }
    match archive.checkpoint() {
        Ok(note) => open(Whole::Checkpoint.name(), 1, &note),
        Err(error) => broken.push(unreadable(Whole::Checkpoint.name(), &error)),
    }
    findings.extend(broken);
    references
}

/// A file beside the records that is missing, or is not what was written.
fn unreadable(file: &str, error: &ArchiveError) -> Finding {
    match error {
        ArchiveError::Read { error, .. } if error.kind() == std::io::ErrorKind::NotFound => {
            beside(Tampering::Removed, file, 1, "the file is not there")
        }
        ArchiveError::Note { error, .. } => beside(Tampering::Edited, file, error.line as u64, &error.to_string()),
        error => beside(Tampering::Edited, file, 1, &error.to_string()),
    }
}

fn beside(tampering: Tampering, file: &str, line: u64, detail: &str) -> Finding {
    Finding { tampering, file: file.to_owned(), line, seq: None, count: 0, detail: detail.to_owned() }
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("there is no key to verify with: {0}. Give the one that was kept elsewhere with --key")]
    NoKey(ArchiveError),
    #[error("the trusted checkpoint is not one of this trail, by its key: {0}")]
    Trusted(NotSigned),
}

/// Three of text, an empty one, one signature.
const LINES_OF_A_NOTE: u64 = 5;

#[cfg(test)]
mod tests;
