//! Where a token's live generation is published. The supervisor holds the writing half, [`Slot`]; the request path the
//! reading half, [`SlotReader`], with which it also says what upstreams answer to the generation.
//!
//! Invariants: a reader gets a generation only while both clocks say that it is usable. It checks at each read; no timer
//! has to fire for an expired generation to be refused. The supervisor hears of at most one 401 a generation, however
//! many there are.

mod verdict;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{Notify, watch};

use super::gate::Gate;
use super::lifecycle::Restraint;
use super::placement::Placed;
use crate::access::request::RequestId;
use crate::clock::{Clock, Moment};
use crate::secret::{Fingerprint, Needles};
pub(super) use verdict::Verdict;

/// One issued value of a token.
pub struct Generation {
    pub number: u64,
    /// The value as its placement wants it, made once; wiped when the last request that carries it lets go.
    pub value: Placed,
    pub fingerprint: Fingerprint,
    /// Recognises it in answers; wiped when the last answer to a request that carried it has passed.
    pub needles: Arc<Needles>,
    pub issued: Moment,
    pub expires: Moment,
    pub usable_until: Moment,
    /// Shared with the same generation as it was before its issuer renewed it.
    pub(super) verdict: Arc<Verdict>,
}

/// What is said of a slot that has no usable generation.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Standing {
    /// The issuer is being asked, and its last answer was good: worth waiting for.
    Asking,
    /// The generation is kept from new requests: its issuer is about to make it void.
    Held,
    /// The last attempt failed.
    Failing {
        retry_at: Moment,
    },
    /// The issuer wants a human.
    Reauthenticate,
    /// Somebody has taken the token out of use, and may let it in again.
    Restrained(Restraint),
    Retired,
    /// Nothing is provisioned before this request is approved.
    Unapproved(RequestId),
    /// Nothing is provisioned, because this request was denied.
    Denied(RequestId),
    /// Another token of the same name has taken this one's place. Requests that came before it did are still here.
    Followed,
}

struct State {
    generation: Option<Arc<Generation>>,
    /// Whether there has been a generation.
    had_one: bool,
    standing: Standing,
}

struct Shared {
    state: ArcSwap<State>,
    changes: watch::Sender<u64>,
    demand: Notify,
    rejection: Notify,
    acceptance: Notify,
}

/// Makes both halves.
pub(super) fn slot() -> (Slot, SlotReader) {
    let state = State { generation: None, had_one: false, standing: Standing::Asking };
    let shared = Arc::new(Shared {
        state: ArcSwap::from_pointee(state),
        changes: watch::Sender::new(0),
        demand: Notify::new(),
        rejection: Notify::new(),
        acceptance: Notify::new(),
    });
    (Slot(shared.clone()), SlotReader(shared))
}

/// The writing half.
pub(super) struct Slot(Arc<Shared>);

impl Slot {
    pub(super) fn publish(&self, generation: Arc<Generation>) {
        self.store(State { generation: Some(generation), had_one: true, standing: Standing::Asking });
    }

    /// The live generation lasts longer than was said.
    pub(super) fn prolong(&self, expires: Moment, usable_until: Moment) {
        let Some(live) = self.live() else { return };
        self.publish(Arc::new(Generation {
            number: live.number,
            value: live.value.clone(),
            fingerprint: live.fingerprint,
            needles: live.needles.clone(),
            issued: live.issued,
            expires,
            usable_until,
            verdict: live.verdict.clone(),
        }));
    }

    /// Says how it stands, beside whatever generation is there.
    pub(super) fn stand(&self, standing: Standing) {
        let now = self.0.state.load();
        self.store(State { generation: now.generation.clone(), had_one: now.had_one, standing });
    }

    /// Holds the generation no longer from requests, if it is held.
    pub(super) fn let_go(&self) {
        if self.0.state.load().standing == Standing::Held {
            self.stand(Standing::Asking);
        }
    }

    /// Takes the generation out of use and lets its memory be wiped.
    pub(super) fn withdraw(&self, standing: Option<Standing>) {
        let now = self.0.state.load();
        // Nothing is left to hold.
        let standing = standing.unwrap_or(if now.standing == Standing::Held { Standing::Asking } else { now.standing });
        self.store(State { generation: None, had_one: now.had_one, standing });
    }

    pub(super) fn live(&self) -> Option<Arc<Generation>> {
        self.0.state.load().generation.clone()
    }

    /// Resolves when a request has found no usable generation.
    pub(super) async fn demanded(&self) {
        self.0.demand.notified().await;
    }

    /// Resolves when an upstream has answered 401 to the live generation, for the first time.
    pub(super) async fn rejected(&self) {
        self.0.rejection.notified().await;
    }

