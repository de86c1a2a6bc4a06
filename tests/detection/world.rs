//! A made-up world of apps and their tokens: what each asks of its API over sixty days, and what someone else does with one of
//! the tokens. Everything follows from a seed.

use std::time::Duration;

use countersign::detect::Event;
use countersign::detect::event::{Step, Time};
use fastrand::Rng;

pub const DAYS: u64 = 60;
const DAY: u64 = 86_400;
/// A Monday.
const EPOCH: u64 = 1_788_739_200;

/// How an app lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum App {
    /// People at their desks.
    Office,
    /// A service that never sleeps, and grows.
    Service,
    /// A job each night, a larger one on Sundays.
    Batch,
    /// The same question every five minutes.
    Poller,
    /// Events as they come, sometimes many at once.
    Events,
    /// Builds, on working days, in ever new repositories.
    Builds,
    /// Six clients with one token, all of them alike.
    Fleet,
    /// A person with a command line, now and then, at any time.
    Person,
    /// Resources are called by the names of people.
    Names,
    /// Ten times as much to do on the last day of a month.
    Closing,
}

pub const APPS: [App; 10] = [
    App::Office,
    App::Service,
    App::Batch,
    App::Poller,
    App::Events,
    App::Builds,
    App::Fleet,
    App::Person,
    App::Names,
    App::Closing,
];

/// What somebody else does with the token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attack {
    OtherClient,
    Exfiltration,
    Enumeration,
    Probing,
    Burst,
    OffHours,
    Dormant,
    Deletions,
    Tripwire,
    /// Twelve failures of its own first, as if the host were in trouble.
    Covered,
    /// No answer is waited for.
    Unanswered,
    /// What policy does not allow.
    Denied,
    /// A clock far ahead, just before.
    Clocked,
    /// Each client of the token does a little of it.
    Shared,
    /// A client that nobody knows takes all that there is.
    Taken,
    /// A verb that is seldom used.
    Moves,
}

pub const ATTACKS: [Attack; 16] = [
    Attack::OtherClient,
    Attack::Exfiltration,
    Attack::Enumeration,
    Attack::Probing,
    Attack::Burst,
    Attack::OffHours,
    Attack::Dormant,
    Attack::Deletions,
    Attack::Tripwire,
    Attack::Covered,
    Attack::Unanswered,
    Attack::Denied,
    Attack::Clocked,
    Attack::Shared,
    Attack::Taken,
    Attack::Moves,
];

impl Attack {
    /// Whether it has to be noticed within a minute, not within a day.
    pub fn is_loud(self) -> bool {
        !matches!(self, Self::Exfiltration | Self::OffHours | Self::Shared)
    }

    /// Whether an app leaves something that this would depart from: who never rests has no hours that are never used.
    pub fn concerns(self, app: App) -> bool {
        match self {
            Self::OffHours => matches!(app, App::Office | App::Batch | App::Builds | App::Closing),
            Self::Shared => app == App::Fleet,
            // A person pauses for weeks.
            Self::Dormant => app != App::Person,
            _ => true,
        }
    }
}

/// Sixty days of one token, in order of time, and the seconds between which it was misused.
pub struct Life {
    pub events: Vec<Event>,
    pub misuse: (u64, u64),
}

/// The same without misuse.
pub fn quiet(app: App, seed: u64) -> Vec<Event> {
    live(app, None, seed).events
}

pub fn live(app: App, attack: impl Into<Option<Attack>>, seed: u64) -> Life {
    let attack = attack.into();
    let mut life = Living {
        random: Rng::with_seed(seed),
        app,
        events: Vec::new(),
        paths: 3,
        scale: 1.0,
        errors: 0.005,
        ahead: None,
    };
    let last = if attack == Some(Attack::Dormant) { 30 } else { DAYS };
    let outages = [(); 2].map(|()| life.random.u64(10..DAYS) * DAY + life.random.u64(0..DAY));
    let lasts = life.random.u64(1200..5400);
    for day in 0..last {
        if life.random.f64() < 1.0 / 14.0 {
            life.deploy();
        }
        life.day(day);
    }
    for event in &mut life.events {
        let since = event.time.seconds() - EPOCH;
        if event.event.is_none() && outages.iter().any(|outage| (*outage..outage + lasts).contains(&since)) {
            event.status = 503;
        }
    }
    life.retries();
    let misuse = attack.map_or((0, 0), |attack| life.attack(attack));
    life.events.sort_by_key(|event| event.time);
    if let Some(event) = life.ahead.take() {
        let at = life.events.partition_point(|other| other.time < event.time);
        let time = Time(event.time.0 + Duration::from_secs(300 * DAY));
        life.events.insert(at, Event { time, ..event });
    }
    Life { events: life.events, misuse }
}

struct Living {
    random: Rng,
    app: App,
    events: Vec<Event>,
    /// How many kinds of resources it knows.
    paths: u32,
    scale: f64,
    errors: f64,
    /// One whose clock is.
    ahead: Option<Event>,
}

