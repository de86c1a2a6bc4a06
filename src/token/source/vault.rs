//! Tokens that a Vault or an OpenBao gives: what somebody has put there, and what it makes anew each time.

pub mod dynamic;
pub mod kv;
mod leases;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use zeroize::Zeroizing;

use super::{Class, Failure, Reason};
use crate::secret::Secret;
use crate::vault::{Error, Template};

/// What the token is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Made {
    pub template: Template,
    /// Whether it is written in base64, as a Basic credential is.
    pub base64: bool,
}

impl Made {
    fn of(&self, field: impl Fn(&str) -> Result<Zeroizing<String>, Error>) -> Result<Secret, Error> {
        let text = self.template.fill(field)?;
        if !self.base64 {
            return Ok(Secret::new(text.as_bytes()));
        }
        let encoded = Zeroizing::new(STANDARD.encode(text.as_bytes()));
        Ok(Secret::new(encoded.as_bytes()))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let reason = match &error {
            Error::Unreached(error) => Reason::from(&**error),
            Error::Path(_) => Reason::InvalidRequest,
            Error::Token | Error::Proof(_) | Error::NotText(_) => Reason::Secret,
            Error::Login { .. } => Reason::InvalidClient,
            Error::Denied { .. } => Reason::AccessDenied,
            Error::Answered { status: StatusCode::TOO_MANY_REQUESTS, .. } => Reason::RateLimited,
            Error::Answered { .. } => Reason::Status,
            Error::Malformed(_) => Reason::Malformed,
            Error::Field { .. } | Error::Value { .. } | Error::Nothing(_) => Reason::TokenMissing,
        };
        let class = match error.is_refusal() {
            true => Class::Refused,
            false => Class::Transient { retry_after: error.retry_after() },
        };
        Self { reason, class, detail: error.to_string() }
    }
}

#[cfg(test)]
mod tests;
