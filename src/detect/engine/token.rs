//! What is known of one token: each of its clients, all of them together, and its life.
//!
//! ```text
//!  request ─┬▶ profile of the client ─▶ findings ────────────────┬▶ findings
//!           └▶ profile of all clients ─▶ what no client explains ┘
//! ```
//!
//! A client that is too young to have a past is judged by that of the token; and what many clients do, each a little of it,
//! shows in what they do together.

use std::collections::{BTreeMap, BTreeSet};

use super::open::Open;
use crate::detect::anomaly::{Anomaly, Finding, Severity, Signal};
use crate::detect::baseline::{Ceiling, DAY, hash};
use crate::detect::event::{Event, Step, Time};
use crate::detect::memory::{Kept, VERSION, kept};
use crate::detect::ongoing::Ongoing;
use crate::detect::profile::{Profile, Surroundings};
use crate::detect::rarity::Rarity;

pub struct Token {
    first: u64,
    pub last: u64,
    requests: u64,
    pub clients: BTreeMap<String, Profile>,
    /// Of all clients together, from the second one on.
    whole: Option<Box<Profile>>,
    /// Clients that used it once, by hash: those whose profiles made room too.
    known: BTreeSet<u64>,
    new_clients: Daily,
    issued: Daily,
    refused: Daily,
    /// When clients were last told to send credentials of their own.
    pub shadows: BTreeMap<String, u64>,
    pub open: Option<Open>,
    pub ongoing: Ongoing,
    rarity: Rarity,
    /// How many times as much as usual it takes for a figure to be unusual.
    pub caution: f64,
    /// Whether it is other than what was last kept, and when that was asked for.
    pub is_changed: bool,
    pub kept: u64,
}

/// How often something rare happens in a day.
#[derive(Default)]
struct Daily {
    day: u64,
    count: u32,
    most: Ceiling,
}

impl Token {
    pub fn new(now: u64) -> Self {
        Self {
            first: now,
            last: now,
            requests: 0,
            clients: BTreeMap::new(),
            whole: None,
            known: BTreeSet::new(),
            new_clients: Daily::default(),
            issued: Daily::default(),
            refused: Daily::default(),
            shadows: BTreeMap::new(),
            open: None,
            ongoing: Ongoing::default(),
            rarity: Rarity::new(now),
            caution: 1.0,
            is_changed: false,
            kept: now,
        }
    }

    pub fn with_caution(self, caution: f64) -> Self {
        Self { caution, ..self }
    }

    /// What is kept of it: of its clients, those that used it last, and the names of the others; of what was told, what a restart
    /// would tell anew.
    pub fn page(&self) -> Vec<u8> {
        let mut clients: Vec<(&String, &Profile)> = self.clients.iter().collect();
        clients.sort_by_key(|(_, profile)| std::cmp::Reverse(profile.last()));
        clients.truncate(MOST_KEPT);
        let mut page = vec![VERSION];
        [self.first, self.last, self.requests].put(&mut page);
        [&self.new_clients, &self.issued, &self.refused].into_iter().for_each(|daily| daily.put(&mut page));
        let count = |many: usize| u32::try_from(many).expect("some thousands");
        count(self.known.len()).put(&mut page);
        self.known.iter().for_each(|name| name.put(&mut page));
        self.whole.put(&mut page);
        count(clients.len()).put(&mut page);
        for (name, profile) in clients {
            name.put(&mut page);
            profile.put(&mut page);
        }
        self.open.as_ref().map(Open::kept).put(&mut page);
        self.ongoing.put(&mut page);
        self.rarity.put(&mut page);
        let mut shadows: Vec<(String, u64)> = self.shadows.iter().map(|(name, told)| (name.clone(), *told)).collect();
        shadows.sort_by_key(|(_, told)| std::cmp::Reverse(*told));
        shadows.truncate(MOST_KEPT);
        shadows.put(&mut page);
        page
    }

    /// `None` where another version, or nobody, wrote it.
    pub fn of_page(page: &[u8]) -> Option<Self> {
        let mut left = page.strip_prefix(&[VERSION])?;
        let [first, last, requests] = <[u64; 3]>::take(&mut left)?;
        let [new_clients, issued, refused] = <[Daily; 3]>::take(&mut left)?;
        let names = u32::take(&mut left)?;
        let known = (0..names).map(|_| u64::take(&mut left)).collect::<Option<BTreeSet<_>>>()?;
        let whole: Option<Box<Profile>> = Kept::take(&mut left)?;
        let count = u32::take(&mut left)?;
        let client = |_| Some((String::take(&mut left)?, Profile::take(&mut left)?));
        let clients = (0..count).map(client).collect::<Option<BTreeMap<_, _>>>()?;
        let (open, ongoing) = <(Option<Open>, Ongoing)>::take(&mut left)?;
        let rarity = Rarity::take(&mut left)?;
        let shadows = Vec::take(&mut left)?.into_iter().collect();
        let own = Self { open, ongoing, rarity, shadows, ..Self::new(first) };
        let token = Self { last, requests, clients, whole, known, new_clients, issued, refused, ..own };
        left.is_empty().then_some(token)
    }

