//! The use of routes and tokens, counted: exactly one cell a request, even if it is dropped half-way.
//!
//! ```text
//!  request ─▶ UsageGuard ──of(cell)──▶ attached ──▶ answered ──▶ body … drop ─┬▶ one count, one access-log line
//!                                                                             └▶ one entry of the stream
//! ```
//!
//! An exchange that lasts is counted when it ends, as all are; its bytes are counted, and told, every ten seconds while they move.
//!
//! A cell belongs to one route and one client of the config; its counters are looked up once and kept, so that a request
//! touches atomics only.

mod guard;
mod ledger;
mod rollup;
mod stream;
mod upload;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use http::{Method, StatusCode};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use crate::metrics::{Error, Metrics as Registry, OVERHEAD_SECONDS, REQUEST_SECONDS};
use crate::name::{ClientName, RouteName, TokenName};

pub use guard::{Observer, UsageGuard};
pub use ledger::{Account, Key, Ledger};
pub use rollup::RollUps;
pub use stream::{HAND_OVER, News, Reader, RuleMark, Stream, Use, is_denial};
pub use upload::{Upload, UploadFailure};

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"];
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "aborted"];
/// Policy's noes that a route may observe instead of enforcing them.
const OBSERVED: [&str; 3] = ["method_denied", "path_denied", "rate_limited"];
const OUTCOMES: [&str; 7] =
    ["ok", "client_error", "unauthorized", "forbidden", "rate_limited", "server_error", "aborted"];

/// The families.
#[derive(Clone)]
pub struct Metrics {
    requests: IntCounterVec,
    duration: HistogramVec,
    overhead: HistogramVec,
    body_bytes: IntCounterVec,
    shadow: IntCounterVec,
    observed: IntCounterVec,
    upstream_errors: IntCounterVec,
    echoes: IntCounterVec,
    uses: IntCounterVec,
    last_used: IntGaugeVec,
    token_bytes: IntCounterVec,
    token_duration: HistogramVec,
    ledger: Ledger,
    stream: Arc<Stream>,
}

impl Metrics {
    pub fn register(registry: &Registry) -> Result<Self, Error> {
        Ok(Self {
            requests: registry.counters(
                "requests_total",
                "Requests that ended. Without route: refused before one was found.",
                &["route", "client", "method", "status_class"],
            )?,
            duration: registry.histograms(
                "request_duration_seconds",
                "From the request's head to the end of the answer's body.",
                REQUEST_SECONDS,
                &["route"],
            )?,
            overhead: registry.histograms(
                "proxy_overhead_seconds",
                "Our own share of a request: without waiting for a connection, a token or the upstream.",
                OVERHEAD_SECONDS,
                &["route"],
            )?,
            body_bytes: registry.counters(
                "body_bytes_total",
                "Bytes of bodies: request towards the upstream, response towards the client.",
                &["route", "direction"],
            )?,
            shadow: registry.counters(
                "shadow_credentials_total",
                "Requests in which the app sent a credential of its own.",
                &["route", "client"],
            )?,
            observed: registry.counters(
                "observed_total",
                "Requests that passed because their route only observes, by the reason for which it would refuse them.",
                &["route", "reason"],
            )?,
            upstream_errors: registry.counters(
                "upstream_protocol_errors_total",
                "Answers that were not well-formed, or whose connection broke before they were whole.",
                &["route"],
            )?,
            echoes: registry.counters(
                "credential_echoes_total",
                "Answers that carried the token back; it was taken out.",
                &["route"],
            )?,
            uses: registry.counters(
                "token_uses_total",
                "Requests that a token was attached to, by outcome.",
                &["token", "client", "route", "outcome"],
            )?,
            last_used: registry.gauges(
                "token_last_used_timestamp_seconds",
                "When the token was last attached to a request, as Unix time.",
                &["token"],
            )?,
            token_bytes: registry.counters(
                "token_bytes_total",
                "Bytes of bodies of requests that the token was attached to.",
                &["token", "direction"],
            )?,
            token_duration: registry.histograms(
                "token_request_duration_seconds",
                "Duration of the requests that the token was attached to.",
                REQUEST_SECONDS,
                &["token"],
            )?,
            ledger: Ledger::default(),
            stream: Arc::new(Stream::new(registry.counter(
                "usage_events_lost_total",
                "Requests that were counted, and that nobody could look at: too many waited.",
            )?)),
        })
    }

