//! What somebody has to know of the running whole: judged each few seconds from how things stand, and told as alerts.
//!
//! ```text
//! tokens, grants, trail, config, review ─▶ what is so now ─▶ raised ┐
//!                          open alerts that are not so any more ────┴▶ over
//! ```
//!
//! They have the names of the rules in `deploy/prometheus/rules.yaml`, and their runbooks.
//!
//! Invariant: an alert of before a restart goes on until it is known that its cause does not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::house::House;
use super::restraint::Restraints;
use super::unused::Outlook;
use crate::access::approval::{Case, Ending, State as CaseState};
use crate::access::register::Register;
use crate::alert::{Alert, Severity};
use crate::audit::time_text;
use crate::clock::Moment;
use crate::name::TokenName;
use crate::tasks::{Task, Tasks};
use crate::token::source::Ghost;
use crate::token::{Absent, Look, State, Token};

/// How often all of it is judged.
const LOOK: Duration = Duration::from_secs(2);

/// How the keys of these alerts begin.
const KEYS: &str = "condition/";

/// How long it may go wrong before it is told: what passes by itself is nobody's business.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long ahead the end of a grant is told, if that is less than a tenth of its life.
const AHEAD: Duration = Duration::from_secs(7 * 86_400);

/// Since when what is wrong is wrong.
#[derive(Default)]
pub(super) struct Conditions(Mutex<BTreeMap<String, Moment>>);

/// What is found in one look.
struct Findings {
    now: Moment,
    /// From before.
    since: BTreeMap<String, Moment>,
    seen: BTreeMap<String, Moment>,
    open: BTreeSet<String>,
    stay: BTreeSet<String>,
    alerts: Vec<Alert>,
}

/// What an alert says.
struct Words {
    name: &'static str,
    severity: Severity,
    summary: String,
    description: String,
}

impl House {
    pub(super) fn look_after_conditions(self: &Arc<Self>, tasks: &Tasks) -> Task {
        let house = self.clone();
        tasks.essential("conditions", async move {
            let mut tick = tokio::time::interval(LOOK);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                house.judge_conditions();
            }
        })
    }

    fn judge_conditions(&self) {
        let alerts = &self.ground.alerts;
        let mut since = self.conditions.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Findings {
            now: self.ground.clock.now(),
            since: std::mem::take(&mut since),
            seen: BTreeMap::new(),
            open: alerts.open_below(KEYS).into_iter().collect(),
            stay: BTreeSet::new(),
            alerts: Vec::new(),
        };
        self.judge_whole(&mut found);
        let register = self.desk.register();
        for (name, token) in self.tokens().iter() {
            judge_provision(name, token, &mut found);
            judge_restraint(name, token, &mut found);
            let live = token.look(found.now).generation;
            if live.is_some_and(|live| self.trials.is_refused(name, live.number)) {
                found.holds(Some((name, token)), "probe", refused_at_probe(name));
            }
            judge_grant(name, token, &register, &self.restraints, &mut found);
            let (told, others) = self.ghosts.of(name);
            if !told.is_empty() {
                found.holds(Some((name, token)), "ghosts", ghosts(name, &told, others));
            }
            match self.unused.outlook(name) {
                _ if token.reader.withdrawn() == Some(Absent::Retired) => {}
                Outlook::EndsSoon(end) => found.holds(Some((name, token)), "unused", unused(name, end)),
                Outlook::Unknown => found.stays(name, "unused"),
                Outlook::Fine => {}
            }
        }
        *since = found.seen;
        drop(since);
        let held: BTreeSet<String> = found.alerts.iter().map(|alert| alert.key.clone()).chain(found.stay).collect();
        found.alerts.into_iter().for_each(|alert| alerts.raise(alert));
        found.open.difference(&held).for_each(|key| alerts.over(key));
    }

    /// What is about no token.
    fn judge_whole(&self, found: &mut Findings) {
        if !self.ground.recorder.is_healthy() {
            let description = "Nothing is let in that the trail does not have: no grant, no release, no new config; and no \
                               request, where `on_failure` of [audit] says so. Look at the disk of the trail, and at the log.";
            found.holds(
                None,
                "audit",
                Words {
                    name: "CountersignAuditStalled",
                    severity: Severity::Critical,
                    summary: "The audit trail cannot be written".to_owned(),
                    description: description.to_owned(),
                },
            );
        }
        if !self.is_config_taken() {
            let description = "The config file differs from what runs: the old config goes on. The log says why, and so does \
                               `countersign check`.";
            found.holds(
                None,
                "reload",
                Words {
                    name: "CountersignReloadFailed",
                    severity: Severity::Medium,
                    summary: "A new config was not taken".to_owned(),
                    description: description.to_owned(),
                },
            );
        }
        if self.ground.review.is_overdue() {
            let description = "Nobody has looked at what tokens are used for since the last review was due: `countersign \
                               report`, and `countersign report --reviewed` when somebody has.";
            found.holds(
                None,
                "review",
                Words {
                    name: "CountersignReviewOverdue",
                    severity: Severity::Low,
                    summary: "A review of access is overdue".to_owned(),
                    description: description.to_owned(),
                },
            );
        }
    }
}

