//! How one configuration takes another's place, and how what is granted of the running one is followed.
//!
//! ```text
//! a new config    all that is granted of it ─▶ its issuers give what it takes ─▶ one swap, or none of it
//! what is granted what needs no issuer, at once ─▶ the rest, as far as issuers give it ─▶ what they do not: again later
//! ```
//!
//! Invariants: what takes something away waits for no issuer, whatever other tokens do; a token that is usable and still
//! granted stays so until what takes its place is usable.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::MutexGuard;

use super::draft::{Draft, DraftError, Kitchen, begin, keep_authorities};
use super::{House, LEAVE_WITHIN, Leaving, ReloadError, Running, Tokens, operators};
use crate::access::register::Register;
use crate::access::request::RequestId;
use crate::alert;
use crate::app::desk::Told;
use crate::app::force::{self, InForce};
use crate::audit::{Event, Unavailable};
use crate::config::Config;
use crate::dial::Tunnel;
use crate::name::TokenName;
use crate::route::Table;
use crate::token::Token;
use crate::token::revocation::Cause;

/// What has begun and is not in force yet.
struct Swap {
    force: InForce,
    table: Table,
    kept: Tokens,
    started: Tokens,
    before: Arc<Tokens>,
    table_before: Arc<Table>,
    way_before: Option<Arc<Tunnel>>,
    sinks: Vec<alert::Prepared>,
}

/// Why what has begun cannot be in force yet.
enum NotYet {
    /// The issuers of these give no generation.
    NotReady(BTreeSet<TokenName>),
    Interrupted,
}

/// Why there was no swap.
enum Halted {
    /// Somebody takes something away, and goes first.
    Interrupted,
    Failed(Box<ReloadError>),
}

impl<E: Into<ReloadError>> From<E> for Halted {
    fn from(error: E) -> Self {
        match error.into() {
            ReloadError::Trail(Unavailable::GivenUp) => Self::Interrupted,
            error => Self::Failed(Box::new(error)),
        }
    }
}

impl House {
    /// Puts another configuration in force, whole, or none of it.
    pub(super) async fn reload(&self, config: &Config) -> Result<(), ReloadError> {
        let mut told = Told::default();
        loop {
            let mut running = self.running.lock().await;
            if let Some(key) = running.fixed.differs(&super::Fixed::of(config)) {
                return Err(ReloadError::NeedsRestart(key));
            }
            match self.take_config(&mut running, config, &mut told).await {
                // The lock is fair: whoever waits for it has it next.
                Err(Halted::Interrupted) => {}
                Err(Halted::Failed(error)) => {
                    self.desk.take_back(told);
                    return Err(*error);
                }
                Ok(()) => {
                    tracing::info!("a new configuration is in force");
                    return Ok(());
                }
            }
        }
    }

    /// A grant on top that cannot be had does not keep the rest back. `told` is what the trail has of an attempt before.
    async fn take_config(&self, running: &mut Running, config: &Config, told: &mut Told) -> Result<(), Halted> {
        let mut proposal = self.desk.ask(config).await;
        let (swap, on_top) = loop {
            let (force, on_top) = self.granted_of(config, &proposal.register);
            let draft = self.draft(running, config, &force)?;
            self.desk.record_patiently(&mut proposal, told, self.taking_away.wanted()).await?;
            let swap = self.begin(config, force, draft);
            match self.is_ready(config, &swap).await {
                Ok(()) => break (swap, on_top),
                Err(not_yet) => {
                    self.take_back(running, swap).await;
                    self.leave_out(not_yet)?;
                }
            }
        };
        let reload = Event::Reload { config_digest: config.digest.clone() };
        let admitted = async {
            keep_authorities(&swap.table, &self.ground)?;
            let recorded = self.ground.recorder.record_patiently(vec![reload], self.taking_away.wanted()).await?;
            let kept = self.desk.keep(proposal).await;
            if kept.is_err() {
                self.ground.recorder.not_done(recorded);
            }
            Ok::<(), ReloadError>(kept?)
        };
        let admitted = admitted.await;
        if let Err(error) = admitted {
            self.take_back(running, swap).await;
            return Err(error.into());
        }
        self.bring_in(running, swap, &BTreeSet::new()).await;
        self.operators.store(Arc::new(operators(config)));
        self.shown.store(Arc::new(config.shown.clone()));
        self.ground.review.settle(config.review);
        self.ground.watching.settle(config.detect.clone());
        running.config = config.clone();
        running.on_top = on_top;
        self.former.remember(config, &self.desk.register()).await;
        self.ready();
        self.taken();
        Ok(())
    }

