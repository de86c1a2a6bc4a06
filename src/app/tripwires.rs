//! What phantom keys tell: where one was seen that cannot be there, and that their files were replaced.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, sleep};

use super::house::House;
use crate::audit::Event;
use crate::identity::Keys;
use crate::proxy::Tripped;
use crate::tasks::{Task, Tasks};

/// Tripped wires of one kind become one record each in such a time.
const SUMS: Duration = Duration::from_millis(200);

/// How often the files of keys are looked at.
const KEYS: Duration = Duration::from_secs(1);

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

/// Looks at the files of phantom keys, for ever.
pub(super) fn read_keys(tasks: &Tasks, house: Arc<House>) -> Task {
    tasks.essential("keys", async move {
        let mut tick = tokio::time::interval(KEYS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            house.read_keys().await;
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

    /// Takes phantom keys whose files were replaced. One that cannot be read stays as it is, and is said once.
    async fn read_keys(&self) {
        let table = self.tables().load_full();
        if table.clients.keys().is_none() {
            return;
        }
        // Its files may lie on a disk that is slow, or gone.
        let reading = tokio::task::spawn_blocking(move || {
            let troubles = table.clients.keys().map(Keys::read_again).unwrap_or_default();
            troubles.iter().map(ToString::to_string).collect::<BTreeSet<String>>()
        });
        let troubles = reading.await.expect("reading keys does not panic, and nobody cuts it off");
        let before = std::mem::replace(&mut *self.key_troubles(), troubles.clone());
        for error in troubles.difference(&before) {
            tracing::error!(error, "a phantom key cannot be read again: the one before it goes on");
        }
    }
}