    /// What all cells count together.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Each request that found its route, for whoever looks at them.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// The cell of one route, which leads to `host`, and one client.
    pub fn cell(&self, route: &RouteName, host: &str, client: &ClientName, token: Option<&TokenName>) -> Cell {
        let name = route.as_str();
        Cell {
            duration: self.duration.with_label_values(&[name]),
            overhead: self.overhead.with_label_values(&[name]),
            body_bytes: ["request", "response"].map(|way| self.body_bytes.with_label_values(&[name, way])),
            shadow: self.shadow.with_label_values(&[name, client.as_str()]),
            upstream_errors: self.upstream_errors.with_label_values(&[name]),
            echoes: self.echoes.with_label_values(&[name]),
            requests: std::array::from_fn(|_| OnceLock::new()),
            observed: std::array::from_fn(|_| OnceLock::new()),
            running: AtomicU32::new(0),
            token: token.map(|token| self.token_cell(route, client, token)),
            families: self.clone(),
            host: host.into(),
            route: route.clone(),
            client: client.clone(),
            refused: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    fn token_cell(&self, route: &RouteName, client: &ClientName, token: &TokenName) -> TokenCell {
        let labels = |outcome| [token.as_str(), client.as_str(), route.as_str(), outcome];
        let uses = OUTCOMES.map(|outcome| self.uses.with_label_values(&labels(outcome)));
        let key = Key { token: token.clone(), client: client.clone(), route: route.clone() };
        TokenCell {
            account: self.ledger.account(key, &uses),
            uses,
            last_used: self.last_used.with_label_values(&[token.as_str()]),
            bytes: ["request", "response"].map(|way| self.token_bytes.with_label_values(&[token.as_str(), way])),
            duration: self.token_duration.with_label_values(&[token.as_str()]),
            name: token.clone(),
        }
    }

    fn unrouted(&self, method: usize, class: usize) {
        self.requests.with_label_values(&["", "", METHODS[method], CLASSES[class]]).inc();
    }
}

/// The counters of one route and one client.
pub struct Cell {
    families: Metrics,
    pub host: Box<str>,
    pub route: RouteName,
    pub client: ClientName,
    duration: Histogram,
    overhead: Histogram,
    body_bytes: [IntCounter; 2],
    shadow: IntCounter,
    upstream_errors: IntCounter,
    echoes: IntCounter,
    requests: [OnceLock<IntCounter>; METHODS.len() * CLASSES.len()],
    observed: [OnceLock<IntCounter>; OBSERVED.len()],
    /// Requests under way, where there is a limit to them.
    running: AtomicU32,
    token: Option<TokenCell>,
    refused: [AtomicU64; TOKEN_REFUSALS.len()],
}

struct TokenCell {
    name: TokenName,
    account: Arc<Account>,
    uses: [IntCounter; OUTCOMES.len()],
    last_used: IntGauge,
    bytes: [IntCounter; 2],
    duration: Histogram,
}

/// Why a request went without its token, as the trail says it; the trail gets sums, not one record a request.
pub const TOKEN_REFUSALS: [&str; 9] = [
    "token_pending",
    "token_expired",
    "token_unavailable",
    "reauth_required",
    "approval_denied",
    "audit_unavailable",
    "token_quarantined",
    "token_revoked",
    "throttled",
];

impl Cell {
    /// A request was refused because its token could not be attached.
    pub fn token_refused(&self, reason: &str) {
        if let Some(at) = TOKEN_REFUSALS.iter().position(|known| *known == reason) {
            self.refused[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request passed that would have been refused, for one of the reasons that are observed.
    pub fn observed(&self, reason: &str) {
        if let Some(at) = OBSERVED.iter().position(|known| *known == reason) {
            let counter = || self.families.observed.with_label_values(&[self.route.as_str(), reason]);
            self.observed[at].get_or_init(counter).inc();
        }
    }

    /// The refusals since the last call: token, reason, number.
    pub fn take_refusals(&self) -> impl Iterator<Item = (&TokenName, &'static str, u64)> {
        let token = self.token.iter().map(|token| &token.name);
        token.flat_map(|token| {
            self.refused.iter().zip(TOKEN_REFUSALS).filter_map(move |(count, reason)| {
                // Most are zero, and a plain read leaves the line shared between the workers' caches.
                if count.load(Ordering::Relaxed) == 0 {
                    return None;
                }
                Some((token, reason, count.swap(0, Ordering::Relaxed)))
            })
        })
    }

    fn request(&self, method: usize, class: usize) {
        self.requests[method * CLASSES.len() + class]
            .get_or_init(|| {
                self.families.requests.with_label_values(&[
                    self.route.as_str(),
                    self.client.as_str(),
                    METHODS[method],
                    CLASSES[class],
                ])
            })
            .inc();
    }
}

/// A method as it may be shown: one that nobody knows is not repeated.
pub fn known_method(method: &Method) -> &'static str {
    METHODS[method_index(method)]
}

fn method_index(method: &Method) -> usize {
    METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(METHODS.len() - 1)
}

fn class_index(status: Option<StatusCode>, complete: bool) -> usize {
    match status {
        Some(status) if complete => usize::from(status.as_u16() / 100).clamp(1, 5) - 1,
        _ => CLASSES.len() - 1,
    }
}

fn outcome_index(status: Option<StatusCode>, complete: bool) -> usize {
    let outcome = match status.map(|status| status.as_u16()) {
        None => "aborted",
        Some(_) if !complete => "aborted",
        Some(100..=399) => "ok",
        Some(401) => "unauthorized",
        Some(403) => "forbidden",
        Some(429) => "rate_limited",
        Some(400..=499) => "client_error",
        Some(_) => "server_error",
    };
    OUTCOMES.iter().position(|known| *known == outcome).unwrap_or(OUTCOMES.len() - 1)
}
