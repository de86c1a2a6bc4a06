//! Judges what a vault answers.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::RETRY_AFTER;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use zeroize::Zeroize as _;

use crate::clock::Moment;
use crate::fetch::{self, FetchError, retry_after};
use crate::secret::{ResolveError, Secret};
use crate::text::redacted;

/// What came back, if it says yes.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Answer {
    pub lease_id: String,
    pub renewable: bool,
    /// Seconds; zero: it has no end of its own.
    pub lease_duration: u64,
    pub data: Data,
    pub auth: Option<Granted>,
}

/// A token of the vault itself.
#[derive(Deserialize)]
pub struct Granted {
    #[serde(deserialize_with = "secret")]
    pub client_token: Secret,
    #[serde(default)]
    pub accessor: String,
    #[serde(default)]
    pub renewable: bool,
    #[serde(default)]
    pub lease_duration: u64,
}

/// What an answer holds; wiped with it.
#[derive(Default)]
pub struct Data(Value);

impl Deref for Data {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self)
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(list) => list.iter_mut().for_each(wipe),
        Value::Object(members) => members.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    // The text becomes the secret: no copy is left behind.
    String::deserialize(deserializer).map(Secret::new)
}

/// Why a vault gave nothing. No text holds a secret.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("the vault was not reached: {0}")]
    Unreached(Arc<FetchError>),
    #[error("{0}")]
    Path(String),
    #[error("the vault's token is empty, or holds something other than visible ASCII")]
    Token,
    /// What is to prove us is not there.
    #[error("`auth` of [vault]: {0}")]
    Proof(Arc<ResolveError>),
    #[error("`auth` of [vault]: {0} is no text")]
    NotText(&'static str),
    #[error("the vault refuses the login at {path} ({}{said}): look at `auth` of [vault] and the role at the vault", .status.as_u16())]
    Login { path: String, status: StatusCode, said: String },
    #[error("the vault denies {path} (403{said}): let a policy of the login's allow it")]
    Denied { path: String, said: String },
    #[error("the vault answered {} to {path}{said}", .status.as_u16())]
    Answered { path: String, status: StatusCode, said: String, retry_after: Option<Duration> },
    #[error("the vault's answer to {0} has not the form that it should have")]
    Malformed(String),
    #[error("{path} has no field {field:?}: it has {known}")]
    Field { path: String, field: String, known: String },
    #[error("the field {field:?} of {path} is empty, or neither a text nor a number")]
    Value { path: String, field: String },
    #[error("the vault has nothing at {0}: nothing was put there, or it is deleted")]
    Nothing(String),
}

impl Error {
    /// Whether it stays so until somebody changes something.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Login { status, .. } | Self::Answered { status, .. } => is_no(*status),
            Self::Denied { .. } | Self::Field { .. } | Self::Value { .. } | Self::Path(_) => true,
            Self::Unreached(_)
            | Self::Token
            | Self::Proof(_)
            | Self::NotText(_)
            | Self::Malformed(_)
            | Self::Nothing(_) => false,
        }
    }

    /// Whether the vault says that it knows no such lease or accessor: it has ended. A 404 alone says no more than that nothing
    /// answers there, and "not found" may be said of anything.
    pub fn is_ended(&self) -> bool {
        match self {
            Self::Answered { status, said, .. } => is_no(*status) && says_ended(said),
            Self::Denied { said, .. } => says_ended(said),
            Self::Unreached(_)
            | Self::Path(_)
            | Self::Token
            | Self::Proof(_)
            | Self::NotText(_)
            | Self::Login { .. }
            | Self::Malformed(_)
            | Self::Field { .. }
            | Self::Value { .. }
            | Self::Nothing(_) => false,
        }
    }

    /// How long the vault asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Answered { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// In a vault's own words.
fn says_ended(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    ["lease not found", "invalid lease", "invalid accessor"].iter().any(|words| said.contains(words))
}

/// A plain no; what is overloaded, sealed or a standby says otherwise.
fn is_no(status: StatusCode) -> bool {
    const PASSES: [StatusCode; 4] = [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::PRECONDITION_FAILED,
        StatusCode::TOO_EARLY,
    ];
    status.is_client_error() && !PASSES.contains(&status)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct No {
    errors: Vec<String>,
}

/// `shown` is what the call proved us with: no error repeats it.
pub fn judge<'s>(
    answer: &fetch::Answer,
    path: &str,
    shown: impl Iterator<Item = &'s str>,
    now: Moment,
) -> Result<Answer, Error> {
    // As a policy has it: without a query.
    let (path, status) = (path.split('?').next().unwrap_or_default().to_owned(), answer.status);
    if status == StatusCode::NO_CONTENT {
        return Ok(Answer::default());
    }
    if status.is_success() {
        // The library's own text is not used: it quotes what it read.
        let is_object = answer.body.trim_ascii_start().first() == Some(&b'{');
        let parsed = is_object.then(|| serde_json::from_slice(&answer.body).ok()).flatten();
        return parsed.ok_or(Error::Malformed(path));
    }
    let No { errors } = serde_json::from_slice(&answer.body).unwrap_or_default();
    let said = errors.first().map(|said| format!(": {}", redacted(said, shown, MAX_SAID))).unwrap_or_default();
    if status == StatusCode::FORBIDDEN {
        return Err(Error::Denied { path, said });
    }
    if status == StatusCode::NOT_FOUND && said.is_empty() {
        return Err(Error::Nothing(path));
    }
    let told = answer.headers.get(RETRY_AFTER);
    let retry_after = told.and_then(|value| retry_after(value.as_bytes(), now));
    Err(Error::Answered { path, status, said, retry_after })
}

/// Characters of a vault's own words that are kept.
const MAX_SAID: usize = 300;
