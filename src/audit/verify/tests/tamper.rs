//! What is done to a trail, and how that is to be called.

use fastrand::Rng;

use super::super::super::folder::{Disk as _, Whole, segment_name};
use super::super::super::note::SigningKey;
use super::super::{Checkpoint, Finding, Tampering};
use super::{Hash, KEY, ORIGIN, Scene, Trail, with_number};

/// What somebody does. Those who know the format mend lengths, checksums and numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Act {
    FlipByte,
    ChangeText,
    ChangeTextAndForgetTree,
    Remove,
    RemoveAndRenumber,
    RemoveFile,
    Truncate,
    TruncateBytes,
    PutBackWhole,
    Swap,
    SwapAndRenumber,
    SwapFiles,
    Insert,
    InsertAndRenumber,
    Repeat,
    ReplaceBlock,
    ReplaceFile,
    Rewrite,
    SignTwice,
    FlipByteBeside,
    RemoveBeside,
}

impl Act {
    pub const ALL: [Self; 21] = [
        Self::FlipByte,
        Self::ChangeText,
        Self::ChangeTextAndForgetTree,
        Self::Remove,
        Self::RemoveAndRenumber,
        Self::RemoveFile,
        Self::Truncate,
        Self::TruncateBytes,
        Self::PutBackWhole,
        Self::Swap,
        Self::SwapAndRenumber,
        Self::SwapFiles,
        Self::Insert,
        Self::InsertAndRenumber,
        Self::Repeat,
        Self::ReplaceBlock,
        Self::ReplaceFile,
        Self::Rewrite,
        Self::SignTwice,
        Self::FlipByteBeside,
        Self::RemoveBeside,
    ];

    /// Does it, and says how it must be called.
    pub fn on(self, scene: &Scene, rng: &mut Rng) -> Expected {
        match self {
            Self::FlipByte => flip_byte(scene, rng),
            Self::ChangeText => change_text(scene, rng),
            Self::ChangeTextAndForgetTree => {
                let expected = change_text(scene, rng);
                std::fs::remove_file(scene.path().join("tree")).expect("removed");
                Expected { is_about: true, ..expected }
            }
            Self::Remove => remove(scene, rng, false),
            Self::RemoveAndRenumber => remove(scene, rng, true),
            Self::RemoveFile => remove_file(scene, rng),
            Self::Truncate => truncate(scene, rng),
            Self::TruncateBytes => truncate_bytes(scene, rng),
            Self::PutBackWhole => put_back(scene, rng),
            Self::Swap => swap(scene, rng, false),
            Self::SwapAndRenumber => swap(scene, rng, true),
            Self::SwapFiles => swap_files(scene, rng),
            Self::Insert => insert(scene, rng, false),
            Self::InsertAndRenumber => insert(scene, rng, true),
            Self::Repeat => repeat(scene, rng),
            Self::ReplaceBlock => replace_block(scene, rng),
            Self::ReplaceFile => replace_file(scene, rng),
            Self::Rewrite => rewrite(scene, rng),
            Self::SignTwice => sign_twice(scene, rng),
            Self::FlipByteBeside => flip_byte_beside(scene, rng),
            Self::RemoveBeside => remove_beside(scene, rng),
        }
    }
}

/// How a tampering is to be called, and its place.
#[derive(Debug)]
pub struct Expected {
    pub tampering: Tampering,
    file: Option<String>,
    line: Option<u64>,
    seq: Option<u64>,
    /// Only a checkpoint that was kept elsewhere shows it.
    pub needs_trust: bool,
    /// The place may be among others.
    is_about: bool,
}

impl Expected {
    /// At the line where the record is now, or would be.
    fn at(tampering: Tampering, trail: &Trail, seq: u64) -> Self {
        let mut lines =
            trail.segments.iter().flat_map(|(first, lines)| (1..=lines.len() as u64).map(move |line| (*first, line)));
        let (first, line) = lines.nth(usize::try_from(seq).expect("few")).unwrap_or_else(|| {
            let (first, lines) = trail.segments.iter().rfind(|(_, lines)| !lines.is_empty()).expect("some are left");
            (*first, lines.len() as u64 + 1)
        });
        Self::beside(tampering, &segment_name(first), Some(line), Some(seq))
    }

    fn beside(tampering: Tampering, file: &str, line: Option<u64>, seq: Option<u64>) -> Self {
        Self { tampering, file: Some(file.to_owned()), line, seq, needs_trust: false, is_about: false }
    }

    pub fn is(&self, finding: &Finding) -> bool {
        if finding.tampering != self.tampering {
            return false;
        }
        if self.is_about {
            let seq = self.seq.expect("a record");
            return finding.seq.is_some_and(|first| (first..first + finding.count).contains(&seq));
        }
        self.file.as_ref().is_none_or(|file| *file == finding.file)
            && self.line.is_none_or(|line| line == finding.line)
            && (self.seq.is_none() || self.seq == finding.seq)
    }
}

