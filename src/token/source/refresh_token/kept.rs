//! What lies sealed on the disk of a refresh token, one record a token, and the lock that one process at a time holds over it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::state;
use crate::clock::Moment;
use crate::name::TokenName;
use crate::seal::Label;
use crate::store::{Lock, Store};
use crate::token::source::Failure;

const KIND: &str = "refresh";

/// Records have one of few lengths: the disk that takes an intent takes what follows it.
const BLOCK: usize = 4096;

/// Where a source keeps what must outlive a restart.
#[derive(Clone)]
pub struct Keep {
    pub store: Arc<Store>,
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

pub(super) struct Place(Keep);

impl Place {
    pub(super) fn new(keep: Keep) -> Self {
        Self(keep)
    }

    /// Another run of this token, such as one that a reload puts in the place of this one, does not ask meanwhile.
    pub(super) async fn lock(&self) -> Result<Lock, Failure> {
        let Keep { store, token } = self.0.clone();
        let locking = move || store.lock(Label { kind: KIND, name: token.as_str() });
        match tokio::task::spawn_blocking(locking).await {
            Ok(Ok(Some(lock))) => Ok(lock),
            Ok(Ok(None)) => Err(state("the refresh token is being shown to its issuer by another source or process")),
            Ok(Err(error)) => Err(state(error.to_string())),
            Err(error) => Err(state(error.to_string())),
        }
    }

    /// A record that cannot be trusted is none: it is left for somebody to look at.
    pub(super) async fn read(&self) -> Result<Option<Kept>, Failure> {
        let Keep { store, token } = self.0.clone();
        let read =
            tokio::task::spawn_blocking(move || store.read(KIND)).await.map_err(|error| state(error.to_string()))?;
        let (records, refused) = read.map_err(|error| state(error.to_string()))?;
        for file in refused {
            tracing::error!(file = %file.path.display(), why = %file.why, "a refresh token is not used: the record of it cannot be trusted");
        }
        let record = records.into_iter().find(|record| record.name == token.as_str());
        let Some(written) = record.and_then(|record| serde_json::from_slice::<Written>(&record.content).ok()) else {
            return Ok(None);
        };
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
        let Keep { store, token } = self.0.clone();
        let writing = move || store.write(Label { kind: KIND, name: token.as_str() }, 1, &content);
        match tokio::task::spawn_blocking(writing).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(state(error.to_string())),
            Err(error) => Err(state(error.to_string())),
        }
    }
}
