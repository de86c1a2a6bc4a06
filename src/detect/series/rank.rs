//! How rare a size is among the sizes before it, whatever they measure.

/// A histogram of past sizes, by their magnitude, that forgets slowly.
pub struct Rank {
    /// Weights grow instead of the old ones shrinking: adding one entry touches one bin.
    bins: Box<[f32; BINS]>,
    /// Past the highest bin that was ever reached: there is nothing to count from here on.
    end: usize,
    total: f64,
    weight: f64,
}

impl Default for Rank {
    fn default() -> Self {
        Self { bins: Box::new([0.0; BINS]), end: 0, total: 0.0, weight: 1.0 }
    }
}

impl Rank {
    /// The size's rarity in powers of ten: 3 for what one in a thousand of those before reached. Then it counts as one of
    /// them. Sizes below zero are none.
    pub fn rarity(&mut self, size: f64) -> f64 {
        if size.is_nan() || size < 0.0 {
            return 0.0;
        }
        let place = place(size);
        let bin = place as usize;
        let entries = self.total / self.weight;
        let rarity = if entries > FEWEST { self.tail(place, bin, entries) } else { 0.0 };
        self.add(bin);
        rarity
    }

    fn tail(&self, place: f64, bin: usize, entries: f64) -> f64 {
        let reached = &self.bins[..self.end];
        let above: f64 = reached.iter().skip(bin + 1).map(|weight| f64::from(*weight)).sum();
        // Entries of its own bin are taken as spread over it.
        let beside = f64::from(self.bins[bin]) * (1.0 - (place - bin as f64));
        let share = ((above + beside) / self.weight + 0.5) / (entries + 1.0);
        let highest = reached.iter().rposition(|weight| f64::from(*weight) > FORGOTTEN * self.weight).unwrap_or(0);
        let beyond = (place - highest as f64 - 1.0).max(0.0) / BINS_AN_OCTAVE;
        -share.log10() + (RARITY_AN_OCTAVE * beyond).min(MOST_BEYOND)
    }

    fn add(&mut self, bin: usize) {
        self.weight *= GROWTH;
        self.bins[bin] += self.weight as f32;
        self.end = self.end.max(bin + 1);
        self.total += self.weight;
        if self.weight > LARGEST_WEIGHT {
            for weight in self.bins.iter_mut() {
                *weight = (f64::from(*weight) / self.weight) as f32;
            }
            self.total /= self.weight;
            self.weight = 1.0;
        }
    }
}

/// The bin of a size, and how far into it.
fn place(size: f64) -> f64 {
    if size == 0.0 {
        return 0.0;
    }
    (((size + SMALLEST).log2() + OCTAVES / 2.0) * BINS_AN_OCTAVE).clamp(0.0, BINS as f64 - 2.0)
}

const BINS_AN_OCTAVE: f64 = 4.0;
const OCTAVES: f64 = 80.0;
const BINS: usize = 320;
const SMALLEST: f64 = 1e-12;

/// Entries before a rank means anything.
const FEWEST: f64 = 20.0;

/// Each new entry weighs this much more than the one before: half of an entry is forgotten after some 7000 others.
const GROWTH: f64 = 1.0 / 0.9999;
const LARGEST_WEIGHT: f64 = 1e3;

/// A bin with less than this part of an entry does not count as reached.
const FORGOTTEN: f64 = 0.2;

/// What is added beyond the largest size ever seen, where counting ends: for each doubling, and at most.
const RARITY_AN_OCTAVE: f64 = 0.5;
const MOST_BEYOND: f64 = 2.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_in_a_thousand_reached_has_rarity_three() {
        let mut rank = Rank::default();
        for entry in 0..1000 {
            rank.rarity(if entry == 500 { 100.0 } else { 1.0 });
        }
        let rarity = rank.rarity(50.0);
        assert!((2.7..3.1).contains(&rarity), "{rarity}");
        assert!(rank.rarity(1.0) < 0.4);
    }

    #[test]
    fn the_rank_of_a_size_does_not_depend_on_its_unit() {
        let sizes: Vec<f64> = (0..500).map(|row: i32| f64::from(row * 37 % 101) + 1.0).collect();
        let last = |unit: f64| {
            let mut rank = Rank::default();
            for size in &sizes {
                rank.rarity(size * unit);
            }
            rank.rarity(120.0 * unit)
        };
        // A power of two keeps sizes at their place within a bin.
        assert!((last(1.0) - last(1024.0)).abs() < 1e-6);
    }

    #[test]
    fn a_record_is_rarer_the_further_it_lies_beyond_and_up_to_a_limit() {
        let beyond = |size: f64| {
            let mut rank = Rank::default();
            for _ in 0..1000 {
                rank.rarity(1.0);
            }
            rank.rarity(size)
        };
        assert!(beyond(8.0) > beyond(3.0) + 0.4);
        assert!(beyond(1e30) < 3.4 + MOST_BEYOND);
        assert_eq!(beyond(f64::NAN), 0.0);
        assert!(beyond(f64::INFINITY).is_finite());
    }

    #[test]
    fn weights_start_again_before_they_are_too_large() {
        let mut rank = Rank::default();
        for _ in 0..80_000 {
            rank.rarity(1.0);
        }
        let entries = rank.total / rank.weight;
        assert!((9_000.0..10_100.0).contains(&entries), "{entries}");
        assert!((3.5..7.0).contains(&rank.rarity(64.0)));
    }
}
