//! Who calls. A client is known by what the kernel says of the process at the other end of its connection, by the certificate
//! that it has shown there, by a phantom key where its config names one, and a job of continuous integration by what its
//! issuer has signed: no process of another user can borrow the first, nobody without its private key the second, the third is
//! worth nothing elsewhere, and the fourth ends with the job.
//!
//! Invariants: a peer of which nothing is known is no client; a key is good for its own client alone, and one that came from
//! somebody else is not passed over; whoever proves to be a job, or shows a certificate, is known as that, or not at all.

mod certificate;
mod cgroup;
pub mod job;
mod key;
mod mint;
mod peer;

use std::sync::Arc;

use crate::name::ClientName;
use crate::secret::{Fingerprinter, Reference};
use job::Job;
use semver::Version;

pub use certificate::{Certificate, Named, NoSpiffeId, SpiffeId};
pub use cgroup::Cgroup;
pub use key::{KeyError, Keys};
pub use mint::{Format, FormatError};
pub use peer::{Inspector, Peer};

/// `[[client]]`: what is given must all hold.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    pub name: ClientName,
    pub uid: Option<u32>,
    /// Known on unix sockets only.
    pub gid: Option<u32>,
    /// Known on unix sockets only.
    pub cgroup: Option<Cgroup>,
    /// Where its phantom key is.
    pub key: Option<Reference>,
    /// A job that proves itself so.
    pub jwt: Option<job::Settings>,
    /// What its certificate says.
    pub certificate: Option<Named>,
    /// What routes with a range are, or are not, for.
    pub version: Option<Version>,
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
#[derive(Clone)]
pub struct Clients {
    list: Vec<Settings>,
    keys: Option<Arc<Keys>>,
    have_cgroups: bool,
}

/// What a connection and its request prove, beside what the kernel says.
#[derive(Clone, Copy, Default)]
pub struct Proof<'p> {
    /// Whose phantom key came with the request.
    pub key: Option<ClientIndex>,
    /// The job that it has proved to be.
    pub job: Option<&'p Job>,
    /// That TLS has verified.
    pub certificate: Option<&'p Certificate>,
}

/// Why nobody is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unknown {
    /// No client is like this.
    Nobody,
    /// There is a client like this, and its key is missing, or the token of its job.
    KeyMissing,
    /// The key is this client's, and the rest is not.
    KeyOf(ClientIndex),
    /// It is a job, and none of a client like this.
    OtherJob,
}

impl Clients {
    /// Without any `[[client]]` there is one: any process of our own user. Without [their keys](Self::with_keys) those that
    /// have one are not known.
    pub fn new(clients: Vec<Settings>, own_uid: u32) -> Self {
        if clients.is_empty() {
            let own = Settings { uid: Some(own_uid), ..Settings::named(ClientName::implicit()) };
            return Self { list: vec![own], keys: None, have_cgroups: false };
        }
        let have_cgroups = clients.iter().any(|client| client.cgroup.is_some());
        Self { list: clients, keys: None, have_cgroups }
    }

    /// Reads their keys. Blocks for as long as small local files take.
    ///
    /// # Errors
    /// When one of them cannot be read or used.
    pub fn with_keys(self, fingerprinter: &Arc<Fingerprinter>) -> Result<Self, KeyError> {
        let keys = Keys::read(&self.list, fingerprinter)?.map(Arc::new);
        Ok(Self { keys, ..self })
    }

    /// `None` where no client has one.
    pub fn keys(&self) -> Option<&Keys> {
        self.keys.as_deref()
    }

