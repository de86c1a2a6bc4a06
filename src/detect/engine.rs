//! All tokens' use, as it comes: profiles of each client of each token, what is known of a token as such, of a host as such.
//!
//! ```text
//!  event ─▶ host: in trouble? ─▶ profile of (token, client) ─▶ findings ─┐
//!        ─▶ token: new client, issuance, issuer's changes ───────────────┴▶ joined ─▶ anomaly
//! ```
//!
//! Invariant: however many names events bring, profiles have a bound; the one that has rested longest makes room.

use std::collections::BTreeMap;
use std::time::Duration;

use super::anomaly::{Anomaly, Finding, Severity, Signal};
use super::baseline::{Ceiling, DAY, HOUR, hash};
use super::event::{Event, Step, Time};
use super::memory::{Kept, VERSION, kept};
use super::ongoing::Ongoing;
use super::profile::{Profile, Surroundings};

#[derive(Default)]
pub struct Engine {
    tokens: BTreeMap<String, Token>,
    hosts: BTreeMap<String, Host>,
    profiles: usize,
    /// The hour in which silence was last looked for.
    swept: u64,
    /// When the last event was.
    latest: Time,
    /// Whose figures were not weighed: tokens with their clients.
    unweighed: Vec<(String, String)>,
}

struct Token {
    first: u64,
    last: u64,
    requests: u64,
    clients: BTreeMap<String, Profile>,
    new_clients: Daily,
    issued: Daily,
    refused: Daily,
    /// When clients were last told to send credentials of their own.
    shadows: BTreeMap<String, u64>,
    open: Option<Open>,
    ongoing: Ongoing,
    /// Whether it is other than what was last kept, and when that was asked for.
    is_changed: bool,
    kept: u64,
}

/// How often something rare happens in a day.
#[derive(Default)]
struct Daily {
    day: u64,
    count: u32,
    most: Ceiling,
}

/// An anomaly that signals of the same cause still join.
struct Open {
    since: u64,
    severity: Severity,
    findings: Vec<Finding>,
}

/// How a host fares, over all tokens.
#[derive(Default)]
struct Host {
    span: u64,
    answers: u32,
    failures: u32,
    /// Which tokens it has refused as not valid; two are enough.
    refused: [u64; 2],
    trouble: Option<u64>,
}

impl Engine {
    /// What is unusual about an event, in the light of those before it.
    pub fn observe(&mut self, event: &Event) -> Vec<Anomaly> {
        let mut all = self.add(event);
        all.extend(self.weigh());
        all
    }

    /// The same of one of many events that come together: what is unusual about it by itself. When all of them are there, they
    /// are weighed.
    pub fn add(&mut self, event: &Event) -> Vec<Anomaly> {
        let mut all = self.pass(event.time);
        // What is told of no token is no use of any.
        if event.token.is_empty() && event.event.is_none() {
            return all;
        }
        let now = event.time.seconds();
        let found = match event.event {
            Some(step) => {
                let token = self.token(event, now);
                token.is_changed = true;
                token.step(step, event, now)
            }
            None => self.request(event, now),
        };
        if !found.is_empty() {
            let token = self.token(event, now);
            token.ongoing.told(event, &found, token.clients.get(&event.client));
            all.extend(token.join(event.time, &event.token, &event.client, found));
        }
        all
    }

    /// What is unusual about the figures of the events that came since the last time.
    pub fn weigh(&mut self) -> Vec<Anomaly> {
        let mut all = Vec::new();
        for (name, client) in std::mem::take(&mut self.unweighed) {
            let Some(token) = self.tokens.get_mut(&name) else { continue };
            let Some(profile) = token.clients.get_mut(&client) else { continue };
            let (found, last) = (profile.weigh(), profile.last());
            token.ongoing.weighed(&client, last, profile);
            if !found.is_empty() {
                let event = Event { time: Time(Duration::from_secs(last)), client: client.clone(), ..Event::default() };
                token.ongoing.told(&event, &found, Some(profile));
            }
            all.extend(token.join(self.latest, &name, &client, found));
        }
        all
    }

    fn token(&mut self, event: &Event, now: u64) -> &mut Token {
        // Names are copied where they are new alone.
        if !self.tokens.contains_key(&event.token) {
            self.make_room();
            self.tokens.insert(event.token.clone(), Token::new(now));
        }
        self.tokens.get_mut(&event.token).expect("it is there by now")
    }

