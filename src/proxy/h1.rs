//! HTTP/1.1 (RFC 9112), read strictly and written plainly, towards clients and towards upstreams.
//!
//! ```text
//!  client ─▶ lines ─▶ head ─▶ Inbound ─▶ Proxy::handle ─▶ write ─▶ Outbound ─▶ upstream
//!         ◀─ write ◀─ framing ◀───────────────────────── framing ◀─ head ◀─ lines ◀─┘
//! ```
//!
//! `lines` finds the end of a head, `head` gives the bytes their meaning, `framing` tells where a body ends, `write` puts heads
//! together again: all four are functions over bytes, without sockets. A connection is one task, which reads and writes for
//! itself; what it reads into is taken from [`Buffers`] when bytes come, and given back when it rests.
//!
//! Invariants: a message whose end could be read in two ways is refused. A body that fails half-way never looks complete at
//! the other side. Nothing is read of the next message before this one is over, but what fits a buffer.

mod buffers;
mod framing;
mod head;
mod inbound;
mod lines;
mod outbound;
mod pump;
mod write;

pub use buffers::Buffers;
pub use head::Request;
pub use inbound::{Answering, Asked, BrokenOff, Inbound, InboundBody};
pub use outbound::{Failed, Inflow, Lost, Outbound, Unsent, Upgraded};
pub use write::Date;
