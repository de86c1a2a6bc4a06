//! Taking tokens out of use, and letting them in again.
//!
//! ```text
//! restrain   slot: no reader gets it any more ─▶ barrier: every worker has let go ─▶ acknowledged ··▶ issuer, until it confirms
//! release    the trail has it ─▶ slot
//! ```
//!
//! Invariants: what is acknowledged here has been let go of everywhere; nothing is let in that the trail has not; a
//! restraint is its token's name's, and outlives the settings under which it was put.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::house::House;
use crate::admin::NotDone;
use crate::audit::Event;
use crate::barrier::Barrier;
use crate::name::TokenName;
use crate::token::{NotReleased, Order, Restraint, Token};

/// What is taken out of use, and the barrier behind which nobody has it.
pub(super) struct Restraints {
    list: Mutex<BTreeMap<TokenName, Restraint>>,
    pub barrier: Arc<Barrier<TokenName>>,
    /// Two who act on tokens do so one after the other.
    acting: tokio::sync::Mutex<()>,
}

impl Restraints {
    pub fn new(barrier: Arc<Barrier<TokenName>>) -> Self {
        Self { list: Mutex::default(), barrier, acting: tokio::sync::Mutex::default() }
    }

    pub fn of(&self, token: &TokenName) -> Option<Restraint> {
        self.list().get(token).copied()
    }

    /// Whoever acts on tokens, or puts others in their place, waits for its turn.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.acting.lock().await
    }

    fn list(&self) -> MutexGuard<'_, BTreeMap<TokenName, Restraint>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl House {
    /// Takes a token out of use until it is released. Nobody has it any more when this succeeds.
    pub(super) async fn restrain(&self, name: &TokenName, restraint: Restraint, order: Order) -> Result<(), NotDone> {
        let _turn = self.restraints.turn().await;
        let token = self.token(name)?;
        // A quarantine takes nothing from a revocation.
        let before = self.restraints.of(name);
        if before != Some(Restraint::Revoked) {
            self.restraints.list().insert(name.clone(), restraint);
        }
        if let Err(gone) = token.control.restrain(restraint, order).await {
            self.restraints.list().remove(name);
            return Err(gone.into());
        }
        self.let_go_of(name).await
    }

    /// Lets a token in again.
    pub(super) async fn release(&self, name: &TokenName, order: Order) -> Result<(), NotDone> {
        let _turn = self.restraints.turn().await;
        let token = self.token(name)?;
        if self.restraints.of(name).is_none() {
            return Err(NotReleased::Unrestrained.into());
        }
        let Order { by, reason } = order;
        self.ground.recorder.record(Event::TokenReleased { token: name.clone(), by, reason }).await?;
        self.restraints.list().remove(name);
        Ok(token.control.release().await?)
    }

    /// Ends a token's grant. Nobody has it any more when this succeeds.
    pub(super) async fn retire(&self, name: &TokenName) -> Result<(), NotDone> {
        let _turn = self.restraints.turn().await;
        self.token(name)?.control.retire().await;
        self.restraints.list().remove(name);
        self.let_go_of(name).await
    }

    /// Takes out of use those of new tokens whose names were taken out of use since they were made.
    pub(super) async fn hold_back(&self, tokens: &BTreeMap<TokenName, Arc<Token>>) {
        for (name, token) in tokens {
            if let Some(restraint) = self.restraints.of(name) {
                let order = Order { by: "reload".to_owned(), reason: "it was out of use before".to_owned() };
                // One whose grant has ended needs none.
                let _ = token.control.restrain(restraint, order).await;
            }
        }
    }

    /// Has every worker let go, of those too whose successors are in force already.
    async fn let_go_of(&self, name: &TokenName) -> Result<(), NotDone> {
        for token in self.replaced(name) {
            token.control.step_down().await;
        }
        Ok(self.restraints.barrier.pass(name.clone()).await?)
    }

    fn token(&self, name: &TokenName) -> Result<Arc<Token>, NotDone> {
        self.tokens().get(name).cloned().ok_or(NotDone::NoToken)
    }
}
