//! One task a token: it waits for the timer, the source or a command, steps the [`Lifecycle`], and carries the effects
//! out. All decisions are the lifecycle's.
//!
//! Invariant: what the trail and the metrics say of a generation is said by the effect that made it so, once.

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
use super::revocation::{self, Telling};
use super::slot::{Generation, Slot, Standing, Verdict};
use super::source::{Class, Failure, Issued, Reason, Source};
use super::{Parts, Settings};
use crate::audit::Event;
use crate::clock::Moment;
use crate::secret::{Fingerprint, Mark, Secret};

/// The longest sleep: a machine that was suspended is noticed within it.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// Above every source's own time limit: a source that hangs all the same does not stop the token's life.
const CALL_LIMIT: Duration = Duration::from_secs(30);

pub(super) struct Supervisor {
    pub(super) settings: Arc<Settings>,
    pub(super) plan: Plan,
    pub(super) source: Arc<dyn Source>,
    pub(super) slot: Slot,
    pub(super) parts: Parts,
    pub(super) metrics: TokenMetrics,
    /// Locked by the one run that is under way: a restarted run goes on with the same commands.
    pub(super) commands: Mutex<mpsc::Receiver<Command>>,
    pub(super) gate: watch::Receiver<Turn>,
    /// The number of the last generation: a restarted run goes on from it.
    pub(super) last_number: AtomicU64,
    /// Its value, to be recognised when the source gives it again.
    pub(super) last_mark: StdMutex<Option<Mark>>,
    /// What a restarted run begins under.
    pub(super) restraint: StdMutex<Option<Restraint>>,
    /// The generation that a quarantine keeps.
    pub(super) held: StdMutex<Option<Arc<Generation>>>,
    /// Generations that are good at their issuer, as far as is known, where it can be told that they are not.
    pub(super) issued: StdMutex<Vec<Outstanding>>,
    /// Values that were revoked, to be recognised when the source gives one again.
    pub(super) void: StdMutex<Vec<Mark>>,
}

