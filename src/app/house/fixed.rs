//! What a reload cannot change.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::audit::{Target, Usage};
use crate::config::Config;
use crate::secret::Reference;

#[derive(Clone, PartialEq)]
pub(super) struct Fixed {
    listen: Vec<crate::proxy::Address>,
    tls: Option<crate::tls::ServerSettings>,
    workers: usize,
    drain: Duration,
    limits: crate::proxy::Limits,
    telemetry: crate::telemetry::Settings,
    scrape: SocketAddr,
    state_dir: PathBuf,
    state_key: Option<Reference>,
    keep_generations: bool,
    vault: Option<crate::config::Vault>,
    audit_dir: PathBuf,
    audit_usage: Usage,
    audit_export: Vec<Target>,
    admin: crate::admin::Settings,
}

impl Fixed {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            listen: config.proxy.listen.clone(),
            tls: config.proxy.tls.clone(),
            workers: config.proxy.workers,
            drain: config.proxy.drain,
            limits: config.proxy.limits.clone(),
            telemetry: config.telemetry.clone(),
            scrape: config.scrape,
            state_dir: config.state_dir.clone(),
            state_key: config.state_key.clone(),
            keep_generations: config.keep_generations,
            vault: config.vault.clone(),
            audit_dir: config.audit.dir.clone(),
            audit_usage: config.audit.usage,
            audit_export: config.audit.export.clone(),
            admin: config.admin.clone(),
        }
    }

    /// The first key that would need a restart, if one changes.
    pub(super) fn differs(&self, new: &Self) -> Option<&'static str> {
        let table = [
            ("proxy.listen", self.listen != new.listen),
            ("proxy.tls", self.tls != new.tls),
            ("proxy.workers", self.workers != new.workers),
            ("proxy.drain", self.drain != new.drain),
            ("proxy.limits", self.limits != new.limits),
            ("telemetry.log", self.telemetry != new.telemetry),
            ("telemetry.listen", self.scrape != new.scrape),
            ("state.dir", self.state_dir != new.state_dir),
            ("state.key", self.state_key != new.state_key),
            ("state.keep_generations", self.keep_generations != new.keep_generations),
            ("vault", self.vault != new.vault),
            ("audit.dir", self.audit_dir != new.audit_dir),
            ("audit.usage", self.audit_usage != new.audit_usage),
            ("audit.export", self.audit_export != new.audit_export),
            ("admin", self.admin != new.admin),
        ];
        table.into_iter().find(|(_, changed)| *changed).map(|(key, _)| key)
    }
}
