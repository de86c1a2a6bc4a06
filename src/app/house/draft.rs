//! A configuration built, as far as it is in force: whatever can fail is done, and nothing is asked of anybody.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Ground, Tokens};
use crate::alert;
use crate::app::force::{self, InForce};
use crate::app::restraint::Restraints;
use crate::audit::{Event, OnFailure, Recorder};
use crate::dial::{Dialer, Tunnel, tunnel};
use crate::fetch::{Fetcher, RemoteError};
use crate::identity::job::{Jobs, Office};
use crate::identity::{Clients, KeyError};
use crate::interception::{self, Hosts, Interception, InterceptionError};
use crate::name::{RouteName, TokenName};
use crate::route::{self, Ingredients, RouteToken, Table, TableError};
use crate::store::{Store, StoreError};
use crate::tasks::Tasks;
use crate::token::moved::Moves;
use crate::token::probe::Probe;
use crate::token::rest::Origin;
use crate::token::revocation::Revoker;
use crate::token::source::{self, BuildError, Keep};
use crate::token::{self, Gate, Next, Parts, Prepared, SlotReader, Token};
use crate::vault::Vault;

pub(super) struct Draft {
    pub table: Table,
    pub kept: Tokens,
    pub prepared: Vec<Prepared>,
    pub tunnel: Option<Arc<Tunnel>>,
    pub sinks: Vec<alert::Prepared>,
}