    /// The client that the peer is, if any. The config holds no two that overlap; a certificate may have names of two.
    ///
    /// # Errors
    /// When it is none.
    pub fn identify(&self, peer: &Peer, proof: Proof<'_>) -> Result<ClientIndex, Unknown> {
        let Proof { key, job, certificate } = proof;
        if let Some(client) = key {
            let settings = self.list.get(client.0).ok_or(Unknown::Nobody)?;
            return match settings.is_job(job) {
                _ if !settings.fits(peer, certificate) => Err(Unknown::KeyOf(client)),
                true => Ok(client),
                false => Err(if job.is_some() { Unknown::OtherJob } else { Unknown::KeyMissing }),
            };
        }
        let fits = |client: &Settings| client.fits(peer, certificate) && client.says_something();
        let mut fitting = self.list.iter().enumerate().filter(|(_, client)| fits(client));
        let mut key_is_missing = false;
        let mut next = || {
            fitting.find(|(_, client)| {
                key_is_missing |= client.key.is_some() || client.jwt.is_some();
                client.key.is_none() && client.is_job(job)
            })
        };
        match next() {
            Some(_) if certificate.is_some() && next().is_some() => Err(Unknown::Nobody),
            Some((at, _)) => Ok(ClientIndex(at)),
            None if job.is_some() => Err(Unknown::OtherJob),
            None => Err(if key_is_missing { Unknown::KeyMissing } else { Unknown::Nobody }),
        }
    }

    /// Whether one of them is known by its control group.
    pub fn have_cgroups(&self) -> bool {
        self.have_cgroups
    }

    /// What jobs prove themselves by.
    pub fn jobs(&self) -> impl Iterator<Item = &job::Settings> {
        self.list.iter().filter_map(|client| client.jwt.as_ref())
    }

    /// The only client that the connection is for, whatever else it would have to show. `None` where there are several:
    /// nobody is to answer for what another did.
    pub fn like(&self, peer: &Peer, certificate: Option<&Certificate>) -> Option<ClientIndex> {
        let told = |client: &Settings| client.is_told() && client.fits(peer, certificate);
        let mut like = self.list.iter().enumerate().filter(|(_, client)| told(client));
        match (like.next(), like.next()) {
            (Some((at, _)), None) => Some(ClientIndex(at)),
            _ => None,
        }
    }

    pub fn find(&self, name: &ClientName) -> Option<ClientIndex> {
        self.list.iter().position(|client| client.name == *name).map(ClientIndex)
    }

    /// The name of a client of this value.
    ///
    /// # Panics
    /// When the index is another value's and out of range.
    pub fn name(&self, client: ClientIndex) -> &ClientName {
        &self.list[client.0].name
    }

    /// The users that clients are known by; `None` where a client may be any user.
    pub fn uids(&self) -> Option<Vec<u32>> {
        self.list.iter().map(|client| client.uid).collect()
    }

    /// Whether somebody who has no certificate can be a client from another machine.
    pub fn may_lack_certificate(&self) -> bool {
        self.list.iter().any(Settings::may_lack_certificate)
    }

    pub fn names(&self) -> impl Iterator<Item = &ClientName> {
        self.list.iter().map(|client| &client.name)
    }
}

impl Settings {
    /// Of which nothing is said but its name: nobody is this client.
    pub fn named(name: ClientName) -> Self {
        Self { name, uid: None, gid: None, cgroup: None, key: None, jwt: None, certificate: None, version: None }
    }

    /// Whether it is known on a connection from another machine without a certificate.
    pub fn may_lack_certificate(&self) -> bool {
        !self.is_of_this_machine() && self.certificate.is_none() && (self.key.is_some() || self.jwt.is_some())
    }

    fn is_of_this_machine(&self) -> bool {
        self.uid.is_some() || self.gid.is_some() || self.cgroup.is_some()
    }

    /// Whether a connection tells it, whatever is sent there.
    fn is_told(&self) -> bool {
        self.is_of_this_machine() || self.certificate.is_some()
    }

    /// Whether the connection says nothing against it.
    fn fits(&self, peer: &Peer, certificate: Option<&Certificate>) -> bool {
        let holds = |wanted: Option<u32>, seen: Option<u32>| wanted.is_none() || wanted == seen;
        let is_in = |wanted: &Cgroup| peer.cgroup.as_deref().is_some_and(|group| wanted.holds(group));
        let is_there = self.cgroup.as_ref().is_none_or(is_in);
        holds(self.uid, peer.uid) && holds(self.gid, peer.gid) && is_there && self.is_named(certificate)
    }

