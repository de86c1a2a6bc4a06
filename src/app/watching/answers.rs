//! What is done about unusual use that takes its time: tokens are taken out of use, people are asked, holds are kept and lifted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::{Deed, LOOK};
use crate::access::approval::State;
use crate::access::request::{Request, Requester, Until};
use crate::admin::clients::Clients;
use crate::admin::{NotDone, Pending};
use crate::app::force;
use crate::app::holds::{Measure, SELF};
use crate::app::house::{House, nonce};
use crate::detect::QUIET;
use crate::name::{ClientName, TokenName};
use crate::token::{Order, Restraint};

/// How long the grant lasts that approves of a use. Nothing ends with it.
const ASKED_FOR: Duration = Duration::from_secs(3600);

/// What people read of the use that they are asked about, in characters.
const LONGEST_REASON: usize = 180;

/// A token is replaced once in so long: no app drives its issuer by what it does.
const REPLACED_FOR: Duration = Duration::from_secs(3600);

/// Tokens that are replaced, which takes as long as their issuers take.
#[derive(Default)]
struct Replacing {
    tasks: JoinSet<()>,
    last: BTreeMap<TokenName, Duration>,
}

impl Replacing {
    fn begin(&mut self, house: &Arc<House>, token: TokenName, order: Order) {
        let now = house.ground.clock.now().wall;
        self.last.retain(|_, at| now < *at + REPLACED_FOR);
        if self.last.contains_key(&token) {
            return;
        }
        self.last.insert(token.clone(), now);
        let house = house.clone();
        self.tasks.spawn(async move {
            let reason = order.reason.clone();
            match house.replace(&token, order).await {
                Ok(done) => {
                    let (generation, replaced) = (done.generation, done.replaced);
                    tracing::warn!(%token, replaced, generation, reason, "the token is replaced for unusual use");
                }
                Err(error) => tracing::error!(%token, reason, %error, "replacing the token for unusual use failed"),
            }
        });
    }
}

impl House {
    /// Follows lives, and does what is to be done about unusual use, for ever.
    pub(in crate::app) async fn watch(self: Arc<Self>) {
        let watching = &self.ground.watching;
        let mut replacing = Replacing::default();
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    watching.look(&self.tokens());
                    self.follow_holds().await;
                }
                () = watching.ordered.notified() => {}
                Some(_) = replacing.tasks.join_next() => {}
            }
            while let Some((token, deed, order)) = watching.next_order() {
                match deed {
                    Deed::Quarantine => self.quarantine(&token, order).await,
                    Deed::Replace => replacing.begin(&self, token, order),
                    Deed::Approval(client) => self.ask_about(&token, &client, order).await,
                }
            }
            let unkept = std::mem::take(&mut watching.lock().unkept);
            for client in unkept {
                self.cut_off(&client).await;
                if let Err(error) = self.ground.holds.keep(&client).await {
                    tracing::error!(%client, %error, "what is held back from a client is not kept");
                }
            }
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
    async fn ask_about(&self, token: &TokenName, client: &ClientName, order: Order) {
        if self.ground.holds.is_asked(client, token) {
            return;
        }
        let Some(request) = self.request_about(token, client, &order.reason).await else { return };
        let (id, reason) = (request.digest().id(), order.reason.clone());
        if self.ground.holds.put(client, &Measure::Approval(token.clone(), id), order) {
            self.ground.watching.lock().unkept.insert(client.clone());
        }
        if let Err(error) = self.ask_people(request).await {
            tracing::error!(%token, %client, reason, %error, "nobody can be asked about unusual use: countersign tokens release");
        }
    }

    /// The request for no more than is granted, so that nothing but the hold depends on it.
    async fn request_about(&self, token: &TokenName, client: &ClientName, reason: &str) -> Option<Request> {
        let definition = force::definition(&self.running_config().await, token)?;
        let said: String = format!("unusual use by {client}: {reason}").chars().take(LONGEST_REASON).collect();
        Some(Request {
            nonce: Some(nonce()),
            reason: said,
            requester: Requester::Operator { groups: BTreeSet::new(), name: SELF.to_owned() },
            routes: BTreeMap::new(),
            until: Until::For(ASKED_FOR),
            ..definition.standing
        })
    }

    /// Lets in what people have approved, and whoever asks for no more than is usual.
    async fn follow_holds(&self) {
        let (holds, register, now) = (&self.ground.holds, self.desk.register(), self.ground.clock.now().wall);
        for (client, token, request) in holds.asked() {
            let done = match register.case(request).map(|case| &case.state) {
                Some(State::Granted { by, .. }) => holds.approved(&client, &token, by).await,
                Some(State::Denied { .. } | State::Ended { .. }) => holds.denied(&client, &token).await,
                Some(State::Pending) | None => Ok(()),
            };
            self.say_if_not(&client, &token, done);
        }
        for (client, token, last_refused) in holds.throttled() {
            let is_calm = now >= last_refused + Duration::from_secs(QUIET);
            if is_calm && !self.ground.watching.goes_on(&token, &client) {
                let done = holds.is_calm(&client, &token).await;
                if done.is_ok() {
                    self.ground.watching.is_calm(&token, &client);
                }
                self.say_if_not(&client, &token, done);
            }
        }
    }

    fn say_if_not(&self, client: &ClientName, token: &TokenName, done: Result<(), NotDone>) {
        if let Err(error) = done {
            tracing::warn!(%client, %token, %error, "what is held back from a client stays so: it is tried again");
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
