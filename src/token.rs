//! Tokens: one named entitlement each, whose generations come from a source and are published in a slot.
//!
//! ```text
//!  source ──answer──▶ supervisor ──step──▶ lifecycle (pure)
//!                        │  ▲                  │
//!                        │  └─────effects──────┘
//!                        ▼
//!                      slot ──▶ SlotReader (request path)
//! ```
//!
//! Nothing of this begins before the token's gate is open: its request is approved.
//!
//! Invariant: the request path holds only the reading half of a slot; only the supervisor publishes; only a [`Control`]
//! makes it rotate or retire.

mod carried;
mod control;
mod gate;
pub mod lifecycle;
mod look;
mod metrics;
pub mod moved;
mod placement;
pub mod probe;
pub mod rest;
pub mod revocation;
mod slot;
pub mod source;
mod supervisor;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, watch};

pub use carried::Carried;
pub use control::{Control, Gone, NotReleased, Order, Refusals, RotateError};
pub use gate::Gate;
use gate::Turn;
pub use lifecycle::Restraint;
pub use look::{Look, State};
pub use metrics::Metrics;
pub use placement::{Guarded, Placed, Placement, Unfit};
pub use slot::{Absent, Generation, SlotReader, Usable};

use crate::audit::Recorder;
use crate::authority::Host;
use crate::clock::{Clock, Moment};
use crate::name::TokenName;
use crate::secret::{Fingerprinter, Secret};
use crate::tasks::{Task, Tasks};
use lifecycle::Plan;
use moved::Moves;
use probe::{Probe, Probed};
use rest::{Rest, Rested};
use revocation::Revoker;
use source::Source;
use supervisor::{Supervisor, Supplies, Supply};

/// What every token's supervisor needs of the rest of the house.
#[derive(Clone)]
pub struct Parts {
    pub clock: Arc<dyn Clock>,
    pub recorder: Recorder,
    pub fingerprinter: Arc<Fingerprinter>,
    pub metrics: Metrics,
    pub revoker: Revoker,
    /// Where its live generation rests.
    pub rest: Rest,
    /// What the config says of the token's source, hashed.
    pub source_reference: String,
    /// Which tokens have left their source for the next one.
    pub moves: Arc<Moves>,
    /// The one that this is to move to.
    pub next: Option<Next>,
    /// Tries its generations before they go live.
    pub probe: Option<Arc<Probe>>,
}

/// A source that a token is to move to.
#[derive(Clone)]
pub struct Next {
    pub source: Arc<dyn Source>,
    /// As [`Parts::source_reference`].
    pub reference: String,
    /// Where the generations rest that it gives.
    pub rest: Rest,
}

/// How far a move is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    /// The source in use is the token's first one.
    Waiting,
    /// What the next source gave is live, and may be left again.
    Standing,
    Moved,
}

impl Move {
    pub const ALL: [Self; 3] = [Self::Waiting, Self::Standing, Self::Moved];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Standing => "standing",
            Self::Moved => "moved",
        }
    }
}

/// A token whose life can begin; nothing has been asked of its issuer yet.
pub struct Prepared {
    pub reader: SlotReader,
    control: Control,
    gate: watch::Sender<Turn>,
    supervisor: Supervisor,
    is_retired: bool,
}

/// What an API says of a generation that is live.
pub struct Trial {
    pub generation: u64,
    pub verdict: probe::Verdict,
    /// A sentence for an operator, without bytes of the answer.
    pub detail: String,
}

/// A token whose supervisor runs; it stops when this is dropped.
pub struct Token {
    pub settings: Arc<Settings>,
    pub reader: SlotReader,
    pub control: Control,
    gate: watch::Sender<Turn>,
    supervisor: Arc<Supervisor>,
    is_retired: AtomicBool,
    _task: Task,
}

