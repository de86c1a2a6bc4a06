//! What is held back from clients while their use is unusual, kept over reloads and restarts until it is over or released.
//!
//! ```text
//! put    request path: from the next request on ─▶ trail ─▶ sealed state
//! lift   the trail has it ─▶ sealed state ─▶ request path
//! ```
//!
//! Invariants: nothing is let in that the trail has not; of a record that cannot be trusted its name can: that client is blocked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use prometheus::IntGaugeVec;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::keep::{OpenError, keep};
use crate::access::request::{RequestId, rfc3339};
use crate::admin::NotDone;
use crate::audit::{Event, Recorder};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::name::{ClientName, TokenName};
use crate::policy::hold::{Approval, Hold, Terms};
use crate::policy::limit::{Rate, RateLimit};
use crate::proxy::Cut;
use crate::store::Store;
use crate::token::Order;

/// Who holds back and lets in by itself, as the trail has it.
pub(super) const SELF: &str = "detection";

/// As the store knows it.
const KIND: &str = "hold";

pub(super) struct Holds {
    clock: Arc<dyn Clock>,
    recorder: Recorder,
    store: Arc<Store>,
    figure: IntGaugeVec,
    state: Mutex<State>,
    /// What is kept is written by one at a time.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    clients: BTreeMap<ClientName, Kept>,
    /// Those that tables have.
    handed: BTreeMap<(ClientName, Option<TokenName>), Weak<Hold>>,
}

/// What is kept of a client.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blocked: Option<Cause>,
    #[serde(default)]
    tokens: BTreeMap<TokenName, OfToken>,
}

#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct OfToken {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    throttle: Option<Throttle>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    approval: Option<Asked>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Throttle {
    hourly: u32,
    burst: u32,
    cause: Cause,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    request: RequestId,
    is_denied: bool,
    cause: Cause,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cause {
    /// In seconds since the Unix epoch.
    since: u64,
    by: String,
    reason: String,
}

/// What is held back from a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Measure {
    /// Of a token, more than this in an hour, and at once.
    Throttle(TokenName, u32, u32),
    /// Of a token, all of it until this is approved.
    Approval(TokenName, RequestId),
    Block,
}

impl Measure {
    fn token(&self) -> Option<&TokenName> {
        match self {
            Self::Throttle(token, ..) | Self::Approval(token, _) => Some(token),
            Self::Block => None,
        }
    }

    fn as_str(&self) -> &'static str {
        match self {
            Self::Throttle(..) => "throttle",
            Self::Approval(..) => "approval",
            Self::Block => "block",
        }
    }
}

impl Holds {
    /// Takes up what was held back before. Blocks.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn open(
        store: Arc<Store>,
        recorder: Recorder,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, OpenError> {
        let figure = metrics.gauges(
            "client_held",
            "1 where something is held back from a client: throttle, approval, of a token; block, of everything.",
            &["client", "token", "hold"],
        )?;
        let (records, refused) = store.read(KIND)?;
        let blocked = |why: String| {
            let cause = Cause { since: clock.now().wall.as_secs(), by: "state".to_owned(), reason: why };
            Kept { blocked: Some(cause), tokens: BTreeMap::new() }
        };
        let mut clients = BTreeMap::new();
        for record in records {
            if let Ok(name) = record.name.parse::<ClientName>() {
                let kept = serde_json::from_slice(&record.content);
                clients.insert(name, kept.unwrap_or_else(|error| blocked(error.to_string())));
            }
        }
        for file in refused {
            let stem = file.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let name = stem.strip_prefix(KIND).and_then(|name| name.strip_prefix('-')).map(str::parse::<ClientName>);
            let (path, reason) = (file.path.display().to_string(), file.why.to_string());
            tracing::error!(file = path, reason, "the client is blocked: the record of what is held back is not used");
            recorder.note(Event::StateRejected { file: path, reason: reason.clone() });
            if let Some(Ok(name)) = name {
                clients.insert(name, blocked(reason));
            }
        }
        let state = Mutex::new(State { clients, handed: BTreeMap::new() });
        let holds = Self { clock, recorder, store, figure, state, writing: tokio::sync::Mutex::default() };
        holds.count(&holds.lock());
        Ok(Arc::new(holds))
    }

