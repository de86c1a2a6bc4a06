//! What upstreams have answered to one generation, as far as its supervisor has to know. Written by many requests at once,
//! and mostly read: a value that is there already is not stored again.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// No 401 has counted.
const UNTOUCHED: u8 = 0;
/// The supervisor was told of a 401, and a newer generation may come any moment.
const PENDING: u8 = 1;
/// It was told of one, and nobody need wait for what comes of it.
const SETTLED: u8 = 2;

#[derive(Default)]
pub(in crate::token) struct Verdict {
    /// A 401 counts only after an acceptance: the generation is what a 401 brought.
    unproven: bool,
    accepted: AtomicBool,
    rejection: AtomicU8,
}

impl Verdict {
    pub(in crate::token) fn new(unproven: bool) -> Self {
        Self { unproven, accepted: AtomicBool::new(false), rejection: AtomicU8::new(UNTOUCHED) }
    }

    /// Returns whether it is the first acceptance.
    pub(super) fn accept(&self) -> bool {
        !self.is_accepted() && !self.accepted.swap(true, Ordering::Relaxed)
    }

    /// Takes a 401. Returns whether it is the one that counts.
    pub(super) fn reject(&self) -> bool {
        let may_count = !self.is_rejected() && (!self.unproven || self.is_accepted());
        may_count && self.change(UNTOUCHED, PENDING)
    }

    /// A generation that was not rejected keeps its right to a refresh. Returns whether anybody may wait for that of this one.
    pub(super) fn settle(&self) -> bool {
        self.change(PENDING, SETTLED)
    }

    pub(in crate::token) fn is_accepted(&self) -> bool {
        self.accepted.load(Ordering::Relaxed)
    }

    pub(in crate::token) fn is_rejected(&self) -> bool {
        self.rejection.load(Ordering::Acquire) != UNTOUCHED
    }

    pub(super) fn is_pending(&self) -> bool {
        self.rejection.load(Ordering::Acquire) == PENDING
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.rejection.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}
