//! The sources that a token has generations from: its own, and one that it is to move to, if there is one.
//!
//! Invariant: the one in use is the one that gave what is live.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use crate::name::TokenName;
use crate::token::lifecycle::Plan;
use crate::token::moved::{Moved, Moves};
use crate::token::rest::Rest;
use crate::token::source::{IssuerChange, Source};

/// A source, with what is particular to it.
pub(in crate::token) struct Supply {
    pub(in crate::token) source: Arc<dyn Source>,
    /// What the config says of it, hashed.
    pub(in crate::token) reference: String,
    /// Where what it gives rests.
    pub(in crate::token) rest: Rest,
    pub(in crate::token) plan: Plan,
}

pub(in crate::token) struct Supplies {
    own: Arc<Supply>,
    next: Option<(Arc<Supply>, Moved)>,
    in_use: ArcSwap<Supply>,
    /// What the next one gave has stood.
    has_moved: AtomicBool,
    moves: Arc<Moves>,
    token: TokenName,
}

impl Supplies {
    pub fn new(token: TokenName, own: Supply, next: Option<Supply>, moves: Arc<Moves>) -> Self {
        let own = Arc::new(own);
        let move_to = |next: &Supply| moves.of(&token, own.reference.clone(), next.reference.clone());
        let next = next.map(|next| {
            let moved = move_to(&next);
            (Arc::new(next), moved)
        });
        let has_moved = next.as_ref().is_some_and(|(_, moved)| moved.is_kept());
        let in_use = ArcSwap::from(own.clone());
        let supplies = Self { own, next, in_use, has_moved: AtomicBool::new(has_moved), moves, token };
        supplies.begin();
        supplies
    }

    pub fn in_use(&self) -> Arc<Supply> {
        self.in_use.load_full()
    }

    /// The one that is in use when a life begins.
    pub fn begin(&self) -> Arc<Supply> {
        let next = self.next.as_ref().filter(|_| self.has_moved());
        self.put_in_use(next.map_or(&self.own, |(next, _)| next));
        self.in_use()
    }

    /// Returns whether another one was.
    pub fn put_in_use(&self, supply: &Arc<Supply>) -> bool {
        !Arc::ptr_eq(&self.in_use.swap(supply.clone()), supply)
    }

    pub fn own(&self) -> &Arc<Supply> {
        &self.own
    }

    /// The next one, wherever the move is.
    pub fn next(&self) -> Option<&Arc<Supply>> {
        self.next.as_ref().map(|(next, _)| next)
    }

    /// The next one, as long as it is not the token's for good.
    pub fn to_move_to(&self) -> Option<Arc<Supply>> {
        self.next().filter(|_| !self.has_moved()).cloned()
    }

    pub fn has_moved(&self) -> bool {
        self.has_moved.load(Ordering::Relaxed)
    }

    /// The next one is the token's for good, after a restart too.
    pub fn settle(&self) {
        self.has_moved.store(true, Ordering::Relaxed);
        self.keep_move();
    }

    /// Has the disk know which one is in use after a restart: of a move that others have made nothing is left.
    pub fn keep_move(&self) {
        match &self.next {
            Some((_, moved)) if self.has_moved() => moved.keep(),
            Some(_) | None => self.forget_move(),
        }
    }

    /// Nothing has been moved.
    pub fn forget_move(&self) {
        self.moves.forget(&self.token);
    }

    /// Nothing that any of them gave rests any more.
    pub fn scrub(&self) {
        self.all().for_each(|supply| supply.rest.scrub());
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Supply>> {
        std::iter::once(&self.own).chain(self.next())
    }

    pub fn issuer_changes(&self) -> Vec<IssuerChange> {
        self.all().flat_map(|supply| supply.source.issuer_changes()).collect()
    }
}
