//! Phantom keys: what an app sends where its SDK wants an API key. It opens this proxy for one client and is worth nothing
//! anywhere else.
//!
//! ```text
//!  file of a client's key ─▶ keyed digest ─▶ Keys ◀─ keyed digest ◀─ each run of key characters in a request's head
//! ```
//!
//! Invariant: the plain text is not kept, and what was sent is compared by its keyed digest, in constant time. The key of that
//! digest outlives a configuration: a tunnel remembers the digest that it was opened with.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{ClientIndex, Settings};
use crate::name::ClientName;
use crate::secret::{Fingerprinter, Mark, Reference, ResolveError, Secret};

/// As many characters as 128 bits take in hexadecimal.
pub const SHORTEST: usize = 32;

/// An app's variables and headers take more; nobody needs it.
pub const LONGEST: usize = 512;

/// What repeats itself is no key: of 32 random digits hardly ever fewer are different.
const DIFFERENT: usize = 8;

/// The phantom keys of a configuration's clients. Their files may be replaced meanwhile.
pub struct Keys {
    fingerprinter: Arc<Fingerprinter>,
    sources: Vec<Source>,
    known: ArcSwap<Known>,
}

type Source = (ClientIndex, ClientName, Reference);

/// What is kept of a key.
#[derive(Clone, Copy)]
struct Key {
    mark: Mark,
    length: usize,
}

/// The keys as they are now.
#[derive(Default)]
struct Known {
    clients: HashMap<u64, (Key, ClientIndex)>,
    /// Nothing of another length is worth a digest.
    lengths: Vec<usize>,
}

/// Why a client's key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read the key of client {0}: {1}")]
    Unreadable(ClientName, ResolveError),
    #[error(
        "the key of client {0} is no phantom key: {SHORTEST} to {LONGEST} random letters, digits, `-`, `.`, `_` and `~`, such as `countersign clients key {0}` makes"
    )]
    Unfit(ClientName),
    #[error("the clients {0} and {1} have the same key: make each its own with `countersign clients key NAME`")]
    Same(ClientName, ClientName),
}

impl Keys {
    /// Reads the keys of these clients; `None` where no client has one. Blocks for as long as small local files take.
    ///
    /// # Errors
    /// When one of them cannot be read or used.
    pub fn read(clients: &[Settings], fingerprinter: &Arc<Fingerprinter>) -> Result<Option<Self>, KeyError> {
        let source =
            |(at, client): (usize, &Settings)| Some((ClientIndex(at), client.name.clone(), client.key.clone()?));
        let sources: Vec<_> = clients.iter().enumerate().filter_map(source).collect();
        if sources.is_empty() {
            return Ok(None);
        }
        let known = Known::read(&sources, fingerprinter)?;
        Ok(Some(Self { fingerprinter: fingerprinter.clone(), sources, known: ArcSwap::from_pointee(known) }))
    }

    /// Reads the files again, and tells which of them cannot be used: their clients' keys go on as they were. Blocks as
    /// [`Keys::read`] does.
    pub fn read_again(&self) -> Vec<KeyError> {
        let (known, errors) = self.known.load().again(&self.sources, &self.fingerprinter);
        self.known.store(Arc::new(known));
        errors
    }

    /// Whose key this is.
    pub fn client(&self, mark: &Mark) -> Option<ClientIndex> {
        self.known.load().client(mark)
    }

