//! All tokens' use, as it comes: profiles of each client of each token, what is known of a token as such, of a host as such.
//!
//! ```text
//!  event ─▶ of a time that others bear out ─▶ host: in trouble? ─▶ token: profiles of the client, of all ─▶ findings ─┐
//!                                         └▶ token: new client, issuance, issuer's changes ──────────────────────────┴▶ joined
//! ```
//!
//! Invariant: however many names events bring, profiles have a bound; what has rested longest makes room.

mod open;
mod token;

use std::collections::{BTreeMap, BTreeSet};

use super::anomaly::{Anomaly, Finding};
use super::baseline::{HOUR, OUT_OF_ORDER};
use super::event::{Event, Step, Time};
use super::host::{Host, Trouble};
use super::profile::{Profile, Surroundings};
use super::response::Settings;
use token::Token;

#[derive(Default)]
pub struct Engine {
    tokens: BTreeMap<String, Token>,
    hosts: BTreeMap<String, Host>,
    profiles: usize,
    /// The hour in which silence was last looked for.
    swept: u64,
    /// When the last event was.
    latest: Time,
    /// One that is far ahead of all before it: it counts as soon as something bears its time out.
    ahead: Option<Box<Event>>,
    /// Whose figures were not weighed: tokens with their clients.
    unweighed: Vec<(String, String)>,
    settings: Settings,
}

impl Engine {
    /// Has figures judged as is set from now on.
    pub fn settle(&mut self, settings: &Settings) {
        self.settings = settings.clone();
        for (name, token) in &mut self.tokens {
            token.caution = settings.sensitivity(name).caution();
        }
    }

    /// What is unusual about an event, in the light of those before it.
    pub fn observe(&mut self, event: &Event) -> Vec<Anomaly> {
        let mut all = self.add(event);
        all.extend(self.weigh());
        all
    }

    /// The same of one of many events that come together: what is unusual about it by itself. When all of them are there, they
    /// are weighed.
    pub fn add(&mut self, event: &Event) -> Vec<Anomaly> {
        let time = event.judged_at(self.latest);
        let mut all = self.bear_out(time);
        if self.latest.seconds() > 0 && time.seconds() > self.latest.seconds() + AHEAD {
            self.ahead = Some(Box::new(event.clone()));
            return all;
        }
        all.extend(self.take(event, time));
        all
    }

    /// There is no more to come.
    pub fn end(&mut self) -> Vec<Anomaly> {
        let mut all = self.ahead.take().map(|event| self.take(&event, event.time)).unwrap_or_default();
        all.extend(self.weigh());
        all
    }

    /// Decides about an event that was far ahead of all: the next is of its time, or its clock was wrong.
    fn bear_out(&mut self, time: Time) -> Vec<Anomaly> {
        let Some(event) = self.ahead.take() else { return Vec::new() };
        let was_wrong = time.seconds() + OUT_OF_ORDER < event.time.seconds();
        let mut all = self.take(&event, if was_wrong { self.latest.min(time) } else { event.time });
        all.extend(self.weigh());
        all
    }

    fn take(&mut self, event: &Event, time: Time) -> Vec<Anomaly> {
        let mut all = self.passed(time);
        // What is told of no token is no use of any.
        if event.token.is_empty() && event.is_use() {
            return all;
        }
        let now = time.seconds();
        let found = match event.event {
            None | Some(Step::UnderWay) => self.request(event, now),
            Some(step) => self.token(&event.token, now).step(step, event, now),
        };
        if !found.is_empty() {
            all.extend(self.token(&event.token, now).tell(time, &event.token, event, found));
        }
        all
    }

    /// What is unusual about the figures of the events that came since the last time.
    pub fn weigh(&mut self) -> Vec<Anomaly> {
        let mut all = Vec::new();
        let unweighed = std::mem::take(&mut self.unweighed);
        for (name, client) in &unweighed {
            let Some(token) = self.tokens.get_mut(name) else { continue };
            let found = token.weigh(client);
            all.extend(token.tell(self.latest, name, &Event::default(), found));
        }
        for name in unweighed.into_iter().map(|(name, _)| name).collect::<BTreeSet<_>>() {
            let Some(token) = self.tokens.get_mut(&name) else { continue };
            let found = token.weigh_all();
            all.extend(token.tell(self.latest, &name, &Event::default(), found));
        }
        all
    }

    fn token(&mut self, name: &str, now: u64) -> &mut Token {
        // Names are copied where they are new alone.
        if !self.tokens.contains_key(name) {
            self.make_room();
            let caution = self.settings.sensitivity(name).caution();
            self.tokens.insert(name.to_owned(), Token::new(now).with_caution(caution));
        }
        self.tokens.get_mut(name).expect("it is there by now")
    }

    fn request(&mut self, event: &Event, now: u64) -> Vec<Finding> {
        let surroundings = Surroundings { trouble: self.trouble(event, now), ..Surroundings::default() };
        let known = self.tokens.get(&event.token).and_then(|token| token.clients.get(&event.client));
        let is_weighed = known.is_none_or(|profile| !profile.is_unweighed());
        if known.is_none() {
            self.make_room();
            self.profiles += 1;
        }
        let found = self.token(&event.token, now).request(event, now, surroundings);
        if is_weighed {
            self.unweighed.push((event.token.clone(), event.client.clone()));
        }
        found
    }

    fn trouble(&mut self, event: &Event, now: u64) -> Trouble {
        if let Some(host) = self.hosts.get_mut(&event.host) {
            return host.observe(event, now);
        }
        if self.hosts.len() >= MOST_HOSTS {
            self.hosts.clear();
        }
        self.hosts.entry(event.host.clone()).or_default().observe(event, now)
    }