    /// What is unusual about a request. A client without a profile gets one.
    pub fn request(&mut self, event: &Event, now: u64, surroundings: Surroundings) -> Vec<Finding> {
        let surroundings = Surroundings { caution: self.caution, ..surroundings };
        let mut found: Vec<Finding> = self.new_client(&event.client, now).into_iter().collect();
        if !self.clients.contains_key(&event.client) {
            if self.whole.is_none() {
                self.whole = self.clients.values().next().cloned().map(Box::new);
            }
            self.clients.insert(event.client.clone(), Profile::new(now));
        }
        self.ongoing.used(event, now);
        self.is_changed = true;
        self.last = now;
        self.first = self.first.min(now);
        self.requests += u64::from(!event.is_under_way());
        let profile = self.clients.get_mut(&event.client).expect("it is there by now");
        let is_young = !profile.is_experienced();
        found.extend(profile.observe(event, now, surroundings));
        found.iter_mut().for_each(|finding| finding.client.clone_from(&event.client));
        if let Some(whole) = &mut self.whole {
            let of_all = whole.observe(event, now, surroundings);
            whole.heard(&found);
            // What a client never did is told of it, where it has a past.
            let (deeds, figures): (Vec<Finding>, Vec<Finding>) =
                of_all.into_iter().partition(|finding| finding.is_fact || finding.signal == Signal::Hours);
            let deeds = deeds.into_iter().filter(|_| is_young);
            found.extend(deeds.map(|finding| Finding { client: event.client.clone(), ..finding }));
            found.extend(self.of_all(figures, now));
        }
        found
    }

    /// Which figures of a client are unusual.
    pub fn weigh(&mut self, client: &str) -> Vec<Finding> {
        let Some(profile) = self.clients.get_mut(client) else { return Vec::new() };
        let mut found = profile.weigh(self.caution);
        self.ongoing.weighed(client, profile.last(), profile, self.caution);
        found.iter_mut().for_each(|finding| client.clone_into(&mut finding.client));
        if let Some(whole) = &mut self.whole {
            whole.heard(&found);
        }
        found
    }

    /// Which figures of all clients together are unusual, where those of no client are.
    pub fn weigh_all(&mut self) -> Vec<Finding> {
        let Some(whole) = &mut self.whole else { return Vec::new() };
        let (found, now) = (whole.weigh(self.caution), whole.last());
        self.ongoing.weighed("", now, whole, self.caution);
        self.of_all(found, now)
    }

    /// Says it of the client that has most of the use, or else of nobody.
    fn of_all(&self, figures: Vec<Finding>, now: u64) -> Vec<Finding> {
        let Some(whole) = self.whole.as_ref().filter(|_| !figures.is_empty()) else { return Vec::new() };
        let of = |(name, profile): (&String, &Profile)| (name.clone(), profile.this_hour(now));
        let busiest = self.clients.iter().map(of).max_by(|(_, one), (_, other)| one.total_cmp(other));
        let busiest = busiest.filter(|(_, requests)| requests * 2.0 > whole.this_hour(now));
        let client = busiest.map(|(name, _)| name).unwrap_or_default();
        let named = |finding: Finding| {
            let said = format!("{} (of the token)", finding.said);
            Finding { client: client.clone(), said, ..finding }
        };
        figures.into_iter().map(named).collect()
    }

    /// Which of its clients have fallen silent.
    pub fn silence(&mut self, now: u64) -> Vec<Finding> {
        let mut found = Vec::new();
        for (name, profile) in &mut self.clients {
            if let Some(finding) = profile.silence(now) {
                let mut finding = Finding { client: name.clone(), ..finding };
                self.rarity.judge(&mut finding, now);
                self.ongoing.told(&finding, &Event::default(), now, None);
                found.push(finding);
            } else if profile.is_silent() {
                self.ongoing.again(name, now);
            }
        }
        found
    }

    pub fn forgive(&mut self, client: &str) {
        self.is_changed = true;
        self.ongoing.end(client);
        if let Some(open) = &mut self.open {
            open.findings.retain(|finding| finding.client != client);
        }
    }

    /// What was told of a client may be.
    pub fn approve(&mut self, client: &str, now: u64) {
        if let Some(profile) = self.clients.get_mut(client) {
            profile.approve_told(now);
        }
        if let Some(whole) = &mut self.whole {
            whole.approve_told(now);
        }
    }

