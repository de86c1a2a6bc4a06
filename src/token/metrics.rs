//! The metrics of tokens. Their labels are token names, owners and kinds from the config.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec};

use super::gate::Gate;
use super::lifecycle::Phase;
use super::probe::Verdict;
use super::{NEVER, Settings, State};
use crate::clock::Moment;
use crate::metrics::{Error, Metrics as Registry, REQUEST_SECONDS};
use crate::name::TokenName;

/// The families.
#[derive(Clone)]
pub struct Metrics {
    info: IntGaugeVec,
    state: IntGaugeVec,
    generation: IntGaugeVec,
    issued: IntGaugeVec,
    expiry: IntGaugeVec,
    grant_expiry: IntGaugeVec,
    rotations: IntCounterVec,
    failures: IntCounterVec,
    duration: HistogramVec,
    issuer_requests: IntCounterVec,
    holds: HistogramVec,
    probes: IntCounterVec,
    restarts: IntCounterVec,
    moves: IntCounterVec,
}

impl Metrics {
    pub fn register(registry: &Registry) -> Result<Self, Error> {
        let token = &["token"];
        Ok(Self {
            info: registry.gauges(
                "token_info",
                "A token of the config: always 1.",
                &["token", "owner", "source", "placement"],
            )?,
            state: registry.gauges(
                "token_state",
                "1 for the state that the token is in, 0 for the others.",
                &["token", "state"],
            )?,
            generation: registry.gauges("token_generation", "The number of the live generation.", token)?,
            issued: registry.gauges(
                "token_issued_timestamp_seconds",
                "When the live generation was issued, as Unix time.",
                token,
            )?,
            expiry: registry.gauges(
                "token_expiry_timestamp_seconds",
                "When the live generation expires, as Unix time.",
                token,
            )?,
            grant_expiry: registry.gauges(
                "token_grant_expiry_timestamp_seconds",
                "When the token's grant ends, as Unix time.",
                token,
            )?,
            rotations: registry.counters(
                "rotations_total",
                "Replacements of a generation by the next, by outcome: success, failure, rolled_back.",
                &["token", "outcome"],
            )?,
            failures: registry.counters(
                "rotation_failures_total",
                "Calls for a generation that failed, the first included, by reason.",
                &["token", "reason"],
            )?,
            duration: registry.histograms(
                "rotation_duration_seconds",
                "From the call to the issuer until the new generation was live.",
                REQUEST_SECONDS,
                token,
            )?,
            issuer_requests: registry.counters(
                "issuer_requests_total",
                "Calls to the token's issuer, by outcome: success, failure.",
                &["token", "outcome"],
            )?,
            holds: registry.histograms(
                "rotation_hold_seconds",
                "How long new requests were held while a generation was replaced that its issuer makes void.",
                REQUEST_SECONDS,
                token,
            )?,
            probes: registry.counters(
                "probes_total",
                "Generations that were tried against the token's API, by outcome: passed, refused, unanswered.",
                &["token", "outcome"],
            )?,
            moves: registry.counters(
                "source_moves_total",
                "Attempts to move a token to its next source, by outcome: success, failure, rolled_back.",
                &["token", "outcome"],
            )?,
            restarts: registry.counters(
                "token_supervisor_restarts_total",
                "Times that the token's supervisor failed and was started again.",
                token,
            )?,
        })
    }

    /// The metrics of one token. Nothing is shown before [`TokenMetrics::begin`].
    pub(super) fn of(&self, settings: &Settings, source: &'static str, moves: bool) -> TokenMetrics {
        TokenMetrics {
            families: self.clone(),
            name: settings.name.clone(),
            owner: settings.owner.clone(),
            placement: settings.placement.label().to_owned(),
            source: Mutex::new(source),
            moves,
            grant_ends: settings.grant_ends,
        }
    }
}

/// The metrics of one token.
pub(super) struct TokenMetrics {
    families: Metrics,
    name: TokenName,
    owner: String,
    placement: String,
    /// The kind of the source in use.
    source: Mutex<&'static str>,
    /// Whether there is a source to move to.
    moves: bool,
    grant_ends: Duration,
}

