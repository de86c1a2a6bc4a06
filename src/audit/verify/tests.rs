//! Ten thousand things that somebody may do to a trail, each found, and called by its name.

mod tamper;

use std::collections::BTreeMap;
use std::path::Path;

use fastrand::Rng;
use tempfile::TempDir;

use self::tamper::Act;
use super::super::archive::Archive;
use super::super::folder::{Folder, segment_name};
use super::super::frame;
use super::super::notary::{Mark, Notary, Rhythm};
use super::super::note::SigningKey;
use super::super::tree::{Frontier, Hash};
use super::*;

/// Records in their files, as a test changes them.
#[derive(Clone)]
struct Trail {
    /// The first record of each segment, and the JSON of its lines.
    segments: Vec<(u64, Vec<String>)>,
}

const KEY: [u8; 32] = [7; 32];
const ORIGIN: &str = "countersign/test";

impl Trail {
    /// Records that tell of `what`, one each second from `time` on.
    fn new(rng: &mut Rng, what: &str, time: u64, sizes: &[usize]) -> Self {
        let (mut segments, mut seq) = (Vec::new(), 0);
        for size in sizes {
            let first = seq;
            let mut lines = Vec::new();
            for _ in 0..*size {
                let time = jiff::Timestamp::from_second(i64::try_from(time + seq).expect("small")).expect("a time");
                let cause = rng.u32(..);
                lines.push(format!(
                    r#"{{"v":1,"seq":{seq},"time":"{time:.3}","event":"stop","cause":"{what} {cause:08x}"}}"#
                ));
                seq += 1;
            }
            segments.push((first, lines));
        }
        Self { segments }
    }

    fn lines(&self) -> impl Iterator<Item = &String> {
        self.segments.iter().flat_map(|(_, lines)| lines)
    }

    fn len(&self) -> u64 {
        self.lines().count() as u64
    }

    /// The segment and the place in it of a record.
    fn place(&self, seq: u64) -> (usize, usize) {
        let segment = self.segments.iter().rposition(|(first, _)| *first <= seq).expect("the first is 0");
        (segment, usize::try_from(seq - self.segments[segment].0).expect("few"))
    }

    fn line(&mut self, seq: u64) -> &mut String {
        let (segment, at) = self.place(seq);
        &mut self.segments[segment].1[at]
    }

    /// Numbers all records in the order in which they stand.
    fn renumber(&mut self) {
        for (seq, line) in self.segments.iter_mut().flat_map(|(_, lines)| lines).enumerate() {
            *line = with_number(line, seq as u64);
        }
    }

    fn write(&self, folder: &Path) {
        for (first, lines) in &self.segments {
            let mut frames = Vec::new();
            for line in lines {
                frame::encode(line.as_bytes(), &mut frames).expect("short");
            }
            std::fs::write(folder.join(segment_name(*first)), frames).expect("written");
        }
    }

    /// Signs it all, as the writer does: each tenth record.
    fn sign(&self, folder: &Folder) {
        let rhythm = Rhythm { records: 10, keep_each: 20, ..Rhythm::default() };
        let key = SigningKey::new(ORIGIN, &KEY);
        let mut notary = Notary::new(key, Frontier::default(), 0, Vec::new(), None, Mark::default());
        notary.introduce(folder).expect("written");
        let leaves: Vec<Hash> = self.lines().map(|line| Hash::of_leaf(line.as_bytes())).collect();
        for some in leaves.chunks(10) {
            notary.append(some, std::time::Duration::ZERO);
            notary.publish(folder, &rhythm).expect("written");
        }
    }
}

fn with_number(line: &str, seq: u64) -> String {
    let rest = line.split_once(",\"time\"").expect("a record").1;
    format!("{{\"v\":1,\"seq\":{seq},\"time\"{rest}")
}

/// A signed trail in a folder, and what is in there.
struct Scene {
    temporary: TempDir,
    /// Held throughout: a program that another test starts at that moment would inherit a lock that is let go.
    folder: Folder,
    trail: Trail,
    foreign: Trail,
    files: BTreeMap<String, Vec<u8>>,
    trusted: Trusted,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let sizes: Vec<usize> = (0..rng.usize(2..6)).map(|_| rng.usize(3..20)).collect();
        let trail = Trail::new(&mut rng, "ours", 1_700_000_000, &sizes);
        let foreign = Trail::new(&mut rng, "theirs", 1_600_000_000, &sizes);
        // In memory, where there is such a folder: nothing here is about disks.
        let temporary = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("temporary folder");
        let folder = Folder::open(temporary.path()).expect("free");
        trail.write(temporary.path());
        trail.sign(&folder);
        let note = Archive::new(temporary.path()).checkpoint().expect("signed");
        let verifier = SigningKey::new(ORIGIN, &KEY).verifier().clone();
        let trusted = Trusted { verifier: Some(verifier), notes: vec![note] };
        let mut scene = Self { temporary, folder, trail, foreign, files: BTreeMap::new(), trusted };
        scene.files = scene.everything();
        scene
    }

    fn path(&self) -> &Path {
        self.temporary.path()
    }

    fn everything(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(self.path()).expect("readable").map(|entry| entry.expect("an entry").path());
        let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
        entries.map(|path| (name(&path), std::fs::read(&path).expect("readable"))).collect()
    }

    /// As it was before anything was done to it.
    fn restore(&self) {
        for name in self.everything().keys().filter(|name| !self.files.contains_key(*name)) {
            std::fs::remove_file(self.path().join(name)).expect("removed");
        }
        for (name, bytes) in &self.files {
            std::fs::write(self.path().join(name), bytes).expect("written");
        }
    }

    fn verify(&self, trusted: &Trusted) -> Report {
        verify(&Archive::new(self.path()), trusted).expect("readable")
    }
}

