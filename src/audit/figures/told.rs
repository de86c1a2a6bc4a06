//! The records that figures are made of, as they stand in the trail.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use crate::audit::AccessCounts;

/// One of those records.
#[derive(Deserialize, Debug)]
pub struct Told {
    /// The number of the record.
    pub seq: u64,
    #[serde(deserialize_with = "time")]
    pub(super) time: Duration,
    #[serde(flatten)]
    pub(super) what: What,
}

#[derive(Deserialize, Debug)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum What {
    Start {},
    /// That record does not count.
    NotDone {
        of: u64,
    },
    TokenRequested {
        request: String,
    },
    AccessGranted {
        request: String,
        token: String,
    },
    AccessDenied {
        request: String,
    },
    AccessEnded {
        request: String,
    },
    TokenIssued {
        token: String,
        generation: u64,
        fingerprint: String,
        #[serde(deserialize_with = "time")]
        expires: Duration,
    },
    TokenRotated {
        token: String,
        generation: u64,
        fingerprint: String,
        cause: String,
        #[serde(deserialize_with = "time")]
        expires: Duration,
    },
    TokenProlonged {
        token: String,
        #[serde(deserialize_with = "time")]
        expires: Duration,
    },
    TokenRolledBack {
        token: String,
        generation: u64,
        fingerprint: String,
        #[serde(deserialize_with = "time")]
        expires: Duration,
    },
    TokenFirstUsed {
        token: String,
    },
    TokenExpired {
        token: String,
    },
    TokenRetired {
        token: String,
    },
    TokenQuarantined {
        token: String,
        #[serde(default, deserialize_with = "some_time")]
        since: Option<Duration>,
    },
    TokenRevoked {
        token: String,
        #[serde(default, deserialize_with = "some_time")]
        since: Option<Duration>,
    },
    TokenReleased {
        token: String,
    },
    GenerationRevoked {
        token: String,
        fingerprint: String,
        outcome: String,
    },
    DrillStarted {
        token: String,
        generation: u64,
    },
    ReplacementStarted {
        token: String,
        generation: u64,
        #[serde(default, deserialize_with = "some_time")]
        since: Option<Duration>,
    },
    ReplacementFinished {
        token: String,
        #[serde(default)]
        generation: Option<u64>,
    },
    AccessMeasured(AccessCounts),
    ClientHeld {
        #[serde(deserialize_with = "time")]
        since: Duration,
    },
    DrillFinished {
        token: String,
        /// Absent where nothing was replaced.
        #[serde(default)]
        generation: Option<u64>,
    },
}

/// The events of [`What`]: the others, of which there are many more, need not be read.
const EVENTS: [&str; 23] = [
    "start",
    "not_done",
    "token_requested",
    "access_granted",
    "access_denied",
    "access_ended",
    "token_issued",
    "token_rotated",
    "token_prolonged",
    "token_rolled_back",
    "token_first_used",
    "token_expired",
    "token_retired",
    "token_quarantined",
    "token_revoked",
    "token_released",
    "generation_revoked",
    "replacement_started",
    "replacement_finished",
    "access_measured",
    "client_held",
    "drill_started",
    "drill_finished",
];

impl Told {
    /// A record of the trail, if it is one of these.
    pub fn read(json: &[u8]) -> Option<Self> {
        EVENTS.contains(&event(json)?).then(|| serde_json::from_slice(json).ok())?
    }

    /// When it was written, since the Unix epoch.
    pub fn at(&self) -> Duration {
        self.time
    }

    /// How the active tokens stood, where it tells that.
    pub fn counts(&self) -> Option<AccessCounts> {
        match self.what {
            What::AccessMeasured(counts) => Some(counts),
            _ => None,
        }
    }
}

/// The name of the event, which stands behind what no other text can stand in.
fn event(json: &[u8]) -> Option<&str> {
    const KEY: &[u8] = b"\"event\":\"";
    // `v`, `seq` and `time` come first.
    let head = &json[..json.len().min(160)];
    let begins = head.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let name = &head[begins..];
    let ends = name.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&name[..ends]).ok()
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let stamp: Timestamp = text.parse().map_err(serde::de::Error::custom)?;
    Ok(Duration::from_millis(u64::try_from(stamp.as_millisecond()).unwrap_or_default()))
}

fn some_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    time(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::event::Record;
    use crate::audit::event::tests::samples;

    #[test]
    fn every_record_that_is_read_is_one_that_is_written() {
        let mut read = Vec::new();
        for event in samples() {
            let record = Record { version: 1, seq: 7, time: Duration::from_millis(1_700_000_000_123), event: &event };
            let json = serde_json::to_vec(&record).expect("plain data");
            let told = Told::read(&json);
            let can_be_told = serde_json::from_slice::<Told>(&json).is_ok();
            assert_eq!(told.is_some(), can_be_told, "{} is told, and not in the list", event.name());
            if let Some(told) = told {
                assert_eq!(told.time, record.time);
                read.push(event.name());
            }
        }
        read.sort_unstable();
        let mut events = EVENTS;
        events.sort_unstable();
        assert_eq!(read, events, "one sample of each");
    }
}