    /// Shows each key in a text to `found`, until it has seen enough: a key is a run of key characters between others.
    pub fn find<B>(&self, text: &[u8], mut found: impl FnMut(Mark, ClientIndex) -> ControlFlow<B>) -> ControlFlow<B> {
        let known = self.known.load();
        let runs = text.split(|byte| !is_key_character(*byte)).filter(|run| known.lengths.contains(&run.len()));
        for run in runs {
            let mark = self.fingerprinter.mark_of_sent(run);
            if let Some(client) = known.client(&mark) {
                found(mark, client)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Whether there is a key in a text.
    pub fn is_in(&self, text: &[u8]) -> bool {
        self.find(text, |_, _| ControlFlow::Break(())).is_break()
    }
}

impl Known {
    fn read(sources: &[Source], fingerprinter: &Fingerprinter) -> Result<Self, KeyError> {
        let (known, errors) = Self::default().again(sources, fingerprinter);
        errors.into_iter().next().map_or(Ok(known), Err)
    }

    /// What is known when the files are read again: of those that cannot be used, what was known before.
    fn again(&self, sources: &[Source], fingerprinter: &Fingerprinter) -> (Self, Vec<KeyError>) {
        let mut read: Vec<Result<Key, KeyError>> =
            sources.iter().map(|source| Key::read(source, fingerprinter)).collect();
        let known = loop {
            let mut known = Self::default();
            let mut same = None;
            for (at, (index, ..)) in sources.iter().enumerate() {
                let key = read[at].as_ref().ok().copied().or_else(|| self.of(*index));
                let Some(key) = key else { continue };
                if let Some((_, other)) = known.clients.insert(key.mark.prefix(), (key, *index)) {
                    same = sources.iter().position(|(index, ..)| *index == other).map(|other| (other, at));
                    break;
                }
            }
            // Whose key it is cannot be told: both keep what they had.
            match same {
                Some(pair) => Self::part(pair, sources, &mut read),
                None => break known,
            }
        };
        let mut lengths: Vec<usize> = known.clients.values().map(|(key, _)| key.length).collect();
        lengths.sort_unstable();
        lengths.dedup();
        (Self { lengths, ..known }, read.into_iter().filter_map(Result::err).collect())
    }

    /// Two clients have read the same key, or one has read the other's.
    fn part((one, other): (usize, usize), sources: &[Source], read: &mut [Result<Key, KeyError>]) {
        for at in [one, other] {
            if read[at].is_ok() {
                read[at] = Err(KeyError::Same(sources[one].1.clone(), sources[other].1.clone()));
            }
        }
    }

    fn of(&self, client: ClientIndex) -> Option<Key> {
        self.clients.values().find(|(_, own)| *own == client).map(|(key, _)| *key)
    }

    fn client(&self, mark: &Mark) -> Option<ClientIndex> {
        let (known, client) = self.clients.get(&mark.prefix())?;
        known.mark.is_same(mark).then_some(*client)
    }
}

impl Key {
    fn read((_, name, reference): &Source, fingerprinter: &Fingerprinter) -> Result<Self, KeyError> {
        let key = reference.resolve().map_err(|error| KeyError::Unreadable(name.clone(), error))?;
        let is_fit = is_fit(&key);
        is_fit.then(|| Self { mark: fingerprinter.mark(&key), length: key.len() }).ok_or(KeyError::Unfit(name.clone()))
    }
}

fn is_fit(key: &Secret) -> bool {
    (SHORTEST..=LONGEST).contains(&key.len()) && key.is_made_of(is_key_character, DIFFERENT)
}

/// What needs no encoding anywhere (RFC 3986, section 2.3): so a key looks the same in every place.
pub fn is_key_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const ONE: &str = "sk-0123456789abcdefghijklmnopqrstuvwxyzABC";
    const OTHER: &str = "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";

    fn clients(folder: &Path, keys: &[&str]) -> Vec<Settings> {
        let client = |(at, key): (usize, &&str)| {
            let path = folder.join(at.to_string());
            std::fs::write(&path, key).expect("written");
            let name = format!("client{at}").parse().expect("a name");
            Settings { key: Some(Reference::File(path)), ..Settings::named(name) }
        };
        keys.iter().enumerate().map(client).collect()
    }

    fn read(clients: &[Settings]) -> Result<Option<Keys>, KeyError> {
        Keys::read(clients, &Arc::new(Fingerprinter::new(&[7; 32])))
    }

    fn found(keys: &Keys, text: &str) -> Vec<usize> {
        let mut all = Vec::new();
        let all_seen = keys.find(text.as_bytes(), |_, client| {
            all.push(client.as_usize());
            ControlFlow::<()>::Continue(())
        });
        assert!(all_seen.is_continue());
        all
    }

    #[test]
    fn a_key_is_found_between_whatever_is_no_part_of_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = read(&clients(folder.path(), &[ONE, OTHER])).expect("keys").expect("some");
        for text in [
            ONE.to_owned(),
            format!("Bearer {ONE}"),
            format!("user:{ONE}"),
            format!("a=1&k={ONE}&b"),
            format!("\"{ONE}\""),
        ] {
            assert_eq!(found(&keys, &text), [0], "{text}");
        }
        assert_eq!(found(&keys, &format!("{OTHER}/{ONE}")), [1, 0]);
        for text in ["", "Bearer", &ONE[1..], &format!("x{ONE}"), &ONE.to_uppercase(), &ONE.replace('A', "B")] {
            assert_eq!(found(&keys, text), [] as [usize; 0], "{text}");
        }
    }

    #[test]
    fn a_file_that_is_replaced_is_read_again_and_a_bad_one_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = read(&clients(folder.path(), &[ONE])).expect("keys").expect("some");
        std::fs::write(folder.path().join("0"), OTHER).expect("written");
        assert!(keys.is_in(ONE.as_bytes()) && !keys.is_in(OTHER.as_bytes()));
        assert!(keys.read_again().is_empty());
        assert!(!keys.is_in(ONE.as_bytes()) && keys.is_in(OTHER.as_bytes()));
        std::fs::write(folder.path().join("0"), "short").expect("written");
        assert!(matches!(keys.read_again()[..], [KeyError::Unfit(_)]));
        assert!(keys.is_in(OTHER.as_bytes()));
    }

