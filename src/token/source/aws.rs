//! Keys of AWS: an access key id, a secret access key, and a session token of those that end. They are never sent but for
//! the session token; they sign.

pub mod fixed;
pub mod machine;
pub mod sts;

use std::fmt::Display;
use std::sync::Arc;

use super::lifetime::{NoEnd, end_told};
use super::{BuildError, Failure, Issued, Reason, Source};
use crate::clock::{Clock, Moment};
use crate::fetch::Fetcher;
use crate::secret::Secret;
use crate::token::source::answer::members::Member;

/// `source = { kind = "aws_..." }`
#[derive(Clone, PartialEq, Debug)]
pub enum Settings {
    Static(fixed::Settings),
    Machine(machine::Settings),
    Sts(Box<sts::Settings>),
}

impl Settings {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Static(_) => "aws_static",
            Self::Machine(_) => "aws_metadata",
            Self::Sts(settings) => settings.kind(),
        }
    }

    pub(super) fn is_static(&self) -> bool {
        matches!(self, Self::Static(_))
    }
}

pub(super) fn build(
    settings: &Settings,
    fetcher: &Arc<Fetcher>,
    clock: Arc<dyn Clock>,
) -> Result<Box<dyn Source>, BuildError> {
    Ok(match settings {
        Settings::Static(settings) => Box::new(fixed::Fixed::new(settings.clone())),
        Settings::Machine(settings) => Box::new(machine::Machine::new(settings.clone(), fetcher.clone(), clock)?),
        Settings::Sts(settings) => Box::new(sts::Sts::new((**settings).clone(), fetcher.clone(), clock)?),
    })
}

/// Keys as metadata services and programs print them in JSON. The first call the session token `Token`, the others
/// `SessionToken`.
#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Printed {
    pub(super) version: Member,
    code: Member,
    access_key_id: Member,
    secret_access_key: Member,
    token: Member,
    session_token: Member,
    expiration: Member,
}

impl Printed {
    /// # Errors
    /// When it is no JSON object. The library's own text is not used: it quotes what it read.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Failure> {
        let is_object = text.trim_ascii_start().first() == Some(&b'{');
        let parsed = is_object.then(|| serde_json::from_slice(text).ok()).flatten();
        parsed.ok_or_else(|| Failure::transient(Reason::Malformed, "the keys are not told in a JSON object"))
    }

    /// # Errors
    /// When they are not all there, or have ended.
    pub(super) fn issued(self, asked_at: Moment, now: Moment) -> Result<Issued, Failure> {
        if self.code.text().is_some_and(|code| code != "Success") {
            return Err(Failure::transient(Reason::IssuerError, "the metadata service has no keys for now"));
        }
        let missing = || Failure::transient(Reason::TokenMissing, "not all of the keys are there");
        let id = self.access_key_id.text().ok_or_else(missing)?;
        let key = self.secret_access_key.text().ok_or_else(missing)?;
        let token = self.session_token.text().or(self.token.text());
        let secret = Secret::of_aws(id.as_bytes(), key.as_bytes(), token.map(str::as_bytes));
        let secret = secret.map_err(|error| Failure::transient(Reason::TokenCharset, error.to_string()))?;
        let expires = match &self.expiration {
            Member::Absent | Member::Null => None,
            Member::Text(time) => Some(ends(time, asked_at, now)?),
            Member::Number(_) | Member::Other => return Err(no_time()),
        };
        Ok(issued(secret, expires))
    }
}

fn issued(secret: Secret, expires: Option<Moment>) -> Issued {
    Issued { secret, expires, assumed: false, granted: None, void_by: None, version: None }
}

/// When keys end that end at this time (RFC 3339): their life counts from when they were asked for.
fn ends(time: &str, asked_at: Moment, now: Moment) -> Result<Moment, Failure> {
    end_told(time, asked_at, now).map_err(|why| match why {
        NoEnd::NotATime => no_time(),
        NoEnd::Passed => {
            let detail = "the keys have ended already: if they are new, compare the clocks of this machine and of AWS";
            Failure::transient(Reason::Expired, detail)
        }
    })
}

fn no_time() -> Failure {
    Failure::transient(Reason::Lifetime, "the end of the keys is no time like \"2027-06-30T12:00:00Z\"")
}

/// What we bring ourselves is not there, or not sound.
fn unusable(error: &dyn Display) -> Failure {
    Failure::transient(Reason::Secret, error.to_string())
}
