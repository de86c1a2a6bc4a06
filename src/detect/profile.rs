//! What one client usually does with one token, and what of a request departs from it.
//!
//! ```text
//!  request ─▶ sums (a minute, an hour, a day) ─┬─▶ over their ceilings? ─▶ findings
//!          ─▶ facts (method, place, hour, gap) ┘
//!                    └─ when the hour, the day ends ─▶ ceilings
//! ```
//!
//! Invariant: a request is compared with what was before it, and takes the same room as any other, below 2 KiB a profile.

use std::fmt::Arguments;

use super::anomaly::{Finding, Signal};
use super::baseline::{Ceiling, DAY, Distinct, HOUR, Hash, Hours, Known, Slot};
use super::event::Event;
use super::memory::{Kept, kept};

#[derive(Clone)]
pub struct Profile {
    first: u64,
    last: u64,
    requests: u64,
    /// Bytes of a request and its answer, on average.
    bytes: f32,
    minute: Sums,
    hour: Sums,
    /// The last day, in parts of three hours.
    parts: [Sums; PARTS],
    most_a_minute: Sums<Ceiling>,
    most_an_hour: Sums<Ceiling>,
    most_a_day: Sums<Ceiling>,
    /// Requests in the fullest minute, and in all, of each hour.
    minutes: Hours<f32>,
    hours: Hours<f32>,
    /// The fullest minute of this hour.
    fullest: f32,
    /// The day on which an hour was last used, counted from one; and a bit for each hour of today.
    used: Hours<u16>,
    used_today: u32,
    resources: [Distinct; 2],
    most_resources: [Ceiling; 2],
    places: Known,
    methods: u16,
    longest_gap: u32,
    silent: bool,
    told: [Told; SIGNALS],
    unweighed: Unweighed,
}

/// What has come since figures were last weighed.
#[derive(Clone, Copy, Default)]
struct Unweighed {
    requests: u32,
    bytes: f32,
    in_trouble: bool,
}

/// What is summed over a time.
#[derive(Clone, Copy, Default)]
struct Sums<T = f32> {
    requests: T,
    /// Refusals and what was not found, by their weight.
    errors: T,
    downloaded: T,
    uploaded: T,
    deletions: T,
    new_places: T,
}

/// When a signal was last told, in hours, and how strong it was.
#[derive(Clone, Copy, Default)]
struct Told {
    hour: u32,
    excess: f32,
}

/// What a token's other uses say about a request.
#[derive(Clone, Copy, Default)]
pub struct Surroundings {
    /// The host fails for many: what that makes an app do is not misuse.
    pub trouble: bool,
}

impl Profile {
    pub fn new(seconds: u64) -> Self {
        Self {
            first: seconds,
            last: seconds,
            requests: 0,
            bytes: 0.0,
            minute: Sums::default(),
            hour: Sums::default(),
            parts: [Sums::default(); PARTS],
            most_a_minute: Sums::default(),
            most_an_hour: Sums::default(),
            most_a_day: Sums::default(),
            minutes: Hours::default(),
            hours: Hours::default(),
            fullest: 0.0,
            used: Hours::default(),
            used_today: 0,
            resources: [Distinct::default(), Distinct::default()],
            most_resources: [Ceiling::default(); 2],
            places: Known::default(),
            methods: 0,
            longest_gap: 0,
            silent: false,
            told: [Told::default(); SIGNALS],
            unweighed: Unweighed::default(),
        }
    }

    pub fn last(&self) -> u64 {
        self.last
    }

    /// What is unusual about this request by itself. It belongs to what is usual from now on. Its figures count when they are
    /// weighed: soon, and before their minute ends.
    pub fn observe(&mut self, event: &Event, surroundings: Surroundings) -> Vec<Finding> {
        let now = event.time.seconds().max(self.last);
        let mut found = Vec::new();
        if now / 60 != self.last / 60 {
            found = self.weigh();
        }
        self.awake(now, &mut found);
        self.pass_to(now);
        self.add(event, surroundings, &mut found);
        self.hours_of_use(now, &mut found);
        self.last = now;
        self.requests += 1;
        self.unweighed.requests += 1;
        self.unweighed.bytes += event.request_bytes.saturating_add(event.response_bytes) as f32;
        self.unweighed.in_trouble |= surroundings.trouble;
        found
    }

