//! One request and what becomes of it: a pure machine that people, rules and the clock move.
//!
//! ```text
//!            ┌─ a rule approves ──────────────────────────────▶ Granted ── its date, an edit, a denial ──▶ Ended, Denied
//!  asked ────┼─ a rule asks ──▶ Pending ── enough approvals ──▶    ▲
//!            │                    └─ a denial, or no answer ──▶ Denied, Ended
//!            └─ a rule denies ────────────────────────────────▶ Denied
//! ```
//!
//! Invariants: a request that asks is granted by as many different people as its rule wants, and by nobody whose request
//! it is; each of them has named its digest, so has seen what is granted; an approval counts for a week and for one grant.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::request::{Digest, Request, Requester, Until, rfc3339};
use super::risk::Risk;
use super::rule::{Decision, Judgement, Quorum, Role};

/// How long an approval counts that is not enough alone, and how long a submitted request waits for an answer.
pub const COUNTS_FOR: Duration = Duration::from_secs(7 * 86_400);

/// A request with its judgement and its fate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Case {
    pub request: Request,
    pub digest: Digest,
    pub risk: Risk,
    pub judgement: Judgement,
    /// When it was asked, since the Unix epoch.
    pub asked: Duration,
    pub approvals: Vec<Approval>,
    pub state: State,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Approval {
    pub by: String,
    pub reason: String,
    pub at: Duration,
    /// Of one that was signed: it holds until then.
    pub signed_until: Option<Duration>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum State {
    Pending,
    /// `until` is `None` of what is permanent.
    Granted {
        by: String,
        at: Duration,
        until: Option<Duration>,
    },
    Denied {
        by: String,
        reason: String,
        at: Duration,
    },
    Ended {
        cause: Ending,
        at: Duration,
    },
}

/// Why nothing more comes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Its date has come.
    Expired,
    /// Another request of the same token took its place.
    Superseded,
    /// The config does not ask for it any more.
    Withdrawn,
    /// Nobody decided in time.
    Unanswered,
}

impl Ending {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Superseded => "superseded",
            Self::Withdrawn => "withdrawn",
            Self::Unanswered => "unanswered",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Granted { .. } => "granted",
            Self::Denied { .. } => "denied",
            Self::Ended { cause, .. } => cause.as_str(),
        })
    }
}

/// Who decides, as it was authenticated.
#[derive(Clone, Copy, Debug)]
pub struct Voter<'a> {
    pub name: &'a str,
    pub groups: &'a [String],
    /// What its roles let it approve; `None`: nothing.
    pub role: Option<Role>,
    /// Whether its roles let it take away what others asked for.
    pub may_deny: bool,
    /// No client, and not the proxy itself, could be taken for it.
    pub is_told_apart: bool,
}

/// Why a decision does not count.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotAllowed {
    #[error("{0} has no role that approves: this needs the role {1}")]
    Role(String, Role),
    #[error(
        "{0} is known by nothing but a uid that an app or the proxy itself has too, so nobody knows who approves: give the \
         operator a key, or a uid of its own"
    )]
    NotToldApart(String),
    #[error("nobody approves its own request, and this is a request of {0}")]
    Own(String),
    #[error("nobody approves a request of its own group, and this is one of {1}, as {0} is")]
    Group(String, String),
    #[error("{0} has approved it already: another approver is needed")]
    Twice(String),
    #[error("the request is {0}: nothing is to be decided")]
    Decided(State),
    #[error("the request was edited since: what was looked at has the digest {0}, and it has {1}")]
    Edited(Digest, Digest),
    #[error("it asks for a time that has passed: {0}")]
    Past(Until),
    #[error("a decision needs a reason")]
    NoReason,
}

/// What an approval has led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    Granted,
    /// So many more are needed.
    Missing(u32),
}

