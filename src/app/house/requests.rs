//! Access requests in the running whole: submitted, decided, and put in force; ended when their time comes.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::{self, Arc, PoisonError};
use std::time::Duration;

use tokio::sync::MutexGuard;

use super::{House, Running};
use crate::access::approval::{Case, State, Voter};
use crate::access::register::Register;
use crate::access::request::{Digest, Request, RequestId, Requester, Until, rfc3339};
use crate::access::rule::Role as Quorum;
use crate::access::submission::Wish;
use crate::admin::Pending;
use crate::admin::requests::{Decision, NotDecided, NotSubmitted, Requests};
use crate::app::desk::SettleError;
use crate::app::force;
use crate::app::holds::SELF;
use crate::audit::Unavailable;
use crate::clock::Moment;
use crate::config::Config;
use crate::name::TokenName;
use crate::operator::{Job, Operator, Role};
use crate::proxy::Want;
use crate::secret::Fingerprinter;
use crate::text;

/// How long a grant on top is left out whose generation could not be had, and a change that could not be put in force.
const AGAIN: Duration = Duration::from_secs(5);

/// How often the folder of signed grants is looked at while a request waits.
const LOOK: Duration = Duration::from_secs(2);

/// How long before its end a grant is announced in the log.
const AHEAD: [Duration; 3] = [Duration::from_secs(7 * 86_400), Duration::from_secs(86_400), Duration::from_secs(3600)];

/// What has to be remembered to look after grants.
#[derive(Default)]
pub(super) struct Aside {
    /// Grants on top that could not be had.
    pub ids: BTreeSet<RequestId>,
    until: Option<Moment>,
    /// Something is decided and not in force yet.
    stale: bool,
    not_before: Option<Moment>,
    looked: Option<Moment>,
    /// How often the end of each grant was announced.
    announced: BTreeMap<RequestId, usize>,
}

impl House {
    pub(super) fn aside(&self) -> sync::MutexGuard<'_, Aside> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves out for a while what is granted on top of this token. False if there is nothing to leave out.
    pub(super) fn set_aside(&self, token: &TokenName) -> bool {
        let (register, now) = (self.desk.register(), self.ground.clock.now());
        let mut aside = self.aside();
        let before = aside.ids.len();
        let entitlement = register.entitlement(token);
        aside.ids.extend(entitlement.submitted.iter().map(|case| case.digest.id()));
        aside.until = Some(now.after(AGAIN));
        aside.ids.len() > before
    }

    /// Lets grants end at their time, takes signed ones, and tries again what could not be put in force. Called often.
    pub(in crate::app) async fn look_after_grants(&self) {
        let now = self.ground.clock.now();
        let register = self.desk.register();
        self.announce_ends(&register, now.wall);
        let running = self.running.lock().await;
        if !self.is_due(&register, &running, now) {
            return;
        }
        let outcome = self.follow_grants(running).await;
        let mut aside = self.aside();
        aside.stale = outcome.is_err();
        aside.not_before = None;
        if let Err(error) = outcome {
            aside.not_before = Some(self.ground.clock.now().after(AGAIN));
            tracing::warn!(%error, "what is granted cannot be put in force: it is tried again");
        }
    }

    fn is_due(&self, register: &Register, running: &Running, now: Moment) -> bool {
        let mut aside = self.aside();
        if aside.not_before.is_some_and(|not_before| !not_before.reached(now)) {
            return false;
        }
        if aside.until.is_some_and(|until| until.reached(now)) {
            aside.until = None;
            aside.ids.clear();
        }
        let ends = register.cases().any(|(_, case)| case.ends_at().is_some_and(|end| end <= now.wall));
        let differs = force::on_top(register, now.wall, &aside.ids) != running.on_top;
        let waits = running.config.approval.grants.is_some() && register.pending() > 0;
        let looks = waits && aside.looked.is_none_or(|looked| looked.after(LOOK).reached(now));
        if looks {
            aside.looked = Some(now);
        }
        ends || differs || looks || aside.stale
    }

