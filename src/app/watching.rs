//! Unusual use in the running whole: found as it happens, told, and answered.
//!
//! ```text
//!  stream of uses, a batch at a time ─┐
//!  lives of tokens, each second ──────┴▶ Engine ─▶ anomalies ─▶ trail, log, metrics, the last ones for operators
//!                                                     ├▶ Settings ─▶ holds: a client is throttled or blocked at once
//!                                                     │             └▶ orders ─▶ quarantine, approval: as an operator would
//!                                                     └▶ alarms: alerts, as long as it goes on
//! ```
//!
//! Invariants: whoever reads uses waits for nothing; what is taken out of use goes through the door that operators use, and
//! they let it in again; what waits is bounded by the tokens and clients that there are.

mod alarm;
mod answers;
mod memory;
mod replacing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use prometheus::{GaugeVec, IntCounterVec};
use serde_json::Value;
use tokio::sync::Notify;

use super::holds::{Holds, Measure, SELF};
use super::house::House;
use super::keep::OpenError;
use crate::admin::anomalies::Anomalies;
use crate::alert::Alerts;
use crate::audit::{Event as Record, Recorder};
use crate::clock::{Clock, Moment};
use crate::detect::event::{Event, Step, Time};
use crate::detect::response::{Response, Settings};
use crate::detect::{Anomaly, Engine};
use crate::metrics::Metrics;
use crate::name::{ClientName, TokenName};
use crate::store::Store;
use crate::token::{self, Order, Token};
use crate::usage::{News, Reader, Use};
use alarm::Alarms;
use replacing::Replacing;

/// How often lives are looked at, and time passes where nobody uses anything.
const LOOK: Duration = Duration::from_secs(1);

/// Whoever is throttled may ask for as much at least, in an hour and at once: what is usual may be nothing.
const LEAST_HOURLY: u32 = 12;
const LEAST_AT_ONCE: u32 = 4;

/// Anomalies that are shown to operators; the trail has all.
const MOST_SHOWN: usize = 256;

/// How long the metric shows a score.
const FRESH: Duration = Duration::from_secs(3600);

pub(super) struct Watching {
    recorder: Recorder,
    clock: Arc<dyn Clock>,
    store: Arc<Store>,
    figures: Figures,
    holds: Arc<Holds>,
    state: Mutex<State>,
    /// There are orders, or holds that are not kept.
    ordered: Notify,
}

struct State {
    engine: Engine,
    settings: Settings,
    /// The newest last.
    shown: VecDeque<Value>,
    /// When the last anomaly of each token was.
    scored: BTreeMap<TokenName, Duration>,
    /// What is to be done about tokens, as soon as possible.
    orders: BTreeMap<(TokenName, Deed), Order>,
    replacing: BTreeMap<TokenName, Replacing>,
    /// From whom something is held back that is not on the disk yet.
    unkept: BTreeSet<ClientName>,
    lives: BTreeMap<TokenName, Life>,
    alarms: Alarms,
}

/// What is done about a token otherwise than in one go.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Deed {
    Quarantine,
    Replace,
    /// The client uses it when somebody has approved that.
    Approval(ClientName),
}

struct Figures {
    anomalies: IntCounterVec,
    score: GaugeVec,
}

/// How far a token's life was followed.
struct Life {
    /// Another one of its name may have other terms.
    of: Weak<Token>,
    generation: u64,
    length: Option<Duration>,
    /// The scopes that its issuer last said it has.
    granted: Option<Arc<[String]>>,
    /// How often its issuer had said no.
    refusals: u64,
    issuer_changes: u64,
}