fn any_record(scene: &Scene, rng: &mut Rng) -> u64 {
    rng.u64(0..scene.trail.len())
}

fn flip_byte(scene: &Scene, rng: &mut Rng) -> Expected {
    let (first, _) = rng.choice(&scene.trail.segments).expect("some");
    let name = segment_name(*first);
    let mut bytes = scene.files[&name].clone();
    let at = rng.usize(..bytes.len());
    let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() as u64;
    bytes[at] ^= rng.u8(1..);
    std::fs::write(scene.path().join(&name), bytes).expect("written");
    Expected::beside(Tampering::Edited, &name, Some(line + 1), Some(first + line))
}

fn change_text(scene: &Scene, rng: &mut Rng) -> Expected {
    let (mut trail, seq) = (scene.trail.clone(), any_record(scene, rng));
    let line = trail.line(seq);
    *line = line.replace("ours", rng.choice(["mine", "nobody's", "ours and theirs"]).expect("some"));
    trail.write(scene.path());
    Expected::at(Tampering::Edited, &trail, seq)
}

/// Some records, and others after them.
fn remove(scene: &Scene, rng: &mut Rng, renumber: bool) -> Expected {
    let mut trail = scene.trail.clone();
    let count = rng.u64(1..4).min(trail.len() - 1);
    let seq = rng.u64(0..trail.len() - count);
    for gone in (seq..seq + count).rev() {
        let (segment, at) = scene.trail.place(gone);
        trail.segments[segment].1.remove(at);
    }
    if renumber {
        trail.renumber();
    }
    trail.write(scene.path());
    Expected::at(Tampering::Removed, &trail, seq)
}

fn remove_file(scene: &Scene, rng: &mut Rng) -> Expected {
    let mut trail = scene.trail.clone();
    let (first, _) = trail.segments.remove(rng.usize(..trail.segments.len() - 1));
    std::fs::remove_file(scene.path().join(segment_name(first))).expect("removed");
    Expected::at(Tampering::Removed, &trail, first)
}

/// The last records, and perhaps the files that they are in.
fn truncate(scene: &Scene, rng: &mut Rng) -> Expected {
    let mut trail = scene.trail.clone();
    let left = rng.u64(1..trail.len());
    for (first, lines) in &mut trail.segments {
        lines.truncate(usize::try_from(left.saturating_sub(*first)).expect("few"));
    }
    trail.write(scene.path());
    while trail.segments.last().is_some_and(|(_, lines)| lines.is_empty()) {
        let (first, _) = trail.segments.pop().expect("one");
        std::fs::remove_file(scene.path().join(segment_name(first))).expect("removed");
    }
    Expected::at(Tampering::Truncated, &trail, left)
}

fn truncate_bytes(scene: &Scene, rng: &mut Rng) -> Expected {
    let (first, _) = scene.trail.segments.last().expect("some");
    let name = segment_name(*first);
    let bytes = &scene.files[&name];
    let left = &bytes[..rng.usize(..bytes.len())];
    std::fs::write(scene.path().join(&name), left).expect("written");
    let lines = left.iter().filter(|byte| **byte == b'\n').count() as u64;
    Expected::beside(Tampering::Truncated, &name, Some(lines + 1), Some(first + lines))
}

/// The whole folder, as it was earlier.
fn put_back(scene: &Scene, rng: &mut Rng) -> Expected {
    let left = rng.u64(1..scene.trail.len());
    let mut trail = scene.trail.clone();
    for (first, lines) in &mut trail.segments {
        lines.truncate(usize::try_from(left.saturating_sub(*first)).expect("few"));
        std::fs::remove_file(scene.path().join(segment_name(*first))).expect("removed");
    }
    trail.segments.retain(|(_, lines)| !lines.is_empty());
    for name in ["tree", "checkpoint", "checkpoints"] {
        let _ = std::fs::remove_file(scene.path().join(name));
    }
    trail.write(scene.path());
    trail.sign(&scene.folder);
    Expected { needs_trust: true, ..Expected::at(Tampering::Truncated, &trail, left) }
}

fn swap(scene: &Scene, rng: &mut Rng, renumber: bool) -> Expected {
    let mut trail = scene.trail.clone();
    let one = rng.u64(0..trail.len() - 1);
    let two = rng.u64(one + 1..trail.len().min(one + 20));
    let (first, second) = (trail.line(one).clone(), trail.line(two).clone());
    (*trail.line(one), *trail.line(two)) =
        if renumber { (with_number(&second, one), with_number(&first, two)) } else { (second, first) };
    trail.write(scene.path());
    Expected::at(Tampering::Reordered, &trail, one)
}

fn swap_files(scene: &Scene, rng: &mut Rng) -> Expected {
    let mut trail = scene.trail.clone();
    let one = rng.usize(..trail.segments.len() - 1);
    let two = rng.usize(one + 1..trail.segments.len());
    let first = trail.segments[one].0;
    let lines = std::mem::take(&mut trail.segments[one].1);
    let others = std::mem::replace(&mut trail.segments[two].1, lines);
    trail.segments[one].1 = others;
    trail.write(scene.path());
    Expected::at(Tampering::Reordered, &trail, first)
}

