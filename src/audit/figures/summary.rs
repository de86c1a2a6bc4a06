//! Figures of a whole trail: all of it, and week by week, so that it is seen whether they get better.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::Serialize;

use super::{Figure, Figures, Measured, Told};
use crate::audit::{Archive, ArchiveError};

/// All figures of a trail, by the name of each in the metrics. One that was never measured is not there.
#[derive(Clone, Default, PartialEq, Debug, Serialize)]
pub struct Summary(pub BTreeMap<&'static str, Trend>);

/// One figure.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Trend {
    pub whole: Sum,
    /// Those in which something was measured, the oldest first.
    pub weeks: Vec<Week>,
}

/// One figure in one week.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Week {
    /// Its Monday, in UTC: `2026-11-16`.
    pub begins: String,
    #[serde(flatten)]
    pub sum: Sum,
}

/// How often something was measured, and what came of it.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Sum {
    pub count: usize,
    pub median_seconds: f64,
    pub worst_seconds: f64,
}

/// The figures of the trail in a folder, as of the end of its records.
///
/// # Errors
/// When the folder cannot be read, or is not what was written.
pub fn summary(archive: &Archive) -> Result<Summary, ArchiveError> {
    let (mut figures, mut measured) = (Figures::default(), Vec::new());
    let mut records = archive.records(0)?;
    while let Some((_, json)) = records.take_next()? {
        if let Some(told) = Told::read(json) {
            measured.extend(figures.see(&told));
        }
    }
    Ok(Summary::of(&measured))
}

impl Summary {
    pub fn of(measured: &[Measured]) -> Self {
        let trend = |figure| {
            let mut weeks: BTreeMap<Date, Vec<Duration>> = BTreeMap::new();
            for one in measured.iter().filter(|one| one.figure == figure) {
                weeks.entry(monday(one.at)).or_default().push(one.took);
            }
            let whole = Sum::of(weeks.values().flatten().copied().collect())?;
            let weeks = weeks
                .into_iter()
                .filter_map(|(begins, took)| Some(Week { begins: begins.to_string(), sum: Sum::of(took)? }));
            Some((figure.as_str(), Trend { whole, weeks: weeks.collect() }))
        };
        Self(Figure::ALL.into_iter().filter_map(trend).collect())
    }
}

impl Sum {
    fn of(mut took: Vec<Duration>) -> Option<Self> {
        took.sort_unstable();
        let worst = took.last()?.as_secs_f64();
        // Of two in the middle, the longer one.
        let median = took[took.len() / 2].as_secs_f64();
        Some(Self { count: took.len(), median_seconds: median, worst_seconds: worst })
    }
}

fn monday(at: Duration) -> Date {
    let second = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    let date = Timestamp::from_second(second).unwrap_or(Timestamp::MAX).to_zoned(TimeZone::UTC).date();
    date.saturating_sub(i64::from(date.weekday().to_monday_zero_offset()).days())
}
