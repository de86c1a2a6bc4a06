//! What is done about unusual use that takes its time: tokens are taken out of use, people are asked, holds are kept and lifted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::MissedTickBehavior;

use super::replacing::Attempts;
use super::{Deed, LOOK};
use crate::access::approval::State;
use crate::access::request::{Request, Requester, Until};
use crate::admin::clients::Clients;
use crate::admin::{NotDone, Pending};
use crate::app::force;
use crate::app::holds::{Asking, Measure};
use crate::app::house::{House, nonce};
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::detect::QUIET;
use crate::name::{ClientName, TokenName};
use crate::token::{Order, Restraint};

/// How long the grant lasts that approves of a use. Nothing ends with it.
const ASKED_FOR: Duration = Duration::from_secs(3600);

/// What people read of the use that they are asked about, in characters.
const LONGEST_REASON: usize = 180;

/// How soon what failed is tried again.
const AGAIN: Backoff = Backoff { first: LOOK, most: Duration::from_secs(60) };

/// What does not work now, each said once until it does, and tried again later and later: each attempt may leave records.
struct Troubles {
    clock: Arc<dyn Clock>,
    all: BTreeMap<(ClientName, Option<TokenName>), Trouble>,
}

#[derive(Default)]
struct Trouble {
    failures: u32,
    /// When it is tried again, by the clock that never jumps.
    next: Duration,
}

impl Troubles {
    fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, all: BTreeMap::new() }
    }

    /// Whether it is time to try, again or for the first time.
    fn may_try(&self, client: &ClientName, token: Option<&TokenName>) -> bool {
        let trouble = self.all.get(&(client.clone(), token.cloned()));
        trouble.is_none_or(|trouble| self.clock.now().boot >= trouble.next)
    }

    /// Says it, if it is news. Returns whether it worked.
    fn follow(&mut self, client: &ClientName, token: Option<&TokenName>, done: anyhow::Result<()>, what: &str) -> bool {
        let key = (client.clone(), token.cloned());
        let Err(error) = done else {
            self.all.remove(&key);
            return true;
        };
        let trouble = self.all.entry(key).or_default();
        trouble.failures += 1;
        trouble.next = self.clock.now().boot + AGAIN.delay(trouble.failures, fastrand::f64());
        if trouble.failures == 1 {
            let token = token.map(TokenName::as_str);
            tracing::error!(%client, token, error = format!("{error:#}"), "{what}: it is tried again");
        }
        false
    }
}