    /// Resolves when an upstream has accepted the live generation for the first time, with its number.
    pub(super) async fn accepted(&self) -> u64 {
        loop {
            self.0.acceptance.notified().await;
            if let Some(live) = self.live().filter(|live| live.verdict.is_accepted()) {
                return live.number;
            }
        }
    }

    /// No newer generation is coming for now: whoever waits for one need not.
    pub(super) fn settle(&self) {
        let state = self.0.state.load();
        if state.generation.as_ref().is_some_and(|generation| generation.verdict.settle()) {
            self.0.changes.send_modify(|change| *change += 1);
        }
    }

    fn store(&self, state: State) {
        self.0.state.store(Arc::new(state));
        self.0.changes.send_modify(|change| *change += 1);
    }
}

/// The reading half: all that a request can do with a token.
#[derive(Clone)]
pub struct SlotReader(Arc<Shared>);

impl SlotReader {
    /// Of a slot that nothing is ever published in: for judging requests without sending them.
    pub fn of_nothing() -> Self {
        slot().1
    }

    /// Of a slot that stays as this gate leaves it: of a route that a token's grant does not cover.
    pub fn barred(gate: Gate) -> Self {
        let (slot, reader) = slot();
        if let Some(standing) = gate.standing() {
            slot.stand(standing);
        }
        reader
    }
}

/// A generation that was usable when it was read.
pub struct Usable(Guard<Arc<State>>);

impl Usable {
    pub fn generation(&self) -> &Generation {
        self.0.generation.as_deref().expect("a Usable is made from a state with a generation")
    }
}

/// Why there is no usable generation.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Absent {
    /// The first generation has not come yet.
    Pending,
    /// The last generation ran out and its successor has not come.
    Expired { retry_after: Option<Duration> },
    /// It is kept from requests while it is being replaced.
    Held,
    /// The issuer gives none.
    Unavailable { retry_after: Duration },
    /// The issuer wants a human to sign in again.
    Reauthenticate,
    /// Somebody has taken the token out of use.
    Restrained(Restraint),
    /// The grant has ended.
    Retired,
    /// The request for the token waits for approval.
    Unapproved(RequestId),
    /// The request for the token was denied.
    Denied(RequestId),
}

impl SlotReader {
    /// The live generation.
    ///
    /// # Errors
    /// When there is none that both clocks call usable. The supervisor is told that it was wanted.
    pub fn get(&self, now: Moment) -> Result<Usable, Absent> {
        let state = self.0.state.load();
        match &state.generation {
            Some(generation) if !generation.usable_until.reached(now) && state.standing != Standing::Held => {
                Ok(Usable(state))
            }
            _ => Err(self.absent(&state, now)),
        }
    }

    /// Waits until there is a usable generation, at most `patience`, and only while the issuer may give one any moment:
    /// when its last answer was a failure the requests need not queue up behind it.
    ///
    /// # Errors
    /// When there is none by then.
    pub async fn ready(&self, clock: &dyn Clock, patience: Duration) -> Result<(), Absent> {
        if self.get(clock.now()).is_ok() {
            return Ok(());
        }
        let mut changes = self.0.changes.subscribe();
        let wait = async {
            loop {
                changes.borrow_and_update();
                let Err(absent) = self.get(clock.now()) else { return Ok(()) };
                let worth_waiting = matches!(self.0.state.load().standing, Standing::Asking | Standing::Held);
                if !worth_waiting || changes.changed().await.is_err() {
                    return Err(absent);
                }
            }
        };
        match tokio::time::timeout(patience, wait).await {
            Ok(outcome) => outcome,
            Err(_) => self.get(clock.now()).map(drop),
        }
    }

    /// An upstream accepted this generation: it gave an answer that it gives to nobody else.
    pub fn succeeded(&self, generation: u64) {
        if let Some(live) = &self.0.state.load().generation
            && live.number == generation
            && live.verdict.accept()
        {
            self.0.acceptance.notify_one();
        }
    }

    /// An upstream answered 401 to this generation. Returns whether a newer one may be expected: it is there already, or
    /// its issuer is asked for it. At most one refresh a generation comes of this, and the generation stays in use.
    pub fn rejected(&self, generation: u64) -> bool {
        let state = self.0.state.load();
        let Some(live) = &state.generation else { return state.standing == Standing::Asking };
        if live.number != generation {
            return live.number > generation;
        }
        if live.verdict.reject() {
            self.0.rejection.notify_one();
        }
        live.verdict.is_pending()
    }