impl Case {
    /// What the rules make of a request, for a start.
    pub fn new(request: Request, risk: Risk, judgement: Judgement, now: Duration) -> Self {
        let by = judgement.by.clone();
        let state = match judgement.decision {
            Decision::Approve if request.until != Until::Permanent => {
                State::Granted { by, at: now, until: request.end(now) }
            }
            Decision::Approve | Decision::Ask(_) => State::Pending,
            Decision::Deny => State::Denied { by, reason: "the rules deny it".to_owned(), at: now },
        };
        let digest = request.digest();
        let mut case = Self { request, digest, risk, judgement, asked: now, approvals: Vec::new(), state };
        case.pass(now);
        case
    }

    /// Who has to approve it.
    pub fn quorum(&self) -> Quorum {
        match self.judgement.decision {
            Decision::Ask(quorum) => quorum,
            Decision::Approve | Decision::Deny => Quorum::default(),
        }
    }

    pub fn is_granted(&self) -> bool {
        matches!(self.state, State::Granted { .. })
    }

    /// Takes an approval of exactly what has this digest.
    ///
    /// # Errors
    /// When it does not count. Nothing has changed then.
    pub fn approve(
        &mut self,
        voter: &Voter<'_>,
        digest: Digest,
        reason: &str,
        now: Duration,
    ) -> Result<Progress, NotAllowed> {
        self.take(voter, digest, reason, None, now)
    }

    /// Takes an approval that was signed; the grant that comes of it ends with it.
    ///
    /// # Errors
    /// As [`Case::approve`].
    pub fn approve_signed(
        &mut self,
        voter: &Voter<'_>,
        digest: Digest,
        until: Duration,
        now: Duration,
    ) -> Result<Progress, NotAllowed> {
        self.take(voter, digest, "a signed grant", Some(until), now)
    }

    fn take(
        &mut self,
        voter: &Voter<'_>,
        digest: Digest,
        reason: &str,
        signed_until: Option<Duration>,
        now: Duration,
    ) -> Result<Progress, NotAllowed> {
        self.pass(now);
        if self.state != State::Pending {
            return Err(NotAllowed::Decided(self.state.clone()));
        }
        if digest != self.digest {
            return Err(NotAllowed::Edited(digest, self.digest));
        }
        if reason.trim().is_empty() {
            return Err(NotAllowed::NoReason);
        }
        let end = self.request.end(now);
        if end.is_some_and(|end| end <= now) || signed_until.is_some_and(|end| end <= now) {
            return Err(NotAllowed::Past(self.request.until));
        }
        let quorum = self.quorum();
        self.may_approve(voter, quorum.role)?;
        if self.approvals.iter().any(|approval| approval.by == voter.name) {
            return Err(NotAllowed::Twice(voter.name.to_owned()));
        }
        let (by, reason) = (voter.name.to_owned(), reason.to_owned());
        self.approvals.push(Approval { by, reason, at: now, signed_until });
        let given = u32::try_from(self.approvals.len()).unwrap_or(u32::MAX);
        let missing = quorum.required.get().saturating_sub(given);
        if missing > 0 {
            return Ok(Progress::Missing(missing));
        }
        let by = self.approvals.iter().map(|approval| approval.by.as_str()).collect::<Vec<_>>().join(", ");
        let signed = self.approvals.iter().filter_map(|approval| approval.signed_until).min();
        let until = [end, signed].into_iter().flatten().min();
        self.state = State::Granted { by, at: now, until };
        Ok(Progress::Granted)
    }

    fn may_approve(&self, voter: &Voter<'_>, role: Role) -> Result<(), NotAllowed> {
        let name = || voter.name.to_owned();
        if !voter.is_told_apart {
            return Err(NotAllowed::NotToldApart(name()));
        }
        if !voter.role.is_some_and(|own| own == role || own == Role::Admin) {
            return Err(NotAllowed::Role(name(), role));
        }
        let owner = &self.request.owner;
        if owner == voter.name {
            return Err(NotAllowed::Own(name()));
        }
        if voter.groups.contains(owner) {
            return Err(NotAllowed::Group(name(), owner.clone()));
        }
        match &self.request.requester {
            Requester::Operator { name: requester, .. } if requester == voter.name => Err(NotAllowed::Own(name())),
            Requester::Operator { groups, .. } => match voter.groups.iter().find(|group| groups.contains(*group)) {
                Some(group) => Err(NotAllowed::Group(name(), group.clone())),
                None => Ok(()),
            },
            Requester::ConfigFile | Requester::Detection | Requester::Job { .. } => Ok(()),
        }
    }

