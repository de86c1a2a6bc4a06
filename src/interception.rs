//! Our own certificate authority, with which we answer in the place of the hosts whose traffic we are asked to look into.
//!
//! ```text
//!  state folder ─open─▶ authority, constrained to some hosts ─▶ a leaf for one of them, for a week ─▶ its half of TLS
//! ```
//!
//! Invariant: the authority can vouch for no host that no route intercepts: it says so itself (RFC 5280, section 4.2.1.10),
//! so that whoever steals its key can pose to the apps that trust it as those hosts and no other.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
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

const LABEL: Label<'static> = Label { kind: "interception", name: "authority" };

const DAY: Duration = Duration::from_secs(86_400);

/// How long apps need no other authority.
const AUTHORITY: Duration = Duration::from_secs(2 * 365 * 86_400);

/// An authority that ends sooner is replaced at a start.
const LEAST: Duration = Duration::from_secs(30 * 86_400);

const LEAF: Duration = Duration::from_secs(7 * 86_400);

/// So far ahead of ours an app's clock may be, or behind it.
const ASKEW: Duration = DAY;

/// See the module.
pub struct Interception {
    hosts: BTreeSet<Box<str>>,
    certificate: String,
    /// Seconds since the Unix epoch.
    ends: u64,
    issuer: Issuer<'static, KeyPair>,
    leaves: Mutex<HashMap<Host, Leaf>>,
    clock: Arc<dyn Clock>,
}

struct Leaf {
    config: Arc<ServerConfig>,
    /// Since the Unix epoch: another one is made from then on.
    until: Duration,
}

/// As it is kept, under seal.
#[derive(Serialize, Deserialize)]
struct Kept {
    name: String,
    certificate: String,
    key: String,
    ends: u64,
    hosts: BTreeSet<Box<str>>,
}

impl Drop for Kept {
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
}

impl Interception {
    /// The authority of this state folder, if it may vouch for these hosts; otherwise a new one, which apps have yet to be
    /// told to trust. Blocks.
    ///
    /// # Errors
    /// When what is kept cannot be trusted, or nothing can be kept.
    pub fn open(store: &Store, hosts: &BTreeSet<Box<str>>, clock: Arc<dyn Clock>) -> Result<Self, InterceptionError> {
        let now = clock.now().wall;
        let kept = read(store)?;
        if let Some((kept, _)) = &kept
            && kept.hosts.is_superset(hosts)
            && Duration::from_secs(kept.ends) > now + LEAST
        {
            return Self::of(kept, clock);
        }
        let made = make(hosts, now)?;
        let text = Zeroizing::new(serde_json::to_vec(&made).expect("texts and a number"));
        store.write(LABEL, kept.map_or(1, |(_, generation)| generation + 1), &text)?;
        let names: Vec<_> = hosts.iter().map(|host| &**host).collect();
        tracing::warn!(
            hosts = names.join(", "),
            "a local certificate authority was made: apps trust it when they have `countersign ca export`"
        );
        Self::of(&made, clock)
    }

    /// The certificate of the authority of a state folder, in PEM; `None` when there is none yet. Blocks.
    ///
    /// # Errors
    /// When what is kept cannot be trusted.
    pub fn exported(store: &Store) -> Result<Option<String>, InterceptionError> {
        Ok(read(store)?.map(|(kept, _)| kept.certificate.clone()))
    }

    fn of(kept: &Kept, clock: Arc<dyn Clock>) -> Result<Self, InterceptionError> {
        let key = KeyPair::from_pem(&kept.key)?;
        Ok(Self {
            hosts: kept.hosts.clone(),
            certificate: kept.certificate.clone(),
            ends: kept.ends,
            issuer: Issuer::new(params(&kept.name, &kept.hosts), key),
            leaves: Mutex::default(),
            clock,
        })
    }

    /// In PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Whether it may vouch for all of these, for a while.
    pub fn serves(&self, hosts: &BTreeSet<Box<str>>) -> bool {
        self.hosts.is_superset(hosts) && Duration::from_secs(self.ends) > self.clock.now().wall + LEAF
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
        let mut params = CertificateParams::new([bare(host)])?;
        params.distinguished_name.push(DnType::CommonName, "Countersign");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = (date(now.saturating_sub(ASKEW)), date(now + LEAF));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = CertifiedKey::from_der(vec![certificate.der().clone()], key, &tls::provider())?;
        let builder = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth();
        let mut config = builder.with_cert_resolver(Arc::new(OnlyAs { host: host.clone(), key: Arc::new(key) }));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
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

fn read(store: &Store) -> Result<Option<(Kept, u64)>, InterceptionError> {
    let (records, refused) = store.read(LABEL.kind)?;
    if let Some(refused) = refused.first() {
        return Err(InterceptionError::Refused(format!("{}: {}", refused.path.display(), refused.why)));
    }
    let Some(record) = records.into_iter().find(|record| record.name == LABEL.name) else { return Ok(None) };
    let kept = serde_json::from_slice(&record.content)
        .map_err(|_| InterceptionError::Refused("it does not hold what was written there".to_owned()))?;
    Ok(Some((kept, record.generation)))
}

fn make(hosts: &BTreeSet<Box<str>>, now: Duration) -> Result<Kept, InterceptionError> {
    let key = KeyPair::generate()?;
    // Two of one name would be taken for each other.
    let name = format!("Countersign on this machine, {:08x}", fastrand::u32(..));
    let ends = now + AUTHORITY;
    let mut params = params(&name, hosts);
    (params.not_before, params.not_after) = (date(now.saturating_sub(ASKEW)), date(ends));
    let certificate = params.self_signed(&key)?.pem();
    let (key, ends) = (key.serialize_pem(), ends.as_secs());
    Ok(Kept { name, certificate, key, ends, hosts: hosts.clone() })
}

fn params(name: &str, hosts: &BTreeSet<Box<str>>) -> CertificateParams {
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
fn constraints(hosts: &BTreeSet<Box<str>>) -> NameConstraints {
    let permitted: Vec<GeneralSubtree> = hosts.iter().map(|host| subtree(host)).collect();
    let has_address = permitted.iter().any(|subtree| matches!(subtree, GeneralSubtree::IpAddress(_)));
    let every_address = [CidrSubnet::V4([0; 4], [0; 4]), CidrSubnet::V6([0; 16], [0; 16])];
    let excluded = if has_address { Vec::new() } else { every_address.map(GeneralSubtree::IpAddress).into() };
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
