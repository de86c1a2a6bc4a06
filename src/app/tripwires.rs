//! What phantom keys tell: where one was seen that cannot be there, and that their files were replaced.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::house::House;
use crate::audit::Event;
use crate::proxy::Tripped;
use crate::tasks::{Task, Tasks};

/// Tripped wires of one kind become one record each in such a time.
const SUMS: Duration = Duration::from_millis(200);

/// Tells the trail of each at once, and of more of its kind as a sum.
pub(super) fn watch(tasks: &Tasks, house: Arc<House>) -> Task {
    tasks.essential("tripwires", async move {
        loop {
            house.ground.tripwires.arrived().await;
            house.record_tripwires();
            sleep(SUMS).await;
        }
    })
}

impl House {
    pub(super) fn record_tripwires(&self) {
        for (tripped, count) in self.ground.tripwires.take() {
            let Tripped { cause, key, sent_by, uid, route, token } = tripped;
            let cause = cause.as_str();
            let from = sent_by.as_ref().map_or("", |client| client.as_str());
            tracing::warn!(client = %key, cause, from, uid, count, "a phantom key was seen where it cannot be");
            self.ground.watching.tripped(sent_by.as_ref(), token.as_ref());
            self.ground.recorder.note(Event::Tripwire { client: key, cause, sent_by, uid, route, token, count });
        }
    }

    /// Takes phantom keys whose files were replaced. What cannot be read changes nothing, and is said once.
    pub(super) fn read_keys(&self) {
        let tables = self.tables();
        let table = tables.load();
        let Some(keys) = table.clients.keys() else { return };
        let said = keys.read_again().err().map(|error| error.to_string());
        let mut last = self.key_trouble();
        if let Some(error) = said.as_ref().filter(|said| last.as_ref() != Some(*said)) {
            tracing::error!(error, "a phantom key cannot be read again: the one before it goes on");
        }
        *last = said;
    }
}
