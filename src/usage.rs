//! The use of routes and tokens, counted: exactly one cell a request, even if it is dropped half-way.
//!
//! ```text
//!  request ─▶ UsageGuard ──of(cell)──▶ attached ──▶ answered ──▶ body … drop ─┬▶ one count, one access-log line
//!                                                                             └▶ one entry of the stream
//! ```
//!
//! A cell belongs to one route and one client of the config; its counters are looked up once and kept, so that a request
//! touches atomics only.

mod ledger;
mod rollup;
mod stream;
mod upload;

use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Method, StatusCode};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use tokio::time::Instant;

use crate::clock::Moment;
use crate::metrics::{Error, Metrics as Registry, OVERHEAD_SECONDS, REQUEST_SECONDS};
use crate::name::{ClientName, RouteName, TokenName};

pub use ledger::{Account, Key, Ledger};
pub use rollup::RollUps;
pub use stream::{Batch, HAND_OVER, Reader, RuleMark, Stream, Use, is_denial};
use stream::{Collector, Entry};
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

/// What all guards of a worker share.
pub struct Observer {
    metrics: Metrics,
    /// Whether each request leaves a line in the log.
    access_log: bool,
    collector: Collector,
}

impl Observer {
    pub fn new(metrics: Metrics, access_log: bool) -> Self {
        Self { collector: Collector::new(metrics.stream.clone()), metrics, access_log }
    }

    /// Hands over the requests that have ended. To be called each [`HAND_OVER`].
    pub fn hand_over(&self) {
        self.collector.hand_over();
    }
}

/// One request, from its head to the last byte of its answer. Counts when dropped.
pub struct UsageGuard {
    observer: Rc<Observer>,
    cell: Option<Arc<Cell>>,
    /// Whether it is one of its cell's running requests.
    runs: bool,
    /// Its place in [`METHODS`].
    method: usize,
    started: Instant,
    /// Our own time until now, as far as the request is with the upstream or done.
    overhead: Duration,
    resumed: Instant,
    status: Option<StatusCode>,
    reason: Option<&'static str>,
    /// The generation that was attached, and when.
    attached: Option<(u64, Moment)>,
    path: Option<String>,
    rule: Option<RuleMark>,
    /// The trace, kept for the access log only.
    trace: Option<Box<str>>,
    upload: Rc<Upload>,
    /// The answer carried the token back.
    echoed: bool,
    /// The app sent a credential of its own.
    shadowed: bool,
    downloaded: u64,
    complete: bool,
}

impl UsageGuard {
    pub fn new(observer: &Rc<Observer>, method: &Method) -> Self {
        let started = Instant::now();
        Self {
            observer: observer.clone(),
            cell: None,
            runs: false,
            method: method_index(method),
            started,
            overhead: Duration::ZERO,
            resumed: started,
            status: None,
            reason: None,
            attached: None,
            path: None,
            rule: None,
            trace: None,
            upload: Rc::default(),
            echoed: false,
            shadowed: false,
            downloaded: 0,
            complete: false,
        }
    }

    /// Of what could not be read as a request.
    pub fn unread(observer: &Rc<Observer>) -> Self {
        let mut guard = Self::new(observer, &Method::GET);
        guard.method = METHODS.len() - 1;
        guard
    }

    /// The request found its route and client.
    pub fn of(&mut self, cell: &Arc<Cell>) {
        self.cell = Some(cell.clone());
    }

    /// Takes one of the places that a client has on a route, until the answer is over. Returns whether there was one;
    /// where there is no limit nothing is counted.
    pub fn enters(&mut self, most: Option<NonZeroU32>) -> bool {
        let (Some(cell), Some(most)) = (&self.cell, most) else { return true };
        let one_more = |running| (running < most.get()).then_some(running + 1);
        self.runs = cell.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        self.runs
    }

    fn leaves(&mut self) {
        if let Some(cell) = self.cell.as_ref().filter(|_| self.runs) {
            cell.running.fetch_sub(1, Ordering::Relaxed);
        }
        self.runs = false;
    }

    /// The judged path, and the allow rule that lets it pass.
    pub fn judged(&mut self, path: &str, rule: Option<RuleMark>) {
        self.path = Some(self.observer.collector.keep(path));
        self.rule = rule;
    }

