//! What a configuration turns into, and how another takes its place: tokens that did not change live on, what is new is
//! recorded and started, the table is swapped in at once, and what is gone is retired.

mod draft;
mod fixed;
mod jobs;
mod reports;
mod requests;
mod swap;
mod warm;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus::IntGauge;

use super::StartError;
use super::conditions::Conditions;
use super::desk::{Desk, SettleError, Told};
use super::drill::Drills;
use super::force::{self, InForce};
use super::former::Former;
use super::ghosts::Ghosts;
use super::holds::Holds;
use super::keep::NotKept;
use super::precedence::Precedence;
use super::reload::Asks;
use super::restraint::Restraints;
use super::review::Review;
use super::trials::Trials;
use super::unused::{Unused, Why};
use super::watching::Watching;
use crate::access::request::RequestId;
use crate::admin;
use crate::alert::Alerts;
use crate::announced::Announcements;
use crate::audit::{Event, Recorder};
use crate::barrier::Barrier;
use crate::clock::{Clock, Moment};
use crate::config::Config;
use crate::dial::{Dialer, Resolver};
use crate::fetch::Fetcher;
use crate::identity::{Clients, Peer, job};
use crate::metrics::Metrics;
use crate::name::TokenName;
use crate::operator::Operators;
use crate::proxy::{Cut, Secured, Tripwires, Wants};
use crate::readiness::{Condition, Readiness};
use crate::route::Table;
use crate::secret::Fingerprinter;
use crate::store::Store;
use crate::tasks::{Task, Tasks};
use crate::token::moved::Moves;
use crate::token::rest::Resting;
use crate::token::revocation::{Cause, Revoker};
use crate::token::source::Keeping;
use crate::token::{self, Order, Restraint, RotateError, Token};
use crate::usage;
use crate::vault::Vault;
pub use draft::DraftError;
pub(super) use draft::moves;
use draft::{Draft, Kitchen, begin, keep_authorities};
use fixed::Fixed;
use requests::Aside;
pub(super) use requests::nonce;

/// What stays over reloads.
pub(super) struct Ground {
    pub clock: Arc<dyn Clock>,
    pub recorder: Recorder,
    pub fingerprinter: Arc<Fingerprinter>,
    pub metrics: Metrics,
    pub usage: usage::Metrics,
    pub readiness: Arc<Readiness>,
    pub tasks: Tasks,
    pub barrier: Arc<Barrier<Cut>>,
    pub store: Arc<Store>,
    pub keeping: Arc<Keeping>,
    pub resting: Arc<Resting>,
    /// Which tokens have left their source for the next one.
    pub moves: Arc<Moves>,
    /// What refused requests lacked.
    pub wants: Arc<Wants>,
    /// Phantom keys where they cannot be.
    pub tripwires: Arc<Tripwires>,
    /// What services say of their own end.
    pub announcements: Arc<Announcements>,
    /// Of listeners under TLS, where there is one.
    pub secured: Option<Arc<Secured>>,
    pub review: Arc<Review>,
    pub alerts: Arc<Alerts>,
    pub holds: Arc<Holds>,
    pub watching: Arc<Watching>,
    /// Our own listeners, which are never dialled.
    pub own: Vec<SocketAddr>,
}

pub(super) struct House {
    pub(super) ground: Ground,
    token_metrics: token::Metrics,
    tables: Arc<ArcSwap<Table>>,
    reload_success: IntGauge,
    reload_time: IntGauge,
    /// What the running configuration was made of. One reload at a time.
    running: tokio::sync::Mutex<Running>,
    /// Who takes something away has its turn before who lets something in.
    taking_away: Precedence,
    tokens: Mutex<Arc<Tokens>>,
    pub(super) desk: Desk,
    former: Former,
    aside: Mutex<Aside>,
    /// Which phantom keys could not be read the last time, and why.
    key_troubles: Mutex<BTreeSet<String>>,
    leaving: Mutex<Vec<Leaving>>,
    fetcher: Arc<Fetcher>,
    vault: Option<Arc<Vault>>,
    dialer: Arc<Dialer>,
    operators: ArcSwap<Operators>,
    /// The config in force, as operators may see it.
    shown: ArcSwap<serde_json::Value>,
    asks: Asks,
    pub(super) revoker: Revoker,
    _telling: Task,
    jobs: Arc<job::Office>,
    _asking: Task,
    pub(super) restraints: Restraints,
    pub(super) unused: Unused,
    pub(super) ghosts: Ghosts,
    pub(super) outdated: Unused,
    pub(super) drills: Drills,
    pub(super) trials: Trials,
    pub(super) conditions: Conditions,
}