    /// Waits until there is a usable generation newer than one that was [rejected](Self::rejected), at most `patience`,
    /// and only while one may come any moment. Returns whether there is one.
    pub async fn newer_than(&self, generation: u64, clock: &dyn Clock, patience: Duration) -> bool {
        let newer = || {
            let state = self.0.state.load();
            match &state.generation {
                Some(live) if live.number > generation => Some(!live.usable_until.reached(clock.now())),
                Some(live) => (!live.verdict.is_pending()).then_some(false),
                None => (state.standing != Standing::Asking).then_some(false),
            }
        };
        let mut changes = self.0.changes.subscribe();
        let wait = async {
            loop {
                changes.borrow_and_update();
                if let Some(newer) = newer() {
                    return newer;
                }
                if changes.changed().await.is_err() {
                    return false;
                }
            }
        };
        tokio::time::timeout(patience, wait).await.unwrap_or(false)
    }

    /// Whether a generation is published, without a look at the clock: one that is may still have run out.
    pub fn is_published(&self) -> bool {
        self.0.state.load().generation.is_some()
    }

    /// Whether there is a usable generation, without asking for one.
    pub fn is_usable(&self, now: Moment) -> bool {
        self.0.state.load().generation.as_ref().is_some_and(|generation| !generation.usable_until.reached(now))
    }

    /// What is published, usable or not; whether anything ever was; and how the slot stands beside it.
    pub(super) fn look(&self) -> (Option<Arc<Generation>>, bool, Standing) {
        let state = self.0.state.load();
        (state.generation.clone(), state.had_one, state.standing)
    }

    /// Why nobody waits for the token, if its grant has ended or somebody has taken it out of use.
    pub fn withdrawn(&self) -> Option<Absent> {
        match self.0.state.load().standing {
            Standing::Retired => Some(Absent::Retired),
            Standing::Restrained(restraint) => Some(Absent::Restrained(restraint)),
            _ => None,
        }
    }

    /// Whether people have to decide first: nobody else can do anything about it.
    pub fn is_barred(&self) -> bool {
        matches!(self.0.state.load().standing, Standing::Unapproved(_) | Standing::Denied(_))
    }