    /// The trace that the request belongs to.
    pub fn traced(&mut self, trace: &str) {
        if self.observer.access_log {
            self.trace = Some(trace.into());
        }
    }

    /// The app sent a credential of its own.
    pub fn shadow_credential(&mut self) {
        self.shadowed = true;
        if let Some(cell) = &self.cell {
            cell.shadow.inc();
        }
    }

    /// The upstream's answer was not well-formed, or broke off.
    pub fn upstream_erred(&self) {
        if let Some(cell) = &self.cell {
            cell.upstream_errors.inc();
        }
    }

    /// The answer carried the token back.
    pub fn echoed(&mut self) {
        if std::mem::replace(&mut self.echoed, true) {
            return;
        }
        let Some(cell) = &self.cell else { return };
        cell.echoes.inc();
        let so_far = cell.echoes.get();
        // Often enough to be noticed, too seldom to fill the log.
        if so_far.is_power_of_two() {
            tracing::warn!(route = %cell.route, so_far, "an upstream sent the token back: it was taken out of the answer");
        }
    }

    /// From now on somebody else is waited for.
    pub fn waits(&mut self) {
        self.overhead += self.resumed.elapsed();
    }

    /// The wait is over.
    pub fn resumes(&mut self) {
        self.resumed = Instant::now();
    }

    /// A generation of the route's token goes out with the request.
    pub fn attached(&mut self, generation: u64, now: Moment) {
        self.attached = Some((generation, now));
    }

    /// The generation that went out with the request last.
    pub fn generation(&self) -> Option<u64> {
        self.attached.map(|(generation, _)| generation)
    }

    pub fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.overhead += self.resumed.elapsed();
    }

    pub fn refused(&mut self, status: StatusCode, reason: &'static str) {
        self.status = Some(status);
        self.reason = Some(reason);
        self.complete = true;
        if let Some(cell) = &self.cell {
            cell.token_refused(reason);
        }
    }

    pub fn upload(&self) -> &Rc<Upload> {
        &self.upload
    }

    pub fn downloaded(&mut self, bytes: usize) {
        self.downloaded += bytes as u64;
    }

    /// The answer's last byte was handed on.
    pub fn complete(&mut self) {
        self.complete = true;
        self.leaves();
    }

    /// Tells the stream, if the request had found its route.
    fn tell(&mut self, elapsed: Duration) {
        let path = self.path.take();
        let observer = &self.observer;
        if let Some(cell) = self.cell.take() {
            observer.collector.add(path.as_deref().unwrap_or_default(), |path_end| Entry {
                cell,
                started: self.started,
                elapsed,
                attached: self.attached.map(|(generation, moment)| (generation, moment.wall)),
                rule: self.rule,
                reason: self.reason,
                bytes: [self.upload.bytes.get(), self.downloaded],
                path_end,
                status: self.status.map_or(0, |status| status.as_u16()),
                method: self.method as u8,
                shadowed: self.shadowed,
                complete: self.complete,
            });
        }
        if let Some(path) = path {
            observer.collector.give_back(path);
        }
    }

    fn log(&self, elapsed: Duration) {
        let (route, client) = match &self.cell {
            Some(cell) => (cell.route.as_str(), cell.client.as_str()),
            None => ("", ""),
        };
        // A method may be any token of up to its limit's length: an unknown one is not repeated.
        tracing::info!(
            target: "countersign::access",
            client,
            route,
            method = METHODS[self.method],
            path = self.path.as_deref().unwrap_or(""),
            status = self.status.map_or(0, |status| status.as_u16()),
            reason = self.reason.unwrap_or(""),
            generation = self.attached.map_or(0, |(generation, _)| generation),
            request_bytes = self.upload.bytes.get(),
            response_bytes = self.downloaded,
            duration_ms = elapsed.as_micros() as f64 / 1e3,
            complete = self.complete,
            trace = self.trace.as_deref().unwrap_or(""),
            echoed = self.echoed,
            "request"
        );
    }
}