    #[test]
    fn what_is_wrong_with_one_clients_file_keeps_nobody_elses_key() {
        const NEXT: &str = "xoxb-9876543210zyxwvutsrqponmlkjihgfedcba";
        let folder = tempfile::tempdir().expect("a folder");
        let write = |client: &str, text: &str| std::fs::write(folder.path().join(client), text).expect("written");
        let keys = read(&clients(folder.path(), &[ONE, OTHER])).expect("keys").expect("some");
        let owners = |keys: &Keys| [ONE, OTHER, NEXT].map(|key| found(keys, key));
        std::fs::remove_file(folder.path().join("0")).expect("removed");
        write("1", NEXT);
        assert!(matches!(keys.read_again()[..], [KeyError::Unreadable(..)]));
        assert_eq!(owners(&keys), [vec![0], vec![], vec![1]]);
        // Two have the same for a moment: whose it is stays as it was.
        write("0", NEXT);
        assert!(matches!(keys.read_again()[..], [KeyError::Same(..), KeyError::Same(..)]));
        assert_eq!(owners(&keys), [vec![0], vec![], vec![1]]);
        write("1", "short");
        assert!(matches!(keys.read_again()[..], [KeyError::Same(..), KeyError::Unfit(_)]));
        assert_eq!(owners(&keys), [vec![0], vec![], vec![1]]);
        write("1", OTHER);
        assert!(keys.read_again().is_empty());
        assert_eq!(owners(&keys), [vec![], vec![1], vec![0]]);
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        for bad in ["hunter2", &"a".repeat(64), &format!("{ONE}="), &format!("{ONE} "), &"0123456789".repeat(52)] {
            let error = read(&clients(folder.path(), &[bad])).err().expect("no key").to_string();
            assert!(error.contains("client0") && error.contains("clients key") && !error.contains(bad), "{error}");
        }
        let error = read(&clients(folder.path(), &[ONE, ONE])).err().expect("the same").to_string();
        assert!(error.contains("client0") && error.contains("client1") && !error.contains(ONE), "{error}");
        let missing =
            Settings { key: Some(Reference::File("/nowhere/key".into())), ..Settings::named(ClientName::implicit()) };
        assert!(matches!(read(&[missing]), Err(KeyError::Unreadable(..))));
        assert!(matches!(read(&[]), Ok(None)));
    }
}
