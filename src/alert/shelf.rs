//! Alerts on the disk: a sealed record for each that is open, or not told to everybody.

use std::sync::Arc;

use super::board::{Board, Episode};
use super::{OpenError, Shared};
use crate::seal::Label;
use crate::store::{Record, Store, StoreError};

/// As the store knows them.
const KIND: &str = "alert";

/// What was open or not told before. What cannot be used is said, and begun anew. Blocks.
pub fn read(store: &Store) -> Result<Board, OpenError> {
    let (records, refused) = store.read(KIND)?;
    for refused in refused {
        let file = refused.path.display();
        tracing::warn!(%file, why = %refused.why, "an alert of before is not known: the record of it is not used");
    }
    Ok(Board::restore(records.into_iter().filter_map(|record| {
        let episode: Episode = serde_json::from_slice(&record.content).ok()?;
        (episode.id == record.name).then(|| episode.written_so_often(record.generation))
    })))
}

/// Writes what has changed; whether all of it is on the disk. Nothing waits for that.
pub async fn keep(shared: &Arc<Shared>) -> bool {
    let _one = shared.writing.lock().await;
    let (changed, gone) = shared.board().take_changes();
    if changed.is_empty() && gone.is_empty() {
        return true;
    }
    let own = shared.clone();
    let writing = tokio::task::spawn_blocking(move || {
        let outcome = write(&own.store, &changed, &gone);
        if let Err(error) = &outcome {
            tracing::error!(%error, "alerts are not kept: a restart would not know of them");
            own.board().give_back(&changed, gone);
        }
        outcome.is_ok()
    });
    writing.await.unwrap_or(false)
}

fn write(store: &Store, changed: &[Episode], gone: &[String]) -> Result<(), StoreError> {
    let record = |episode: &Episode| {
        let content = serde_json::to_vec(episode).ok()?;
        Some(Record { name: episode.id.clone(), generation: episode.written(), content: content.into() })
    };
    let records: Vec<Record> = changed.iter().filter_map(record).collect();
    store.write_all(KIND, &records)?;
    gone.iter().try_for_each(|name| store.remove(Label { kind: KIND, name }))
}
