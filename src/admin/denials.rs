//! Sums of denied calls: each is in the trail within a second, and whoever makes a million of them does not fill the disk.
//!
//! Invariant: there are so many sums in a second at most, and one caller alone does not hide in them who else was denied.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{Denied, Source};
use crate::audit::{Event, Recorder};

/// Kinds of denials that are told apart in one second, of those who proved nothing. Operators have half as many beyond.
const KINDS: usize = 64;

#[derive(Default)]
pub struct Denials(Mutex<BTreeMap<Denied, u64>>);

impl Denials {
    pub fn count(&self, denied: Denied) {
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let beyond = if denied.operator.is_some() { KINDS / 2 } else { 0 };
        // Calls are of a caller's choice: without them there are few kinds of one caller.
        let denied =
            if has_room(&sums, &denied, KINDS / 2 + beyond) { denied } else { Denied { call: None, ..denied } };
        let denied = if has_room(&sums, &denied, KINDS + beyond) {
            denied
        } else {
            Denied { operator: None, source: Source::Unknown, ..denied }
        };
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

fn has_room(sums: &BTreeMap<Denied, u64>, denied: &Denied, most: usize) -> bool {
    sums.len() < most || sums.contains_key(denied)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(operator: Option<&str>, source: Source, call: &str) -> Denied {
        let operator = operator.map(|name| name.parse().expect("a name"));
        Denied { operator, source, call: Some(call.to_owned()), reason: "not_allowed" }
    }

    #[test]
    fn one_caller_that_tries_all_calls_does_not_hide_who_else_was_denied() {
        let denials = Denials::default();
        for number in 0..1000 {
            denials.count(denied(None, Source::User(1000), &format!("GET /v1/{number}")));
        }
        let bob = denied(None, Source::User(1001), "GET /v1/tokens");
        let alice = denied(Some("alice"), Source::User(1002), "POST /v1/tokens/{name}/release");
        for denied in [&bob, &alice, &alice] {
            denials.count(denied.clone());
        }
        let sums = denials.0.into_inner().expect("nobody panicked");
        assert_eq!(sums.get(&alice), Some(&2));
        assert_eq!(sums.get(&Denied { call: None, ..bob }), Some(&1));
        assert_eq!(sums.values().sum::<u64>(), 1003, "each is counted once");
    }

    #[test]
    fn a_crowd_is_summed_up_and_operators_are_named_all_the_same() {
        let denials = Denials::default();
        for uid in 0..1000 {
            denials.count(denied(None, Source::User(uid), "GET /v1/tokens"));
        }
        let alice = denied(Some("alice"), Source::User(1001), "GET /v1/config");
        denials.count(alice.clone());
        let sums = denials.0.into_inner().expect("nobody panicked");
        assert_eq!(sums.get(&Denied { call: None, ..alice }), Some(&1));
        assert!(sums.len() <= KINDS + 2, "{}", sums.len());
        assert_eq!(sums.values().sum::<u64>(), 1001);
    }
}
