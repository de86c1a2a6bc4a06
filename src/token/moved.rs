//! Which tokens have moved to their next source, sealed on the disk: after a restart they are there still.
//!
//! Invariant: a record is of one pair of sources. Where the config names others, nothing has been moved.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::name::TokenName;
use crate::seal::Label;
use crate::store::{Record, Refused, Store, StoreError};
use crate::tasks::{Tasks, Unfinished};

/// What the records of this are called in the store.
const KIND: &str = "moved";

/// The moves of all tokens.
pub struct Moves {
    store: Arc<Store>,
    tasks: Tasks,
    kept: Mutex<BTreeMap<TokenName, Pair>>,
    /// Held while the disk is made to say what `kept` does.
    writing: Mutex<()>,
}

/// From which source to which; both are hashes of what the config says of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Pair {
    from: String,
    to: String,
}

/// The move of one token.
#[derive(Clone)]
pub struct Moved {
    moves: Arc<Moves>,
    token: TokenName,
    pair: Pair,
}

impl Moves {
    /// What was moved before, and records that cannot be trusted: their tokens begin with their own source. Blocks.
    ///
    /// # Errors
    /// When the folder of the records cannot be read.
    pub fn open(store: Arc<Store>, tasks: Tasks) -> Result<(Arc<Self>, Vec<Refused>), StoreError> {
        let (records, mut refused) = store.read(KIND)?;
        let mut kept = BTreeMap::new();
        for Record { name, content, .. } in records {
            match (name.parse::<TokenName>(), serde_json::from_slice::<Pair>(&content)) {
                (Ok(token), Ok(pair)) => drop(kept.insert(token, pair)),
                (Ok(_), Err(_)) | (Err(_), _) => refused.push(store.refuse(Label { kind: KIND, name: &name })),
            }
        }
        let moves = Self { store, tasks, kept: Mutex::new(kept), writing: Mutex::default() };
        Ok((Arc::new(moves), refused))
    }

    /// Of a token, from one source to another.
    pub fn of(self: &Arc<Self>, token: &TokenName, from: String, to: String) -> Moved {
        Moved { moves: self.clone(), token: token.clone(), pair: Pair { from, to } }
    }

    /// Nothing of this token has been moved. Returns at once; the disk has it soon.
    pub fn forget(self: &Arc<Self>, token: &TokenName) {
        if self.kept().remove(token).is_some() {
            self.write(token);
        }
    }

    fn write(self: &Arc<Self>, token: &TokenName) {
        let (moves, token, unfinished) = (self.clone(), token.clone(), self.tasks.unfinished());
        // It ends by itself, and the end of the process waits for it.
        drop(tokio::task::spawn_blocking(move || moves.have_it_written(&token, unfinished)));
    }

    /// The last word is what `kept` says, in whatever order the disk comes to it.
    fn have_it_written(&self, token: &TokenName, _unfinished: Unfinished) {
        let _turn = lock(&self.writing);
        let pair = self.kept().get(token).cloned();
        let label = Label { kind: KIND, name: token.as_str() };
        let written = match pair.map(|pair| serde_json::to_vec(&pair)) {
            Some(Ok(content)) => self.store.write(label, 1, &content),
            Some(Err(_)) | None => self.store.remove(label),
        };
        if let Err(error) = written {
            tracing::error!(%token, %error, "the disk does not know which source the token has: after a restart it may be the other");
        }
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<TokenName, Pair>> {
        lock(&self.kept)
    }
}

impl Moved {
    /// Whether it has been made.
    pub(super) fn is_kept(&self) -> bool {
        self.moves.kept().get(&self.token) == Some(&self.pair)
    }

    pub(super) fn keep(&self) {
        let before = self.moves.kept().insert(self.token.clone(), self.pair.clone());
        if before.as_ref() != Some(&self.pair) {
            self.moves.write(&self.token);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
