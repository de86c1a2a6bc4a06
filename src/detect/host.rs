//! How a host fares, over all tokens: what its trouble makes apps do is no misuse.
//!
//! ```text
//!  answer ─▶ its token's share of five minutes ─▶ two tokens fail? ─▶ trouble of many, and two hours to catch up
//!                                               └▶ the only one, nearly always? ─▶ trouble of one, as long as it lasts
//! ```
//!
//! Invariant: no token by itself makes a host seem to fail for others, nor takes its own misuse back to an alert.

use super::baseline::{HOUR, OUT_OF_ORDER, hash};
use super::event::Event;

/// Whether a host is in trouble, by the word of how many tokens.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Trouble {
    #[default]
    None,
    /// It fails for the one token that uses it, whose client may want that.
    OfOne,
    OfMany,
}

#[derive(Default)]
pub struct Host {
    span: u64,
    /// Of this span.
    tokens: Vec<Fare>,
    /// The span before ended in trouble of one.
    was_alone: bool,
    many: Option<u64>,
}

/// What became of the requests with one token.
struct Fare {
    token: u64,
    answers: u32,
    failed: u32,
    refused: u32,
}

impl Host {
    pub fn observe(&mut self, event: &Event, now: u64) -> Trouble {
        self.pass_to(now / SPAN);
        if !event.is_denied() && !event.is_under_way() {
            self.count(event);
        }
        // A token that is refused by itself is that token's matter.
        if self.fails_many(|fare| fare.failed) || self.fails_many(|fare| fare.refused) {
            self.many = Some(now);
        }
        let lasts = |since: u64| now + OUT_OF_ORDER >= since && now < since + AFTERMATH;
        match () {
            () if self.many.is_some_and(lasts) => Trouble::OfMany,
            () if self.is_alone() => Trouble::OfOne,
            () => Trouble::None,
        }
    }

    /// What comes a little late belongs to the span that there is.
    fn pass_to(&mut self, span: u64) {
        if span == self.span || span + 1 == self.span {
            return;
        }
        self.was_alone = span == self.span + 1 && self.is_alone();
        self.span = span;
        self.tokens.clear();
    }

    /// Whether it fails nearly always for the only token that there is: over as soon as it answers again.
    fn is_alone(&self) -> bool {
        match &self.tokens[..] {
            [] => self.was_alone,
            [only] => (self.was_alone || only.failed >= SURE) && only.failed * 10 >= only.answers * 9,
            _ => false,
        }
    }

    fn count(&mut self, event: &Event) {
        let token = hash(&[&event.token]);
        let at = self.tokens.iter().position(|fare| fare.token == token);
        let at = at.or_else(|| {
            (self.tokens.len() < MOST_TOKENS).then(|| {
                self.tokens.push(Fare { token, answers: 0, failed: 0, refused: 0 });
                self.tokens.len() - 1
            })
        });
        let Some(at) = at else { return };
        let fare = &mut self.tokens[at];
        fare.answers += 1;
        fare.failed += u32::from(event.status >= 500);
        fare.refused += u32::from(event.status == 401);
    }

    /// Whether two tokens or more fail often, and all together a quarter of the time.
    fn fails_many(&self, failures: impl Fn(&Fare) -> u32) -> bool {
        let failing = |fare: &&Fare| failures(fare) >= 2 && failures(fare) * 4 >= fare.answers;
        let all: u32 = self.tokens.iter().map(&failures).sum();
        let answers: u32 = self.tokens.iter().map(|fare| fare.answers).sum();
        all >= 5 && all * 4 >= answers && self.tokens.iter().filter(failing).count() >= 2
    }
}

const SPAN: u64 = 300;
/// How long apps catch up after trouble.
const AFTERMATH: u64 = 2 * HOUR;
/// Tokens that are looked at within a span.
const MOST_TOKENS: usize = 16;
/// Failures from which on one token is believed.
const SURE: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a host is said to be after so many answers to each of these tokens, all of one status.
    fn after(tokens: &[&str], status: u16, many: u64) -> Trouble {
        let mut host = Host::default();
        let mut trouble = Trouble::None;
        for second in 0..many {
            for token in tokens {
                let event = Event { token: (*token).to_owned(), status, ..Event::default() };
                trouble = host.observe(&event, 3000 + second);
            }
        }
        trouble
    }

    #[test]
    fn one_token_is_believed_of_its_own_failures_alone_and_only_when_nothing_else_comes() {
        assert_eq!(after(&["a"], 500, 5), Trouble::None);
        assert_eq!(after(&["a"], 503, 20), Trouble::OfOne);
        assert_eq!(after(&["a"], 401, 200), Trouble::None, "its own refusals");
        assert_eq!(after(&["a"], 0, 200), Trouble::None, "an answer that never came");
        assert_eq!((after(&["a", "b"], 503, 3), after(&["a", "b"], 401, 3)), (Trouble::OfMany, Trouble::OfMany));
        assert_eq!(after(&["a", "b"], 200, 300), Trouble::None);
    }

    #[test]
    fn what_one_token_makes_of_a_host_is_over_when_it_answers_again() {
        let mut host = Host::default();
        let mut told = |status, now| host.observe(&Event { token: "a".to_owned(), status, ..Event::default() }, now);
        for second in 0..12 {
            told(503, 3000 + second);
        }
        assert_eq!(told(503, 3299), Trouble::OfOne);
        assert_eq!(told(503, 3300), Trouble::OfOne, "it goes on in the next five minutes");
        assert_eq!(told(503, 3299), Trouble::OfOne, "a second late");
        assert_eq!(told(200, 3301), Trouble::None);
        for second in 2..30 {
            assert_eq!(told(200, 3300 + second), Trouble::None, "nobody hides behind failures that were");
        }
    }

    #[test]
    fn a_refusal_and_another_answer_are_no_failure_of_the_host() {
        let mut host = Host::default();
        let mut told = |token: &str, status, second| {
            host.observe(&Event { token: token.to_owned(), status, ..Event::default() }, second)
        };
        for second in 0..20 {
            assert_eq!(told("a", 401, second), Trouble::None);
        }
        assert_eq!(told("a", 404, 20), Trouble::None);
        // One failure of somebody else does not bear it out.
        for second in 0..20 {
            told("a", 500, second);
        }
        assert_eq!(told("b", 500, 21), Trouble::None);
        for second in 22..60 {
            told("b", 200, second);
        }
        assert_eq!(told("b", 500, 61), Trouble::None);
    }

    #[test]
    fn trouble_is_over_two_hours_after_it_was_last_seen_and_when_clocks_are_set_back() {
        let mut host = Host::default();
        let mut at = |status, token: &str, now| {
            host.observe(&Event { token: token.to_owned(), status, ..Event::default() }, now)
        };
        for number in 0..6 {
            at(503, ["a", "b"][number % 2], 90_000);
        }
        assert_eq!(at(200, "a", 90_000 + AFTERMATH - 1), Trouble::OfMany);
        assert_eq!(at(200, "a", 90_000 + AFTERMATH), Trouble::None);
        assert_eq!(at(200, "a", 80_000), Trouble::None);
    }
}