impl Prepared {
    /// `before` is the token whose place this one takes: generations are numbered on.
    /// What somebody took out of use stays out of use, in whatever form it comes back.
    pub fn new(
        settings: Settings,
        source: Box<dyn Source>,
        parts: Parts,
        before: Option<&Token>,
        restraint: Option<Restraint>,
    ) -> Self {
        let settings = Arc::new(settings);
        let source: Arc<dyn Source> = source.into();
        let (slot, reader) = slot::slot();
        let (control, commands) = control::channel();
        let (gate, at_gate) = watch::channel(Turn::first(Gate::Open));
        let is_probed = parts.probe.is_some();
        let supply = |source: Arc<dyn Source>, reference, rest| {
            let plan = plan(&settings, &*source, is_probed);
            Supply { source, reference, rest, plan }
        };
        let own = supply(source, parts.source_reference.clone(), parts.rest.clone());
        let next = parts.next.clone().map(|Next { source, reference, rest }| supply(source, reference, rest));
        let supplies = Supplies::new(settings.name.clone(), own, next, parts.moves.clone());
        let supervisor = Supervisor {
            metrics: parts.metrics.of(&settings, supplies.in_use().source.kind(), supplies.next().is_some()),
            settings,
            supplies,
            slot,
            parts,
            commands: Mutex::new(commands),
            gate: at_gate,
            last_number: AtomicU64::new(before.map_or(0, |token| token.supervisor.last_number.load(Ordering::Relaxed))),
            refusals: AtomicU64::default(),
            issuer_changes: AtomicU64::default(),
            granted: Default::default(),
            last_mark: Default::default(),
            restraint: StdMutex::new(restraint),
            held: Default::default(),
            issued: Default::default(),
            warm: Default::default(),
            former: Default::default(),
            void: Default::default(),
            has_ended: false,
        };
        Self { reader, control, gate, supervisor, is_retired: false }
    }

    /// With this gate instead of an open one.
    #[must_use]
    pub fn behind(self, gate: Gate) -> Self {
        if let Some(standing) = gate.standing() {
            self.supervisor.slot.stand(standing);
        }
        self.gate.send_replace(Turn::first(gate));
        self
    }

    /// Its grant was ended before its time.
    #[must_use]
    pub fn retired(mut self) -> Self {
        self.supervisor.has_ended = true;
        self.is_retired = true;
        self
    }

    /// Goes on with what was live before a restart, where that is of the same source and grant and still good. What may not be
    /// used is given back: it is void.
    pub fn take_up(&mut self, rested: Rested) -> Option<Rested> {
        let is_let_in = !self.is_retired && self.gate.borrow().gate == Gate::Open;
        if is_let_in { self.supervisor.take_up(rested) } else { Some(rested) }
    }

    pub fn settings(&self) -> &Settings {
        &self.supervisor.settings
    }

    /// Begins the token's life: if its gate is open, the first call to its issuer is made at once.
    pub fn begin(self, tasks: &Tasks) -> Token {
        let Self { reader, control, gate, supervisor, is_retired } = self;
        supervisor.metrics.begin();
        supervisor.supplies.keep_move();
        let supervisor = Arc::new(supervisor);
        let (running, crashed) = (supervisor.clone(), supervisor.clone());
        let name = format!("token {}", supervisor.settings.name);
        let task = tasks.restarted(&name, move || running.clone().run(), move || crashed.crashed());
        let (settings, is_retired) = (supervisor.settings.clone(), AtomicBool::new(is_retired));
        Token { settings, reader, control, gate, supervisor, is_retired, _task: task }
    }
}

impl Token {
    /// Opens or closes the gate: an opened one lets the token be provisioned, a closed one takes it out of use. When this
    /// returns, requests are told so.
    pub fn stand_behind(&self, gate: Gate) {
        let changes = self.gate.send_if_modified(|current| {
            let changes = current.gate != gate;
            if changes {
                *current = current.next(gate);
            }
            changes
        });
        if changes {
            match gate {
                Gate::Open => self.supervisor.slot.stand(slot::Standing::Asking),
                Gate::Pending(_) | Gate::Denied(_) => self.supervisor.bar(gate),
            }
        }
    }

