//! What requests were refused for want of a right, by us or by the API, so that it can be asked for by the refusal's id: a refusal
//! repeats nothing of its request.
//!
//! Invariant: bounded, and only written to by refusals. What is kept is a rule of one route that the route does not deny, and that
//! covers the refused request alone; or scopes that the token's config lets be asked for.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::Method;

use crate::name::{RouteName, TokenName};
use crate::route::Route;

/// Refusals that are remembered.
pub const MOST: usize = 256;

/// A longer rule is asked for by hand.
const LONGEST: usize = 1024;

/// The last of them, of all workers.
#[derive(Default)]
pub struct Wants(Mutex<VecDeque<(String, Want)>>);

/// What a refused request lacked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Want {
    pub token: TokenName,
    pub lacks: Lack,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lack {
    /// As `POST /repos/a/issues`.
    Rule { route: RouteName, rule: String },
    /// All that the token would have, with those that it lacks.
    Scopes(BTreeSet<String>),
}

impl Want {
    /// The rule that would let such a request pass; `None` where none would, or no rule says exactly this.
    pub(super) fn of(route: &Route, method: &Method, rest: &str) -> Option<Self> {
        let token = route.token.as_ref()?.name.clone();
        let rule = route.missing(method, rest)?.to_string();
        (rule.len() <= LONGEST).then(|| Self { token, lacks: Lack::Rule { route: route.name.clone(), rule } })
    }
}

/// What asks for what the refusal with this id is remembered for. It holds names and ids of ours alone.
pub(super) fn command(token: &TokenName, request_id: &str) -> String {
    format!("countersign requests submit {token} --for 30m --refused {request_id} --reason TEXT")
}

impl Wants {
    pub(super) fn keep(&self, request_id: &str, want: Want) {
        let mut list = self.lock();
        if list.len() == MOST {
            list.pop_front();
        }
        list.push_back((request_id.to_owned(), want));
    }

    /// What the request with this id lacked, if it is among the last that were refused.
    pub fn find(&self, request_id: &str) -> Option<Want> {
        self.lock().iter().find(|(id, _)| id == request_id).map(|(_, want)| want.clone())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(String, Want)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let wants = Wants::default();
        let want = |number: usize| Want {
            token: "api".parse().expect("a name"),
            lacks: Lack::Scopes([format!("scope-{number}")].into()),
        };
        for number in 0..=MOST {
            wants.keep(&format!("id-{number}"), want(number));
        }
        assert_eq!(wants.find("id-0"), None);
        assert_eq!(wants.find("id-1"), Some(want(1)));
        assert_eq!(wants.find(&format!("id-{MOST}")), Some(want(MOST)));
    }
}
