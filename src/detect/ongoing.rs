//! Whether what was told of a client goes on: judged by what was usual when it began, whatever is learned meanwhile.
//!
//! ```text
//! told ─▶ Ongoing, with the baseline as it was ─▶ each use: unusual by that baseline? ─▶ goes on
//!                                                  └─ nothing for an hour, or a person says so ─▶ over
//! ```
//!
//! Invariant: misuse does not become usual by being told, nor by going on.

use std::collections::BTreeMap;

use super::anomaly::{Finding, Signal};
use super::baseline::{DAY, HOUR};
use super::event::Event;
use super::memory::{Kept, kept};
use super::profile::Profile;

/// For so long nothing of it has to be seen, in seconds.
pub const QUIET: u64 = HOUR;

/// What is told by itself, as a first deletion, is unusual for so long when it is done again.
const STRANGE_FOR: u64 = 8 * DAY;

/// Courses and baselines that are kept of one token, and strange things of one client.
const MOST_COURSES: usize = 1024;
const MOST_BASELINES: usize = 64;
const MOST_STRANGE: usize = 8;

/// Those that are kept over a restart: a record has a bound.
const MOST_KEPT: usize = 32;

/// What goes on with one token, by client.
#[derive(Default)]
pub struct Ongoing(BTreeMap<String, Course>);

#[derive(Clone)]
struct Course {
    /// When something of it was last seen.
    last: u64,
    before: Option<Box<Profile>>,
    strange: Vec<(Strange, u64)>,
}

/// What was told by itself, and since when it is known.
#[derive(Clone, PartialEq)]
enum Strange {
    /// The client itself.
    Client,
    Method(String),
    Host(String),
    /// A credential of its own.
    Credential,
}

impl Ongoing {
    /// Something was told of its client's use, at an event; `profile` is what was usual of that client.
    pub fn told(&mut self, finding: &Finding, event: &Event, now: u64, profile: Option<&Profile>) {
        self.make_room(&finding.client);
        let room = self.0.values().filter(|course| course.before.is_some()).count() < MOST_BASELINES;
        let course = self.0.entry(finding.client.clone()).or_insert_with(|| Course {
            last: now,
            before: profile.filter(|_| room).map(|profile| Box::new(profile.clone())),
            strange: Vec::new(),
        });
        course.last = course.last.max(now);
        let strange = match finding.signal {
            _ if !finding.is_fact => return,
            Signal::NewClient => Strange::Client,
            Signal::NewMethod => Strange::Method(event.method.clone()),
            Signal::NewPlace => Strange::Host(event.host.clone()),
            Signal::Shadow => Strange::Credential,
            _ => return,
        };
        if course.strange.len() < MOST_STRANGE && !course.strange.iter().any(|(known, _)| *known == strange) {
            course.strange.push((strange, now));
        }
    }

    /// A client uses the token.
    pub fn used(&mut self, event: &Event, now: u64) {
        self.strange(&event.client, now, |strange| match strange {
            Strange::Client => true,
            Strange::Method(method) => *method == event.method,
            Strange::Host(host) => *host == event.host,
            Strange::Credential => false,
        });
    }

    /// A client sends a credential of its own. Some apps always do: after a while that is known.
    pub fn shadowed(&mut self, client: &str, now: u64) {
        self.strange(client, now, |strange| *strange == Strange::Credential);
    }

    /// Something strange is done again.
    fn strange(&mut self, client: &str, now: u64, is_done: impl Fn(&Strange) -> bool) {
        let Some(course) = self.0.get_mut(client) else { return };
        if course.strange.iter().any(|(strange, since)| is_done(strange) && now < since + STRANGE_FOR) {
            course.last = course.last.max(now);
        }
    }

    /// The figures of a client's uses were weighed.
    pub fn weighed(&mut self, client: &str, now: u64, profile: &Profile, caution: f64) {
        if let Some(course) = self.0.get_mut(client)
            && course.before.as_deref().is_some_and(|before| profile.exceeds(before, caution))
        {
            course.last = course.last.max(now);
        }
    }