/// Why a configuration that is well-formed cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    #[error("token {0}: {1}")]
    Source(TokenName, BuildError),
    #[error("the probe of token {0}: {1}")]
    Probe(TokenName, RemoteError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("the issuer of a client's `jwt`: {0}")]
    Jobs(#[from] RemoteError),
    #[error(transparent)]
    Interception(#[from] InterceptionError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Alert(#[from] alert::PrepareError),
    #[error("vault: {0}")]
    Vault(RemoteError),
    #[error("upstream_proxy: {0}")]
    UpstreamProxy(#[from] tunnel::SetUpError),
}

/// What a draft is made with.
pub(super) struct Kitchen<'a> {
    pub ground: &'a Ground,
    pub metrics: &'a token::Metrics,
    pub fetcher: &'a Arc<Fetcher>,
    pub vault: Option<&'a Arc<Vault>>,
    pub dialer: &'a Arc<Dialer>,
    pub revoker: &'a Revoker,
    pub restraints: &'a Restraints,
    pub jobs: &'a Arc<Office>,
}

impl Kitchen<'_> {
    /// Everything that can fail without asking anybody: sources, upstreams, the table.
    pub(super) fn draft(
        &self,
        in_force: &InForce,
        before: &Tokens,
        table: Option<&Table>,
        keep_upstreams: bool,
    ) -> Result<Draft, DraftError> {
        let InForce { config, gates, barred, grants, .. } = in_force;
        if let (Some(named), Some(vault)) = (&config.vault, self.vault) {
            named.opening.lead_to(vault.clone());
        }
        let (mut kept, mut prepared) = (Tokens::new(), Vec::new());
        for settings in &config.tokens {
            let old = before.get(&settings.name);
            let is_retired = self.restraints.is_retired(&settings.name, grants.get(&settings.name));
            // The settings of a token do not tell whether somebody has ended the grant that it lives by.
            let goes_on = |token: &&Arc<Token>| *token.settings == *settings && token.is_retired() == is_retired;
            if let Some(token) = old.filter(goes_on) {
                kept.insert(settings.name.clone(), token.clone());
                continue;
            }
            let keep = Keep { keeping: self.ground.keeping.clone(), token: settings.name.clone() };
            let build = |source| {
                let clock = self.ground.clock.clone();
                source::build(source, self.fetcher, self.vault, clock, Some(keep.clone()))
                    .map_err(|error| DraftError::Source(settings.name.clone(), error))
            };
            let source = build(&settings.source)?;
            let next = settings.next_source.as_ref().map(build).transpose()?;
            let probe = settings.probe.as_ref().map(|probe| {
                let built = Probe::new(probe, settings.placement.clone(), self.fetcher.clone());
                built.map(Arc::new).map_err(|error| DraftError::Probe(settings.name.clone(), error))
            });
            let terms = config.terms.get(&settings.name);
            let grant = grants.get(&settings.name).map(ToString::to_string).unwrap_or_default();
            let rest = |source: &str| {
                let origin = Origin { source: source.to_owned(), terms: grant.clone() };
                self.ground.resting.of(&settings.name, origin)
            };
            let reference = terms.map(|terms| terms.source.clone()).unwrap_or_default();
            let next_reference = terms.and_then(|terms| terms.next_source.clone()).unwrap_or_default();
            let parts = Parts {
                probe: probe.transpose()?,
                clock: self.ground.clock.clone(),
                recorder: self.ground.recorder.clone(),
                fingerprinter: self.ground.fingerprinter.clone(),
                metrics: self.metrics.clone(),
                revoker: self.revoker.clone(),
                rest: rest(&reference),
                source_reference: reference,
                moves: self.ground.moves.clone(),
                next: next.map(|source| Next {
                    source: source.into(),
                    rest: rest(&next_reference),
                    reference: next_reference,
                }),
            };
            let gate = gates.get(&settings.name).copied().unwrap_or(Gate::Open);
            let restraint = self.restraints.of(&settings.name);
            let new = Prepared::new(settings.clone(), source, parts, old.map(|old| &**old), restraint);
            let new = new.behind(gate);
            prepared.push(if is_retired { new.retired() } else { new });
        }
        let new: HashMap<&TokenName, &Prepared> = prepared.iter().map(|new| (&new.settings().name, new)).collect();
        let find = |route: &RouteName, name: &TokenName| {
            let kept = kept.get(name).map(|token| (&*token.settings, &token.reader));
            let (settings, reader) = kept.or_else(|| new.get(name).map(|new| (new.settings(), &new.reader)))?;
            let reader = barred.get(route).map_or_else(|| reader.clone(), |gate| SlotReader::barred(*gate));
            let offer = force::offer(config, settings).map(Arc::new);
            Some(RouteToken { name: name.clone(), placement: settings.placement.clone(), reader, offer })
        };
        let clients = Clients::new(config.clients.clone(), rustix::process::geteuid().as_raw());
        let clients = clients.with_keys(&self.ground.fingerprinter)?;
        let jobs = Jobs::new(clients.jobs(), self.jobs, table.and_then(|table| table.jobs.as_deref()))?;
        let table = Table::new(
            &config.routes,
            Ingredients {
                clients,
                jobs: jobs.map(Arc::new),
                client_policies: &config.client_policies,
                dialer: self.dialer.clone(),
                acquire_timeout: config.proxy.acquire_timeout,
                interception: self.interception(&config.routes, table)?,
                tunnels: config.proxy.tunnels,
                refuse_without_trail: config.audit.on_failure == OnFailure::Refuse,
                metrics: &self.ground.usage,
                clock: &self.ground.clock,
                announcements: &self.ground.announcements,
                token: &find,
                hold: &|client, token| self.ground.holds.of(client, token),
                before: table,
                keep_upstreams,
            },
        )?;
        let tunnel = config.upstream_proxy.as_ref().map(Tunnel::new).transpose()?;
        let sinks = alert::prepare(&config.alerts)?;
        Ok(Draft { table, kept, prepared, tunnel: tunnel.map(Arc::new), sinks })
    }

    /// What looks into tunnels to the routes that want it: the one that is there, as long as it may.
    fn interception(
        &self,
        routes: &[route::Settings],
        before: Option<&Table>,
    ) -> Result<Option<Arc<Interception>>, InterceptionError> {
        let hosts: Hosts = routes
            .iter()
            .filter(|route| route.intercept)
            .map(|route| interception::bare(&route.upstream.authority.host).into())
            .collect();
        if hosts.is_empty() {
            return Ok(None);
        }
        match before.and_then(|before| before.interception.clone()) {
            Some(kept) if kept.fits(&hosts) => Ok(Some(kept)),
            Some(kept) => Ok(Some(Arc::new(kept.following(&hosts)?))),
            None => {
                let opened = Interception::open(&self.ground.store, &hosts, self.ground.clock.clone())?;
                Ok(Some(Arc::new(opened)))
            }
        }
    }
}

/// Which tokens have moved to their next source, as a former run left it. Blocks.
pub(in crate::app) fn moves(store: &Arc<Store>, tasks: &Tasks, recorder: &Recorder) -> Result<Arc<Moves>, StoreError> {
    let (moves, refused) = Moves::open(store.clone(), tasks.clone())?;
    for refused in refused {
        let (file, reason) = (refused.path.display().to_string(), refused.why.to_string());
        tracing::error!(file, reason, "whether a token has moved is not known: it begins with its own source");
        recorder.note(Event::StateRejected { file, reason });
    }
    Ok(moves)
}

/// What apps are to trust is on the disk before anybody is answered with it. Blocks.
pub(super) fn keep_authorities(table: &Table, ground: &Ground) -> Result<(), DraftError> {
    if let Some(authorities) = &table.interception {
        authorities.keep(&ground.store)?;
    }
    Ok(())
}

pub(super) fn begin(prepared: Vec<Prepared>, tasks: &Tasks) -> impl Iterator<Item = (TokenName, Arc<Token>)> {
    prepared.into_iter().map(|prepared| {
        let token = prepared.begin(tasks);
        (token.settings.name.clone(), Arc::new(token))
    })
}
