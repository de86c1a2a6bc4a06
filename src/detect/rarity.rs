//! How rare a finding is, by what its signal yields for its token: a score that means the same for every signal.
//!
//! ```text
//!  prior: as of so many days of other tokens ─┐
//!  findings of quiet days, how strong each ───┴▶ rate, tail ─▶ chance of thirty days without any as strong ─▶ score
//! ```
//!
//! Findings come at a rate that differs from token to token (gamma), and are stronger than what it takes to be told by a power law
//! (its exponent gamma too): both learn from each day, and the chance of none is exact for what is known of them, however little.
//!
//! Invariant: a finding is judged by the days before its own, and one day counts once, however often it is told.

use super::anomaly::{Finding, Signal};
use super::baseline::DAY;
use super::memory::kept;

/// What a token's signals have yielded.
#[derive(Clone, Debug)]
pub struct Rarity {
    /// The day up to which it was counted, since 1970, and how many days have counted.
    day: u32,
    days: f32,
    yields: [Yield; SIGNALS],
}

/// Of one signal.
#[derive(Clone, Copy, Default, Debug)]
struct Yield {
    /// Days that brought something, and how strong that was: the sum of logarithms.
    count: f32,
    logarithms: f32,
    /// The strongest of today; 0 where there is none.
    today: f32,
}

impl Rarity {
    pub fn new(now: u64) -> Self {
        Self { day: day_of(now), days: 0.0, yields: [Yield::default(); SIGNALS] }
    }

    /// Gives a finding its score, and counts it with this day.
    pub fn judge(&mut self, finding: &mut Finding, now: u64) {
        self.pass_to(day_of(now));
        finding.score = self.score(finding);
        let of_signal = &mut self.yields[finding.signal as usize];
        of_signal.today = of_signal.today.max(finding.strength as f32);
    }

    /// The chance that thirty quiet days bring nothing of its signal that is as strong.
    fn score(&self, finding: &Finding) -> f64 {
        let (one, prior) = (self.yields[finding.signal as usize], prior(finding.signal));
        let (count, logarithms) = (f64::from(one.count), f64::from(one.logarithms));
        // What happens or does not is as strong as any.
        let as_strong = if finding.is_fact {
            1.0
        } else {
            let scale = KNOWN_TAIL / prior.steepness + logarithms;
            (scale / (scale + finding.strength.max(1.0).ln())).powf(KNOWN_TAIL + count)
        };
        let days = prior.days + f64::from(self.days);
        (days / (days + MONTH * as_strong)).powf(prior.count + count)
    }

    /// Ends the days before this one.
    fn pass_to(&mut self, day: u32) {
        let passed = day.saturating_sub(self.day);
        // What comes late is of the day before, which has counted; where a clock was ahead, so have its days.
        if passed > 0 || self.day - day > 1 {
            self.day = day;
        }
        if passed == 0 {
            return;
        }
        let kept = KEPT_A_DAY.powf(passed as f32);
        self.days = self.days * kept + KEPT_A_DAY * (1.0 - kept) / (1.0 - KEPT_A_DAY);
        for one in &mut self.yields {
            if one.today > 0.0 {
                one.count += 1.0;
                one.logarithms += one.today.max(1.0).ln();
                one.today = 0.0;
            }
            one.count *= kept;
            one.logarithms *= kept;
        }
    }
}

/// The score of a finding of a token of which nothing is known.
pub fn unknown(finding: &Finding) -> f64 {
    Rarity::new(0).score(finding)
}

/// As of so many findings in so many days: less than one says that tokens differ much. And the power by which findings are rarer
/// the stronger they are.
struct Prior {
    count: f64,
    days: f64,
    steepness: f64,
}

/// From four hundred quiet lives of `tests/detection/world.rs`, with seeds of their own. Those knew figures of how much alone: of the
/// rest it is taken that a month in a hundred brings one, which is more than they say.
const fn prior(signal: Signal) -> Prior {
    match signal {
        Signal::Burst | Signal::FanOut => Prior { count: 0.5, days: 110.0, steepness: 4.0 },
        Signal::Volume => Prior { count: 0.5, days: 110.0, steepness: 10.0 },
        Signal::Tripwire => Prior { count: 0.01, days: 300.0, steepness: 4.0 },
        _ => Prior { count: 0.1, days: 300.0, steepness: 4.0 },
    }
}

