//! The admin API: where operators see how tokens stand, and act on them.
//!
//! ```text
//!  socket ─▶ guard (Host, browser) ─▶ proof ─▶ Operator ─▶ rate ─▶ endpoint ─▶ role ─▶ fields ─▶ answer
//!               └───────┬───────────────┴──────────────────────────────┴─────────┴──▶ refusal
//!                       └──▶ one record of each call, sums of those that were denied
//! ```
//!
//! The endpoints stand in one table, by which calls are answered and from which `/openapi.json` is made.
//!
//! Invariants: who has not proved to be an operator learns nothing but that; `GET` changes nothing; no answer holds a
//! token or a secret; nothing here can be reached through the proxy, whose guard of destinations knows this listener's
//! address as its own.

pub mod anomalies;
mod answer;
mod audit;
pub mod clients;
mod crowd;
mod denials;
mod drill;
mod endpoint;
mod guard;
mod listener;
mod openapi;
mod proof;
pub mod reports;
pub mod requests;
mod running;
mod tokens;
mod usage;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::{Map, Value};

use crate::audit::{Archive, Event, Recorder, Unavailable};
use crate::barrier::Stuck;
use crate::clock::Clock;
use crate::identity::Peer;
use crate::name::{OperatorName, TokenName};
use crate::operator::{Operator, Operators, Role};
use crate::proxy::Address;
use crate::tls::ServerSettings;
use crate::token::{Gone, NotReleased, Order, Restraint, Token};
use anomalies::Anomalies;
use answer::{Answer, Refusal};
use clients::Clients;
use crowd::Rates;
use denials::Denials;
use endpoint::{Call, Endpoint};
use listener::Entrance;
use proof::Caller;
use reports::Reports;
use requests::Requests;

pub use drill::{Drill, NotDrilled, Step};
pub use listener::{BindError, Door};

/// The largest body of a call.
const BODY_BYTES: usize = 64 * 1024;

/// For a body to come.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// `[admin]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub listen: Address,
    /// Where else it may be, for whoever looks for it: the config does not say where, and what the default is depends on
    /// who runs the proxy.
    pub elsewhere: Vec<PathBuf>,
    pub tls: Option<ServerSettings>,
}

/// What the running app lets operators see and do.
pub trait House: Requests + Reports + Anomalies + Clients {
    fn operators(&self) -> Arc<Operators>;

    /// Whether what a bearer shows is the token of a job, and of which.
    fn job<'a>(&'a self, token: &'a [u8], peer: &'a Peer) -> Pending<'a, Bearer>;

    /// By name.
    fn tokens(&self) -> Vec<Arc<Token>>;

    /// The config in force, without what nobody needs to see.
    fn config(&self) -> Arc<Value>;

    fn reload(&self) -> Pending<'_, Result<Reloaded, NotReloaded>>;

    /// Takes a token out of use. When this succeeds, nobody has it any more.
    fn restrain<'a>(
        &'a self,
        token: &'a TokenName,
        restraint: Restraint,
        order: Order,
    ) -> Pending<'a, Result<(), NotDone>>;

    /// Lets in again what was taken out of use.
    fn release<'a>(&'a self, token: &'a TokenName, order: Order) -> Pending<'a, Result<(), NotDone>>;

    /// Ends a token's grant. When this succeeds, nobody has it any more.
    fn retire<'a>(&'a self, token: &'a TokenName) -> Pending<'a, Result<(), NotDone>>;

    /// Rehearses a compromise.
    fn drill<'a>(&'a self, token: &'a TokenName, order: Order) -> Pending<'a, Result<Drill, NotDrilled>>;
}

/// What a bearer has shown.
pub enum Bearer {
    Job(Operator),
    /// The token of a job, and not a good one.
    Nobody,
    /// Something else: a key.
    OfAKey,
}

/// What comes later.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A new config is in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reloaded {
    /// As [`crate::config::Config::digest`] has it.
    pub digest: String,
}

/// Why the config file was not taken; the old one goes on.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum NotReloaded {
    /// The problems, as `check --json` has them.
    #[error("the config file has problems: the old config goes on")]
    Problems(Value),
    #[error("{0}")]
    NeedsRestart(String),
    #[error("{0}")]
    NotNow(String),
    #[error("nothing here looks after a config file")]
    NoFile,
}

