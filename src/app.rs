//! The whole of it, put together: binds, starts, reloads, drains.
//!
//! ```text
//!  Config ─▶ App::bind ─▶ Bound { addresses } ─▶ run(shutdown) ─▶ drained
//!                            └▶ Handle: reload, rotate ◀─ Reloads: the file, when it changes
//! ```
//!
//! Invariants: nothing is let in before the trail has it; a configuration takes effect whole, in one swap, or not at all.

mod announce;
mod changes;
mod conditions;
mod desk;
mod drill;
pub mod environment;
mod force;
mod former;
mod ghosts;
mod holds;
mod house;
mod keep;
mod precedence;
mod reading;
mod reload;
mod restraint;
mod review;
mod rollback;
mod secured;
mod trials;
mod tripwires;
mod unused;
mod used;
mod watching;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

pub use announce::{Vitals, announce};
pub use desk::judge;
pub use house::{DraftError, Handle, ReloadError, RotateNamedError};
pub use reload::{Reloads, warn_of, warn_of_the_trail};

use crate::admin::{self, Admin, Door};
use crate::alert::{self, Alerts};
use crate::announced::Announcements;
use crate::audit::{self, Archive, Event, Exports};
use crate::barrier::Barrier;
use crate::clock::Clock;
use crate::config::Config;
use crate::dial::Resolver;
use crate::fetch::RemoteError;
use crate::metrics::{Error as MetricsError, Metrics};
use crate::proxy::{
    self, Address, BindError, Listener, Places, Pulses, SecuredError, Tripwires, Wants, Worker, WorkerSettings,
};
use crate::readiness::Readiness;
use crate::scrape::{self, Scrape};
use crate::state::{self, StateError};
use crate::store::{Store, StoreError};
use crate::systemd::{InheritError, Inherited};
use crate::tasks::{Failed, Task, Tasks};
use crate::telemetry::Log;
use crate::token::rest::Resting;
use crate::token::source::Keeping;
use crate::usage;
use changes::Changes;
use holds::Holds;
use house::House;
use reading::Reading;
use review::Review;
use used::Used;
use watching::Watching;

/// How often sums of refusals go into the trail.
const SUMS: Duration = Duration::from_secs(1);

/// How often it is looked whether a grant ends.
const GRANTS: Duration = Duration::from_millis(250);

/// The longest that the end waits for what must not be cut short: more than a call to an issuer may take.
const LAST_TASKS: Duration = Duration::from_secs(12);

/// Connections that may be told that there is no room for them, even where descriptors are few.
const DOOR: usize = 16;

/// File descriptors that clients and upstreams leave to telemetry, issuers, the trail and the log.
const RESERVED: usize = 64;