    /// For a table: the same one as long as somebody has it.
    pub fn of(&self, client: &ClientName, token: Option<&TokenName>) -> Arc<Hold> {
        let mut state = self.lock();
        let key = (client.clone(), token.cloned());
        if let Some(hold) = state.handed.get(&key).and_then(Weak::upgrade) {
            return hold;
        }
        let hold = Arc::new(Hold::new(self.clock.clone(), self.terms(&state, client, token)));
        state.handed.retain(|_, hold| hold.strong_count() > 0);
        state.handed.insert(key, Arc::downgrade(&hold));
        hold
    }

    /// Holds something back, from the next request on. Returns whether that is new.
    pub fn put(&self, client: &ClientName, measure: &Measure, order: Order) -> bool {
        let mut state = self.lock();
        let since = order.since.unwrap_or_else(|| self.clock.now().wall);
        let Order { by, reason, since: _ } = order;
        let cause = Cause { since: since.as_secs(), by: by.clone(), reason: reason.clone() };
        if !state.clients.entry(client.clone()).or_default().put(measure, cause) {
            return false;
        }
        self.settle(&state, client);
        drop(state);
        let (token, hold) = (measure.token().cloned(), measure.as_str());
        tracing::warn!(%client, token = token.as_ref().map(TokenName::as_str), hold, by, reason, "held back from the client");
        self.recorder.note(Event::ClientHeld { client: client.clone(), token, hold, by, reason, since });
        true
    }

    /// Whether people were asked whether a client may use a token.
    pub fn is_asked(&self, client: &ClientName, token: &TokenName) -> bool {
        let state = self.lock();
        let own = state.clients.get(client).and_then(|kept| kept.tokens.get(token));
        own.is_some_and(|own| own.approval.is_some())
    }

    /// What is held back that a request decides.
    pub fn asked(&self) -> Vec<(ClientName, TokenName, RequestId)> {
        let state = self.lock();
        let of_client = |(client, kept): (&ClientName, &Kept)| {
            let asked = |(token, own): (&TokenName, &OfToken)| {
                let asked = own.approval.as_ref().filter(|asked| !asked.is_denied)?;
                Some((client.clone(), token.clone(), asked.request))
            };
            kept.tokens.iter().filter_map(asked).collect::<Vec<_>>()
        };
        state.clients.iter().flat_map(of_client).collect()
    }

    /// Nobody approves that any more.
    pub async fn denied(&self, client: &ClientName, token: &TokenName) -> Result<(), NotDone> {
        {
            let mut state = self.lock();
            let own = state.clients.get_mut(client).and_then(|kept| kept.tokens.get_mut(token));
            if let Some(asked) = own.and_then(|own| own.approval.as_mut()) {
                asked.is_denied = true;
            }
            self.settle(&state, client);
        }
        self.keep(client).await
    }

    /// Where clients are held to what is usual, and when one last asked for more.
    pub fn throttled(&self) -> Vec<(ClientName, TokenName, Duration)> {
        let state = self.lock();
        let of_client = |(client, kept): (&ClientName, &Kept)| {
            let throttled = kept.tokens.iter().filter(|(_, own)| own.throttle.is_some());
            let asked = |(token, _): (&TokenName, &OfToken)| {
                let hold = state.handed.get(&(client.clone(), Some(token.clone()))).and_then(Weak::upgrade);
                (client.clone(), token.clone(), hold.map(|hold| hold.last_refused()).unwrap_or_default())
            };
            throttled.map(asked).collect::<Vec<_>>()
        };
        state.clients.iter().flat_map(of_client).collect()
    }

