//! What one client usually does with one token, and what of a request departs from it.
//!
//! ```text
//!  request ─▶ sums (a minute, an hour, a day) ─┬─▶ over their ceilings? ─▶ findings
//!          ─▶ facts (method, place, hour, gap) ┘
//!                    └─ when the hour, the day ends ─▶ ceilings
//! ```
//!
//! Invariant: a request is compared with what was before it, and takes the same room as any other, below 2 KiB a profile.

mod place;
mod rates;
mod sums;

use super::anomaly::{Finding, Signal};
use super::baseline::{Ceiling, DAY, Distinct, HOUR, Hash, Hours, Known, OUT_OF_ORDER, Slot};
use super::event::Event;
use super::host::Trouble;
use super::memory::kept;
use place::template;
use sums::{Sums, settle};

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
    /// The fullest minute of this hour, and the fullest hour of today.
    fullest: f32,
    fullest_today: f32,
    /// Requests in the fullest hour of each day of the week.
    days: [f32; 7],
    /// The day on which an hour was last used, since 1970; and a bit for each hour of today.
    used: Hours<u16>,
    used_today: u32,
    /// Hours with requests, those of some weeks ago less.
    active: f32,
    /// Requests that the host could not answer and that may come again, those of hours ago less.
    owed: f32,
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
    /// Whether anything has come.
    waits: bool,
    requests: u32,
    /// Those of a request that goes on wait for its end, to be weighed with it.
    bytes: f32,
    in_trouble: bool,
    is_alone: bool,
}

/// When a signal was last told, in hours, and how strong it was.
#[derive(Clone, Copy, Default)]
struct Told {
    hour: u32,
    excess: f32,
}

