//! The desk where access requests are decided: it keeps the register, and has every step in the trail and on the disk
//! before it counts.
//!
//! ```text
//!  change of a copy ─▶ trail, durable ─▶ sealed state ─▶ the register, for all to see
//! ```
//!
//! Invariants: one change at a time; nothing is granted that the trail does not have; what takes something away counts
//! even if trail or disk fail.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{IntCounterVec, IntGauge};
use tokio::sync::OwnedMutexGuard;

use super::force::{self, KnownSource, Sources};
use super::keep::{NotKept, OpenError, Turns, Write};
use crate::access::approval::{Case, NotAllowed, State, Voter};
use crate::access::grants::{self, SignedGrant};
use crate::access::register::{NotDecided, Register, Step, What};
use crate::access::request::{Allow, Request, RequestId, Requester, Until};
use crate::access::rule::{Decision, Role};
use crate::audit::{Event, Recorded, Recorder, Requested, Unavailable};
use crate::clock::Clock;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::operator;
use crate::seal::Label;
use crate::store::{Record, Store};

/// As the store knows requests.
const KIND: &str = "request";

/// The most files that are looked at in the folder of grants.
const MOST_GRANTS: usize = 1000;

/// What a record of the trail has of routes; the digest is over all of them.
const MOST_ROUTES: usize = 16;
const LONGEST_ROUTE: usize = 1024;

pub(super) struct Desk {
    store: Arc<Store>,
    recorder: Recorder,
    clock: Arc<dyn Clock>,
    figures: Figures,
    register: Mutex<Arc<Register>>,
    changing: Arc<tokio::sync::Mutex<()>>,
    writing: Turns,
    /// How often each record was written.
    written: Arc<Mutex<BTreeMap<RequestId, u64>>>,
    sources: Mutex<Sources>,
    /// What was said of files of grants, so that it is said once.
    refused: Mutex<BTreeMap<PathBuf, String>>,
}

struct Figures {
    decisions: IntCounterVec,
    pending: IntGauge,
}

/// A register as it is going to be. While there is one, nobody else changes it.
pub(super) struct Proposal {
    pub register: Register,
    steps: Vec<Step>,
    recorded: Recorded,
    is_shown: bool,
    _one: OwnedMutexGuard<()>,
}

/// What the trail was told of proposals of which none is kept yet.
#[derive(Default)]
pub(super) struct Told {
    events: Vec<Event>,
    recorded: Vec<Recorded>,
}

/// What happened in a proposal.
struct News {
    events: Vec<Event>,
    /// Whether something of it lets something in.
    lets_in: bool,
}

impl Proposal {
    /// What has happened since this was last asked.
    fn news(&mut self) -> News {
        let steps = self.register.take_steps();
        let lets_in = steps.iter().any(|step| matches!(step.what, What::Asked | What::Approved { .. } | What::Granted));
        let events = steps.iter().filter_map(|step| event(step, self.register.case(step.id)?)).collect();
        self.steps.extend(steps);
        News { events, lets_in }
    }
}

impl Desk {
    /// Takes up what was decided before. Blocks.
    pub(super) fn open(
        store: Arc<Store>,
        recorder: Recorder,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Result<Self, OpenError> {
        let (records, refused) = store.read(KIND)?;
        for refused in &refused {
            let (file, reason) = (refused.path.display().to_string(), refused.why.to_string());
            tracing::error!(file, reason, "a record of the state is not used: what it decided is to be decided again");
            recorder.note(Event::StateRejected { file, reason });
        }
        let written = records.iter().filter_map(|record| Some((record.name.parse().ok()?, record.generation)));
        let written = Arc::new(Mutex::new(written.collect()));
        let cases = records.iter().filter_map(|record| {
            let case: Option<Case> = serde_json::from_slice(&record.content).ok();
            case.filter(|case| case.digest == case.request.digest())
        });
        let register = Register::restore(cases);
        let figures = Figures {
            decisions: metrics.counters(
                "access_requests_total",
                "Access requests by what became of them: approved, asked, denied, ended.",
                &["decision"],
            )?,
            pending: metrics.gauge("access_requests_pending", "Access requests that wait for an approver.")?,
        };
        for decision in ["approved", "asked", "denied", "ended"] {
            figures.decisions.with_label_values(&[decision]);
        }
        Ok(Self {
            store,
            recorder,
            clock,
            figures,
            register: Mutex::new(Arc::new(register)),
            changing: Arc::default(),
            writing: Turns::default(),
            written,
            sources: Mutex::default(),
            refused: Mutex::default(),
        })
    }

    pub(super) fn register(&self) -> Arc<Register> {
        self.lock().clone()
    }

    pub(super) fn sources(&self) -> Sources {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sources that the config need not have any more.
    pub(super) fn know(&self, sources: Sources) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).extend(sources);
    }

