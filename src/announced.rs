//! What services announce of their own end: `Deprecation` (RFC 9745) and `Sunset` (RFC 8594) in the heads of answers.
//!
//! ```text
//!  answer that has one of both ─▶ Voice: the same words as before? ─▶ Announcements ─▶ at once ─▶ whoever tells people
//! ```
//!
//! Invariants: bounded; an answer that announces what was announced before costs a hash and no lock; of the answer's text
//! nothing goes on but dates and a link.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::FixedState;
use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::name::RouteName;

pub const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
pub const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// Parties that are remembered: routes come from the config, and so do the URLs that we call.
const MOST: usize = 1024;

/// The longest link that is told, in bytes.
const LONGEST_LINK: usize = 300;

/// Who announces something.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// The upstream of a route.
    Route(RouteName),
    /// What we call ourselves, by its URL without a query.
    Issuer(String),
}

/// What it announces. Dates are since the Unix epoch.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Announcement {
    /// From when on nobody should use it any more.
    pub deprecation: Option<When>,
    /// From when on it does not answer any more.
    pub sunset: Option<When>,
    /// Where that is written.
    pub link: Option<String>,
}

/// When something is so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// The service does not say.
    Undated,
    At(Duration),
}

/// All that was announced.
#[derive(Default)]
pub struct Announcements {
    voices: Mutex<BTreeMap<Party, Arc<Voice>>>,
    waiting: Arc<Waiting>,
}

/// What is to be told.
#[derive(Default)]
struct Waiting {
    news: Mutex<BTreeMap<Party, Announcement>>,
    arrived: Notify,
}

/// One party, as its answers come.
pub struct Voice {
    party: Party,
    /// A hash of what it last said; 0: nothing.
    last: AtomicU64,
    /// Whether it was heard since that was last asked.
    heard: AtomicBool,
    waiting: Arc<Waiting>,
}

impl Announcements {
    /// The voice of a party: the same one as long as it is remembered. `None` where there are too many.
    pub fn voice(&self, party: &Party) -> Option<Arc<Voice>> {
        let mut voices = lock(&self.voices);
        if let Some(voice) = voices.get(party) {
            return Some(voice.clone());
        }
        if voices.len() >= MOST {
            return None;
        }
        let waiting = self.waiting.clone();
        let (last, heard) = (AtomicU64::new(0), AtomicBool::new(false));
        let voice = Arc::new(Voice { party: party.clone(), last, heard, waiting });
        voices.insert(party.clone(), voice.clone());
        Some(voice)
    }

    /// Whether a party was heard since this was last asked.
    pub fn was_heard(&self, party: &Party) -> bool {
        lock(&self.voices).get(party).is_some_and(|voice| voice.heard.swap(false, Ordering::Relaxed))
    }

    /// Resolves when there is something to take. One waits at a time.
    pub async fn arrived(&self) {
        self.waiting.arrived.notified().await;
    }

    /// All that was announced since the last call.
    pub fn take(&self) -> BTreeMap<Party, Announcement> {
        std::mem::take(&mut *lock(&self.waiting.news))
    }
}

impl Voice {
    /// An answer has one of these fields.
    pub fn says<'v>(
        &self,
        deprecation: Option<&HeaderValue>,
        sunset: Option<&HeaderValue>,
        links: impl Iterator<Item = &'v HeaderValue>,
    ) {
        if !self.heard.load(Ordering::Relaxed) {
            self.heard.store(true, Ordering::Relaxed);
        }
        let said = FixedState::default().hash_one((deprecation, sunset)).max(1);
        if self.last.load(Ordering::Relaxed) == said || self.last.swap(said, Ordering::Relaxed) == said {
            return;
        }
        let announcement = Announcement {
            deprecation: deprecation.and_then(|value| deprecated(value.as_bytes())),
            sunset: sunset.and_then(|value| date(value.as_bytes())).map(When::At),
            link: links.filter_map(|value| link(value.as_bytes())).next(),
        };
        if announcement.deprecation.is_some() || announcement.sunset.is_some() {
            lock(&self.waiting.news).insert(self.party.clone(), announcement);
            self.waiting.arrived.notify_one();
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(route) => route.fmt(f),
            Self::Issuer(url) => url.fmt(f),
        }
    }
}

/// `@1688169599` (RFC 9745); of drafts of it a date, or `true`.
fn deprecated(value: &[u8]) -> Option<When> {
    let text = std::str::from_utf8(value).ok()?.trim();
    match text.strip_prefix('@') {
        Some(seconds) => {
            let seconds: i64 = seconds.parse().ok()?;
            in_range(seconds).map(When::At)
        }
        None if text == "true" || text == "?1" => Some(When::Undated),
        None => date(value).map(When::At),
    }
}

