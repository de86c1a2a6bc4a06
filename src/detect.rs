//! Unusual use, told from what was usual before it. Nothing here reads a clock, a file or a socket: time comes with the
//! input, so that the past is judged by the code that judges the present.
//!
//! ```text
//!  event ─▶ Engine ─▶ profile (token, client) ─▶ findings ─▶ Anomaly ─▶ Settings ─▶ Response
//!  timestamp, value ─▶ series::Detector ─▶ score
//! ```
//!
//! Invariant: what is said of an input depends on it and on those before it, never on a later one; and what is kept has a
//! bound that no input moves.

pub mod anomaly;
pub mod event;
pub mod response;
pub mod series;

mod baseline;
mod engine;
mod host;
mod memory;
mod ongoing;
mod profile;
mod rarity;

pub use anomaly::Anomaly;
pub use engine::Engine;
pub use event::Event;
pub use ongoing::QUIET;