    /// What was found at an event, or when figures were weighed, is told where it is news.
    pub fn tell(&mut self, time: Time, token: &str, event: &Event, mut found: Vec<Finding>) -> Option<Anomaly> {
        if found.is_empty() {
            return None;
        }
        let now = time.seconds();
        let goes_on = self.ongoing.is_open(now);
        if let Some(open) = &mut self.open {
            // What is over is not told once more with what begins.
            open.findings.retain(|finding| !self.ongoing.is_over(&finding.client, now));
        }
        for finding in &mut found {
            self.rarity.judge(finding, now);
            let of_one = self.clients.get(&finding.client);
            let before = if finding.client.is_empty() { self.whole.as_deref() } else { of_one };
            self.ongoing.told(finding, event, now, before);
        }
        self.join(time, token, found, goes_on)
    }

    /// An anomaly is told when it begins, again with each new fact and each other signal of a client, and when it has become
    /// graver. Another one begins where the one before does not go on.
    fn join(&mut self, time: Time, token: &str, found: Vec<Finding>, goes_on: bool) -> Option<Anomaly> {
        let now = time.seconds();
        let open = self.open.take().filter(|open| open.lasts(now, goes_on));
        let told = open.as_ref().map(|open| open.severity);
        let mut open = open.unwrap_or_else(|| Open { since: now, severity: Severity::Low, findings: Vec::new() });
        let is_fresh = open.add(found.into_iter());
        let anomaly = Anomaly::new(time, token, open.findings.clone());
        let news = is_fresh || told.is_none_or(|told| anomaly.severity > told);
        open.severity = open.severity.max(anomaly.severity);
        self.open = Some(open);
        self.is_changed = true;
        news.then_some(anomaly)
    }

    /// A clock was ahead, and what it said is over.
    pub fn set_back(&mut self, now: u64) {
        self.last = self.last.min(now);
        self.kept = self.kept.min(now);
        self.shadows.retain(|_, told| *told <= now);
        self.open = None;
        self.ongoing.close();
    }

    /// The clients that used it longest ago are known by name alone. Tells how many.
    pub fn make_room(&mut self) -> usize {
        let mut lasts: Vec<u64> = self.clients.values().map(Profile::last).collect();
        let middle = lasts.len() / 4;
        let (_, until, _) = lasts.select_nth_unstable(middle);
        let (until, before) = (*until, self.clients.len());
        self.clients.retain(|_, profile| profile.last() > until);
        before - self.clients.len()
    }

    fn new_client(&mut self, client: &str, now: u64) -> Option<Finding> {
        if self.clients.contains_key(client) {
            return None;
        }
        let name = hash(&[client]);
        let is_known = self.known.contains(&name);
        if self.known.len() < MOST_NAMES {
            self.known.insert(name);
        }
        let learned = now.saturating_sub(self.first) >= DAY && self.requests >= SOME;
        // Those of the first day are what there is to learn.
        if is_known || !learned {
            return None;
        }
        let excess = self.new_clients.excess(now, learned, 2.0, 1.0)?;
        let clients = self.known.len().saturating_sub(1);
        let said = format!("first use by {client}; {clients} clients used it in {} requests before", self.requests);
        // However many they are: more of the same app are no attack.
        Some(Finding::fact(Signal::NewClient, (excess + 1.0).min(MOST_OF_NEW), said))
    }

    pub fn step(&mut self, step: Step, event: &Event, now: u64) -> Vec<Finding> {
        let learned = now.saturating_sub(self.first) >= 3 * DAY;
        self.is_changed = true;
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
            Step::IssuerChanged => Some(Finding::fact(
                Signal::IssuerChange,
                1.8,
                "the issuer tells something else of itself than before".to_owned(),
            )),
            Step::Refused => self.refused.excess(now, learned, 2.0, 5.0).map(|excess| {
                let said = format!("refused {} times in a day what was granted before", self.refused.count);
                Finding::new(Signal::IssuerChange, excess, said)
            }),
            Step::Issued | Step::Rotated => self.issued.excess(now, learned, 3.0, 10.0).map(|excess| {
                Finding::new(Signal::Issuance, excess, format!("{} generations in a day", self.issued.count))
            }),
            Step::UnderWay | Step::Expired | Step::Revoked | Step::Unknown => None,
        };
        found.into_iter().map(|finding| Finding { client: event.client.clone(), ..finding }).collect()
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

kept!(Daily { day, count, most });

/// Clients of one token at rest: a record has a bound.
const MOST_KEPT: usize = 500;
/// And names of clients, of eight bytes each.
const MOST_NAMES: usize = 8192;

/// Requests of a token before another client is a new one.
const SOME: u64 = 50;
/// Strong, but not what quarantines.
const MOST_OF_NEW: f64 = 4.5;

const SHADOW_TOLD_FOR: u64 = 4 * DAY;

/// Clients of one token that are remembered to send credentials of their own.
pub const MOST_SHADOWS: usize = 1024;
