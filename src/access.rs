//! Access requests: who asks for what, how much it risks, who decides, and what is granted.
//!
//! ```text
//! config, operators ─► Request ─► Risk ─► Policy ─► Case: pending, granted, denied, ended ─► Register
//!                         └─ digest: what each decision is bound to      ▲
//!                                       approvers, signed grants ────────┘
//! ```
//!
//! All of it is judgement over facts that are passed in: no route, source, clock, file or socket is known here.
//!
//! Invariant: what asks is granted by nobody but the people that its rule wants.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub mod approval;
pub mod grants;
pub mod register;
pub mod request;
pub mod risk;
pub mod rule;
pub mod submission;

use grants::PublicKey;
use rule::Policy;

/// `[approval]`
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    pub policy: Policy,
    /// By name: whose signed grants count.
    pub signers: BTreeMap<String, PublicKey>,
    /// The folder that signed grants lie in.
    pub grants: Option<PathBuf>,
}

/// What a token's request says besides the token's own settings.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    pub permanent: bool,
    /// Scopes that can be asked for while it runs.
    pub further_scopes: BTreeSet<String>,
    /// The settings of its source, hashed.
    pub source: String,
    /// Of the source that it is to move to.
    pub next_source: Option<String>,
}