/// As HTTP writes dates.
fn date(value: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    in_range(date.as_second())
}

/// What can be written as a date.
fn in_range(seconds: i64) -> Option<Duration> {
    let seconds = jiff::Timestamp::from_second(seconds).ok()?.as_second();
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// The target of the first link that is about this, without a query: `<https://api.example/eol>; rel="sunset"`.
fn link(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    let about = |parameters: &str| {
        let relations = parameters.split(';').filter_map(|parameter| parameter.trim().strip_prefix("rel="));
        let mut names = relations.flat_map(|names| names.trim_matches('"').split(' '));
        names.any(|name| matches!(name, "deprecation" | "sunset" | "successor-version"))
    };
    let (target, _) = text
        .split('<')
        .skip(1)
        .filter_map(|link| link.split_once('>'))
        .find(|(_, rest)| about(rest.split(',').next().unwrap_or_default()))?;
    let target = target.split(['?', '#']).next().unwrap_or_default();
    let is_plain = target.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'`' | b'@'));
    (target.starts_with("https://") && is_plain && target.len() <= LONGEST_LINK).then(|| target.to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).expect("a value")
    }

    fn says(voice: &Voice, deprecation: &str, sunset: &str, link: &str) {
        let of = |text: &str| (!text.is_empty()).then(|| value(text));
        let (deprecation, sunset, link) = (of(deprecation), of(sunset), of(link));
        voice.says(deprecation.as_ref(), sunset.as_ref(), link.iter());
    }

    #[test]
    fn what_is_announced_is_told_once_until_it_is_another() {
        let all = Announcements::default();
        let party = Party::Route("api".parse().expect("a name"));
        let voice = all.voice(&party).expect("there is room");
        for _ in 0..3 {
            says(&voice, "@1688169599", "Sun, 30 Jun 2024 23:59:59 GMT", "<https://api.example/eol>; rel=\"sunset\"");
        }
        let at = |seconds| Some(When::At(Duration::from_secs(seconds)));
        let expected = Announcement {
            deprecation: at(1_688_169_599),
            sunset: at(1_719_791_999),
            link: Some("https://api.example/eol".to_owned()),
        };
        assert_eq!(all.take(), BTreeMap::from([(party.clone(), expected)]));
        assert!(all.was_heard(&party) && !all.was_heard(&party));
        let again = all.voice(&party).expect("it is known");
        says(&again, "@1688169599", "Sun, 30 Jun 2024 23:59:59 GMT", "");
        assert!(all.take().is_empty() && all.was_heard(&party));
        says(&again, "@1688169599", "Mon, 01 Jul 2024 00:00:00 GMT", "");
        assert_eq!(all.take()[&party].sunset, at(1_719_792_000));
    }

    #[test]
    fn what_is_no_date_announces_nothing() {
        let all = Announcements::default();
        let voice = all.voice(&Party::Issuer("https://issuer.example/token".to_owned())).expect("there is room");
        for (deprecation, sunset) in [("soon", ""), ("@", "never"), ("@-1", ""), ("@99999999999999", "2024"), ("", "")]
        {
            says(&voice, deprecation, sunset, "");
            assert!(all.take().is_empty(), "{deprecation} {sunset}");
        }
        for (said, expected) in [("true", When::Undated), ("?1", When::Undated), ("@0", When::At(Duration::ZERO))] {
            assert_eq!(deprecated(said.as_bytes()), Some(expected));
        }
    }

    #[test]
    fn a_link_is_one_about_this_and_nothing_else_of_the_answer() {
        for (text, expected) in [
            ("<https://a.example/x>; rel=\"deprecation\"; type=\"text/html\"", Some("https://a.example/x")),
            (
                "<https://a.example/next>; rel=\"next\", <https://a.example/eol?k=1#a>; rel=sunset",
                Some("https://a.example/eol"),
            ),
            ("<https://a.example/v2>; rel=\"alternate successor-version\"", Some("https://a.example/v2")),
            ("<https://a.example/next>; rel=\"next\"", None),
            ("<http://a.example/x>; rel=sunset", None),
            ("<javascript:alert(1)>; rel=sunset", None),
            ("<https://user:secret@a.example/x>; rel=sunset", None),
            ("<https://a.example/\\x>; rel=sunset", None),
            ("<https://a.example/x; rel=sunset", None),
        ] {
            assert_eq!(link(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn parties_without_end_take_no_room_without_end() {
        let all = Announcements::default();
        let voices = (0..MOST * 2).filter_map(|number| all.voice(&Party::Issuer(format!("https://{number}.example/"))));
        assert_eq!(voices.count(), MOST);
    }
}
