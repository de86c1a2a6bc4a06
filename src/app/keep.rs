//! Records of the sealed state that say what may be done: they are there as long as anything is to be remembered.

use std::sync::Arc;

use serde::Serialize;

use crate::admin::NotDone;
use crate::metrics::Error as MetricsError;
use crate::seal::Label;
use crate::store::{Store, StoreError};

/// Why what was remembered cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Puts a record on the disk; with nothing to remember, takes it away.
///
/// # Errors
/// When the disk does not do it.
///
/// # Panics
/// If a record cannot be written as JSON: what it says must not be forgotten for that.
pub async fn keep(
    store: &Arc<Store>,
    kind: &'static str,
    name: &str,
    record: Option<&impl Serialize>,
) -> Result<(), NotDone> {
    let content = record.map(|record| serde_json::to_vec(record).expect("records are texts and numbers under names"));
    let (store, name) = (store.clone(), name.to_owned());
    let writing = tokio::task::spawn_blocking(move || {
        let label = Label { kind, name: &name };
        content.map_or_else(|| store.remove(label), |content| store.write(label, 1, &content))
    });
    let written = writing.await.map_err(|error| NotDone::Unkept(error.to_string()))?;
    written.map_err(|error| NotDone::Unkept(error.to_string()))
}