    /// What time alone makes unusual: silence, for which is looked once an hour. It is the time of a clock that is right.
    pub fn pass(&mut self, time: Time) -> Vec<Anomaly> {
        let mut all = if self.ahead.is_some() { self.bear_out(time) } else { Vec::new() };
        all.extend(self.passed(time));
        all
    }

    fn passed(&mut self, time: Time) -> Vec<Anomaly> {
        let now = time.seconds();
        if now + OUT_OF_ORDER < self.latest.seconds() {
            self.latest = time;
            self.swept = now / HOUR;
            self.tokens.values_mut().for_each(|token| token.set_back(now));
        }
        self.latest = self.latest.max(time);
        if now / HOUR <= self.swept {
            return Vec::new();
        }
        self.swept = now / HOUR;
        let mut all = Vec::new();
        for (name, token) in &mut self.tokens {
            // Before anything is over: whoever is still silent goes on.
            let found = token.silence(now);
            token.is_changed |= token.ongoing.pass(now) || !found.is_empty();
            // What begins when a silence ends has another cause.
            all.extend((!found.is_empty()).then(|| Anomaly::new(time, name, found)));
        }
        all
    }

    /// Whether what was told of a client's use of a token goes on.
    pub fn goes_on(&self, token: &str, client: &str, now: Time) -> bool {
        self.tokens.get(token).is_some_and(|token| token.ongoing.goes_on(client, now.seconds()))
    }

    /// Whether anything that was told of a token goes on.
    pub fn is_open(&self, token: &str, now: Time) -> bool {
        self.tokens.get(token).is_some_and(|token| token.ongoing.is_open(now.seconds()))
    }

    /// A person says that what was told of a token is over.
    pub fn close(&mut self, token: &str) {
        if let Some(token) = self.tokens.get_mut(token) {
            token.open = None;
            token.ongoing.close();
            token.is_changed = true;
        }
    }

    /// What was answered for a while is over by itself: when it comes back it is told anew.
    pub fn rearm(&mut self, token: &str, client: &str) {
        if let Some(token) = self.tokens.get_mut(token) {
            token.forgive(client);
            if let Some(profile) = token.clients.get_mut(client) {
                profile.forget_told();
            }
        }
    }

    /// A person approves of what was told of a client's use of a token: it is not told again while it would be the same to tell,
    /// however strong it grows, nor are its other figures for an hour. A fact that was not told yet is.
    pub fn approve(&mut self, token: &str, client: &str, now: Time) {
        if let Some(token) = self.tokens.get_mut(token) {
            token.forgive(client);
            token.approve(client, now.seconds());
        }
    }

    /// A person lets a client in again: what it does from now on by itself, as another phantom key, is told anew.
    pub fn forgive(&mut self, client: &str) {
        self.tokens.values_mut().for_each(|token| token.forgive(client));
    }

    /// What a client usually asks of a token at the most: requests in an hour and in a minute.
    pub fn usual(&self, token: &str, client: &str) -> (f64, f64) {
        let profile = self.tokens.get(token).and_then(|token| token.clients.get(client));
        profile.map_or((0.0, 0.0), Profile::usual)
    }

    /// Tokens that are not what was last kept, with what is to be kept of them: so many at most, and none twice within
    /// `between` seconds.
    pub fn pages(&mut self, between: u64, most: usize) -> Vec<(String, Vec<u8>)> {
        let now = self.latest.seconds();
        let due = self
            .tokens
            .iter_mut()
            .filter(|(name, token)| token.is_changed && !name.is_empty() && now.saturating_sub(token.kept) >= between);
        let page = |(name, token): (&String, &mut Token)| {
            token.is_changed = false;
            token.kept = now;
            (name.clone(), token.page())
        };
        due.take(most).map(page).collect()
    }

    /// What could not be kept is to be kept again.
    pub fn not_kept(&mut self, tokens: impl Iterator<Item = String>) {
        for name in tokens {
            if let Some(token) = self.tokens.get_mut(&name) {
                token.is_changed = true;
            }
        }
    }

    /// Takes up what was kept of a token, if it is what this version keeps; tells when the token was last used.
    pub fn restore(&mut self, name: &str, page: &[u8]) -> Option<u64> {
        let caution = self.settings.sensitivity(name).caution();
        let token = Token::of_page(page)?.with_caution(caution);
        let last = token.last;
        self.profiles += token.clients.len();
        if let Some(before) = self.tokens.insert(name.to_owned(), token) {
            self.profiles -= before.clients.len();
        }
        self.make_room();
        Some(last)
    }

    /// For one more token, and one more profile.
    fn make_room(&mut self) {
        while self.tokens.len() >= MOST_TOKENS {
            let Some(oldest) = self.tokens.iter().min_by_key(|(_, token)| token.last).map(|(name, _)| name.clone())
            else {
                return;
            };
            if let Some(token) = self.tokens.remove(&oldest) {
                self.profiles -= token.clients.len();
            }
        }
        while self.profiles >= MOST_PROFILES
            && let Some(widest) = self.tokens.values_mut().max_by_key(|token| token.clients.len())
        {
            self.profiles -= widest.make_room();
        }
    }
}

const MOST_TOKENS: usize = 4096;
const MOST_PROFILES: usize = 16_384;
const MOST_HOSTS: usize = 1024;

/// How far an event is ahead of all others before its time is doubted, in seconds.
const AHEAD: u64 = HOUR;

#[cfg(test)]
mod tests;