    /// Denies it, or takes away what was granted. Who asked may take its request back.
    ///
    /// # Errors
    /// When it does not count. Nothing has changed then.
    pub fn deny(&mut self, voter: &Voter<'_>, reason: &str, now: Duration) -> Result<(), NotAllowed> {
        self.pass(now);
        if matches!(self.state, State::Denied { .. } | State::Ended { .. }) {
            return Err(NotAllowed::Decided(self.state.clone()));
        }
        let asked_it =
            matches!(&self.request.requester, Requester::Operator { name, .. } if name.as_str() == voter.name);
        if !voter.may_deny && !asked_it {
            return Err(NotAllowed::Role(voter.name.to_owned(), Role::Approver));
        }
        if reason.trim().is_empty() {
            return Err(NotAllowed::NoReason);
        }
        self.state = State::Denied { by: voter.name.to_owned(), reason: reason.to_owned(), at: now };
        Ok(())
    }

    /// Other rules judge what waits. What they are stricter about holds, and what was approved by less strict ones is to be
    /// approved anew; nothing is granted by it. Returns whether it changes anything.
    pub fn judge_again(&mut self, risk: Risk, judgement: Judgement, now: Duration) -> bool {
        if self.state != State::Pending {
            return false;
        }
        let (by, own) = (judgement.by, self.quorum());
        let decision = match judgement.decision {
            Decision::Deny => {
                self.state = State::Denied { by: by.clone(), reason: "the rules deny it".to_owned(), at: now };
                Decision::Deny
            }
            Decision::Ask(quorum) if quorum.or_stricter(own) != own => {
                self.approvals.clear();
                Decision::Ask(quorum.or_stricter(own))
            }
            Decision::Approve | Decision::Ask(_) => return false,
        };
        (self.risk, self.judgement) = (risk, Judgement { decision, by });
        true
    }

    /// Nothing more comes of it.
    pub fn end(&mut self, cause: Ending, now: Duration) {
        if !matches!(self.state, State::Ended { .. }) {
            self.state = State::Ended { cause, at: now };
        }
    }

    /// Lets time pass: grants end at their date, approvals that were not enough lapse, submitted requests are not kept
    /// for ever.
    pub fn pass(&mut self, now: Duration) {
        match self.state {
            State::Granted { until: Some(end), .. } if end <= now => self.end(Ending::Expired, now),
            State::Pending => {
                self.approvals.retain(|approval| match approval.signed_until {
                    Some(end) => now < end,
                    None => now < approval.at.saturating_add(COUNTS_FOR),
                });
                let unanswered = self.request.is_submitted() && now >= self.asked.saturating_add(COUNTS_FOR);
                if self.request.end(now).is_some_and(|end| end <= now) {
                    self.end(Ending::Expired, now);
                } else if unanswered {
                    self.end(Ending::Unanswered, now);
                }
            }
            State::Granted { .. } | State::Denied { .. } | State::Ended { .. } => {}
        }
    }

    /// When [`Case::pass`] would change it next by itself.
    pub fn ends_at(&self) -> Option<Duration> {
        match self.state {
            State::Granted { until, .. } => until,
            State::Pending | State::Denied { .. } | State::Ended { .. } => None,
        }
    }

    /// In one line, for people.
    pub fn summary(&self) -> String {
        match &self.state {
            State::Pending => {
                let quorum = self.quorum();
                let (given, required) = (self.approvals.len(), quorum.required);
                format!("pending: {given} of {required} approvals ({}), because of {}", quorum.role, self.judgement.by)
            }
            State::Granted { by, until: Some(end), .. } => format!("granted by {by} until {}", rfc3339(*end)),
            State::Granted { by, until: None, .. } => format!("granted by {by} for ever"),
            State::Denied { by, reason, .. } => format!("denied by {by}: {reason}"),
            State::Ended { cause, at } => format!("{} at {}", cause.as_str(), rfc3339(*at)),
        }
    }
}

#[cfg(test)]
mod tests;
