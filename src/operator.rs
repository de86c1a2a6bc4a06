//! Operators: the people and programs that look after tokens, by what they prove themselves with and what they may do.
//!
//! ```text
//!  Proof (kernel's word, bearer key, certificate) ─▶ Operators::identify ─▶ Operator ─▶ may(Role)
//!  the token of a job                             ─▶ Operator::of_job ───────▲
//! ```
//!
//! Invariants: what is given of an operator must all hold; a key that is wrong is not made good by the user that sent it;
//! who cannot be told from an app, or from the proxy itself, approves nothing.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use aws_lc_rs::{constant_time, digest};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::identity::{Clients, Peer};
use crate::name::{ClientName, OperatorName};

/// What an operator may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// Sees everything that is not secret. Every operator of the config is one.
    Viewer,
    /// Asks for access.
    Requester,
    /// Decides on what others ask for, and lets in again what was taken away.
    Approver,
    /// Takes tokens away: quarantine, revocation, rotation.
    Responder,
    /// Reloads the config and ends grants; is a requester and a responder too. To approve is a role of its own.
    Admin,
}

impl Role {
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Requester, Self::Approver, Self::Responder, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Requester => "requester",
            Self::Approver => "approver",
            Self::Responder => "responder",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `[[operator]]`: what is given must all hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub name: OperatorName,
    pub groups: Vec<String>,
    /// Alone it counts on the unix socket only.
    pub uid: Option<u32>,
    pub key: Option<KeyDigest>,
    /// A DNS name of its client certificate.
    pub certificate: Option<ServerName<'static>>,
    pub roles: Vec<Role>,
}

/// Somebody who proved to be an operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operator {
    pub name: OperatorName,
    pub groups: Vec<String>,
    roles: Vec<Role>,
    told_apart: bool,
    job: Option<Job>,
}

/// A job that calls: what its CI says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Job {
    pub subject: String,
    /// When it ends, since the Unix epoch.
    pub ends: Duration,
}

impl Operator {
    /// A job that is a client asks for access, and does nothing else.
    pub fn of_job(client: &ClientName, job: Job) -> Self {
        Self {
            name: client.as_str().parse().expect("names of clients and of operators are alike"),
            groups: Vec::new(),
            roles: vec![Role::Requester],
            told_apart: true,
            job: Some(job),
        }
    }

    /// `None` of an operator of the config.
    pub fn job(&self) -> Option<&Job> {
        self.job.as_ref()
    }

    /// Whether it has this role. Nobody approves who is not [told apart](Self::is_told_apart).
    pub fn may(&self, role: Role) -> bool {
        let has = |role| self.roles.contains(&role);
        match role {
            Role::Viewer => self.job.is_none(),
            Role::Requester | Role::Responder => has(role) || has(Role::Admin),
            Role::Approver => has(role) && self.told_apart,
            Role::Admin => has(role),
        }
    }

    /// The roles that it may act in.
    pub fn roles(&self) -> impl Iterator<Item = Role> + '_ {
        Role::ALL.into_iter().filter(|role| self.may(*role))
    }

    /// False of one that is known only by a user that is also a client's, or our own: an app could be behind it. Whoever
    /// lets a decision of such an operator count must not do so where the decision lets something in.
    pub fn is_told_apart(&self) -> bool {
        self.told_apart
    }

    /// Whether `owner`, of a token or a request, is this operator or one of its groups.
    pub fn is_or_belongs_to(&self, owner: &str) -> bool {
        self.name.as_str() == owner || self.groups.iter().any(|group| group == owner)
    }
}

/// What somebody proves itself with.
#[derive(Default)]
pub struct Proof<'a> {
    /// What the kernel says of the process at the other end of a unix socket.
    pub peer: Peer,
    /// SHA-256 of the key that was sent.
    pub key: Option<KeyDigest>,
    /// The certificate that TLS has verified.
    pub certificate: Option<&'a CertificateDer<'a>>,
}

/// The operators of a configuration.
#[derive(Clone, PartialEq, Debug)]
pub struct Operators {
    list: Vec<Settings>,
    own_uid: u32,
    /// The users of clients; `None` where one of them may be any user.
    client_uids: Option<Vec<u32>>,
}

impl Operators {
    /// Without any `[[operator]]` there is one: our own user, an admin.
    pub fn new(mut list: Vec<Settings>, clients: &Clients, own_uid: u32) -> Self {
        if list.is_empty() {
            list.push(Settings {
                name: OperatorName::implicit(),
                groups: Vec::new(),
                uid: Some(own_uid),
                key: None,
                certificate: None,
                roles: vec![Role::Admin],
            });
        }
        Self { list, own_uid, client_uids: clients.uids() }
    }

