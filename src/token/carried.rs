//! Who still has a generation: requests that are being written hold its value, and those whose answer has not come what
//! recognises it there.

use std::sync::{Arc, Weak};

use super::Generation;
use crate::secret::Needles;

/// Looks at how many requests hold a generation, without holding it.
#[derive(Clone)]
pub struct Carried {
    value: Weak<Generation>,
    needles: Weak<Needles>,
}

impl Carried {
    pub fn new(generation: &Arc<Generation>) -> Self {
        Self { value: Arc::downgrade(generation), needles: Arc::downgrade(&generation.needles) }
    }

    /// Whether requests with it are being written, or may be yet.
    pub fn is_being_written(&self) -> bool {
        self.value.strong_count() > 0
    }

    /// Whether it was sent and answers are still to come.
    pub fn is_awaited(&self) -> bool {
        self.needles.strong_count() > 0
    }

    /// Whether requests have it, beside the slot that it is in.
    pub fn is_in_use(&self) -> bool {
        self.value.strong_count() > 1 || self.needles.strong_count() > 1
    }

    /// Whether nobody has it any more.
    pub fn is_let_go(&self) -> bool {
        !self.is_being_written() && !self.is_awaited()
    }
}
