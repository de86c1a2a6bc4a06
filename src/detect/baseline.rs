//! What has been usual, in little room: the most that was seen, which places, how many different ones, since when.

use super::memory::kept;

/// The most that a figure reached, of late. Once it is learned it rises by at most a tenth for each day since it last did, and to
/// twice as much at once, however much is seen: who wants a baseline to take an attack for usual has to go slowly, and for long.
#[derive(Clone, Copy, Default, Debug)]
pub struct Ceiling {
    most: f32,
    /// How far it may rise: a tenth more for each day that it did not.
    limit: f32,
}

impl Ceiling {
    pub fn of(most: f32) -> Self {
        Self { most, limit: most }
    }

    pub fn most(self) -> f64 {
        f64::from(self.most)
    }

    pub fn saw(&mut self, figure: f64, learned: bool) {
        let figure = figure as f32;
        if figure > self.most {
            self.most = if learned { figure.min(self.limit).max(self.most) } else { figure };
            self.limit = self.most;
        }
    }

    pub fn day_ends(&mut self) {
        self.most *= KEPT_A_DAY;
        // A job that runs once a week may grow for a week at once, and nothing for longer.
        self.limit = (self.limit * RISE_A_DAY + 1.0).min(self.most * 2.0 + 8.0);
    }
}

/// For each hour of a working day, and of the days at the end of a week.
#[derive(Clone, Debug)]
pub struct Hours<T>([T; SLOTS]);

impl<T: Copy + Default> Default for Hours<T> {
    fn default() -> Self {
        Self([T::default(); SLOTS])
    }
}

impl<T: Copy> Hours<T> {
    pub fn at(&mut self, slot: Slot) -> &mut T {
        &mut self.0[slot.0]
    }

    /// What is kept for the hour, and for those up to so many hours beside it: rhythms are not punctual.
    pub fn around(&self, slot: Slot, hours: usize) -> impl Iterator<Item = T> {
        let day = slot.0 / 24 * 24;
        (24 - hours..=24 + hours).map(move |other| self.0[day + (slot.0 + other) % 24])
    }

    /// Those of working days, and those of the ends of weeks.
    pub fn kinds(&self) -> [std::slice::Iter<'_, T>; 2] {
        let (weekdays, weekends) = self.0.split_at(24);
        [weekdays.iter(), weekends.iter()]
    }
}

/// An hour of a kind of day, in UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot(usize);

impl Slot {
    pub fn of(seconds: u64) -> Self {
        // 1970 began on a Thursday.
        let weekday = (seconds / DAY + 3) % 7;
        let kind = if weekday >= 5 { 24 } else { 0 };
        Self(kind + usize::try_from(seconds % DAY / HOUR).unwrap_or_default())
    }

    /// As a person names it.
    pub fn name(self) -> String {
        let kind = if self.0 >= 24 { "Saturdays and Sundays" } else { "weekdays" };
        format!("{kind} {:02}:00", self.0 % 24)
    }
}

/// About how many different things there were, within an eighth (Flajolet and others, HyperLogLog).
#[derive(Clone, Debug)]
pub struct Distinct([u8; REGISTERS]);

impl Default for Distinct {
    fn default() -> Self {
        Self([0; REGISTERS])
    }
}

impl Distinct {
    pub fn saw(&mut self, hash: u64) {
        let register = usize::try_from(hash % REGISTERS as u64).unwrap_or_default();
        let run = (hash / REGISTERS as u64).trailing_zeros() as u8 + 1;
        self.0[register] = self.0[register].max(run);
    }

    pub fn count(&self) -> f64 {
        let registers = REGISTERS as f64;
        let sum: f64 = self.0.iter().map(|run| 1.0 / (1_u64 << (*run).min(63)) as f64).sum();
        let empty = self.0.iter().filter(|run| **run == 0).count();
        let raw = 0.709 * registers * registers / sum;
        if raw < 2.5 * registers && empty > 0 { registers * (registers / empty as f64).ln() } else { raw }
    }
}

/// Which things were seen at all (a Bloom filter): it may take a new one for known, never a known one for new.
#[derive(Clone, Debug)]
pub struct Known([u64; WORDS]);

impl Default for Known {
    fn default() -> Self {
        Self([0; WORDS])
    }
}

impl Known {
    /// Whether it is new. It is not from now on.
    pub fn is_new(&mut self, hash: u64) -> bool {
        let mut new = false;
        for part in [hash, hash >> 21, hash >> 42] {
            let bit = usize::try_from(part % (WORDS as u64 * 64)).unwrap_or_default();
            new |= self.0[bit / 64] & (1 << (bit % 64)) == 0;
            self.0[bit / 64] |= 1 << (bit % 64);
        }
        new
    }
}