    /// Whether there are requests whose figures were not weighed.
    pub fn is_unweighed(&self) -> bool {
        self.unweighed.requests > 0
    }

    /// Which figures are unusual.
    pub fn weigh(&mut self) -> Vec<Finding> {
        let Unweighed { requests, bytes, in_trouble } = std::mem::take(&mut self.unweighed);
        if requests == 0 {
            return Vec::new();
        }
        let (now, mut found) = (self.last, Vec::new());
        self.rates(self, now, in_trouble, &mut found);
        let share = requests as f32 / self.requests.clamp(requests.into(), 1000.max(requests.into())) as f32;
        self.bytes += (bytes / requests as f32 - self.bytes) * share;
        found.retain(|finding| self.tells(now, finding));
        found.iter_mut().for_each(|finding| finding.in_trouble = in_trouble);
        found
    }

    /// Whether its figures are still unusual, in the light of what was usual `before`.
    pub fn exceeds(&self, before: &Self) -> bool {
        let mut found = Vec::new();
        self.rates(before, self.last, false, &mut found);
        !found.is_empty()
    }

    /// What it asks for at the most, as far as is known: requests in an hour and in a minute.
    pub fn usual(&self) -> (f64, f64) {
        (self.most_an_hour.requests.most(), self.most_a_minute.requests.most())
    }

    /// What was told may be told again.
    pub fn forget_told(&mut self) {
        self.told = [Told::default(); SIGNALS];
    }

    /// What was told is told again after its time alone, however strong it is by then; other figures after an hour: they may
    /// be of the same cause.
    pub fn approve_told(&mut self, now: u64) {
        let hour = u32::try_from(now / HOUR).unwrap_or(u32::MAX);
        for told in &mut self.told {
            let is_open = told.hour != 0 && hour.saturating_sub(told.hour) < SAME_FOR;
            let since = if is_open { told.hour } else { hour.saturating_sub(SAME_FOR - 2).max(1) };
            *told = Told { hour: since, excess: f32::MAX };
        }
    }

    pub fn is_silent(&self) -> bool {
        self.silent
    }

    /// Whether a busy client has fallen silent. Said once a silence.
    pub fn silence(&mut self, now: u64) -> Option<Finding> {
        let gap = now.saturating_sub(self.last);
        let usual = (4 * u64::from(self.longest_gap)).max(DAY);
        if self.silent || self.requests < BUSY || !self.learned(self.last) || gap < usual {
            return None;
        }
        self.silent = true;
        let said = format!("silent for {}, never for longer than {} before", span(gap), span(self.longest_gap.into()));
        Some(Finding::new(Signal::Silence, gap as f64 / usual as f64, said))
    }

    /// The first day is 1.
    fn day_of(&self, seconds: u64) -> u16 {
        u16::try_from(seconds / DAY - self.first / DAY + 1).unwrap_or(u16::MAX)
    }

    fn learned(&self, now: u64) -> bool {
        now.saturating_sub(self.first) >= LEARNED
    }

    /// A token that wakes after a much longer rest than it ever took.
    fn awake(&mut self, now: u64, found: &mut Vec<Finding>) {
        let gap = now - self.last;
        let usual = (3 * u64::from(self.longest_gap)).max(DORMANT);
        if gap > usual && self.last - self.first >= LEARNED && self.requests >= FEW {
            let said =
                format!("used after {} of rest, never longer than {} before", span(gap), span(self.longest_gap.into()));
            found.push(Finding::fact(Signal::Dormant, 1.0 + gap as f64 / usual as f64, said));
        }
        self.longest_gap = self.longest_gap.max(u32::try_from(gap).unwrap_or(u32::MAX));
        self.silent = false;
    }