    /// Whether something of this token, or all, is held back from a client; from any without one.
    pub fn is_held(&self, token: &str, client: Option<&str>) -> bool {
        let state = self.lock();
        let named = |name: &ClientName| client.is_none_or(|client| client == name.as_str());
        state.clients.iter().any(|(name, kept)| {
            named(name) && (kept.tokens.contains_key(token) || (client.is_some() && kept.blocked.is_some()))
        })
    }

    /// Lifts what is held back of a token, from all clients. The trail has it already.
    pub async fn release_token(&self, token: &TokenName) -> Result<(), NotDone> {
        let held: Vec<ClientName> = {
            let state = self.lock();
            let held = state.clients.iter().filter(|(_, kept)| kept.tokens.contains_key(token));
            held.map(|(client, _)| client.clone()).collect()
        };
        for client in held {
            self.lift(&client, |kept| drop(kept.tokens.remove(token))).await?;
        }
        Ok(())
    }

    /// A client asks for no more than is usual.
    pub async fn is_calm(&self, client: &ClientName, token: &TokenName) -> Result<(), NotDone> {
        self.tell(client, token, SELF.to_owned(), "what was unusual is over".to_owned()).await?;
        self.lift(client, |kept| kept.of(token).throttle = None).await
    }

    /// Somebody has approved what was asked.
    pub async fn approved(&self, client: &ClientName, token: &TokenName, by: &str) -> Result<(), NotDone> {
        self.tell(client, token, by.to_owned(), "its request was approved".to_owned()).await?;
        self.lift(client, |kept| kept.of(token).approval = None).await
    }

    async fn tell(&self, client: &ClientName, token: &TokenName, by: String, reason: String) -> Result<(), NotDone> {
        let released = Event::ClientReleased { client: client.clone(), token: Some(token.clone()), by, reason };
        Ok(self.recorder.record(released).await?)
    }

    /// Lets a client in again, with all that was held back from it.
    pub async fn release(&self, client: &ClientName, by: String, reason: String) -> Result<(), NotDone> {
        if !self.lock().clients.contains_key(client) {
            return Err(NotDone::NotHeld);
        }
        let released = Event::ClientReleased { client: client.clone(), token: None, by, reason };
        self.recorder.record(released).await?;
        self.lift(client, |kept| *kept = Kept::default()).await
    }

    /// What is held back, for people.
    pub fn shown(&self, client: &ClientName) -> Vec<Value> {
        let state = self.lock();
        let Some(kept) = state.clients.get(client) else { return Vec::new() };
        kept.each().map(|(token, hold, cause, request)| view(token, hold, cause, request)).collect()
    }

    /// Whether a client is known here.
    pub fn clients(&self) -> Vec<ClientName> {
        self.lock().clients.keys().cloned().collect()
    }

    /// Lets in by an edit of what is kept: nobody is let in before a restart would be told the same.
    async fn lift(&self, client: &ClientName, edit: impl FnOnce(&mut Kept)) -> Result<(), NotDone> {
        let before = {
            let mut state = self.lock();
            let Some(kept) = state.clients.get_mut(client) else { return Ok(()) };
            let before = kept.clone();
            edit(kept);
            kept.tokens.retain(|_, own| *own != OfToken::default());
            if *kept == Kept::default() {
                state.clients.remove(client);
            }
            before
        };
        let kept = self.keep(client).await;
        let mut state = self.lock();
        if kept.is_err() {
            state.clients.insert(client.clone(), before);
        }
        self.settle(&state, client);
        kept
    }

    /// What must not go on of a client's requests that are under way.
    pub fn barred(&self, client: &ClientName) -> Vec<Cut> {
        let state = self.lock();
        let Some(kept) = state.clients.get(client) else { return Vec::new() };
        if kept.blocked.is_some() {
            return vec![Cut::Client(client.clone())];
        }
        let barred = kept.tokens.iter().filter(|(_, own)| own.approval.is_some());
        barred.map(|(token, _)| Cut::Use(client.clone(), token.clone())).collect()
    }