    /// A client is seen to do again, or still, what was told of it.
    pub fn again(&mut self, client: &str, now: u64) {
        if let Some(course) = self.0.get_mut(client) {
            course.last = course.last.max(now);
        }
    }

    pub fn goes_on(&self, client: &str, now: u64) -> bool {
        self.0.get(client).is_some_and(|course| now < course.last + QUIET)
    }

    /// Whether it does not. Of whoever made room for others nobody knows.
    pub fn is_over(&self, client: &str, now: u64) -> bool {
        self.0.get(client).map_or(self.0.len() < MOST_COURSES, |course| now >= course.last + QUIET)
    }

    pub fn is_open(&self, now: u64) -> bool {
        self.0.values().any(|course| now < course.last + QUIET)
    }

    /// Whoever rested longest makes room for another one.
    fn make_room(&mut self, client: &str) {
        if self.0.len() >= MOST_COURSES && !self.0.contains_key(client) {
            let oldest = self.0.iter().min_by_key(|(_, course)| course.last).map(|(client, _)| client.clone());
            oldest.map(|oldest| self.0.remove(&oldest));
        }
    }

    /// Forgets what is over. Returns whether something is.
    pub fn pass(&mut self, now: u64) -> bool {
        let before = self.0.len();
        self.0.retain(|_, course| now < course.last + QUIET);
        self.0.len() != before
    }

    /// It is over for one client.
    pub fn end(&mut self, client: &str) {
        self.0.remove(client);
    }

    /// A person says that it is over.
    pub fn close(&mut self) {
        self.0.clear();
    }
}

impl Kept for Ongoing {
    /// Of its courses, those that were seen last.
    fn put(&self, out: &mut Vec<u8>) {
        let mut courses: Vec<(String, Course)> =
            self.0.iter().map(|(name, course)| (name.clone(), course.clone())).collect();
        courses.sort_by_key(|(_, course)| std::cmp::Reverse(course.last));
        courses.truncate(MOST_KEPT);
        courses.put(out);
    }

    fn take(left: &mut &[u8]) -> Option<Self> {
        Some(Self(Vec::take(left)?.into_iter().collect()))
    }
}

impl Kept for Strange {
    fn put(&self, out: &mut Vec<u8>) {
        let (kind, of): (u8, &str) = match self {
            Self::Client => (0, ""),
            Self::Method(method) => (1, method),
            Self::Host(host) => (2, host),
            Self::Credential => (3, ""),
        };
        (kind, of.to_owned()).put(out);
    }

    fn take(left: &mut &[u8]) -> Option<Self> {
        let (kind, of) = <(u8, String)>::take(left)?;
        match kind {
            0 => Some(Self::Client),
            1 => Some(Self::Method(of)),
            2 => Some(Self::Host(of)),
            3 => Some(Self::Credential),
            _ => None,
        }
    }
}

kept!(Course { last, before, strange });

#[cfg(test)]
mod tests {
    use super::super::Engine;
    use super::super::event::{Step, Time};
    use super::*;
    use std::time::Duration;

    const START: u64 = 1_795_305_600;

    fn event(seconds: u64, client: &str, method: &str, path: &str) -> Event {
        Event {
            time: Time(Duration::from_secs(seconds)),
            token: "github".to_owned(),
            client: client.to_owned(),
            host: "api.github.com".to_owned(),
            method: method.to_owned(),
            path: path.to_owned(),
            status: 200,
            response_bytes: 1000,
            ..Event::default()
        }
    }

    /// A client that makes so many requests in each hour of so many days, from then on; when it was last told anything.
    fn uses(engine: &mut Engine, from: u64, days: u64, hourly: u64) -> Option<u64> {
        let mut told = None;
        for hour in 0..days * 24 {
            for number in 0..hourly {
                let now = from + hour * HOUR + number * HOUR / hourly;
                if !engine.observe(&event(now, "app", "GET", "/usual")).is_empty() {
                    told = Some(now);
                }
            }
        }
        told
    }

    fn goes_on(engine: &Engine, client: &str, now: u64) -> bool {
        engine.goes_on("github", client, Time(Duration::from_secs(now)))
    }

