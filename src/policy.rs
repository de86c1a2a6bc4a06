//! Policy's yes to one request.
//!
//! ```text
//!  for this client? ─► path and method allowed? by the client's own lists too? ─► within both rates? ─► Permit
//! ```
//!
//! Invariant: a [`Permit`] is made here and nowhere else, and it carries the very path that was judged; what is sent is
//! taken from it.

pub mod hold;
pub mod limit;
pub mod rule;

use std::sync::Arc;

use http::Method;

use crate::identity::ClientIndex;
use crate::path::Canonical;
use crate::usage::RuleMark;
use limit::{Exceeded, Rate, RateLimit};
use rule::{Denied as RuleDenied, Rules};

/// Policy's yes to one request of one client.
pub struct Permit<'a> {
    path: Canonical<'a>,
    rule: Option<RuleMark>,
}

impl Permit<'_> {
    /// The path that was judged: what is sent, byte for byte.
    pub fn path(&self) -> &str {
        self.path.as_str()
    }

    /// The allow rule that covers it; `None` where anything passes.
    pub fn rule(&self) -> Option<RuleMark> {
        self.rule
    }
}

/// Policy's no.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// The route is not for this client.
    Client,
    /// The route allows the path, but not with this method.
    Method,
    Path,
    /// Its answer would be a credential, which the client would keep.
    Minting,
    Rate(Exceeded),
    /// The route allows it, and the client's own lists do not.
    OfClient(RuleDenied),
    /// Over all routes together.
    RateOfClient(Exceeded),
}

impl Denied {
    /// The stable name of the no.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Client => "route_denied",
            Self::Method | Self::OfClient(RuleDenied::Method) => "method_denied",
            Self::Path | Self::OfClient(RuleDenied::Path) => "path_denied",
            Self::Minting | Self::OfClient(RuleDenied::Minting) => "derived_credential",
            Self::Rate(_) | Self::RateOfClient(_) => "rate_limited",
        }
    }
}

/// What becomes of a no.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Enforce,
    /// The no of rules and rate is told, and the request passes. Who may use a route is never left open, and no credential is
    /// handed out.
    Observe,
}

/// `allow`, `deny` and `rate` of a `[[client]]`: they go on top of its routes' own, whatever mode a route is in.
#[derive(Clone, PartialEq, Debug)]
pub struct ClientPolicy {
    pub rules: Rules,
    pub rate: Option<Rate>,
}

impl ClientPolicy {
    /// Whether it adds nothing.
    pub fn is_empty(&self) -> bool {
        self.rules.pass_everything() && self.rate.is_none()
    }
}

/// The same, on all routes of a table.
pub struct ClientTerms {
    pub rules: Rules,
    pub rate: Option<Arc<RateLimit>>,
}

/// What a route demands of a request.
pub struct Terms<'r> {
    pub clients: Option<&'r [ClientIndex]>,
    pub rules: &'r Rules,
    pub rate: Option<&'r RateLimit>,
    pub mode: Mode,
    /// What the client itself may, where that is less than all.
    pub of_client: Option<&'r ClientTerms>,
}

impl Terms<'_> {
    /// Judges a request: may this client use the route, does the route allow the method and the path, and is it not too
    /// much? `observed` hears of each no that is not enforced.
    ///
    /// # Errors
    /// When policy says no.
    pub fn admit<'a>(
        &self,
        client: ClientIndex,
        method: &Method,
        path: Canonical<'a>,
        observed: impl Fn(Denied, &Canonical<'_>),
    ) -> Result<Permit<'a>, Denied> {
        if self.clients.is_some_and(|clients| !clients.contains(&client)) {
            return Err(Denied::Client);
        }
        let object = |denied| match self.mode {
            Mode::Observe if denied != Denied::Minting => {
                observed(denied, &path);
                Ok(None)
            }
            Mode::Enforce | Mode::Observe => Err(denied),
        };
        let rule = self.rules.judge(method, &path).map_err(Denied::from).or_else(object)?;
        if let Some(terms) = self.of_client {
            terms.rules.judge(method, &path).map_err(Denied::OfClient)?;
        }
        if let Some(rate) = self.rate {
            rate.take().map_err(Denied::Rate).or_else(|denied| object(denied).map(drop))?;
        }
        if let Some(rate) = self.of_client.and_then(|terms| terms.rate.as_ref()) {
            rate.take().map_err(Denied::RateOfClient)?;
        }
        Ok(Permit { path, rule })
    }
}

impl From<RuleDenied> for Denied {
    fn from(denied: RuleDenied) -> Self {
        match denied {
            RuleDenied::Method => Self::Method,
            RuleDenied::Path => Self::Path,
            RuleDenied::Minting => Self::Minting,
        }
    }
}