impl Living {
    fn day(&mut self, day: u64) {
        let weekend = day % 7 >= 5;
        // What everybody does on this day, more or less of it.
        let mood = self.scale * (0.85 + 0.3 * self.random.f64());
        match self.app {
            App::Office if weekend => {}
            App::Office => (8..18).for_each(|hour| {
                let lunch = if hour == 12 { 0.5 } else { 1.0 };
                self.hour(day, hour, 40.0 * mood * lunch, 4000.0);
            }),
            App::Service => (0..24).for_each(|hour| {
                let wave = 1.0 + 0.7 * ((hour as f64 - 8.0) / 24.0 * std::f64::consts::TAU).sin();
                let week = if weekend { 0.6 } else { 1.0 };
                let growth = 1.0 + 0.007 * day as f64;
                self.hour(day, hour, 16.0 * mood * wave * week * growth, 8000.0);
            }),
            App::Batch => {
                let many = if day % 7 == 6 { 900.0 } else { 300.0 };
                let start = day * DAY + 2 * 3600 + self.random.u64(0..1200);
                self.run(start, 600, many * mood, 50_000.0);
            }
            App::Poller => (0..288).for_each(|turn| {
                let at = day * DAY + turn * 300 + self.random.u64(0..5);
                self.request(at, "GET", "/status".to_owned(), 900.0);
            }),
            App::Events => {
                let groups = (12.0 * mood) as u64;
                for _ in 0..groups {
                    let many = (1.2 * self.normal() + 1.5).exp().min(150.0);
                    let start = day * DAY + self.random.u64(0..DAY - 400);
                    self.run(start, 300, many, 3000.0);
                }
            }
            App::Fleet | App::Names => (0..24).for_each(|hour| {
                let wave = 1.0 + 0.5 * ((hour as f64 - 8.0) / 24.0 * std::f64::consts::TAU).sin();
                self.hour(day, hour, 24.0 * mood * wave, 3000.0);
            }),
            App::Person => {
                if self.random.f64() < 0.5 {
                    let start = day * DAY + self.random.u64(0..DAY - 3600);
                    let many = (0.9 * self.normal() + 2.5).exp().min(80.0);
                    self.run(start, 1200, many, 3000.0);
                }
            }
            App::Closing if weekend => {}
            App::Closing => (9..17).for_each(|hour| {
                let much = if day % 30 == 29 { 10.0 } else { 1.0 };
                self.hour(day, hour, 15.0 * mood * much, 3000.0);
            }),
            App::Builds if weekend => {}
            App::Builds => {
                for _ in 0..(10.0 * mood) as u64 {
                    let start = day * DAY + self.random.u64(8 * 3600..20 * 3600);
                    let many = 10.0 + 20.0 * self.random.f64();
                    self.run(start, 240, many, 20_000.0);
                }
            }
        }
        let rotated = Event { event: Some(Step::Rotated), ..self.blank(day * DAY + 60) };
        self.events.push(rotated);
    }

    fn hour(&mut self, day: u64, hour: u64, mean: f64, bytes: f64) {
        self.run(day * DAY + hour * 3600, 3600, mean, bytes);
    }

    /// About as many requests as `mean` says within so many seconds.
    fn run(&mut self, start: u64, seconds: u64, mean: f64, bytes: f64) {
        let many = (mean + mean.sqrt() * self.normal()).max(0.0).round() as u64;
        for _ in 0..many {
            let at = start + self.random.u64(0..seconds);
            let kind = self.random.u32(0..self.paths);
            let writes = matches!(self.app, App::Service | App::Events | App::Office) && self.random.f64() < 0.15;
            let path = match self.app {
                App::Builds => format!("/repos/team/repo-{}/kind{}", self.random.u32(0..60), kind),
                App::Names => format!("/users/{}/profile", name(self.random.u32(0..600))),
                _ => format!("/kind{}/{}", letter(kind), self.random.u32(0..400)),
            };
            self.request(at, if writes { "POST" } else { "GET" }, path, bytes);
        }
    }

    fn request(&mut self, since: u64, method: &str, path: String, bytes: f64) {
        let chance = self.random.f64();
        let status = match chance {
            _ if chance < self.errors => 404,
            _ if chance < self.errors * 1.3 => 429,
            _ => 200,
        };
        let size = (bytes * (0.8 * self.normal()).exp()) as u64;
        let blank = self.blank(since);
        let sent = if method == "POST" { 800 } else { 0 };
        let mut event =
            Event { method: method.to_owned(), path, status, request_bytes: sent, response_bytes: size, ..blank };
        if self.app == App::Fleet {
            event.client = format!("pod-{}", self.random.u32(0..6));
        }
        self.events.push(event);
    }

    /// New kinds of resources, and more or less to do.
    fn deploy(&mut self) {
        self.paths += self.random.u32(1..4);
        self.scale *= 0.85 + 0.4 * self.random.f64();
    }

