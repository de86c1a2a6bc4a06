//! Signed notes and checkpoints, as C2SP's `signed-note` and `tlog-checkpoint` write them, with Ed25519.
//!
//! ```text
//! countersign/6fd1…       origin: the name of the trail, and of its key
//! 4711                    how many records
//! base64                  root of the tree over them
//!
//! — countersign/6fd1… base64(key's number, signature)
//! ```
//!
//! Invariant: what was read here is written again byte for byte; numbers and base64 have one spelling. Pure.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::tree::Hash;

/// How many records there are, and the root of the tree that they make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    pub size: u64,
    pub root: Hash,
}

/// A checkpoint with its signature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    origin: String,
    checkpoint: Checkpoint,
    signatures: Vec<Signature>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Signature {
    name: String,
    key: [u8; 4],
    bytes: Vec<u8>,
}

impl Note {
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// What it says, whoever signed it.
    pub fn unverified(&self) -> Checkpoint {
        self.checkpoint
    }

    /// The notes of a text, one after the other; empty lines between them are left out.
    ///
    /// # Errors
    /// At the line, counted from 1, where something else stands.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, NotNote> {
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let (mut notes, mut at) = (Vec::new(), 0);
        while at < lines.len() {
            if lines[at] == "\n" {
                at += 1;
                continue;
            }
            let start = at;
            let not_note = |at: usize| NotNote { line: at + 1 };
            let mut next = || {
                let line = lines.get(at).and_then(|line| line.strip_suffix('\n')).ok_or(not_note(at))?;
                at += 1;
                Ok(line)
            };
            let (origin, size, root) = (next()?, next()?, next()?);
            let size =
                size.parse().ok().filter(|parsed: &u64| parsed.to_string() == size).ok_or(not_note(start + 1))?;
            let root = base64(root).and_then(|bytes| bytes.try_into().ok()).map(Hash).ok_or(not_note(start + 2))?;
            if !is_name(origin) || !next()?.is_empty() {
                return Err(not_note(start));
            }
            let mut signatures = Vec::new();
            while lines.get(at).is_some_and(|line| line.starts_with(DASH)) {
                let line = lines[at].strip_suffix('\n').ok_or(not_note(at))?;
                signatures.push(Signature::parse(line).ok_or(not_note(at))?);
                at += 1;
            }
            if signatures.is_empty() {
                return Err(not_note(at));
            }
            notes.push(Self { origin: origin.to_owned(), checkpoint: Checkpoint { size, root }, signatures });
        }
        Ok(notes)
    }

    /// What is signed.
    fn text(&self) -> String {
        body(&self.origin, self.checkpoint)
    }
}

/// The note as it is exchanged, with the line end that ends it.
impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text())?;
        for Signature { name, key, bytes } in &self.signatures {
            writeln!(f, "{DASH}{name} {}", STANDARD.encode([key.as_slice(), bytes].concat()))?;
        }
        Ok(())
    }
}

/// Whether this may be a note that was cut short: never a whole one.
pub fn is_beginning(text: &str) -> bool {
    let mut lines = text.split('\n');
    let last = lines.next_back().unwrap_or_default();
    let whole: Vec<&str> = lines.collect();
    let origin = whole.first().copied().unwrap_or(last);
    let fits = |(at, line): (usize, &&str)| match at {
        0 => is_name(line),
        1 => line.parse().is_ok_and(|size: u64| size.to_string() == **line),
        2 => base64(line).is_some_and(|bytes| bytes.len() == Hash::LENGTH),
        _ => line.is_empty(),
    };
    let start = format!("{DASH}{origin} ");
    let partial = match whole.len() {
        0 => last.is_empty() || is_name(last),
        1 => last.bytes().all(|byte| byte.is_ascii_digit()),
        2 => last.len() <= BASE64_OF_HASH,
        3 => last.is_empty(),
        4 => start.starts_with(last) || (last.starts_with(&start) && last.len() <= start.len() + BASE64_OF_SIGNATURE),
        _ => false,
    };
    partial && whole.iter().enumerate().all(fits)
}

fn body(origin: &str, Checkpoint { size, root }: Checkpoint) -> String {
    format!("{origin}\n{size}\n{root}\n")
}

impl Signature {
    fn parse(line: &str) -> Option<Self> {
        let (name, encoded) = line.strip_prefix(DASH)?.split_once(' ')?;
        let decoded = base64(encoded)?;
        let (key, bytes) = decoded.split_first_chunk()?;
        is_name(name).then(|| Self { name: name.to_owned(), key: *key, bytes: bytes.to_owned() })
    }
}

/// Standard base64 in its one spelling.
fn base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok().filter(|bytes| !bytes.is_empty())
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.contains(|char: char| char.is_whitespace() || char.is_control() || char == '+')
}

/// What a trail's checkpoints are signed with.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    verifier: Verifier,
}

impl SigningKey {
    /// `seed` is all there is to an Ed25519 key.
    pub fn new(origin: &str, seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("a seed is any 32 bytes");
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Self { pair, verifier: Verifier::new(origin.to_owned(), public) }
    }

    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    pub fn sign(&self, checkpoint: Checkpoint) -> Note {
        let Verifier { name, number, .. } = &self.verifier;
        let bytes = self.pair.sign(body(name, checkpoint).as_bytes()).as_ref().to_owned();
        let signature = Signature { name: name.clone(), key: *number, bytes };
        Note { origin: name.clone(), checkpoint, signatures: vec![signature] }
    }
}

/// Who signs: what is called a verifier key, `NAME+NUMBER+base64`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verifier {
    name: String,
    number: [u8; 4],
    public: [u8; 32],
}

