//! A token that lies in a key-value engine of the vault, where somebody else replaces it.

use std::sync::Arc;
use std::time::Duration;

use super::Made;
use crate::clock::{Clock, Moment};
use crate::token::source::lifetime::{NoEnd, end_told};
use crate::token::source::{Failure, Issued, Obtaining, Pace, Reason, Source, found};
use crate::vault::{Engine, Vault};

/// `source = { kind = "vault_kv", path = "secret/ci", field = "token" }`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub path: String,
    pub made: Made,
    /// `None`: the vault is asked.
    pub engine: Option<Engine>,
    /// The one that is wanted, instead of the newest.
    pub version: Option<u64>,
    /// How often it is looked whether there is another.
    pub every: Duration,
}

pub struct Kv {
    settings: Settings,
    vault: Arc<Vault>,
    clock: Arc<dyn Clock>,
}

impl Kv {
    pub fn new(settings: Settings, vault: Arc<Vault>, clock: Arc<dyn Clock>) -> Self {
        Self { settings, vault, clock }
    }

    async fn ask(&self) -> Result<Issued, Failure> {
        let Settings { path, made, engine, version, .. } = &self.settings;
        let read = self.vault.read(path, *engine, *version).await?;
        let now = self.clock.now();
        let issued = found(made.of(|name| read.field(name))?, now)?;
        let expires = match (issued.expires, read.deletion().map(|time| deletion(time, now)).transpose()?) {
            (Some(own), Some(deletion)) => Some(own.earlier(deletion)),
            (own, deletion) => own.or(deletion),
        };
        Ok(Issued { expires, version: read.version(), ..issued })
    }
}

/// The vault gives it no longer after that.
fn deletion(time: &str, now: Moment) -> Result<Moment, Failure> {
    end_told(time, now, now).map_err(|why| match why {
        NoEnd::NotATime => Failure::transient(Reason::Malformed, "the vault's `deletion_time` is no time"),
        NoEnd::Passed => Failure::transient(Reason::Expired, "its `deletion_time` has passed"),
    })
}

impl Source for Kv {
    fn obtain(&self) -> Obtaining<'_> {
        Box::pin(self.ask())
    }

    fn kind(&self) -> &'static str {
        "vault_kv"
    }

    fn pace(&self) -> Pace {
        Pace { between_calls: Duration::from_secs(1), recheck: self.settings.every }
    }

    fn mints(&self) -> bool {
        false
    }
}