    /// Ends the token's grant before its time. Returns when its generation is out of use.
    pub async fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
        self.control.retire().await;
    }

    /// Whether its grant was ended before its time.
    pub fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed)
    }

    /// Tries the live generation against its API, as before it went live. It says what the API says, and nothing more.
    /// `None` where there is no probe, or nothing that requests carry.
    pub async fn try_again(&self) -> Option<Trial> {
        let Supervisor { parts, slot, metrics, .. } = &*self.supervisor;
        let (probe, live, now) = (parts.probe.as_ref()?, slot.live()?, parts.clock.now());
        if live.usable_until.reached(now) {
            return None;
        }
        let Probed { verdict, detail } = probe.run(&live.value, now).await;
        metrics.probed(verdict);
        Some(Trial { generation: live.number, verdict, detail })
    }

    /// Another token of the same name has taken this one's place.
    pub fn superseded_by(&self, other: &Token) {
        self.supervisor.metrics.superseded_by(&other.supervisor.metrics);
    }

    /// The token is gone from the config: no series of its metrics is left that would look like a live one.
    pub fn forget(&self) {
        self.supervisor.metrics.forget();
        self.supervisor.supplies.forget_move();
    }

    /// How it stands now.
    pub fn look(&self, now: Moment) -> Look {
        Look::at(&self.reader, now)
    }

    /// How often its issuer has said no, of all the times that it was asked.
    pub fn refusals(&self) -> u64 {
        self.supervisor.refusals.load(Ordering::Relaxed)
    }

    /// How often its issuer has come to tell something else of itself than before.
    pub fn issuer_changes(&self) -> u64 {
        self.supervisor.issuer_changes.load(Ordering::Relaxed)
    }

    /// The scopes that its issuer last said a generation has, in order, where it said so.
    pub fn granted(&self) -> Option<Arc<[String]>> {
        self.supervisor.granted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The kind of the source that is in use, as the config has it.
    pub fn source_kind(&self) -> &'static str {
        self.source().kind()
    }

    /// Who gives its generations, and is told which are void.
    pub fn source(&self) -> Arc<dyn Source> {
        self.supervisor.supplies.in_use().source.clone()
    }

    /// The kind of the source that it is to move to, and how far that is.
    pub fn moves_to(&self) -> Option<(&'static str, Move)> {
        let supplies = &self.supervisor.supplies;
        let next = supplies.next()?;
        let step = match supplies.has_moved() {
            true => Move::Moved,
            false if Arc::ptr_eq(next, &supplies.in_use()) => Move::Standing,
            false => Move::Waiting,
        };
        Some((next.source.kind(), step))
    }

    /// The one of its sources that records know by this, in use or not.
    pub fn source_known_by(&self, reference: &str) -> Option<Arc<dyn Source>> {
        let supply = self.supervisor.supplies.all().find(|supply| supply.reference == reference)?;
        Some(supply.source.clone())
    }

    /// Whether this voids a generation of ours that its issuer may still take for good.
    pub fn has_issued(&self, void_by: &Secret) -> bool {
        self.supervisor.has_issued(void_by)
    }

    /// The public halves of the keys that this token is signed with, as JSON Web Keys; none for most sources.
    pub fn public_keys(&self) -> Vec<serde_json::Value> {
        self.supervisor.supplies.all().flat_map(|supply| supply.source.public_keys()).collect()
    }
}

/// How a token lives on what a source gives.
fn plan(settings: &Settings, source: &dyn Source, is_probed: bool) -> Plan {
    let pace = source.pace();
    let mut rotation = settings.rotation;
    if !source.mints() {
        // What is found somewhere cannot be had anew by us, however old it gets.
        rotation.max_life = Duration::MAX;
        rotation.shorten = false;
        rotation.mode = Mode::Overlap;
    }
    Plan {
        rotation,
        grant_ends: settings.grant_ends,
        pace: pace.between_calls,
        recheck: pace.recheck,
        required: settings.required,
        is_probed,
    }
}

/// The end of a grant that has none.
pub const NEVER: Duration = Duration::MAX;

/// `[[token]]`
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    pub name: TokenName,
    pub owner: String,
    pub reason: String,
    pub scopes: Vec<String>,
    /// When the grant ends, since the Unix epoch; [`NEVER`] of what is permanent.
    pub grant_ends: Duration,
    /// Where the token may be sent.
    pub hosts: Vec<Host>,
    /// Whether readiness waits for it.
    pub required: bool,
    pub placement: Placement,
    pub rotation: Rotation,
    /// Where a new generation is tried before it goes live.
    pub probe: Option<probe::Settings>,
    /// It is retired when it has not been used for so long.
    pub retire_unused: Option<Duration>,
    /// It is retired when no client has had a version of its routes for so long.
    pub retire_after: Option<Duration>,
    pub source: source::Settings,
    /// The source that it is to move to.
    pub next_source: Option<source::Settings>,
}

/// `rotation = { ... }`
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rotation {
    /// The share of a generation's life after which it is replaced.
    pub at: f64,
    /// How much sooner it may be replaced, as a share of its life: a fleet that started together spreads out.
    pub jitter: f64,
    /// How long before its expiry a generation is no longer sent; at most a tenth of its life.
    pub skew: Duration,
    /// The longest that a generation is used, whatever its issuer says.
    pub max_life: Duration,
    /// How long a replaced generation stays good at its issuer, where one can be told that it is not.
    pub overlap: Duration,
    /// Whether shorter lives are tried while nothing fails.
    pub shorten: bool,
    pub mode: Mode,
}

/// `rotation.mode`: what a new generation is to the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Both are good for a while.
    #[default]
    Overlap,
    /// Its issuer makes the one before void as it issues the new one: no request may carry it then.
    Exclusive,
}
