//! Our own certificate authorities, with which we answer in the place of the hosts whose traffic we are asked to look into.
//!
//! ```text
//!  state folder ─open─▶ authorities, each constrained to some hosts ─▶ a leaf for one of them, for a week ─▶ its half of TLS
//! ```
//!
//! There is one, until another host is to be looked into or its end comes near: then there is one more, and the first goes on
//! for its hosts, because apps that run trust it and no other.
//!
//! Invariant: an authority can vouch for no host that was not to be looked into when it was made: it says so itself (RFC 5280,
//! section 4.2.1.10), so that whoever steals its key can pose to the apps that trust it as those hosts and no other.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use zeroize::{Zeroize as _, Zeroizing};

use crate::authority::Host;
use crate::clock::Clock;
use crate::seal::Label;
use crate::store::{Store, StoreError};
use crate::tls;

const LABEL: Label<'static> = Label { kind: "interception", name: "authorities" };

const DAY: Duration = Duration::from_secs(86_400);

/// How long apps need no other authority.
const AUTHORITY: Duration = Duration::from_secs(2 * 365 * 86_400);

/// An authority that ends sooner gets a successor at a start.
const LEAST: Duration = Duration::from_secs(30 * 86_400);

const LEAF: Duration = Duration::from_secs(7 * 86_400);

/// So far ahead of ours an app's clock may be, or behind it.
const ASKEW: Duration = DAY;

/// Hosts as certificates have them.
pub type Hosts = BTreeSet<Box<str>>;

/// See the module.
pub struct Interception {
    /// Oldest first.
    authorities: Arc<[Authority]>,
    /// How often they have been written down, these included; and whether these are.
    generation: u64,
    is_kept: AtomicBool,
    leaves: Mutex<HashMap<Host, Leaf>>,
    clock: Arc<dyn Clock>,
}

/// As it is kept, under seal.
#[derive(Clone, Serialize, Deserialize)]
struct Authority {
    name: String,
    certificate: String,
    key: String,
    /// Seconds since the Unix epoch.
    ends: u64,
    hosts: Hosts,
}

struct Leaf {
    config: Arc<ServerConfig>,
    /// Since the Unix epoch: another one is made from then on.
    until: Duration,
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// Why there is no authority, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub enum InterceptionError {
    #[error("the local certificate authority: {0}")]
    Store(#[from] StoreError),
    #[error("the local certificate authority ({0}) is not used: move the file away to have another one made")]
    Refused(String),
    #[error("the local certificate authority: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("the TLS library refuses a certificate of the local authority: {0}")]
    Tls(#[from] rustls::Error),
    #[error("no local certificate authority may vouch for {0}")]
    Host(Host),
}

impl Interception {
    /// The authorities of a state folder for these hosts; those that are missing are made, and have yet to be
    /// [kept](Self::keep). Blocks.
    ///
    /// # Errors
    /// When what is kept cannot be trusted.
    pub fn open(store: &Store, hosts: &Hosts, clock: Arc<dyn Clock>) -> Result<Self, InterceptionError> {
        let (authorities, generation) = read(store)?.unwrap_or_default();
        Self::of((authorities, generation, true), hosts, clock)
    }

    /// The same for other hosts, or later.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn following(&self, hosts: &Hosts) -> Result<Self, InterceptionError> {
        let is_kept = self.is_kept.load(Ordering::Relaxed);
        Self::of((self.authorities.to_vec(), self.generation, is_kept), hosts, self.clock.clone())
    }

    /// The certificates of the authorities of a state folder, in PEM; `None` when there is none yet. Blocks.
    ///
    /// # Errors
    /// When what is kept cannot be trusted.
    pub fn exported(store: &Store) -> Result<Option<String>, InterceptionError> {
        Ok(read(store)?.map(|(authorities, _)| certificates(&authorities)))
    }

    /// From authorities, how often they have been written down, and whether these are.
    fn of(
        (mut authorities, generation, was_kept): (Vec<Authority>, u64, bool),
        hosts: &Hosts,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, InterceptionError> {
        let now = clock.now().wall;
        let before = authorities.len();
        authorities.retain(|one| one.lasts(now) && !one.hosts.is_disjoint(hosts));
        let missing: Hosts = hosts
            .iter()
            .filter(|host| !authorities.iter().any(|one| one.lasts(now + LEAST) && one.hosts.contains(*host)))
            .cloned()
            .collect();
        let is_kept = was_kept && missing.is_empty() && authorities.len() == before;
        if !missing.is_empty() {
            authorities.push(Authority::new(missing, now)?);
        }
        let generation = if was_kept && !is_kept { generation + 1 } else { generation };
        let authorities = authorities.into();
        Ok(Self { authorities, generation, is_kept: AtomicBool::new(is_kept), leaves: Mutex::default(), clock })
    }

    /// Writes down what is new: from then on it may be answered with. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, store: &Store) -> Result<(), InterceptionError> {
        if self.is_kept.load(Ordering::Relaxed) {
            return Ok(());
        }
        let text = Zeroizing::new(serde_json::to_vec(&*self.authorities).expect("texts and numbers"));
        store.write(LABEL, self.generation, &text)?;
        self.is_kept.store(true, Ordering::Relaxed);
        let hosts: Vec<&str> = self.authorities.iter().flat_map(|one| &one.hosts).map(|host| &**host).collect();
        tracing::warn!(
            hosts = hosts.join(", "),
            "a local certificate authority was made: apps trust it when they have `countersign ca export`"
        );
        Ok(())
    }

    /// In PEM.
    pub fn certificates(&self) -> String {
        certificates(&self.authorities)
    }

    /// Whether these may vouch for all of the hosts, and are needed.
    pub fn fits(&self, hosts: &Hosts) -> bool {
        let later = self.clock.now().wall + LEAST;
        hosts.iter().all(|host| self.authorities.iter().any(|one| one.lasts(later) && one.hosts.contains(host)))
            && self.authorities.iter().all(|one| !one.hosts.is_disjoint(hosts))
    }

    /// What we answer with as this host, under TLS.
    ///
    /// # Errors
    /// When no certificate can be made for it.
    pub fn server(&self, host: &Host) -> Result<Arc<ServerConfig>, InterceptionError> {
        let now = self.clock.now().wall;
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = leaves.get(host).filter(|leaf| now < leaf.until) {
            return Ok(leaf.config.clone());
        }
        let config = self.leaf(host, now)?;
        // Hosts are those of routes, so that there are few.
        leaves.insert(host.clone(), Leaf { config: config.clone(), until: now + LEAF / 2 });
        Ok(config)
    }

    fn leaf(&self, host: &Host, now: Duration) -> Result<Arc<ServerConfig>, InterceptionError> {
        let name = bare(host);
        // The oldest that lasts as long as the leaf: more apps have it.
        let mut fitting = self.authorities.iter().filter(|one| one.hosts.contains(&*name) && one.lasts(now + LEAF));
        let authority = fitting.next().ok_or_else(|| InterceptionError::Host(host.clone()))?;
        let mut params = CertificateParams::new([name])?;
        params.distinguished_name.push(DnType::CommonName, "Countersign");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = (date(now.saturating_sub(ASKEW)), date(now + LEAF));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &authority.issuer()?)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = CertifiedKey::from_der(vec![certificate.der().clone()], key, &tls::provider())?;
        let builder = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth();
        let mut config = builder.with_cert_resolver(Arc::new(OnlyAs { host: host.clone(), key: Arc::new(key) }));
        config.alpn_protocols = tls::Alpn::Http2OrHttp1.accepted();
        Ok(Arc::new(config))
    }
}