    /// Ends the minutes, hours and days that have passed since the last request.
    fn pass_to(&mut self, now: u64) {
        let learned = self.learned(self.last);
        if now / 60 != self.last / 60 {
            self.fullest = self.fullest.max(self.minute.requests);
            self.most_a_minute.saw(&self.minute, learned);
            self.minute = Sums::default();
        }
        if now / HOUR != self.last / HOUR {
            let slot = Slot::of(self.last);
            self.used_today |= 1 << (self.last / HOUR % 24);
            settle(self.minutes.at(slot), self.fullest, learned);
            settle(self.hours.at(slot), self.hour.requests, learned);
            self.fullest = 0.0;
            self.most_an_hour.saw(&self.hour, learned);
            self.hour = Sums::default();
            self.most_resources[0].saw(self.resources[0].count(), learned);
            self.resources[0] = Distinct::default();
            let hours = (now / HOUR - self.last / HOUR).min(8 * DAY / HOUR);
            self.most_a_day.saw(&self.day(), learned);
            for hour in now / HOUR - hours + 1..=now / HOUR {
                if hour % HOURS_A_PART == 0 {
                    self.parts[part(hour * HOUR)] = Sums::default();
                }
            }
        }
        if now / DAY != self.last / DAY {
            // Not before: one new hour would make the next one look usual.
            let (day, midnight) = (self.day_of(self.last), self.last / DAY * DAY);
            for hour in (0..24).filter(|hour| self.used_today & (1 << hour) != 0) {
                *self.used.at(Slot::of(midnight + hour * HOUR)) = day;
            }
            self.used_today = 0;
        }
        for _ in 0..(now / DAY - self.last / DAY).min(400) {
            self.most_resources[1].saw(self.resources[1].count(), learned);
            self.resources[1] = Distinct::default();
            self.most_a_minute.day_ends();
            self.most_an_hour.day_ends();
            self.most_a_day.day_ends();
            self.most_resources.iter_mut().for_each(Ceiling::day_ends);
        }
    }

    fn day(&self) -> Sums {
        self.parts.iter().fold(Sums::default(), |mut sum, part| {
            sum.add(part);
            sum
        })
    }

    fn add(&mut self, event: &Event, surroundings: Surroundings, found: &mut Vec<Finding>) {
        let now = event.time.seconds().max(self.last);
        let experienced = now - self.first >= 3 * DAY && self.requests >= FEW;
        let mut one =
            Sums { downloaded: event.response_bytes as f32, uploaded: event.request_bytes as f32, ..Sums::default() };
        // What the host could not do is tried again and again.
        if !matches!(event.status, 0 | 429 | 500..) {
            one.requests = 1.0;
        }
        one.errors = match event.status {
            401 if surroundings.trouble => 0.0,
            401 | 403 => 2.0,
            404 | 405 | 410 => 1.0,
            429 => 0.2,
            _ => 0.0,
        };
        let host = Hash::default().text(&event.host).end();
        let place = template(host, &event.path).end().finish();
        let refused = matches!(event.status, 400..=499);
        if self.places.is_new(place) && experienced && !refused {
            one.new_places = 1.0;
        }
        if self.places.is_new(Hash::default().text("host").end().text(&event.host).end().finish()) && experienced {
            found.push(Finding::fact(Signal::NewPlace, 2.5, format!("first request to {}", event.host)));
        }
        if event.method == "DELETE" {
            one.deletions = 1.0;
        }
        self.method(event, experienced, found);
        let resource = host.text(&event.path).end().finish();
        self.resources.iter_mut().for_each(|resources| resources.saw(resource));
        for sums in [&mut self.minute, &mut self.hour, &mut self.parts[part(now)]] {
            sums.add(&one);
        }
    }

    /// The first write of a reader, the first deletion of a writer.
    fn method(&mut self, event: &Event, experienced: bool, found: &mut Vec<Finding>) {
        let Some(method) = METHODS.iter().position(|method| *method == event.method) else { return };
        let before = self.methods;
        self.methods |= 1 << method;
        if !experienced || before & (1 << method) != 0 || !WRITES.contains(&method) {
            return;
        }
        let wrote = WRITES.iter().any(|write| before & (1 << write) != 0);
        let excess = if wrote && event.method != "DELETE" { 1.2 } else { 2.5 };
        let said = format!("first {} in {} requests", event.method, self.requests);
        found.push(Finding::fact(Signal::NewMethod, excess, said));
    }

