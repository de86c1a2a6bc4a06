//! The review of access: what tokens are used for, what of their privilege is not, and when somebody has to look at it.
//!
//! ```text
//!  Stream of uses ─▶ books (templates, rules, clients) ─┐
//!  tokens, routes, rules ───────────────────────────────┼─▶ report ─▶ JSON, text, Markdown, HTML
//!  schedule, reviews done ──────────────────────────────┘      └▶ metrics
//! ```
//!
//! Invariant: a report says no more than is known, and the policy that it proposes allows nothing that is not allowed now.

pub mod book;
pub mod books;
pub mod page;
pub mod report;
pub mod schedule;
mod template;
mod tighter;

pub use books::{Books, Pen};
pub use report::{Entry, Facts, Figure, Kind, Life, Reach, Report, Sums};
pub use schedule::{Memory, Settings};