impl Authority {
    fn new(hosts: Hosts, now: Duration) -> Result<Self, InterceptionError> {
        let key = KeyPair::generate()?;
        // Two of one name would be taken for each other.
        let name = format!("Countersign on this machine, {:08x}", fastrand::u32(..));
        let ends = now + AUTHORITY;
        let mut params = params(&name, &hosts);
        (params.not_before, params.not_after) = (date(now.saturating_sub(ASKEW)), date(ends));
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { name, certificate, key: key.serialize_pem(), ends: ends.as_secs(), hosts })
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, InterceptionError> {
        Ok(Issuer::new(params(&self.name, &self.hosts), KeyPair::from_pem(&self.key)?))
    }

    fn lasts(&self, until: Duration) -> bool {
        Duration::from_secs(self.ends) > until
    }
}

fn certificates(authorities: &[Authority]) -> String {
    authorities.iter().map(|authority| &*authority.certificate).collect()
}

/// A certificate for whoever asks for its own host, or names none.
#[derive(Debug)]
struct OnlyAs {
    host: Host,
    key: Arc<CertifiedKey>,
}

impl ResolvesServerCert for OnlyAs {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let agrees = match (&self.host, hello.server_name()) {
            (_, None) => true,
            (Host::Name(name), Some(said)) => name.eq_ignore_ascii_case(said),
            // An address is no name (RFC 6066, section 3).
            (Host::Ip(_), Some(_)) => false,
        };
        agrees.then(|| self.key.clone())
    }
}

fn read(store: &Store) -> Result<Option<(Vec<Authority>, u64)>, InterceptionError> {
    let (records, refused) = store.read(LABEL.kind)?;
    if let Some(refused) = refused.first() {
        return Err(InterceptionError::Refused(format!("{}: {}", refused.path.display(), refused.why)));
    }
    let Some(record) = records.into_iter().find(|record| record.name == LABEL.name) else { return Ok(None) };
    let authorities = serde_json::from_slice(&record.content)
        .map_err(|_| InterceptionError::Refused("it does not hold what was written there".to_owned()))?;
    Ok(Some((authorities, record.generation)))
}

fn params(name: &str, hosts: &Hosts) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.name_constraints = Some(constraints(hosts));
    params
}