    /// Leaves out for a while what the issuers of these tokens do not give, where that is granted on top.
    fn leave_out(&self, not_yet: NotYet) -> Result<(), Halted> {
        let tokens = match not_yet {
            NotYet::Interrupted => return Err(Halted::Interrupted),
            NotYet::NotReady(tokens) => tokens,
        };
        for token in tokens {
            if !self.set_aside(&token) {
                return Err(ReloadError::NotReady(token).into());
            }
        }
        Ok(())
    }

    /// Puts in force what is granted now of the config that runs, as far as issuers give what it takes.
    ///
    /// # Errors
    /// When the rest has to be tried again. What takes something away is in force then too.
    pub(super) async fn follow_grants(&self, mut running: MutexGuard<'_, Running>) -> Result<(), ReloadError> {
        loop {
            let settled = self.desk.settle(&running.config, self.taking_away.wanted()).await;
            self.follow_at_once(&mut running).await?;
            let followed = match settled.map_err(Halted::from) {
                Ok(()) => self.follow_issuers(&mut running).await,
                Err(halted) => Err(halted),
            };
            match followed {
                Err(Halted::Interrupted) => {}
                Err(Halted::Failed(error)) => return Err(*error),
                Ok(()) => return Ok(()),
            }
            drop(running);
            running = self.running.lock().await;
        }
    }

    /// Puts in force what needs no issuer: all that takes something away is of that kind. Returns whether something is left.
    pub(super) async fn follow_at_once(&self, running: &mut Running) -> Result<bool, ReloadError> {
        let (config, register) = (running.config.clone(), self.desk.register());
        let (granted, on_top) = self.granted_of(&config, &register);
        let held = self.held(running, &granted, &register);
        let fallen = granted.config.tokens.iter().map(|token| &token.name);
        let fallen: BTreeSet<TokenName> =
            fallen.filter(|name| !running.force.is_granted(name, &register)).cloned().collect();
        let force = granted.but_for(&held, &running.force);
        if force != running.force {
            let draft = self.draft(running, &config, &force)?;
            let swap = self.begin(&config, force, draft);
            self.bring_in(running, swap, &fallen).await;
        }
        running.on_top = on_top;
        Ok(!held.is_empty())
    }

    /// Puts in force what issuers have to give something for. A token whose issuer does not stays as it is.
    async fn follow_issuers(&self, running: &mut Running) -> Result<(), Halted> {
        let (config, register) = (running.config.clone(), self.desk.register());
        let mut held = BTreeSet::new();
        loop {
            let (granted, on_top) = self.granted_of(&config, &register);
            running.on_top = on_top;
            let force = granted.but_for(&held, &running.force);
            if force != running.force {
                let draft = self.draft(running, &config, &force)?;
                let swap = self.begin(&config, force, draft);
                match self.is_ready(&config, &swap).await {
                    Ok(()) => self.bring_in(running, swap, &BTreeSet::new()).await,
                    Err(NotYet::Interrupted) => {
                        self.take_back(running, swap).await;
                        return Err(Halted::Interrupted);
                    }
                    Err(NotYet::NotReady(tokens)) => {
                        self.take_back(running, swap).await;
                        for token in tokens {
                            tracing::warn!(%token, "the issuer gives no generation for what is granted: it is tried again");
                            if !self.set_aside(&token) {
                                held.insert(token);
                            }
                        }
                        continue;
                    }
                }
            }
            return held.pop_first().map_or(Ok(()), |token| Err(ReloadError::NotReady(token).into()));
        }
    }

    /// Tokens whose issuers have to give something before what is granted takes the place of what is usable and granted
    /// still.
    fn held(&self, running: &Running, granted: &InForce, register: &Register) -> BTreeSet<TokenName> {
        let (tokens, now) = (self.tokens(), self.ground.clock.now());
        let differs = granted.config.tokens.iter().filter(|settings| {
            let old = tokens.get(&settings.name);
            old.is_some_and(|old| *old.settings != **settings && old.reader.is_usable(now))
        });
        let held = differs.map(|settings| &settings.name);
        held.filter(|name| granted.is_open(name) && running.force.is_granted(name, register)).cloned().collect()
    }

    /// As much of a config as is granted, with these grants on top.
    fn granted_of(&self, config: &Config, register: &Register) -> (InForce, BTreeSet<RequestId>) {
        let on_top = force::on_top(register, self.ground.clock.now().wall, &self.aside().ids);
        (force::in_force(config, register, &self.desk.sources(), &on_top), on_top)
    }

    fn draft(&self, running: &Running, config: &Config, force: &InForce) -> Result<Draft, DraftError> {
        let old = &running.config;
        let same_way = old.destinations == config.destinations && old.upstream_proxy == config.upstream_proxy;
        let kitchen = Kitchen {
            ground: &self.ground,
            metrics: &self.token_metrics,
            fetcher: &self.fetcher,
            vault: self.vault.as_ref(),
            dialer: &self.dialer,
            revoker: &self.revoker,
            restraints: &self.restraints,
            jobs: &self.jobs,
        };
        kitchen.draft(force, &self.tokens(), Some(&self.tables.load()), same_way)
    }

