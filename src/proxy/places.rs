//! Room for connections: so many of clients, of these so many of one user or one machine, and as many together with those to upstreams as
//! leave the process file descriptors for the rest. So nobody takes the others' room, and a full house can still be
//! scraped, and gets its tokens.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// So many connections to upstreams may have large buffers.
const FEW: usize = 32;

/// The room of all workers. It is asked once a connection, not once a request.
pub struct Places {
    most: usize,
    most_of_one: usize,
    /// With those to upstreams.
    most_open: usize,
    /// Without a place: they too have file descriptors.
    most_outside: usize,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Default)]
struct Taken {
    all: usize,
    upstreams: usize,
    /// Those that have no place, and wait for one or are being told so.
    outside: usize,
    by_whom: HashMap<Whom, usize>,
}

/// Whose room a connection takes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Whom {
    /// That the kernel names; those that it does not name are one.
    User(Option<u32>),
    /// Of another machine.
    Machine(IpAddr),
}

/// Whose room is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    All,
    Of(Whom),
}

impl Places {
    pub fn new(most: usize, most_of_one: usize, most_open: usize, most_outside: usize) -> Self {
        Self { most, most_of_one, most_open, most_outside, taken: Mutex::default(), freed: Notify::new() }
    }

    /// # Errors
    /// When there is no room.
    pub fn take(self: &Arc<Self>, whom: Whom) -> Result<Place, Full> {
        let mut taken = self.lock();
        if taken.all >= self.most || taken.all + taken.upstreams >= self.most_open {
            return Err(Full::All);
        }
        let own = taken.by_whom.entry(whom).or_default();
        if *own >= self.most_of_one {
            return Err(Full::Of(whom));
        }
        *own += 1;
        taken.all += 1;
        Ok(Place { places: self.clone(), whom })
    }

    /// For a connection to an upstream; `None` when there is no room.
    pub fn take_upstream(self: &Arc<Self>) -> Option<UpstreamPlace> {
        let mut taken = self.lock();
        if taken.all + taken.upstreams >= self.most_open {
            return None;
        }
        taken.upstreams += 1;
        Some(UpstreamPlace { places: self.clone(), number: taken.upstreams })
    }

    /// For a connection that has no place, while it waits for one or is told that there is none; `None` when it has to go
    /// without a word, because too many are at the door.
    pub fn at_the_door(self: &Arc<Self>) -> Option<Outside> {
        let mut taken = self.lock();
        if taken.outside >= self.most_outside {
            return None;
        }
        taken.outside += 1;
        Some(Outside(self.clone()))
    }

    /// Resolves when a place has come free since the last call.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    pub fn taken(&self) -> usize {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Counts are whole whenever the lock is free.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place, given back when dropped.
pub struct Place {
    places: Arc<Places>,
    whom: Whom,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        if let Some(own) = taken.by_whom.get_mut(&self.whom) {
            *own -= 1;
            if *own == 0 {
                taken.by_whom.remove(&self.whom);
            }
        }
        drop(taken);
        self.places.freed.notify_one();
    }
}

/// The place of a connection to an upstream, given back when dropped.
pub struct UpstreamPlace {
    places: Arc<Places>,
    number: usize,
}

impl UpstreamPlace {
    /// Whether there were few others when it was taken.
    pub fn is_one_of_few(&self) -> bool {
        self.number <= FEW
    }
}

impl Drop for UpstreamPlace {
    fn drop(&mut self) {
        self.places.lock().upstreams -= 1;
    }
}

/// A connection at the door, until dropped.
pub struct Outside(Arc<Places>);

impl Drop for Outside {
    fn drop(&mut self) {
        self.0.lock().outside -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_the_others_room() {
        let places = Arc::new(Places::new(3, 2, 4, 5));
        let user = |user| Whom::User(Some(user));
        let (one, two) = (places.take(user(1)).expect("room"), places.take(user(1)).expect("room"));
        assert_eq!(places.take(user(1)).err(), Some(Full::Of(user(1))));
        let three = places.take(Whom::User(None)).expect("room for another");
        assert_eq!(places.take(user(2)).err(), Some(Full::All));
        drop(one);
        let again = places.take(user(1)).expect("room again");
        let upstream = places.take_upstream().expect("room for an upstream");
        assert!(places.take_upstream().is_none());
        drop((two, three));
        assert!(places.take_upstream().is_some());
        drop((again, upstream));
        assert_eq!(places.taken(), 0);
        let outside: Vec<Outside> = std::iter::from_fn(|| places.at_the_door()).collect();
        assert_eq!(outside.len(), 5);
        drop(outside);
        assert!(places.at_the_door().is_some());
        assert!(places.lock().by_whom.is_empty());
    }
}