    /// Says ahead of time that a grant ends: renewing it takes people.
    fn announce_ends(&self, register: &Register, now: Duration) {
        let mut aside = self.aside();
        for (id, case) in register.cases().filter(|(_, case)| !case.request.is_submitted()) {
            let Some(end) = case.ends_at().filter(|end| *end > now) else { continue };
            let passed = AHEAD.iter().filter(|ahead| end.saturating_sub(now) <= **ahead).count();
            if passed > aside.announced.get(&id).copied().unwrap_or_default() {
                aside.announced.insert(id, passed);
                let (token, owner) = (&case.request.token, &case.request.owner);
                tracing::warn!(%token, owner, ends = rfc3339(end), "the token's grant ends soon: renew it, or let it go");
            }
        }
    }

    /// Whoever lets something in has its turn when nobody takes anything away.
    async fn turn(&self) -> MutexGuard<'_, Running> {
        loop {
            // The lock is fair: whoever waits for it has it next.
            let running = self.running.lock().await;
            if !self.taking_away.is_wanted() {
                return running;
            }
        }
    }

    async fn take_wish(&self, wish: Wish, operator: &Operator) -> Result<Case, NotSubmitted> {
        loop {
            match self.try_wish(wish.clone(), operator).await {
                Err(NotSubmitted::Trail(Unavailable::GivenUp)) => {}
                outcome => return outcome,
            }
        }
    }

    async fn try_wish(&self, wish: Wish, operator: &Operator) -> Result<Case, NotSubmitted> {
        let running = self.turn().await;
        let config = running.config.clone();
        let definition = force::definition(&config, &wish.token);
        let definition = definition.ok_or_else(|| NotSubmitted::NoToken(wish.token.clone()))?;
        let mut proposal = self.desk.propose().await;
        let now = self.ground.clock.now().wall;
        proposal.register.pass(now);
        let is_granted = proposal.register.entitlement(&wish.token).standing.is_some();
        let name = operator.name.to_string();
        let requester = match operator.job() {
            None => Requester::Operator { groups: operator.groups.iter().cloned().collect(), name },
            // Whole seconds, as its digest has them.
            Some(Job { subject, ends }) => Requester::Job {
                client: name,
                ends: Until::At(Duration::from_secs(ends.as_secs())),
                subject: subject.clone(),
            },
        };
        let request = wish
            .request(requester, nonce(), &definition, is_granted, |route, rule| force::judge_rule(&config, route, rule))
            .map_err(NotSubmitted::Problems)?;
        let beyond = definition.beyond(&request, is_granted);
        let id = proposal.register.submit(request, &config.approval.policy, beyond, now)?;
        self.desk.record(&mut proposal, self.taking_away.wanted()).await?;
        let case = proposal.register.case(id).cloned();
        self.desk.keep(proposal).await.map_err(|error| NotSubmitted::NotNow(error.to_string()))?;
        let case = case.ok_or_else(|| NotSubmitted::NotNow("the request is over already".to_owned()))?;
        if case.is_granted() {
            self.follow_decision(running).await;
        }
        Ok(case)
    }

    async fn take_approval(
        &self,
        id: RequestId,
        digest: Digest,
        operator: &Operator,
        reason: &str,
    ) -> Result<Case, NotDecided> {
        loop {
            match self.try_approval(id, digest, operator, reason).await {
                Err(NotDecided::Trail(Unavailable::GivenUp)) => {}
                outcome => return outcome,
            }
        }
    }

    async fn try_approval(
        &self,
        id: RequestId,
        digest: Digest,
        operator: &Operator,
        reason: &str,
    ) -> Result<Case, NotDecided> {
        let running = self.turn().await;
        let mut proposal = self.desk.propose().await;
        let now = self.ground.clock.now().wall;
        proposal.register.pass(now);
        let name = operator.name.to_string();
        proposal.register.approve(id, &voter(&name, operator), digest, reason, now)?;
        self.desk.record(&mut proposal, self.taking_away.wanted()).await?;
        let case = proposal.register.case(id).cloned().ok_or(NotDecided::Unknown(id))?;
        self.desk.keep(proposal).await.map_err(|error| NotDecided::NotNow(error.to_string()))?;
        if case.state != State::Pending {
            self.follow_decision(running).await;
        }
        Ok(case)
    }

    /// It is out of use before it is told of: what takes something away waits neither for the trail nor for a disk.
    async fn take_denial(&self, id: RequestId, operator: &Operator, reason: &str) -> Result<Case, NotDecided> {
        let first = self.taking_away.first();
        let mut running = self.running.lock().await;
        let mut proposal = self.desk.propose().await;
        drop(first);
        let now = self.ground.clock.now().wall;
        proposal.register.pass(now);
        let name = operator.name.to_string();
        proposal.register.deny(id, &voter(&name, operator), reason, now)?;
        self.desk.record(&mut proposal, pending()).await?;
        let case = proposal.register.case(id).cloned().ok_or(NotDecided::Unknown(id))?;
        self.desk.show(&mut proposal);
        self.follow_denial(&mut running).await;
        drop(running);
        self.desk.keep(proposal).await.map_err(|error| NotDecided::NotNow(error.to_string()))?;
        Ok(case)
    }

    /// The configuration as it is now. Whoever waits for issuers makes room.
    pub(in crate::app) async fn running_config(&self) -> Config {
        let first = self.taking_away.first();
        let running = self.running.lock().await;
        drop(first);
        running.config.clone()
    }

    /// What this makes of the configuration as it is written. Waits for a swap that is under way.
    pub(in crate::app) async fn written<T>(&self, look: impl FnOnce(&Config) -> T) -> T {
        look(&self.running.lock().await.config)
    }

    /// Opens a request that people decide.
    ///
    /// # Errors
    /// When it cannot be recorded or kept.
    pub(in crate::app) async fn ask_people(&self, request: Request) -> Result<(), SettleError> {
        let config = self.running_config().await;
        loop {
            let mut proposal = self.desk.propose().await;
            let now = self.ground.clock.now().wall;
            proposal.register.ask_people(request.clone(), &config.approval.policy, SELF, now);
            match self.desk.record(&mut proposal, self.taking_away.wanted()).await {
                Err(Unavailable::GivenUp) => {
                    drop(proposal);
                    // The lock is fair: whoever takes something away has it first.
                    drop(self.running.lock().await);
                }
                recorded => {
                    recorded?;
                    return Ok(self.desk.keep(proposal).await?);
                }
            }
        }
    }

    /// A decision stands, whether it can be put in force at this moment or not.
    async fn follow_decision(&self, running: MutexGuard<'_, Running>) {
        if let Err(error) = self.follow_grants(running).await {
            self.aside().stale = true;
            tracing::warn!(%error, "what was decided cannot be put in force yet: it is tried again");
        }
    }

    /// What was denied is out of use when this returns. What others wait for comes after it.
    async fn follow_denial(&self, running: &mut Running) {
        match self.follow_at_once(running).await {
            Ok(is_more_to_come) => self.aside().stale |= is_more_to_come,
            Err(error) => {
                self.aside().stale = true;
                tracing::error!(%error, "what was denied cannot be taken away yet: it is tried again");
            }
        }
    }
}