    /// A copy of the register, to be changed.
    pub(super) async fn propose(&self) -> Proposal {
        let one = self.changing.clone().lock_owned().await;
        let register = (*self.register()).clone();
        Proposal { register, steps: Vec::new(), recorded: Recorded::default(), is_shown: false, _one: one }
    }

    /// What a configuration asks for, with the grants that lie beside it.
    pub(super) async fn ask(&self, config: &Config) -> Proposal {
        let mut proposal = self.propose().await;
        let now = self.clock.now().wall;
        proposal.register.pass(now);
        for request in force::requests(config) {
            proposal.register.ask(request, &config.approval.policy, now);
        }
        let tokens = config.tokens.iter().map(|token| token.name.clone()).collect();
        proposal.register.keep_only(&tokens, now);
        let beyond = |request: &Request, is_granted| {
            force::definition(config, &request.token).and_then(|definition| definition.beyond(request, is_granted))
        };
        proposal.register.judge_again(&config.approval.policy, beyond, now);
        self.take_grants(config, &mut proposal, now).await;
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        for token in &config.tokens {
            if let Some(terms) = config.terms.get(&token.name) {
                sources.extend(KnownSource::all_of(token, terms));
            }
        }
        drop(sources);
        proposal
    }

    /// Takes what time and signed grants make of the requests of a config that is asked for already.
    ///
    /// # Errors
    /// When something is let in that cannot be kept, or that the trail does not take: nothing has changed then.
    pub(super) async fn settle(&self, config: &Config, given_up: impl Future<Output = ()>) -> Result<(), SettleError> {
        let mut proposal = self.ask(config).await;
        if proposal.register.has_news() {
            self.record(&mut proposal, given_up).await?;
            self.keep(proposal).await?;
        }
        Ok(())
    }

    /// Has what happened in the trail, durably where it lets something in: all of it or nothing. Somebody waits for an answer.
    ///
    /// # Errors
    /// When the trail does not take it at once, or as soon as it is `given_up`.
    pub(super) async fn record(
        &self,
        proposal: &mut Proposal,
        given_up: impl Future<Output = ()>,
    ) -> Result<(), Unavailable> {
        let News { events, lets_in } = proposal.news();
        if lets_in {
            proposal.recorded = self.recorder.record_all(events, given_up).await?;
        } else {
            self.note(events);
        }
        Ok(())
    }

    /// The same with patience, where a proposal may take the place of another one that came to nothing: but for what the trail was
    /// `told` of that. If nothing comes of the last one either, [`Desk::take_back`] is to say so.
    pub(super) async fn record_patiently(
        &self,
        proposal: &mut Proposal,
        told: &mut Told,
        given_up: impl Future<Output = ()>,
    ) -> Result<(), Unavailable> {
        let News { mut events, lets_in } = proposal.news();
        events.retain(|event| !told.events.contains(event));
        if lets_in {
            told.recorded.push(self.recorder.record_patiently(events.clone(), given_up).await?);
        } else {
            self.note(events.clone());
        }
        told.events.extend(events);
        Ok(())
    }

    /// Nothing came of what the trail was told.
    pub(super) fn take_back(&self, told: Told) {
        told.recorded.into_iter().for_each(|recorded| self.recorder.not_done(recorded));
    }

    fn note(&self, events: Vec<Event>) {
        events.into_iter().for_each(|event| self.recorder.note(event));
    }

    /// Keeps what was recorded, and shows it.
    ///
    /// # Errors
    /// When it cannot be written in time, and lets something in: nothing has changed then.
    pub(super) async fn keep(&self, mut proposal: Proposal) -> Result<(), NotKept> {
        if proposal.steps.is_empty() {
            self.show(&mut proposal);
            return Ok(());
        }
        let write = self.write(&proposal.register, &proposal.steps);
        let lets_in = proposal.steps.iter().any(|step| matches!(step.what, What::Approved { .. } | What::Granted));
        if lets_in {
            let kept = self.writing.within_or(write, || self.write(&self.register(), &proposal.steps)).await;
            match &kept {
                Ok(()) => self.show(&mut proposal),
                Err(_) => self.recorder.not_done(proposal.recorded),
            }
            return kept;
        }
        self.show(&mut proposal);
        if let Err(error) = self.writing.within(write).await {
            tracing::error!(%error, "what became of access requests is not kept: a restart would not know");
        }
        Ok(())
    }

