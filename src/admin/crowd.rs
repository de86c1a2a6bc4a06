//! How often anybody may call: each operator, and each source of calls that prove nothing.
//!
//! Invariant: what is kept is bounded by the config and by [`SOURCES`], whoever calls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Source;
use crate::clock::Clock;
use crate::name::OperatorName;

/// Calls of an operator: so many at once, and so many a second.
const CALLS: Bucket = Bucket { most: 200.0, each_second: 50.0 };

/// Calls of one source that prove nothing. A key of 128 bits is not guessed at any rate; a bad one should not be either.
const FAILURES: Bucket = Bucket { most: 10.0, each_second: 0.5 };

/// Sources that are told apart; the others share one bucket.
const SOURCES: usize = 1024;

#[derive(Clone, Copy)]
struct Bucket {
    most: f64,
    each_second: f64,
}

/// What is left in a bucket, and since when.
#[derive(Clone, Copy)]
struct Left {
    calls: f64,
    at: Duration,
}

impl Bucket {
    fn full(self, now: Duration) -> Left {
        Left { calls: self.most, at: now }
    }

    fn refill(self, left: &mut Left, now: Duration) {
        let came = now.saturating_sub(left.at).as_secs_f64() * self.each_second;
        *left = Left { calls: (left.calls + came).min(self.most), at: now };
    }

    /// Until there is one.
    fn wait(self, left: &Left) -> Option<Duration> {
        (left.calls < 1.0).then(|| Duration::from_secs_f64((1.0 - left.calls) / self.each_second))
    }
}

pub struct Rates {
    clock: Arc<dyn Clock>,
    operators: Mutex<HashMap<OperatorName, Left>>,
    failures: Mutex<HashMap<Source, Left>>,
}

impl Rates {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, operators: Mutex::default(), failures: Mutex::default() }
    }

    /// Takes one call of an operator.
    ///
    /// # Errors
    /// With the wait until there is one.
    pub fn call(&self, operator: &OperatorName) -> Result<(), Duration> {
        let now = self.clock.now().boot;
        let mut operators = self.operators.lock().unwrap_or_else(PoisonError::into_inner);
        let left = operators.entry(operator.clone()).or_insert_with(|| CALLS.full(now));
        CALLS.refill(left, now);
        if let Some(wait) = CALLS.wait(left) {
            return Err(wait);
        }
        left.calls -= 1.0;
        Ok(())
    }

    /// # Errors
    /// With the wait, when calls of this source failed too often of late.
    pub fn may_try(&self, source: &Source) -> Result<(), Duration> {
        let now = self.clock.now().boot;
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let known = if failures.contains_key(source) { source } else { &Source::Unknown };
        let Some(left) = failures.get_mut(known) else { return Ok(()) };
        FAILURES.refill(left, now);
        // A source of its own still has all its tries; unless there are so many that they share.
        let shares = known == source || failures.len() >= SOURCES;
        match failures.get(known).and_then(|left| FAILURES.wait(left)) {
            Some(wait) if shares => Err(wait),
            Some(_) | None => Ok(()),
        }
    }

    /// A call of this source proved nothing.
    pub fn failed(&self, source: &Source) {
        let now = self.clock.now().boot;
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= SOURCES && !failures.contains_key(source) {
            failures.retain(|_, left| {
                FAILURES.refill(left, now);
                left.calls < FAILURES.most
            });
        }
        let full = failures.len() >= SOURCES && !failures.contains_key(source);
        let source = if full { Source::Unknown } else { source.clone() };
        let left = failures.entry(source).or_insert_with(|| FAILURES.full(now));
        FAILURES.refill(left, now);
        left.calls = (left.calls - 1.0).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn rates() -> (Arc<ManualClock>, Rates) {
        let clock = Arc::new(ManualClock::default());
        (clock.clone(), Rates::new(clock))
    }

    #[test]
    fn an_operator_has_so_many_calls_and_then_so_many_a_second() {
        let (clock, rates) = rates();
        let (alice, bob) = ("alice".parse().expect("a name"), "bob".parse().expect("a name"));
        let passed = (0..1000).filter(|_| rates.call(&alice).is_ok()).count();
        assert_eq!(passed, 200);
        assert!(rates.call(&bob).is_ok());
        clock.advance(Duration::from_secs(1));
        assert_eq!((0..1000).filter(|_| rates.call(&alice).is_ok()).count(), 50);
    }

    #[test]
    fn whoever_fails_too_often_waits_and_nobody_else_does() {
        let (clock, rates) = rates();
        let (mallory, alice) = (Source::User(1), Source::User(2));
        for _ in 0..10 {
            assert_eq!(rates.may_try(&mallory), Ok(()));
            rates.failed(&mallory);
        }
        let wait = rates.may_try(&mallory).expect_err("too many");
        assert!(wait > Duration::from_secs(1) && wait <= Duration::from_secs(2), "{wait:?}");
        assert_eq!(rates.may_try(&alice), Ok(()));
        clock.advance(Duration::from_secs(2));
        assert_eq!(rates.may_try(&mallory), Ok(()));
    }

    #[test]
    fn very_many_sources_share_what_is_kept() {
        let (_, rates) = rates();
        for uid in 0..5000 {
            rates.failed(&Source::User(uid));
        }
        assert!(rates.failures.lock().expect("no panic").len() <= SOURCES + 1);
        assert!(rates.may_try(&Source::User(10_000)).is_err(), "the others have used up what they share");
        assert_eq!(rates.may_try(&Source::User(1)), Ok(()));
    }
}
