//! What detection looks at: one request that was made with a token, or one step of a token's life.

use std::time::Duration;

use serde::Deserialize;

use crate::audit::time_text;
use crate::usage::is_denial;

/// A line of `usage export`.
#[derive(Deserialize, Clone, PartialEq, Default, Debug)]
pub struct Event {
    pub time: Time,
    #[serde(default)]
    pub token: String,
    /// A step of the token's life; without it, this is a request that has ended.
    #[serde(default)]
    pub event: Option<Step>,
    #[serde(default)]
    pub client: String,
    #[serde(default)]
    pub host: String,
    #[serde(default)]
    pub method: String,
    #[serde(default)]
    pub path: String,
    #[serde(default)]
    pub status: u16,
    /// Why the proxy refused it itself.
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub request_bytes: u64,
    #[serde(default)]
    pub response_bytes: u64,
    /// How long it took from then on, in milliseconds.
    #[serde(default, rename = "duration_ms", deserialize_with = "millis")]
    pub duration: Duration,
}

/// Of a number that may have a fraction. One that no clock counts is none.
fn millis<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let millis = f64::deserialize(deserializer)?;
    Ok(Duration::try_from_secs_f64(millis / 1000.0).unwrap_or_default())
}

impl Event {
    /// When it is judged, where others of up to `latest` were before: while it was under way, and not before those. Logs tell
    /// requests in the order in which they began, or in which they ended.
    pub fn judged_at(&self, latest: Time) -> Time {
        self.time.max(latest.min(Time(self.time.0.saturating_add(self.duration))))
    }

    /// Whether it tells of a request, and not of the token.
    pub fn is_use(&self) -> bool {
        self.event.is_none() || self.is_under_way()
    }

    /// Whether the request goes on: its bytes count, and it counts when it ends.
    pub fn is_under_way(&self) -> bool {
        self.event == Some(Step::UnderWay)
    }

    /// Policy said no to it: no host has seen it.
    pub fn is_denied(&self) -> bool {
        is_denial(&self.reason)
    }

    /// The bytes that went to the upstream, and that came from it. What policy said no to never got there: its answer is ours.
    pub fn carried(&self) -> (u64, u64) {
        if self.is_denied() { (0, 0) } else { (self.request_bytes, self.response_bytes) }
    }
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Of no life: bytes of a request that goes on, which no earlier event told.
    UnderWay,
    Issued,
    Rotated,
    Expired,
    Revoked,
    Refused,
    ScopeChanged,
    ExpiryChanged,
    /// Its issuer tells something else of itself than before.
    IssuerChanged,
    /// A phantom key was seen where it cannot be.
    Tripwire,
    /// The app sent a credential of its own.
    Shadow,
    /// One that a newer version writes.
    #[serde(other)]
    Unknown,
}

/// Since the Unix epoch; written in RFC 3339.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Time(pub Duration);

impl Time {
    pub const fn seconds(self) -> u64 {
        self.0.as_secs()
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let time: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        let millis =
            u64::try_from(time.as_millisecond()).map_err(|_| serde::de::Error::custom("a time before 1970"))?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&time_text(self.0))
    }
}
