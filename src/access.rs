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

pub mod approval;
pub mod grants;
pub mod register;
pub mod request;
pub mod risk;
pub mod rule;
pub mod submission;
