//! When a token ends, as far as the token itself or its issuer says so.

use std::time::Duration;

use super::{Failure, Reason};
use crate::clock::{MAX_LIFE, Moment};
use crate::secret::Secret;

/// How long a token is believed to live when its issuer does not say.
pub const ASSUMED_LIFE: Duration = Duration::from_secs(15 * 60);

/// A time (RFC 3339) by the wall clock; `None` where it is no time.
pub fn ends_at(time: &str) -> Option<Duration> {
    let time: jiff::Timestamp = time.parse().ok()?;
    Some(Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0)))
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