/// Whether the token's issuer gives what it should.
fn judge_provision(name: &TokenName, token: &Token, found: &mut Findings) {
    let look = token.look(found.now);
    let (failing, absent) = ("rotation", "unavailable");
    let is_lacking = match look.state {
        State::Provisioning | State::Expired => true,
        State::Active => false,
        State::Pending | State::Denied | State::Quarantined | State::Revoked | State::Retired => return,
    };
    if look.wants_login {
        found.holds(Some((name, token)), failing, login(name));
    } else if look.is_failing {
        found.lasts(Some((name, token)), failing, failed(name, &look, found.now));
    } else if is_lacking {
        found.stays(name, failing);
    }
    if is_lacking {
        found.lasts(Some((name, token)), absent, lacking(name));
    }
}

fn judge_restraint(name: &TokenName, token: &Token, found: &mut Findings) {
    let how = match token.look(found.now).state {
        State::Quarantined => "quarantined",
        State::Revoked => "revoked",
        State::Pending | State::Denied | State::Provisioning | State::Active | State::Expired | State::Retired => {
            return;
        }
    };
    let words = Words {
        name: "CountersignTokenWithdrawn",
        severity: Severity::Low,
        summary: format!("Token {name} is {how}"),
        description: format!(
            "Requests that would carry it are refused until somebody releases it: `countersign tokens release {name}`. The \
             trail says who took it out of use, and why: `countersign audit show`."
        ),
    };
    found.holds(Some((name, token)), "restraint", words);
}

/// Whether the grant ends soon, or has ended while the config still wants the token.
fn judge_grant(name: &TokenName, token: &Token, register: &Register, restraints: &Restraints, found: &mut Findings) {
    let (ends, now) = (token.settings.grant_ends, found.now.wall);
    if token.is_retired() || ends.saturating_sub(now) > AHEAD {
        return;
    }
    let entitlement = register.entitlement(name);
    let case = entitlement.submitted.last().copied().or(entitlement.standing).or(entitlement.asked);
    let is_retired = |case: &Case| restraints.is_retired(name, Some(&case.request.terms()));
    let Some(case) = case.filter(|case| !is_retired(case)) else { return };
    let is_soon = match &case.state {
        CaseState::Granted { at, .. } => ends.saturating_sub(now) <= (ends.saturating_sub(*at) / 10).min(AHEAD),
        CaseState::Ended { cause: Ending::Expired, .. } => ends <= now,
        CaseState::Pending | CaseState::Denied { .. } | CaseState::Ended { .. } => false,
    };
    if is_soon {
        found.holds(Some((name, token)), "grant", grant(name, ends, ends <= now));
    }
}

fn login(name: &TokenName) -> Words {
    Words {
        name: "CountersignRotationFailing",
        severity: Severity::High,
        summary: format!("The issuer of token {name} wants somebody to log in again"),
        description:
            "It does not renew what it gave. What is live runs out at its expiry, and requests are refused then: see \
                      the token's source in the config."
                .to_owned(),
    }
}

fn failed(name: &TokenName, look: &Look, now: Moment) -> Words {
    let usable = look.generation.as_ref().filter(|generation| !generation.usable_until.reached(now));
    let left = usable.map(|generation| {
        let life = generation.usable_until.wall.saturating_sub(generation.issued.wall);
        (generation.usable_until, generation.usable_until.remaining(now) <= life / 5)
    });
    let (severity, meanwhile) = match left {
        Some((until, false)) => (Severity::Medium, format!("The live one is good until {}.", time_text(until.wall))),
        Some((until, true)) => (Severity::High, format!("The live one runs out at {}.", time_text(until.wall))),
        None => (Severity::High, "There is none, and requests are refused.".to_owned()),
    };
    Words {
        name: "CountersignRotationFailing",
        severity,
        summary: format!("Token {name} gets no new generation from its issuer"),
        description: format!(
            "{meanwhile} It is tried again and again; the log and countersign_rotation_failures_total say what goes wrong."
        ),
    }
}