    /// Lets new tokens' lives begin, beside those whose places they are to take.
    fn begin(&self, config: &Config, force: InForce, draft: Draft) -> Swap {
        let (before, table_before) = (self.tokens(), self.tables.load_full());
        self.dialer.allow(config.destinations.clone());
        let way_before = self.dialer.through(draft.tunnel);
        let started = begin(draft.prepared, &self.ground.tasks).collect();
        let Draft { table, kept, sinks, .. } = draft;
        Swap { force, table, kept, started, before, table_before, way_before, sinks }
    }

    /// Whether what takes a usable token's place is usable too, or will be soon.
    async fn is_ready(&self, config: &Config, swap: &Swap) -> Result<(), NotYet> {
        let clock = &*self.ground.clock;
        let replaces_usable =
            |name: &TokenName| swap.before.get(name).is_some_and(|old| old.reader.is_usable(clock.now()));
        let has_to_come = |token: &Token| !token.reader.is_barred() && !token.is_retired();
        let awaited = swap.started.iter().filter(|(name, token)| replaces_usable(name) && has_to_come(token));
        let readiness = async {
            let deadline = tokio::time::Instant::now() + config.proxy.acquire_timeout;
            let mut missing = BTreeSet::new();
            for (name, token) in awaited {
                // They are asked for side by side: what one has waited the others have too.
                let left = deadline.saturating_duration_since(tokio::time::Instant::now());
                if token.reader.ready(clock, left).await.is_err() {
                    missing.insert(name.clone());
                }
            }
            if missing.is_empty() { Ok(()) } else { Err(NotYet::NotReady(missing)) }
        };
        tokio::select! {
            biased;
            ready = readiness => ready,
            () = self.taking_away.wanted() => Err(NotYet::Interrupted),
        }
    }

    /// None of it: what has begun ends here, and what goes on says again how it stands.
    async fn take_back(&self, running: &Running, swap: Swap) {
        self.dialer.allow(running.config.destinations.clone());
        self.dialer.through(swap.way_before);
        for (name, token) in &swap.started {
            token.control.step_down(Cause::Replaced).await;
            match swap.before.get(name) {
                Some(old) => {
                    token.superseded_by(old);
                    old.control.restate().await;
                }
                None => token.forget(),
            }
        }
    }

    /// The swap itself. What took the place of `fallen` tokens is not waited for: nobody may have those any more.
    async fn bring_in(&self, running: &mut Running, swap: Swap, fallen: &BTreeSet<TokenName>) {
        let Swap { force, table, kept, started, before, table_before, sinks, .. } = swap;
        let names: Vec<&str> = started.keys().map(TokenName::as_str).collect();
        tracing::debug!(started = ?names, "what is granted is in force");
        self.record_refusals();
        // Who takes a token out of use meanwhile finds either what was or what comes, whole.
        let turn = self.restraints.first_turn().await;
        self.hold_back(&started, &force).await;
        let tokens: Tokens = kept.into_iter().chain(started).collect();
        self.tables.store(Arc::new(table));
        for (name, gate) in &force.gates {
            if let Some(token) = tokens.get(name) {
                token.stand_behind(*gate);
            }
        }
        *self.lock() = Arc::new(tokens.clone());
        self.part_with(&before, &tokens, &table_before, fallen).await;
        self.ground.alerts.settle(sinks, &self.ground.tasks, &self.fetcher);
        running.force = force;
        drop(turn);
    }

    /// Retires at once what the config does not hold any more; what was replaced leaves with the last request that may
    /// carry it, and what has fallen now.
    async fn part_with(&self, before: &Tokens, after: &Tokens, table: &Arc<Table>, fallen: &BTreeSet<TokenName>) {
        let mut replaced: Vec<Arc<Token>> = Vec::new();
        for (name, token) in before {
            match after.get(name) {
                Some(same) if Arc::ptr_eq(same, token) => {}
                Some(new) => {
                    token.superseded_by(new);
                    if fallen.contains(name) {
                        // Those before it too, which a request may have found when they were in force.
                        for token in self.replaced(name).iter().chain([token]) {
                            token.control.step_down(Cause::Retired).await;
                        }
                    } else {
                        replaced.push(token.clone());
                    }
                }
                None => {
                    token.control.retire().await;
                    token.forget();
                }
            }
        }
        if !replaced.is_empty() {
            let until = self.ground.clock.now().after(LEAVE_WITHIN);
            self.leaving().push(Leaving { table: Arc::downgrade(table), tokens: replaced, until });
        }
    }
}
