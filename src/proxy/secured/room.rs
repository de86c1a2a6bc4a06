//! Room for handshakes: so many under way at a time, and of these so many of one source.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Handshakes under way at a time, over all workers.
const ALL: usize = 1024;

/// Of these, of one source: many apps may stand behind one address, and all of them begin anew at once.
const OF_ONE: usize = 128;

/// How many there are, and of whom.
#[derive(Default)]
pub struct Room(Mutex<HashMap<Option<IpAddr>, usize>>);

/// One of them; free again when it is dropped.
pub struct Place {
    room: Arc<Room>,
    source: Option<IpAddr>,
}

impl Room {
    /// `None` when there is no room for one more of this source.
    pub fn enter(room: &Arc<Self>, from: Option<IpAddr>) -> Option<Place> {
        let source = from.map(source);
        let mut taken = room.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_one = taken.get(&source).copied().unwrap_or_default();
        if of_one >= OF_ONE || taken.values().sum::<usize>() >= ALL {
            return None;
        }
        *taken.entry(source).or_default() += 1;
        Some(Place { room: room.clone(), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_one) = taken.get_mut(&self.source) {
            *of_one -= 1;
            if *of_one == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

/// What of an address tells one source from another: whoever has an address of IPv6 has a network of them.
pub fn source(from: IpAddr) -> IpAddr {
    match from {
        IpAddr::V4(_) => from,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_source_takes_the_room_of_all_others() {
        let room = Arc::new(Room::default());
        let from = |text: &str| Some(text.parse::<IpAddr>().expect("an address"));
        let enter = |source| Room::enter(&room, source);
        let hosts = (0..u64::try_from(2 * OF_ONE).expect("few")).map(|host| from(&format!("2001:db8::{host:x}")));
        let places: Vec<Place> = hosts.filter_map(enter).collect();
        assert_eq!(places.len(), OF_ONE, "one network of IPv6 is one source");
        let other = enter(from("2001:db8:0:1::1")).expect("room for another");
        let many = (0..=u8::MAX).flat_map(|host| [from(&format!("192.0.2.{host}")); 8]);
        let all: Vec<Place> = many.filter_map(enter).collect();
        assert_eq!(places.len() + 1 + all.len(), ALL);
        assert!(enter(from("203.0.113.1")).is_none());
        drop((places, other, all));
        assert!(enter(from("203.0.113.1")).is_some());
        assert!(room.0.lock().expect("no panic").is_empty(), "nothing is kept of who has left");
    }
}
