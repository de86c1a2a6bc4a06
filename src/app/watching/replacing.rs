//! Tokens that are replaced because their use is unusual, which takes as long as their issuers take.
//!
//! ```text
//! order ─▶ under way ─┬─▶ replaced: no further order counts for an hour
//!                     ├─▶ failed: tried again, later each time, until a person releases the token
//!                     └─▶ there is nothing to replace: over
//! ```
//!
//! Invariant: one of a token at a time, and no app drives its issuer by what it does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::admin::NotDrilled;
use crate::app::house::House;
use crate::backoff::Backoff;
use crate::name::TokenName;
use crate::token::Order;

/// A token is replaced once in so long.
const REPLACED_FOR: Duration = Duration::from_secs(3600);

const AGAIN: Backoff = Backoff { first: Duration::from_secs(10), most: Duration::from_secs(300) };

/// How it stands with a token.
#[derive(Debug)]
pub(super) enum Replacing {
    UnderWay { failures: u32 },
    Replaced { at: Duration },
    Failed { order: Order, failures: u32, again: Duration },
}

/// What came of an attempt.
pub(super) struct Attempt {
    token: TokenName,
    order: Order,
    outcome: Result<(), NotDrilled>,
}

/// Attempts that are under way.
pub(super) type Attempts = JoinSet<Attempt>;

impl Replacing {
    /// What is to be tried again by now, by the clock that never jumps.
    pub fn due(list: &mut BTreeMap<TokenName, Self>, now: Duration) -> Vec<(TokenName, Order)> {
        list.retain(|_, how| !matches!(how, Self::Replaced { at } if now >= *at + REPLACED_FOR));
        let due = |(token, how): (&TokenName, &mut Self)| match how {
            Self::Failed { order, failures, again } if now >= *again => {
                let order = std::mem::take(order);
                *how = Self::UnderWay { failures: *failures };
                Some((token.clone(), order))
            }
            Self::Failed { .. } | Self::UnderWay { .. } | Self::Replaced { .. } => None,
        };
        list.iter_mut().filter_map(due).collect()
    }

    /// Whether an order counts: it is under way from now on.
    fn begins(list: &mut BTreeMap<TokenName, Self>, token: &TokenName) -> bool {
        let is_new = !list.contains_key(token);
        if is_new {
            list.insert(token.clone(), Self::UnderWay { failures: 0 });
        }
        is_new
    }

    /// Takes what came of an attempt.
    fn ended(list: &mut BTreeMap<TokenName, Self>, attempt: Attempt, now: Duration) {
        let Attempt { token, order, outcome } = attempt;
        // A person may have released it meanwhile.
        let Some(Self::UnderWay { failures }) = list.get(&token) else { return };
        let failures = failures + 1;
        let how = match outcome {
            Ok(()) => Self::Replaced { at: now },
            Err(NotDrilled::NoToken | NotDrilled::NotInUse) => {
                list.remove(&token);
                return;
            }
            Err(NotDrilled::UnderWay | NotDrilled::NotReplaced(_) | NotDrilled::Trail(_)) => {
                // How soon it was answered is measured once.
                let order = Order { since: None, ..order };
                Self::Failed { order, failures, again: now + AGAIN.delay(failures, fastrand::f64()) }
            }
        };
        list.insert(token, how);
    }
}

impl House {
    /// Replaces a token, if that is not done already.
    pub(super) fn begin_replacing(self: &Arc<Self>, attempts: &mut Attempts, token: TokenName, order: Order) {
        if Replacing::begins(&mut self.ground.watching.lock().replacing, &token) {
            self.attempt(attempts, token, order);
        }
    }

    /// Tries again what has failed.
    pub(super) fn go_on_replacing(self: &Arc<Self>, attempts: &mut Attempts) {
        let due = Replacing::due(&mut self.ground.watching.lock().replacing, self.ground.clock.now().boot);
        for (token, order) in due {
            self.attempt(attempts, token, order);
        }
    }

    pub(super) fn replacing_ended(&self, attempt: Attempt) {
        Replacing::ended(&mut self.ground.watching.lock().replacing, attempt, self.ground.clock.now().boot);
    }

    fn attempt(self: &Arc<Self>, attempts: &mut Attempts, token: TokenName, order: Order) {
        let house = self.clone();
        attempts.spawn(async move {
            let reason = order.reason.clone();
            let outcome = match house.replace(&token, order.clone()).await {
                Ok(done) => {
                    let (generation, replaced) = (done.generation, done.replaced);
                    tracing::warn!(%token, replaced, generation, reason, "the token is replaced for unusual use");
                    Ok(())
                }
                Err(error) => {
                    tracing::error!(%token, reason, %error, "replacing the token for unusual use failed");
                    Err(error)
                }
            };
            Attempt { token, order, outcome }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::RotateError;

    #[test]
    fn what_failed_is_tried_again_later_each_time_and_what_is_replaced_is_left_alone_for_an_hour() {
        let (token, mut list): (TokenName, _) = ("api".parse().expect("a name"), BTreeMap::new());
        let order = Order { by: "detection".to_owned(), since: Some(Duration::ZERO), ..Order::default() };
        let attempt = |outcome: Result<(), NotDrilled>| Attempt { token: token.clone(), order: order.clone(), outcome };
        let failed = || attempt(Err(NotDrilled::NotReplaced(RotateError::NotApproved)));
        let second = Duration::from_secs(1);
        assert!(Replacing::begins(&mut list, &token));
        assert!(!Replacing::begins(&mut list, &token), "it is under way");
        Replacing::ended(&mut list, failed(), 100 * second);
        assert!(!Replacing::begins(&mut list, &token), "its turn comes");
        assert_eq!(Replacing::due(&mut list, 109 * second), []);
        let again = Order { since: None, ..order.clone() };
        assert_eq!(Replacing::due(&mut list, 110 * second), [(token.clone(), again.clone())]);
        assert_eq!(Replacing::due(&mut list, 110 * second), [], "once");
        Replacing::ended(&mut list, failed(), 111 * second);
        assert_eq!(Replacing::due(&mut list, 125 * second), [], "later than the first time");
        assert_eq!(Replacing::due(&mut list, 131 * second), [(token.clone(), again)]);
        Replacing::ended(&mut list, attempt(Ok(())), 140 * second);
        assert_eq!(Replacing::due(&mut list, 3739 * second), []);
        assert!(!Replacing::begins(&mut list, &token));
        assert_eq!(Replacing::due(&mut list, 3740 * second), []);
        assert!(Replacing::begins(&mut list, &token), "an hour later");
        list.clear();
        Replacing::ended(&mut list, failed(), 5000 * second);
        assert!(list.is_empty(), "a person has released it meanwhile");
    }
}