    /// What failed is tried three times more.
    fn retries(&mut self) {
        let failed: Vec<Event> = self.events.iter().filter(|event| event.status == 503).cloned().collect();
        for event in failed {
            for again in 1..4_u64 {
                let time = Time(event.time.0 + Duration::from_secs(again * again * 2));
                self.events.push(Event { time, ..event.clone() });
            }
            let caught_up = Time(event.time.0 + Duration::from_secs(3000 + self.random.u64(0..600)));
            self.events.push(Event { time: caught_up, status: 200, ..event });
        }
    }

    /// Misuses the token, and says from when to when.
    fn attack(&mut self, attack: Attack) -> (u64, u64) {
        let mut day = self.random.u64(40..57);
        if matches!(self.app, App::Office | App::Builds | App::Closing) {
            // A working day.
            day -= (day % 7).saturating_sub(4);
        }
        let hour = if attack == Attack::OffHours { 22 } else { self.random.u64(9..17) };
        let start = day * DAY + hour * 3600 + self.random.u64(0..3000);
        let daily: u64 = self.events.iter().map(|event| event.response_bytes).sum::<u64>() / DAYS;
        let many = match attack {
            Attack::OtherClient | Attack::Dormant => 5,
            Attack::OffHours => 8,
            Attack::Exfiltration => 240,
            Attack::Enumeration => 600,
            Attack::Probing | Attack::Deletions => 100,
            Attack::Burst | Attack::Covered | Attack::Unanswered | Attack::Clocked => 1500,
            Attack::Denied => 60,
            Attack::Shared => 1200,
            Attack::Taken => 3000,
            Attack::Tripwire | Attack::Moves => 1,
        };
        let lasts = match attack {
            Attack::Exfiltration => DAY,
            Attack::Enumeration => 600,
            Attack::OffHours => 1200,
            Attack::Shared => 3000,
            _ => 300,
        };
        self.prepare(attack, start);
        for number in 0..many {
            let blank = self.blank(start + number * lasts / many);
            let known = format!("/kind{}/{}", letter(self.random.u32(0..3)), self.random.u32(0..400));
            let mut event = Event { method: "GET".to_owned(), path: known, status: 200, response_bytes: 3000, ..blank };
            match attack {
                Attack::OtherClient => event.client = "stranger".to_owned(),
                Attack::Exfiltration => event.response_bytes = daily * 2 / many,
                Attack::Enumeration => {
                    event.path = format!("/users/{number}");
                    event.status = if number % 3 == 0 { 404 } else { 200 };
                }
                Attack::Probing => {
                    event.path = format!("/admin/{}/{}", letter(number as u32 % 26), number);
                    event.status = if number % 2 == 0 { 403 } else { 404 };
                }
                Attack::Deletions => {
                    event.method = "DELETE".to_owned();
                    event.status = 204;
                }
                Attack::Tripwire => event.event = Some(Step::Tripwire),
                Attack::Unanswered => event.status = 0,
                Attack::Denied => {
                    event.status = 403;
                    event.reason = "path_denied".to_owned();
                    event.path = String::new();
                }
                Attack::Shared => event.path = format!("/users/{number}"),
                Attack::Taken => {
                    event.client = "stranger".to_owned();
                    event.path = format!("/users/{number}");
                }
                Attack::Moves => event.method = "MOVE".to_owned(),
                Attack::Burst | Attack::OffHours | Attack::Dormant | Attack::Covered | Attack::Clocked => {}
            }
            if attack == Attack::Shared {
                event.client = format!("pod-{}", number % 6);
            } else if self.app == App::Fleet && event.client == "app" {
                event.client = "pod-3".to_owned();
            }
            self.events.push(event);
        }
        (EPOCH + start, EPOCH + start + lasts)
    }

    /// What comes before, by the same client.
    fn prepare(&mut self, attack: Attack, start: u64) {
        let client = if self.app == App::Fleet { "pod-3" } else { "app" };
        let known = Event { method: "GET".to_owned(), path: "/kinda/1".to_owned(), ..self.blank(start - 1) };
        let known = Event { client: client.to_owned(), ..known };
        match attack {
            Attack::Covered => self.events.extend([(); 12].map(|()| Event { status: 500, ..known.clone() })),
            Attack::Clocked => self.ahead = Some(Event { status: 200, ..known }),
            _ => {}
        }
    }

    fn blank(&self, since: u64) -> Event {
        Event {
            time: Time(Duration::from_secs(EPOCH + since)),
            token: format!("{:?}", self.app).to_lowercase(),
            event: None,
            client: "app".to_owned(),
            host: "api.example.com".to_owned(),
            method: String::new(),
            path: String::new(),
            status: 0,
            ..Event::default()
        }
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.random.f64()).sum::<f64>() - 6.0
    }
}

/// Without digits, as people are called.
fn name(number: u32) -> String {
    [number / 26 / 26, number / 26, number].map(letter).iter().collect()
}

fn letter(number: u32) -> char {
    char::from(b'a' + u8::try_from(number % 26).unwrap_or_default())
}