    fn rates(&self, usual: &Self, now: u64, in_trouble: bool, found: &mut Vec<Finding>) {
        if now - self.first < DAY || self.requests <= FEW {
            return;
        }
        let mut caution = if self.learned(now) { 1.0 } else { UNLEARNED };
        if in_trouble {
            caution *= TROUBLED;
        }
        let mut scale = Scale { caution, found };
        let day = self.day();
        self.bursts(usual, now, &day, &mut scale);
        let some = f64::from(self.bytes) * SOME_ANSWERS;
        for (span, sums, most, times, few) in [
            ("a minute", &self.minute, &usual.most_a_minute, 3.0, 8.0),
            ("an hour", &self.hour, &usual.most_an_hour, 2.0, 12.0),
            ("a day", &day, &usual.most_a_day, 1.5, 20.0),
        ] {
            let (received, sent) = (most.downloaded.most(), most.uploaded.most());
            scale.weigh(
                Signal::Volume,
                format_args!("bytes received in {span}"),
                sums.downloaded,
                received,
                times,
                some,
            );
            scale.weigh(Signal::Volume, format_args!("bytes sent in {span}"), sums.uploaded, sent, times, some);
            scale.weigh(
                Signal::Errors,
                format_args!("refusals in {span}"),
                sums.errors,
                most.errors.most(),
                times,
                few,
            );
            let deletions = most.deletions.most();
            scale.weigh(
                Signal::Burst,
                format_args!("deletions in {span}"),
                sums.deletions,
                deletions,
                times,
                few / 2.0,
            );
        }
        let (places, most) = (day.new_places, usual.most_a_day.new_places.most());
        scale.weigh(Signal::NewPlace, format_args!("new places in a day"), places, most, 2.0, 6.0);
        for (span, resources, most) in [
            ("an hour", &self.resources[0], usual.most_resources[0]),
            ("a day", &self.resources[1], usual.most_resources[1]),
        ] {
            let what = format_args!("different resources in {span}");
            scale.weigh(Signal::FanOut, what, resources.count() as f32, most.most(), 1.8, 25.0);
        }
    }

    fn bursts(&self, usual: &Self, now: u64, day: &Sums, scale: &mut Scale<'_>) {
        let slot = Slot::of(now);
        // Whoever keeps no hours may do at any of them much of what it does at all.
        let around = |hours: &Hours<f32>, most: Ceiling| {
            f64::from(hours.around(slot).into_iter().fold(0.0, f32::max)).max(0.6 * most.most())
        };
        let minute = around(&usual.minutes, usual.most_a_minute.requests);
        let hour = around(&usual.hours, usual.most_an_hour.requests);
        let (name, most) = (slot.name(), usual.most_a_day.requests.most());
        scale.weigh(
            Signal::Burst,
            format_args!("requests in a minute, {name}"),
            self.minute.requests,
            minute,
            2.5,
            12.0,
        );
        scale.weigh(Signal::Burst, format_args!("requests in an hour, {name}"), self.hour.requests, hour, 2.0, 40.0);
        scale.weigh(Signal::Burst, format_args!("requests in a day"), day.requests, most, 1.6, 100.0);
    }

    /// An hour that is never used, by a client that keeps hours.
    fn hours_of_use(&mut self, now: u64, found: &mut Vec<Finding>) {
        let slot = Slot::of(now);
        let today = self.day_of(now);
        let recent = |day: u16| day > 0 && today - day.min(today) < 35;
        let is_unused = !self.used.around(slot).into_iter().any(recent);
        if !is_unused || today < 15 || self.requests < FEW || self.hour.requests < 3.0 {
            return;
        }
        if self.used.all().filter(|day| recent(**day)).count() <= HOURS_KEPT {
            let finding = Finding::new(Signal::Hours, 1.5, format!("never used on {} before", slot.name()));
            if self.tells(now, &finding) {
                found.push(finding);
            }
        }
    }

    /// Whether a finding is news: it was not told of late, or was much weaker.
    fn tells(&mut self, now: u64, finding: &Finding) -> bool {
        let hour = u32::try_from(now / HOUR).unwrap_or(u32::MAX);
        let excess = -(1.0 - finding.score).log2() as f32;
        let told = &mut self.told[finding.signal as usize];
        let news = told.hour == 0 || hour - told.hour >= SAME_FOR || excess > told.excess * 1.3;
        if news {
            *told = Told { hour, excess };
        }
        news
    }
}

/// Where figures are weighed against what was usual.
struct Scale<'a> {
    caution: f64,
    found: &'a mut Vec<Finding>,
}

impl Scale<'_> {
    /// Unusual is what exceeds the most before so many times, and by some more that small figures may vary.
    fn weigh(&mut self, signal: Signal, what: Arguments<'_>, figure: f32, usual: f64, times: f64, some: f64) {
        let limit = (times * usual + some) * self.caution;
        let figure = f64::from(figure);
        if figure > limit {
            let said = if usual >= 1.0 {
                format!("{figure:.0} {what}, {:.1}x the most before", figure / usual)
            } else {
                format!("{figure:.0} {what}, none before")
            };
            self.found.push(Finding::new(signal, figure / limit, said));
        }
    }
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.downloaded += other.downloaded;
        self.uploaded += other.uploaded;
        self.deletions += other.deletions;
        self.new_places += other.new_places;
    }
}