    #[test]
    fn steady_misuse_goes_on_for_as_long_as_it_lasts_and_is_over_when_use_is_as_before() {
        let mut engine = Engine::default();
        uses(&mut engine, START, 20, 30);
        let misuse = START + 20 * DAY;
        assert!(!goes_on(&engine, "app", misuse));
        // What is learned meanwhile would have taken it for usual after two weeks.
        for day in 0..40 {
            uses(&mut engine, misuse + day * DAY, 1, 200);
            assert!(goes_on(&engine, "app", misuse + (day + 1) * DAY), "day {day}");
        }
        let after = misuse + 40 * DAY;
        uses(&mut engine, after, 2, 30);
        assert!(!goes_on(&engine, "app", after + 2 * DAY), "as before");
    }

    #[test]
    fn what_is_told_by_itself_goes_on_while_it_is_done_again() {
        let mut engine = Engine::default();
        uses(&mut engine, START, 10, 30);
        let now = START + 10 * DAY;
        engine.observe(&event(now, "app", "DELETE", "/usual"));
        engine.observe(&event(now, "stranger", "GET", "/usual"));
        assert!(goes_on(&engine, "app", now) && goes_on(&engine, "stranger", now));
        for minute in 1..180 {
            engine.observe(&event(now + minute * 60, "app", "GET", "/usual"));
            engine.observe(&event(now + minute * 60, "stranger", "GET", "/usual"));
        }
        let later = now + 180 * 60;
        assert!(!goes_on(&engine, "app", later), "it has not deleted anything again");
        assert!(goes_on(&engine, "stranger", later), "it is still there");
        engine.close("github");
        assert!(!goes_on(&engine, "stranger", later), "somebody has said that it may be");
    }

    #[test]
    fn a_credential_of_the_apps_own_is_a_habit_after_a_while() {
        let mut engine = Engine::default();
        uses(&mut engine, START, 1, 30);
        let shadow = |now| Event { event: Some(Step::Shadow), ..event(now, "app", "GET", "/usual") };
        let from = START + DAY;
        for turn in 0..20 * 48 {
            let now = from + turn * HOUR / 2;
            engine.observe(&shadow(now));
            let day = (now - from) / DAY;
            // It is told again every four days.
            let rests = (now - from) % (4 * DAY) >= 2 * HOUR && day >= 8 && day % 12 >= 8;
            assert!(!rests || !goes_on(&engine, "app", now), "day {day}");
            assert!(day >= 8 || goes_on(&engine, "app", now), "day {day}");
        }
    }

    #[test]
    fn names_without_end_take_no_room_without_end() {
        let mut ongoing = Ongoing::default();
        for number in 0..MOST_COURSES as u64 + 50 {
            let client = format!("client-{number}");
            let finding = Finding { client, ..Finding::new(Signal::Burst, 2.0, "many requests".to_owned()) };
            ongoing.told(&finding, &Event::default(), START + number, None);
        }
        assert_eq!(ongoing.0.len(), MOST_COURSES);
        assert!(!ongoing.goes_on("client-0", START + 60) && ongoing.goes_on("client-60", START + 60));
    }

    /// How often its usual level a client had reached when it was first told, that does more each day by so much.
    fn told_at(a_day: f64, days: i32) -> Option<f64> {
        let (mut engine, usual) = (Engine::default(), 60.0);
        uses(&mut engine, START, 10, 60);
        (1..=days).find_map(|day| {
            let level = a_day.powi(day);
            let from = START + (9 + u64::from(day.unsigned_abs())) * DAY;
            uses(&mut engine, from, 1, (usual * level) as u64).map(|_| level)
        })
    }

    #[test]
    fn a_baseline_follows_a_tenth_a_day_and_what_drifts_faster_is_told() {
        assert_eq!(told_at(1.08, 20), None, "nobody tells growth from patience");
        for faster in [1.2, 1.3, 1.5] {
            let level = told_at(faster, 20).expect("it is told");
            assert!(level < 4.0, "{faster} a day is told at {level} times what was usual");
        }
    }
}