/// A record that was written elsewhere, before one of ours.
fn insert(scene: &Scene, rng: &mut Rng, renumber: bool) -> Expected {
    let (mut trail, seq) = (scene.trail.clone(), any_record(scene, rng));
    let (segment, at) = trail.place(seq);
    let foreign = scene.foreign.lines().nth(rng.usize(..usize::try_from(trail.len()).expect("few"))).expect("as many");
    let foreign = with_number(foreign, seq);
    trail.segments[segment].1.insert(at, foreign);
    if renumber {
        trail.renumber();
    }
    trail.write(scene.path());
    Expected::at(Tampering::Spliced, &trail, seq)
}

/// One of ours, once more.
fn repeat(scene: &Scene, rng: &mut Rng) -> Expected {
    let (mut trail, seq) = (scene.trail.clone(), any_record(scene, rng));
    let (segment, at) = trail.place(seq);
    let again = trail.line(rng.u64(0..seq + 1)).clone();
    // Beside itself the second one is the one too many.
    let is_same = again == trail.segments[segment].1[at];
    trail.segments[segment].1.insert(at, again);
    trail.write(scene.path());
    Expected::at(Tampering::Spliced, &trail, seq + u64::from(is_same))
}

/// Some of ours by fewer or more of others.
fn replace_block(scene: &Scene, rng: &mut Rng) -> Expected {
    let mut trail = scene.trail.clone();
    let segment = rng.usize(..trail.segments.len());
    let (first, lines) = &mut trail.segments[segment];
    let at = rng.usize(..lines.len());
    let gone = rng.usize(1..=(lines.len() - at).min(4));
    let come = if gone > 1 && rng.bool() { gone - 1 } else { gone + 1 };
    let seq = *first + at as u64;
    let foreign: Vec<String> =
        (seq..).zip(scene.foreign.lines()).take(come).map(|(seq, line)| with_number(line, seq)).collect();
    lines.splice(at..at + gone, foreign);
    trail.renumber();
    trail.write(scene.path());
    Expected::at(Tampering::Spliced, &trail, seq)
}

/// The same part of another trail, whose numbers fit. It is older, which shows where something of ours stands before it.
fn replace_file(scene: &Scene, rng: &mut Rng) -> Expected {
    let mut trail = scene.trail.clone();
    let segment = rng.usize(1..trail.segments.len());
    trail.segments[segment] = scene.foreign.segments[segment].clone();
    trail.write(scene.path());
    Expected::at(Tampering::Spliced, &trail, trail.segments[segment].0)
}

/// By somebody who has the key: another text, and all that follows signed anew.
fn rewrite(scene: &Scene, rng: &mut Rng) -> Expected {
    let (mut trail, seq) = (scene.trail.clone(), any_record(scene, rng));
    let line = trail.line(seq);
    *line = line.replace("ours", "mine");
    for name in ["tree", "checkpoint", "checkpoints"] {
        let _ = std::fs::remove_file(scene.path().join(name));
    }
    trail.write(scene.path());
    trail.sign(&scene.folder);
    let expected = Expected::at(Tampering::Forked, &trail, seq);
    Expected { needs_trust: true, is_about: true, ..expected }
}

/// By somebody who has the key: another tree of a size that was signed before.
fn sign_twice(scene: &Scene, rng: &mut Rng) -> Expected {
    let other = Checkpoint { size: scene.trail.len(), root: Hash::of_leaf(&rng.u64(..).to_be_bytes()) };
    let note = SigningKey::new(ORIGIN, &KEY).sign(other).to_string();
    scene.folder.replace(Whole::Checkpoint, note.as_bytes()).expect("written");
    let expected = Expected::beside(Tampering::Forked, "checkpoint", None, None);
    Expected { needs_trust: true, ..expected }
}

fn flip_byte_beside(scene: &Scene, rng: &mut Rng) -> Expected {
    let names = ["tree", "checkpoint", "checkpoints", "checkpoint.vkey"];
    let there: Vec<&str> = names.into_iter().filter(|name| scene.files.contains_key(*name)).collect();
    let name = rng.choice(there).expect("some");
    let mut bytes = scene.files[name].clone();
    let at = rng.usize(..bytes.len());
    bytes[at] ^= rng.u8(1..);
    std::fs::write(scene.path().join(name), bytes).expect("written");
    Expected::beside(Tampering::Edited, name, None, None)
}

fn remove_beside(scene: &Scene, rng: &mut Rng) -> Expected {
    let name = rng.choice(["tree", "checkpoint", "checkpoint.vkey"]).expect("some");
    std::fs::remove_file(scene.path().join(name)).expect("removed");
    Expected::beside(Tampering::Removed, name, None, None)
}
