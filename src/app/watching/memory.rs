//! What was usual, kept over restarts: a sealed record for each token.
//!
//! ```text
//!  each second  a few tokens that changed and were not kept for a minute ─▶ sealed state
//!  at the end   all that changed
//! ```

use std::sync::Arc;
use std::time::Duration;

use super::Watching;
use crate::app::house::House;
use crate::audit::{Event, Recorder};
use crate::detect::Engine;
use crate::seal::Label;
use crate::store::{Record, Refused, Store, StoreError};

/// As the store knows it.
const KIND: &str = "baseline";

/// How often a token's record is written at most, in seconds.
const BETWEEN: u64 = 60;

/// Tokens that are written in one go. A turn of the runtime copies so many.
const AT_ONCE: usize = 64;

/// A token that nobody has used for so long is not known any more.
const FORGOTTEN: Duration = Duration::from_secs(400 * 86_400);

/// How long the end waits for the disk.
const WITHIN: Duration = Duration::from_secs(5);

/// Takes up what was kept. What cannot be used is said, and moved aside when another takes its place. Blocks.
pub(super) fn open(store: &Store, recorder: &Recorder, now: Duration) -> Result<Engine, StoreError> {
    let refuse = |refused: Refused| {
        let (file, reason) = (refused.path.display().to_string(), refused.why.to_string());
        tracing::warn!(file, reason, "what was usual of a token is not known: it is learned again");
        recorder.note(Event::StateRejected { file, reason });
    };
    let mut engine = Engine::default();
    let (records, refused) = store.read(KIND)?;
    refused.into_iter().for_each(refuse);
    for Record { name, content, .. } in records {
        let label = Label { kind: KIND, name: &name };
        match engine.restore(&name, &content) {
            Some(last) if now.saturating_sub(FORGOTTEN).as_secs() > last => store.remove(label)?,
            Some(_) => {}
            None => refuse(store.refuse(label)),
        }
    }
    Ok(engine)
}

impl Watching {
    /// Writes what has changed: what is due, or all. What cannot be written is said, and tried again.
    async fn keep(&self, all: bool) {
        let between = if all { 0 } else { BETWEEN };
        loop {
            let pages = self.lock().engine.pages(between, AT_ONCE);
            let is_last = !all || pages.len() < AT_ONCE;
            if !pages.is_empty() {
                self.write(pages).await;
            }
            if is_last {
                return;
            }
        }
    }

    async fn write(&self, pages: Vec<(String, Vec<u8>)>) {
        let names: Vec<String> = pages.iter().map(|(name, _)| name.clone()).collect();
        let record = |(name, content): (String, Vec<u8>)| Record { name, generation: 1, content: content.into() };
        let (store, records): (Arc<Store>, Vec<Record>) = (self.store.clone(), pages.into_iter().map(record).collect());
        let written = tokio::task::spawn_blocking(move || store.write_all(KIND, &records)).await;
        let error = match written {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(error, "what is usual of tokens could not be kept: a restart would learn it again");
        self.lock().engine.not_kept(names.into_iter());
    }
}

impl House {
    /// Keeps what is usual, for ever.
    pub(in crate::app) async fn keep_baselines(&self) {
        let mut tick = tokio::time::interval(super::LOOK);
        loop {
            tick.tick().await;
            self.ground.watching.keep(false).await;
        }
    }

    /// Requests have ended: keeps the rest.
    pub(in crate::app) async fn keep_last_baselines(&self) {
        if tokio::time::timeout(WITHIN, self.ground.watching.keep(true)).await.is_err() {
            tracing::warn!("the disk is slow: what was usual of tokens in the last minute may be lost");
        }
    }
}