impl Watching {
    /// Takes up what was kept. Blocks.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn open(
        store: Arc<Store>,
        recorder: Recorder,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
        alerts: Arc<Alerts>,
        holds: Arc<Holds>,
        settings: Settings,
    ) -> Result<Arc<Self>, OpenError> {
        let figures = Figures {
            anomalies: metrics.counters(
                "anomalies_total",
                "Unusual use of a token, by its gravest signal and what was done about it.",
                &["token", "signal", "response"],
            )?,
            score: metrics.ratios(
                "anomaly_score",
                "The score of the token's last anomaly, for an hour: the chance that thirty quiet days bring none as strong.",
                &["token"],
            )?,
        };
        let mut engine = memory::open(&store, &recorder, clock.now().wall)?;
        engine.settle(&settings);
        let state = State {
            engine,
            settings,
            shown: VecDeque::new(),
            scored: BTreeMap::new(),
            orders: BTreeMap::new(),
            replacing: BTreeMap::new(),
            unkept: BTreeSet::new(),
            lives: BTreeMap::new(),
            alarms: Alarms::resume(alerts, clock.now().wall),
        };
        let (state, ordered) = (Mutex::new(state), Notify::new());
        Ok(Arc::new(Self { recorder, clock, store, figures, holds, state, ordered }))
    }

    /// Who looks at uses.
    pub fn eyes(self: &Arc<Self>) -> Box<dyn Reader> {
        Box::new(Eyes { watching: self.clone(), event: Event::default() })
    }

    /// Other answers from now on.
    pub fn settle(&self, settings: Settings) {
        let mut state = self.lock();
        state.engine.settle(&settings);
        state.settings = settings;
    }

    /// The last anomalies, the newest first.
    pub fn shown(&self) -> Vec<Value> {
        self.lock().shown.iter().rev().cloned().collect()
    }

    /// Follows the lives of tokens, and lets time pass.
    fn look(&self, tokens: &BTreeMap<TokenName, Arc<Token>>) {
        let now = self.clock.now();
        let mut state = self.lock();
        let mut all = state.engine.pass(Time(now.wall));
        state.lives.retain(|name, _| tokens.contains_key(name));
        for (name, token) in tokens {
            for step in state.steps(name, token, now) {
                let event =
                    Event { time: Time(now.wall), token: name.to_string(), event: Some(step), ..Event::default() };
                all.extend(state.engine.add(&event));
            }
        }
        self.tell(&mut state, all);
        let State { scored, alarms, engine, .. } = &mut *state;
        let lasts = |token: &Token, name: &str, client: &str| {
            let is_quarantined = token.look(now).state == token::State::Quarantined;
            is_quarantined || self.holds.is_held(name, Some(client)) || engine.goes_on(name, client, Time(now.wall))
        };
        alarms.pass(now.wall, |name, client| match name {
            "" => Some(self.holds.is_held(name, Some(client)) || engine.goes_on(name, client, Time(now.wall))),
            name => tokens.get(name).map(|token| lasts(token, name, client)),
        });
        for (token, _) in scored.extract_if(.., |token, at| !tokens.contains_key(token) || now.wall >= *at + FRESH) {
            // A family that never had the series says so.
            let _ = self.figures.score.remove_label_values(&[token.as_str()]);
        }
    }

    /// A phantom key came from a client where it cannot be, towards a route with this token.
    pub fn tripped(&self, client: Option<&ClientName>, token: Option<&TokenName>) {
        let event = Event {
            time: Time(self.clock.now().wall),
            token: token.map(ToString::to_string).unwrap_or_default(),
            event: Some(Step::Tripwire),
            client: client.map(ToString::to_string).unwrap_or_default(),
            ..Event::default()
        };
        let mut state = self.lock();
        let all = state.engine.add(&event);
        self.tell(&mut state, all);
    }

    /// A person says that what was unusual about a token is over.
    pub fn released(&self, token: &TokenName) {
        let mut state = self.lock();
        state.alarms.release(token);
        state.engine.close(token.as_str());
        state.replacing.remove(token);
    }

    /// Whether what was told of a client's use of a token goes on.
    fn goes_on(&self, token: &TokenName, client: &ClientName) -> bool {
        self.lock().engine.goes_on(token.as_str(), client.as_str(), Time(self.clock.now().wall))
    }

    /// A throttle is over by itself.
    fn is_calm(&self, token: &TokenName, client: &ClientName) {
        self.lock().engine.rearm(token.as_str(), client.as_str());
    }

    /// A person approves of what a client uses a token for.
    fn approve(&self, token: &TokenName, client: &ClientName) {
        self.lock().engine.approve(token.as_str(), client.as_str(), Time(self.clock.now().wall));
    }

    /// It goes on.
    fn approved(&self, token: &TokenName, client: &ClientName) {
        self.lock().alarms.release_client(client, Some(token));
    }

    /// A person lets a client in again.
    fn forgive(&self, client: &ClientName) {
        let mut state = self.lock();
        state.alarms.release_client(client, None);
        state.engine.forgive(client.as_str());
    }

    /// Whether something unusual that was told of a token goes on, or may.
    pub fn is_open(&self, token: &TokenName) -> bool {
        let state = self.lock();
        state.alarms.is_open(token) || state.engine.is_open(token.as_str(), Time(self.clock.now().wall))
    }

    fn tell(&self, state: &mut State, anomalies: Vec<Anomaly>) {
        for anomaly in anomalies {
            // Names come from the config, by way of the engine; some anomalies are of no token.
            let token = anomaly.token.parse::<TokenName>().ok();
            let token = token.as_ref();
            let now = self.clock.now().wall;
            let deeds = state.settings.deeds(&anomaly, now);
            let Some((response, _)) = deeds.last().cloned() else { continue };
            self.write_down(token, &anomaly, response);
            let life = token.and_then(|token| state.lives.get(token)).and_then(|life| life.of.upgrade());
            state.alarms.raise(token, &anomaly, &deeds, life.as_ref().map(|life| &*life.settings.owner), now);
            if let Some(token) = token {
                self.figures.score.with_label_values(&[token.as_str()]).set(anomaly.score());
                state.scored.insert(token.clone(), anomaly.time.0);
            }
            if state.shown.len() >= MOST_SHOWN {
                state.shown.pop_front();
            }
            state.shown.push_back(anomaly.to_json(response.as_str()));
            for (response, client) in deeds {
                self.act(state, token, &client, response, &anomaly);
            }
        }
    }

    /// What can be done at once is done; the rest is ordered.
    fn act(&self, state: &mut State, token: Option<&TokenName>, client: &str, response: Response, anomaly: &Anomaly) {
        let order = |anomaly: &Anomaly| {
            let (signal, severity) = (anomaly.signal().as_str(), anomaly.severity.as_str());
            let reason = format!("anomaly: {signal}, {severity}: {}", anomaly.said());
            Order { by: SELF.to_owned(), reason, since: Some(anomaly.time.0) }
        };
        let own = || order(&anomaly.of(client));
        match (response, client.parse::<ClientName>(), token) {
            (Response::Throttle, Ok(client), Some(token)) => {
                let (hourly, burst) = state.engine.usual(token.as_str(), client.as_str());
                let least = |figure: f64, least: u32| (figure.ceil() as u32).max(least);
                let measure =
                    Measure::Throttle(token.clone(), least(hourly, LEAST_HOURLY), least(burst, LEAST_AT_ONCE));
                self.hold(state, client, &measure, own());
            }
            (Response::Block, Ok(client), _) => self.hold(state, client, &Measure::Block, own()),
            (Response::Approval, Ok(client), Some(token)) => self.order(state, token, Deed::Approval(client), own()),
            (Response::Quarantine, _, Some(token)) => self.order(state, token, Deed::Quarantine, order(anomaly)),
            (Response::Replace, _, Some(token)) => self.order(state, token, Deed::Replace, order(anomaly)),
            (Response::Exempt | Response::Observe | Response::Alert, ..) | (_, Err(_), _) | (_, _, None) => {}
        }
    }

    fn order(&self, state: &mut State, token: &TokenName, deed: Deed, order: Order) {
        state.orders.insert((token.clone(), deed), order);
        self.ordered.notify_one();
    }

    fn hold(&self, state: &mut State, client: ClientName, measure: &Measure, order: Order) {
        if self.holds.put(&client, measure, order) {
            state.unkept.insert(client);
            self.ordered.notify_one();
        }
    }

    fn write_down(&self, token: Option<&TokenName>, anomaly: &Anomaly, response: Response) {
        let (signal, severity, response) = (anomaly.signal().as_str(), anomaly.severity.as_str(), response.as_str());
        let (client, score, said) = (anomaly.client.as_str(), anomaly.rounded_score(), anomaly.said());
        let name = token.map(TokenName::as_str).unwrap_or_default();
        self.figures.anomalies.with_label_values(&[name, signal, response]).inc();
        tracing::warn!(token = name, client, signal, severity, score, response, said, "what a client does is unusual");
        self.recorder.note(Record::Anomaly {
            token: token.cloned(),
            client: client.to_owned(),
            signal,
            score,
            severity,
            response,
            said,
            since: anomaly.time.0,
        });
    }

    fn next_order(&self) -> Option<(TokenName, Deed, Order)> {
        self.lock().orders.pop_first().map(|((token, deed), order)| (token, deed, order))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What has become of a token since it was last looked at.
    fn steps(&mut self, name: &TokenName, token: &Arc<Token>, now: Moment) -> Vec<Step> {
        let generation = token.look(now).generation;
        let life = Life {
            of: Arc::downgrade(token),
            generation: generation.as_ref().map_or(0, |generation| generation.number),
            length: generation.as_ref().map(|of| of.expires.wall.saturating_sub(of.issued.wall)),
            granted: token.granted(),
            refusals: token.refusals(),
            issuer_changes: token.issuer_changes(),
        };
        match self.lives.get_mut(name) {
            Some(known) => {
                let before = std::mem::replace(known, life);
                if before.of.as_ptr() == Arc::as_ptr(token) { known.follow(before) } else { Vec::new() }
            }
            None => {
                self.lives.insert(name.clone(), life);
                Vec::new()
            }
        }
    }
}