    /// Puts on the disk what is held back from a client.
    pub async fn keep(&self, client: &ClientName) -> Result<(), NotDone> {
        let _one = self.writing.lock().await;
        let kept = self.lock().clients.get(client).cloned();
        keep(&self.store, KIND, client.as_str(), kept.as_ref()).await
    }

    fn terms(&self, state: &State, client: &ClientName, token: Option<&TokenName>) -> Terms {
        let Some(kept) = state.clients.get(client) else { return Terms::default() };
        let own = token.and_then(|token| kept.tokens.get(token));
        let limit = |throttle: &Throttle| {
            let rate = Rate::hourly(throttle.hourly, throttle.burst);
            Arc::new(RateLimit::new(rate, &self.clock))
        };
        let approval = |asked: &Asked| Approval { request: asked.request, is_denied: asked.is_denied };
        Terms {
            is_blocked: kept.blocked.is_some(),
            approval: own.and_then(|own| own.approval.as_ref()).map(approval),
            throttle: own.and_then(|own| own.throttle.as_ref()).map(limit),
        }
    }

    /// Has the request path follow what is kept of a client.
    fn settle(&self, state: &State, client: &ClientName) {
        for ((name, token), hold) in &state.handed {
            if let Some(hold) = Weak::upgrade(hold).filter(|_| name == client) {
                hold.settle(self.terms(state, client, token.as_ref()));
            }
        }
        self.count(state);
    }

    fn count(&self, state: &State) {
        self.figure.reset();
        for (client, kept) in &state.clients {
            for (token, hold, ..) in kept.each() {
                let token = token.map(TokenName::as_str).unwrap_or_default();
                self.figure.with_label_values(&[client.as_str(), token, hold]).set(1);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn of(&mut self, token: &TokenName) -> &mut OfToken {
        self.tokens.entry(token.clone()).or_default()
    }

    /// Returns whether it is new.
    fn put(&mut self, measure: &Measure, cause: Cause) -> bool {
        match measure {
            Measure::Block => {
                let is_new = self.blocked.is_none();
                self.blocked.get_or_insert(cause);
                is_new
            }
            Measure::Throttle(token, hourly, burst) => {
                let own = &mut self.of(token).throttle;
                let is_new = own.is_none();
                own.get_or_insert(Throttle { hourly: *hourly, burst: *burst, cause });
                is_new
            }
            Measure::Approval(token, request) => {
                let own = &mut self.of(token).approval;
                let is_new = own.is_none();
                own.get_or_insert(Asked { request: *request, is_denied: false, cause });
                is_new
            }
        }
    }

    /// Token, what is held back, why, and the request that decides it.
    fn each(&self) -> impl Iterator<Item = (Option<&TokenName>, &'static str, &Cause, Option<RequestId>)> {
        let blocked = self.blocked.iter().map(|cause| (None, "block", cause, None));
        let of_tokens = self.tokens.iter().flat_map(|(token, own)| {
            let throttle = own.throttle.iter().map(move |own| (Some(token), "throttle", &own.cause, None));
            let approval = own.approval.iter().map(move |own| {
                (Some(token), if own.is_denied { "denied" } else { "approval" }, &own.cause, Some(own.request))
            });
            throttle.chain(approval)
        });
        blocked.chain(of_tokens)
    }
}

fn view(token: Option<&TokenName>, hold: &str, cause: &Cause, request: Option<RequestId>) -> Value {
    json!({
        "hold": hold,
        "token": token,
        "since": rfc3339(Duration::from_secs(cause.since)),
        "by": cause.by,
        "reason": cause.reason,
        "request": request.map(|request| request.to_string()),
    })
}
