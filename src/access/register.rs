//! All requests that there are, and what is granted by them.
//!
//! Invariants: a token has at most one standing grant; another takes its place when it is granted itself, not before. What
//! happens is told as [`Step`]s, one each, so that whoever keeps the register can have them durable before they count.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::approval::{Case, Ending, NotAllowed, Progress, State, Voter};
use super::request::{Digest, Request, RequestId};
use super::risk::{Background, Risk};
use super::rule::{Decision, Judgement, Policy};
use crate::name::TokenName;

/// The most submitted requests of one requester that wait for an answer.
const MOST_WAITING: usize = 20;

/// The most submitted requests that wait or are granted.
const MOST_OPEN: usize = 500;

/// The most requests that are over and still shown.
const MOST_OVER: usize = 200;

#[derive(Clone, Default)]
pub struct Register {
    cases: BTreeMap<RequestId, Case>,
    /// What the config asks for now.
    asked: BTreeMap<TokenName, RequestId>,
    steps: Vec<Step>,
}

/// One thing that happened to a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    pub id: RequestId,
    pub what: What,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    Asked,
    /// Other rules than before judged what waits.
    Judged,
    /// So many more are `missing`.
    Approved {
        by: String,
        reason: String,
        missing: u32,
    },
    Granted,
    Denied,
    Ended,
    /// It is over for so long that it is not kept.
    Forgotten,
}

/// Why a request was not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotTaken {
    #[error("{0} has {MOST_WAITING} requests that wait for an answer: take one back, or have it decided")]
    Requester(String),
    #[error("there are {MOST_OPEN} submitted requests, and no more are taken")]
    Full,
}

/// Why a decision was not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotDecided {
    #[error("there is no request {0}")]
    Unknown(RequestId),
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
}

/// What a token may be used for now.
#[derive(Clone, Debug, Default)]
pub struct Entitlement<'r> {
    /// What the config asks for.
    pub asked: Option<&'r Case>,
    /// The standing grant: of what the config asks for, or of what it asked for before.
    pub standing: Option<&'r Case>,
    /// Grants on top, the oldest first.
    pub submitted: Vec<&'r Case>,
}

impl Register {
    /// Takes up what was kept.
    pub fn restore(cases: impl IntoIterator<Item = Case>) -> Self {
        let cases = cases.into_iter().map(|case| (case.digest.id(), case)).collect();
        Self { cases, ..Self::default() }
    }

    pub fn case(&self, id: RequestId) -> Option<&Case> {
        self.cases.get(&id)
    }

    pub fn cases(&self) -> impl Iterator<Item = (RequestId, &Case)> {
        self.cases.iter().map(|(id, case)| (*id, case))
    }