impl Sums<Ceiling> {
    fn saw(&mut self, sums: &Sums, learned: bool) {
        self.requests.saw(sums.requests.into(), learned);
        self.errors.saw(sums.errors.into(), learned);
        self.downloaded.saw(sums.downloaded.into(), learned);
        self.uploaded.saw(sums.uploaded.into(), learned);
        self.deletions.saw(sums.deletions.into(), learned);
        self.new_places.saw(sums.new_places.into(), learned);
    }

    fn day_ends(&mut self) {
        let all = [
            &mut self.requests,
            &mut self.errors,
            &mut self.downloaded,
            &mut self.uploaded,
            &mut self.deletions,
            &mut self.new_places,
        ];
        all.into_iter().for_each(Ceiling::day_ends);
    }
}

/// The most of an hour of the day, once a day.
fn settle(most: &mut f32, figure: f32, learned: bool) {
    let mut ceiling = Ceiling::of(*most);
    ceiling.day_ends();
    ceiling.saw(figure.into(), learned);
    *most = ceiling.most() as f32;
}

/// Goes on with a path, without what tells one resource of a kind from another.
fn template(hash: Hash, path: &str) -> Hash {
    let (mut hash, mut parts, mut rest) = (hash, 0, path.as_bytes());
    while parts < 4 && !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        let part = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        if !part.is_empty() {
            hash = hash.bytes(b"/").bytes(if names_one(part) { b"*" } else { part });
            parts += 1;
        }
    }
    hash
}

/// Whether a segment looks like a number, a digest, a UUID.
fn names_one(part: &[u8]) -> bool {
    part.len() > 24 || part.iter().any(u8::is_ascii_digit) && !is_version(part)
}

fn is_version(part: &[u8]) -> bool {
    part.len() <= 3 && part.starts_with(b"v")
}

fn part(seconds: u64) -> usize {
    usize::try_from(seconds / HOUR / HOURS_A_PART).unwrap_or_default() % PARTS
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / HOUR),
        _ => format!("{} days", seconds / DAY),
    }
}

const METHODS: [&str; 8] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "other"];
const WRITES: [usize; 4] = [3, 4, 5, 6];

const SIGNALS: usize = Signal::ALL.len();

const HOURS_A_PART: u64 = 3;
const PARTS: usize = 8;

/// Each hour of a week has been seen, and a weekly job has run.
const LEARNED: u64 = 8 * DAY;
/// How much more it takes before.
const UNLEARNED: f64 = 6.0;
/// How much more while the host is in trouble: what failed is tried again.
const TROUBLED: f64 = 4.0;

/// Requests before anything is unusual, and before silence is.
const FEW: u64 = 100;
const BUSY: u64 = 1000;

/// By so many usual answers a volume may vary.
const SOME_ANSWERS: f64 = 50.0;

const DORMANT: u64 = 5 * DAY;

/// Of the 48 hours of the two kinds of day: whoever uses more keeps none.
const HOURS_KEPT: usize = 34;

/// Hours for which the same is not told again.
const SAME_FOR: u32 = 4 * 24;

kept!(Profile {
    first,
    last,
    requests,
    bytes,
    minute,
    hour,
    parts,
    most_a_minute,
    most_an_hour,
    most_a_day,
    minutes,
    hours,
    fullest,
    used,
    used_today,
    resources,
    most_resources,
    places,
    methods,
    longest_gap,
    silent,
    told,
    unweighed
});
kept!(Told { hour, excess });
kept!(Unweighed { requests, bytes, in_trouble });

impl<T: Kept> Kept for Sums<T> {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { requests, errors, downloaded, uploaded, deletions, new_places } = self;
        [requests, errors, downloaded, uploaded, deletions, new_places].into_iter().for_each(|sum| sum.put(out));
    }

    fn take(left: &mut &[u8]) -> Option<Self> {
        let [requests, errors, downloaded, uploaded, deletions, new_places] = <[T; 6]>::take(left)?;
        Some(Self { requests, errors, downloaded, uploaded, deletions, new_places })
    }
}

#[cfg(test)]
mod tests;
