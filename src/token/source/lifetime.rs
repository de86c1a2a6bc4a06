//! When a token ends, as far as the token itself or its issuer says so.

use std::time::Duration;

use super::{Failure, Reason};
use crate::clock::{MAX_LIFE, Moment};
use crate::secret::Secret;

/// How long a token is believed to live when its issuer does not say.
pub const ASSUMED_LIFE: Duration = Duration::from_secs(15 * 60);

/// Why a time is no end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoEnd {
    NotATime,
    Passed,
}

/// When something ends that says so by a time (RFC 3339): its life counts from when it was asked for.
///
/// # Errors
/// When it is no time, or has passed by the wall clock.
pub fn end_told(time: &str, asked_at: Moment, now: Moment) -> Result<Moment, NoEnd> {
    let time: jiff::Timestamp = time.parse().map_err(|_| NoEnd::NotATime)?;
    let end = Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0));
    if end <= now.wall {
        return Err(NoEnd::Passed);
    }
    Ok(asked_at.after(end.saturating_sub(asked_at.wall).min(MAX_LIFE)))
}

/// The `exp` of a token that is a JWT; `None` for any other, and for a JWT without one.
///
/// # Errors
/// When it has passed by the wall clock.
pub fn jwt_end(token: &Secret, now: Moment) -> Result<Option<Moment>, Failure> {
    let claims = token.jwt_claims();
    let Some(exp) = claims.as_ref().and_then(|claims| claims.get("exp")).and_then(serde_json::Value::as_f64) else {
        return Ok(None);
    };
    // The cast takes negative numbers for zero, and what is too large for the largest.
    let end = Duration::from_secs(exp as u64);
    let left = end.saturating_sub(now.wall);
    if left.is_zero() {
        let detail = "the token is a JWT whose `exp` has passed: if it is new, compare the clocks of this machine and its issuer";
        return Err(Failure::transient(Reason::Expired, detail));
    }
    Ok(Some(now.after(left.min(MAX_LIFE))))
}