    fn absent(&self, state: &State, now: Moment) -> Absent {
        self.0.demand.notify_one();
        match state.standing {
            Standing::Retired => Absent::Retired,
            Standing::Unapproved(request) => Absent::Unapproved(request),
            Standing::Denied(request) => Absent::Denied(request),
            Standing::Restrained(restraint) => Absent::Restrained(restraint),
            // Whoever asks again finds the other one.
            Standing::Followed => Absent::Expired { retry_after: Some(Duration::ZERO) },
            Standing::Reauthenticate => Absent::Reauthenticate,
            Standing::Held if self.is_usable(now) => Absent::Held,
            Standing::Held => Absent::Expired { retry_after: None },
            Standing::Asking if state.had_one => Absent::Expired { retry_after: None },
            Standing::Asking => Absent::Pending,
            Standing::Failing { retry_at } if state.had_one => {
                Absent::Expired { retry_after: Some(retry_at.remaining(now)) }
            }
            Standing::Failing { retry_at } => Absent::Unavailable { retry_after: retry_at.remaining(now) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::secret::{Fingerprinter, Secret};
    use crate::token::Carried;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn generation(number: u64, issued: Moment, life: u64) -> Arc<Generation> {
        let secret = Secret::new("abc");
        let expires = issued.after(Duration::from_secs(life));
        Arc::new(Generation {
            number,
            value: Placed::Value(secret.header_value("Bearer ", "").expect("visible ASCII")),
            fingerprint: Fingerprinter::new(&[0; 32]).of(&secret),
            needles: Arc::new(secret.make_needles()),
            issued,
            expires,
            usable_until: expires,
            verdict: Arc::default(),
        })
    }

    #[test]
    fn an_expired_generation_is_refused_without_any_timer() {
        let clock = ManualClock::default();
        let (slot, reader) = slot();
        slot.publish(generation(1, clock.now(), 100));
        assert!(reader.get(clock.now()).is_ok());
        clock.advance_wall(Duration::from_secs(101));
        assert_eq!(reader.get(clock.now()).err(), Some(Absent::Expired { retry_after: None }));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_the_first_generation() {
        let clock = Arc::new(ManualClock::default());
        let (slot, reader) = slot();
        let waiting = reader.ready(&*clock, PATIENCE);
        let publishing = async {
            tokio::task::yield_now().await;
            slot.publish(generation(1, clock.now(), 100));
        };
        let (outcome, ()) = tokio::join!(waiting, publishing);
        assert_eq!(outcome, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_do_not_wait_behind_a_failure() {
        let clock = ManualClock::default();
        let (slot, reader) = slot();
        slot.stand(Standing::Failing { retry_at: clock.now().after(Duration::from_secs(4)) });
        let before = tokio::time::Instant::now();
        let absent = reader.ready(&clock, PATIENCE).await.expect_err("no generation");
        assert!(matches!(absent, Absent::Unavailable { .. }), "{absent:?}");
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends() {
        let clock = ManualClock::default();
        let (_slot, reader) = slot();
        assert_eq!(reader.ready(&clock, PATIENCE).await, Err(Absent::Pending));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_not_given_and_comes_back_when_the_issuer_fails() {
        let clock = ManualClock::default();
        let (slot, reader) = slot();
        let only = generation(1, clock.now(), 100);
        let carried = Carried::new(&only);
        slot.publish(only);
        let usable = reader.get(clock.now()).expect("usable");
        slot.stand(Standing::Held);
        assert_eq!(reader.get(clock.now()).err(), Some(Absent::Held));
        assert!(reader.is_usable(clock.now()), "the token is as ready as before");
        assert!(carried.is_in_use(), "by the request that has it");
        drop(usable);
        assert!(!carried.is_in_use());
        let failing = async {
            tokio::task::yield_now().await;
            slot.stand(Standing::Failing { retry_at: clock.now() });
        };
        let (outcome, ()) = tokio::join!(reader.ready(&clock, PATIENCE), failing);
        assert_eq!(outcome, Ok(()));
    }

    #[tokio::test]
    async fn a_request_that_finds_nothing_tells_the_supervisor() {
        let clock = ManualClock::default();
        let (slot, reader) = slot();
        assert!(reader.get(clock.now()).is_err());
        slot.demanded().await;
    }

    #[tokio::test]
    async fn the_supervisor_hears_of_one_401_a_generation() {
        let clock = ManualClock::default();
        let (slot, reader) = slot();
        slot.publish(generation(1, clock.now(), 100));
        assert!(reader.rejected(1) && reader.rejected(1), "a newer one may come");
        slot.rejected().await;
        slot.settle();
        assert!(!reader.rejected(1), "nothing more is expected");
        assert!(tokio::time::timeout(Duration::ZERO, slot.rejected()).await.is_err(), "nothing more is heard");
        slot.publish(generation(2, clock.now(), 100));
        assert!(reader.rejected(1), "the newer one is there");
    }

    #[test]
    fn a_401_to_what_a_401_brought_counts_after_an_acceptance() {
        let clock = ManualClock::default();
        let (slot, reader) = slot();
        let Some(second) = Arc::into_inner(generation(2, clock.now(), 100)) else { panic!("one owner") };
        slot.publish(Arc::new(Generation { verdict: Arc::new(Verdict::new(true)), ..second }));
        assert!(!reader.rejected(2));
        reader.succeeded(1);
        assert!(!reader.rejected(2), "that was another generation");
        reader.succeeded(2);
        assert!(reader.rejected(2));
    }

    #[tokio::test(start_paused = true)]
    async fn rejected_requests_wait_for_the_newer_generation() {
        let clock = ManualClock::default();
        let (slot, reader) = slot();
        slot.publish(generation(1, clock.now(), 100));
        assert!(reader.rejected(1));
        let publishing = async {
            tokio::task::yield_now().await;
            slot.publish(generation(2, clock.now(), 100));
        };
        let (newer, ()) = tokio::join!(reader.newer_than(1, &clock, PATIENCE), publishing);
        assert!(newer);
    }

    #[tokio::test(start_paused = true)]
    async fn rejected_requests_do_not_wait_for_what_is_not_coming() {
        let clock = ManualClock::default();
        let (slot, reader) = slot();
        slot.publish(generation(1, clock.now(), 100));
        assert!(reader.rejected(1));
        let before = tokio::time::Instant::now();
        let settling = async {
            tokio::task::yield_now().await;
            slot.settle();
        };
        let (newer, ()) = tokio::join!(reader.newer_than(1, &clock, PATIENCE), settling);
        assert!(!newer && !reader.newer_than(1, &clock, PATIENCE).await);
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[test]
    fn a_retired_slot_holds_no_secret() {
        let clock = ManualClock::default();
        let (slot, reader) = slot();
        let generation = generation(1, clock.now(), 100);
        let held = Arc::downgrade(&generation);
        slot.publish(generation);
        slot.withdraw(Some(Standing::Retired));
        assert!(held.upgrade().is_none(), "wiped");
        assert_eq!(reader.get(clock.now()).err(), Some(Absent::Retired));
    }
}
