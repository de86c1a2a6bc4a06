//! Which figures are unusual: each is weighed against the most before, at such a time where a client keeps hours.

use std::fmt::Arguments;

use super::sums::Sums;
use super::{FEW, Profile, WEEK, weekday};
use crate::detect::anomaly::{Finding, Signal};
use crate::detect::baseline::{Ceiling, DAY, Hours, Slot};

impl Profile {
    pub(super) fn rates(&self, usual: &Self, now: u64, caution: f64, found: &mut Vec<Finding>) {
        if now - self.first < DAY || self.requests <= FEW {
            return;
        }
        let caution = if self.learned(now) { caution } else { caution * unlearned(now - self.first) };
        let mut scale = Scale { caution, found };
        let day = self.day();
        self.bursts(usual, now, &day, &mut scale);
        let some = f64::from(self.bytes) * SOME_ANSWERS;
        for (span, sums, most, times, few) in [
            ("a minute", &self.minute, &usual.most_a_minute, 3.0, 8.0),
            ("an hour", &self.hour, &usual.most_an_hour, 2.0, 12.0),
            ("a day", &day, &usual.most_a_day, 1.5, 20.0),
        ] {
            let (received, sent) = (most.downloaded.most(), most.uploaded.most());
            scale.weigh(
                Signal::Volume,
                format_args!("bytes received in {span}"),
                sums.downloaded,
                received,
                times,
                some,
            );
            scale.weigh(Signal::Volume, format_args!("bytes sent in {span}"), sums.uploaded, sent, times, some);
            scale.weigh(
                Signal::Errors,
                format_args!("refusals in {span}"),
                sums.errors,
                most.errors.most(),
                times,
                few,
            );
            let deletions = most.deletions.most();
            scale.weigh(
                Signal::Burst,
                format_args!("deletions in {span}"),
                sums.deletions,
                deletions,
                times,
                few / 2.0,
            );
        }
        let (places, most) = (day.new_places, usual.most_a_day.new_places.most());
        scale.weigh(Signal::NewPlace, format_args!("new places in a day"), places, most, 2.0, 6.0);
        for (span, resources, most) in [
            ("an hour", &self.resources[0], usual.most_resources[0]),
            ("a day", &self.resources[1], usual.most_resources[1]),
        ] {
            let what = format_args!("different resources in {span}");
            scale.weigh(Signal::FanOut, what, resources.count() as f32, most.most(), 1.8, 25.0);
        }
    }

    fn bursts(&self, usual: &Self, now: u64, day: &Sums, scale: &mut Scale<'_>) {
        let slot = Slot::of(now);
        let (minute, hour) = usual.of_hour(now);
        let (name, most) = (slot.name(), usual.most_a_day.requests.most());
        // What failed comes again, as far as there was something to do.
        let owed = |usual: f64, some: f64| some + f64::from(self.owed).min(usual + some);
        let mut weigh = |what: Arguments<'_>, figure, usual, times, some| {
            scale.weigh(Signal::Burst, what, figure, usual, times, some);
        };
        weigh(format_args!("requests in a minute, {name}"), self.minute.requests, minute, 2.5, 12.0);
        weigh(format_args!("requests in an hour, {name}"), self.hour.requests, hour, 2.0, owed(hour, 40.0));
        weigh(format_args!("requests in a day"), day.requests, most, 1.6, owed(most, 100.0));
    }

    /// The most requests of a minute and of an hour at such a time.
    fn of_hour(&self, now: u64) -> (f64, f64) {
        let slot = Slot::of(now);
        let age = now.saturating_sub(self.first);
        let is_regular = age >= 2 * WEEK && self.regularity() >= STEADY;
        let most = self.most_an_hour.requests.most();
        let around = |hours: &Hours<f32>, most: Ceiling| {
            let near = f64::from(hours.around(slot, 1).fold(0.0, f32::max));
            // Whoever keeps no hours may do at any of them much of what it does at all.
            let wide = if is_regular { hours.around(slot, 3).fold(0.0, f32::max).into() } else { most.most() };
            near.max(0.6 * wide)
        };
        let minute = around(&self.minutes, self.most_a_minute.requests);
        let hour = around(&self.hours, self.most_an_hour.requests);
        // What is done on one day of the week is not usual on another.
        let day = f64::from(self.days[weekday(now)]);
        if is_regular && age >= WEEKS && day * 4.0 < most { (minute.min(day), hour.min(day)) } else { (minute, hour) }
    }
}

/// Where figures are weighed against what was usual.
struct Scale<'a> {
    caution: f64,
    found: &'a mut Vec<Finding>,
}

impl Scale<'_> {
    /// Unusual is what exceeds the most before so many times, and by some more that small figures may vary.
    fn weigh(&mut self, signal: Signal, what: Arguments<'_>, figure: f32, usual: f64, times: f64, some: f64) {
        let limit = (times * usual + some) * self.caution;
        let figure = f64::from(figure);
        if figure > limit {
            let said = if usual >= 1.0 {
                format!("{figure:.0} {what}, {:.1}x the most before", figure / usual)
            } else {
                format!("{figure:.0} {what}, none before")
            };
            self.found.push(Finding::new(signal, figure / limit, said));
        }
    }
}

/// How much more it takes before all is learned: the less the longer, but a weekly job may still come.
fn unlearned(seconds: u64) -> f64 {
    let days = seconds as f64 / DAY as f64;
    (1.0 + 5.0 * 0.5_f64.powf((days - 1.0) / 1.5)).max(2.0)
}

/// By so many usual answers a volume may vary.
const SOME_ANSWERS: f64 = 50.0;

/// Each day of the week has been seen so often that what it lacks is lacking.
const WEEKS: u64 = 3 * WEEK;

/// And from which on each of them has a most of its own.
const STEADY: f32 = 0.6;