    fn request(&mut self, event: &Event, now: u64) -> Vec<Finding> {
        let surroundings = Surroundings { trouble: self.is_in_trouble(event, now) };
        let known = self.tokens.get_mut(&event.token).and_then(|token| token.used(event, now));
        if let Some(profile) = known {
            let is_first = !profile.is_unweighed();
            let found = profile.observe(event, surroundings);
            if is_first {
                self.unweighed.push((event.token.clone(), event.client.clone()));
            }
            return found;
        }
        self.make_room();
        self.profiles += 1;
        let token = self.token(event, now);
        let mut found: Vec<Finding> = token.new_client(&event.client, now).into_iter().collect();
        let profile = token.clients.entry(event.client.clone()).or_insert_with(|| Profile::new(now));
        found.extend(profile.observe(event, surroundings));
        token.is_changed = true;
        token.last = token.last.max(now);
        token.requests += 1;
        self.unweighed.push((event.token.clone(), event.client.clone()));
        found
    }

    fn is_in_trouble(&mut self, event: &Event, now: u64) -> bool {
        if let Some(host) = self.hosts.get_mut(&event.host) {
            return host.observe(event, now);
        }
        if self.hosts.len() >= MOST_HOSTS {
            self.hosts.clear();
        }
        self.hosts.entry(event.host.clone()).or_default().observe(event, now)
    }

    /// What time alone makes unusual: silence, for which is looked once an hour.
    pub fn pass(&mut self, time: Time) -> Vec<Anomaly> {
        self.latest = self.latest.max(time);
        let now = time.seconds();
        if now / HOUR <= self.swept {
            return Vec::new();
        }
        self.swept = now / HOUR;
        let mut all = Vec::new();
        for (name, token) in &mut self.tokens {
            token.is_changed |= token.ongoing.pass(now);
            // One client that is quiet while another works is no silence of the token.
            let silent = token.clients.iter_mut().max_by_key(|(_, profile)| profile.last());
            let Some((client, profile)) = silent else { continue };
            let (client, found) = (client.clone(), profile.silence(now));
            if profile.is_silent() {
                token.ongoing.again(&client, now);
            }
            if found.is_some() {
                let event = Event { time, client: client.clone(), ..Event::default() };
                token.ongoing.told(&event, found.as_slice(), None);
            }
            all.extend(token.join(time, name, &client, found.into_iter().collect()));
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
            if let Some(profile) = token.clients.get_mut(client) {
                profile.approve_told(now.seconds());
            }
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
        let token = Token::of_page(page)?;
        self.make_room();
        let last = token.last;
        self.profiles += token.clients.len();
        if let Some(before) = self.tokens.insert(name.to_owned(), token) {
            self.profiles -= before.clients.len();
        }
        Some(last)
    }

    fn make_room(&mut self) {
        while self.profiles >= MOST_PROFILES || self.tokens.len() >= MOST_TOKENS {
            let Some(oldest) = self.tokens.iter().min_by_key(|(_, token)| token.last).map(|(name, _)| name.clone())
            else {
                return;
            };
            if let Some(token) = self.tokens.remove(&oldest) {
                self.profiles -= token.clients.len();
            }
        }
    }
}

impl Token {
    fn new(now: u64) -> Self {
        Self {
            first: now,
            last: now,
            requests: 0,
            clients: BTreeMap::new(),
            new_clients: Daily::default(),
            issued: Daily::default(),
            refused: Daily::default(),
            shadows: BTreeMap::new(),
            open: None,
            ongoing: Ongoing::default(),
            is_changed: false,
            kept: now,
        }
    }

    /// What is kept of it: of its clients, those that used it last; of what was told, what a restart would tell anew.
    fn page(&self) -> Vec<u8> {
        let mut clients: Vec<(&String, &Profile)> = self.clients.iter().collect();
        clients.sort_by_key(|(_, profile)| std::cmp::Reverse(profile.last()));
        clients.truncate(MOST_KEPT);
        let mut page = vec![VERSION];
        [self.first, self.last, self.requests].put(&mut page);
        [&self.new_clients, &self.issued, &self.refused].into_iter().for_each(|daily| daily.put(&mut page));
        u32::try_from(clients.len()).expect("a few hundred").put(&mut page);
        for (name, profile) in clients {
            name.put(&mut page);
            profile.put(&mut page);
        }
        self.open.as_ref().map(Open::kept).put(&mut page);
        self.ongoing.put(&mut page);
        let mut shadows: Vec<(String, u64)> = self.shadows.iter().map(|(name, told)| (name.clone(), *told)).collect();
        shadows.sort_by_key(|(_, told)| std::cmp::Reverse(*told));
        shadows.truncate(MOST_KEPT);
        shadows.put(&mut page);
        page
    }

