//! The last few values of a series, in the order they came and by size.

use std::collections::VecDeque;

pub struct Window {
    length: usize,
    came: VecDeque<f64>,
    sorted: Vec<f64>,
}

impl Window {
    pub fn new(length: usize) -> Self {
        Self { length, came: VecDeque::with_capacity(length), sorted: Vec::with_capacity(length) }
    }

    pub fn push(&mut self, value: f64) {
        if self.came.len() == self.length
            && let Some(oldest) = self.came.pop_front()
        {
            self.sorted.remove(self.sorted.partition_point(|other| *other < oldest));
        }
        self.came.push_back(value);
        self.sorted.insert(self.sorted.partition_point(|other| *other < value), value);
    }

    /// These are zero for a window of nothing.
    pub fn max(&self) -> f64 {
        self.sorted.last().copied().unwrap_or_default()
    }

    pub fn min(&self) -> f64 {
        self.sorted.first().copied().unwrap_or_default()
    }

    pub fn mean(&self) -> f64 {
        self.came.iter().sum::<f64>() / self.came.len().max(1) as f64
    }

    pub fn median(&self) -> f64 {
        let length = self.sorted.len();
        match (self.sorted.get(length.saturating_sub(1) / 2), self.sorted.get(length / 2)) {
            (Some(lower), Some(upper)) => 0.5 * (lower + upper),
            _ => 0.0,
        }
    }
}

/// By how much the mean of the last values differs from that of as many before them.
pub struct Step {
    now: Window,
    /// Means of the window in the past; before there are as many, the first value stands in.
    past: VecDeque<f64>,
}

impl Step {
    pub fn new(length: usize) -> Self {
        Self { now: Window::new(length), past: VecDeque::with_capacity(length) }
    }

    pub fn push(&mut self, value: f64) -> f64 {
        if self.past.is_empty() {
            self.past.extend(std::iter::repeat_n(value, self.now.length));
        }
        self.now.push(value);
        let mean = self.now.mean();
        let before = self.past.pop_front().unwrap_or(mean);
        self.past.push_back(mean);
        mean - before
    }
}

/// How far values typically lie from the typical value: medians, which one outlier does not move.
pub struct Roughness {
    values: Window,
    distances: Window,
}

impl Roughness {
    pub fn new(length: usize) -> Self {
        Self { values: Window::new(length), distances: Window::new(length) }
    }

    pub fn push(&mut self, value: f64) -> f64 {
        self.values.push(value);
        self.distances.push((value - self.values.median()).abs());
        self.distances.median()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_the_last_values_alone() {
        let mut window = Window::new(3);
        for value in [9.0, 1.0, 1.0, 5.0] {
            window.push(value);
        }
        assert_eq!((window.min(), window.median(), window.max()), (1.0, 1.0, 5.0));
        assert!((window.mean() - 7.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn a_step_is_seen_whole_and_then_forgotten() {
        let mut step = Step::new(4);
        let seen: Vec<f64> = (0..16).map(|row| step.push(if row < 8 { 1.0 } else { 3.0 })).collect();
        assert_eq!(seen[7], 0.0);
        assert_eq!(seen[11], 2.0);
        assert_eq!(seen[15], 0.0);
    }

    #[test]
    fn one_outlier_does_not_make_a_series_rough() {
        let mut roughness = Roughness::new(12);
        for row in 0..100 {
            let rough = roughness.push(if row == 50 { 1e6 } else { f64::from(row % 2) });
            assert!(rough <= 1.0, "{rough}");
        }
    }
}
