//! Taking tokens out of use, and letting them in again.
//!
//! ```text
//! restrain   slot: no reader gets it any more ─▶ barrier: every worker has let go, and disk ─▶ acknowledged
//! release    the trail has it ─▶ disk ─▶ slot
//! ```
//!
//! Invariants: what is acknowledged here has been let go of everywhere; nothing is let in that the trail has not; a
//! restraint is its token's name's, and outlives the settings under which it was put, and the process.

use std::collections::BTreeMap;
use std::sync::{self, Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::MutexGuard;

use super::force::InForce;
use super::house::House;
use super::keep::Keeping;
use super::precedence::Precedence;
use crate::access::request::Digest;
use crate::admin::NotDone;
use crate::audit::{Event, Recorder, Unavailable};
use crate::barrier::Barrier;
use crate::name::TokenName;
use crate::proxy::Cut;
use crate::seal::Label;
use crate::store::{Record, Refused, Store, StoreError};
use crate::token::revocation::Cause;
use crate::token::{NotReleased, Order, Restraint, Token};

/// What the records of this are called in the store.
const KIND: &str = "restraint";

/// Ended grants that are remembered of one token, at most.
const MOST_ENDED: usize = 256;

/// What is taken out of use, and the barrier behind which nobody has it.
pub(super) struct Restraints {
    list: Mutex<BTreeMap<TokenName, Kept>>,
    pub barrier: Arc<Barrier<Cut>>,
    keeping: Keeping,
    /// Two who act on tokens do so one after the other.
    acting: tokio::sync::Mutex<()>,
    precedence: Precedence,
}

/// What is kept of a token that was taken out of use. One does not take the other's place: another grant lets in nothing that
/// nobody has released.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Kept {
    restraint: Option<Restraint>,
    /// The terms of the grants that were ended, the last ones last: whatever else is asked for on the same terms lets nothing in.
    ended: Vec<Digest>,
}

impl Kept {
    fn restrained(restraint: Restraint) -> Self {
        Self { restraint: Some(restraint), ended: Vec::new() }
    }

    fn is_worth_keeping(&self) -> bool {
        *self != Self::default()
    }
}

impl Restraints {
    /// Reads what was taken out of use before. Of a record that cannot be trusted, its name can: that token is out of use.
    /// Blocks.
    ///
    /// # Errors
    /// When the folder of the records cannot be read.
    pub fn open(store: Arc<Store>, barrier: Arc<Barrier<Cut>>, recorder: &Recorder) -> Result<Self, StoreError> {
        let (records, mut refused) = store.read(KIND)?;
        let mut list = BTreeMap::new();
        for Record { name, content, .. } in records {
            match (name.parse::<TokenName>(), serde_json::from_slice::<Kept>(&content)) {
                (Ok(token), Ok(kept)) => drop(list.insert(token, kept)),
                (Ok(_), Err(_)) | (Err(_), _) => refused.push(store.refuse(Label { kind: KIND, name: &name })),
            }
        }
        for Refused { path, name, why } in refused {
            let (file, reason) = (path.display().to_string(), why.to_string());
            tracing::error!(file, reason, "what was taken out of use stays so: the record of it is not used");
            recorder.note(Event::StateRejected { file, reason });
            if let Ok(token) = name.parse::<TokenName>() {
                list.insert(token, Kept::restrained(Restraint::Quarantined));
            }
        }
        Ok(Self {
            list: Mutex::new(list),
            barrier,
            keeping: Keeping::new(store, KIND),
            acting: tokio::sync::Mutex::default(),
            precedence: Precedence::default(),
        })
    }

    pub fn of(&self, token: &TokenName) -> Option<Restraint> {
        self.list().get(token)?.restraint
    }

    /// Whether a grant of these terms was ended.
    pub fn is_retired(&self, token: &TokenName, terms: Option<&Digest>) -> bool {
        let list = self.list();
        terms.is_some_and(|terms| list.get(token).is_some_and(|kept| kept.ended.contains(terms)))
    }

    /// Grants of these terms have ended, for good.
    fn end(&self, token: &TokenName, terms: impl Iterator<Item = Digest>) {
        let mut list = self.list();
        let ended = &mut list.entry(token.clone()).or_default().ended;
        for terms in terms {
            if !ended.contains(&terms) {
                ended.push(terms);
            }
        }
        let surplus = ended.len().saturating_sub(MOST_ENDED);
        ended.drain(..surplus);
    }

    /// The turn of whoever takes tokens out of use, or puts others in their place.
    pub async fn first_turn(&self) -> MutexGuard<'_, ()> {
        let _first = self.precedence.first();
        self.acting.lock().await
    }

    /// The turn of whoever lets tokens in again: when nobody takes any out of use.
    async fn turn(&self) -> MutexGuard<'_, ()> {
        loop {
            // The lock is fair: whoever waits for it has it next.
            let turn = self.acting.lock().await;
            if !self.precedence.is_wanted() {
                return turn;
            }
        }
    }

    fn list(&self) -> sync::MutexGuard<'_, BTreeMap<TokenName, Kept>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts on the disk what is kept of a token, or that nothing is.
    async fn keep(&self, name: &TokenName) -> Result<(), NotDone> {
        let kept = self.kept(name);
        self.keeping.keep(name.as_str(), kept.as_ref()).await
    }

    /// A token is let in again: on the disk, and then here.
    async fn lift(&self, name: &TokenName) -> Result<(), NotDone> {
        let stays = self.kept(name);
        let lifted = stays.clone().map(|kept| Kept { restraint: None, ..kept }).filter(Kept::is_worth_keeping);
        self.keeping.lift(name.as_str(), lifted.as_ref(), stays.as_ref()).await?;
        if let Some(kept) = self.list().get_mut(name) {
            kept.restraint = None;
        }
        Ok(())
    }

    fn kept(&self, name: &TokenName) -> Option<Kept> {
        self.list().get(name).cloned().filter(Kept::is_worth_keeping)
    }
}