#[test]
fn a_trail_as_it_was_written_is_found_to_be_that() {
    for seed in 0..20 {
        let scene = Scene::new(seed);
        for trusted in [&scene.trusted, &Trusted::default()] {
            let report = scene.verify(trusted);
            assert_eq!(report.findings, [], "seed {seed}");
            assert_eq!((report.records, report.signed, report.torn_bytes), (scene.trail.len(), scene.trail.len(), 0));
            assert_eq!(report.origin, ORIGIN);
        }
    }
}

#[test]
fn what_no_checkpoint_covers_yet_is_not_tampered_with() {
    let scene = Scene::new(1);
    let last = scene.trail.segments.last().expect("a segment").0;
    let more = with_number(&scene.trail.segments[0].1[0], scene.trail.len());
    let mut frames = Vec::new();
    frame::encode(more.as_bytes(), &mut frames).expect("short");
    let torn = frames[..10].to_vec();
    let name = segment_name(last);
    let path = scene.path().join(&name);
    std::fs::write(path, [&scene.files[&name], &frames[..], &torn].concat()).expect("written");
    let report = scene.verify(&scene.trusted);
    assert_eq!(report.findings, []);
    assert_eq!((report.records, report.signed), (scene.trail.len() + 1, scene.trail.len()));
    assert_eq!(report.torn_bytes, 10);
}

#[test]
fn a_batch_that_was_written_again_is_not_tampered_with() {
    let scene = Scene::new(2);
    let name = segment_name(0);
    let next = &scene.files[&segment_name(scene.trail.segments[1].0)];
    for rest in [1, 30, next.len() / 2, next.len()] {
        std::fs::write(scene.path().join(&name), [&scene.files[&name], &next[..rest]].concat()).expect("written");
        assert_eq!(scene.verify(&scene.trusted).findings, [], "{rest} bytes");
    }
}

#[test]
fn ten_thousand_tamperings_are_found_and_named() {
    let one = std::env::var("COUNTERSIGN_TAMPERING_SEED").ok().map(|seed| seed.parse::<u64>().expect("a number"));
    let seeds = one.map_or(0..TAMPERINGS, |seed| seed..seed + 1);
    let mut missed: Vec<String> = Vec::new();
    let mut tally: BTreeMap<(Act, Tampering), u64> = BTreeMap::new();
    let mut scene = Scene::new(seeds.start / PER_SCENE);
    for seed in seeds {
        if seed % PER_SCENE == 0 {
            scene = Scene::new(seed / PER_SCENE);
        }
        let mut rng = Rng::with_seed(seed);
        let act = rng.choice(Act::ALL).expect("some");
        let expected = act.on(&scene, &mut rng);
        let trusted = match expected.needs_trust {
            true => &scene.trusted,
            // Without anything from elsewhere but the key, of which a copy lies beside the records.
            false => &Trusted { verifier: scene.trusted.verifier.clone(), notes: Vec::new() },
        };
        let report = scene.verify(trusted);
        if !report.findings.iter().any(|finding| expected.is(finding)) {
            missed.push(format!(
                "COUNTERSIGN_TAMPERING_SEED={seed} plays it again: {act:?}, {expected:?}, was found as {:?}",
                report.findings
            ));
        }
        *tally.entry((act, expected.tampering)).or_default() += 1;
        scene.restore();
    }
    println!("{tally:#?}");
    assert!(
        missed.is_empty(),
        "{} of {TAMPERINGS} were missed:\n{}",
        missed.len(),
        missed[..missed.len().min(20)].join("\n")
    );
    let named: std::collections::BTreeSet<Tampering> = tally.keys().map(|(_, tampering)| *tampering).collect();
    assert!(one.is_some() || named.len() == 6, "each kind was tried: {named:?}");
}

#[test]
fn a_trusted_checkpoint_of_another_trail_is_not_compared() {
    let scene = Scene::new(3);
    let other = SigningKey::new(ORIGIN, &[8; 32]).sign(Checkpoint { size: 1, root: Hash::of_nothing() });
    let trusted = Trusted { verifier: None, notes: vec![other] };
    assert!(matches!(verify(&Archive::new(scene.path()), &trusted), Err(VerifyError::Trusted(NotSigned::Key))));
    std::fs::remove_file(scene.path().join("checkpoint.vkey")).expect("removed");
    assert!(matches!(verify(&Archive::new(scene.path()), &Trusted::default()), Err(VerifyError::NoKey(_))));
}

const TAMPERINGS: u64 = 10_000;
const PER_SCENE: u64 = 100;