/// A hash that is the same in every process and version: baselines outlive both (FNV-1a, and a finish that mixes).
pub fn hash(parts: &[&str]) -> u64 {
    parts.iter().fold(Hash::default(), |hash, part| hash.text(part).end()).finish()
}

/// The same, of a text that comes in pieces.
#[derive(Clone, Copy)]
pub struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    #[must_use]
    pub fn text(self, piece: &str) -> Self {
        self.bytes(piece.as_bytes())
    }

    #[must_use]
    pub fn bytes(self, piece: &[u8]) -> Self {
        piece.iter().fold(self, |hash, byte| hash.byte(*byte))
    }

    /// Ends a part: what follows is not taken for more of it.
    #[must_use]
    pub fn end(self) -> Self {
        self.byte(0xff)
    }

    pub fn finish(self) -> u64 {
        let hash = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^ (hash >> 33)
    }

    fn byte(self, byte: u8) -> Self {
        Self((self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

kept!(Ceiling { most, limit });
kept!(Hours<f32> { 0 });
kept!(Hours<u16> { 0 });
kept!(Distinct { 0 });
kept!(Known { 0 });

pub const HOUR: u64 = 3600;
pub const DAY: u64 = 86_400;

/// How far requests come out of order without anything being wrong, in seconds.
pub const OUT_OF_ORDER: u64 = 300;

const SLOTS: usize = 48;
const REGISTERS: usize = 64;
/// 4096 bits: some 500 places before one in twenty new ones is taken for known.
const WORDS: usize = 64;

const RISE_A_DAY: f32 = 1.1;
/// Half of a peak is forgotten in seven weeks.
const KEPT_A_DAY: f32 = 0.986;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learned_ceiling_rises_by_a_tenth_a_day_at_most() {
        let mut ceiling = Ceiling::default();
        ceiling.saw(1000.0, false);
        for _ in 0..7 {
            ceiling.day_ends();
            for _ in 0..1000 {
                ceiling.saw(1e9, true);
            }
        }
        assert!(ceiling.most() < 1000.0 * 1.1_f64.powi(7) + 20.0, "{}", ceiling.most());
        assert!(ceiling.most() > 1500.0);
    }

    #[test]
    fn what_quiet_days_leave_unused_is_saved_for_one_large_day_up_to_twice_as_much() {
        let after = |quiet_days| {
            let mut ceiling = Ceiling::of(1000.0);
            (0..quiet_days).for_each(|_| ceiling.day_ends());
            ceiling.saw(1e9, true);
            ceiling.most()
        };
        assert!((1080.0..1120.0).contains(&after(1)), "{}", after(1));
        assert!((1700.0..2020.0).contains(&after(8)), "{}", after(8));
        assert!(after(60) < 1000.0, "by then most of it is forgotten: {}", after(60));
    }

    #[test]
    fn different_things_are_counted_within_a_third() {
        for many in [1_u32, 10, 100, 1000, 50_000] {
            let mut distinct = Distinct::default();
            for thing in 0..many {
                for _ in 0..2 {
                    distinct.saw(hash(&["thing", &thing.to_string()]));
                }
            }
            let count = distinct.count() / f64::from(many);
            assert!((0.66..1.34).contains(&count), "{many}: {count}");
        }
    }

    #[test]
    fn what_was_seen_is_never_new_again() {
        let mut known = Known::default();
        let new = (0..400).filter(|thing: &u32| known.is_new(hash(&[&thing.to_string()]))).count();
        assert!(new > 380, "{new}");
        assert!(!(0..400).any(|thing: u32| known.is_new(hash(&[&thing.to_string()]))));
    }

    #[test]
    fn an_hour_lies_between_the_two_beside_it_on_the_same_kind_of_day() {
        let mut hours = Hours::default();
        // 2026-11-22 is a Sunday.
        let sunday = Slot::of(1_795_305_600 + 23 * HOUR);
        assert_eq!(sunday.name(), "Saturdays and Sundays 23:00");
        *hours.at(sunday) = 7;
        let around = |seconds, beside| hours.around(Slot::of(seconds), beside).collect::<Vec<_>>();
        assert_eq!(around(1_795_305_600, 1), [7, 0, 0]);
        assert_eq!(around(1_795_305_600 + HOUR, 3), [0, 7, 0, 0, 0, 0, 0]);
        assert_eq!(around(1_795_305_600 + 2 * DAY, 1), [0, 0, 0]);
    }
}