impl House {
    /// Follows lives, and does what is to be done about unusual use, for ever.
    pub(in crate::app) async fn watch(self: Arc<Self>) {
        let watching = &self.ground.watching;
        let (mut attempts, mut troubles) = (Attempts::default(), Troubles::new(self.ground.clock.clone()));
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    watching.look(&self.tokens());
                    self.follow_holds(&mut troubles).await;
                    self.go_on_replacing(&mut attempts);
                }
                () = watching.ordered.notified() => {}
                Some(attempt) = attempts.join_next() => {
                    self.replacing_ended(attempt.expect("it does not panic, and nobody cuts it off"));
                }
            }
            while let Some((token, deed, order)) = watching.next_order() {
                match deed {
                    Deed::Quarantine => self.quarantine(&token, order).await,
                    Deed::Replace => self.begin_replacing(&mut attempts, token, order),
                    Deed::Approval(client) => self.ask_about(&token, &client, order, &mut troubles).await,
                }
            }
            self.keep_holds(&mut troubles).await;
        }
    }

    /// Ends what is under way of what is held back from a client now.
    async fn cut_off(&self, client: &ClientName) {
        for cut in self.ground.holds.barred(client) {
            if let Err(error) = self.restraints.barrier.pass(cut).await {
                tracing::error!(%client, %error, "what a client has under way may go on, though it is held back");
            }
        }
    }

    async fn quarantine(&self, token: &TokenName, order: Order) {
        // What is out of use has a cause already.
        if self.restraints.of(token).is_some() {
            return;
        }
        let reason = order.reason.clone();
        match self.restrain(token, Restraint::Quarantined, order).await {
            Ok(()) => {
                tracing::warn!(%token, reason, "the token is quarantined for unusual use: countersign tokens release");
            }
            Err(error) => tracing::error!(%token, reason, %error, "quarantining the token for unusual use failed"),
        }
    }

    /// Holds the token back from the client, and asks people whether it may go on. What cannot be asked is held back all the same.
    async fn ask_about(&self, token: &TokenName, client: &ClientName, order: Order, troubles: &mut Troubles) {
        if self.ground.holds.is_asked(client, token) {
            return;
        }
        let Some(request) = self.request_about(token, client, &order.reason).await else { return };
        if self.ground.holds.put(client, &Measure::Approval(token.clone(), request.digest().id()), order) {
            self.ground.watching.lock().unkept.insert(client.clone());
        }
        let asked = self.ask_people(request).await.map_err(anyhow::Error::from);
        troubles.follow(client, Some(token), asked, "nobody can be asked about unusual use");
    }

    /// There is no request that people could decide: it could not be made, or was lost.
    async fn ask_again(&self, asking: &Asking) -> anyhow::Result<()> {
        let Asking { client, token, reason, .. } = asking;
        let Some(request) = self.request_about(token, client, reason).await else { return Ok(()) };
        self.ground.holds.asks(client, token, request.digest().id()).await?;
        Ok(self.ask_people(request).await?)
    }

    /// The request for no more than is granted, so that nothing but the hold depends on it.
    async fn request_about(&self, token: &TokenName, client: &ClientName, reason: &str) -> Option<Request> {
        let definition = force::definition(&self.running_config().await, token)?;
        let said: String = format!("unusual use by {client}: {reason}").chars().take(LONGEST_REASON).collect();
        Some(Request {
            nonce: Some(nonce()),
            reason: said,
            requester: Requester::Detection,
            routes: BTreeMap::new(),
            until: Until::For(ASKED_FOR),
            ..definition.standing
        })
    }

    /// Lets in what people have approved, and whoever asks for no more than is usual.
    async fn follow_holds(&self, troubles: &mut Troubles) {
        let (holds, register, now) = (&self.ground.holds, self.desk.register(), self.ground.clock.now().wall);
        for asking in holds.asked() {
            let Asking { client, token, request, .. } = &asking;
            if !troubles.may_try(client, Some(token)) {
                continue;
            }
            let done = match register.case(*request).map(|case| &case.state) {
                Some(State::Granted { by, .. }) => {
                    // Before it goes on: what it does then is not told again.
                    self.ground.watching.approve(token, client);
                    let approved = holds.approved(client, token, by).await;
                    approved.map(|()| self.ground.watching.approved(token, client)).map_err(anyhow::Error::from)
                }
                Some(State::Denied { .. } | State::Ended { .. }) => {
                    holds.denied(client, token).await.map_err(anyhow::Error::from)
                }
                Some(State::Pending) => Ok(()),
                None => self.ask_again(&asking).await,
            };
            troubles.follow(client, Some(token), done, "what is held back from a client stays so");
        }
        for (client, token, last_refused) in holds.throttled() {
            let is_calm = now >= last_refused + Duration::from_secs(QUIET);
            let may_try = || troubles.may_try(&client, Some(&token));
            if is_calm && may_try() && !self.ground.watching.goes_on(&token, &client) {
                let done = holds.is_calm(&client, &token).await.map_err(anyhow::Error::from);
                if troubles.follow(&client, Some(&token), done, "what is held back from a client stays so") {
                    self.ground.watching.is_calm(&token, &client);
                }
            }
        }
    }

    /// Puts on the disk what is held back since the last time. What it does not take is kept in mind.
    async fn keep_holds(&self, troubles: &mut Troubles) {
        let unkept = std::mem::take(&mut self.ground.watching.lock().unkept);
        for client in unkept {
            self.cut_off(&client).await;
            if !troubles.may_try(&client, None) {
                self.ground.watching.lock().unkept.insert(client);
                continue;
            }
            let kept = self.ground.holds.keep(&client).await.map_err(anyhow::Error::from);
            if !troubles.follow(&client, None, kept, "what is held back from a client is not kept") {
                self.ground.watching.lock().unkept.insert(client);
            }
        }
    }
}

impl Clients for House {
    fn clients(&self) -> Vec<(ClientName, Vec<Value>)> {
        let tables = self.tables();
        let mut names: Vec<ClientName> = tables.load().clients.names().cloned().collect();
        names.extend(self.ground.holds.clients());
        names.sort();
        names.dedup();
        names.into_iter().map(|name| (name.clone(), self.ground.holds.shown(&name))).collect()
    }

    fn release_client<'a>(
        &'a self,
        client: &'a ClientName,
        by: String,
        reason: String,
    ) -> Pending<'a, Result<(), NotDone>> {
        Box::pin(async move {
            self.ground.holds.release(client, by, reason).await?;
            self.ground.watching.forgive(client);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn what_fails_is_tried_again_later_and_later_and_is_forgotten_when_it_works() {
        let clock = Arc::new(ManualClock::default());
        let mut troubles = Troubles::new(clock.clone());
        let (client, other): (ClientName, ClientName) = ("app".parse().expect("a name"), "b".parse().expect("a name"));
        let mut tries = 0;
        for _ in 0..600 {
            if troubles.may_try(&client, None) {
                tries += 1;
                assert!(!troubles.follow(&client, None, Err(anyhow::anyhow!("no space")), "it is not kept"));
            }
            clock.advance(LOOK);
        }
        assert!((12..=20).contains(&tries), "{tries} times in ten minutes");
        assert!(troubles.may_try(&other, None));
        clock.advance(AGAIN.most);
        assert!(troubles.follow(&client, None, Ok(()), "it is not kept"));
        assert!(troubles.may_try(&client, None) && troubles.all.is_empty());
    }
}
