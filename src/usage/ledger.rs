//! The use of every token by every client on every route, as counters that only grow, for whoever takes differences. They outlive
//! the table of routes that they were made for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntCounter;

use super::OUTCOMES;
use crate::name::{ClientName, RouteName, TokenName};

/// See the module. Clones are the same one.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<BTreeMap<Key, Arc<Account>>>>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub token: TokenName,
    pub client: ClientName,
    pub route: RouteName,
}

/// What one client has done with one token on one route.
pub struct Account {
    uses: [IntCounter; OUTCOMES.len()],
    bytes: [AtomicU64; 2],
}

/// An account at one moment.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Totals {
    pub uses: [u64; OUTCOMES.len()],
    /// Of requests and of responses.
    pub bytes: [u64; 2],
}

impl Ledger {
    /// The account of that key: the same one for as long as this process runs.
    pub fn account(&self, key: Key, uses: &[IntCounter; OUTCOMES.len()]) -> Arc<Account> {
        let new = || Arc::new(Account { uses: uses.clone(), bytes: [AtomicU64::new(0), AtomicU64::new(0)] });
        self.lock().entry(key).or_insert_with(new).clone()
    }

    /// Each account, as it is now.
    pub fn totals(&self) -> Vec<(Key, Totals)> {
        self.lock().iter().map(|(key, account)| (key.clone(), account.totals())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<Account>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// Most requests have no body, and adding nothing would still take the counter from other workers' caches.
    pub fn add_bytes(&self, bytes: [u64; 2]) {
        for (counter, bytes) in self.bytes.iter().zip(bytes).filter(|(_, bytes)| *bytes > 0) {
            counter.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn totals(&self) -> Totals {
        Totals {
            uses: std::array::from_fn(|at| self.uses[at].get()),
            bytes: std::array::from_fn(|at| self.bytes[at].load(Ordering::Relaxed)),
        }
    }
}
