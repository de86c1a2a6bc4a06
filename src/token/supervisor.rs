//! One task a token: it waits for the timer, the source or a command, steps the [`Lifecycle`], and carries the effects
//! out. All decisions are the lifecycle's.
//!
//! Invariant: what the trail and the metrics say of a generation is said by the effect that made it so, once.

mod asking;
mod exclusive;
mod moving;
mod outstanding;
mod prolonging;
mod restraint;
mod rollback;
mod supply;
mod warm;

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot, watch};

use super::control::{Command, NotReleased, Order, RotateError};
use super::gate::{self, Gate, Turn};
use super::lifecycle::{Cause, Effect, Fault, Input, Lifecycle, Live, Offer, Plan, Restraint};
use super::metrics::TokenMetrics;
use super::placement::Placed;
use super::probe::Probed;
use super::revocation;
use super::slot::{Generation, Slot, Standing, Verdict};
use super::source::{Class, IssuerChange, Reason};
use super::{Parts, Settings};
use crate::audit::Event;
use crate::clock::Moment;
use crate::secret::{Fingerprint, Mark, Secret};
use asking::{Answer, Asking, Given};
use outstanding::Outstanding;
pub(super) use supply::{Supplies, Supply};
use warm::Warm;

/// The longest sleep: a machine that was suspended is noticed within it.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

pub(super) struct Supervisor {
    pub(super) settings: Arc<Settings>,
    pub(super) supplies: Supplies,
    pub(super) slot: Slot,
    pub(super) parts: Parts,
    pub(super) metrics: TokenMetrics,
    /// Locked by the one run that is under way: a restarted run goes on with the same commands.
    pub(super) commands: Mutex<mpsc::Receiver<Command>>,
    pub(super) gate: watch::Receiver<Turn>,
    /// The number of the last generation: a restarted run goes on from it.
    pub(super) last_number: AtomicU64,
    /// How often the issuer has said no.
    pub(super) refusals: AtomicU64,
    /// How often it has told something else of itself than before.
    pub(super) issuer_changes: AtomicU64,
    /// The scopes that it last said a generation has, in order.
    pub(super) granted: StdMutex<Option<Arc<[String]>>>,
    /// Its value, to be recognised when the source gives it again.
    pub(super) last_mark: StdMutex<Option<Mark>>,
    /// What a restarted run begins under.
    pub(super) restraint: StdMutex<Option<Restraint>>,
    /// The generation that a quarantine keeps.
    pub(super) held: StdMutex<Option<Arc<Generation>>>,
    /// Generations that are good at their issuer, as far as is known, where it can be told that they are not.
    pub(super) issued: StdMutex<Vec<Outstanding>>,
    /// What was live before a restart, until it is so again.
    pub(super) warm: StdMutex<Option<Warm>>,
    /// The generation that a roll-back would bring back.
    pub(super) former: StdMutex<Option<Outstanding>>,
    /// Values that were revoked, to be recognised when the source gives one again.
    pub(super) void: StdMutex<Vec<Mark>>,
    /// Its grant has been ended before its time.
    pub(super) has_ended: bool,
}

type Probing<'a> = Pin<Box<dyn Future<Output = Probed> + Send + 'a>>;

/// What an issuer gave, until it is live.
struct Candidate {
    new: Outstanding,
    /// As it stands in its placement.
    value: Placed,
    /// `None`: nobody says that it ends.
    expires: Option<Moment>,
    assumed: bool,
    granted: Option<Vec<String>>,
    version: Option<u64>,
}

/// What one run carries from step to step.
struct Run<'a> {
    /// Whether an upstream has accepted the token since it was let in.
    used: bool,
    life: Lifecycle,
    asking: Option<Asking>,
    asked_at: Moment,
    /// What the issuer gave: the machine judges it, or the API.
    candidate: Option<Candidate>,
    probing: Option<Probing<'a>>,
    /// The words of what the machine is judging.
    detail: Option<String>,
    rotating: Vec<oneshot::Sender<Result<u64, RotateError>>>,
    /// Who takes the token out of use.
    order: Option<Order>,
}

impl Supervisor {
    pub(super) async fn run(self: Arc<Self>) {
        let mut commands = self.commands.lock().await;
        let mut gate = self.gate.clone();
        while self.let_in(&mut gate, &mut commands).await.is_continue() {
            match self.live(&mut gate, &mut commands).await {
                Some(closed) => self.bar(closed),
                None => break,
            }
        }
        // Whoever still asks learns that the grant has ended: a dropped answer reads like that.
        commands.close();
        while commands.try_recv().is_ok() {}
    }