/// The longest that a replaced token outlives the swap.
const LEAVE_WITHIN: Duration = Duration::from_secs(60);

/// The longest that the end of the process waits for the vault.
const FAREWELL: Duration = Duration::from_secs(3);

type Tokens = BTreeMap<TokenName, Arc<Token>>;

struct Running {
    fixed: Fixed,
    /// As the file has it: how much of it is in force is decided by what is granted.
    config: Config,
    /// The grants that are in force on top of it, as far as issuers give what they take.
    on_top: BTreeSet<RequestId>,
    /// As much of it as is in force.
    force: InForce,
}

/// Tokens whose successors are in force, and the table whose last requests may still carry them.
struct Leaving {
    table: Weak<Table>,
    tokens: Vec<Arc<Token>>,
    until: Moment,
}

/// Why a new configuration was not taken; the old one goes on.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("`{0}` takes effect at a restart only: restart, or put its old value back")]
    NeedsRestart(&'static str),
    #[error(transparent)]
    Draft(#[from] DraftError),
    #[error("token {0} is new in part, and its issuer gives no generation for it yet: try again when it does")]
    NotReady(TokenName),
    #[error("the audit trail cannot be written, and no new configuration is let in without it: {0}")]
    Trail(#[from] crate::audit::Unavailable),
    #[error("what is granted cannot be kept, and nothing is let in that a restart would not know: {0}")]
    Kept(#[from] NotKept),
}

impl From<SettleError> for ReloadError {
    fn from(error: SettleError) -> Self {
        match error {
            SettleError::Trail(error) => Self::Trail(error),
            SettleError::Kept(error) => Self::Kept(error),
        }
    }
}

/// Why a token was not rotated.
#[derive(Debug, thiserror::Error)]
pub enum RotateNamedError {
    #[error("there is no token {0}")]
    NoToken(TokenName),
    #[error("token {0}: {1}")]
    Rotate(TokenName, RotateError),
}

impl House {
    /// Builds the first configuration: its tokens' lives begin.
    pub(super) async fn build(ground: Ground, resolver: Resolver, config: &Config) -> Result<Arc<Self>, StartError> {
        let metrics = &ground.metrics;
        let token_metrics = token::Metrics::register(metrics)?;
        let reload_success =
            metrics.gauge("config_reload_success", "1 if the last configuration was taken, 0 if not.")?;
        let reload_time =
            metrics.gauge("config_reload_timestamp_seconds", "When a configuration was last taken, as Unix time.")?;
        let dialer = Dialer::new(config.destinations.clone(), ground.own.clone()).with_resolver(resolver);
        let dialer = Arc::new(dialer);
        let fetcher = Arc::new(Fetcher::new(dialer.clone()).telling(ground.announcements.clone()));
        let vault =
            config.vault.as_ref().map(|named| Vault::new(&named.settings, fetcher.clone(), ground.clock.clone()));
        let vault = vault.transpose().map_err(DraftError::Vault)?.map(Arc::new);
        let (revoker, tellings) = Revoker::new(
            metrics,
            ground.clock.clone(),
            ground.recorder.clone(),
            ground.store.clone(),
            ground.tasks.clone(),
        )?;
        let telling = ground.tasks.essential("revocations", revoker.clone().run(tellings));
        let restraints = Restraints::open(ground.store.clone(), ground.barrier.clone(), &ground.recorder)?;
        let unused = Unused::open(Why::Unused, ground.store.clone(), metrics)?;
        let outdated = Unused::open(Why::Outdated, ground.store.clone(), metrics)?;
        let ghosts = Ghosts::new(metrics)?;
        let (jobs, asked) = job::Office::new(ground.clock.clone(), metrics)?;
        let asking = ground.tasks.essential("issuers of jobs", jobs.clone().run(asked, fetcher.clone()));
        let kitchen = Kitchen {
            ground: &ground,
            metrics: &token_metrics,
            fetcher: &fetcher,
            vault: vault.as_ref(),
            dialer: &dialer,
            revoker: &revoker,
            restraints: &restraints,
            jobs: &jobs,
        };
        let (store, recorder, clock) = (ground.store.clone(), ground.recorder.clone(), ground.clock.clone());
        let (former, sources) = Former::open(store.clone(), config, &recorder)?;
        let desk = Desk::open(store, recorder, clock, metrics)?;
        desk.know(sources);
        let mut proposal = desk.ask(config).await;
        let on_top = force::on_top(&proposal.register, ground.clock.now().wall, &BTreeSet::new());
        let force = force::in_force(config, &proposal.register, &desk.sources(), &on_top);
        let Draft { table, mut prepared, tunnel, sinks, .. } = kitchen.draft(&force, &Tokens::new(), None, false)?;
        dialer.through(tunnel);
        keep_authorities(&table, &ground)?;
        ground.alerts.settle(sinks, &ground.tasks, &fetcher);
        let mut told = Told::default();
        desk.record_patiently(&mut proposal, &mut told, pending()).await?;
        if let Err(error) = desk.keep(proposal).await {
            desk.take_back(told);
            return Err(error.into());
        }
        former.remember(config, &desk.register()).await;
        warm::take_up(&mut prepared, &ground, &revoker)?;
        let tokens: Tokens = begin(prepared, &ground.tasks).collect();
        revoker.resume(|name, reference| tokens.get(name).and_then(|token| token.source_known_by(reference)))?;
        let house = Arc::new(Self {
            token_metrics,
            tables: Arc::new(ArcSwap::from_pointee(table)),
            reload_success,
            reload_time,
            running: tokio::sync::Mutex::new(Running {
                fixed: Fixed::of(config),
                config: config.clone(),
                on_top,
                force,
            }),
            taking_away: Precedence::default(),
            tokens: Mutex::new(Arc::new(tokens)),
            desk,
            former,
            aside: Mutex::default(),
            key_troubles: Mutex::default(),
            leaving: Mutex::default(),
            fetcher,
            vault,
            dialer,
            operators: ArcSwap::from_pointee(operators(config)),
            shown: ArcSwap::from_pointee(config.shown.clone()),
            asks: Asks::default(),
            revoker,
            _telling: telling,
            jobs,
            _asking: asking,
            restraints,
            unused,
            outdated,
            ghosts,
            drills: Drills::default(),
            trials: Trials::default(),
            conditions: Conditions::default(),
            ground,
        });
        house.taken();
        Ok(house)
    }

    /// The one in force.
    pub(super) fn table(&self) -> Arc<Table> {
        self.tables.load_full()
    }

    pub(super) fn tables(&self) -> Arc<ArcSwap<Table>> {
        self.tables.clone()
    }

    /// Who makes our own calls.
    pub(super) fn fetcher(&self) -> &Arc<Fetcher> {
        &self.fetcher
    }

    pub(super) fn public_keys(&self) -> Vec<serde_json::Value> {
        self.tokens().values().flat_map(|token| token.public_keys()).collect()
    }

    /// From now on readiness waits for the required tokens.
    pub(super) fn ready(&self) {
        let tokens = self.tokens();
        let required = tokens.values().filter(|token| token.settings.required && !token.reader.is_barred());
        let conditions = required.map(|token| {
            let (reader, clock) = (token.reader.clone(), self.ground.clock.clone());
            Condition {
                name: format!("token {}", token.settings.name),
                holds: Box::new(move || reader.withdrawn().is_some() || reader.is_usable(clock.now())),
            }
        });
        let mut conditions: Vec<Condition> = conditions.collect();
        let recorder = self.ground.recorder.clone();
        conditions.push(Condition { name: "audit trail".into(), holds: Box::new(move || recorder.is_healthy()) });
        self.ground.readiness.wait_for(conditions);
    }

    /// Puts the sums of refused requests into the trail.
    pub(super) fn record_refusals(&self) {
        for cell in self.tables.load().cells() {
            for (token, reason, count) in cell.take_refusals() {
                self.ground.recorder.note(Event::TokenRefused {
                    token: token.clone(),
                    route: cell.route.clone(),
                    client: cell.client.clone(),
                    reason,
                    count,
                });
            }
        }
    }

    /// Keeps the login to the vault good, where there is one.
    pub(super) fn look_after_vault(&self) -> Option<Task> {
        self.vault.as_ref().map(|vault| vault.look_after(&self.ground.tasks))
    }

    /// Nothing is asked of the vault any more: what it gave us is void.
    pub(super) async fn leave_vault(&self) {
        if let Some(vault) = &self.vault {
            // It runs out by itself, too.
            let _ = tokio::time::timeout(FAREWELL, vault.leave()).await;
        }
    }

    /// Ends the supervisors. Requests have ended by now.
    pub(super) fn close(&self) {
        *self.lock() = Arc::new(Tokens::new());
    }

    /// Lets go of replaced tokens that no request can carry any more. Called now and then.
    pub(super) async fn let_go(&self) {
        let now = self.ground.clock.now();
        let gone: Vec<Leaving> = self
            .leaving()
            .extract_if(.., |leaving| leaving.table.strong_count() == 0 || leaving.until.reached(now))
            .collect();
        for token in gone.iter().flat_map(|leaving| &leaving.tokens) {
            token.control.step_down(Cause::Replaced).await;
        }
    }

    pub(super) fn key_troubles(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.key_troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Leaving>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what runs is what was asked for last.
    pub(super) fn is_config_taken(&self) -> bool {
        self.reload_success.get() == 1
    }

    fn taken(&self) {
        self.reload_success.set(1);
        self.reload_time.set(i64::try_from(self.ground.clock.now().wall.as_secs()).unwrap_or(i64::MAX));
    }

    /// Tokens of this name whose successors are in force, and which requests may still carry.
    pub(super) fn replaced(&self, name: &TokenName) -> Vec<Arc<Token>> {
        let leaving = self.leaving();
        let tokens = leaving.iter().flat_map(|leaving| &leaving.tokens);
        tokens.filter(|token| token.settings.name == *name).cloned().collect()
    }

    pub(super) fn all_replaced(&self) -> Vec<Arc<Token>> {
        self.leaving().iter().flat_map(|leaving| leaving.tokens.clone()).collect()
    }

    pub(super) fn tokens(&self) -> Arc<Tokens> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Tokens>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl admin::House for House {
    fn operators(&self) -> Arc<Operators> {
        self.operators.load_full()
    }

    fn tokens(&self) -> Vec<Arc<Token>> {
        House::tokens(self).values().cloned().collect()
    }

    fn config(&self) -> Arc<serde_json::Value> {
        self.shown.load_full()
    }

    fn restrain<'a>(
        &'a self,
        token: &'a TokenName,
        restraint: Restraint,
        order: Order,
    ) -> admin::Pending<'a, Result<(), admin::NotDone>> {
        Box::pin(House::restrain(self, token, restraint, order))
    }

    fn release<'a>(&'a self, token: &'a TokenName, order: Order) -> admin::Pending<'a, Result<(), admin::NotDone>> {
        Box::pin(House::release(self, token, order))
    }

    fn retire<'a>(&'a self, token: &'a TokenName) -> admin::Pending<'a, Result<(), admin::NotDone>> {
        Box::pin(House::retire(self, token))
    }

    fn drill<'a>(
        &'a self,
        token: &'a TokenName,
        order: Order,
    ) -> admin::Pending<'a, Result<admin::Drill, admin::NotDrilled>> {
        Box::pin(House::drill(self, token, order))
    }

    fn job<'a>(&'a self, token: &'a [u8], peer: &'a Peer) -> admin::Pending<'a, admin::Bearer> {
        Box::pin(self.job_of(token, peer))
    }

    fn reload(&self) -> admin::Pending<'_, Result<admin::Reloaded, admin::NotReloaded>> {
        Box::pin(self.asks.ask())
    }
}

