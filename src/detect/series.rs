//! How unusual each value of one series is, by what the series was before it.
//!
//! ```text
//!  value ─▶ signals (outlier, jump, rhythm, spread, level, roughness, record)
//!             each ─▶ rank in its own past ─▶ the strongest ─▶ less for an old series ─▶ unless it repeats an alarm ─▶ score
//! ```
//!
//! The signals have nothing in common but this: each is a size, and how rare a size is in its own past can be compared with
//! how rare another is in its own. So nothing is said of the values' scale or distribution, and one threshold serves all.
//!
//! Invariant: a value is ranked among earlier ones only, and a series takes the same room however long it is.

mod rank;
mod rhythm;
mod window;

use rank::Rank;
use rhythm::Rhythm;
use window::{Roughness, Step, Window};

/// The score from which a value is an alarm.
pub const ALARM: f64 = 0.5;

/// A streaming detector. A row is what a series has at one time; rows need not be evenly spaced.
pub struct Detector {
    rows: u32,
    last: f64,
    last_jump: f64,
    /// Levels with a short and a long memory.
    fast: f64,
    slow: f64,
    rhythm: Rhythm,
    off_beat: Window,
    unexplained: [Window; 2],
    spread: [Window; 3],
    level: [Step; 3],
    roughness: [Roughness; 3],
    ranks: Vec<Rank>,
    envelope: Envelope,
}

impl Default for Detector {
    fn default() -> Self {
        Self {
            rows: 0,
            last: 0.0,
            last_jump: 0.0,
            fast: 0.0,
            slow: 0.0,
            rhythm: Rhythm::default(),
            off_beat: Window::new(20),
            unexplained: [3, 10].map(Window::new),
            spread: [12, 40, 160].map(Window::new),
            level: [20, 40, 80].map(Step::new),
            roughness: [12, 30, 80].map(Roughness::new),
            ranks: std::iter::repeat_with(Rank::default).take(SIGNALS).collect(),
            envelope: Envelope::default(),
        }
    }
}

impl Detector {
    /// The score of the next value, from 0 to 1. `seconds` counts from any midnight: of the time, only that of day counts.
    pub fn score(&mut self, seconds: f64, value: f64) -> f64 {
        let rarities = self.rarities(seconds, value);
        self.heard(&rarities)
    }

    /// How rare each size of the next value is, in powers of ten and in the order of [`NAMES`]; zero while there is too little to
    /// tell. What is said of the value follows from these and from those before: [`Self::heard`].
    pub fn rarities(&mut self, seconds: f64, value: f64) -> [f64; SIGNALS] {
        let value = if value.is_finite() { value.clamp(-LARGEST, LARGEST) } else { self.last };
        if self.rows == 0 {
            [self.last, self.fast, self.slow] = [value; 3];
        }
        let (warm, mut rarities) = (self.rows >= WARM_UP, self.signals(seconds, value));
        for (rarity, rank) in rarities.iter_mut().zip(&mut self.ranks) {
            let ranked = rank.rarity(*rarity);
            *rarity = if warm { ranked } else { 0.0 };
        }
        self.rows = self.rows.saturating_add(1);
        rarities
    }

    /// The score of the value that these were told of last.
    pub fn heard(&mut self, rarities: &[f64; SIGNALS]) -> f64 {
        let rarest = rarities.iter().copied().fold(0.0, f64::max);
        let rarity = self.envelope.passed(rarest - AGE * (f64::from(self.rows) / ROWS_OF_NO_AGE).log10());
        rarity / (rarity + ALARMING_RARITY)
    }

    /// Sizes, each of one way to be unusual. A size below zero is none: the other side's business.
    fn signals(&mut self, seconds: f64, value: f64) -> [f64; SIGNALS] {
        let outlier = value - self.fast;
        let jump = value - self.last;
        let bend = jump - self.last_jump;
        let beat = self.rhythm.push(seconds, value);
        self.off_beat.push(beat.off_beat);
        let [widest, high, low] = {
            for window in &mut self.spread {
                window.push(value);
            }
            let longest = &self.spread[2];
            [longest.max() - longest.min(), longest.max() - self.slow, self.slow - longest.min()]
        };
        let unexplained = self.unexplained.each_mut().map(|window| {
            window.push(beat.unexplained);
            window.mean().abs()
        });
        let level = self.level.each_mut().map(|step| step.push(value).abs());
        let roughness = self.roughness.each_mut().map(|roughness| roughness.push(value));
        let [short, middle, _] = self.spread.each_ref().map(|window| window.max() - window.min());
        self.last = value;
        self.last_jump = jump;
        let row = f64::from(self.rows) + 1.0;
        self.fast += outlier / row.min(70.0);
        self.slow += (value - self.slow) / row.min(2000.0);
        [
            outlier,
            -outlier,
            jump.abs(),
            bend.abs(),
            self.off_beat.mean().abs(),
            unexplained[0],
            unexplained[1],
            short,
            middle,
            widest,
            high,
            low,
            level[0],
            level[1],
            level[2],
            roughness[0],
            roughness[1],
            roughness[2],
        ]
    }
}

/// What is left to hear after an alarm: only what is rarer still, until the alarm has faded.
#[derive(Default)]
struct Envelope {
    height: f64,
    fall: f64,
}

impl Envelope {
    fn passed(&mut self, rarity: f64) -> f64 {
        self.height = (self.height - self.fall).max(0.0);
        let heard = if rarity > self.height { rarity.max(0.0) } else { 0.0 };
        let raised = rarity * MARGIN;
        if raised > self.height {
            self.height = raised;
            self.fall = raised / ROWS_TO_FADE;
        }
        heard
    }
}

const SIGNALS: usize = NAMES.len();

/// What the sizes are of; a number is that of rows.
pub const NAMES: [&str; 18] = [
    "above",
    "below",
    "jump",
    "bend",
    "off_beat",
    "unexplained_3",
    "unexplained_10",
    "range_12",
    "range_40",
    "range_160",
    "highest",
    "lowest",
    "level_20",
    "level_40",
    "level_80",
    "roughness_12",
    "roughness_30",
    "roughness_80",
];

/// Rows before anything is called unusual.
const WARM_UP: u32 = 50;

/// The rarity of an alarm, in powers of ten: once in about a thousand rows, in a series of a thousand.
const ALARMING_RARITY: f64 = 2.98;

/// How much rarer a value has to be for each tenfold of the series' age, so that alarms are few a series, not a row.
const AGE: f64 = 0.6;
const ROWS_OF_NO_AGE: f64 = 1000.0;

/// By how much a repeat must beat the last alarm, and how long that takes to fade.
const MARGIN: f64 = 1.15;
const ROWS_TO_FADE: f64 = 300.0;

/// Sums over windows of such values are still finite.
const LARGEST: f64 = 1e300;

#[cfg(test)]
mod tests;
