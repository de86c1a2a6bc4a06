//! Time, injected. Two clocks are read together: the boot clock counts the time that the machine was suspended and never
//! jumps; the wall clock is the one that issuers mean. A deadline has passed as soon as either says so.

use std::sync::Mutex;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// One reading of both clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// Since boot, suspension included.
    pub boot: Duration,
    /// Since 1970-01-01T00:00:00Z.
    pub wall: Duration,
}

impl Moment {
    pub fn after(self, delay: Duration) -> Self {
        Self { boot: self.boot.saturating_add(delay), wall: self.wall.saturating_add(delay) }
    }

    /// The earlier reading of `delay` ago; clocks do not go below zero.
    pub fn before(self, delay: Duration) -> Self {
        Self { boot: self.boot.saturating_sub(delay), wall: self.wall.saturating_sub(delay) }
    }

    /// Whether this deadline has come: by either clock.
    pub fn reached(self, now: Moment) -> bool {
        now.boot >= self.boot || now.wall >= self.wall
    }

    /// The time until this deadline: the shorter of what the two clocks say, zero when it has come.
    pub fn remaining(self, now: Moment) -> Duration {
        self.boot.saturating_sub(now.boot).min(self.wall.saturating_sub(now.wall))
    }

    /// The earlier of two deadlines, clock by clock.
    pub fn earlier(self, other: Moment) -> Self {
        Self { boot: self.boot.min(other.boot), wall: self.wall.min(other.wall) }
    }

    /// The later of two deadlines, clock by clock.
    pub fn later(self, other: Moment) -> Self {
        Self { boot: self.boot.max(other.boot), wall: self.wall.max(other.wall) }
    }

    /// The wall clock as an RFC 3339 timestamp in UTC with milliseconds.
    pub fn to_rfc3339(self) -> String {
        let millis = i64::try_from(self.wall.as_millis()).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
        format!("{time:.3}")
    }
}

/// The longest life that is believed. It keeps the arithmetic sound; a rotation's own bound is far shorter.
pub const MAX_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// A life that somebody else names, as far as it is believed.
pub fn believed(seconds: u64) -> Duration {
    Duration::from_secs(seconds).min(MAX_LIFE)
}

/// Who tells the time. `SystemClock` in the product, `ManualClock` where a test moves time itself.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Moment;
}

/// The kernel's clocks.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        let read = |id| {
            let time = clock_gettime(id);
            Duration::new(time.tv_sec.max(0).unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
        };
        Moment { boot: read(ClockId::Boottime), wall: read(ClockId::Realtime) }
    }
}

/// The kernel's clocks, moved by hand: tests make hours pass, or set one clock apart from the other.
#[derive(Default)]
pub struct ManualClock(Mutex<Shift>);

#[derive(Clone, Copy, Default)]
struct Shift {
    boot: Duration,
    wall: Duration,
}

impl ManualClock {
    /// Both clocks go on by `time`, as if it had passed.
    pub fn advance(&self, time: Duration) {
        self.shift(|shift| {
            shift.boot += time;
            shift.wall += time;
        });
    }

    /// The wall clock alone jumps ahead, as when an administrator or NTP sets it.
    pub fn advance_wall(&self, time: Duration) {
        self.shift(|shift| shift.wall += time);
    }

    fn shift(&self, change: impl FnOnce(&mut Shift)) {
        change(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        let shift = *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = SystemClock.now();
        Moment { boot: now.boot + shift.boot, wall: now.wall + shift.wall }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot: u64, wall: u64) -> Moment {
        Moment { boot: Duration::from_secs(boot), wall: Duration::from_secs(wall) }
    }

    #[test]
    fn a_deadline_has_come_when_either_clock_says_so() {
        let deadline = at(100, 1000);
        assert!(!deadline.reached(at(99, 999)));
        assert!(deadline.reached(at(100, 500)), "the wall clock was set back");
        assert!(deadline.reached(at(50, 1000)), "the wall clock was set ahead");
        assert_eq!(deadline.remaining(at(90, 999)), Duration::from_secs(1));
        assert_eq!(deadline.remaining(at(101, 10)), Duration::ZERO);
    }

    #[test]
    fn time_is_written_as_rfc_3339() {
        assert_eq!(at(0, 1_700_000_000).to_rfc3339(), "2023-11-14T22:13:20.000Z");
    }

    #[test]
    fn the_system_clock_runs_on_this_century() {
        let now = SystemClock.now();
        assert!(now.wall > Duration::from_secs(1_600_000_000));
        assert!(SystemClock.now().boot >= now.boot);
    }
}