    /// Lives until the gate is closed, or for good.
    async fn live(
        self: &Arc<Self>,
        gate: &mut watch::Receiver<Turn>,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Option<Gate> {
        let now = self.parts.clock.now();
        let last_number = self.last_number.load(Ordering::Relaxed);
        let restraint = *lock(&self.restraint);
        let plan = self.planned(self.supplies.begin().plan);
        let life = match restraint {
            Some(restraint) => {
                self.leave_cold();
                self.slot.withdraw(Some(Standing::Restrained(restraint)));
                Lifecycle::restrained(restraint, plan, last_number, now)
            }
            None => self.resumed(now).unwrap_or_else(|| Lifecycle::new(plan, last_number, now)),
        };
        let life = match self.supplies.to_move_to() {
            Some(next) => life.moving_to(self.planned(next.plan)),
            None => life,
        };
        self.metrics.state(life.phase());
        let used = false;
        let mut run = Run {
            used,
            life,
            asking: None,
            asked_at: now,
            candidate: None,
            probing: None,
            detail: None,
            rotating: Vec::new(),
            order: None,
        };
        let mut input = Input::Timer;
        let closings = gate.borrow().closings;
        loop {
            let turn = *gate.borrow();
            if turn.closings != closings || turn.gate != Gate::Open {
                // Whatever has come meanwhile is let go.
                self.abandon(&mut run);
                return Some(turn.gate);
            }
            let now = self.parts.clock.now();
            self.step(input, &mut run, now);
            let wake = run.life.wake_at()?;
            let sleep = wake.remaining(self.parts.clock.now()).min(LONGEST_SLEEP);
            let (asking, probing) = (run.asking.is_some(), run.probing.is_some());
            // What is told once is heard when it can be followed.
            let heeds_changes = !asking && !probing && !run.life.is_restrained();
            let in_use = self.supplies.in_use();
            let changed = in_use.source.changed();
            let heeds_demand = run.life.heeds_demand(now);
            input = tokio::select! {
                answer = under_way(&mut run.asking), if asking => self.received(answer, &mut run),
                probed = under_way(&mut run.probing), if probing => self.probed(probed, &mut run),
                command = commands.recv() => match self.commanded(command, &mut run) {
                    ControlFlow::Continue(input) => input,
                    ControlFlow::Break(()) => {
                        self.abandon(&mut run);
                        return None;
                    }
                },
                closed = gate::closed(gate, closings) => {
                    self.abandon(&mut run);
                    return Some(closed);
                }
                () = self.slot.rejected() => self.rejected(),
                generation = self.slot.accepted(), if !run.used => {
                    run.used = true;
                    let token = self.settings.name.clone();
                    self.parts.recorder.note(Event::TokenFirstUsed { token, generation });
                    Input::Timer
                }
                () = self.slot.demanded(), if heeds_demand => Input::Demand,
                () = changed, if heeds_changes => Input::Changed,
                () = tokio::time::sleep(sleep) => Input::Timer,
            };
        }
    }

    /// As the grant has it now.
    fn planned(&self, plan: Plan) -> Plan {
        let grant_ends = if self.has_ended { Duration::ZERO } else { plan.grant_ends };
        Plan { grant_ends, ..plan }
    }

    /// Lets the machine judge an input, and carries out what follows.
    fn step<'a>(self: &'a Arc<Self>, input: Input, run: &mut Run<'a>, now: Moment) {
        // What requests have said of the generation by now comes first, whether it was heard or not.
        let live = self.slot.live();
        let accepted = live.as_ref().filter(|live| run.life.is_unproven() && live.verdict.is_accepted());
        let rejected = live.as_ref().filter(|live| live.verdict.is_rejected());
        let accepted = accepted.map(|_| Input::Accepted);
        let rejected = rejected.map(|live| Input::Rejected { generation: live.number });
        let is_rejected = rejected.is_some();
        drop(live);
        for input in accepted.into_iter().chain(rejected).chain([input]) {
            for effect in run.life.step(input, now, fastrand::f64()) {
                self.carry_out(effect, run, now);
            }
        }
        run.detail = None;
        if run.life.former(now).is_none() {
            lock(&self.former).take();
        }
        // Whatever has become of the call that a 401 brought forward.
        if is_rejected && !run.life.expects_answer(now) {
            self.slot.settle();
        }
    }