type Answer = Result<Issued, Failure>;
type Asking<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// What one run carries from step to step.
struct Run<'a> {
    /// Whether an upstream has accepted the token since it was let in.
    used: bool,
    life: Lifecycle,
    asking: Option<Asking<'a>>,
    asked_at: Moment,
    /// The value and the words of the answer that the machine is judging.
    answer: Option<Answer>,
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
    async fn live(&self, gate: &mut watch::Receiver<Turn>, commands: &mut mpsc::Receiver<Command>) -> Option<Gate> {
        let now = self.parts.clock.now();
        let last_number = self.last_number.load(Ordering::Relaxed);
        let restraint = *lock(&self.restraint);
        let life = match restraint {
            Some(restraint) => {
                self.slot.withdraw(Some(Standing::Restrained(restraint)));
                Lifecycle::restrained(restraint, self.plan, last_number, now)
            }
            None => Lifecycle::new(self.plan, last_number, now),
        };
        self.metrics.state(life.phase());
        let used = false;
        let mut run = Run { used, life, asking: None, asked_at: now, answer: None, rotating: Vec::new(), order: None };
        let mut input = Input::Timer;
        let closings = gate.borrow().closings;
        loop {
            let turn = *gate.borrow();
            if turn.closings != closings || turn.gate != Gate::Open {
                // Whatever has come meanwhile is let go.
                return Some(turn.gate);
            }
            let now = self.parts.clock.now();
            self.step(input, &mut run, now);
            let wake = run.life.wake_at()?;
            let sleep = wake.remaining(self.parts.clock.now()).min(LONGEST_SLEEP);
            let asking = run.asking.is_some();
            let changed = self.source.changed();
            let heeds_demand = run.life.heeds_demand(now);
            input = tokio::select! {
                answer = answer(&mut run.asking), if asking => self.received(answer, &mut run),
                command = commands.recv() => match self.commanded(command, &mut run) {
                    ControlFlow::Continue(input) => input,
                    ControlFlow::Break(()) => return None,
                },
                closed = gate::closed(gate, closings) => return Some(closed),
                () = self.slot.rejected() => self.rejected(),
                generation = self.slot.accepted(), if !run.used => {
                    run.used = true;
                    let token = self.settings.name.clone();
                    self.parts.recorder.note(Event::TokenFirstUsed { token, generation });
                    Input::Timer
                }
                () = self.slot.demanded(), if heeds_demand => Input::Demand,
                () = changed, if !asking => Input::Changed,
                () = tokio::time::sleep(sleep) => Input::Timer,
            };
        }
    }

    /// Lets the machine judge an input, and carries out what follows.
    fn step<'a>(&'a self, input: Input, run: &mut Run<'a>, now: Moment) {
        let accepted = run.life.is_unproven() && self.slot.live().is_some_and(|live| live.verdict.is_accepted());
        for input in accepted.then_some(Input::Accepted).into_iter().chain([input]) {
            for effect in run.life.step(input, now, fastrand::f64()) {
                self.carry_out(effect, run, now);
            }
        }
        run.answer = None;
        if matches!(input, Input::Rejected { .. }) && !run.life.expects_answer(now) {
            self.slot.settle();
        }
    }

    fn commanded<'a>(&'a self, command: Option<Command>, run: &mut Run<'a>) -> ControlFlow<(), Input> {
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
                ControlFlow::Continue(Input::Timer)
            }
            // Its successor of the same name goes on with metrics and trail.
            Some(Command::StepDown(cause, done)) => {
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
        let answer = answer.and_then(|issued| self.presentable(issued));
        self.metrics.answered(if answer.is_ok() { "success" } else { "failure" });
        let judged = match &answer {
            Ok(issued) => Ok(Offer {
                expires: issued.expires,
                unchanged: *lock(&self.last_mark) == Some(self.parts.fingerprinter.mark(&issued.secret)),
                void: lock(&self.void).contains(&self.parts.fingerprinter.mark(&issued.secret)),
            }),
            Err(failure) => Err(Fault { reason: failure.reason, class: failure.class }),
        };
        run.answer = Some(answer);
        Input::Answered(judged)
    }

    /// A value that cannot stand in its placement is no answer, whatever source it came from.
    fn presentable(&self, issued: Issued) -> Answer {
        match self.settings.placement.carry(&issued.secret) {
            Ok(_) => Ok(issued),
            Err(error) => Err(Failure {
                reason: Reason::TokenCharset,
                class: Class::Transient { retry_after: None },
                detail: error.to_string(),
            }),
        }
    }

    fn carry_out<'a>(&'a self, effect: Effect, run: &mut Run<'a>, now: Moment) {
        match effect {
            Effect::Call => {
                run.asked_at = now;
                run.asking = Some(Box::pin(self.ask()));
            }
            Effect::Publish { live, replaces, cause } => self.publish(live, replaces, cause, run, now),
            Effect::Unchanged => {
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
                tracing::warn!(token = %self.settings.name, generation = number, "the generation expired before its successor came");
                self.parts.recorder.note(Event::TokenExpired { token: self.settings.name.clone(), generation: number });
            }
            Effect::Retire { number } => {
                run.asking = None;
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

    async fn ask(&self) -> Answer {
        match tokio::time::timeout(CALL_LIMIT, self.source.obtain()).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure {
                reason: Reason::Timeout,
                class: Class::Transient { retry_after: None },
                detail: format!("no answer within {} s", CALL_LIMIT.as_secs()),
            }),
        }
    }

    fn publish(&self, live: Live, replaces: Option<u64>, cause: Cause, run: &mut Run<'_>, now: Moment) {
        let Some(Ok(issued)) = run.answer.take() else { return };
        let Ok(value) = self.settings.placement.carry(&issued.secret) else { return };
        let name = &self.settings.name;
        let fingerprint = self.parts.fingerprinter.of(&issued.secret);
        if issued.assumed {
            tracing::warn!(token = %name, "the issuer did not say how long the token lives: at most 15 minutes are assumed");
        }
        if let Some(granted) = &issued.granted {
            self.compare_scopes(granted);
        }
        let (number, expires) = (live.number, live.expires.wall);
        self.last_number.store(number, Ordering::Relaxed);
        *lock(&self.last_mark) = Some(self.parts.fingerprinter.mark(&issued.secret));
        self.slot.publish(Arc::new(Generation {
            number,
            value,
            fingerprint,
            needles: Arc::new(issued.secret.make_needles()),
            issued: live.issued,
            expires: live.expires,
            usable_until: live.usable_until,
            verdict: Verdict::new(run.life.is_unproven()),
        }));
        self.outstanding(number, issued.secret, fingerprint, &live, now);
        let source = self.source.kind();
        let (token, generation) = (name.clone(), number);
        self.parts.recorder.note(match replaces {
            None => Event::TokenIssued { token, generation, fingerprint, expires, source },
            Some(replaces) => {
                let cause = cause.as_str();
                Event::TokenRotated { token, generation, replaces, cause, fingerprint, expires, source }
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
        let (detail, rejected) = match run.answer.take() {
            Some(Err(failure)) => (failure.detail, false),
            Some(Ok(_)) => (worse_words(fault.reason).to_owned(), true),
            None => (String::new(), false),
        };
        let standing = match fault.class {
            Class::Reauthenticate => Standing::Reauthenticate,
            Class::Transient { .. } | Class::Refused => Standing::Failing { retry_at },
        };
        self.slot.stand(standing);
        self.slot.settle();
        self.metrics.failed(reason);
        if self.last_number.load(Ordering::Relaxed) > 0 {
            self.metrics.rotated("failure");
        }
        let retry_seconds = retry_at.remaining(now).as_secs_f64();
        tracing::warn!(token = %name, reason, detail, attempt, retry_seconds, "the issuer gave no new generation");
        let token = name.clone();
        self.parts.recorder.note(if rejected {
            Event::TokenRejected { token, reason, detail }
        } else {
            Event::TokenFailed { token, reason, detail, attempt }
        });
        settle(run, Err(RotateError::Issuer(reason)));
    }
}

impl Supervisor {
    /// From here on no reader of the slot gets a generation.
    fn restrained(&self, restraint: Restraint, run: &mut Run<'_>) {
        self.slot.withdraw(Some(Standing::Restrained(restraint)));
        settle(run, Err(RotateError::Restrained));
        self.note_restraint(restraint, run.order.take().unwrap_or_default());
    }

    /// What a run begins under from now on.
    pub(super) fn note_restraint(&self, restraint: Restraint, order: Order) {
        let Order { by, reason, since } = order;
        let mut noted = lock(&self.restraint);
        // A quarantine takes nothing from a revocation.
        if matches!(*noted, Some(before) if before == restraint || before == Restraint::Revoked) {
            return;
        }
        *noted = Some(restraint);
        drop(noted);
        let token = self.settings.name.clone();
        let generation = self.last_number.load(Ordering::Relaxed);
        tracing::warn!(%token, generation, by, reason, how = restraint.as_str(), "taken out of use");
        self.parts.recorder.note(match restraint {
            Restraint::Quarantined => Event::TokenQuarantined { token, generation, by, reason, since },
            Restraint::Revoked => Event::TokenRevoked { token, generation, by, reason, since },
        });
    }

    /// `None` where there was none.
    pub(super) fn forget_restraint(&self) -> Option<()> {
        lock(&self.restraint).take().map(drop)
    }

    /// Keeps what the issuer can be told of later, and has the generations before it voided when their use has ended.
    fn outstanding(&self, number: u64, value: Secret, fingerprint: Fingerprint, live: &Live, now: Moment) {
        let mark = self.parts.fingerprinter.mark(&value);
        let value = self.source.revokes().then(|| Arc::new(value));
        let replaced = std::mem::take(&mut *lock(&self.issued));
        lock(&self.issued).push(Outstanding { number, mark, value, fingerprint, expires: live.expires });
        let not_before = now.after(self.settings.rotation.overlap);
        for old in replaced.into_iter().filter(|old| !old.expires.reached(now)) {
            self.tell(old, revocation::Cause::Replaced, not_before);
        }
    }

    /// Voids every generation that has not run out.
    pub(super) fn void_all(&self, cause: revocation::Cause) {
        let now = self.parts.clock.now();
        let not_before = match cause {
            revocation::Cause::Replaced => now.after(self.settings.rotation.overlap),
            revocation::Cause::Revoked | revocation::Cause::Retired | revocation::Cause::Discarded => {
                self.parts.revoker.hurry(&self.settings.name);
                now
            }
        };
        for outstanding in std::mem::take(&mut *lock(&self.issued)) {
            if cause == revocation::Cause::Revoked {
                let mut void = lock(&self.void);
                void.push(outstanding.mark);
                let surplus = void.len().saturating_sub(MOST_VOID);
                void.drain(..surplus);
            }
            if !outstanding.expires.reached(now) {
                self.tell(outstanding, cause, not_before);
            }
        }
    }

    /// An answer that came after the token was taken out of use: nobody ever has that generation.
    fn discard(&self, run: &mut Run<'_>, now: Moment) {
        let Some(Ok(issued)) = run.answer.take() else { return };
        let (fingerprint, mark) =
            (self.parts.fingerprinter.of(&issued.secret), self.parts.fingerprinter.mark(&issued.secret));
        // What is only found somewhere is not new.
        if !self.source.revokes() || *lock(&self.last_mark) == Some(mark) {
            return;
        }
        let expires = issued.expires.unwrap_or(now.after(Duration::from_secs(24 * 3600)));
        let value = Some(Arc::new(issued.secret));
        let number = self.last_number.load(Ordering::Relaxed) + 1;
        self.tell(Outstanding { number, mark, value, fingerprint, expires }, revocation::Cause::Discarded, now);
    }

    fn tell(&self, outstanding: Outstanding, cause: revocation::Cause, not_before: Moment) {
        let Outstanding { number, value: Some(value), fingerprint, expires, .. } = outstanding else { return };
        self.parts.revoker.tell(Telling {
            token: self.settings.name.clone(),
            generation: number,
            fingerprint,
            value,
            expires,
            source: self.source.clone(),
            source_reference: self.parts.source_reference.clone(),
            cause,
            not_before,
            is_kept: false,
        });
    }
}

/// A generation that may still be good at its issuer.
pub(super) struct Outstanding {
    number: u64,
    mark: Mark,
    /// Where the issuer can be told of it.
    value: Option<Arc<Secret>>,
    fingerprint: Fingerprint,
    expires: Moment,
}

/// Revoked values that are remembered, at most.
const MOST_VOID: usize = 64;

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

async fn answer(asking: &mut Option<Asking<'_>>) -> Answer {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}
