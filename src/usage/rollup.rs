//! Sums of the use of each token by each client, minute by minute, from counters that only grow. Nothing of it happens on the
//! request path.
//!
//! Invariant: the sums of all roll-ups are what the counters say, however the clock jumps.

use std::collections::BTreeMap;
use std::time::Duration;

use super::OUTCOMES;
use super::ledger::{Key, Ledger, Totals};
use crate::audit::{Used, time_text};
use crate::name::{ClientName, TokenName};

const MINUTE: Duration = Duration::from_secs(60);

/// See the module.
pub struct RollUps {
    ledger: Ledger,
    seen: BTreeMap<Key, Totals>,
    /// Since when the sums are taken.
    from: Duration,
    open: BTreeMap<(TokenName, ClientName), Used>,
    /// Whether the sums are others than when they were last asked for.
    changed: bool,
}

impl RollUps {
    pub fn new(ledger: Ledger, now: Duration) -> Self {
        let seen = ledger.totals().into_iter().collect();
        Self { ledger, seen, from: minute(now), open: BTreeMap::new(), changed: false }
    }

    /// Adds what has been used since the last time to the minute in which it was noticed. Returns the sums of that minute when it
    /// is over.
    pub fn tick(&mut self, now: Duration) -> Vec<Used> {
        self.add();
        if minute(now) == self.from {
            return Vec::new();
        }
        // What came in the first moment of the new minute is told with the old one: it was looked at too late to know.
        let over = self.close(self.from + MINUTE);
        self.from = minute(now);
        over
    }

    /// The last sums, whether their minute is over or not.
    pub fn finish(&mut self, now: Duration) -> Vec<Used> {
        let over = self.tick(now);
        over.into_iter().chain(self.close(now)).collect()
    }

    /// The sums of the minute so far, if they are others than they were.
    pub fn news(&mut self, now: Duration) -> Option<Vec<Used>> {
        let until = time_text(now);
        let sums = || self.open.values().map(|used| Used { until: until.clone(), ..used.clone() }).collect();
        std::mem::take(&mut self.changed).then(sums)
    }

    /// Puts sums back that nobody took: they belong to the minute that they are from, and to those until they are taken.
    pub fn put_back(&mut self, sums: Vec<Used>) {
        for used in sums {
            self.changed = true;
            let (Ok(token), Ok(client)) = (used.token.parse(), used.client.parse()) else { continue };
            let open = self.open.entry((token, client)).or_insert_with(|| Used {
                token: used.token.clone(),
                client: used.client.clone(),
                ..Used::default()
            });
            open.from.clone_from(&used.from);
            open.requests += used.requests;
            open.request_bytes += used.request_bytes;
            open.response_bytes += used.response_bytes;
            for (outcome, count) in used.outcomes {
                *open.outcomes.entry(outcome).or_default() += count;
            }
            for (route, count) in used.routes {
                *open.routes.entry(route).or_default() += count;
            }
        }
    }

    fn close(&mut self, until: Duration) -> Vec<Used> {
        self.changed |= !self.open.is_empty();
        let until = time_text(until);
        std::mem::take(&mut self.open).into_values().map(|used| Used { until: until.clone(), ..used }).collect()
    }

    fn add(&mut self) {
        for (key, now) in self.ledger.totals() {
            let before = self.seen.insert(key.clone(), now).unwrap_or_default();
            if now == before {
                continue;
            }
            self.changed = true;
            let Key { token, client, route } = key;
            let open = self.open.entry((token.clone(), client.clone())).or_insert_with(|| Used {
                token: token.to_string(),
                client: client.to_string(),
                from: time_text(self.from),
                ..Used::default()
            });
            for (outcome, (now, before)) in OUTCOMES.iter().zip(now.uses.iter().zip(before.uses)) {
                let count = now - before;
                if count > 0 {
                    open.requests += count;
                    *open.outcomes.entry((*outcome).to_owned()).or_default() += count;
                    *open.routes.entry(route.to_string()).or_default() += count;
                }
            }
            open.request_bytes += now.bytes[0] - before.bytes[0];
            open.response_bytes += now.bytes[1] - before.bytes[1];
        }
    }
}