    /// The operator that this proves, if it proves just one. Whoever sends a key is known by it or not at all.
    pub fn identify(&self, proof: &Proof<'_>) -> Option<Operator> {
        let mut found = None;
        // All of them are compared, so that the time does not tell which key was close.
        for settings in self.list.iter().filter(|settings| settings.is_proven_by(proof)) {
            if found.replace(settings).is_some() {
                return None;
            }
        }
        found.map(|settings| Operator {
            name: settings.name.clone(),
            groups: settings.groups.clone(),
            roles: settings.roles.clone(),
            told_apart: self.tells_apart(settings),
            job: None,
        })
    }

    /// Whether no client, and not the proxy itself, could be taken for this operator.
    pub fn tells_apart(&self, settings: &Settings) -> bool {
        if settings.key.is_some() || settings.certificate.is_some() {
            return true;
        }
        let (Some(uid), Some(client_uids)) = (settings.uid, &self.client_uids) else { return false };
        uid != self.own_uid && !client_uids.contains(&uid)
    }
}

impl Settings {
    fn is_proven_by(&self, proof: &Proof<'_>) -> bool {
        let uid = self.uid.is_none_or(|uid| proof.peer.uid == Some(uid));
        // A key that was sent must be this operator's: one that has none is somebody else.
        let key = match (&self.key, &proof.key) {
            (None, None) => true,
            (Some(wanted), Some(sent)) => wanted.is_same(sent),
            (None, Some(_)) | (Some(_), None) => false,
        };
        let certificate = self.certificate.as_ref().is_none_or(|name| is_for(proof.certificate, name));
        let says_something = self.uid.is_some() || self.key.is_some() || self.certificate.is_some();
        uid && key && certificate && says_something
    }
}

fn is_for(certificate: Option<&CertificateDer<'_>>, name: &ServerName<'_>) -> bool {
    let Some(certificate) = certificate else { return false };
    let parsed = rustls::server::ParsedCertificate::try_from(certificate);
    parsed.is_ok_and(|parsed| rustls::client::verify_server_name(&parsed, name).is_ok())
}

/// SHA-256 of an operator's key: all that the config holds of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyDigest([u8; digest::SHA256_OUTPUT_LEN]);

/// Why a text is no digest of a key. It may be the key itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a key is given as \"sha256:\" and the hex of its SHA-256")]
pub struct NoDigest;

