//! Phantom keys that were seen where they cannot be: what whoever watches is told of them.
//!
//! ```text
//!  a refused request ─▶ Tripwires: a sum for each kind ─▶ at once ─▶ trail, detection
//! ```
//!
//! Invariant: bounded, and only written to by refusals. Each is counted in the metric, also one that finds no room.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus::IntCounterVec;
use tokio::sync::Notify;

use crate::metrics::{Error as MetricsError, Metrics as Registry};
use crate::name::{ClientName, RouteName, TokenName};

/// Kinds that may wait: names come from the config, users from the machine.
const MOST: usize = 256;

/// A phantom key where it cannot be.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Tripped {
    pub cause: Cause,
    /// Whose key it is.
    pub key: ClientName,
    /// The client that it came from, if it came from one.
    pub sent_by: Option<ClientName>,
    pub uid: Option<u32>,
    /// Where it was to go, if a route leads there, and that route's token.
    pub route: Option<RouteName>,
    pub token: Option<TokenName>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cause {
    /// It came from another client than its own, or together with another's.
    OtherClient,
    /// It was to go where its client has no route.
    OtherHost,
    /// It stood where nobody takes credentials.
    WrongPlace,
}

impl Cause {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OtherClient => "other_client",
            Self::OtherHost => "other_host",
            Self::WrongPlace => "wrong_place",
        }
    }
}

/// Those that nobody has been told of yet, each with how often.
pub struct Tripwires {
    waiting: Mutex<BTreeMap<Tripped, u64>>,
    arrived: Notify,
    counts: IntCounterVec,
}

impl Tripwires {
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        let counts = registry.counters(
            "tripwires_total",
            "Requests with a phantom key where it cannot be, by the client whose key it is: other_client, other_host, wrong_place.",
            &["client", "cause"],
        )?;
        Ok(Self { waiting: Mutex::default(), arrived: Notify::new(), counts })
    }

    pub(super) fn trip(&self, tripped: &Tripped) {
        self.counts.with_label_values(&[tripped.key.as_str(), tripped.cause.as_str()]).inc();
        let mut waiting = self.lock();
        if let Some(count) = waiting.get_mut(tripped) {
            *count += 1;
        } else if waiting.len() < MOST {
            waiting.insert(tripped.clone(), 1);
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Resolves when there is something to take. One waits at a time.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// All of them since the last call.
    pub fn take(&self) -> BTreeMap<Tripped, u64> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Tripped, u64>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_summed_and_bounded() {
        let tripwires = Tripwires::register(&Registry::new().expect("metrics")).expect("metrics");
        let tripped = |uid| Tripped {
            cause: Cause::OtherClient,
            key: "app".parse().expect("a name"),
            sent_by: None,
            uid: Some(uid),
            route: None,
            token: None,
        };
        for uid in 0..1000 {
            tripwires.trip(&tripped(uid));
            tripwires.trip(&tripped(0));
        }
        let taken = tripwires.take();
        assert_eq!((taken.len(), taken[&tripped(0)]), (MOST, 1001));
        assert_eq!(tripwires.counts.with_label_values(&["app", "other_client"]).get(), 2000);
        assert!(tripwires.take().is_empty());
    }
}
