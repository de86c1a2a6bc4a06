//! When a review is due, and whether it is overdue: what is remembered of reviews, and nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::report::{Reviewed, Standing};
use crate::audit::time_text;
use crate::name::TokenName;

/// `[review]`
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Settings {
    /// `None`: nobody waits for a review.
    pub every: Option<Duration>,
}

/// What was not used for so long counts as not used, where no schedule says otherwise.
const WINDOW: Duration = Duration::from_secs(30 * 86_400);

impl Settings {
    /// What was used longer ago counts as not used.
    pub fn window(self) -> Duration {
        self.every.unwrap_or(WINDOW)
    }
}

/// Tokens that are remembered though the config does not name them: they may come back.
const MOST_KNOWN: usize = 10_000;

/// What a restart must not forget. Times are since the Unix epoch.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Memory {
    /// Since when uses are written down.
    pub since: Duration,
    last: Option<Done>,
    /// For which date it was said that a review is overdue.
    said: Option<Duration>,
    /// Since when each token is known.
    known: BTreeMap<TokenName, Duration>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
struct Done {
    at: Duration,
    by: String,
    reason: String,
}

impl Memory {
    pub fn new(now: Duration) -> Self {
        Self { since: now, last: None, said: None, known: BTreeMap::new() }
    }

    /// The tokens that there are now. Returns whether one of them is new.
    pub fn meet<'t>(&mut self, tokens: impl Iterator<Item = &'t TokenName>, now: Duration) -> bool {
        let before = self.known.len();
        for token in tokens {
            if self.known.len() < MOST_KNOWN && !self.known.contains_key(token) {
                self.known.insert(token.clone(), now);
            }
        }
        self.known.len() > before
    }

    /// Since when this token is known.
    pub fn known_since(&self, token: &TokenName) -> Option<Duration> {
        self.known.get(token).copied()
    }

    pub fn reviewed(&mut self, now: Duration, by: String, reason: String) {
        self.last = Some(Done { at: now, by, reason });
        self.said = None;
    }

    /// When the last review was; `None`: there was none.
    pub fn last(&self) -> Option<Duration> {
        self.last.as_ref().map(|done| done.at)
    }

    /// The first review is due one interval after the start of the books.
    pub fn due(&self, settings: Settings) -> Option<Duration> {
        settings.every.map(|every| self.last().unwrap_or(self.since).saturating_add(every))
    }

    pub fn is_overdue(&self, settings: Settings, now: Duration) -> bool {
        self.due(settings).is_some_and(|due| now >= due)
    }

    /// The date that has been missed, once for each.
    pub fn missed(&mut self, settings: Settings, now: Duration) -> Option<Duration> {
        let due = self.due(settings).filter(|due| now >= *due && self.said != Some(*due))?;
        self.said = Some(due);
        Some(due)
    }

    pub fn standing(&self, settings: Settings, now: Duration) -> Standing {
        let reviewed =
            |done: &Done| Reviewed { time: time_text(done.at), by: done.by.clone(), reason: done.reason.clone() };
        Standing {
            last: self.last.as_ref().map(reviewed),
            due: self.due(settings).map(time_text),
            overdue: self.is_overdue(settings, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_review_is_due_an_interval_after_the_last_one_and_missed_once() {
        let monthly = Settings { every: Some(30 * DAY) };
        let mut memory = Memory::new(100 * DAY);
        assert_eq!(memory.due(monthly), Some(130 * DAY));
        assert_eq!(memory.missed(monthly, 129 * DAY), None);
        assert_eq!(memory.missed(monthly, 130 * DAY), Some(130 * DAY));
        assert_eq!(memory.missed(monthly, 131 * DAY), None, "it was said");
        let written = serde_json::to_string(&memory).expect("JSON");
        memory = serde_json::from_str(&written).expect("what was written");
        assert_eq!(memory.missed(monthly, 132 * DAY), None, "also before a restart");
        assert!(memory.standing(monthly, 132 * DAY).overdue);
        memory.reviewed(132 * DAY, "alice".into(), "looked at it".into());
        let standing = memory.standing(monthly, 133 * DAY);
        assert_eq!((standing.overdue, standing.due), (false, Some(time_text(162 * DAY))));
        assert_eq!(standing.last.map(|last| last.by), Some("alice".into()));
        assert_eq!(memory.missed(monthly, 163 * DAY), Some(162 * DAY));
    }

    #[test]
    fn without_a_schedule_nothing_is_overdue() {
        let mut memory = Memory::new(DAY);
        assert_eq!(memory.missed(Settings::default(), 10_000 * DAY), None);
        assert_eq!(memory.standing(Settings::default(), 10_000 * DAY), Standing::default());
        assert_eq!(Settings::default().window(), 30 * DAY);
    }

    #[test]
    fn a_token_is_known_since_it_was_met_first() {
        let (mut memory, token) = (Memory::new(DAY), "github".parse::<TokenName>().expect("a name"));
        assert!(memory.meet([&token].into_iter(), 2 * DAY));
        assert!(!memory.meet([&token].into_iter(), 3 * DAY));
        assert_eq!(memory.known_since(&token), Some(2 * DAY));
    }
}