impl Verifier {
    fn new(name: String, public: [u8; 32]) -> Self {
        let Hash([a, b, c, d, ..]) = Hash::of(&[name.as_bytes(), b"\n", &[ED25519_KIND], &public]);
        Self { name, number: [a, b, c, d], public }
    }

    /// The origin of its checkpoints.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The checkpoint of a note that this key has signed. What other keys have signed besides is not looked at.
    ///
    /// # Errors
    /// When the note is of another origin, or this key has not signed it.
    pub fn open(&self, note: &Note) -> Result<Checkpoint, NotSigned> {
        if note.origin != self.name {
            return Err(NotSigned::Origin { found: note.origin.clone(), expected: self.name.clone() });
        }
        let mut own = note.signatures.iter().filter(|each| each.name == self.name && each.key == self.number);
        let signature = own.next().ok_or(NotSigned::Key)?;
        if own.next().is_some() {
            return Err(NotSigned::Signature);
        }
        let key = UnparsedPublicKey::new(&ED25519, &self.public);
        key.verify(note.text().as_bytes(), &signature.bytes).map_err(|_| NotSigned::Signature)?;
        Ok(note.checkpoint)
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[ED25519_KIND], self.public.as_slice()].concat();
        write!(f, "{}+{:08x}+{}", self.name, u32::from_be_bytes(self.number), STANDARD.encode(key))
    }
}

impl FromStr for Verifier {
    type Err = NotVerifier;

    fn from_str(text: &str) -> Result<Self, NotVerifier> {
        let (name, rest) = text.split_once('+').ok_or(NotVerifier)?;
        let (_, encoded) = rest.split_once('+').ok_or(NotVerifier)?;
        let bytes = base64(encoded).ok_or(NotVerifier)?;
        let public = bytes.strip_prefix(&[ED25519_KIND]).ok_or(NotVerifier)?;
        let public = <[u8; 32]>::try_from(public).map_err(|_| NotVerifier)?;
        let verifier = Self::new(name.to_owned(), public);
        // The number is a checksum of the rest.
        (is_name(name) && verifier.to_string() == text).then_some(verifier).ok_or(NotVerifier)
    }
}

/// What is no signed checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: this is not a signed checkpoint")]
pub struct NotNote {
    pub line: usize,
}

/// What is no verifier key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this is not a verifier key: NAME+NUMBER+KEY, of Ed25519")]
pub struct NotVerifier;

/// Why a note does not count.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotSigned {
    #[error("it is of {found}, not of {expected}")]
    Origin { found: String, expected: String },
    #[error("the trail's key has not signed it")]
    Key,
    #[error("its signature is wrong")]
    Signature,
}

const BASE64_OF_HASH: usize = 44;

/// With the key's number.
const BASE64_OF_SIGNATURE: usize = 92;

/// An em dash and a space begin a signature's line.
pub const DASH: &str = "\u{2014} ";

/// Ed25519 among the kinds of signatures.
const ED25519_KIND: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::new("countersign/test", &[7; 32])
    }

    fn note() -> String {
        key().sign(Checkpoint { size: 3, root: Hash::of_leaf(b"a") }).to_string()
    }

    fn open(text: &str) -> Result<Checkpoint, NotSigned> {
        let notes = Note::parse_all(text).map_err(|_| NotSigned::Signature)?;
        key().verifier().open(&notes[0])
    }

    #[test]
    fn a_checkpoint_is_opened_as_it_was_signed() {
        let checkpoint = Checkpoint { size: 3, root: Hash::of_leaf(b"a") };
        let text = note();
        assert!(text.starts_with("countersign/test\n3\n"), "{text}");
        assert_eq!(open(&text), Ok(checkpoint));
        let two = format!("{text}\n{text}{text}");
        let notes = Note::parse_all(&two).expect("three notes");
        assert_eq!(notes.len(), 3);
        assert!(notes.iter().all(|note| note.to_string() == text));
    }

    #[test]
    fn no_byte_of_a_checkpoint_can_be_another() {
        let text = note().into_bytes();
        for at in 0..text.len() {
            for change in [1, 2, 4, 8, 16, 32, 64, 128] {
                let mut changed = text.clone();
                changed[at] ^= change;
                let opened = String::from_utf8(changed).map_or(Err(NotSigned::Signature), |text| open(&text));
                assert!(opened.is_err(), "byte {at} changed by {change}");
            }
            let cut = std::str::from_utf8(&text[..at]).unwrap_or_default();
            assert!(cut.is_empty() || Note::parse_all(cut).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn another_key_of_the_same_name_has_not_signed() {
        let other = SigningKey::new("countersign/test", &[8; 32]);
        let note = other.sign(Checkpoint { size: 1, root: Hash::of_nothing() });
        assert_eq!(key().verifier().open(&note), Err(NotSigned::Key));
        let foreign = SigningKey::new("countersign/other", &[7; 32]).sign(note.unverified());
        assert!(matches!(key().verifier().open(&foreign), Err(NotSigned::Origin { .. })));
    }

    #[test]
    fn a_verifier_key_is_read_as_it_is_written() {
        let text = key().verifier().to_string();
        assert_eq!(&text.parse::<Verifier>().expect("a key"), key().verifier());
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 1;
            let changed = String::from_utf8(changed).expect("still ASCII");
            assert!(changed.parse::<Verifier>().is_err(), "{changed}");
        }
        assert!("".parse::<Verifier>().is_err());
        assert!("a+b".parse::<Verifier>().is_err());
    }

    #[test]
    fn numbers_have_one_spelling() {
        for size in ["03", "+3", "-3", "3 ", ""] {
            assert!(Note::parse_all(&note().replacen("\n3\n", &format!("\n{size}\n"), 1)).is_err(), "{size:?}");
        }
    }
}
