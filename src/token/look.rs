//! How a token stands, for operators: everything but its value.

use std::sync::Arc;

use super::SlotReader;
use super::lifecycle::Restraint;
use super::slot::{Generation, Standing};
use crate::clock::Moment;

/// The states that a token can be in, as `countersign_token_state` has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Pending,
    Denied,
    Provisioning,
    Active,
    Quarantined,
    Revoked,
    Expired,
    Retired,
}

impl State {
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Denied,
        Self::Provisioning,
        Self::Active,
        Self::Quarantined,
        Self::Revoked,
        Self::Expired,
        Self::Retired,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Denied => "denied",
            Self::Provisioning => "provisioning",
            Self::Active => "active",
            Self::Quarantined => "quarantined",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Retired => "retired",
        }
    }
}

/// A token at one moment.
pub struct Look {
    pub state: State,
    /// What is published, usable or not.
    pub generation: Option<Arc<Generation>>,
    /// When the issuer is asked again, where its last answer was none.
    pub retry_at: Option<Moment>,
    /// Whether that answer was none.
    pub is_failing: bool,
    /// Whether the issuer wants somebody to log in again.
    pub wants_login: bool,
}

impl Look {
    pub(super) fn at(reader: &SlotReader, now: Moment) -> Self {
        let (generation, had_one, standing) = reader.look();
        let state = match (&generation, standing) {
            (Some(generation), _) if !generation.usable_until.reached(now) => State::Active,
            (_, Standing::Restrained(Restraint::Quarantined)) => State::Quarantined,
            (_, Standing::Restrained(Restraint::Revoked)) => State::Revoked,
            (_, Standing::Retired | Standing::Followed) => State::Retired,
            (_, Standing::Unapproved(_)) => State::Pending,
            (_, Standing::Denied(_)) => State::Denied,
            (_, Standing::Asking | Standing::Held | Standing::Failing { .. } | Standing::Reauthenticate) if had_one => {
                State::Expired
            }
            (_, Standing::Asking | Standing::Held | Standing::Failing { .. } | Standing::Reauthenticate) => {
                State::Provisioning
            }
        };
        let retry_at = match standing {
            Standing::Failing { retry_at } => Some(retry_at),
            Standing::Asking
            | Standing::Held
            | Standing::Reauthenticate
            | Standing::Restrained(_)
            | Standing::Retired
            | Standing::Followed
            | Standing::Unapproved(_)
            | Standing::Denied(_) => None,
        };
        let is_failing = matches!(standing, Standing::Failing { .. });
        let wants_login = standing == Standing::Reauthenticate;
        Self { state, generation, retry_at, is_failing, wants_login }
    }
}
