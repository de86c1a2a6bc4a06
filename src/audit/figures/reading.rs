//! The figures of a trail that is read from its beginning.
//!
//! Invariant: a record that is followed by `not_done` counts for nothing. That word comes with the next records that are written,
//! so that those which may still be taken back are few.

use std::collections::VecDeque;

use super::told::What;
use super::{Figures, Told, Weeks};

/// See the module.
#[derive(Default)]
pub struct Reading {
    figures: Figures,
    weeks: Weeks,
    /// The last ones, which do not count yet.
    held: VecDeque<Told>,
}

impl Reading {
    /// The next record.
    pub fn see(&mut self, told: Told) {
        if let What::NotDone { of } = told.what {
            return self.held.retain(|told| told.seq != of);
        }
        self.held.push_back(told);
        if self.held.len() > MOST_HELD {
            self.count_first();
        }
    }

    /// There are no more records: what had begun and was not over, and what was over.
    pub fn finish(mut self) -> (Figures, Weeks) {
        while !self.held.is_empty() {
            self.count_first();
        }
        (self.figures, self.weeks)
    }

    fn count_first(&mut self) {
        if let Some(told) = self.held.pop_front() {
            self.weeks.add(&self.figures.see(&told));
            if let Some(counts) = told.counts() {
                self.weeks.stood(told.at(), counts);
            }
        }
    }
}

/// More than are ever written at once.
const MOST_HELD: usize = 2048;
