//! Room for so many at a time, and of these so many of one source.
//!
//! ```text
//!  Room::enter(source) ─▶ Place ─▶ dropped: free again
//!                   └───▶ full, or this source has its share
//! ```
//!
//! Invariant: nothing is kept of a source that has no place.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// How many there are, and of whom.
pub struct Room<S> {
    all: usize,
    of_one: usize,
    taken: Mutex<HashMap<S, usize>>,
}

/// One of them; free again when it is dropped.
pub struct Place<S: Eq + Hash> {
    room: Arc<Room<S>>,
    source: S,
}

impl<S: Eq + Hash + Clone> Room<S> {
    /// For so many at a time, and of these so many of one source.
    pub fn new(all: usize, of_one: usize) -> Arc<Self> {
        Arc::new(Self { all, of_one, taken: Mutex::default() })
    }

    /// `None` when there is no room for one more of this source.
    pub fn enter(self: &Arc<Self>, source: S) -> Option<Place<S>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_one = taken.get(&source).copied().unwrap_or_default();
        if of_one >= self.of_one || taken.values().sum::<usize>() >= self.all {
            return None;
        }
        *taken.entry(source.clone()).or_default() += 1;
        Some(Place { room: self.clone(), source })
    }
}

impl<S: Eq + Hash> Place<S> {
    pub fn source(&self) -> &S {
        &self.source
    }
}

impl<S: Eq + Hash> Drop for Place<S> {
    fn drop(&mut self) {
        let mut taken = self.room.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_one) = taken.get_mut(&self.source) {
            *of_one -= 1;
            if *of_one == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_source_takes_the_room_of_all_others() {
        let room = Room::new(64, 16);
        let mut places: Vec<_> = (0..100).filter_map(|_| room.enter(1)).collect();
        assert_eq!(places.len(), 16);
        places.extend((2..100).filter_map(|source| room.enter(source)));
        assert_eq!(places.len(), 64);
        assert!(room.enter(200).is_none());
        places.clear();
        assert!(room.enter(1).is_some());
        assert!(room.taken.lock().expect("no panic").is_empty(), "nothing is kept of who has left");
    }
}
