//! What lies on the disk is sealed: AES-256-GCM, under a key of this installation.
//!
//! ```text
//! "CSEAL1\n\0" │ generation, 8 bytes │ nonce, 12 bytes │ ciphertext and tag
//! ```
//!
//! Invariant: what was sealed opens only as what it was: the same form, kind, name and generation, of the same
//! installation. A whole folder that is put back to an older copy is not noticed by this; the trail's checkpoints, kept
//! elsewhere, show it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

use crate::secret::Secret;

const FORM: &[u8; 8] = b"CSEAL1\n\0";
const HEADER: usize = FORM.len() + 8 + 12;

/// A random number that the records of one installation share, kept beside them.
pub type Instance = [u8; 16];

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label<'a> {
    pub kind: &'a str,
    pub name: &'a str,
}

pub struct Sealer {
    key: RandomizedNonceKey,
    instance: Instance,
}

/// Why something does not open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Broken {
    #[error("it is not of the form that this version writes, or its end is missing")]
    Form,
    #[error(
        "it was edited, is another record under this name, or was sealed by another installation or with another key"
    )]
    Seal,
}

impl Sealer {
    /// # Panics
    /// Never: the key has the length that the cipher wants.
    pub fn new(key: &Secret, instance: Instance) -> Self {
        let key = key.derive_key(b"countersign state 1");
        let key = RandomizedNonceKey::new(&AES_256_GCM, &*key).expect("32 bytes are a key of AES-256");
        Self { key, instance }
    }

    /// # Panics
    /// When the operating system has no randomness to give, or the record has gigabytes.
    pub fn seal(&self, label: Label<'_>, generation: u64, content: &[u8]) -> Vec<u8> {
        let mut sealed = Zeroizing::new(content.to_vec());
        let nonce = self.key.seal_in_place_append_tag(self.aad(label, generation), &mut *sealed);
        let nonce = nonce.expect("there is randomness, and a record is small");
        [FORM.as_slice(), &generation.to_be_bytes(), nonce.as_ref(), &sealed].concat()
    }

    /// The content, and its generation.
    ///
    /// # Errors
    /// When it is not what was sealed under this label.
    pub fn open(&self, label: Label<'_>, sealed: &[u8]) -> Result<(Zeroizing<Vec<u8>>, u64), Broken> {
        let (header, body) = sealed.split_at_checked(HEADER).ok_or(Broken::Form)?;
        let rest = header.strip_prefix(FORM.as_slice()).ok_or(Broken::Form)?;
        let (generation, nonce) = rest.split_first_chunk::<8>().ok_or(Broken::Form)?;
        let generation = u64::from_be_bytes(*generation);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Broken::Form)?;
        let mut content = Zeroizing::new(body.to_vec());
        let opened = self.key.open_in_place(nonce, self.aad(label, generation), &mut content);
        let length = opened.map_err(|_| Broken::Seal)?.len();
        content.truncate(length);
        Ok((content, generation))
    }

    /// Each part with its length, so that no two labels make the same bytes.
    fn aad(&self, label: Label<'_>, generation: u64) -> Aad<Vec<u8>> {
        let mut bytes = FORM.to_vec();
        for part in [label.kind.as_bytes(), label.name.as_bytes(), &generation.to_be_bytes(), &self.instance] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        Aad::from(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(key: &str, instance: u8) -> Sealer {
        Sealer::new(&Secret::new(key), [instance; 16])
    }

    const LABEL: Label<'static> = Label { kind: "request", name: "ab" };

    #[test]
    fn what_was_sealed_opens_as_what_it_was_and_as_nothing_else() {
        let own = sealer("key", 1);
        let sealed = own.seal(LABEL, 7, b"content");
        let (content, generation) = own.open(LABEL, &sealed).expect("opens");
        assert_eq!((&**content, generation), (&b"content"[..], 7));
        assert!(!sealed.windows(7).any(|window| window == b"content"));
        assert_ne!(own.seal(LABEL, 7, b"content"), sealed, "never the same twice");
        let mut older = sealed.clone();
        older[15] = 6;
        let others = [
            own.open(Label { kind: "reques", name: "tab" }, &sealed),
            own.open(Label { name: "ac", ..LABEL }, &sealed),
            own.open(LABEL, &older),
            sealer("key", 2).open(LABEL, &sealed),
            sealer("other", 1).open(LABEL, &sealed),
        ];
        assert!(others.iter().all(|opened| opened.as_ref().err() == Some(&Broken::Seal)));
    }

    #[test]
    fn no_bit_of_it_can_be_changed_and_no_byte_be_missing() {
        let own = sealer("key", 1);
        let sealed = own.seal(LABEL, 1, b"content");
        for at in 0..sealed.len() * 8 {
            let mut edited = sealed.clone();
            edited[at / 8] ^= 1 << (at % 8);
            assert!(own.open(LABEL, &edited).is_err(), "bit {at}");
        }
        for length in 0..sealed.len() {
            assert!(own.open(LABEL, &sealed[..length]).is_err(), "{length} bytes");
        }
        assert!(own.open(LABEL, &[sealed, vec![0]].concat()).is_err());
    }
}