/// Why a token was not taken out of use, or not let in.
#[derive(Debug, thiserror::Error)]
pub enum NotDone {
    #[error("there is no token of this name")]
    NoToken,
    #[error(transparent)]
    Gone(#[from] Gone),
    #[error(transparent)]
    NotReleased(#[from] NotReleased),
    #[error("there is no client of this name")]
    NoClient,
    #[error("nothing is held back from this client")]
    NotHeld,
    /// No request gets it any more; those that had it may still have it.
    #[error("the token is out of use, and {0}")]
    Stuck(#[from] Stuck),
    /// It is so until a restart.
    #[error("this is done, and could not be written down, so that a restart would undo it: {0}")]
    Unkept(String),
    #[error("nothing is let in: that could not be written down: {0}")]
    NotLifted(String),
    #[error("the audit trail cannot be written, and nothing is let in without it: {0}")]
    Trail(#[from] Unavailable),
}

impl NotDone {
    /// What could not be written down was to let something in.
    pub fn not_lifted(self) -> Self {
        match self {
            Self::Unkept(why) => Self::NotLifted(why),
            other => other,
        }
    }
}

/// The admin API of an app.
pub struct Admin {
    house: Arc<dyn House>,
    recorder: Recorder,
    /// The trail as it lies on the disk.
    archive: Archive,
    readers: audit::Readers,
    clock: Arc<dyn Clock>,
    rates: Rates,
    denials: Denials,
}

impl Admin {
    pub fn new(house: Arc<dyn House>, recorder: Recorder, archive: Archive, clock: Arc<dyn Clock>) -> Self {
        let (rates, readers) = (Rates::new(clock.clone()), audit::Readers::default());
        Self { house, recorder, archive, readers, rates, denials: Denials::default(), clock }
    }

    /// Puts the sums of denied calls into the trail.
    pub fn record_denials(&self) {
        self.denials.record(&self.recorder);
    }

    /// Answers one request. Whoever asked may have gone meanwhile: what is begun is not to be dropped half-way.
    async fn answer(&self, request: Request<Incoming>, caller: &Caller, entrance: &Entrance) -> Response<Full<Bytes>> {
        let mut seen = Seen::default();
        let outcome = self.judge(request, caller, entrance, &mut seen).await;
        self.record(caller, seen, &outcome);
        match outcome {
            Ok(answer) => answer.into_response(),
            Err(refusal) => refusal.into_response(),
        }
    }

    /// The steps of a call. `seen` tells afterwards how far it came.
    async fn judge(
        &self,
        request: Request<Incoming>,
        caller: &Caller,
        entrance: &Entrance,
        seen: &mut Seen,
    ) -> Result<Answer, Refusal> {
        seen.endpoint = endpoint::find(request.method(), request.uri().path()).ok().map(|(endpoint, _)| endpoint);
        guard::judge(&request, entrance)?;
        let operator = &*seen.operator.insert(caller.authenticate(request.headers(), self).await?);
        self.rates.call(&operator.name).map_err(Refusal::RateLimited)?;
        let (head, body) = request.into_parts();
        let (endpoint, parameter) = endpoint::find(&head.method, head.uri.path())?;
        seen.call = Some(format!("{} {}", head.method, head.uri.path()));
        allow(operator, endpoint)?;
        let fields = match head.method {
            Method::GET => query(head.uri.query().unwrap_or_default())?,
            _ => {
                guard::judge_type(&head.headers)?;
                read(body).await?
            }
        };
        endpoint.judge(&fields)?;
        let call = Call { admin: self, operator, parameter, fields };
        seen.reason = (!call.text(&endpoint::REASON).is_empty()).then(|| call.text(&endpoint::REASON).to_owned());
        (endpoint.work)(&call).await
    }

    /// One record of each call; of those that were denied, sums.
    fn record(&self, caller: &Caller, seen: Seen, outcome: &Result<Answer, Refusal>) {
        let status = match outcome {
            Ok(answer) => answer.status,
            Err(refusal) if refusal.is_denial() => {
                let operator = seen.operator.map(|operator| operator.name);
                return self.denials.count(Denied {
                    operator,
                    source: caller.source.clone(),
                    call: seen.endpoint.map(|endpoint| format!("{} {}", endpoint.method, endpoint.path)),
                    reason: refusal.reason(),
                });
            }
            Err(refusal) => refusal.status(),
        };
        let Some(operator) = seen.operator else { return };
        let call = seen.call.unwrap_or_else(|| "something that is not there".to_owned());
        tracing::info!(operator = %operator.name, call, status = status.as_u16(), "an operator called");
        let (operator, status, reason) = (operator.name, status.as_u16(), seen.reason);
        self.recorder.note(Event::AdminCall { operator, call, status, reason });
    }

    fn token(&self, name: &str) -> Option<Arc<Token>> {
        self.house.tokens().into_iter().find(|token| token.settings.name.as_str() == name)
    }
}

/// How far a call came.
#[derive(Default)]
struct Seen {
    /// What was called, whoever called it.
    endpoint: Option<&'static Endpoint>,
    operator: Option<Operator>,
    /// Method and path, which are of the table.
    call: Option<String>,
    reason: Option<String>,
}

fn allow(operator: &Operator, endpoint: &Endpoint) -> Result<(), Refusal> {
    match endpoint.role {
        role if operator.may(role) => Ok(()),
        Role::Approver if !operator.is_told_apart() => Err(Refusal::NotToldApart(Role::Approver)),
        role => Err(Refusal::NotAllowed(role)),
    }
}

/// The fields of a query, each once.
fn query(text: &str) -> Result<Map<String, Value>, Refusal> {
    let mut fields = Map::new();
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        if fields.insert(name.into_owned(), Value::String(value.into_owned())).is_some() {
            return Err(Refusal::Invalid("a field stands in the query twice".to_owned()));
        }
    }
    Ok(fields)
}

/// The fields of a body.
async fn read(body: Incoming) -> Result<Map<String, Value>, Refusal> {
    let collecting = tokio::time::timeout(BODY_PATIENCE, Limited::new(body, BODY_BYTES).collect());
    let body = match collecting.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(Refusal::BodyTooLarge(BODY_BYTES)),
        Ok(Err(_)) | Err(_) => return Err(Refusal::RequestTimeout),
    };
    serde_json::from_slice(&body).map_err(|_| Refusal::Invalid("the body is not one JSON object".to_owned()))
}

/// Who is behind a connection, as far as it can be told without proof: a user of this machine, or an address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Source {
    User(u32),
    Address(std::net::IpAddr),
    Unknown,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// A call that was refused, for the sums.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Denied {
    operator: Option<OperatorName>,
    source: Source,
    call: Option<String>,
    reason: &'static str,
}
