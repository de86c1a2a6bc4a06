//! What one token was used for on one route: by which client, with which method, for paths of which template, under which
//! allow rule, when first and when last.

use serde::{Deserialize, Serialize};

use super::template::{Learned, Templates};
use crate::name::ClientName;
use crate::usage::{RuleMark, Use};

/// See the module.
#[derive(Clone, Default, Serialize, Deserialize, Debug)]
pub struct Book {
    templates: Templates<Ways>,
    #[serde(default)]
    pub spans: Spans,
}

/// In how many ways a template was used.
#[derive(Clone, Default, Serialize, Deserialize, Debug)]
#[serde(transparent)]
struct Ways(Vec<Way>);

/// One of them. Times are seconds since the Unix epoch.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Way {
    pub client: ClientName,
    pub method: String,
    /// `None` where anything passed.
    pub rule: Option<RuleMark>,
    pub uses: u64,
    /// Of these, how many had an answer that is no error.
    pub ok: u64,
    pub first: u64,
    pub last: u64,
    /// The last with such an answer.
    pub last_ok: Option<u64>,
}

/// A way that was not used for so many seconds is news when it is used again.
const PAUSE: u64 = 60;

/// For how long generations are used, from the first request that carries one to the last.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Spans {
    /// Not kept: a restart begins with another generation, and with its number 1.
    #[serde(skip)]
    current: Option<Span>,
    /// How many were followed by another one. What a restart has cut short says nothing of how long it was needed.
    pub generations: u64,
    pub longest: u64,
}

/// The use of one generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    number: u64,
    first: u64,
    last: u64,
}

impl Book {
    /// Writes a use down. One whose path is not known was refused before it got anywhere. Returns whether its way is new, or
    /// was not used for a while.
    pub fn note(&mut self, used: &Use<'_>) -> bool {
        let at = used.at.as_secs();
        if let Some(generation) = used.generation {
            self.spans.note(generation, at);
        }
        let mut is_news = false;
        if !used.path.is_empty() {
            self.templates.learn(used.path, |ways| is_news = ways.note(used, at));
        }
        is_news
    }

    /// Each way, with its template.
    pub fn ways(&self) -> impl Iterator<Item = (String, &Way)> {
        let all = self.templates.all().into_iter();
        all.flat_map(|(template, ways)| ways.0.iter().map(move |way| (template.clone(), way)))
    }

    pub fn last(&self) -> Option<u64> {
        let mut last = None;
        self.templates.each(&mut |ways| last = last.max(ways.0.iter().map(|way| way.last).max()));
        last
    }

    /// Forgets what was last done before then.
    pub fn forget(&mut self, before: u64) {
        self.templates.retain(&mut |ways| {
            ways.0.retain(|way| way.last >= before);
            !ways.0.is_empty()
        });
    }
}

impl Ways {
    fn note(&mut self, used: &Use<'_>, at: u64) -> bool {
        let last_ok = (used.outcome == "ok").then_some(at);
        let ok = u64::from(last_ok.is_some());
        let known = |way: &&mut Way| {
            way.rule == used.rule && way.method == used.method && way.client.as_str() == used.client.as_str()
        };
        match self.0.iter_mut().find(known) {
            Some(way) => {
                way.uses += 1;
                way.ok += ok;
                let is_news = at > way.last.saturating_add(PAUSE);
                way.first = way.first.min(at);
                way.last = way.last.max(at);
                way.last_ok = way.last_ok.max(last_ok);
                is_news
            }
            None => {
                self.0.push(Way {
                    client: used.client.clone(),
                    method: used.method.to_owned(),
                    rule: used.rule,
                    uses: 1,
                    ok,
                    first: at,
                    last: at,
                    last_ok,
                });
                true
            }
        }
    }
}

impl Learned for Ways {
    fn absorb(&mut self, other: Self) {
        for way in other.0 {
            let same = |own: &&mut Way| own.rule == way.rule && own.method == way.method && own.client == way.client;
            match self.0.iter_mut().find(same) {
                Some(own) => {
                    own.uses += way.uses;
                    own.ok += way.ok;
                    own.first = own.first.min(way.first);
                    own.last = own.last.max(way.last);
                    own.last_ok = own.last_ok.max(way.last_ok);
                }
                None => self.0.push(way),
            }
        }
    }

    fn size(&self) -> usize {
        self.0.len()
    }
}

impl Spans {
    #[cfg(test)]
    pub fn seen(generations: u64, longest: u64) -> Self {
        Self { current: None, generations, longest }
    }

    fn note(&mut self, number: u64, at: u64) {
        match &mut self.current {
            Some(current) if current.number == number => {
                (current.first, current.last) = (current.first.min(at), current.last.max(at));
                self.longest = self.longest.max(current.last - current.first);
            }
            // It carried an older one, and ends only now.
            Some(current) if number < current.number && at <= current.last => {}
            current => {
                // Where numbers begin again, what was before has been cut short.
                let is_followed = current.is_some_and(|current| current.number < number);
                self.generations += u64::from(is_followed);
                *current = Some(Span { number, first: at, last: at });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After uses of generations, each with the second in which it was attached.
    fn spans(uses: &[(u64, u64)]) -> Spans {
        let mut spans = Spans::default();
        uses.iter().for_each(|(number, at)| spans.note(*number, *at));
        spans
    }

    fn told(spans: Spans) -> (u64, u64) {
        (spans.generations, spans.longest)
    }

    #[test]
    fn a_generation_counts_when_another_one_has_followed_it() {
        assert_eq!(told(spans(&[(1, 100), (1, 130)])), (0, 30));
        assert_eq!(told(spans(&[(1, 100), (1, 130), (2, 200), (2, 240), (5, 900)])), (2, 40));
    }

    #[test]
    fn a_request_that_ends_late_counts_no_generation_again() {
        assert_eq!(told(spans(&[(1, 100), (2, 200), (3, 300), (1, 101), (2, 201), (3, 301)])), (2, 1));
    }

    #[test]
    fn a_generation_that_a_restart_has_cut_short_does_not_count() {
        let mut spans = spans(&[(1, 100), (2, 200)]);
        for restart in 1..10 {
            let json = serde_json::to_string(&spans).expect("JSON");
            spans = serde_json::from_str(&json).expect("what was written");
            spans.note(1, 1000 * restart);
            spans.note(1, 1000 * restart + 5);
        }
        assert_eq!(told(spans), (1, 5));
    }

    #[test]
    fn numbers_may_begin_again() {
        assert_eq!(told(spans(&[(7, 100), (1, 200), (1, 260), (2, 300), (3, 400)])), (2, 60));
    }
}