impl Drop for UsageGuard {
    fn drop(&mut self) {
        self.leaves();
        if !self.upload.finished.get() {
            // Whoever still sends the request on does so for nobody.
            self.upload.answered();
        }
        let elapsed = self.started.elapsed();
        let method = self.method;
        let class = class_index(self.status, self.complete);
        match &self.cell {
            None => self.observer.metrics.unrouted(method, class),
            Some(cell) => {
                cell.request(method, class);
                cell.duration.observe(elapsed.as_secs_f64());
                if self.reason.is_none() {
                    cell.overhead.observe(self.overhead.as_secs_f64());
                }
                let bytes = [self.upload.bytes.get(), self.downloaded];
                add(&cell.body_bytes, bytes);
                if let (Some(token), Some((_, attached))) = (&cell.token, self.attached) {
                    token.uses[outcome_index(self.status, self.complete)].inc();
                    token.duration.observe(elapsed.as_secs_f64());
                    token.last_used.set(i64::try_from(attached.wall.as_secs()).unwrap_or(i64::MAX));
                    add(&token.bytes, bytes);
                    token.account.add_bytes(bytes);
                }
            }
        }
        if self.observer.access_log {
            self.log(elapsed);
        }
        self.tell(elapsed);
    }
}

/// Most requests have no body, and adding nothing would still take the counter from other workers' caches.
fn add(counters: &[IntCounter; 2], bytes: [u64; 2]) {
    for (counter, bytes) in counters.iter().zip(bytes).filter(|(_, bytes)| *bytes > 0) {
        counter.inc_by(bytes);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};

    fn scene() -> (Registry, Rc<Observer>, Arc<Cell>) {
        let registry = Registry::new().expect("metrics");
        let metrics = Metrics::register(&registry).expect("metrics");
        let name: RouteName = "github".parse().expect("a name");
        let token: TokenName = "github".parse().expect("a name");
        let cell = Arc::new(metrics.cell(&name, "api.example.com", &ClientName::implicit(), Some(&token)));
        let observer = Rc::new(Observer::new(metrics, false));
        (registry, observer, cell)
    }

    #[test]
    fn a_request_counts_once_when_it_ends() {
        let (registry, observer, cell) = scene();
        let mut guard = UsageGuard::new(&observer, &Method::GET);
        guard.of(&cell);
        guard.attached(1, SystemClock.now());
        guard.answered(StatusCode::OK);
        guard.downloaded(10);
        guard.complete();
        drop(guard);
        let scrape = registry.scrape();
        let line = r#"countersign_requests_total{client="local",method="GET",route="github",status_class="2xx"} 1"#;
        assert!(scrape.contains(line), "{scrape}");
        assert!(scrape.contains(r#"outcome="ok",route="github",token="github"} 1"#), "{scrape}");
        assert!(scrape.contains(r#"countersign_body_bytes_total{direction="response",route="github"} 10"#));
    }

    #[test]
    fn a_request_that_is_dropped_half_way_counts_as_aborted() {
        let (registry, observer, cell) = scene();
        let mut guard = UsageGuard::new(&observer, &Method::POST);
        guard.of(&cell);
        guard.attached(1, SystemClock.now());
        guard.answered(StatusCode::OK);
        drop(guard);
        drop(UsageGuard::new(&observer, &Method::from_bytes(b"PURGE").expect("method")));
        let scrape = registry.scrape();
        assert!(scrape.contains(r#"method="POST",route="github",status_class="aborted"} 1"#), "{scrape}");
        assert!(scrape.contains(r#"outcome="aborted",route="github",token="github"} 1"#));
        assert!(scrape.contains(r#"{client="",method="other",route="",status_class="aborted"} 1"#), "{scrape}");
    }

    #[test]
    fn refusals_for_want_of_a_token_are_summed_until_they_are_taken() {
        let (_, observer, cell) = scene();
        for _ in 0..3 {
            let mut guard = UsageGuard::new(&observer, &Method::GET);
            guard.of(&cell);
            guard.refused(StatusCode::SERVICE_UNAVAILABLE, "token_expired");
        }
        let taken: Vec<_> =
            cell.take_refusals().map(|(token, reason, count)| (token.to_string(), reason, count)).collect();
        assert_eq!(taken, [("github".to_owned(), "token_expired", 3)]);
        assert_eq!(cell.take_refusals().count(), 0);
    }
}