    /// From now on it counts.
    pub(super) fn show(&self, proposal: &mut Proposal) {
        if !std::mem::replace(&mut proposal.is_shown, true) {
            self.count(&proposal.register, &proposal.steps);
            *self.lock() = Arc::new(proposal.register.clone());
        }
    }

    /// Has on the disk what a register says of the requests of these steps.
    fn write(&self, register: &Register, steps: &[Step]) -> impl Write + use<> {
        let changed: BTreeSet<RequestId> = steps.iter().map(|step| step.id).collect();
        let changed =
            changed.into_iter().map(|id| (id, register.case(id).and_then(|case| serde_json::to_vec(case).ok())));
        let changed: Vec<(RequestId, Option<Vec<u8>>)> = changed.collect();
        let (store, written) = (self.store.clone(), self.written.clone());
        move || {
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            let (mut records, mut gone) = (Vec::new(), Vec::new());
            for (id, content) in changed {
                match content {
                    Some(content) => records.push(Record {
                        name: id.to_string(),
                        generation: written.get(&id).map_or(1, |generation| generation + 1),
                        content: content.into(),
                    }),
                    None => gone.push(id),
                }
            }
            // A grant is there before the one that it replaces is gone.
            store.write_all(KIND, &records)?;
            let generation = |record: &Record| Some((record.name.parse().ok()?, record.generation));
            written.extend(records.iter().filter_map(generation));
            for id in gone {
                written.remove(&id);
                store.remove(Label { kind: KIND, name: &id.to_string() })?;
            }
            Ok(())
        }
    }

    fn count(&self, register: &Register, steps: &[Step]) {
        for step in steps {
            let decision = match &step.what {
                What::Asked if register.case(step.id).is_some_and(|case| case.state == State::Pending) => "asked",
                What::Granted => "approved",
                What::Denied => "denied",
                What::Ended => "ended",
                What::Asked | What::Judged | What::Approved { .. } | What::Forgotten => continue,
            };
            self.figures.decisions.with_label_values(&[decision]).inc();
        }
        self.figures.pending.set(i64::try_from(register.pending()).unwrap_or(i64::MAX));
    }

    /// Takes the signed grants that lie in the config's folder.
    async fn take_grants(&self, config: &Config, proposal: &mut Proposal, now: Duration) {
        let Some(folder) = config.approval.grants.clone() else { return };
        let reading = tokio::task::spawn_blocking(move || read_grants(&folder));
        let files = reading.await.unwrap_or_default();
        let mut refused = BTreeMap::new();
        for (path, text) in files {
            if let Err(why) = text.and_then(|text| take_grant(&text, config, &mut proposal.register, now)) {
                refused.insert(path, why);
            }
        }
        let before = std::mem::replace(&mut *self.refused_before(), refused.clone());
        for (path, reason) in refused {
            if before.get(&path) != Some(&reason) {
                let file = path.display().to_string();
                tracing::warn!(file, reason, "a signed grant is refused");
                self.recorder.note(Event::GrantRefused { file, reason });
            }
        }
    }