/// What a token's other uses say about a request.
#[derive(Clone, Copy)]
pub struct Surroundings {
    /// What a host's failures for many make an app do is not misuse.
    pub trouble: Trouble,
    /// How many times as much as usual it takes for a figure to be unusual.
    pub caution: f64,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self { trouble: Trouble::None, caution: 1.0 }
    }
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
            fullest_today: 0.0,
            days: [0.0; 7],
            used: Hours::default(),
            used_today: 0,
            active: 0.0,
            owed: 0.0,
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
    pub fn observe(&mut self, event: &Event, now: u64, surroundings: Surroundings) -> Vec<Finding> {
        let now = self.in_order(now);
        let mut found = Vec::new();
        if now / 60 != self.last / 60 {
            found = self.weigh(surroundings.caution);
        }
        self.awake(now, &mut found);
        self.pass_to(now);
        self.add(event, now, surroundings, &mut found);
        self.hours_of_use(now, &mut found);
        self.last = now;
        let ended = u32::from(!event.is_under_way());
        self.requests += u64::from(ended);
        self.unweighed.waits = true;
        self.unweighed.requests += ended;
        let (uploaded, downloaded) = event.carried();
        self.unweighed.bytes += uploaded.saturating_add(downloaded) as f32;
        self.unweighed.in_trouble |= surroundings.trouble == Trouble::OfMany;
        self.unweighed.is_alone |= surroundings.trouble == Trouble::OfOne;
        found
    }

    /// Requests come a little out of order; what lies further back says that a clock was ahead, and is right now.
    fn in_order(&mut self, now: u64) -> u64 {
        if now + OUT_OF_ORDER >= self.last {
            return now.max(self.last);
        }
        self.last = now;
        self.first = self.first.min(now);
        self.silent = false;
        let hour = hours(now);
        self.told.iter_mut().filter(|told| told.hour > hour).for_each(|told| *told = Told::default());
        now
    }

    /// Whether it is known long enough that what it never did is told of it.
    pub fn is_experienced(&self) -> bool {
        self.last - self.first >= 3 * DAY && self.requests >= FEW
    }

    /// Requests of this hour.
    pub fn this_hour(&self, now: u64) -> f32 {
        if now / HOUR == self.last / HOUR { self.hour.requests } else { 0.0 }
    }

    /// What was told by another is not told again by this one, unless it is stronger.
    pub fn heard(&mut self, found: &[Finding]) {
        let hour = hours(self.last);
        for finding in found.iter().filter(|finding| !finding.is_fact) {
            let told = &mut self.told[finding.signal as usize];
            let heard = Told { hour, excess: finding.strength as f32 };
            // What somebody approved of is over when its own time is.
            if !told.covers(&heard) {
                *told = heard;
            } else if told.excess < f32::MAX {
                told.hour = hour;
            }
        }
    }

    /// Whether there are requests whose figures were not weighed.
    pub fn is_unweighed(&self) -> bool {
        self.unweighed.waits
    }

    /// Which figures are unusual.
    pub fn weigh(&mut self, caution: f64) -> Vec<Finding> {
        let Unweighed { waits, requests, bytes, in_trouble, is_alone } = std::mem::take(&mut self.unweighed);
        if !waits {
            return Vec::new();
        }
        let (now, mut found) = (self.last, Vec::new());
        let caution = if in_trouble || is_alone { caution * TROUBLED } else { caution };
        self.rates(self, now, caution, &mut found);
        if requests > 0 {
            let share = requests as f32 / self.requests.clamp(requests.into(), 1000.max(requests.into())) as f32;
            self.bytes += (bytes / requests as f32 - self.bytes) * share;
        } else {
            self.unweighed.bytes = bytes;
        }
        found.retain(|finding| self.tells(now, finding));
        found.iter_mut().for_each(|finding| finding.in_trouble = in_trouble);
        found
    }

    /// Whether its figures are still unusual, in the light of what was usual `before`.
    pub fn exceeds(&self, before: &Self, caution: f64) -> bool {
        let mut found = Vec::new();
        self.rates(before, self.last, caution, &mut found);
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
        let hour = hours(now);
        for told in &mut self.told {
            let since = if told.is_open(hour) { told.hour } else { hour.saturating_sub(SAME_FOR - 2).max(1) };
            *told = Told { hour: since, excess: f32::MAX };
        }
    }

    pub fn is_silent(&self) -> bool {
        self.silent
    }

    /// Whether a busy client has fallen silent. Said once a silence.
    pub fn silence(&mut self, now: u64) -> Option<Finding> {
        let gap = now.saturating_sub(self.last);
        // Whoever never rests is missed within hours.
        let least = if self.never_rests() { RESTLESS } else { DAY };
        let usual = (4 * u64::from(self.longest_gap)).max(least);
        if self.silent || self.requests < BUSY || !self.learned(self.last) || gap < usual {
            return None;
        }
        self.silent = true;
        let said = format!("silent for {}, never for longer than {} before", span(gap), span(self.longest_gap.into()));
        Some(Finding::new(Signal::Silence, gap as f64 / usual as f64, said))
    }

    /// How many of the hours that it uses at all it uses on a day when it could.
    fn regularity(&self) -> f32 {
        let today = day_of(self.last);
        let [weekdays, weekends] = self.used.kinds().map(|days| days.filter(|day| is_recent(**day, today)).count());
        let hours = (5 * weekdays + 2 * weekends) as f32 / 7.0;
        let days = (self.last / DAY - self.first / DAY) as f32;
        let weight = (1.0 - ACTIVE_A_DAY.powf(days)) / (1.0 - ACTIVE_A_DAY);
        if hours > 0.0 && weight > 0.0 { self.active / weight / hours } else { 0.0 }
    }

    fn learned(&self, now: u64) -> bool {
        now.saturating_sub(self.first) >= LEARNED
    }

    /// Whether each hour of the week is in use, and nearly always.
    fn never_rests(&self) -> bool {
        let today = day_of(self.last);
        let is_used = self.used.kinds().map(|mut days| days.all(|day| is_recent(*day, today)));
        is_used == [true, true] && self.regularity() > 0.9
    }

    /// A token that wakes after a much longer rest than it ever took.
    fn awake(&mut self, now: u64, found: &mut Vec<Finding>) {
        let gap = now - self.last;
        // Less than four times: whoever rests at the ends of weeks takes a week off.
        let usual = (u64::from(self.longest_gap) * 77 / 20).max(DORMANT);
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
            let rested = u64::from(day_of(self.last).saturating_sub(*self.used.at(slot)));
            settle(self.minutes.at(slot), self.fullest, learned, rested);
            settle(self.hours.at(slot), self.hour.requests, learned, rested);
            self.fullest = 0.0;
            self.fullest_today = self.fullest_today.max(self.hour.requests);
            self.owed *= 0.5_f32.powf((now / HOUR - self.last / HOUR).min(64) as f32);
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
            let (day, midnight) = (day_of(self.last), self.last / DAY * DAY);
            for hour in (0..24).filter(|hour| self.used_today & (1 << hour) != 0) {
                *self.used.at(Slot::of(midnight + hour * HOUR)) = day;
            }
            self.active = (self.active + self.used_today.count_ones() as f32)
                * ACTIVE_A_DAY.powf((now / DAY - self.last / DAY).min(400) as f32);
            self.used_today = 0;
            settle(&mut self.days[weekday(self.last)], self.fullest_today, learned, 7);
            self.fullest_today = 0.0;
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

    fn add(&mut self, event: &Event, now: u64, surroundings: Surroundings, found: &mut Vec<Finding>) {
        let experienced = self.is_experienced();
        let (uploaded, downloaded) = event.carried();
        let mut one = Sums { downloaded: downloaded as f32, uploaded: uploaded as f32, ..Sums::default() };
        let in_trouble = surroundings.trouble == Trouble::OfMany;
        // What the host could not do is tried again and again.
        one.requests = match event.status {
            429 | 500.. if in_trouble => 0.0,
            429 | 500.. => TRIED_AGAIN,
            _ if event.is_denied() || event.is_under_way() => 0.0,
            _ => 1.0,
        };
        if event.status >= 500 {
            self.owed += 1.0;
        }
        one.errors = match event.status {
            401 if in_trouble => 0.0,
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
        if event.method.eq_ignore_ascii_case(METHODS[DELETE]) {
            one.deletions = 1.0;
        }
        self.method(event, experienced, found);
        // Of what was refused before its path was judged there is none.
        if !event.path.is_empty() {
            let resource = host.text(&event.path).end().finish();
            self.resources.iter_mut().for_each(|resources| resources.saw(resource));
        }
        for sums in [&mut self.minute, &mut self.hour, &mut self.parts[part(now)]] {
            sums.add(&one);
        }
    }

    /// The first write of a reader, the first deletion of a writer.
    fn method(&mut self, event: &Event, experienced: bool, found: &mut Vec<Finding>) {
        let known = METHODS.iter().position(|method| method.eq_ignore_ascii_case(&event.method));
        // Nobody knows what other verbs do; most of them change something.
        let method = known.unwrap_or(METHODS.len() - 1);
        let before = self.methods;
        self.methods |= 1 << method;
        if !experienced || before & (1 << method) != 0 || !WRITES.contains(&method) {
            return;
        }
        let wrote = WRITES.iter().any(|write| before & (1 << write) != 0);
        let excess = if wrote && method != DELETE { 1.2 } else { 2.5 };
        let said = format!("first {} in {} requests", event.method, self.requests);
        found.push(Finding::fact(Signal::NewMethod, excess, said));
    }

    /// An hour that is never used, by a client that keeps hours.
    fn hours_of_use(&mut self, now: u64, found: &mut Vec<Finding>) {
        let (slot, today) = (Slot::of(now), day_of(now));
        let is_unused = !self.used.around(slot, 1).any(|day| is_recent(day, today));
        if !is_unused || now - self.first < 2 * WEEK || self.requests < FEW || self.hour.requests < 3.0 {
            return;
        }
        let hours = self.used.kinds().map(|days| days.filter(|day| is_recent(**day, today)).count());
        if hours[0] + hours[1] <= HOURS_KEPT && self.regularity() >= REGULAR {
            let finding = Finding::new(Signal::Hours, 1.5, format!("never used on {} before", slot.name()));
            if self.tells(now, &finding) {
                found.push(finding);
            }
        }
    }

    /// Whether a finding is news: it was not told of late, or was much weaker.
    fn tells(&mut self, now: u64, finding: &Finding) -> bool {
        let found = Told { hour: hours(now), excess: finding.strength as f32 };
        let told = &mut self.told[finding.signal as usize];
        let is_news = !told.covers(&found);
        if is_news {
            *told = found;
        }
        is_news
    }
}

impl Told {
    fn is_open(&self, hour: u32) -> bool {
        self.hour != 0 && hour.saturating_sub(self.hour) < SAME_FOR
    }

    /// Whether what is found now is not news: it was told of late, and was not much weaker.
    fn covers(&self, found: &Self) -> bool {
        self.is_open(found.hour) && found.excess <= self.excess * MUCH_STRONGER
    }
}

fn hours(seconds: u64) -> u32 {
    u32::try_from(seconds / HOUR).unwrap_or(u32::MAX)
}

fn day_of(seconds: u64) -> u16 {
    u16::try_from(seconds / DAY).unwrap_or(u16::MAX)
}

fn is_recent(day: u16, today: u16) -> bool {
    day > 0 && today.saturating_sub(day) < 35
}

/// Monday is 0. 1970 began on a Thursday.
fn weekday(seconds: u64) -> usize {
    usize::try_from((seconds / DAY + 3) % 7).unwrap_or_default()
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
const WRITES: [usize; 5] = [3, 4, 5, 6, 7];
const DELETE: usize = 6;

const SIGNALS: usize = Signal::ALL.len();

/// How much more it takes while the host is in trouble: what failed is tried again.
const TROUBLED: f64 = 4.0;

const HOURS_A_PART: u64 = 3;
const PARTS: usize = 8;

const WEEK: u64 = 7 * DAY;
/// From which share of its hours on a client keeps them.
const REGULAR: f32 = 0.4;
/// A month of days counts.
const ACTIVE_A_DAY: f32 = 27.0 / 28.0;

/// What a request counts that was not answered.
const TRIED_AGAIN: f32 = 0.25;

/// Each hour of a week has been seen, and a weekly job has run.
const LEARNED: u64 = 8 * DAY;
/// Requests before anything is unusual, and before silence is.
const FEW: u64 = 100;
const BUSY: u64 = 1000;

const DORMANT: u64 = 5 * DAY;
const RESTLESS: u64 = 6 * HOUR;

/// Of the 48 hours of the two kinds of day: whoever uses more keeps none.
const HOURS_KEPT: usize = 34;

/// Hours for which the same is not told again, unless it is so much stronger.
const SAME_FOR: u32 = 4 * 24;
const MUCH_STRONGER: f32 = 1.3;

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
    fullest_today,
    days,
    used,
    used_today,
    active,
    owed,
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
kept!(Unweighed { waits, requests, bytes, in_trouble, is_alone });

#[cfg(test)]
mod tests;