    /// `None` where another version, or nobody, wrote it.
    fn of_page(page: &[u8]) -> Option<Self> {
        let mut left = page.strip_prefix(&[VERSION])?;
        let [first, last, requests] = <[u64; 3]>::take(&mut left)?;
        let [new_clients, issued, refused] = <[Daily; 3]>::take(&mut left)?;
        let count = u32::take(&mut left)?;
        let client = |_| Some((String::take(&mut left)?, Profile::take(&mut left)?));
        let clients = (0..count).map(client).collect::<Option<BTreeMap<_, _>>>()?;
        let (open, ongoing) = <(Option<Open>, Ongoing)>::take(&mut left)?;
        let shadows = Vec::take(&mut left)?.into_iter().collect();
        let told = Self { open, ongoing, shadows, ..Self::new(first) };
        let token = Self { last, requests, clients, new_clients, issued, refused, ..told };
        left.is_empty().then_some(token)
    }

    /// Counts a use by a client that is known.
    fn used(&mut self, event: &Event, now: u64) -> Option<&mut Profile> {
        let profile = self.clients.get_mut(&event.client)?;
        self.ongoing.used(event);
        self.is_changed = true;
        self.last = self.last.max(now);
        self.requests += 1;
        Some(profile)
    }

    fn forgive(&mut self, client: &str) {
        self.is_changed = true;
        self.ongoing.end(client);
        if let Some(open) = &mut self.open {
            open.findings.retain(|finding| finding.client != client);
        }
    }

    fn new_client(&mut self, client: &str, now: u64) -> Option<Finding> {
        let learned = now.saturating_sub(self.first) >= DAY && self.requests >= SOME;
        // Those of the first day are what there is to learn.
        if !learned {
            return None;
        }
        let clients = self.clients.len();
        let excess = self.new_clients.excess(now, learned, 2.0, 1.0)?;
        let said = format!("first use by {client}; {clients} clients used it in {} requests before", self.requests);
        Some(Finding::fact(Signal::NewClient, excess + 1.0, said))
    }

    fn step(&mut self, step: Step, event: &Event, now: u64) -> Vec<Finding> {
        let learned = now.saturating_sub(self.first) >= 3 * DAY;
        let found = match step {
            Step::Tripwire => {
                Some(Finding::fact(Signal::Tripwire, 12.0, "a phantom key was used where it cannot be".to_owned()))
            }
            Step::Shadow => self.shadow(event, now),
            Step::ScopeChanged => {
                Some(Finding::fact(Signal::IssuerChange, 1.5, "the issuer grants other scopes than before".to_owned()))
            }
            Step::ExpiryChanged => Some(Finding::fact(
                Signal::IssuerChange,
                1.2,
                "the issuer grants another lifetime than before".to_owned(),
            )),
            Step::Refused => self.refused.excess(now, learned, 2.0, 5.0).map(|excess| {
                let said = format!("refused {} times in a day what was granted before", self.refused.count);
                Finding::new(Signal::IssuerChange, excess, said)
            }),
            Step::Issued | Step::Rotated => self.issued.excess(now, learned, 3.0, 10.0).map(|excess| {
                Finding::new(Signal::Issuance, excess, format!("{} generations in a day", self.issued.count))
            }),
            Step::Expired | Step::Revoked | Step::Unknown => None,
        };
        found.into_iter().collect()
    }

    /// Some apps always do: it is told again after a while.
    fn shadow(&mut self, event: &Event, now: u64) -> Option<Finding> {
        if self.shadows.get(&event.client).is_some_and(|told| now.saturating_sub(*told) < SHADOW_TOLD_FOR) {
            self.ongoing.shadowed(&event.client, now);
            return None;
        }
        self.shadows.retain(|_, told| now.saturating_sub(*told) < SHADOW_TOLD_FOR);
        if self.shadows.len() >= MOST_SHADOWS {
            // What is told again too soon is better than what is remembered without end.
            self.shadows.clear();
        }
        self.shadows.insert(event.client.clone(), now);
        let place = if event.host.is_empty() { String::new() } else { format!(", towards {}", event.host) };
        Some(Finding::fact(Signal::Shadow, 1.0, format!("the app sent a credential of its own{place}")))
    }

