//! What the whole says of series of many shapes.

use super::*;

/// Five minutes.
const STEP: f64 = 300.0;

/// The scores of a series, row by row.
fn scores(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut detector = Detector::default();
    values.into_iter().enumerate().map(|(row, value)| detector.score(row as f64 * STEP, value)).collect()
}

fn alarms(scores: &[f64]) -> Vec<usize> {
    scores.iter().enumerate().filter(|(_, score)| **score >= ALARM).map(|(row, _)| row).collect()
}

/// Four thousand rows with a daily wave, some noise, and what `change` makes of it.
fn daily(change: impl Fn(usize, f64) -> f64) -> Vec<f64> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..4000)
        .map(|row| {
            let wave = (row as f64 * STEP / 86_400.0 * std::f64::consts::TAU).sin();
            change(row, 100.0 + 40.0 * wave + 4.0 * (random.f64() - 0.5))
        })
        .collect()
}

#[test]
fn what_breaks_a_rhythm_is_an_alarm_at_once() {
    let spike = |row, value| if row == 3000 { value * 3.0 } else { value };
    let silence = |row, value| if (3000..3060).contains(&row) { 0.0 } else { value };
    let level = |row, value| if row >= 3000 { value + 150.0 } else { value };
    for values in [daily(spike), daily(silence), daily(level)] {
        let alarms = alarms(&scores(values));
        assert!(alarms.contains(&3000), "{alarms:?}");
        assert!(alarms.iter().filter(|row| **row < 3000).count() <= 3, "{alarms:?}");
    }
}

#[test]
fn a_series_that_does_what_it_did_is_hardly_ever_alarming() {
    let mut random = fastrand::Rng::with_seed(3);
    let noise: Vec<f64> = (0..4000).map(|_| random.f64()).collect();
    for (name, values, most) in [("daily", daily(|_, value| value), 4), ("noise", noise, 10)] {
        let alarms = alarms(&scores(values));
        assert!(alarms.len() <= most, "{name}: {alarms:?}");
    }
    assert_eq!(alarms(&scores(vec![45.0; 4000])), [] as [usize; 0], "a constant");
}

#[test]
fn a_score_depends_on_nothing_later() {
    let values = daily(|row, value| if row > 2000 { value * 5.0 } else { value });
    assert_eq!(scores(values[..2000].iter().copied()), scores(values.iter().copied())[..2000]);
}

#[test]
fn an_alarm_is_not_repeated_row_by_row() {
    let alarms = alarms(&scores(daily(|row, value| if row >= 3000 { value + 500.0 } else { value })));
    assert!(alarms.iter().filter(|row| (3000..3100).contains(*row)).count() < 15, "{alarms:?}");
}

#[test]
fn odd_values_and_times_leave_the_scores_between_zero_and_one() {
    let odd = [0.0, -0.0, f64::NAN, f64::INFINITY, f64::MIN, f64::MAX, 5e-324, 1e300, -1e300, 1.0];
    let mut detector = Detector::default();
    for row in 0..5000_usize {
        let seconds = if row % 3 == 0 { -1e12 } else { 1e17 * row as f64 };
        let score = detector.score(seconds, odd[row * 7 % odd.len()]);
        assert!((0.0..=1.0).contains(&score), "row {row}: {score}");
    }
}

#[test]
fn a_series_takes_less_than_64_kib() {
    let windows = [20, 3, 10, 12, 40, 160].iter().sum::<usize>() * 16
        + [20, 40, 80].iter().sum::<usize>() * 24
        + [12, 30, 80].iter().sum::<usize>() * 32;
    let ranks = SIGNALS * (320 * size_of::<f32>() + size_of::<Rank>());
    // Deques may hold up to twice what they were asked for.
    let all = size_of::<Detector>() + 2 * windows + ranks;
    assert!(all < 64 * 1024, "{all}");
}
