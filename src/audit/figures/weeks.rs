//! Figures week by week, so that it is seen whether they get better: those of the last quarter, as far as the trail goes back.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::{Figure, Measured};
use crate::audit::AccessCounts;

/// Weeks that are kept.
const MOST: usize = 13;

/// What was measured in the last weeks in which something was.
#[derive(Default)]
pub struct Weeks(BTreeMap<Date, OfWeek>);

#[derive(Default)]
struct OfWeek {
    sums: BTreeMap<Figure, Sum>,
    /// The last that was told of it.
    counts: Option<AccessCounts>,
}

/// One figure in one week.
#[derive(Clone, PartialEq, Debug)]
pub struct Week {
    /// Its name in the metrics.
    pub figure: &'static str,
    /// Its Monday, in UTC: `2026-11-16`.
    pub begins: String,
    pub count: u32,
    pub mean: Duration,
    pub worst: Duration,
}

#[derive(Default)]
struct Sum {
    count: u32,
    total: Duration,
    worst: Duration,
}

impl Weeks {
    pub fn add(&mut self, measured: &[Measured]) {
        for Measured { figure, at, took } in measured {
            let sum = self.of(*at).sums.entry(*figure).or_default();
            sum.count = sum.count.saturating_add(1);
            sum.total = sum.total.saturating_add(*took);
            sum.worst = sum.worst.max(*took);
            self.make_room();
        }
    }

    /// How the active tokens stood.
    pub fn stood(&mut self, at: Duration, counts: AccessCounts) {
        self.of(at).counts = Some(counts);
        self.make_room();
    }

    fn of(&mut self, at: Duration) -> &mut OfWeek {
        self.0.entry(monday(at)).or_default()
    }

    fn make_room(&mut self) {
        while self.0.len() > MOST {
            self.0.pop_first();
        }
    }

    /// How the active tokens stood at the end of each week, the oldest first, by its Monday.
    pub fn trend(&self) -> Vec<(String, AccessCounts)> {
        self.0.iter().filter_map(|(begins, week)| Some((begins.to_string(), week.counts?))).collect()
    }

    /// The oldest first; of one week all figures that were measured in it.
    pub fn list(&self) -> Vec<Week> {
        let week = |begins: &Date, figure: &Figure, sum: &Sum| Week {
            figure: figure.as_str(),
            begins: begins.to_string(),
            count: sum.count,
            mean: sum.total / sum.count.max(1),
            worst: sum.worst,
        };
        let weeks = self.0.iter();
        weeks
            .flat_map(|(begins, week_of)| week_of.sums.iter().map(move |(figure, sum)| week(begins, figure, sum)))
            .collect()
    }
}

fn monday(at: Duration) -> Date {
    let second = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    let date = Timestamp::from_second(second).unwrap_or(Timestamp::MAX).to_zoned(TimeZone::UTC).date();
    date.saturating_sub(i64::from(date.weekday().to_monday_zero_offset()).days())
}
