//! What is held back from clients while their use is unusual, kept over reloads and restarts until it is over or released.
//!
//! ```text
//! put    request path: from the next request on ─▶ trail ─▶ sealed state
//! lift   the trail has it ─▶ sealed state ─▶ request path
//! ```
//!
//! Invariants: nothing is let in that the trail has not, nor before the sealed state says so too; what is lifted takes nothing
//! with it that was put meanwhile; of a record that cannot be trusted its name can: that client is blocked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use prometheus::IntGaugeVec;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::keep::{Keeping, OpenError};
use crate::access::request::{RequestId, rfc3339};
use crate::admin::NotDone;
use crate::audit::{Event, Recorded, Recorder};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::name::{ClientName, TokenName};
use crate::policy::hold::{Approval, Hold, Terms};
use crate::policy::limit::Rate;
use crate::proxy::Cut;
use crate::seal::Label;
use crate::store::{Record, Refused, Store};
use crate::token::Order;

/// Who holds back and lets in by itself, as the trail has it.
pub(super) const SELF: &str = "detection";

/// As the store knows it.
const KIND: &str = "hold";

pub(super) struct Holds {
    clock: Arc<dyn Clock>,
    recorder: Recorder,
    keeping: Keeping,
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
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Kept {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blocked: Option<Cause>,
    #[serde(default)]
    tokens: BTreeMap<TokenName, OfToken>,
}

#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct OfToken {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    throttle: Option<Throttle>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    approval: Option<Asked>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Throttle {
    hourly: u32,
    burst: u32,
    cause: Cause,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Asked {
    request: RequestId,
    is_denied: bool,
    cause: Cause,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
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

/// What people are asked.
pub(super) struct Asking {
    pub client: ClientName,
    pub token: TokenName,
    pub request: RequestId,
    pub reason: String,
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
            "1 where something is held back from a client: throttle, approval, denied, of a token; block, of everything.",
            &["client", "token", "hold"],
        )?;
        let (records, mut refused) = store.read(KIND)?;
        let mut clients = BTreeMap::new();
        for Record { name, content, .. } in records {
            match (name.parse::<ClientName>(), serde_json::from_slice::<Kept>(&content)) {
                (Ok(client), Ok(kept)) => drop(clients.insert(client, kept)),
                (Ok(_), Err(_)) | (Err(_), _) => refused.push(store.refuse(Label { kind: KIND, name: &name })),
            }
        }
        for Refused { path, name, why } in refused {
            let (file, reason) = (path.display().to_string(), why.to_string());
            tracing::error!(file, reason, "the client is blocked: the record of what is held back is not used");
            recorder.note(Event::StateRejected { file, reason: reason.clone() });
            if let Ok(client) = name.parse::<ClientName>() {
                let cause = Cause { since: clock.now().wall.as_secs(), by: "state".to_owned(), reason };
                clients.insert(client, Kept { blocked: Some(cause), tokens: BTreeMap::new() });
            }
        }
        let state = Mutex::new(State { clients, handed: BTreeMap::new() });
        let keeping = Keeping::new(store, KIND);
        let holds = Self { clock, recorder, keeping, figure, state, writing: tokio::sync::Mutex::default() };
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
        let hold = Arc::new(Hold::new(self.clock.clone(), Self::terms(&state, client, token)));
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
    pub fn asked(&self) -> Vec<Asking> {
        let state = self.lock();
        let of_client = |(client, kept): (&ClientName, &Kept)| {
            let asked = |(token, own): (&TokenName, &OfToken)| {
                let asked = own.approval.as_ref().filter(|asked| !asked.is_denied)?;
                let (request, reason) = (asked.request, asked.cause.reason.clone());
                Some(Asking { client: client.clone(), token: token.clone(), request, reason })
            };
            kept.tokens.iter().filter_map(asked).collect::<Vec<_>>()
        };
        state.clients.iter().flat_map(of_client).collect()
    }

    /// Nobody approves that any more.
    pub async fn denied(&self, client: &ClientName, token: &TokenName) -> Result<(), NotDone> {
        self.edit(client, |kept| kept.asked(token, |asked| asked.is_denied = true)).await
    }

    /// People are asked by this request, and by the one before no more.
    pub async fn asks(&self, client: &ClientName, token: &TokenName, request: RequestId) -> Result<(), NotDone> {
        self.edit(client, |kept| kept.asked(token, |asked| asked.request = request)).await
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

    /// The clients from whom something of a token is held back.
    pub fn holding(&self, token: &TokenName) -> Vec<ClientName> {
        let state = self.lock();
        let held = state.clients.iter().filter(|(_, kept)| kept.tokens.contains_key(token));
        held.map(|(client, _)| client.clone()).collect()
    }

    /// Lifts what is held back of a token from a client. The trail has it already.
    pub async fn release_token(&self, client: &ClientName, token: &TokenName) -> Result<(), NotDone> {
        let Some(own) = self.own(client, token) else { return Ok(()) };
        let lifted = Kept::of_token(token, own);
        self.edit(client, |kept| kept.lift(&lifted)).await
    }

    /// A client asks for no more than is usual.
    pub async fn is_calm(&self, client: &ClientName, token: &TokenName) -> Result<(), NotDone> {
        let Some(own) = self.own(client, token) else { return Ok(()) };
        let lifted = Kept::of_token(token, OfToken { approval: None, ..own });
        let told = self.tell(client, token, SELF.to_owned(), "what was unusual is over".to_owned()).await?;
        self.edit_as(told, client, |kept| kept.lift(&lifted)).await
    }

    /// Somebody has approved what was asked.
    pub async fn approved(&self, client: &ClientName, token: &TokenName, by: &str) -> Result<(), NotDone> {
        let Some(own) = self.own(client, token) else { return Ok(()) };
        let lifted = Kept::of_token(token, OfToken { throttle: None, ..own });
        let told = self.tell(client, token, by.to_owned(), "its request was approved".to_owned()).await?;
        self.edit_as(told, client, |kept| kept.lift(&lifted)).await
    }

    async fn tell(
        &self,
        client: &ClientName,
        token: &TokenName,
        by: String,
        reason: String,
    ) -> Result<Recorded, NotDone> {
        let released = Event::ClientReleased { client: client.clone(), token: Some(token.clone()), by, reason };
        Ok(self.recorder.record(released).await?)
    }

    /// Lets a client in again, with all that was held back from it.
    pub async fn release(&self, client: &ClientName, by: String, reason: String) -> Result<(), NotDone> {
        let lifted = self.lock().clients.get(client).cloned().ok_or(NotDone::NotHeld)?;
        let released = Event::ClientReleased { client: client.clone(), token: None, by, reason };
        let told = self.recorder.record(released).await?;
        self.edit_as(told, client, |kept| kept.lift(&lifted)).await
    }

    /// Edits what the trail was told of.
    async fn edit_as(&self, told: Recorded, client: &ClientName, edit: impl Fn(&mut Kept)) -> Result<(), NotDone> {
        let edited = self.edit(client, edit).await;
        if edited.is_err() {
            self.recorder.not_done(told);
        }
        edited
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

    /// Changes what is kept of a client: on the disk, and then in force. Nobody is let in before a restart would be told the same.
    async fn edit(&self, client: &ClientName, edit: impl Fn(&mut Kept)) -> Result<(), NotDone> {
        let _one = self.writing.lock().await;
        let Some(stays) = self.lock().clients.get(client).cloned() else { return Ok(()) };
        let mut next = stays.clone();
        edit(&mut next);
        self.keeping.lift(client.as_str(), next.worth_keeping(), Some(&stays)).await?;
        let mut state = self.lock();
        // What was held back meanwhile stays so.
        let Some(kept) = state.clients.get_mut(client) else { return Ok(()) };
        edit(kept);
        if kept.worth_keeping().is_none() {
            state.clients.remove(client);
        }
        self.settle(&state, client);
        Ok(())
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
        self.keeping.keep(client.as_str(), kept.as_ref()).await
    }

    fn own(&self, client: &ClientName, token: &TokenName) -> Option<OfToken> {
        self.lock().clients.get(client)?.tokens.get(token).cloned()
    }

    fn terms(state: &State, client: &ClientName, token: Option<&TokenName>) -> Terms {
        let Some(kept) = state.clients.get(client) else { return Terms::default() };
        let own = token.and_then(|token| kept.tokens.get(token));
        let rate = |throttle: &Throttle| Rate::hourly(throttle.hourly, throttle.burst);
        let approval = |asked: &Asked| Approval { request: asked.request, is_denied: asked.is_denied };
        Terms {
            is_blocked: kept.blocked.is_some(),
            approval: own.and_then(|own| own.approval.as_ref()).map(approval),
            throttle: own.and_then(|own| own.throttle.as_ref()).map(rate),
        }
    }

    /// Has the request path follow what is kept of a client.
    fn settle(&self, state: &State, client: &ClientName) {
        for ((name, token), hold) in &state.handed {
            if let Some(hold) = Weak::upgrade(hold).filter(|_| name == client) {
                hold.settle(Self::terms(state, client, token.as_ref()));
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
    fn of_token(token: &TokenName, own: OfToken) -> Self {
        Self { blocked: None, tokens: BTreeMap::from([(token.clone(), own)]) }
    }

    fn of(&mut self, token: &TokenName) -> &mut OfToken {
        self.tokens.entry(token.clone()).or_default()
    }

    /// `None` where nothing is held back.
    fn worth_keeping(&self) -> Option<&Self> {
        (*self != Self::default()).then_some(self)
    }

    fn asked(&mut self, token: &TokenName, edit: impl Fn(&mut Asked)) {
        if let Some(asked) = self.tokens.get_mut(token).and_then(|own| own.approval.as_mut()) {
            edit(asked);
        }
    }

    /// Takes away what is held back as it was then: what has come since, or instead, stays.
    fn lift(&mut self, lifted: &Self) {
        self.blocked.take_if(|blocked| Some(&*blocked) == lifted.blocked.as_ref());
        for (token, lifted) in &lifted.tokens {
            if let Some(own) = self.tokens.get_mut(token) {
                own.throttle.take_if(|throttle| Some(&*throttle) == lifted.throttle.as_ref());
                own.approval.take_if(|approval| Some(&*approval) == lifted.approval.as_ref());
            }
        }
        self.tokens.retain(|_, own| *own != OfToken::default());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(since: u64) -> Cause {
        Cause { since, by: SELF.to_owned(), reason: "anomaly: burst".to_owned() }
    }

    #[test]
    fn what_is_lifted_takes_nothing_with_it_that_was_put_meanwhile() {
        let (api, other): (TokenName, TokenName) = ("api".parse().expect("a name"), "other".parse().expect("a name"));
        let request: RequestId = "00112233445566ff".parse().expect("an id");
        let mut kept = Kept::default();
        assert!(kept.put(&Measure::Throttle(api.clone(), 12, 4), cause(1)));
        let lifted = kept.clone();
        assert!(kept.put(&Measure::Block, cause(2)));
        assert!(kept.put(&Measure::Approval(api.clone(), request), cause(2)));
        assert!(kept.put(&Measure::Throttle(other, 12, 4), cause(2)));
        kept.lift(&lifted);
        let holds: Vec<_> = kept.each().map(|(token, hold, ..)| (token.map(TokenName::as_str), hold)).collect();
        assert_eq!(holds, [(None, "block"), (Some("api"), "approval"), (Some("other"), "throttle")]);
        kept.lift(&kept.clone());
        assert_eq!(kept.worth_keeping(), None);
        kept.put(&Measure::Block, cause(3));
        kept.lift(&Kept { blocked: Some(cause(2)), ..Kept::default() });
        assert!(kept.blocked.is_some(), "it is another one");
    }
}
