//! Where a token's live generation is published. The supervisor holds the writing half, [`Slot`]; the request path the
//! reading half, [`SlotReader`].
//!
//! Invariant: a reader gets a generation only while both clocks say that it is usable. It checks at each read; no timer
//! has to fire for an expired generation to be refused.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use http::HeaderValue;
use tokio::sync::{Notify, watch};

use crate::clock::{Clock, Moment};
use crate::secret::Fingerprint;

/// One issued value of a token.
pub struct Generation {
    pub number: u64,
    /// The value as its placement wants it, made once; wiped when the last request that carries it lets go.
    pub header: HeaderValue,
    pub fingerprint: Fingerprint,
    pub issued: Moment,
    pub expires: Moment,
    pub usable_until: Moment,
}

/// What is said of a slot that has no usable generation.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Standing {
    /// The issuer is being asked, and its last answer was good: worth waiting for.
    Asking,
    /// The last attempt failed.
    Failing {
        retry_at: Moment,
    },
    /// The issuer wants a human.
    Reauthenticate,
    Retired,
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
}

/// Makes both halves.
pub(super) fn slot() -> (Slot, SlotReader) {
    let state = State { generation: None, had_one: false, standing: Standing::Asking };
    let shared =
        Arc::new(Shared { state: ArcSwap::from_pointee(state), changes: watch::Sender::new(0), demand: Notify::new() });
    (Slot(shared.clone()), SlotReader(shared))
}

/// The writing half.
pub(super) struct Slot(Arc<Shared>);

impl Slot {
    pub(super) fn publish(&self, generation: Arc<Generation>) {
        self.store(State { generation: Some(generation), had_one: true, standing: Standing::Asking });
    }

    /// Says how it stands, beside whatever generation is there.
    pub(super) fn stand(&self, standing: Standing) {
        let now = self.0.state.load();
        self.store(State { generation: now.generation.clone(), had_one: now.had_one, standing });
    }

    /// Takes the generation out of use and lets its memory be wiped.
    pub(super) fn withdraw(&self, standing: Option<Standing>) {
        let now = self.0.state.load();
        let standing = standing.unwrap_or(now.standing);
        self.store(State { generation: None, had_one: now.had_one, standing });
    }

    pub(super) fn live(&self) -> Option<Arc<Generation>> {
        self.0.state.load().generation.clone()
    }

    /// Resolves when a request has found no usable generation.
    pub(super) async fn demanded(&self) {
        self.0.demand.notified().await;
    }

    fn store(&self, state: State) {
        self.0.state.store(Arc::new(state));
        self.0.changes.send_modify(|change| *change += 1);
    }
}

/// The reading half: all that a request can do with a token.
#[derive(Clone)]
pub struct SlotReader(Arc<Shared>);

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
    /// The issuer gives none.
    Unavailable { retry_after: Duration },
    /// The issuer wants a human to sign in again.
    Reauthenticate,
    /// The grant has ended.
    Retired,
}

impl SlotReader {
    /// The live generation.
    ///
    /// # Errors
    /// When there is none that both clocks call usable. The supervisor is told that it was wanted.
    pub fn get(&self, now: Moment) -> Result<Usable, Absent> {
        let state = self.0.state.load();
        match &state.generation {
            Some(generation) if !generation.usable_until.reached(now) => Ok(Usable(state)),
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
                let worth_waiting = matches!(self.0.state.load().standing, Standing::Asking);
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

    /// Whether a generation is published, without a look at the clock: one that is may still have run out.
    pub fn is_published(&self) -> bool {
        self.0.state.load().generation.is_some()
    }

    /// Whether there is a usable generation, without asking for one.
    pub fn is_usable(&self, now: Moment) -> bool {
        self.0.state.load().generation.as_ref().is_some_and(|generation| !generation.usable_until.reached(now))
    }

    /// Whether the grant has ended: nobody waits for such a token.
    pub fn is_retired(&self) -> bool {
        self.0.state.load().standing == Standing::Retired
    }

    fn absent(&self, state: &State, now: Moment) -> Absent {
        self.0.demand.notify_one();
        match state.standing {
            Standing::Retired => Absent::Retired,
            Standing::Reauthenticate => Absent::Reauthenticate,
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

    const PATIENCE: Duration = Duration::from_secs(10);

    fn generation(number: u64, issued: Moment, life: u64) -> Arc<Generation> {
        let secret = Secret::new("abc");
        let expires = issued.after(Duration::from_secs(life));
        Arc::new(Generation {
            number,
            header: secret.header_value("Bearer ", "").expect("visible ASCII"),
            fingerprint: Fingerprinter::new(&[0; 32]).of(&secret),
            issued,
            expires,
            usable_until: expires,
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

    #[tokio::test]
    async fn a_request_that_finds_nothing_tells_the_supervisor() {
        let clock = ManualClock::default();
        let (slot, reader) = slot();
        assert!(reader.get(clock.now()).is_err());
        slot.demanded().await;
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
