//! TLS of the listeners for apps of other machines: what we prove ourselves with, whose certificates we take, and how both are
//! followed when their files are replaced.
//!
//! ```text
//!  accept ─▶ Arrival ─▶ room of its source? ─▶ handshake, with what the files hold now ─▶ certificate: a client, or nobody
//!                                └──────────────┴─▶ Failed: counted, told as sums
//! ```
//!
//! Invariants: each handshake meets the roots that are trusted at its time, no session is resumed past them, and a connection
//! does not long outlive what it was let in by; files that cannot be used change nothing; no source takes the handshakes of all
//! others.

mod failure;
mod source;

use std::cell::{OnceCell, RefCell};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use prometheus::IntGauge;
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;

use super::Caller;
use super::connect::Ended;
use super::places::Whom;
use super::stream::Socket;
use crate::authority::Host;
use crate::clock::Clock;
use crate::identity::Certificate;
use crate::metrics::{Error as MetricsError, Metrics as Registry};
use crate::room::Room;
use crate::tls::{Content, Error as TlsError, Server, ServerSettings, Shown, explain};
pub use failure::Failed;
use failure::{Failures, Sum};
use source::source;

/// Handshakes under way at a time, over all workers.
const HANDSHAKES: usize = 1024;

/// Of these, of one source: many apps may stand behind one address, and all of them begin anew at once.
const OF_ONE: usize = 128;

/// Why there is no TLS for apps.
#[derive(Debug, thiserror::Error)]
pub enum SecuredError {
    #[error("`tls` in [proxy]: {0}")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// The TLS of the listeners that are `tls:`.
pub struct Secured {
    settings: ServerSettings,
    current: ArcSwap<Current>,
    memory: Mutex<Memory>,
    success: IntGauge,
    /// For handshakes.
    room: Arc<Room<Option<IpAddr>>>,
    failures: Failures,
}

/// What was seen of files that are not taken.
#[derive(Default)]
struct Memory {
    last: Option<Content>,
    refused: Option<(Content, Shown)>,
}

/// As the files were when they were read last.
struct Current {
    server: Server,
    content: Content,
    certificates: Shown,
}

impl Secured {
    /// # Errors
    /// When a file cannot be read or used.
    pub fn new(settings: &ServerSettings, certificates: Shown, registry: &Registry) -> Result<Self, SecuredError> {
        let success = registry
            .gauge("tls_reload_success", "1 if the files of [proxy] tls that are there are in use, 0 if not.")?;
        success.set(1);
        Ok(Self {
            settings: settings.clone(),
            current: ArcSwap::from_pointee(Current::read(settings, certificates)?),
            memory: Mutex::default(),
            success,
            room: Room::new(HANDSHAKES, OF_ONE),
            failures: Failures::register(registry)?,
        })
    }

    /// Looks at the files, and takes them when they differ from what is in use and have not changed since the last look: a
    /// certificate and its key are seldom replaced at once. `None`: there is nothing to tell. Blocks for as long as small
    /// local files take.
    ///
    /// # Errors
    /// When a file cannot be read or used, once for what they hold: what was there before goes on.
    pub fn look(&self, certificates: Shown) -> Option<Result<(), TlsError>> {
        let content = self.settings.content();
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.load();
        let rests = memory.last.replace(content) == Some(content) || current.content == content;
        if (current.content, current.certificates) == (content, certificates) {
            memory.refused = None;
            self.success.set(1);
            return None;
        }
        if !rests || memory.refused == Some((content, certificates)) {
            return None;
        }
        let taken = Current::read(&self.settings, certificates).map(|read| self.current.store(Arc::new(read)));
        memory.refused = taken.is_err().then_some((content, certificates));
        self.success.set(taken.is_ok().into());
        Some(taken)
    }

