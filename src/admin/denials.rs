//! Sums of denied calls: each is in the trail within a second, and whoever makes a million of them does not fill the disk.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{Denied, Source};
use crate::audit::{Event, Recorder};

/// Kinds of denials that are told apart in one second.
const KINDS: usize = 64;

#[derive(Default)]
pub struct Denials(Mutex<BTreeMap<Denied, u64>>);

impl Denials {
    pub fn count(&self, denied: Denied) {
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = sums.len() >= KINDS && !sums.contains_key(&denied);
        let denied =
            if full { Denied { operator: None, source: Source::Unknown, call: None, ..denied } } else { denied };
        *sums.entry(denied).or_default() += 1;
    }

    /// Puts the sums into the trail.
    pub fn record(&self, recorder: &Recorder) {
        let sums = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (Denied { operator, source, call, reason }, count) in sums {
            let name = operator.as_ref().map(ToString::to_string);
            tracing::warn!(operator = name, %source, call, reason, count, "admin calls were denied");
            recorder.note(Event::AdminDenied { operator, source: source.to_string(), call, reason, count });
        }
    }
}
