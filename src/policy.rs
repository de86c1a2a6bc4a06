//! Policy's yes to one request.
//!
//! ```text
//!  for this client? ─► path and method allowed? ─► within the rate? ─► Permit
//! ```
//!
//! Invariant: a [`Permit`] is made here and nowhere else, and it carries the very path that was judged; what is sent is
//! taken from it.

pub mod hold;
pub mod limit;
pub mod rule;

use http::Method;

use crate::identity::ClientIndex;
use crate::path::Canonical;
use crate::usage::RuleMark;
use limit::{Exceeded, RateLimit};
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
    Rate(Exceeded),
}

impl Denied {
    /// The stable name of the no.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Client => "route_denied",
            Self::Method => "method_denied",
            Self::Path => "path_denied",
            Self::Rate(_) => "rate_limited",
        }
    }
}

/// What becomes of a no.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Enforce,
    /// The no of rules and rate is told, and the request passes. Who may use a route is never left open.
    Observe,
}

/// What a route demands of a request.
pub struct Terms<'r> {
    pub clients: Option<&'r [ClientIndex]>,
    pub rules: &'r Rules,
    pub rate: Option<&'r RateLimit>,
    pub mode: Mode,
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
            Mode::Enforce => Err(denied),
            Mode::Observe => {
                observed(denied, &path);
                Ok(None)
            }
        };
        let rule = self.rules.judge(method, &path).map_err(Denied::from).or_else(object)?;
        if let Some(rate) = self.rate {
            rate.take().map_err(Denied::Rate).or_else(|denied| object(denied).map(drop))?;
        }
        Ok(Permit { path, rule })
    }
}

impl From<RuleDenied> for Denied {
    fn from(denied: RuleDenied) -> Self {
        match denied {
            RuleDenied::Method => Self::Method,
            RuleDenied::Path => Self::Path,
        }
    }
}
