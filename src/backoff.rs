//! Delays between attempts: doubling, capped, with jitter. Pure: the caller brings the randomness.

use std::time::Duration;

/// From `first`, doubling to `most`.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub first: Duration,
    pub most: Duration,
}

impl Backoff {
    /// The delay after `failures` failures in a row (1 for the first): at least three quarters of the doubled one, never
    /// below `first`, never above `most`. `random` is in `0.0..1.0`.
    pub fn delay(self, failures: u32, random: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let full = self.first.saturating_mul(1 << doublings).min(self.most);
        full.mul_f64(0.75 + 0.25 * random).max(self.first.min(full))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };

    #[test]
    fn delays_double_up_to_the_cap() {
        let delays: Vec<u64> = (1..=9).map(|n| BACKOFF.delay(n, 1.0).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(BACKOFF.delay(u32::MAX, 1.0), Duration::from_secs(60));
    }

    #[test]
    fn jitter_shortens_by_at_most_a_quarter_and_never_below_the_first() {
        assert_eq!(BACKOFF.delay(3, 0.0), Duration::from_secs(3));
        assert_eq!(BACKOFF.delay(1, 0.0), Duration::from_secs(1));
    }
}