fn refused_at_probe(name: &TokenName) -> Words {
    Words {
        name: "CountersignProbeRefused",
        severity: Severity::High,
        summary: format!("The API refuses token {name} at its probe"),
        description: format!(
            "It took the live generation before. Requests that carry it fail now, or soon: `countersign audit show --event \
             token_probe_refused` has its answer, and `countersign tokens rotate {name}` asks for another one."
        ),
    }
}

fn lacking(name: &TokenName) -> Words {
    Words {
        name: "CountersignTokenUnusable",
        severity: Severity::High,
        summary: format!("Token {name} has no generation that can be used"),
        description: format!(
            "Requests that would carry it are refused. `countersign tokens show {name}` says how it stands, and the log why."
        ),
    }
}

fn unused(name: &TokenName, end: Duration) -> Words {
    Words {
        name: "CountersignUnusedTokenRetiring",
        severity: Severity::Low,
        summary: format!("Nobody uses token {name}"),
        description: format!(
            "It is retired at {} unless somebody uses it before (`retire_unused`). If it is not needed any more, take it out \
             of the config.",
            time_text(end)
        ),
    }
}

fn ghosts(name: &TokenName, told: &[Ghost], others: usize) -> Words {
    let first: Vec<&str> = told.iter().take(3).map(|ghost| ghost.id.as_str()).collect();
    Words {
        name: "CountersignGhostTokens",
        severity: Severity::Medium,
        summary: format!("The issuer of token {name} lists what nobody here has"),
        description: format!(
            "{} in all, such as {}. Somebody else uses the same role, or it was left behind: `countersign report` lists \
             them.",
            told.len() + others,
            first.join(", ")
        ),
    }
}

fn grant(name: &TokenName, ends: Duration, has_ended: bool) -> Words {
    let (ends, what) = (time_text(ends), "set `expires` to a later date, and have that approved");
    let (severity, summary, description) = if has_ended {
        let description =
            format!("Requests that would carry it are refused since {ends}. If it is needed still: {what}.");
        (Severity::High, format!("The grant of token {name} has ended"), description)
    } else {
        let description =
            format!("From {ends} on, requests that would carry it are refused. If it is needed still: {what}.");
        (Severity::Medium, format!("The grant of token {name} ends soon"), description)
    };
    Words { name: "CountersignGrantEnding", severity, summary, description }
}

impl Findings {
    /// It is so.
    fn holds(&mut self, about: Option<(&TokenName, &Token)>, what: &str, words: Words) {
        let key = key(about.map(|(name, _)| name), what);
        let since = self.since.get(&key).copied().unwrap_or(self.now);
        self.seen.insert(key.clone(), since);
        let Words { name, severity, summary, description } = words;
        let owner = about.map(|(_, token)| format!(" Owner: {}.", token.settings.owner)).unwrap_or_default();
        self.alerts.push(Alert {
            key,
            name: name.to_owned(),
            severity,
            token: about.map(|(name, _)| name.clone()),
            route: None,
            client: None,
            summary,
            description: format!("{description}{owner}"),
            started: since.wall,
        });
    }

    /// It is so, and is told when it has been for a while. What is told already goes on.
    fn lasts(&mut self, about: Option<(&TokenName, &Token)>, what: &str, words: Words) {
        let key = key(about.map(|(name, _)| name), what);
        let since = self.since.get(&key).copied().unwrap_or(self.now);
        if self.open.contains(&key) || since.after(PATIENCE).reached(self.now) {
            self.holds(about, what, words);
        } else {
            self.seen.insert(key, since);
        }
    }

    /// It cannot be told: what is open goes on.
    fn stays(&mut self, name: &TokenName, what: &str) {
        self.stay.insert(key(Some(name), what));
    }
}

fn key(token: Option<&TokenName>, what: &str) -> String {
    match token {
        Some(token) => format!("{KEYS}{what}/{token}"),
        None => format!("{KEYS}{what}"),
    }
}