    fn refused_before(&self) -> MutexGuard<'_, BTreeMap<PathBuf, String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Register>> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why what became of requests does not count yet.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    #[error(transparent)]
    Trail(#[from] Unavailable),
    #[error(transparent)]
    Kept(#[from] NotKept),
}

/// The files of a folder, or why one cannot be read. Those that begin with a dot are the machinery of whoever put them there.
fn read_grants(folder: &Path) -> Vec<(PathBuf, Result<String, String>)> {
    let listed = match std::fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) => return vec![(folder.to_owned(), Err(format!("cannot read the folder: {error}")))],
    };
    let hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let mut paths: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).filter(|path| !hidden(path)).collect();
    paths.sort();
    paths.truncate(MOST_GRANTS);
    let read = |path: PathBuf| {
        let length = std::fs::metadata(&path).map(|metadata| metadata.len());
        let text = match length {
            Ok(length) if length > grants::MAX_BYTES => Err("it is too large for a grant".to_owned()),
            Ok(_) => std::fs::read_to_string(&path).map_err(|error| format!("cannot read it: {error}")),
            Err(error) => Err(format!("cannot read it: {error}")),
        };
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

/// What a configuration asks for, judged by its rules as on a new installation, with the signed grants that lie beside it;
/// and why those of them that do not count do not. Blocks.
pub fn judge(config: &Config, now: Duration) -> (Register, BTreeMap<PathBuf, String>) {
    let mut register = Register::default();
    for request in force::requests(config) {
        register.ask(request, &config.approval.policy, now);
    }
    let files = config.approval.grants.as_deref().map(read_grants).unwrap_or_default();
    let refused = files.into_iter().filter_map(|(path, text)| {
        let taken = text.and_then(|text| take_grant(&text, config, &mut register, now));
        taken.err().map(|why| (path, why))
    });
    let refused = refused.collect();
    (register, refused)
}

/// Takes one grant, or says why not.
fn take_grant(text: &str, config: &Config, register: &mut Register, now: Duration) -> Result<(), String> {
    let grant = SignedGrant::parse(text).map_err(|refused| refused.to_string())?;
    let until = grant.verify(&config.approval.signers, now).map_err(|refused| refused.to_string())?;
    let case = register.case(grant.request.id()).filter(|case| case.digest == grant.request);
    let Some(case) = case else {
        return Err(format!("there is no request {}: it was edited since, or is not made here", grant.request));
    };
    if case.request.token != grant.token {
        return Err(format!("the request is for token {}", case.request.token));
    }
    let Some(signer) = config.operators.iter().find(|operator| operator.name.as_str() == grant.approver) else {
        return Err(format!("{} is no [[operator]], so that its groups are not known", grant.approver));
    };
    let has = |role| signer.roles.contains(&role);
    let role = Role::of(has(operator::Role::Approver), has(operator::Role::Admin));
    // The key tells the approver apart.
    let voter = Voter { name: &grant.approver, groups: &signer.groups, role, may_deny: false, is_told_apart: true };
    match register.approve_signed(grant.request, &voter, until, now) {
        Ok(_) => Ok(()),
        // It has done what it is for.
        Err(NotDecided::NotAllowed(NotAllowed::Decided(State::Granted { .. }) | NotAllowed::Twice(_))) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// What the trail has of a step.
fn event(step: &Step, case: &Case) -> Option<Event> {
    let (request, token) = (step.id.to_string(), case.request.token.clone());
    Some(match (&step.what, &case.state) {
        (What::Asked | What::Judged, _) => asked(case),
        (What::Approved { by, reason, missing }, _) => {
            let (by, reason) = (by.clone(), reason.clone());
            Event::AccessApproved { request, token, by, reason, missing: *missing }
        }
        (What::Granted, State::Granted { by, until, .. }) => {
            Event::AccessGranted { request, digest: case.digest.to_string(), token, by: by.clone(), until: *until }
        }
        (What::Denied, State::Denied { by, reason, .. }) => {
            Event::AccessDenied { request, token, by: by.clone(), reason: reason.clone() }
        }
        (What::Ended, State::Ended { cause, .. }) => Event::AccessEnded { request, token, cause: cause.as_str() },
        (What::Granted | What::Denied | What::Ended | What::Forgotten, _) => return None,
    })
}

fn asked(case: &Case) -> Event {
    let request = &case.request;
    let routes = request.routes.iter().map(|(name, reach)| match &reach.allow {
        Allow::Any => format!("{name}: any"),
        Allow::These(rules) => {
            let text = format!("{name}: {}", rules.join(", "));
            text[..text.floor_char_boundary(LONGEST_ROUTE)].to_owned()
        }
    });
    Event::TokenRequested(Box::new(Requested {
        token: request.token.clone(),
        owner: request.owner.clone(),
        reason: request.reason.clone(),
        scopes: request.scopes.iter().cloned().collect(),
        hosts: request.hosts.iter().cloned().collect(),
        routes: routes.take(MOST_ROUTES).collect(),
        grant_ends: match request.until {
            Until::At(end) => Some(end),
            Until::For(_) | Until::Permanent => None,
        },
        for_seconds: match request.until {
            Until::For(length) => Some(length.as_secs()),
            Until::At(_) | Until::Permanent => None,
        },
        source: request.source.kind.clone(),
        next_source: request.next_source.as_ref().map(|next| next.kind.clone()),
        request: case.digest.id().to_string(),
        digest: case.digest.to_string(),
        requester: requester(&request.requester),
        risk: case.risk.to_string(),
        decision: match case.judgement.decision {
            Decision::Approve => "approve",
            Decision::Ask(_) => "ask",
            Decision::Deny => "deny",
        },
        decided_by: case.judgement.by.clone(),
    }))
}

/// Who asks, in words.
pub(super) fn requester(requester: &Requester) -> String {
    match requester {
        Requester::ConfigFile | Requester::Detection => requester.to_string(),
        Requester::Operator { .. } => format!("operator {requester}"),
        Requester::Job { .. } => format!("job {requester}"),
    }
}