impl TokenMetrics {
    /// The token's life begins; one of the same name may have been there before it.
    pub(super) fn begin(&self) {
        let name = self.name.as_str();
        self.families.info.with_label_values(&self.info()).set(1);
        if self.grant_ends == NEVER {
            // One of the same name may have had an end.
            let _ = self.families.grant_expiry.remove_label_values(&[name]);
        } else {
            self.families.grant_expiry.with_label_values(&[name]).set(seconds(self.grant_ends));
        }
        for outcome in ["success", "failure"] {
            self.families.issuer_requests.with_label_values(&[name, outcome]);
        }
        for outcome in ["success", "failure", "rolled_back"] {
            self.families.rotations.with_label_values(&[name, outcome]);
            if self.moves {
                self.families.moves.with_label_values(&[name, outcome]);
            }
        }
        for verdict in Verdict::ALL {
            self.families.probes.with_label_values(&[name, verdict.as_str()]);
        }
        self.families.restarts.with_label_values(&[name]);
        self.state(Phase::Provisioning);
    }

    pub(super) fn state(&self, phase: Phase) {
        self.show(match phase {
            Phase::Provisioning => State::Provisioning,
            Phase::Active(_) => State::Active,
            Phase::Expired(_) => State::Expired,
            Phase::Quarantined(_) => State::Quarantined,
            Phase::Revoked => State::Revoked,
            Phase::Retired => State::Retired,
        });
    }

    /// The token waits outside.
    pub(super) fn barred(&self, gate: Gate) {
        match gate {
            Gate::Open => {}
            Gate::Pending(_) => self.show(State::Pending),
            Gate::Denied(_) => self.show(State::Denied),
        }
    }

    fn show(&self, current: State) {
        for state in State::ALL {
            let gauge = self.families.state.with_label_values(&[self.name.as_str(), state.as_str()]);
            gauge.set(i64::from(state == current));
        }
    }

    /// Another token takes the name: what it shows under the same labels stays.
    pub(super) fn superseded_by(&self, other: &Self) {
        if self.info() != other.info() {
            self.forget_info();
        }
    }

    fn forget_info(&self) {
        // A family that never had the series says so; there is nothing to do about it.
        let _ = self.families.info.remove_label_values(&self.info());
    }

    fn info(&self) -> [&str; 4] {
        let source = *self.source.lock().unwrap_or_else(PoisonError::into_inner);
        [self.name.as_str(), &self.owner, source, &self.placement]
    }

    /// Another source is in use.
    pub(super) fn comes_from(&self, source: &'static str) {
        self.forget_info();
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = source;
        self.families.info.with_label_values(&self.info()).set(1);
    }

    pub(super) fn moved(&self, outcome: &str) {
        self.families.moves.with_label_values(&[self.name.as_str(), outcome]).inc();
    }

    pub(super) fn forget(&self) {
        self.forget_info();
        let name = self.name.as_str();
        for state in State::ALL {
            let _ = self.families.state.remove_label_values(&[name, state.as_str()]);
        }
        let families = &self.families;
        for family in [&families.generation, &families.issued, &families.expiry, &families.grant_expiry] {
            let _ = family.remove_label_values(&[name]);
        }
    }

    pub(super) fn answered(&self, outcome: &str) {
        self.families.issuer_requests.with_label_values(&[self.name.as_str(), outcome]).inc();
    }

    pub(super) fn held(&self, lasted: Duration) {
        self.families.holds.with_label_values(&[self.name.as_str()]).observe(lasted.as_secs_f64());
    }

    pub(super) fn probed(&self, verdict: Verdict) {
        self.families.probes.with_label_values(&[self.name.as_str(), verdict.as_str()]).inc();
    }

    pub(super) fn rotated(&self, outcome: &str) {
        self.families.rotations.with_label_values(&[self.name.as_str(), outcome]).inc();
    }

    pub(super) fn failed(&self, reason: &str) {
        self.families.failures.with_label_values(&[self.name.as_str(), reason]).inc();
    }

    pub(super) fn live(&self, number: u64, issued: Moment, expires: Moment) {
        let name = &[self.name.as_str()];
        self.families.generation.with_label_values(name).set(i64::try_from(number).unwrap_or(i64::MAX));
        self.families.issued.with_label_values(name).set(seconds(issued.wall));
        self.families.expiry.with_label_values(name).set(seconds(expires.wall));
    }

    pub(super) fn published(&self, live: &super::lifecycle::Live, took: Duration) {
        self.live(live.number, live.issued, live.expires);
        let name = &[self.name.as_str()];
        self.families.duration.with_label_values(name).observe(took.as_secs_f64());
    }

    /// The supervisor died: until it is back the token has no generation.
    pub(super) fn restarted(&self) {
        self.state(Phase::Provisioning);
        self.families.restarts.with_label_values(&[self.name.as_str()]).inc();
    }
}

fn seconds(since_epoch: Duration) -> i64 {
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}
