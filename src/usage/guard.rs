//! One request on its way through the house, and what is counted of it.

use std::cell::Cell as StdCell;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Method, StatusCode};
use prometheus::IntCounter;
use tokio::time::Instant;

use super::stream::{Collector, Entry};
use super::{Cell, METHODS, Metrics, RuleMark, Upload, class_index, method_index, outcome_index};
use crate::clock::Moment;

/// For so many seconds an exchange is short: nothing is told of it before its end, nor more often than that.
const LASTS: u64 = 10;

/// What all guards of a worker share.
pub struct Observer {
    metrics: Metrics,
    /// Whether each request leaves a line in the log.
    access_log: bool,
    pub(super) collector: Collector,
    /// Since boot, as of when uses were last handed over: whoever only wants to know whether it has lasted reads no clock.
    second: StdCell<u64>,
}

impl Observer {
    pub fn new(metrics: Metrics, access_log: bool) -> Self {
        let collector = Collector::new(metrics.stream.clone());
        Self { collector, metrics, access_log, second: StdCell::new(0) }
    }

    /// Hands over the requests that have ended, and what has moved of others. To be called each [`super::HAND_OVER`].
    pub fn hand_over(&self, now: Moment) {
        self.second.set(now.boot.as_secs());
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
    /// The bytes that were counted while it was under way, and when that was last looked at.
    counted: [u64; 2],
    looked: u64,
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
            counted: [0; 2],
            looked: observer.second.get(),
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
    pub fn traced(&mut self, trace: impl AsRef<str>) {
        if self.observer.access_log {
            self.trace = Some(trace.as_ref().into());
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
        self.goes_on();
    }

    /// As many bytes as that have passed in all, either way.
    pub fn carried(&mut self, sent: u64, received: u64) {
        self.upload.bytes.set(sent);
        self.downloaded = received;
        self.goes_on();
    }

    /// It is not over: where it has lasted, what has moved since the last time is counted and told. To be called where something
    /// moves.
    pub fn goes_on(&mut self) {
        let second = self.observer.second.get();
        if second.wrapping_sub(self.looked) >= LASTS {
            self.looked = second;
            self.tell_so_far();
        }
    }

    #[cold]
    fn tell_so_far(&mut self) {
        let fresh = self.count_bytes();
        if fresh != [0; 2] {
            self.tell(self.started.elapsed(), fresh, false);
        }
    }

    /// Counts the bytes that were not counted yet, and says how many they are.
    fn count_bytes(&mut self) -> [u64; 2] {
        let bytes = [self.upload.bytes.get(), self.downloaded];
        let before = std::mem::replace(&mut self.counted, bytes);
        let fresh = [bytes[0].saturating_sub(before[0]), bytes[1].saturating_sub(before[1])];
        if let Some(cell) = &self.cell {
            add(&cell.body_bytes, fresh);
            if let Some(token) = cell.token.as_ref().filter(|_| self.attached.is_some()) {
                add(&token.bytes, fresh);
                token.account.add_bytes(fresh);
            }
        }
        fresh
    }

    /// The answer's last byte was handed on.
    pub fn complete(&mut self) {
        self.complete = true;
        self.leaves();
    }

    /// Tells the stream, if the request had found its route.
    fn tell(&mut self, elapsed: Duration, fresh: [u64; 2], is_over: bool) {
        let collector = &self.observer.collector;
        let cell = if is_over { self.cell.take() } else { self.cell.clone() };
        if let Some(cell) = cell {
            collector.add(self.path.as_deref().unwrap_or_default(), |path_end| Entry {
                cell,
                started: self.started,
                elapsed,
                attached: self.attached.map(|(generation, moment)| (generation, moment.wall)),
                rule: self.rule,
                reason: self.reason,
                bytes: self.counted,
                fresh,
                path_end,
                status: self.status.map_or(0, |status| status.as_u16()),
                method: self.method as u8,
                shadowed: self.shadowed,
                complete: self.complete,
                is_over,
            });
        }
        if let Some(path) = self.path.take_if(|_| is_over) {
            collector.give_back(path);
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
        let fresh = self.count_bytes();
        match &self.cell {
            None => self.observer.metrics.unrouted(method, class),
            Some(cell) => {
                cell.request(method, class);
                cell.duration.observe(elapsed.as_secs_f64());
                if self.reason.is_none() {
                    cell.overhead.observe(self.overhead.as_secs_f64());
                }
                if let (Some(token), Some((_, attached))) = (&cell.token, self.attached) {
                    token.uses[outcome_index(self.status, self.complete)].inc();
                    token.duration.observe(elapsed.as_secs_f64());
                    token.last_used.set(i64::try_from(attached.wall.as_secs()).unwrap_or(i64::MAX));
                }
            }
        }
        if self.observer.access_log {
            self.log(elapsed);
        }
        self.tell(elapsed, fresh, true);
    }
}

/// Most requests have no body, and adding nothing would still take the counter from other workers' caches.
fn add(counters: &[IntCounter; 2], bytes: [u64; 2]) {
    for (counter, bytes) in counters.iter().zip(bytes).filter(|(_, bytes)| *bytes > 0) {
        counter.inc_by(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::metrics::Metrics as Registry;
    use crate::name::{ClientName, RouteName, TokenName};

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
    fn bytes_of_a_request_that_lasts_are_counted_while_it_runs_and_the_request_once() {
        let (registry, observer, cell) = scene();
        observer.second.set(100);
        let mut guard = UsageGuard::new(&observer, &Method::GET);
        guard.of(&cell);
        guard.judged("/archive", None);
        guard.attached(1, SystemClock.now());
        let counted = || {
            let scrape = registry.scrape();
            let value = |name: &str| {
                let line = scrape.lines().find(|line| line.starts_with(name));
                line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
            };
            (value("countersign_requests_total"), value(r#"countersign_token_bytes_total{direction="response""#))
        };
        guard.downloaded(1);
        observer.second.set(109);
        guard.downloaded(2);
        assert_eq!(counted(), (0, 0), "it is short as yet");
        observer.second.set(110);
        guard.upload().bytes.set(5);
        guard.downloaded(4);
        guard.downloaded(8);
        assert_eq!(counted(), (0, 7), "and not with each piece");
        observer.second.set(120);
        guard.goes_on();
        observer.second.set(130);
        guard.goes_on();
        guard.answered(StatusCode::OK);
        guard.downloaded(16);
        drop(guard);
        assert_eq!(counted(), (1, 31));
        let mut told = Vec::new();
        observer.collector.look(|batch| {
            let news = batch.news();
            told = news.iter().map(|used| (used.is_over, used.fresh, used.response_bytes, used.path.len())).collect();
            assert_eq!(news.uses().count(), 1);
        });
        let path = "/archive".len();
        assert_eq!(told, [(false, [5, 7], 7, path), (false, [0, 8], 15, path), (true, [0, 16], 31, path)]);
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
