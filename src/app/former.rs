//! Sources that granted requests still need and the config does not have any more: an edit is a new request, and until that is decided
//! the old grant lives, over a restart too.
//!
//! ```text
//!  in force ─▶ the config's text, sealed, for as long as a grant needs a source of it
//!  start    ─▶ its sources, read as they were then ─▶ those that granted requests name
//! ```
//!
//! Invariant: a source of before serves the requests that were granted for it, which name it by its hash, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::force::{KnownSource, Sources};
use super::keep::Keeping;
use crate::access::register::Register;
use crate::admin::NotDone;
use crate::audit::{Event, Recorder};
use crate::config::Config;
use crate::store::{Record, Store, StoreError};
use crate::token::Settings;

/// As the store knows it: one record for each config, under its digest.
const KIND: &str = "config";

/// Configs that are kept beside the one in force.
const MOST: usize = 16;

/// The hashes of a config's sources.
type Hashes = BTreeSet<String>;

pub(super) struct Former {
    keeping: Keeping,
    /// By their digests.
    kept: Mutex<BTreeMap<String, Hashes>>,
}

impl Former {
    /// Takes up what was kept, with the sources of before. A text that this version reads otherwise has none. Blocks.
    ///
    /// # Errors
    /// When the folder of the records cannot be read.
    pub fn open(store: Arc<Store>, config: &Config, recorder: &Recorder) -> Result<(Self, Sources), StoreError> {
        let (records, refused) = store.read(KIND)?;
        for refused in refused {
            let (file, reason) = (refused.path.display().to_string(), refused.why.to_string());
            tracing::warn!(file, reason, "a config of before is not used: tokens that were granted by it may wait");
            recorder.note(Event::StateRejected { file, reason });
        }
        let (mut kept, mut sources) = (BTreeMap::new(), Sources::new());
        for Record { name, content, .. } in records {
            let before = serde_json::from_slice::<String>(&content).ok().filter(|_| name != config.digest);
            let before = before.and_then(|text| config.read_again(&text).ok());
            for token in before.iter().flat_map(|before| &before.tokens) {
                if let Some(terms) = before.as_ref().and_then(|before| before.terms.get(&token.name)) {
                    for (reference, source) in KnownSource::all_of(token, terms) {
                        sources.entry(reference).or_insert(source);
                    }
                }
            }
            kept.insert(name, before.as_ref().map(hashes).unwrap_or_default());
        }
        Ok((Self { keeping: Keeping::new(store, KIND), kept: Mutex::new(kept) }, sources))
    }

    /// Keeps what is in force now, and of what was before what a grant still needs. What the disk does not take is said: after a
    /// restart an edited token would wait.
    pub async fn remember(&self, config: &Config, register: &Register) {
        let own = hashes(config);
        let needed: Hashes = config.tokens.iter().flat_map(|token| granted(register, token)).collect();
        let (is_new, gone): (bool, Vec<String>) = {
            let mut kept = self.kept();
            let is_new = kept.insert(config.digest.clone(), own.clone()).is_none();
            let serves =
                |sources: &Hashes| sources.iter().any(|source| needed.contains(source) && !own.contains(source));
            let mut stay = 0;
            let gone = kept.extract_if(.., |digest, sources| {
                let stays = *digest == config.digest || (serves(sources) && stay < MOST);
                stay += usize::from(stays);
                !stays
            });
            (is_new, gone.map(|(digest, _)| digest).collect())
        };
        if let Err(error) = self.write(config, is_new, &gone).await {
            // The next one tries again, and the next start takes away what is left.
            self.kept().remove(&config.digest);
            tracing::warn!(%error, "the config is not kept: after a restart a token whose source is edited meanwhile waits");
        }
    }

    async fn write(&self, config: &Config, is_new: bool, gone: &[String]) -> Result<(), NotDone> {
        if is_new {
            self.keeping.keep(&config.digest, Some(&config.text())).await?;
        }
        for digest in gone {
            self.keeping.keep(digest, None::<&String>).await?;
        }
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Hashes>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hashes(config: &Config) -> Hashes {
    config.terms.values().flat_map(|terms| std::iter::once(&terms.source).chain(&terms.next_source)).cloned().collect()
}

/// The sources that a token's grants name.
fn granted(register: &Register, token: &Settings) -> Vec<String> {
    let entitlement = register.entitlement(&token.name);
    let grants = entitlement.standing.into_iter().chain(entitlement.submitted);
    grants.flat_map(|case| case.request.sources()).map(|source| source.settings.clone()).collect()
}