fn day_of(seconds: u64) -> u32 {
    u32::try_from(seconds / DAY).unwrap_or(u32::MAX)
}

const SIGNALS: usize = Signal::ALL.len();

/// What a score is about, in days.
const MONTH: f64 = 30.0;

/// As of how many findings it is known ahead how strong they are.
const KNOWN_TAIL: f64 = 8.0;

/// Half of what was seen is forgotten in ninety days.
const KEPT_A_DAY: f32 = 0.992_327;

kept!(Rarity { day, days, yields });
kept!(Yield { count, logarithms, today });

#[cfg(test)]
mod tests {
    use super::super::memory::Kept as _;
    use super::*;

    fn burst(strength: f64) -> Finding {
        Finding::new(Signal::Burst, strength, "many requests".to_owned())
    }

    /// The score of a finding on such a day.
    fn score(rarity: &mut Rarity, mut finding: Finding, day: u64) -> f64 {
        rarity.judge(&mut finding, day * DAY);
        finding.score
    }

    #[test]
    fn the_stronger_it_is_the_rarer() {
        let scores = [1.0, 1.2, 2.0, 5.0, 12.0].map(|strength| burst(strength).score);
        assert!(scores.is_sorted() && scores[0] > 0.8 && scores[3] > 0.995, "{scores:?}");
        let fact = Finding::fact(Signal::NewMethod, 2.5, "first DELETE".to_owned());
        assert!((0.985..0.995).contains(&fact.score), "{}", fact.score);
    }

    #[test]
    fn what_a_token_does_every_ten_days_is_no_rare_thing_of_it() {
        let (mut often, mut never) = (Rarity::new(0), Rarity::new(0));
        for day in (10..200).step_by(10) {
            score(&mut often, burst(1.5), day);
        }
        let [usual, larger] = [1.0, 8.0].map(|strength| score(&mut often.clone(), burst(strength), 200));
        let first = score(&mut never, burst(1.4), 200);
        assert!(usual < 0.3 && larger > 0.9 && first > 0.98, "{usual} {larger} {first}");
        let other = Finding::new(Signal::Errors, 1.4, "refusals".to_owned());
        assert!(score(&mut often, other, 200) > 0.99, "that is another signal");
    }

    #[test]
    fn a_finding_is_judged_by_the_days_before_its_own_which_counts_once() {
        let mut rarity = Rarity::new(0);
        let scores = [(); 3].map(|()| score(&mut rarity, burst(1.4), 50));
        assert_eq!(scores[0].to_bits(), scores[2].to_bits());
        let mut once = Rarity::new(0);
        score(&mut once, burst(1.4), 50);
        let after = [&mut rarity, &mut once].map(|rarity| score(rarity, burst(1.4), 51));
        assert_eq!(after[0].to_bits(), after[1].to_bits());
        assert!(after[0] < scores[0]);
    }

    #[test]
    fn a_midnight_is_one_however_late_some_of_what_came_before_it_is_told() {
        let [mut late, mut in_order] = [(); 2].map(|()| Rarity::new(0));
        for day in [50, 51, 50, 51, 50, 51] {
            score(&mut late, burst(1.4), day);
        }
        for day in [50, 51] {
            score(&mut in_order, burst(1.4), day);
        }
        let after = [&mut late, &mut in_order].map(|rarity| score(rarity, burst(1.4), 52));
        assert_eq!(after[0].to_bits(), after[1].to_bits());
    }

    #[test]
    fn it_is_forgotten_in_a_year_or_two_and_kept_over_a_restart() {
        let mut rarity = Rarity::new(0);
        for day in 1..20 {
            score(&mut rarity, burst(1.4), day);
        }
        let mut page = Vec::new();
        rarity.put(&mut page);
        let mut restored = Rarity::take(&mut &page[..]).expect("it was kept");
        let soon = [&mut rarity, &mut restored].map(|rarity| score(rarity, burst(1.4), 21));
        assert_eq!(soon[0].to_bits(), soon[1].to_bits());
        assert!(soon[0] < 0.3 && score(&mut rarity, burst(1.4), 800) > 0.9, "{soon:?}");
    }
}
