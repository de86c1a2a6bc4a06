//! What the machine is told, and what it has its supervisor do.

use super::{Live, Offer};
use crate::clock::Moment;
use crate::token::probe::Verdict;
use crate::token::source::{Class, Reason};

/// Why a call to the issuer failed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Fault {
    pub reason: Reason,
    pub class: Class,
}

impl Fault {
    /// One that may pass by itself.
    pub(super) fn passing(reason: Reason) -> Self {
        Self { reason, class: Class::Transient { retry_after: None } }
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Input {
    /// Time has passed.
    Timer,
    Answered(Result<Offer, Fault>),
    /// What came of trying the generation that the issuer gave.
    Probed(Verdict),
    /// A request found no usable generation.
    Demand,
    /// An operator, or the demo, wants a new generation now.
    Rotate,
    /// The source has noticed that it has something else to give.
    Changed,
    /// An upstream answered 401 to this generation.
    Rejected {
        generation: u64,
    },
    /// An upstream accepted the live generation.
    Accepted,
    /// Requests of several clients say that upstreams refuse this generation, and took the one before.
    RollBack {
        generation: u64,
    },
    /// Somebody takes the token out of use, and keeps its generation.
    Quarantine,
    /// Somebody voids all generations.
    Revoke,
    /// What was quarantined or revoked may be used again.
    Release,
    /// The config does not hold the token any more, or somebody ends the grant.
    Retire,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Effect {
    /// Ask the issuer; the answer comes back as [`Input::Answered`].
    Call,
    /// Ask the source to move to; the answer comes back in the same way.
    CallNext,
    /// Try the offered value, or the same again; the answer comes back as [`Input::Probed`].
    Probe {
        number: u64,
    },
    /// Make the offered value the live generation. `replaces` is the number of the one before it, live or expired.
    Publish {
        live: Live,
        replaces: Option<u64>,
        cause: Cause,
    },
    /// Make the generation before the live one live again.
    RollBack {
        live: Live,
        replaces: u64,
        restores: u64,
    },
    /// The live generation ends later than it did.
    Prolong {
        live: Live,
    },
    /// The offered value is the live one: nothing changes.
    Unchanged,
    /// The call failed, or what it gave was refused and is void from the start, or nobody has answered for that yet; requests
    /// that wait for a generation need not wait for the next attempt.
    Failed {
        fault: Fault,
        attempt: u32,
        retry_at: Moment,
    },
    /// The source to move to gave nothing, or nothing that is good: the one in use stays, or is in use again.
    NotMoved {
        /// `None`: upstreams refused what it gave.
        fault: Option<Fault>,
        attempt: u32,
        again: Moment,
    },
    /// What it gave has stood, so that its source is the token's from now on; the live generation is of it.
    Moved {
        number: u64,
    },
    /// Requests ask for a generation, so the next attempt comes sooner.
    Sooner {
        retry_at: Moment,
    },
    Expire {
        number: u64,
    },
    /// Take the live generation, if there is one, out of use and keep it.
    Quarantine,
    /// Take the live generation out of use and void all that have not run out.
    Revoke,
    /// Publish the generation that was kept.
    Resume {
        live: Live,
    },
    /// The next generation may be used again; whatever was kept is not.
    Reprovision,
    /// The offered value came too late: it is void from the start.
    Discard,
    Retire {
        number: u64,
    },
}

/// What brought a call to the issuer about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Its time had come.
    Due,
    /// Somebody wanted it.
    Asked,
    /// The source noticed that it has something else to give.
    Changed,
    /// An upstream answered 401 to the generation before.
    Rejected,
}

impl Cause {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Asked => "asked",
            Self::Changed => "changed",
            Self::Rejected => "rejected",
        }
    }
}