impl House {
    /// Takes a token out of use until it is released. Nobody has it any more when this succeeds.
    pub(super) async fn restrain(&self, name: &TokenName, restraint: Restraint, order: Order) -> Result<(), NotDone> {
        let _turn = self.restraints.first_turn().await;
        let token = self.token(name)?;
        token.control.restrain(restraint, order).await?;
        // A quarantine takes nothing from a revocation.
        if self.restraints.of(name) != Some(Restraint::Revoked) {
            self.restraints.list().entry(name.clone()).or_default().restraint = Some(restraint);
        }
        match restraint {
            // Nobody will ever use again what was replaced already.
            Restraint::Quarantined => self.let_go_of(name, Cause::Retired).await,
            Restraint::Revoked => self.let_go_for_good(name, Cause::Revoked).await,
        }
    }

    /// Lets a token in again.
    pub(super) async fn release(&self, name: &TokenName, order: Order) -> Result<(), NotDone> {
        loop {
            match self.try_release(name, order.clone()).await {
                Err(NotDone::Trail(Unavailable::GivenUp)) => {}
                outcome => return outcome,
            }
        }
    }

    async fn try_release(&self, name: &TokenName, order: Order) -> Result<(), NotDone> {
        let _turn = self.restraints.turn().await;
        self.token(name)?;
        let is_restrained = self.restraints.of(name).is_some();
        let (holds, watching) = (&self.ground.holds, &self.ground.watching);
        if !is_restrained && !holds.is_held(name.as_str(), None) && !watching.is_open(name) {
            return Err(NotReleased::Unrestrained.into());
        }
        let Order { by, reason, since: _ } = order;
        let released = vec![Event::TokenReleased { token: name.clone(), by, reason }];
        let recorded = self.ground.recorder.record_all(released, self.restraints.precedence.wanted()).await?;
        let mut is_something_in = false;
        let outcome = self.let_in(name, is_restrained, &mut is_something_in).await;
        if outcome.is_err() && !is_something_in {
            self.ground.recorder.not_done(recorded);
        }
        outcome
    }

    /// What the trail has: the token, and then what of it is held back from clients. Tells whether something of it is let in,
    /// also where the rest fails.
    async fn let_in(&self, name: &TokenName, is_restrained: bool, is_something_in: &mut bool) -> Result<(), NotDone> {
        let token = self.token(name)?;
        if is_restrained {
            self.restraints.lift(name).await?;
            // A restart would let it in.
            *is_something_in = true;
            token.control.release().await?;
        }
        for client in self.ground.holds.holding(name) {
            self.ground.holds.release_token(&client, name).await?;
            *is_something_in = true;
        }
        self.ground.watching.released(name);
        Ok(())
    }

    /// Ends a token's grant. Nobody has it any more when this succeeds.
    pub(super) async fn retire(&self, name: &TokenName) -> Result<(), NotDone> {
        let _turn = self.restraints.first_turn().await;
        let token = self.token(name)?;
        token.retire().await;
        let register = self.desk.register();
        let entitlement = register.entitlement(name);
        let grants = entitlement.standing.into_iter().chain(entitlement.submitted);
        self.restraints.end(name, grants.map(|case| case.request.terms()));
        self.let_go_for_good(name, Cause::Retired).await
    }

    /// Takes out of use those of new tokens whose names were taken out of use since they were made.
    pub(super) async fn hold_back(&self, tokens: &BTreeMap<TokenName, Arc<Token>>, force: &InForce) {
        for (name, token) in tokens {
            if let Some(restraint) = self.restraints.of(name) {
                let order =
                    Order { by: "reload".to_owned(), reason: "it was out of use before".to_owned(), since: None };
                // One whose grant has ended needs none.
                let _ = token.control.restrain(restraint, order).await;
            }
            if self.restraints.is_retired(name, force.grants.get(name)) {
                token.retire().await;
            }
        }
    }

    /// Has every worker let go, of those too whose successors are in force already, and writes it down meanwhile.
    async fn let_go_of(&self, name: &TokenName, cause: Cause) -> Result<(), NotDone> {
        for token in self.replaced(name) {
            token.control.step_down(cause).await;
        }
        let (passed, kept) =
            tokio::join!(self.restraints.barrier.pass(Cut::Token(name.clone())), self.restraints.keep(name));
        kept?;
        Ok(passed?)
    }

    /// As [`Self::let_go_of`], of what does not rest on the disk any more either.
    async fn let_go_for_good(&self, name: &TokenName, cause: Cause) -> Result<(), NotDone> {
        let (gone, scrubbed) = tokio::join!(self.let_go_of(name, cause), self.ground.resting.scrub(name));
        gone?;
        scrubbed.map_err(|error| NotDone::Unkept(error.to_string()))
    }

    fn token(&self, name: &TokenName) -> Result<Arc<Token>, NotDone> {
        self.tokens().get(name).cloned().ok_or(NotDone::NoToken)
    }
}