    /// Whether it is the one that the certificate names, or none where none was shown.
    fn is_named(&self, certificate: Option<&Certificate>) -> bool {
        match (&self.certificate, certificate) {
            (None, None) => true,
            (Some(wanted), Some(shown)) => wanted.is(shown),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    /// Whether it is the job that has proved itself, or none where none has.
    fn is_job(&self, job: Option<&Job>) -> bool {
        match (&self.jwt, job) {
            (None, None) => true,
            (Some(wanted), Some(job)) => wanted.is(job),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    /// A client without any mark would be everybody.
    fn says_something(&self) -> bool {
        self.is_told() || self.key.is_some() || self.jwt.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str, uid: Option<u32>, gid: Option<u32>) -> Settings {
        Settings { uid, gid, ..Settings::named(name.parse().expect("a name")) }
    }

    fn with(key: ClientIndex) -> Proof<'static> {
        Proof { key: Some(key), ..Proof::default() }
    }

    fn with_key(settings: Settings) -> Settings {
        Settings { key: Some(Reference::Env("KEY".to_owned())), ..settings }
    }

    #[test]
    fn nobody_answers_for_another_of_the_same_user() {
        let peer = Peer { uid: Some(1), gid: Some(5), ..Peer::default() };
        let like = |clients: Vec<Settings>| {
            let clients = Clients::new(clients, 0);
            clients.like(&peer, None).map(|index| clients.name(index).to_string())
        };
        let keyed = || with_key(client("a", Some(1), None));
        assert_eq!(like(vec![client("b", Some(2), None), keyed()]).as_deref(), Some("a"));
        assert_eq!(like(vec![keyed(), client("b", Some(1), Some(5))]), None);
        assert_eq!(like(vec![with_key(client("c", None, None))]), None);
    }

    #[test]
    fn what_is_given_must_all_hold() {
        let clients = Clients::new(vec![client("a", Some(1), Some(5)), client("b", Some(2), None)], 0);
        let known = |uid, gid| {
            clients
                .identify(&Peer { uid, gid, ..Peer::default() }, Proof::default())
                .ok()
                .map(|index| clients.name(index).to_string())
        };
        assert_eq!(known(Some(1), Some(5)).as_deref(), Some("a"));
        assert_eq!(known(Some(2), Some(9)).as_deref(), Some("b"));
        assert_eq!(known(Some(1), Some(6)), None, "another group");
        assert_eq!(known(Some(1), None), None, "loopback TCP tells no group");
        assert_eq!(known(Some(0), None), None);
        assert_eq!(known(None, None), None);
    }

    #[test]
    fn a_process_is_known_by_its_group_where_the_kernel_tells_it() {
        let of_group = |name: &str, group: &str| Settings {
            cgroup: Some(group.parse().expect("a cgroup")),
            ..client(name, Some(1), None)
        };
        let clients = Clients::new(vec![of_group("a", "/apps/a"), of_group("b", "/apps/b")], 0);
        let known = |group: Option<&str>| {
            let peer = Peer { uid: Some(1), cgroup: group.map(Into::into), ..Peer::default() };
            let found = clients.identify(&peer, Proof::default()).ok();
            found.map(|index| clients.name(index).to_string())
        };
        assert_eq!(known(Some("/apps/a")).as_deref(), Some("a"));
        assert_eq!(known(Some("/apps/b/worker")).as_deref(), Some("b"));
        assert_eq!(known(Some("/apps")), None);
        assert_eq!(known(None), None, "it cannot be proved");
        assert!(clients.have_cgroups() && !clients.may_lack_certificate());
    }

    #[test]
    fn a_key_is_good_for_its_own_client_alone() {
        let (a, b, c) = (client("a", Some(1), None), client("b", Some(2), None), client("c", None, None));
        let clients = Clients::new(vec![with_key(a), b, with_key(c)], 0);
        let [a, b, c] = [0, 1, 2].map(ClientIndex);
        let peer = |uid| Peer { uid: Some(uid), ..Peer::default() };
        assert_eq!(clients.identify(&peer(1), with(a)), Ok(a));
        assert_eq!(clients.identify(&peer(2), with(a)), Err(Unknown::KeyOf(a)), "another user has it");
        assert_eq!(clients.identify(&Peer::default(), with(a)), Err(Unknown::KeyOf(a)));
        assert_eq!(clients.identify(&peer(2), Proof::default()), Ok(b));
        assert_eq!(clients.identify(&peer(9), with(c)), Ok(c), "known by its key alone");
        assert_eq!(clients.identify(&peer(9), Proof::default()), Err(Unknown::KeyMissing));
        assert_eq!((clients.like(&peer(1), None), clients.like(&peer(9), None)), (Some(a), None));
        let clients = Clients::new(vec![with_key(client("a", Some(1), None))], 0);
        assert_eq!(clients.identify(&peer(1), Proof::default()), Err(Unknown::KeyMissing));
        assert_eq!(clients.identify(&peer(2), Proof::default()), Err(Unknown::Nobody));
    }

    #[test]
    fn without_clients_our_own_user_is_the_one_client() {
        let clients = Clients::new(Vec::new(), 1000);
        assert!(clients.identify(&Peer { uid: Some(1000), ..Peer::default() }, Proof::default()).is_ok());
        assert!(clients.identify(&Peer { uid: Some(1001), ..Peer::default() }, Proof::default()).is_err());
        assert!(clients.identify(&Peer::default(), Proof::default()).is_err());
    }

    #[test]
    fn a_client_without_any_mark_is_nobody() {
        let clients = Clients::new(vec![client("all", None, None)], 0);
        assert!(clients.identify(&Peer { uid: Some(0), gid: Some(0), ..Peer::default() }, Proof::default()).is_err());
    }

    #[test]
    fn whoever_shows_a_certificate_is_known_by_it_or_not_at_all() {
        let named = |name: &str, id: &str| Settings {
            certificate: Named::new(Some(id.parse().expect("an ID")), None),
            ..client(name, None, None)
        };
        let (a, b) = ("spiffe://example.org/a", "spiffe://example.org/b");
        let of_key = with_key(named("d", "spiffe://example.org/d"));
        let of_name = Settings {
            certificate: Named::new(None, Some("a.example".try_into().expect("a name"))),
            ..client("e", None, None)
        };
        let list = vec![named("a", a), named("b", b), client("c", Some(1), None), of_key, of_name];
        let clients = Clients::new(list, 0);
        let known = |peer: &Peer, shown: Option<&Certificate>, key| {
            let proof = Proof { key, certificate: shown, ..Proof::default() };
            clients.identify(peer, proof).map(|index| clients.name(index).to_string())
        };
        let (nobody, own) = (Peer::default(), Peer { uid: Some(1), ..Peer::default() });
        let shown = Certificate::with(Some(a), &[]);
        assert_eq!(known(&nobody, Some(&shown), None).as_deref(), Ok("a"));
        assert_eq!(known(&own, Some(&shown), None).as_deref(), Ok("a"), "not as the client of its user");
        assert_eq!(known(&own, None, None).as_deref(), Ok("c"));
        let stranger = Certificate::with(Some("spiffe://example.org/z"), &[]);
        assert_eq!(known(&own, Some(&stranger), None), Err(Unknown::Nobody));
        let other = Certificate::with(Some("spiffe://example.org/d"), &[]);
        assert_eq!(known(&nobody, Some(&other), None), Err(Unknown::KeyMissing));
        assert_eq!(known(&nobody, Some(&other), Some(ClientIndex(3))).as_deref(), Ok("d"));
        assert_eq!(known(&nobody, Some(&shown), Some(ClientIndex(3))), Err(Unknown::KeyOf(ClientIndex(3))));
        assert_eq!(clients.like(&nobody, Some(&shown)), Some(ClientIndex(0)));
        let both = Certificate::with(Some(b), &["a.example"]);
        assert_eq!(known(&nobody, Some(&both), None), Err(Unknown::Nobody), "it has the names of two clients");
        assert!(!clients.may_lack_certificate(), "whoever is known by a user alone calls from this machine");
    }
}
