//! How much of a route a client may use: `50/s burst 100` requests, so many at a time, so long a body.
//!
//! ```text
//! take ─► GCRA on one atomic ─► passes, or Exceeded with the wait
//! ```
//!
//! Invariant: nothing waits here. What is too much is refused, with the time after which it is not.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, num};

use governor::clock::Clock as GovernorClock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::clock::Clock;

/// `limits = { ... }` of a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Requests of one client at a time; `None`: as many as come.
    pub concurrency: Option<NonZeroU32>,
    /// Bytes of a request's body; `None`: it is streamed, however long.
    pub body: Option<u64>,
}

/// `50/s burst 100`, `600/m`, `10/h`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    count: NonZeroU32,
    window: Window,
    /// As many as in a window, if it is not given.
    burst: NonZeroU32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Window {
    Second,
    Minute,
    Hour,
}

/// Why a text is no rate.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RateError {
    #[error("a rate is like \"50/s\", \"600/m\", \"10/h\" or \"50/s burst 100\"")]
    Shape,
    #[error("a rate's numbers are from 1 to {MOST}")]
    Number,
}

/// Far above what one proxy can do in a second, and far from where a quota's arithmetic ends.
const MOST: u32 = 1_000_000;

impl Rate {
    /// One in ten seconds: for what would fill the log.
    pub fn of_log_lines() -> Self {
        let [count, burst] = [6, 1].map(|number| NonZeroU32::new(number).expect("it is not zero"));
        Self { count, window: Window::Minute, burst }
    }

    /// So many an hour, so many of them at once; one at least.
    pub fn hourly(count: u32, burst: u32) -> Self {
        let [count, burst] =
            [count, burst].map(|number| NonZeroU32::new(number.clamp(1, MOST)).expect("it is one at least"));
        Self { count, window: Window::Hour, burst }
    }

    pub fn count(self) -> u32 {
        self.count.get()
    }

    pub fn window(self) -> Duration {
        Duration::from_secs(match self.window {
            Window::Second => 1,
            Window::Minute => 60,
            Window::Hour => 3600,
        })
    }

    fn quota(self) -> Quota {
        let quota = Quota::with_period(self.window() / self.count.get());
        quota.expect("a second by a million is not zero").allow_burst(self.burst)
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (rate, burst) = match text.split_once(" burst ") {
            Some((rate, burst)) => (rate, Some(burst)),
            None => (text, None),
        };
        let (count, window) = rate.split_once('/').ok_or(RateError::Shape)?;
        let window = match window {
            "s" => Window::Second,
            "m" => Window::Minute,
            "h" => Window::Hour,
            _ => return Err(RateError::Shape),
        };
        let count = number(count)?;
        Ok(Self { count, window, burst: burst.map_or(Ok(count), number)? })
    }
}

fn number(text: &str) -> Result<NonZeroU32, RateError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(RateError::Shape);
    }
    let number: Result<NonZeroU32, num::ParseIntError> = text.parse();
    number.ok().filter(|number| number.get() <= MOST).ok_or(RateError::Number)
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let window = match self.window {
            Window::Second => 's',
            Window::Minute => 'm',
            Window::Hour => 'h',
        };
        write!(f, "{}/{window} burst {}", self.count, self.burst)
    }
}

/// The state of one client's rate on one route, shared by all workers. It outlives a reload that leaves the rate as it is.
pub struct RateLimit {
    rate: Rate,
    clock: BootClock,
    limiter: RateLimiter<NotKeyed, InMemoryState, BootClock, NoOpMiddleware<Duration>>,
}

/// Too much was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the rate {rate} is exceeded")]
pub struct Exceeded {
    pub rate: Rate,
    /// Until one more passes.
    pub wait: Duration,
}

impl RateLimit {
    pub fn new(rate: Rate, clock: &Arc<dyn Clock>) -> Self {
        let clock = BootClock(clock.clone());
        Self { rate, limiter: RateLimiter::direct_with_clock(rate.quota(), clock.clone()), clock }
    }

    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes one.
    ///
    /// # Errors
    /// When there are none left.
    pub fn take(&self) -> Result<(), Exceeded> {
        let exceeded = |wait| Exceeded { rate: self.rate, wait };
        self.limiter.check().map_err(|until| exceeded(until.wait_time_from(self.clock.now())))
    }
}

/// The clock that never jumps.
#[derive(Clone)]
struct BootClock(Arc<dyn Clock>);

impl GovernorClock for BootClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.now().boot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn rate(text: &str) -> Rate {
        text.parse().expect("a rate")
    }

    #[test]
    fn a_rate_is_a_number_by_a_unit_and_a_burst() {
        for (text, shown) in [
            ("50/s burst 100", "50/s burst 100"),
            ("600/m", "600/m burst 600"),
            ("10/h burst 1", "10/h burst 1"),
            ("1000000/s", "1000000/s burst 1000000"),
        ] {
            assert_eq!(rate(text).to_string(), shown);
        }
        for text in ["", "50", "50/", "/s", "50/d", "50 / s", "-1/s", "+1/s", "1.5/s", "50/s burst", "50/s burst x"] {
            assert_eq!(text.parse::<Rate>(), Err(RateError::Shape), "{text}");
        }
        for text in ["0/s", "1000001/s", "99999999999/m", "5/s burst 0"] {
            assert_eq!(text.parse::<Rate>(), Err(RateError::Number), "{text}");
        }
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let manual = Arc::new(ManualClock::default());
        let clock: Arc<dyn Clock> = manual.clone();
        let limit = RateLimit::new(rate("2/h burst 3"), &clock);
        assert!((0..3).all(|_| limit.take().is_ok()));
        let exceeded = limit.take().expect_err("too much");
        assert_eq!(exceeded.wait.as_secs(), 1799, "half an hour, less the time that this took");
        manual.advance(Duration::from_secs(1800));
        assert!(limit.take().is_ok());
        assert!(limit.take().is_err());
    }

    #[test]
    fn a_wall_clock_that_jumps_gives_nobody_more() {
        let manual = Arc::new(ManualClock::default());
        let clock: Arc<dyn Clock> = manual.clone();
        let limit = RateLimit::new(rate("1/h"), &clock);
        assert!(limit.take().is_ok());
        manual.advance_wall(Duration::from_secs(86_400));
        assert!(limit.take().is_err());
    }
}
