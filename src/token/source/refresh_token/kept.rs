//! What lies sealed on the disk of a refresh token, one record a token, and the lock that one user of it at a time holds.
//!
//! Invariant: it is read and written under the lock alone, and the lock is held for as long as a write takes, whoever waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::state;
use crate::clock::Moment;
use crate::name::TokenName;
use crate::seal::Label;
use crate::store::{Lock, Store, StoreError};
use crate::tasks::Tasks;
use crate::token::source::Failure;

const KIND: &str = "refresh";

/// Records have one of few lengths: the disk that takes an intent takes what follows it.
const BLOCK: usize = 4096;

/// Where sources keep what must outlive a restart, and what outlives each of them.
pub struct Keeping {
    store: Arc<Store>,
    tasks: Tasks,
    /// What the disk did not take, of each token.
    unsaved: Mutex<BTreeMap<TokenName, Kept>>,
}

impl Keeping {
    /// What must not be cut short runs among `tasks`.
    pub fn new(store: Arc<Store>, tasks: Tasks) -> Self {
        Self { store, tasks, unsaved: Mutex::default() }
    }
}

/// The part of one token.
#[derive(Clone)]
pub struct Keep {
    pub keeping: Arc<Keeping>,
    pub token: TokenName,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// The sign-in that it comes from.
    pub seed: String,
    pub token: Zeroizing<String>,
    /// How often it was shown to the issuer without an answer: an intent without its end is one.
    pub lost: u8,
    /// When it was shown last, in seconds of the wall clock.
    pub shown_at: u64,
    /// The issuer has called it invalid.
    pub void: bool,
}

#[derive(Serialize, Deserialize)]
struct Written {
    seed: String,
    token: String,
    lost: u8,
    #[serde(default)]
    shown_at: u64,
    void: bool,
}

impl Kept {
    pub(super) fn signed_in(seed: String, token: Zeroizing<String>) -> Self {
        Self { seed, token, lost: 0, shown_at: 0, void: false }
    }

    /// It is shown now. Where the issuer gives the same one for good, a lost answer has lost nothing.
    pub(super) fn intent(&self, rotating: bool, now: Moment) -> Self {
        let lost = if rotating { self.lost.saturating_add(1) } else { 0 };
        Self { lost, shown_at: now.wall.as_secs(), ..self.clone() }
    }

    /// A clock that was set back makes nobody wait for it.
    pub(super) fn shown_ago(&self, now: Moment) -> Duration {
        Duration::from_secs(now.wall.as_secs().abs_diff(self.shown_at))
    }

    pub(super) fn followed_by(self, token: Zeroizing<String>) -> Self {
        Self { token, lost: 0, ..self }
    }

    /// It was answered, and stays.
    pub(super) fn kept_on(self) -> Self {
        Self { lost: 0, ..self }
    }

    pub(super) fn voided(self) -> Self {
        Self { void: true, ..self }
    }
}

impl Keep {
    pub(super) fn tasks(&self) -> &Tasks {
        &self.keeping.tasks
    }

    /// Another run of this token, such as one that a reload puts in the place of this one, does not ask meanwhile.
    pub(super) async fn lock(&self) -> Result<Held, Failure> {
        let keep = self.clone();
        let lock = blocking(move || keep.keeping.store.lock(keep.label())).await?;
        let elsewhere = || state("the refresh token is being shown to its issuer by another source or process");
        Ok(Held { lock: Arc::new(lock.ok_or_else(elsewhere)?), keep: self.clone() })
    }

    fn label(&self) -> Label<'_> {
        Label { kind: KIND, name: self.token.as_str() }
    }

    fn unsaved(&self) -> MutexGuard<'_, BTreeMap<TokenName, Kept>> {
        self.keeping.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The record, while nobody else uses it.
pub(super) struct Held {
    keep: Keep,
    lock: Arc<Lock>,
}

impl Held {
    /// The newest that is known, of whichever sign-in. A record that cannot be trusted may hold the refresh token that
    /// followed the sign-in's: nothing is shown in its place.
    pub(super) async fn read(&self) -> Result<Option<Kept>, Failure> {
        let unsaved = self.keep.unsaved().get(&self.keep.token).cloned();
        if let Some(kept) = unsaved {
            self.write(kept.clone()).await?;
            return Ok(Some(kept));
        }
        let keep = self.keep.clone();
        let read = blocking(move || match keep.keeping.store.read_one(keep.label()) {
            Ok(record) => Ok(Ok(record)),
            Err(error @ StoreError::File { .. }) => Ok(Err(untrusted(error.to_string()))),
            Err(error) => Err(error),
        });
        let Some(record) = read.await?? else { return Ok(None) };
        let written: Written = serde_json::from_slice(&record.content).map_err(|_| {
            let path = self.keep.keeping.store.path(self.keep.label());
            untrusted(format!("{} is not used: it does not hold what this version writes", path.display()))
        })?;
        let Written { seed, token, lost, shown_at, void } = written;
        Ok(Some(Kept { seed, token: Zeroizing::new(token), lost, shown_at, void }))
    }

    /// It is durable when this returns.
    pub(super) async fn write(&self, kept: Kept) -> Result<(), Failure> {
        let Kept { seed, token, lost, shown_at, void } = kept;
        let mut written = Written { seed, token: token.to_string(), lost, shown_at, void };
        // In one piece from the start: growing would leave copies behind.
        let room = (2 * written.token.len() + 512).next_multiple_of(BLOCK);
        let mut content = Zeroizing::new(Vec::with_capacity(room));
        let wrote = serde_json::to_writer(&mut *content, &written);
        written.token.zeroize();
        wrote.map_err(|error| state(error.to_string()))?;
        let length = content.len().next_multiple_of(BLOCK).min(content.capacity());
        content.resize(length, b' ');
        let (keep, lock) = (self.keep.clone(), self.lock.clone());
        blocking(move || {
            let _lock = lock;
            keep.keeping.store.write(keep.label(), 1, &content)?;
            // What the disk has now is newer.
            keep.unsaved().remove(&keep.token);
            Ok(())
        })
        .await
    }

    /// As [`Held::write`]; what the disk does not take is kept in memory, and written before the issuer is called again.
    pub(super) async fn settle(&self, kept: Kept) {
        if let Err(failure) = self.write(kept.clone()).await {
            tracing::error!(
                token = %self.keep.token,
                detail = failure.detail,
                "a refresh token is in memory only: it is lost if this process ends"
            );
            self.remember(kept);
        }
    }

    /// Has it written before the issuer is called again.
    pub(super) fn remember(&self, kept: Kept) {
        self.keep.unsaved().insert(self.keep.token.clone(), kept);
    }
}

fn untrusted(why: String) -> Failure {
    state(format!(
        "{why}. It may hold a newer refresh token than the sign-in gave, which is not shown in its place: put the file \
         right, or move it away and sign in again"
    ))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| state(error.to_string())),
        Err(error) => Err(state(error.to_string())),
    }
}
