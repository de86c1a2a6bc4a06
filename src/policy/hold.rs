//! What is held back from a client, of one token or of everything, while its use is unusual.
//!
//! ```text
//! request ─▶ Hold::judge ─┬─ nothing is held: one look at a flag
//!                         └─ blocked │ waits for an approval │ as much as is usual ─▶ Held
//! ```
//!
//! Invariant: a hold is one for all workers and outlives the table that it was found in: a reload lets nothing in that was held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::limit::{Exceeded, Rate, RateLimit};
use crate::access::request::RequestId;
use crate::clock::Clock;

/// What is held back from one client of one token, or of a route without one.
pub struct Hold {
    clock: Arc<dyn Clock>,
    is_held: AtomicBool,
    in_force: ArcSwap<InForce>,
    /// When a request was last refused for it, in seconds since the Unix epoch.
    refused: AtomicU64,
}

/// What is held back; nothing by default.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The client, whatever it asks for.
    pub is_blocked: bool,
    /// Until somebody has approved this request.
    pub approval: Option<Approval>,
    /// More than is usual.
    pub throttle: Option<Rate>,
}

/// The terms, and how much of the throttle's rate is used up.
#[derive(Default)]
struct InForce {
    terms: Terms,
    throttle: Option<Arc<RateLimit>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Approval {
    pub request: RequestId,
    /// Nobody approves it any more.
    pub is_denied: bool,
}

/// Why a request is held back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    Blocked,
    Awaiting(RequestId),
    Denied(RequestId),
    Throttled(Exceeded),
}

impl Hold {
    pub fn new(clock: Arc<dyn Clock>, terms: Terms) -> Self {
        let refused = AtomicU64::new(clock.now().wall.as_secs());
        let hold = Self { clock, is_held: AtomicBool::new(false), in_force: ArcSwap::default(), refused };
        hold.settle(terms);
        hold
    }

    /// Judges a request.
    ///
    /// # Errors
    /// When it is held back.
    pub fn judge(&self) -> Result<(), Held> {
        if self.is_held.load(Ordering::Acquire) {
            self.in_force.load().judge().inspect_err(|_| self.refuse())
        } else {
            Ok(())
        }
    }

    /// Judges a request that was let in before, which counts for no rate.
    ///
    /// # Errors
    /// When it is held back meanwhile.
    pub fn bars(&self) -> Result<(), Held> {
        if self.is_held.load(Ordering::Acquire) { self.in_force.load().terms.bars() } else { Ok(()) }
    }

    /// Holds back this from now on. What is held back already goes on as it is: nobody gets a burst anew.
    pub fn settle(&self, terms: Terms) {
        let before = self.in_force.load();
        if before.terms == terms {
            return;
        }
        let is_held = terms != Terms::default();
        if is_held {
            // What nobody has asked for yet counts as asked for now.
            self.refuse();
        }
        let same = |rate: Rate| before.throttle.clone().filter(|limit| limit.rate() == rate);
        let limit = |rate: Rate| same(rate).unwrap_or_else(|| Arc::new(RateLimit::new(rate, &self.clock)));
        self.in_force.store(Arc::new(InForce { terms, throttle: terms.throttle.map(limit) }));
        self.is_held.store(is_held, Ordering::Release);
    }

    /// When somebody last asked for what is held back, since the Unix epoch.
    pub fn last_refused(&self) -> Duration {
        Duration::from_secs(self.refused.load(Ordering::Relaxed))
    }

    fn refuse(&self) {
        self.refused.store(self.clock.now().wall.as_secs(), Ordering::Relaxed);
    }
}

impl InForce {
    fn judge(&self) -> Result<(), Held> {
        self.terms.bars()?;
        self.throttle.as_ref().map_or(Ok(()), |throttle| throttle.take().map_err(Held::Throttled))
    }
}

impl Terms {
    fn bars(&self) -> Result<(), Held> {
        if self.is_blocked {
            return Err(Held::Blocked);
        }
        if let Some(Approval { request, is_denied }) = self.approval {
            return Err(if is_denied { Held::Denied(request) } else { Held::Awaiting(request) });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn the_gravest_is_said_and_nothing_once_it_is_settled() {
        let manual = Arc::new(ManualClock::default());
        let clock: Arc<dyn Clock> = manual.clone();
        let hold = Hold::new(clock.clone(), Terms::default());
        assert_eq!(hold.judge(), Ok(()));
        let request: RequestId = "00112233445566ff".parse().expect("an id");
        let throttle = Some("1/h".parse().expect("a rate"));
        hold.settle(Terms { throttle, ..Terms::default() });
        assert_eq!(hold.judge(), Ok(()));
        assert!(matches!(hold.judge(), Err(Held::Throttled(exceeded)) if exceeded.wait.as_secs() == 3599));
        let approval = Some(Approval { request, is_denied: false });
        hold.settle(Terms { approval, throttle, ..Terms::default() });
        assert_eq!(hold.judge(), Err(Held::Awaiting(request)));
        let approval = Some(Approval { request, is_denied: true });
        hold.settle(Terms { approval, ..Terms::default() });
        assert_eq!(hold.judge(), Err(Held::Denied(request)));
        let before = hold.last_refused();
        manual.advance(Duration::from_secs(60));
        hold.settle(Terms { is_blocked: true, approval, throttle });
        assert_eq!(hold.judge(), Err(Held::Blocked));
        assert_eq!(hold.last_refused(), before + Duration::from_secs(60));
        hold.settle(Terms::default());
        assert_eq!(hold.judge(), Ok(()));
    }
    #[test]
    fn whatever_else_is_held_back_nobody_gets_a_burst_anew_nor_longer_to_wait() {
        let manual = Arc::new(ManualClock::default());
        let hold = Hold::new(manual.clone(), Terms::default());
        let throttle = Some(Rate::hourly(1, 2));
        let request: RequestId = "00112233445566ff".parse().expect("an id");
        let throttled = Terms { throttle, ..Terms::default() };
        hold.settle(throttled);
        assert!(hold.judge().is_ok() && hold.judge().is_ok() && hold.judge().is_err());
        let refused = hold.last_refused();
        manual.advance(Duration::from_secs(60));
        hold.settle(throttled);
        assert_eq!(hold.last_refused(), refused, "nobody has asked for anything");
        hold.settle(Terms { approval: Some(Approval { request, is_denied: false }), ..throttled });
        hold.settle(throttled);
        assert!(matches!(hold.judge(), Err(Held::Throttled(_))));
        hold.settle(Terms { throttle: Some(Rate::hourly(2, 2)), ..throttled });
        assert_eq!(hold.judge(), Ok(()), "another rate begins anew");
    }
}