impl Requests for House {
    fn refused(&self, request_id: &str) -> Option<Want> {
        self.ground.wants.find(request_id)
    }

    fn register(&self) -> Arc<Register> {
        self.desk.register()
    }

    fn submit<'a>(&'a self, wish: Wish, operator: &'a Operator) -> Pending<'a, Result<Case, NotSubmitted>> {
        Box::pin(self.take_wish(wish, operator))
    }

    fn decide<'a>(
        &'a self,
        id: RequestId,
        decision: Decision,
        operator: &'a Operator,
        reason: &'a str,
    ) -> Pending<'a, Result<Case, NotDecided>> {
        Box::pin(async move {
            match decision {
                Decision::Approve(digest) => self.take_approval(id, digest, operator, reason).await,
                Decision::Deny => self.take_denial(id, operator, reason).await,
            }
        })
    }
}

/// An operator, as far as decisions are concerned.
fn voter<'a>(name: &'a str, operator: &'a Operator) -> Voter<'a> {
    Voter {
        name,
        groups: &operator.groups,
        role: Quorum::of(operator.may(Role::Approver), operator.may(Role::Admin)),
        may_deny: operator.may(Role::Approver) || operator.may(Role::Responder),
        is_told_apart: operator.is_told_apart(),
    }
}

/// What no other request has.
pub(in crate::app) fn nonce() -> String {
    text::hex(&Fingerprinter::random_key()[..8])
}
