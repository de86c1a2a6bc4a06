//! Who calls. A client is known by what the kernel says of the process at the other end of its connection: no header can
//! say it, and no process of another user can borrow it.
//!
//! Invariant: a peer of which the kernel says nothing is no client.

mod peer;

use crate::name::ClientName;

pub use peer::{Inspector, Peer};

/// `[[client]]`: what is given must all hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub name: ClientName,
    pub uid: Option<u32>,
    /// Known on unix sockets only.
    pub gid: Option<u32>,
}

/// A client's place in [`Clients`]; good for as long as that value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ClientIndex(usize);

impl ClientIndex {
    pub fn as_usize(self) -> usize {
        self.0
    }
}

/// The clients of a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clients(Vec<Settings>);

impl Clients {
    /// Without any `[[client]]` there is one: any process of our own user.
    pub fn new(clients: Vec<Settings>, own_uid: u32) -> Self {
        if clients.is_empty() {
            return Self(vec![Settings { name: ClientName::implicit(), uid: Some(own_uid), gid: None }]);
        }
        Self(clients)
    }

    /// The client that the peer is, if any. The config holds no two that overlap.
    pub fn identify(&self, peer: &Peer) -> Option<ClientIndex> {
        let holds = |wanted: Option<u32>, seen: Option<u32>| wanted.is_none() || wanted == seen;
        self.0
            .iter()
            .position(|client| holds(client.uid, peer.uid) && holds(client.gid, peer.gid) && client.says_something())
            .map(ClientIndex)
    }

    pub fn find(&self, name: &ClientName) -> Option<ClientIndex> {
        self.0.iter().position(|client| client.name == *name).map(ClientIndex)
    }

    /// The name of a client of this value.
    ///
    /// # Panics
    /// When the index is another value's and out of range.
    pub fn name(&self, client: ClientIndex) -> &ClientName {
        &self.0[client.0].name
    }

    /// The users that clients are known by; `None` where a client may be any user.
    pub fn uids(&self) -> Option<Vec<u32>> {
        self.0.iter().map(|client| client.uid).collect()
    }

    pub fn names(&self) -> impl Iterator<Item = &ClientName> {
        self.0.iter().map(|client| &client.name)
    }
}

impl Settings {
    /// A client without any mark would be everybody.
    fn says_something(&self) -> bool {
        self.uid.is_some() || self.gid.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str, uid: Option<u32>, gid: Option<u32>) -> Settings {
        Settings { name: name.parse().expect("a name"), uid, gid }
    }

    #[test]
    fn what_is_given_must_all_hold() {
        let clients = Clients::new(vec![client("a", Some(1), Some(5)), client("b", Some(2), None)], 0);
        let known = |uid, gid| clients.identify(&Peer { uid, gid }).map(|index| clients.name(index).to_string());
        assert_eq!(known(Some(1), Some(5)).as_deref(), Some("a"));
        assert_eq!(known(Some(2), Some(9)).as_deref(), Some("b"));
        assert_eq!(known(Some(1), Some(6)), None, "another group");
        assert_eq!(known(Some(1), None), None, "loopback TCP tells no group");
        assert_eq!(known(Some(0), None), None);
        assert_eq!(known(None, None), None);
    }

    #[test]
    fn without_clients_our_own_user_is_the_one_client() {
        let clients = Clients::new(Vec::new(), 1000);
        assert!(clients.identify(&Peer { uid: Some(1000), gid: None }).is_some());
        assert!(clients.identify(&Peer { uid: Some(1001), gid: None }).is_none());
        assert!(clients.identify(&Peer::default()).is_none());
    }

    #[test]
    fn a_client_without_any_mark_is_nobody() {
        let clients = Clients::new(vec![client("all", None, None)], 0);
        assert!(clients.identify(&Peer { uid: Some(0), gid: Some(0) }).is_none());
    }
}