fn minute(wall: Duration) -> Duration {
    Duration::from_secs(wall.as_secs() / 60 * 60)
}

#[cfg(test)]
mod tests {
    use super::super::{Metrics, OUTCOMES};
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1_700_000_000 / 60 * 60 + seconds)
    }

    fn key(token: &str, route: &str) -> Key {
        Key {
            token: token.parse().expect("a name"),
            client: ClientName::implicit(),
            route: route.parse().expect("a name"),
        }
    }

    /// A way to use an account: its outcome, and bytes.
    fn account(ledger: &Ledger, token: &str, route: &str) -> impl Fn(&str, u64) {
        let uses = OUTCOMES.map(|_| prometheus::IntCounter::new("uses", "uses").expect("a counter"));
        let account = ledger.account(key(token, route), &uses);
        move |outcome, bytes| {
            uses[OUTCOMES.iter().position(|known| *known == outcome).expect("an outcome")].inc();
            account.add_bytes([0, bytes]);
        }
    }

    #[test]
    fn a_minute_has_one_sum_for_each_token_and_client() {
        let ledger = Ledger::default();
        let mut rollups = RollUps::new(ledger.clone(), at(5));
        let (one, two, other) =
            (account(&ledger, "a", "one"), account(&ledger, "a", "two"), account(&ledger, "b", "one"));
        one("ok", 10);
        assert_eq!(rollups.tick(at(6)), []);
        two("ok", 5);
        two("aborted", 0);
        other("forbidden", 1);
        assert_eq!(rollups.tick(at(59)), []);
        assert_eq!(rollups.news(at(59)).map(|sums| sums.len()), Some(2));
        assert_eq!(rollups.news(at(59)), None);
        one("ok", 1);
        let over = rollups.tick(at(60));
        let sums: Vec<(&str, u64, u64)> =
            over.iter().map(|used| (used.token.as_str(), used.requests, used.response_bytes)).collect();
        assert_eq!(sums, [("a", 4, 16), ("b", 1, 1)]);
        assert_eq!(over[0].outcomes, BTreeMap::from([("aborted".to_owned(), 1), ("ok".to_owned(), 3)]));
        assert_eq!(over[0].routes, BTreeMap::from([("one".to_owned(), 2), ("two".to_owned(), 2)]));
        assert_eq!((over[0].from.as_str(), over[0].until.as_str()), (&*time_text(at(0)), &*time_text(at(60))));
        one("ok", 1);
        let last = rollups.finish(at(70));
        assert_eq!(last.len(), 1);
        assert_eq!((last[0].requests, last[0].from.as_str()), (1, &*time_text(at(60))));
        assert_eq!(rollups.finish(at(200)), []);
    }

    #[test]
    fn whatever_the_clock_does_all_use_is_told_once() {
        let ledger = Ledger::default();
        let mut rollups = RollUps::new(ledger.clone(), at(0));
        let mut rng = fastrand::Rng::with_seed(1);
        let uses = [account(&ledger, "a", "one"), account(&ledger, "b", "one")];
        let (mut used, mut told) = (0, 0);
        for _ in 0..1000 {
            rng.choice(&uses).expect("some")("ok", 1);
            used += 1;
            let over = rollups.tick(at(rng.u64(0..3600)));
            if rng.bool() {
                rollups.put_back(over);
            } else {
                told += over.iter().map(|used| used.requests).sum::<u64>();
            }
        }
        told += rollups.finish(at(0)).iter().map(|used| used.requests).sum::<u64>();
        assert_eq!(told, used);
    }

    #[test]
    fn what_was_used_before_is_not_told_again() {
        let registry = crate::metrics::Metrics::new().expect("metrics");
        let metrics = Metrics::register(&registry).expect("metrics");
        let ledger = metrics.ledger().clone();
        account(&ledger, "a", "one")("ok", 1);
        let mut rollups = RollUps::new(ledger, at(0));
        assert_eq!(rollups.finish(at(60)), []);
    }
}