/// Why the app does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Open(#[from] keep::OpenError),
    #[error(transparent)]
    Kept(#[from] keep::NotKept),
    #[error(transparent)]
    Alerts(#[from] alert::OpenError),
    #[error("cannot open the audit trail: {0}")]
    Audit(#[from] audit::OpenError),
    #[error("cannot write the audit trail, and nothing starts without it: {0}")]
    Trail(#[from] audit::Unavailable),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Admin(#[from] admin::BindError),
    #[error(transparent)]
    Secured(#[from] SecuredError),
    #[error(transparent)]
    Inherit(#[from] InheritError),
    #[error("cannot listen on {0} for telemetry: {1}")]
    Telemetry(SocketAddr, std::io::Error),
    /// The config is well-formed, and what it names cannot be built.
    #[error(transparent)]
    Draft(#[from] DraftError),
    #[error("cannot export checkpoints of the audit trail: {0}")]
    Export(#[from] RemoteError),
    #[error("cannot start a worker: {0}")]
    Worker(std::io::Error),
}

/// What the app is put into.
pub struct Surroundings<'a> {
    pub clock: Arc<dyn Clock>,
    pub log: Option<&'a Log>,
    /// Who says which addresses a name has.
    pub resolver: Resolver,
    pub inherited: Inherited,
}

/// Puts the app together.
pub struct App;

impl App {
    /// As [`App::bind_in`], in ordinary surroundings.
    ///
    /// # Errors
    /// As [`App::bind_in`].
    pub async fn bind(config: Config, clock: Arc<dyn Clock>, log: Option<&Log>) -> Result<Bound, StartError> {
        let ordinary = Surroundings { clock, log, resolver: Resolver::System, inherited: Inherited::default() };
        Self::bind_in(ordinary, config).await
    }

    /// Opens the trail, binds every listener and starts the tokens' lives; requests are served by [`Bound::run`].
    /// To be called on the control runtime.
    ///
    /// # Errors
    /// When something that the config asks for cannot be had. Nothing is left behind then.
    pub async fn bind_in(surroundings: Surroundings<'_>, config: Config) -> Result<Bound, StartError> {
        let Surroundings { clock, log, resolver, mut inherited } = surroundings;
        let metrics = Metrics::new()?;
        if let Some(log) = log {
            log.register(&metrics)?;
        }
        state::open(&config.state_dir)?;
        let fingerprinter = Arc::new(state::fingerprinter(&config.state_dir)?);
        let store = Arc::new(Store::open(&config.state_dir, config.state_key.as_ref())?);
        if config.state_key.is_none() {
            tracing::warn!("the key of the state lies beside what it seals: name another one with `key` in [state]");
        }
        let (recorder, trail) =
            audit::open(&config.audit, clock.clone(), audit::Metrics::register(metrics.registry())?)?;
        let bind = |address| Listener::bind(address, &mut inherited);
        let listeners: Vec<Listener> = config.proxy.listen.iter().map(bind).collect::<Result<_, _>>()?;
        let door = Door::bind(&config.admin, &mut inherited)?;
        let telemetry = match inherited.tcp(config.scrape) {
            Some(socket) => TcpListener::from_std(socket),
            None => TcpListener::bind(config.scrape).await,
        };
        let telemetry = telemetry.map_err(|error| StartError::Telemetry(config.scrape, error))?;
        inherited.none_left()?;
        let telemetry_address = telemetry.local_addr().map_err(|error| StartError::Telemetry(config.scrape, error))?;
        let start = Event::Start { version: env!("CARGO_PKG_VERSION"), config_digest: config.digest.clone() };
        recorder.record_patiently(vec![start], std::future::pending()).await?;

        let bound = listeners.iter().map(|listener| &listener.address).chain([door.address()]);
        let own = bound.filter_map(|address| match address {
            Address::Tcp(address) | Address::Tls(address) => Some(*address),
            Address::Unix(_) => None,
        });
        let own = own.chain([telemetry_address]).collect();
        let readiness = Arc::new(Readiness::default());
        let barrier = Arc::new(Barrier::default());
        let tasks = Tasks::new();
        let usage = usage::Metrics::register(&metrics)?;
        let used = Arc::new(Used::new(&config.audit, recorder.clone(), clock.clone(), usage.ledger()));
        let review = Review::open(store.clone(), recorder.clone(), clock.clone(), &metrics, config.review)?;
        let alerts = Arc::new(Alerts::open(store.clone(), clock.clone(), &metrics)?);
        let holds = Holds::open(store.clone(), recorder.clone(), clock.clone(), &metrics)?;
        let (detect, informed, held) = (config.detect.clone(), alerts.clone(), holds.clone());
        let watching =
            Watching::open(store.clone(), recorder.clone(), clock.clone(), &metrics, informed, held, detect)?;
        let (rollback, verdicts) = rollback::eyes();
        let readers = used.reader().into_iter().chain([review.pen(), watching.eyes(), rollback]);
        let reading = Reading::new(usage.stream(), &clock, readers.collect());
        let wants = Arc::new(Wants::default());
        let tripwires = Arc::new(Tripwires::register(&metrics)?);
        let secured = secured::open(&config, &metrics)?;
        let announcements = Arc::new(Announcements::default());
        let changes = Changes::open(announcements.clone(), store.clone(), &metrics)?;
        let house = House::build(
            house::Ground {
                clock: clock.clone(),
                recorder: recorder.clone(),
                fingerprinter,
                metrics: metrics.clone(),
                usage: usage.clone(),
                readiness: readiness.clone(),
                tasks: tasks.clone(),
                barrier: barrier.clone(),
                keeping: Arc::new(Keeping::new(store.clone(), tasks.clone())),
                resting: Resting::new(store.clone(), tasks.clone(), &metrics, config.keep_generations)?,
                moves: house::moves(&store, &tasks, &recorder)?,
                store,
                wants: wants.clone(),
                tripwires: tripwires.clone(),
                announcements,
                secured: secured.clone(),
                review,
                alerts,
                holds,
                watching,
                own,
            },
            resolver,
            &config,
        )
        .await?;
        let exports = Exports::start(&recorder, &tasks, house.fetcher(), &clock)?;
        let shared = proxy::Shared {
            tables: house.tables(),
            clock,
            recorder: recorder.clone(),
            limits: config.proxy.limits.clone(),
            metrics: proxy::Metrics::register(&metrics)?,
            usage,
            access_log: config.telemetry.access,
            via: proxy::Via::of_this_process(),
            wants,
            tripwires,
            secured,
            places: Arc::new(places(&config.proxy.limits, config.clients.len())),
        };
        Ok(Bound {
            listen: listeners.iter().map(|listener| listener.address.clone()).collect(),
            telemetry_address,
            admin: door.address().clone(),
            vitals: Vitals { readiness: readiness.clone(), pulses: Arc::new(Pulses::new(config.proxy.workers)) },
            parts: Parts {
                config,
                listeners,
                door,
                telemetry,
                house,
                shared,
                readiness,
                metrics,
                tasks,
                recorder,
                used,
                reading,
                verdicts,
                changes,
                exports,
                trail,
            },
        })
    }
}

/// What `run` needs.
struct Parts {
    config: Config,
    listeners: Vec<Listener>,
    door: Door,
    telemetry: TcpListener,
    house: Arc<House>,
    shared: proxy::Shared,
    readiness: Arc<Readiness>,
    metrics: Metrics,
    tasks: Tasks,
    recorder: audit::Recorder,
    used: Arc<Used>,
    reading: Arc<Reading>,
    verdicts: rollback::Verdicts,
    changes: Changes,
    exports: Exports,
    trail: audit::Thread,
}

/// An app whose addresses are bound, and which waits to serve.
pub struct Bound {
    /// Where clients may connect, with the ports that were chosen.
    pub listen: Vec<Address>,
    pub telemetry_address: SocketAddr,
    /// Where operators may connect.
    pub admin: Address,
    pub vitals: Vitals,
    parts: Parts,
}

/// Why the app ended otherwise than it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Task(#[from] Failed),
    #[error("the audit trail did not end well: {0}")]
    Trail(#[from] audit::FinishError),
    #[error("cannot start a worker: {0}")]
    Worker(#[from] std::io::Error),
}

impl Bound {
    /// What may be done to the running app.
    pub fn handle(&self) -> Handle {
        Handle::new(self.parts.house.clone())
    }

    /// Serves until `shutdown` resolves with its cause, then drains: accepts nothing more, finishes what runs, ends.
    ///
    /// # Errors
    /// When an essential part ended by itself; the rest has been drained then too.
    pub async fn run(self, shutdown: impl Future<Output = &'static str>) -> Result<(), RunError> {
        let Parts {
            config,
            listeners,
            door,
            telemetry,
            house,
            shared,
            readiness,
            metrics,
            tasks,
            recorder,
            used,
            reading,
            verdicts,
            changes,
            exports,
            trail,
        } = self.parts;
        let clock = shared.clock.clone();
        let (drain, draining) = watch::channel(false);
        let listeners = Arc::new(listeners);
        let places = shared.places.clone();
        let start = |number| {
            let settings = WorkerSettings {
                number,
                pulses: self.vitals.pulses.clone(),
                shared: shared.clone(),
                listeners: listeners.clone(),
                orders: house.restraints.barrier.seat(),
                draining: draining.clone(),
                drain: config.proxy.drain,
            };
            Worker::start(settings, tasks.clone())
        };
        let workers: Vec<Worker> = (0..config.proxy.workers).map(start).collect::<Result<_, _>>()?;
        let keys = house.clone();
        let scrape = Scrape { metrics, readiness: readiness.clone(), keys: Box::new(move || keys.public_keys()) };
        let _telemetry = tasks.essential("telemetry", scrape::serve(telemetry, Arc::new(scrape)));
        let admin = Arc::new(Admin::new(house.clone(), recorder.clone(), Archive::new(&config.audit.dir), clock));
        let serving = tasks.essential("admin", door.serve(admin.clone()));
        let _used = used.look_after(&tasks);
        let _reading = reading.look_after(&tasks);
        let _rollbacks = tasks.essential("roll-backs", house.clone().roll_back(verdicts));
        let _sums = sums(&tasks, house.clone());
        let _unused = unused::watch(&tasks, house.clone());
        let _changes = changes.watch(&tasks, house.clone());
        let _trials = trials::watch(&tasks, house.clone());
        let _tripwires = tripwires::watch(&tasks, house.clone());
        let _secured = secured::look_after(&tasks, house.clone());
        let _keys = tripwires::read_keys(&tasks, house.clone());
        let _grants = grants(&tasks, house.clone());
        let reviewing = house.clone();
        let _review = tasks.essential("review", async move { reviewing.review().await });
        let conditions = house.look_after_conditions(&tasks);
        let _ghosts = tasks.essential("ghosts", house.clone().look_for_ghosts());
        let vault = house.look_after_vault();
        let _alerts = house.ground.alerts.look_after(&tasks);
        let watching = house.clone();
        let _watching = tasks.essential("watching", async move { watching.watch().await });
        let keeping = house.clone();
        let _baselines = tasks.essential("baselines", async move { keeping.keep_baselines().await });
        house.ready();
        tracing::info!(
            listen = %self.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            telemetry = %self.telemetry_address,
            admin = %self.admin,
            "countersign runs"
        );

        let outcome = tokio::select! {
            cause = shutdown => Ok(cause),
            failed = tasks.failed() => Err(failed),
        };
        let cause = outcome.as_ref().map_or("failure", |cause| cause);
        tracing::info!(cause, connections = places.taken(), "draining");
        readiness.drain();
        // With the workers' own handles the sockets are closed: who comes now is refused at once.
        drop(listeners);
        drain.send_replace(true);
        let joined = tokio::task::spawn_blocking(move || workers.into_iter().for_each(Worker::join)).await;
        if joined.is_err() {
            tracing::error!("waiting for the workers failed");
        }
        drop(serving);
        drop(conditions);
        admin.record_denials();
        house.record_refusals();
        house.record_tripwires();
        reading.finish();
        used.finish();
        house.keep_books().await;
        house.keep_last_baselines().await;
        house.keep_uses().await;
        house.ground.alerts.keep().await;
        house.close();
        if tokio::time::timeout(LAST_TASKS, tasks.at_rest()).await.is_err() {
            tracing::error!(
                "what should have come to its end has not: a call to an issuer, or the disk, takes too long"
            );
        }
        drop(vault);
        house.leave_vault().await;
        recorder.note(Event::Stop { cause: cause.to_owned() });
        let finished = tokio::task::spawn_blocking(move || trail.finish()).await;
        exports.drain().await;
        tracing::info!("stopped");
        outcome?;
        match finished {
            Ok(finished) => Ok(finished?),
            Err(_) => Err(audit::FinishError::Died.into()),
        }
    }
}

/// Room for connections: as the limits say, but never so much that no file descriptor is left for the rest.
fn places(limits: &proxy::Limits, clients: usize) -> Places {
    let files = getrlimit(Resource::Nofile).current;
    let files = files.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    let open = files.saturating_sub(RESERVED).max(1);
    // The first few stand among the reserved.
    let outside = (open / 16).clamp(DOOR, 1024);
    let open = (open + DOOR).saturating_sub(outside).max(1);
    // The rest is for upstreams, whose connections clients may share.
    let room = open - open / 3;
    if room < limits.connections {
        let limit = limits.connections;
        tracing::warn!(room, limit, "there is room for fewer connections than the limit: raise that of open files");
    }
    let most = limits.connections.min(room);
    let shared = if clients > 1 { most - most / 4 } else { most };
    Places::new(most, limits.connections_per_client.unwrap_or(shared), open, outside)
}

/// Lets grants end at their time, and brings in those that are signed meanwhile. What that takes may wait for issuers.
fn grants(tasks: &Tasks, house: Arc<House>) -> Task {
    tasks.essential("grants", async move {
        let mut tick = tokio::time::interval(GRANTS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            house.look_after_grants().await;
        }
    })
}

/// Tells the trail, now and then, how many requests went without their token, and lets go of replaced tokens.
fn sums(tasks: &Tasks, house: Arc<House>) -> Task {
    tasks.essential("sums", async move {
        let mut tick = tokio::time::interval(SUMS);
        loop {
            tick.tick().await;
            house.record_refusals();
            house.ground.recorder.look();
            house.let_go().await;
        }
    })
}