    /// An anomaly is told when it begins, again with each new fact and each other signal of a client, and when it has become graver.
    fn join(&mut self, time: Time, token: &str, client: &str, found: Vec<Finding>) -> Option<Anomaly> {
        if found.is_empty() {
            return None;
        }
        let now = time.seconds();
        let open = self.open.take().filter(|open| now.saturating_sub(open.since) < JOINED_FOR);
        let told = open.as_ref().map(|open| open.severity);
        let mut open = open.unwrap_or_else(|| Open { since: now, severity: Severity::Low, findings: Vec::new() });
        let is_fresh = open.add(found.into_iter().map(|found| Finding { client: client.to_owned(), ..found }));
        let anomaly = Anomaly::new(time, token, open.findings.clone());
        let news = is_fresh || told.is_none_or(|told| anomaly.severity > told);
        open.severity = open.severity.max(anomaly.severity);
        self.open = Some(open);
        self.is_changed = true;
        news.then_some(anomaly)
    }
}

impl Open {
    /// What a restart need not tell again. A phantom key where it cannot be is told once more rather than not at all.
    fn kept(&self) -> Self {
        let findings = self.findings.iter().filter(|finding| finding.signal != Signal::Tripwire).cloned();
        Self { findings: findings.collect(), ..*self }
    }

    /// Whether something is among them that is not known yet: a fact, or the first figure of a signal of a client. Of the figures
    /// of both the gravest is kept, and of all the gravest few.
    fn add(&mut self, found: impl Iterator<Item = Finding>) -> bool {
        let mut fresh = Vec::new();
        for finding in found {
            let mut all = self.findings.iter_mut().chain(&mut fresh);
            match all.find(|old| finding.repeats(old) || finding.is_figure_of(old)) {
                Some(known) if finding.gravity(known).is_ge() => *known = finding,
                Some(_) => {}
                None => fresh.push(finding),
            }
        }
        let all = std::mem::take(&mut self.findings).into_iter().chain(fresh.iter().cloned());
        let (mut figures, mut facts): (Vec<Finding>, Vec<Finding>) = all.partition(|finding| !finding.is_fact);
        for (findings, most) in [(&mut figures, MOST_FIGURES), (&mut facts, MOST_FACTS)] {
            findings.sort_by(|one, other| other.gravity(one));
            findings.truncate(most);
        }
        self.findings = figures;
        self.findings.append(&mut facts);
        fresh.iter().any(|fresh| self.findings.contains(fresh))
    }
}

impl Daily {
    /// Counts one, and says how far that is beyond what is usual.
    fn excess(&mut self, now: u64, learned: bool, times: f64, floor: f64) -> Option<f64> {
        if now / DAY != self.day {
            self.most.saw(self.count.into(), learned);
            self.most.day_ends();
            self.day = now / DAY;
            self.count = 0;
        }
        self.count += 1;
        let limit = times * self.most.most() + floor;
        (learned && f64::from(self.count) >= limit).then(|| f64::from(self.count) / limit)
    }
}

impl Host {
    /// Whether it is in trouble: it fails, or takes no token of several.
    fn observe(&mut self, event: &Event, now: u64) -> bool {
        if now / SPAN != self.span {
            *self = Self { span: now / SPAN, trouble: self.trouble, ..Self::default() };
        }
        self.answers += 1;
        let refused = event.status == 401;
        if refused {
            let token = hash(&[&event.token]).max(1);
            if self.refused[0] == 0 {
                self.refused[0] = token;
            } else if self.refused[0] != token {
                self.refused[1] = token;
            }
        }
        if refused || event.status >= 500 {
            self.failures += 1;
        }
        let own = self.refused[1] != 0 || !refused;
        if self.failures >= 5 && self.failures * 4 >= self.answers && own {
            self.trouble = Some(now);
        }
        self.trouble.is_some_and(|since| now.saturating_sub(since) < AFTERMATH)
    }
}

kept!(Daily { day, count, most });
kept!(Open { since, severity, findings });

/// Clients of one token at rest: a record has a bound.
const MOST_KEPT: usize = 500;

const MOST_TOKENS: usize = 4096;
const MOST_PROFILES: usize = 16_384;
const MOST_HOSTS: usize = 1024;

/// Requests of a token before another client is a new one.
const SOME: u64 = 50;

const JOINED_FOR: u64 = HOUR;

/// Facts of one anomaly, and figures.
const MOST_FACTS: usize = 16;
const MOST_FIGURES: usize = 64;

const SHADOW_TOLD_FOR: u64 = 4 * DAY;

/// Clients of one token that are remembered to send credentials of their own.
const MOST_SHADOWS: usize = 1024;

const SPAN: u64 = 300;
/// How long apps catch up after trouble.
const AFTERMATH: u64 = 2 * HOUR;

#[cfg(test)]
mod tests;