/// These hosts and no others. Of a kind of names of which none is permitted all are excluded: a constraint speaks of its own
/// kind alone.
fn constraints(hosts: &Hosts) -> NameConstraints {
    let permitted: Vec<GeneralSubtree> = hosts.iter().map(|host| subtree(host)).collect();
    let has_address = permitted.iter().any(|subtree| matches!(subtree, GeneralSubtree::IpAddress(_)));
    let has_name = permitted.iter().any(|subtree| matches!(subtree, GeneralSubtree::DnsName(_)));
    let every_address = [CidrSubnet::V4([0; 4], [0; 4]), CidrSubnet::V6([0; 16], [0; 16])];
    let mut excluded = if has_address { Vec::new() } else { every_address.map(GeneralSubtree::IpAddress).into() };
    if !has_name {
        excluded.push(GeneralSubtree::DnsName(String::new()));
    }
    NameConstraints { permitted_subtrees: permitted, excluded_subtrees: excluded }
}

fn subtree(host: &str) -> GeneralSubtree {
    match host.parse() {
        Ok(IpAddr::V4(ip)) => GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix(ip.octets(), 32)),
        Ok(IpAddr::V6(ip)) => GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(ip.octets(), 128)),
        Err(_) => GeneralSubtree::DnsName(host.to_owned()),
    }
}

/// A host as certificates have it.
pub fn bare(host: &Host) -> String {
    match host {
        Host::Name(name) => name.to_string(),
        Host::Ip(ip) => ip.to_string(),
    }
}

fn date(since_epoch: Duration) -> OffsetDateTime {
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    use super::*;
    use crate::clock::ManualClock;

    fn hosts(names: &[&str]) -> Hosts {
        names.iter().map(|name| Box::from(*name)).collect()
    }

    fn interception(names: &[&str]) -> Interception {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
        Interception::of((Vec::new(), 0, true), &hosts(names), clock).expect("an authority")
    }

    /// Whether a client that trusts this authority takes a leaf that it has signed for any name, with or without asking us.
    fn vouches(authority: &Authority, name: &str) -> bool {
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new([name.to_owned()]).expect("a name");
        let leaf = leaf.signed_by(&key, &authority.issuer().expect("an issuer")).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).expect("PEM")).expect("a root");
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), tls::provider());
        let verifier = verifier.build().expect("a verifier");
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        verifier.verify_server_cert(leaf.der(), &[], &name, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn an_authority_vouches_for_its_hosts_and_no_others() {
        for (own, foreign) in [
            (&["api.example.com"][..], &["example.com", "other.example.com", "192.0.2.1", "2001:db8::1"][..]),
            (&["192.0.2.1"][..], &["192.0.2.2", "api.example.com", "2001:db8::1"][..]),
            (&["2001:db8::1"][..], &["2001:db8::2", "api.example.com", "192.0.2.1"][..]),
            (&["api.example.com", "192.0.2.1"][..], &["other.example.com", "192.0.2.2", "2001:db8::1"][..]),
        ] {
            let made = interception(own);
            for name in own {
                assert!(vouches(&made.authorities[0], name), "{own:?} {name}");
            }
            for name in foreign {
                assert!(!vouches(&made.authorities[0], name), "{own:?} {name}");
            }
        }
    }

    #[test]
    fn for_another_host_there_is_one_more_and_the_first_goes_on() {
        let first = interception(&["a.example"]);
        assert!(first.fits(&hosts(&["a.example"])) && !first.fits(&hosts(&["a.example", "b.example"])));
        let both = first.following(&hosts(&["a.example", "b.example"])).expect("authorities");
        assert_eq!(both.authorities.len(), 2);
        assert!(both.certificates().starts_with(&first.certificates()));
        assert!(!vouches(&both.authorities[1], "a.example"), "that is for the first to vouch for");
        let last = both.following(&hosts(&["b.example"])).expect("an authority");
        assert_eq!(last.authorities.len(), 1, "nobody needs the first any more");
        assert!(last.server(&Host::parse("a.example").expect("a host")).is_err());
    }

    #[test]
    fn what_is_written_down_has_a_number_of_its_own_each_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path(), None).expect("a store");
        let clock = Arc::new(ManualClock::default());
        let mut now = Interception::open(&store, &hosts(&["a.example"]), clock).expect("an authority");
        for (number, names) in [(1, &["a.example"][..]), (2, &["a.example", "b.example"]), (3, &["b.example"])] {
            now = now.following(&hosts(names)).expect("authorities");
            for _ in 0..2 {
                now.keep(&store).expect("written");
                let (authorities, written) = read(&store).expect("readable").expect("some");
                assert_eq!((certificates(&authorities), written), (now.certificates(), number));
            }
        }
    }

    #[test]
    fn one_whose_end_is_near_has_a_successor_and_goes_on_until_then() {
        let clock = Arc::new(ManualClock::default());
        let wanted = hosts(&["a.example"]);
        let first = Interception::of((Vec::new(), 0, true), &wanted, clock.clone()).expect("an authority");
        clock.advance(AUTHORITY - LEAST);
        assert!(!first.fits(&wanted));
        let both = first.following(&wanted).expect("authorities");
        assert_eq!(both.authorities.len(), 2);
        clock.advance(LEAST);
        assert_eq!(both.following(&wanted).expect("an authority").certificates(), both.authorities[1].certificate);
    }
}