fn operators(config: &Config) -> Operators {
    let own_uid = rustix::process::geteuid().as_raw();
    Operators::new(config.operators.clone(), &Clients::new(config.clients.clone(), own_uid), own_uid)
}

/// What may be done to the running app.
#[derive(Clone)]
pub struct Handle(Arc<House>);

impl Handle {
    pub(super) fn new(house: Arc<House>) -> Self {
        Self(house)
    }

    /// The certificates of the local authorities, in PEM; `None` where no route intercepts.
    pub fn certificate_authorities(&self) -> Option<String> {
        self.0.tables.load().interception.as_ref().map(|authorities| authorities.certificates())
    }

    /// Puts another configuration in force, whole, or none of it.
    ///
    /// # Errors
    /// When it cannot be had: the old one goes on then.
    pub async fn reload(&self, config: &Config) -> Result<(), ReloadError> {
        let outcome = self.0.reload(config).await;
        if outcome.is_err() {
            self.refused(1);
        }
        outcome
    }

    /// A new configuration was not even well-formed: says so in the metric and the trail.
    pub fn refused(&self, problems: usize) {
        self.0.reload_success.set(0);
        let problems = u32::try_from(problems).unwrap_or(u32::MAX);
        self.0.ground.recorder.note(Event::ReloadRefused { problems });
    }

    /// Those who ask for a reload. There is one who hears them.
    pub(super) fn asks(&self) -> &Asks {
        &self.0.asks
    }

    /// Rotates a token now; resolves with the number of its new generation when that is live.
    ///
    /// # Errors
    /// When there is no such token, or its issuer gives no new generation.
    pub async fn rotate(&self, name: &TokenName) -> Result<u64, RotateNamedError> {
        let token = self.0.tokens().get(name).cloned().ok_or_else(|| RotateNamedError::NoToken(name.clone()))?;
        token.control.rotate().await.map_err(|error| RotateNamedError::Rotate(name.clone(), error))
    }
}