impl Life {
    /// What has happened since `before`.
    fn follow(&mut self, before: Self) -> Vec<Step> {
        // One that is out of use for a while is not issued again when it is let in.
        self.generation = self.generation.max(before.generation);
        let more = self.generation.saturating_sub(before.generation).min(MOST_STEPS);
        let step = if before.generation == 0 { Step::Issued } else { Step::Rotated };
        let mut steps = vec![step; usize::try_from(more).unwrap_or_default()];
        if more == 0 {
            // A generation that its issuer renews ends later, and was granted for as long as before.
            self.length = before.length;
        } else if let (Some(length), Some(usual)) = (self.length, before.length)
            && (length > usual.saturating_mul(2) || length < usual / 2)
        {
            steps.push(Step::ExpiryChanged);
        }
        if before.granted.is_some() && before.granted != self.granted {
            steps.push(Step::ScopeChanged);
        }
        if self.issuer_changes > before.issuer_changes {
            steps.push(Step::IssuerChanged);
        }
        let refused = self.refusals.saturating_sub(before.refusals).min(MOST_STEPS);
        steps.extend(std::iter::repeat_n(Step::Refused, usize::try_from(refused).unwrap_or_default()));
        steps
    }
}

/// Generations of one token within a look that count.
const MOST_STEPS: u64 = 16;