    fn commanded<'a>(self: &'a Arc<Self>, command: Option<Command>, run: &mut Run<'a>) -> ControlFlow<(), Input> {
        match command {
            Some(Command::Rotate(done)) if run.life.is_restrained() => {
                // Whoever asked may have gone.
                let _ = done.send(Err(RotateError::Restrained));
                ControlFlow::Continue(Input::Timer)
            }
            Some(Command::Rotate(done)) => {
                run.rotating.push(done);
                ControlFlow::Continue(Input::Rotate)
            }
            Some(Command::Restrain(restraint, order, done)) => {
                run.order = Some(order);
                let input = match restraint {
                    Restraint::Quarantined => Input::Quarantine,
                    Restraint::Revoked => Input::Revoke,
                };
                self.step(input, run, self.parts.clock.now());
                let _ = done.send(());
                ControlFlow::Continue(Input::Timer)
            }
            Some(Command::Release(done)) => {
                let restrained = run.life.is_restrained();
                self.step(Input::Release, run, self.parts.clock.now());
                let _ = done.send(if restrained { Ok(()) } else { Err(NotReleased::Unrestrained) });
                ControlFlow::Continue(Input::Timer)
            }
            Some(Command::Retire(done)) => {
                self.step(Input::Retire, run, self.parts.clock.now());
                let _ = done.send(());
                ControlFlow::Break(())
            }
            Some(Command::Restate) => {
                self.metrics.begin();
                if let Some(live) = self.slot.live() {
                    self.metrics.live(live.number, live.issued, live.expires);
                }
                self.metrics.state(run.life.phase());
                // One that was to follow may have put its own there.
                self.lay_down();
                self.supplies.keep_move();
                ControlFlow::Continue(Input::Timer)
            }
            Some(Command::RollBack(refusals)) => {
                let now = self.parts.clock.now();
                if run.life.may_roll_back(refusals.generation, now) && self.take_back_former() {
                    self.step(Input::RollBack { generation: refusals.generation }, run, now);
                }
                ControlFlow::Continue(Input::Timer)
            }
            Some(Command::ForgetFormer) => {
                lock(&self.former).take();
                ControlFlow::Continue(Input::Timer)
            }
            // Its successor of the same name goes on with metrics and trail.
            Some(Command::StepDown(cause, done)) => {
                self.abandon(run);
                self.slot.withdraw(Some(Standing::Followed));
                lock(&self.held).take();
                self.void_all(cause);
                let _ = done.send(());
                ControlFlow::Break(())
            }
            // Nobody holds the token any more: the process ends, and its grant does not.
            None => {
                self.slot.withdraw(Some(Standing::Retired));
                ControlFlow::Break(())
            }
        }
    }

    /// What an upstream's 401 tells the machine. It may have come for a generation that has been replaced since.
    fn rejected(&self) -> Input {
        match self.slot.live() {
            Some(live) if live.verdict.is_rejected() => {
                tracing::info!(token = %self.settings.name, generation = live.number, "an upstream answered 401");
                self.supplies.scrub();
                Input::Rejected { generation: live.number }
            }
            _ => Input::Timer,
        }
    }

    /// Between a crash and the next run nobody watches over the token: it is not used meanwhile.
    pub(super) fn crashed(&self) {
        // What somebody took out of use stays so.
        let standing = lock(&self.restraint).map_or(Standing::Asking, Standing::Restrained);
        self.slot.withdraw(Some(standing));
        self.metrics.restarted();
    }

    /// Turns the source's answer into what the machine judges.
    fn received(&self, answer: Answer, run: &mut Run<'_>) -> Input {
        run.asking = None;
        self.tell_issuer_changes();
        let answer = match answer {
            Ok(Given::Longer { generation, until }) => {
                self.metrics.answered("success");
                let longer = Some(generation);
                return Input::Answered(Ok(Offer { expires: Some(until), unchanged: true, void: false, longer }));
            }
            Ok(Given::Anew(issued, supply)) => self.candidate(issued, supply),
            Err(failure) => Err(failure),
        };
        self.metrics.answered(if answer.is_ok() { "success" } else { "failure" });
        Input::Answered(match answer {
            Ok(candidate) => {
                let (expires, mark) = (candidate.expires, candidate.new.mark);
                run.candidate = Some(candidate);
                let unchanged = *lock(&self.last_mark) == Some(mark);
                Ok(Offer { expires, unchanged, void: lock(&self.void).contains(&mark), longer: None })
            }
            Err(failure) => {
                run.detail = Some(failure.detail);
                Err(Fault { reason: failure.reason, class: failure.class })
            }
        })
    }

    fn tell_issuer_changes(&self) {
        for IssuerChange { issuer, what, before, after } in self.supplies.issuer_changes() {
            let token = self.settings.name.clone();
            tracing::warn!(%token, issuer, what, before, after, "the issuer tells something else of itself than before");
            self.parts.recorder.note(Event::IssuerMetadataChanged { token, issuer, what, before, after });
            self.issuer_changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Has the API say what it thinks of what the issuer gave.
    fn probe<'a>(&'a self, number: u64, run: &mut Run<'a>) {
        let (Some(probe), Some(candidate)) = (&self.parts.probe, &run.candidate) else { return };
        self.on_trial(number, &candidate.new);
        let (value, now) = (candidate.value.clone(), self.parts.clock.now());
        run.probing = Some(Box::pin(async move { probe.run(&value, now).await }));
    }

    fn probed(&self, probed: Probed, run: &mut Run<'_>) -> Input {
        run.probing = None;
        self.metrics.probed(probed.verdict);
        run.detail = Some(probed.detail);
        Input::Probed(probed.verdict)
    }

    fn carry_out<'a>(self: &'a Arc<Self>, effect: Effect, run: &mut Run<'a>, now: Moment) {
        match effect {
            Effect::Call => {
                run.asked_at = now;
                run.asking = Some(Asking::begin(self, self.supplies.in_use(), run.life.may_prolong()));
            }
            Effect::CallNext => {
                run.asked_at = now;
                run.asking = self.supplies.to_move_to().map(|next| Asking::begin(self, next, false));
            }
            Effect::NotMoved { fault, attempt, again } => self.not_moved(fault, attempt, again, run, now),
            Effect::Moved { number } => self.moved(number),
            Effect::Probe { number } => self.probe(number, run),
            Effect::Publish { live, replaces, cause } => self.publish(live, replaces, cause, run, now),
            Effect::RollBack { live, replaces, .. } => self.roll_back(live, replaces, run, now),
            Effect::Prolong { live } => self.prolonged(live, run, now),
            Effect::Unchanged => {
                run.candidate = None;
                self.slot.stand(Standing::Asking);
                self.slot.settle();
                settle(run, Err(RotateError::Unchanged));
            }
            Effect::Failed { fault, attempt, retry_at } => self.failed(fault, attempt, retry_at, run, now),
            Effect::Sooner { retry_at } => {
                if run.life.has_failed() {
                    self.slot.stand(Standing::Failing { retry_at });
                }
            }
            Effect::Expire { number } => {
                self.slot.withdraw(None);
                self.supplies.scrub();
                tracing::warn!(token = %self.settings.name, generation = number, "the generation expired before its successor came");
                self.parts.recorder.note(Event::TokenExpired { token: self.settings.name.clone(), generation: number });
            }
            Effect::Retire { number } => {
                self.abandon(run);
                self.slot.withdraw(Some(Standing::Retired));
                tracing::info!(token = %self.settings.name, generation = number, "retired");
                self.parts.recorder.note(Event::TokenRetired { token: self.settings.name.clone(), generation: number });
                settle(run, Err(RotateError::Retired));
                lock(&self.held).take();
                self.void_all(revocation::Cause::Retired);
            }
            Effect::Quarantine => {
                *lock(&self.held) = self.slot.live();
                self.restrained(Restraint::Quarantined, run);
            }
            Effect::Revoke => {
                lock(&self.held).take();
                self.restrained(Restraint::Revoked, run);
                self.void_all(revocation::Cause::Revoked);
            }
            Effect::Resume { .. } => {
                *lock(&self.restraint) = None;
                if let Some(generation) = lock(&self.held).take() {
                    self.slot.publish(generation);
                }
            }
            Effect::Reprovision => {
                *lock(&self.restraint) = None;
                lock(&self.held).take();
                self.slot.stand(Standing::Asking);
            }
            Effect::Discard => self.discard(run, now),
        }
        self.metrics.state(run.life.phase());
    }

    fn publish(&self, live: Live, replaces: Option<u64>, cause: Cause, run: &mut Run<'_>, now: Moment) {
        run.probing = None;
        let Some(Candidate { new, value, assumed, granted, version, .. }) = run.candidate.take() else { return };
        let name = &self.settings.name;
        if assumed {
            tracing::warn!(token = %name, "the issuer did not say how long the token lives: at most 15 minutes are assumed");
        }
        if let Some(mut granted) = granted {
            self.compare_scopes(&granted);
            granted.sort_unstable();
            *lock(&self.granted) = Some(granted.into());
        }
        let (number, expires, fingerprint) = (live.number, live.expires.wall, new.fingerprint);
        let replaced = self.slot.live();
        self.put_in_slot(&live, &new.secret, value, fingerprint, run.life.is_unproven());
        *lock(&self.last_mark) = Some(new.mark);
        let new = Outstanding { number, expires: self.good_until(&new.supply, live.expires), ..new };
        self.use_from_now_on(&new.supply);
        let source = new.supply.source.kind();
        self.outstanding(new, replaced.as_ref(), run.life.former(now), now);
        self.lay_down();
        let (token, generation) = (name.clone(), number);
        self.parts.recorder.note(match replaces {
            None => Event::TokenIssued { token, generation, fingerprint, expires, source, version },
            Some(replaces) => {
                let cause = cause.as_str();
                Event::TokenRotated { token, generation, replaces, cause, fingerprint, expires, source, version }
            }
        });
        self.metrics.published(&live, now.boot.saturating_sub(run.asked_at.boot));
        if replaces.is_some() {
            self.metrics.rotated("success");
        }
        let expires = live.expires.to_rfc3339();
        tracing::info!(token = %name, generation = number, %fingerprint, expires, "a new generation is live");
        settle(run, Ok(number));
    }

    fn put_in_slot(&self, live: &Live, secret: &Secret, value: Placed, fingerprint: Fingerprint, is_unproven: bool) {
        self.last_number.store(live.number, Ordering::Relaxed);
        self.slot.publish(Arc::new(Generation {
            number: live.number,
            value,
            fingerprint,
            needles: Arc::new(secret.make_needles()),
            issued: live.issued,
            expires: live.expires,
            usable_until: live.usable_until,
            verdict: Arc::new(Verdict::new(is_unproven)),
        }));
    }

    /// More than was asked for is accepted, and said: the grant's owner asked for less.
    fn compare_scopes(&self, granted: &[String]) {
        let surplus: Vec<&str> =
            granted.iter().filter(|scope| !self.settings.scopes.contains(scope)).map(String::as_str).collect();
        if !surplus.is_empty() {
            tracing::warn!(token = %self.settings.name, ?surplus, "the issuer granted scopes beyond those of the token");
        }
    }

    fn failed(&self, fault: Fault, attempt: u32, retry_at: Moment, run: &mut Run<'_>, now: Moment) {
        let name = &self.settings.name;
        let reason = fault.reason.as_str();
        let is_unanswered = fault.reason == Reason::ProbeUnanswered;
        // What is wrong with what the issuer gave is no failure of its own.
        let rejected = fault.reason == Reason::Probe || run.detail.is_none();
        let detail = run.detail.take().unwrap_or_else(|| worse_words(fault.reason).to_owned());
        if !is_unanswered {
            self.discard(run, now);
        }
        let standing = match fault.class {
            Class::Reauthenticate => Standing::Reauthenticate,
            Class::Transient { .. } | Class::Refused => Standing::Failing { retry_at },
        };
        if matches!(fault.class, Class::Refused | Class::Reauthenticate) && !rejected {
            self.refusals.fetch_add(1, Ordering::Relaxed);
        }
        self.slot.stand(standing);
        self.slot.settle();
        self.metrics.failed(reason);
        if self.last_number.load(Ordering::Relaxed) > 0 && !is_unanswered {
            self.metrics.rotated("failure");
        }
        let retry_seconds = retry_at.remaining(now).as_secs_f64();
        tracing::warn!(token = %name, reason, detail, attempt, retry_seconds, "no new generation is live");
        let token = name.clone();
        self.parts.recorder.note(if rejected {
            Event::TokenRejected { token, reason, detail }
        } else {
            Event::TokenFailed { token, reason, detail, attempt }
        });
        settle(run, Err(RotateError::Issuer(reason)));
    }
}

fn lock<T>(mutex: &StdMutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn settle(run: &mut Run<'_>, outcome: Result<u64, RotateError>) {
    for waiting in run.rotating.drain(..) {
        // Whoever asked may have gone.
        let _ = waiting.send(outcome.clone());
    }
}

/// What is wrong with an answer that the source found good and the life did not.
fn worse_words(reason: Reason) -> &'static str {
    match reason {
        Reason::Worse => "the new generation would expire before the live one",
        Reason::Expired => "the source gives the generation that has expired",
        Reason::Revoked => "the source gives a generation that was revoked",
        _ => "the new generation has no usable life left",
    }
}

async fn under_way<T>(task: &mut Option<impl Future<Output = T> + Unpin>) -> T {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}