impl KeyDigest {
    /// The digest of a key that was sent.
    pub fn of(key: &[u8]) -> Self {
        let mut bytes = [0; digest::SHA256_OUTPUT_LEN];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, key).as_ref());
        Self(bytes)
    }

    /// In constant time.
    fn is_same(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl FromStr for KeyDigest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 2 * digest::SHA256_OUTPUT_LEN);
        let hex = hex.filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())).ok_or(NoDigest)?;
        let mut bytes = [0; digest::SHA256_OUTPUT_LEN];
        for (byte, index) in bytes.iter_mut().zip((0..hex.len()).step_by(2)) {
            *byte = u8::from_str_radix(&hex[index..index + 2], 16).map_err(|_| NoDigest)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity;

    const OWN: u32 = 900;

    fn operator(name: &str, roles: &[Role]) -> Settings {
        Settings {
            name: name.parse().expect("a name"),
            groups: vec!["team@example.com".into()],
            uid: None,
            key: None,
            certificate: None,
            roles: roles.to_vec(),
        }
    }

    fn clients(uids: &[Option<u32>]) -> Clients {
        let client = |(index, uid): (usize, &Option<u32>)| {
            let name = format!("client{index}").parse().expect("a name");
            identity::Settings { uid: *uid, gid: Some(1), ..identity::Settings::named(name) }
        };
        Clients::new(uids.iter().enumerate().map(client).collect(), OWN)
    }

    fn by_uid(uid: u32) -> Proof<'static> {
        Proof { peer: Peer { uid: Some(uid), ..Peer::default() }, ..Proof::default() }
    }

    fn by_key(key: &str) -> Proof<'static> {
        Proof { key: Some(KeyDigest::of(key.as_bytes())), ..Proof::default() }
    }

    #[test]
    fn without_operators_our_own_user_is_an_admin_who_never_approves() {
        let operators = Operators::new(Vec::new(), &clients(&[Some(1000)]), OWN);
        let own = operators.identify(&by_uid(OWN)).expect("an operator");
        assert!(own.may(Role::Admin) && own.may(Role::Responder) && own.may(Role::Requester) && own.may(Role::Viewer));
        assert!(!own.may(Role::Approver) && !own.is_told_apart());
        assert_eq!(operators.identify(&by_uid(1000)), None);
        assert_eq!(operators.identify(&Proof::default()), None);
    }

    #[test]
    fn an_operator_whose_user_a_client_shares_never_approves() {
        let alice = Settings { uid: Some(1001), ..operator("alice", &[Role::Approver]) };
        for (uids, approves) in
            [(&[Some(1000)][..], true), (&[Some(1000), Some(1001)], false), (&[Some(1000), None], false)]
        {
            let operators = Operators::new(vec![alice.clone()], &clients(uids), OWN);
            let alice = operators.identify(&by_uid(1001)).expect("an operator");
            assert_eq!((alice.may(Role::Approver), alice.is_told_apart()), (approves, approves), "{uids:?}");
        }
        let own = Settings { uid: Some(OWN), ..alice };
        let operators = Operators::new(vec![own], &clients(&[Some(1000)]), OWN);
        assert!(!operators.identify(&by_uid(OWN)).expect("an operator").may(Role::Approver));
    }

    #[test]
    fn a_key_tells_apart_whoever_sends_it() {
        let key = Some(KeyDigest::of(b"k"));
        let alice = Settings { uid: Some(1000), key, ..operator("alice", &[Role::Approver]) };
        let operators = Operators::new(vec![alice], &clients(&[Some(1000)]), OWN);
        let both = Proof { key: Some(KeyDigest::of(b"k")), ..by_uid(1000) };
        assert!(operators.identify(&both).expect("an operator").may(Role::Approver));
        assert_eq!(operators.identify(&by_uid(1000)), None, "what is given must all hold");
        assert_eq!(operators.identify(&by_key("k")), None, "what is given must all hold");
    }

    #[test]
    fn a_wrong_key_is_not_made_good_by_its_user() {
        let alice = Settings { uid: Some(1001), ..operator("alice", &[Role::Admin]) };
        let bob = Settings { key: Some(KeyDigest::of(b"bob")), ..operator("bob", &[Role::Viewer]) };
        let operators = Operators::new(vec![alice, bob], &clients(&[]), OWN);
        let name = |proof: Proof<'_>| operators.identify(&proof).map(|operator| operator.name.to_string());
        assert_eq!(name(by_uid(1001)).as_deref(), Some("alice"));
        assert_eq!(name(by_key("bob")).as_deref(), Some("bob"));
        assert_eq!(name(Proof { key: Some(KeyDigest::of(b"bob")), ..by_uid(1001) }).as_deref(), Some("bob"));
        assert_eq!(name(Proof { key: Some(KeyDigest::of(b"bpb")), ..by_uid(1001) }), None);
    }

    #[test]
    fn a_certificate_is_known_by_a_name_that_it_holds() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let issued = rcgen::CertificateParams::new(["alice.ops.example".to_owned()]).expect("names");
        let certificate = issued.self_signed(&key).expect("a certificate");
        let named = |name: &str| {
            let certificate = Some(ServerName::try_from(name.to_owned()).expect("a name"));
            Operators::new(vec![Settings { certificate, ..operator("alice", &[Role::Approver]) }], &clients(&[]), OWN)
        };
        let proof = || Proof { certificate: Some(certificate.der()), ..Proof::default() };
        assert!(named("alice.ops.example").identify(&proof()).is_some_and(|alice| alice.may(Role::Approver)));
        assert_eq!(named("bob.ops.example").identify(&proof()), None);
        assert_eq!(named("alice.ops.example").identify(&Proof::default()), None);
    }

    #[test]
    fn whoever_proves_to_be_two_is_nobody() {
        let alice = Settings { uid: Some(1001), ..operator("alice", &[Role::Admin]) };
        let other = Settings { uid: Some(1001), ..operator("other", &[Role::Viewer]) };
        assert_eq!(Operators::new(vec![alice, other], &clients(&[]), OWN).identify(&by_uid(1001)), None);
    }

    #[test]
    fn approving_is_a_role_of_its_own() {
        let may = |roles: &[Role]| {
            let alice = Settings { uid: Some(1001), ..operator("alice", roles) };
            let operators = Operators::new(vec![alice], &clients(&[Some(1000)]), OWN);
            let alice = operators.identify(&by_uid(1001)).expect("an operator");
            alice.roles().map(Role::as_str).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(may(&[]), "viewer");
        assert_eq!(may(&[Role::Requester]), "viewer requester");
        assert_eq!(may(&[Role::Approver]), "viewer approver");
        assert_eq!(may(&[Role::Responder]), "viewer responder");
        assert_eq!(may(&[Role::Admin]), "viewer requester responder admin");
        assert_eq!(may(&Role::ALL), "viewer requester approver responder admin");
    }

    #[test]
    fn owners_are_names_and_groups() {
        let alice = Settings { uid: Some(1001), ..operator("alice", &[]) };
        let operators = Operators::new(vec![alice], &clients(&[]), OWN);
        let alice = operators.identify(&by_uid(1001)).expect("an operator");
        assert!(alice.is_or_belongs_to("alice") && alice.is_or_belongs_to("team@example.com"));
        assert!(!alice.is_or_belongs_to("bob") && !alice.is_or_belongs_to("team"));
    }

    #[test]
    fn a_digest_is_written_in_hex() {
        let digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.parse(), Ok(KeyDigest::of(b"abc")));
        assert_eq!(digest.to_ascii_uppercase().replace("SHA", "sha").parse(), Ok(KeyDigest::of(b"abc")));
        for bad in ["", "abc", "sha256:", "sha256:ba78", &digest.replace("ad", "é"), &digest.replace("ba", "+a")] {
            assert_eq!(bad.parse::<KeyDigest>(), Err(NoDigest), "{bad}");
        }
    }
}
