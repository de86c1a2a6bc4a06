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

use super::control::{Command, RotateError};
use super::gate::{self, Gate};
use super::lifecycle::{Cause, Effect, Fault, Input, Lifecycle, Live, Offer, Plan};
use super::metrics::TokenMetrics;
use super::slot::{Generation, Slot, Standing, Verdict};
use super::source::{Class, Failure, Issued, Reason, Source};
use super::{Parts, Settings};
use crate::audit::Event;
use crate::clock::Moment;
use crate::secret::Mark;

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
    pub(super) gate: watch::Receiver<Gate>,
    /// The number of the last generation: a restarted run goes on from it.
    pub(super) last_number: AtomicU64,
    /// Its value, to be recognised when the source gives it again.
    pub(super) last_mark: StdMutex<Option<Mark>>,
}

type Answer = Result<Issued, Failure>;
type Asking<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// What one run carries from step to step.
struct Run<'a> {
    life: Lifecycle,
    asking: Option<Asking<'a>>,
    asked_at: Moment,
    /// The value and the words of the answer that the machine is judging.
    answer: Option<Answer>,
    rotating: Vec<oneshot::Sender<Result<u64, RotateError>>>,
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
    async fn live(&self, gate: &mut watch::Receiver<Gate>, commands: &mut mpsc::Receiver<Command>) -> Option<Gate> {
        let now = self.parts.clock.now();
        let mut run = Run {
            life: Lifecycle::new(self.plan, self.last_number.load(Ordering::Relaxed), now),
            asking: None,
            asked_at: now,
            answer: None,
            rotating: Vec::new(),
        };
        let mut input = Input::Timer;
        loop {
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
                closed = gate::closed(gate) => return Some(closed),
                () = self.slot.rejected() => self.rejected(),
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
            Some(Command::Rotate(done)) => {
                run.rotating.push(done);
                ControlFlow::Continue(Input::Rotate)
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
            Some(Command::StepDown) => {
                self.slot.withdraw(Some(Standing::Followed));
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
        self.slot.withdraw(Some(Standing::Asking));
        self.metrics.restarted();
    }

    fn last_mark(&self) -> MutexGuard<'_, Option<Mark>> {
        self.last_mark.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns the source's answer into what the machine judges.
    fn received(&self, answer: Answer, run: &mut Run<'_>) -> Input {
        run.asking = None;
        let answer = answer.and_then(|issued| self.presentable(issued));
        self.metrics.answered(if answer.is_ok() { "success" } else { "failure" });
        let judged = match &answer {
            Ok(issued) => Ok(Offer {
                expires: issued.expires,
                unchanged: *self.last_mark() == Some(self.parts.fingerprinter.mark(&issued.secret)),
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
            }
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
        *self.last_mark() = Some(self.parts.fingerprinter.mark(&issued.secret));
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
        _ => "the new generation has no usable life left",
    }
}

async fn answer(asking: &mut Option<Asking<'_>>) -> Answer {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}
