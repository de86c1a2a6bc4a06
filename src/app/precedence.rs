//! Who takes something away goes before who lets something in.
//!
//! ```text
//! takes away   first() ─▶ waits for its turn ─▶ has it
//! lets in      has its turn, and waits for something ─▶ wanted() ─▶ gives up, and lines up again
//! ```
//!
//! Invariant: turns are taken in the order in which they are asked for, so that whoever gives its turn up has it again after those
//! who waited.

use tokio::sync::watch;

/// How many wait for their turn to take something away.
pub(super) struct Precedence(watch::Sender<usize>);

/// Somebody who takes something away, until it has its turn.
pub(super) struct First<'p>(&'p Precedence);

impl Default for Precedence {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Precedence {
    /// Somebody is about to wait for its turn to take something away.
    pub(super) fn first(&self) -> First<'_> {
        self.0.send_modify(|waiting| *waiting += 1);
        First(self)
    }

    pub(super) fn is_wanted(&self) -> bool {
        *self.0.borrow() > 0
    }

    /// Waits until somebody takes something away.
    pub(super) async fn wanted(&self) {
        // The sender is here.
        let _ = self.0.subscribe().wait_for(|waiting| *waiting > 0).await;
    }
}

impl Drop for First<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|waiting| *waiting -= 1);
    }
}