/// Whoever looks at uses, a batch at a time.
struct Eyes {
    watching: Arc<Watching>,
    /// Used again for each.
    event: Event,
}

impl Reader for Eyes {
    fn read(&mut self, news: &News<'_>) {
        let mut state = self.watching.lock();
        let mut all = Vec::new();
        for used in news.iter() {
            if used.shadowed && used.is_over {
                fill(&mut self.event, used, used.route_token, Some(Step::Shadow));
                all.extend(state.engine.add(&self.event));
            }
            // What policy said no to says more of whoever asked than what it let through.
            if let Some(token) = used.token.or(used.denied_token()) {
                fill(&mut self.event, used, Some(token), (!used.is_over).then_some(Step::UnderWay));
                all.extend(state.engine.add(&self.event));
            }
        }
        all.extend(state.engine.weigh());
        self.watching.tell(&mut state, all);
    }

    fn lost(&mut self, _: u64) {
        // The stream itself counts what is lost.
    }
}

/// What is looked at of a use, in place of what was looked at before.
fn fill(event: &mut Event, used: &Use<'_>, token: Option<&TokenName>, step: Option<Step>) {
    let write = |text: &mut String, value: &str| {
        text.clear();
        text.push_str(value);
    };
    write(&mut event.token, token.map(TokenName::as_str).unwrap_or_default());
    write(&mut event.reason, used.reason.unwrap_or_default());
    write(&mut event.client, used.client.as_str());
    write(&mut event.host, used.host);
    write(&mut event.method, used.method);
    write(&mut event.path, used.path);
    (event.time, event.event) = (Time(used.at), step);
    event.duration = used.duration;
    event.status = used.status;
    [event.request_bytes, event.response_bytes] = used.fresh;
    if event.is_under_way() {
        // It is of now; what it comes to is known at its end.
        event.time = Time(used.at.saturating_add(std::mem::take(&mut event.duration)));
        event.status = 0;
    }
}

impl Anomalies for House {
    fn anomalies(&self) -> Vec<Value> {
        self.ground.watching.shown()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(generation: u64, hours: u64) -> Life {
        let length = Some(Duration::from_secs(hours * 3600));
        Life { of: Weak::new(), generation, length, granted: None, refusals: 0, issuer_changes: 0 }
    }

    #[test]
    fn a_generation_that_is_renewed_has_the_lifetime_that_it_was_granted() {
        let mut renewed = life(1, 3);
        assert_eq!(renewed.follow(life(1, 1)), []);
        let mut next = life(2, 1);
        assert_eq!(next.follow(renewed), [Step::Rotated], "it lives for as long as the one before was to");
        assert_eq!(life(3, 3).follow(next), [Step::Rotated, Step::ExpiryChanged]);
        assert_eq!(life(2, 3).follow(life(1, 1)), [Step::Rotated, Step::ExpiryChanged]);
        assert_eq!(life(1, 1).follow(Life { length: None, ..life(0, 0) }), [Step::Issued]);
    }

    #[test]
    fn a_generation_that_is_let_in_again_is_not_issued_again() {
        let mut withdrawn = Life { length: None, ..life(0, 0) };
        assert_eq!(withdrawn.follow(life(7, 1)), []);
        let mut released = life(7, 1);
        assert_eq!(released.follow(withdrawn), []);
        assert_eq!(life(8, 1).follow(released), [Step::Rotated]);
    }
}
