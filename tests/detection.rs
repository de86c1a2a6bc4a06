//! How well unusual use is told from usual use, in a world that is made up from seeds: see `docs/detection.md`.
//!
//! `COUNTERSIGN_DETECTION_SEEDS=7001,7002 cargo test --test detection -- --nocapture` judges by other seeds than the test's, and
//! all attacks on all apps.

#[path = "detection/world.rs"]
mod world;

use std::collections::BTreeMap;

use countersign::detect::anomaly::Signal;
use countersign::detect::{Anomaly, Engine};
use world::{APPS, ATTACKS, App, Attack, DAYS, live, quiet};

/// They were not looked at while the detector was made. Each plays one in so many of all attacks on all apps.
const JUDGING_SEEDS: [u64; 3] = [7000, 7100, 7200];
const SHARES: usize = 6;

const MINUTE: u64 = 60;
const DAY: u64 = 86_400;
const MONTH: u64 = 30 * DAY;

/// What came of the lives of some tokens.
#[derive(Default)]
struct Outcome {
    lives: u32,
    false_alarms: u32,
    /// In time, late, and how long it took.
    attacks: BTreeMap<String, Vec<Option<u64>>>,
}

impl Outcome {
    fn play(&mut self, app: App, attack: Attack, seed: u64) {
        let life = live(app, attack, seed);
        let (from, until) = life.misuse;
        let mut engine = Engine::default();
        let mut noticed = None;
        let mut all: Vec<Anomaly> = life.events.iter().flat_map(|event| engine.observe(event)).collect();
        all.extend(engine.end());
        for anomaly in all {
            match anomaly.time.seconds() {
                time if (from..=until + DAY).contains(&time) => noticed = noticed.or(Some(time - from)),
                _ => self.false_alarms += 1,
            }
        }
        let allowed = if attack.is_loud() { MINUTE } else { DAY };
        self.lives += 1;
        self.attacks.entry(format!("{attack:?}")).or_default().push(noticed.filter(|seconds| *seconds <= allowed));
    }

    /// The share of attacks that were noticed in time.
    fn recall(&self) -> f64 {
        let all: Vec<bool> = self.attacks.values().flatten().map(Option::is_some).collect();
        all.iter().filter(|noticed| **noticed).count() as f64 / all.len() as f64
    }

    /// A token and thirty days.
    fn false_alarms(&self) -> f64 {
        f64::from(self.false_alarms) / (f64::from(self.lives) * DAYS as f64 / 30.0)
    }

    fn table(&self) -> String {
        let mut table = String::new();
        for (attack, noticed) in &self.attacks {
            let mut seconds: Vec<u64> = noticed.iter().flatten().copied().collect();
            seconds.sort_unstable();
            let (median, last) = (seconds.get(seconds.len() / 2), seconds.last());
            table +=
                &format!("{attack:14} {}/{}, median {median:?} s, longest {last:?} s\n", seconds.len(), noticed.len());
        }
        table + &format!("recall {:.3}, {:.3} false alarms a token and 30 days", self.recall(), self.false_alarms())
    }
}

/// And into how many shares attacks are dealt out.
fn judging_seeds() -> (Vec<u64>, usize) {
    std::env::var("COUNTERSIGN_DETECTION_SEEDS").map_or((JUDGING_SEEDS.to_vec(), SHARES), |seeds| {
        let seeds = seeds.split(',').map(|seed| seed.parse().expect("numbers with commas between them"));
        (seeds.collect(), 1)
    })
}

#[test]
fn misuse_is_noticed_in_time_and_use_is_left_alone() {
    let mut outcome = Outcome::default();
    let (seeds, shares) = judging_seeds();
    for (turn, seed) in seeds.into_iter().enumerate() {
        for (number, attack) in (0..).zip(ATTACKS) {
            let is_its = |at: usize| (at + number + turn).is_multiple_of(shares) || attack == Attack::Shared;
            let apps = APPS.into_iter().enumerate().filter(|(at, _)| is_its(*at)).map(|(_, app)| app);
            for app in apps.filter(|app| attack.concerns(*app)) {
                outcome.play(app, attack, seed * 100 + number as u64);
            }
        }
    }
    println!("{}", outcome.table());
    assert!(outcome.recall() >= 0.95, "{}", outcome.table());
    assert!(outcome.false_alarms() <= 1.0, "{}", outcome.table());
    for (attack, noticed) in &outcome.attacks {
        let share = noticed.iter().flatten().count() as f64 / noticed.len() as f64;
        assert!(share >= 0.6, "{attack}: {}", outcome.table());
    }
}

#[test]
fn the_same_seed_is_the_same_life() {
    let lives = [(); 2].map(|()| live(App::Office, Attack::Burst, 5));
    assert_eq!(lives[0].events, lives[1].events);
    assert!(lives[0].events.is_sorted_by_key(|event| event.time));
    assert_ne!(live(App::Office, Attack::Burst, 6).events, lives[0].events);
}

/// Months of quiet tokens, and the highest score of each signal in each of them.
#[derive(Default)]
struct Quiet {
    months: u32,
    highest: BTreeMap<(u32, Signal), f64>,
}

impl Quiet {
    fn play(&mut self, app: App, seed: u64) {
        let (life, mut engine) = (quiet(app, seed), Engine::default());
        let start = life[0].time.seconds();
        for anomaly in life.iter().flat_map(|event| engine.observe(event)) {
            let month = (anomaly.time.seconds() - start) / MONTH;
            for finding in &anomaly.findings {
                let highest = self.highest.entry((self.months + month as u32, finding.signal)).or_default();
                *highest = highest.max(finding.score);
            }
        }
        self.months += (DAYS * DAY / MONTH) as u32;
    }

    /// Of the months of these signals, the share that brought such a score or a higher one.
    fn share(&self, signals: &[Signal], score: f64) -> f64 {
        let high = |((_, signal), highest): &(&(u32, Signal), &f64)| signals.contains(signal) && **highest >= score;
        self.highest.iter().filter(high).count() as f64 / (f64::from(self.months) * signals.len() as f64)
    }
}

#[test]
fn a_score_is_the_share_of_quiet_months_without_one_as_high() {
    let mut all = Quiet::default();
    let (seeds, shares) = judging_seeds();
    for seed in seeds {
        let lives = if shares == 1 { 10 } else { 2 };
        for (app, number) in APPS.into_iter().flat_map(|app| (0..lives).map(move |number| (app, number))) {
            all.play(app, seed * 100 + 50 + number);
        }
    }
    let much = [Signal::Burst, Signal::FanOut, Signal::Volume];
    for score in [0.8, 0.9, 0.95, 0.97, 0.99] {
        let said = 1.0 - score;
        let each = Signal::ALL.map(|signal| (signal, all.share(&[signal], score)));
        let measured = all.share(&much, score);
        let told = each.iter().filter(|(_, share)| *share > 0.0);
        println!("{score}: {said:.3} said, {measured:.3} of how much, {:?}", told.collect::<Vec<_>>());
        assert!(measured <= said * 1.5 + 0.01, "{score}: {measured}");
        assert!(each.iter().all(|(_, share)| *share <= said * 2.0 + 0.01), "{score}: {each:?}");
        // Above, there are too few to tell.
        assert!(![0.9, 0.95].contains(&score) || measured >= said / 3.0, "{score}: {measured}");
    }
}