    /// What has happened since this was asked last.
    pub fn take_steps(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.steps)
    }

    pub fn has_news(&self) -> bool {
        !self.steps.is_empty()
    }

    pub fn pending(&self) -> usize {
        self.cases.values().filter(|case| case.state == State::Pending).count()
    }

    pub fn known_hosts(&self) -> BTreeSet<String> {
        let granted = self.cases.values().filter(|case| case.is_granted());
        granted.flat_map(|case| &case.request.hosts).cloned().collect()
    }

    /// The config asks for this. A request that is known and not over is not asked again.
    pub fn ask(&mut self, request: Request, policy: &Policy, now: Duration) -> RequestId {
        let digest = request.digest();
        let (id, token) = (digest.id(), request.token.clone());
        let known = self.cases.get(&id).is_some_and(|case| {
            case.digest == digest && !matches!(case.state, State::Ended { .. }) && !case.request.is_submitted()
        });
        if !known {
            self.judge(request, policy, None, now);
        }
        self.asked.insert(token.clone(), id);
        let undecided = |case: &Case| case.state == State::Pending || matches!(case.state, State::Denied { .. });
        let replaced = self.standing_of(&token).filter(|(other, case)| *other != id && undecided(case));
        let replaced: Vec<RequestId> = replaced.map(|(other, _)| other).collect();
        for other in replaced {
            self.end(other, Ending::Superseded, now);
        }
        self.supersede(id, now);
        id
    }

    /// The rules that hold now judge what waits again, where they are stricter. `beyond` says what a submitted request asks for
    /// in addition to what is granted without it; whether its token's own request is granted is told.
    pub fn judge_again(&mut self, policy: &Policy, beyond: impl Fn(&Request, bool) -> Option<String>, now: Duration) {
        let known_hosts = self.known_hosts();
        let waiting = self.cases.iter().filter(|(_, case)| case.state == State::Pending);
        let waiting: Vec<RequestId> = waiting.map(|(id, _)| *id).collect();
        for id in waiting {
            let Some(request) = self.cases.get(&id).map(|case| &case.request) else { continue };
            let has_standing = self.entitlement(&request.token).standing.is_some();
            let beyond = request.is_submitted().then(|| beyond(request, has_standing)).flatten();
            let is_beyond = beyond.is_some();
            let risk = Risk::of(request, Background { now, known_hosts: &known_hosts, beyond });
            let judgement = policy.judge(request, &risk, is_beyond, now);
            let Some(case) = self.cases.get_mut(&id) else { continue };
            if case.judge_again(risk, judgement, now) {
                let is_denied = matches!(case.state, State::Denied { .. });
                self.tell(id, What::Judged);
                if is_denied {
                    self.tell(id, What::Denied);
                }
            }
        }
    }

    /// The config asks for these tokens only: requests for others are over.
    pub fn keep_only(&mut self, tokens: &BTreeSet<TokenName>, now: Duration) {
        self.asked.retain(|token, _| tokens.contains(token));
        let gone = self.cases.iter().filter(|(_, case)| !tokens.contains(&case.request.token));
        let gone: Vec<RequestId> = gone.map(|(id, _)| *id).collect();
        for id in gone {
            self.end(id, Ending::Withdrawn, now);
        }
    }

    /// Somebody submits this. `beyond` is what it asks for in addition to what is granted without it.
    ///
    /// # Errors
    /// When there are too many.
    pub fn submit(
        &mut self,
        request: Request,
        policy: &Policy,
        beyond: Option<String>,
        now: Duration,
    ) -> Result<RequestId, NotTaken> {
        let open = self
            .cases
            .values()
            .filter(|case| case.request.is_submitted() && matches!(case.state, State::Pending | State::Granted { .. }));
        if open.clone().count() >= MOST_OPEN {
            return Err(NotTaken::Full);
        }
        let waiting = open.filter(|case| case.state == State::Pending && case.request.requester.is(&request.requester));
        if waiting.count() >= MOST_WAITING {
            return Err(NotTaken::Requester(request.requester.to_string()));
        }
        Ok(self.judge(request, policy, beyond, now))
    }

    /// This is for people to decide, whatever the rules say of such requests.
    pub fn ask_people(&mut self, request: Request, policy: &Policy, by: &str, now: Duration) -> RequestId {
        self.take(request, None, now, |_, _| Judgement { decision: Decision::Ask(policy.quorum), by: by.to_owned() })
    }

    fn judge(&mut self, request: Request, policy: &Policy, beyond: Option<String>, now: Duration) -> RequestId {
        let is_beyond = beyond.is_some();
        self.take(request, beyond, now, |request, risk| policy.judge(request, risk, is_beyond, now))
    }

    fn take(
        &mut self,
        request: Request,
        beyond: Option<String>,
        now: Duration,
        judge: impl FnOnce(&Request, &Risk) -> Judgement,
    ) -> RequestId {
        let risk = Risk::of(&request, Background { now, known_hosts: &self.known_hosts(), beyond });
        let judgement = judge(&request, &risk);
        let case = Case::new(request, risk, judgement, now);
        let id = case.digest.id();
        self.tell(id, What::Asked);
        match &case.state {
            State::Pending => {}
            State::Granted { .. } => self.tell(id, What::Granted),
            State::Denied { .. } => self.tell(id, What::Denied),
            State::Ended { .. } => self.tell(id, What::Ended),
        }
        self.cases.insert(id, case);
        id
    }

    /// Takes an approval. `digest` is of what was looked at.
    ///
    /// # Errors
    /// When it does not count.
    pub fn approve(
        &mut self,
        id: RequestId,
        voter: &Voter<'_>,
        digest: Digest,
        reason: &str,
        now: Duration,
    ) -> Result<Progress, NotDecided> {
        let case = self.cases.get_mut(&id).ok_or(NotDecided::Unknown(id))?;
        let progress = case.approve(voter, digest, reason, now)?;
        self.approved(id, voter, reason, progress, now);
        Ok(progress)
    }

    /// Takes an approval that was signed, and holds until then.
    ///
    /// # Errors
    /// As [`Register::approve`].
    pub fn approve_signed(
        &mut self,
        digest: Digest,
        voter: &Voter<'_>,
        until: Duration,
        now: Duration,
    ) -> Result<Progress, NotDecided> {
        let id = digest.id();
        let case = self.cases.get_mut(&id).ok_or(NotDecided::Unknown(id))?;
        let progress = case.approve_signed(voter, digest, until, now)?;
        self.approved(id, voter, "a signed grant", progress, now);
        Ok(progress)
    }

    fn approved(&mut self, id: RequestId, voter: &Voter<'_>, reason: &str, progress: Progress, now: Duration) {
        let missing = match progress {
            Progress::Granted => 0,
            Progress::Missing(missing) => missing,
        };
        self.tell(id, What::Approved { by: voter.name.to_owned(), reason: reason.to_owned(), missing });
        if progress == Progress::Granted {
            self.tell(id, What::Granted);
            self.supersede(id, now);
        }
    }

    /// Denies a request, or takes away what it was granted.
    ///
    /// # Errors
    /// When it does not count.
    pub fn deny(&mut self, id: RequestId, voter: &Voter<'_>, reason: &str, now: Duration) -> Result<(), NotDecided> {
        let case = self.cases.get_mut(&id).ok_or(NotDecided::Unknown(id))?;
        case.deny(voter, reason, now)?;
        self.tell(id, What::Denied);
        Ok(())
    }

    /// Lets time pass.
    pub fn pass(&mut self, now: Duration) {
        let mut ended = Vec::new();
        for (id, case) in &mut self.cases {
            let before = matches!(case.state, State::Ended { .. });
            case.pass(now);
            if !before && matches!(case.state, State::Ended { .. }) {
                ended.push(*id);
            }
        }
        for id in ended {
            self.tell(id, What::Ended);
        }
        self.forget();
    }

    /// What a token may be used for.
    pub fn entitlement(&self, token: &TokenName) -> Entitlement<'_> {
        let asked = self.asked.get(token).and_then(|id| self.cases.get(id));
        let granted = |submitted: bool| {
            let of_token = self.cases.values().filter(move |case| case.request.token == *token && case.is_granted());
            of_token.filter(move |case| case.request.is_submitted() == submitted)
        };
        let mut submitted: Vec<&Case> = granted(true).collect();
        submitted.sort_by_key(|case| match case.state {
            State::Granted { at, .. } => (at, case.digest),
            State::Pending | State::Denied { .. } | State::Ended { .. } => (case.asked, case.digest),
        });
        Entitlement { asked, standing: granted(false).next(), submitted }
    }

    /// The requests of a token's own, which the config made.
    fn standing_of(&self, token: &TokenName) -> impl Iterator<Item = (RequestId, &Case)> {
        let token = token.clone();
        self.cases().filter(move |(_, case)| case.request.token == token && !case.request.is_submitted())
    }

    /// Ends the grants whose place this one takes, if it is one.
    fn supersede(&mut self, id: RequestId, now: Duration) {
        let Some(case) = self.cases.get(&id).filter(|case| case.is_granted() && !case.request.is_submitted()) else {
            return;
        };
        let others = self.standing_of(&case.request.token).filter(|(other, case)| *other != id && case.is_granted());
        let others: Vec<RequestId> = others.map(|(other, _)| other).collect();
        for other in others {
            self.end(other, Ending::Superseded, now);
        }
    }

    fn end(&mut self, id: RequestId, cause: Ending, now: Duration) {
        if let Some(case) = self.cases.get_mut(&id)
            && !matches!(case.state, State::Ended { .. })
        {
            case.end(cause, now);
            self.tell(id, What::Ended);
        }
    }

    /// Requests that are over are kept for a while, for people to look at.
    fn forget(&mut self) {
        let over = |case: &Case| match case.state {
            State::Ended { at, .. } => Some(at),
            State::Denied { at, .. } if case.request.is_submitted() => Some(at),
            State::Pending | State::Granted { .. } | State::Denied { .. } => None,
        };
        let mut all: Vec<(Duration, RequestId)> =
            self.cases.iter().filter_map(|(id, case)| Some((over(case)?, *id))).collect();
        let surplus = all.len().saturating_sub(MOST_OVER);
        all.sort();
        for (_, id) in all.into_iter().take(surplus) {
            self.cases.remove(&id);
            self.tell(id, What::Forgotten);
        }
    }

    fn tell(&mut self, id: RequestId, what: What) {
        self.steps.push(Step { id, what });
    }
}

#[cfg(test)]
mod tests;
