//! What a series does at each time of day, and whether that or its level tells it better.

/// The usual value by time of day, and the usual value.
pub struct Rhythm {
    usual: [f64; SLOTS],
    seen: [u16; SLOTS],
    level: f64,
    rows: u32,
    /// How wrong each of the two has been of late.
    error_by_day: f64,
    error_by_level: f64,
}

/// What a value is beyond what was to be expected.
pub struct Beat {
    /// By the time of day.
    pub off_beat: f64,
    /// By whichever has been right more often.
    pub unexplained: f64,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { usual: [0.0; SLOTS], seen: [0; SLOTS], level: 0.0, rows: 0, error_by_day: 0.0, error_by_level: 0.0 }
    }
}

impl Rhythm {
    pub fn push(&mut self, seconds: f64, value: f64) -> Beat {
        if self.rows == 0 {
            self.level = value;
        }
        self.rows = self.rows.saturating_add(1);
        let slot = ((seconds.rem_euclid(DAY) / DAY * SLOTS as f64) as usize).min(SLOTS - 1);
        let by_level = value - self.level;
        let beat = if self.seen[slot] == 0 {
            Beat { off_beat: by_level, unexplained: by_level }
        } else {
            let by_day = value - self.usual[slot];
            let pace = (1.0 / f64::from(self.rows)).max(ERROR_PACE);
            self.error_by_day += pace * (by_day.abs() - self.error_by_day);
            self.error_by_level += pace * (by_level.abs() - self.error_by_level);
            let unexplained = if self.error_by_day < self.error_by_level { by_day } else { by_level };
            Beat { off_beat: by_day, unexplained }
        };
        self.seen[slot] = self.seen[slot].saturating_add(1);
        let usual = self.usual[slot];
        self.usual[slot] = usual + (value - usual) * (1.0 / f64::from(self.seen[slot])).max(SLOT_PACE);
        self.level += by_level * (1.0 / f64::from(self.rows)).max(LEVEL_PACE);
        beat
    }
}

const DAY: f64 = 86_400.0;
/// Half an hour each.
const SLOTS: usize = 48;
const SLOT_PACE: f64 = 0.2;
const LEVEL_PACE: f64 = 1.0 / 300.0;
const ERROR_PACE: f64 = 0.002;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_beat_is_unexplained_and_a_usual_one_is_not() {
        let mut rhythm = Rhythm::default();
        let daily = |row: u32| if row % 48 < 16 { 100.0 } else { 10.0 };
        for row in 0..48 * 20 {
            rhythm.push(f64::from(row) * 1800.0, daily(row));
        }
        let row = 48 * 20 + 3;
        assert!(rhythm.push(f64::from(row) * 1800.0, daily(row)).unexplained.abs() < 1.0);
        let missing = rhythm.push(f64::from(row + 1) * 1800.0, 10.0);
        assert!(missing.unexplained < -80.0 && missing.off_beat < -80.0, "{}", missing.unexplained);
    }

    #[test]
    fn a_series_without_a_rhythm_is_told_by_its_level() {
        let mut rhythm = Rhythm::default();
        // A period of 1.3 days: the time of day says nothing.
        for row in 0..2000_u32 {
            rhythm.push(f64::from(row) * 1800.0, if row % 62 == 0 { 500.0 } else { 10.0 });
        }
        let usual = rhythm.push(2001.0 * 1800.0, 10.0);
        assert!(usual.unexplained.abs() < 20.0, "{}", usual.unexplained);
    }
}