    /// The handshakes that have failed since the last call, in sums.
    pub fn failed(&self) -> Vec<Sum> {
        self.failures.take()
    }
}

impl Current {
    fn read(settings: &ServerSettings, certificates: Shown) -> Result<Self, TlsError> {
        // Looked at first: what is replaced meanwhile differs at the next look.
        let content = settings.content();
        Ok(Self { server: settings.server_of_apps(certificates)?, content, certificates })
    }
}

/// A connection under TLS, and what its handshake has shown.
pub struct Arrival {
    secured: Arc<Secured>,
    /// The address that it comes from, and ours that it came to.
    from: Option<IpAddr>,
    at: Option<IpAddr>,
    shaken: OnceCell<Shaken>,
    /// What the app calls us, as we saw last.
    called: RefCell<Option<Host>>,
}

struct Shaken {
    certificate: Option<Certificate>,
    /// All that was shown.
    chain: Box<[CertificateDer<'static>]>,
    with: Arc<Current>,
    verified: RefCell<Verified>,
}

/// By whom what was shown was verified last, when, and whether it was good.
struct Verified {
    by: Arc<Current>,
    at: Duration,
    is_good: bool,
}

/// How often a certificate that was let in is verified again.
const AGAIN: Duration = Duration::from_secs(60);

impl Arrival {
    pub fn new(secured: Arc<Secured>, from: Option<IpAddr>, at: Option<IpAddr>) -> Self {
        Self { secured, from, at, shaken: OnceCell::new(), called: RefCell::new(None) }
    }

    /// The certificate that TLS has verified, if the client has shown one.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.shaken.get().and_then(|shaken| shaken.certificate.as_ref())
    }

    /// Whether this host means us: a name of our certificate, or the address that the client came to.
    pub fn is_at(&self, host: &Host) -> bool {
        if self.called.borrow().as_ref() == Some(host) {
            return true;
        }
        let Some(shaken) = self.shaken.get() else { return false };
        let is_ours = match host {
            Host::Ip(ip) => self.at == Some(ip.to_canonical()) || shaken.with.server.is_for(&ip.to_string()),
            Host::Name(name) => shaken.with.server.is_for(name),
        };
        if is_ours {
            // An app calls us by one name, and reading a certificate takes its time.
            self.called.replace(Some(host.clone()));
        }
        is_ours
    }

    /// Whether what was shown would not be let in any more: nobody vouches for it now, or its time is over. `now` is since the
    /// Unix epoch.
    pub fn is_outdated(&self, now: Duration) -> bool {
        let Some(shaken) = self.shaken.get() else { return false };
        let mut verified = shaken.verified.borrow_mut();
        let current = self.secured.current.load();
        if !Arc::ptr_eq(&verified.by, &current) || verified.at.abs_diff(now) >= AGAIN {
            let is_good = current.server.takes(&shaken.chain, now);
            *verified = Verified { by: Arc::clone(&current), at: now, is_good };
        }
        !verified.is_good
    }

    /// Shakes hands; `None` when that fails, which is counted.
    pub async fn shake_hands(&self, io: Box<dyn Socket>, limit: Duration, clock: &dyn Clock) -> Option<Ended> {
        let failures = &self.secured.failures;
        let Some(_place) = self.secured.room.enter(self.from.map(source)) else {
            failures
                .count(Failed::Crowded, self.from, || "too many are under way, of this source or of all".to_owned());
            return None;
        };
        let with = self.secured.current.load_full();
        match timeout(limit, Ended::accept(with.server.config.clone(), io, Bytes::new())).await {
            Ok(Ok(ended)) => {
                let (certificate, chain) = (ended.shown().first().map(Certificate::of), ended.shown().into());
                let verified = RefCell::new(Verified { by: with.clone(), at: clock.now().wall, is_good: true });
                // A connection shakes hands once.
                let _ = self.shaken.set(Shaken { certificate, chain, with, verified });
                Some(ended)
            }
            Ok(Err(error)) => {
                failures.count(Failed::of(&error), self.from, || explain(&error));
                None
            }
            Err(_) => {
                failures.count(Failed::Timeout, self.from, || format!("it took longer than {limit:?}"));
                None
            }
        }
    }
}

impl Caller {
    /// Whose room its connection takes.
    pub(super) fn whom(&self) -> Whom {
        match (&self.tls, self.peer.uid) {
            (Some(arrival), None) => arrival.from.map_or(Whom::User(None), |from| Whom::Machine(source(from))),
            (_, user) => Whom::User(user),
        }
    }
}
