//! Policy's yes to one request.
//!
//! Invariant: a [`Permit`] is made here and nowhere else, and it carries the very path that was judged; what is sent is
//! taken from it.

pub mod rule;

use http::Method;

use crate::identity::ClientIndex;
use crate::path::Canonical;
use rule::{Denied as RuleDenied, Rules};

/// Policy's yes to one request of one client.
pub struct Permit<'a> {
    path: Canonical<'a>,
}

impl Permit<'_> {
    /// The path that was judged: what is sent, byte for byte.
    pub fn path(&self) -> &str {
        self.path.as_str()
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
}

/// Judges a request: may this client use the route, and does the route allow the method and the path?
///
/// # Errors
/// When policy says no.
pub fn admit<'a>(
    clients: Option<&[ClientIndex]>,
    rules: &Rules,
    client: ClientIndex,
    method: &Method,
    path: Canonical<'a>,
) -> Result<Permit<'a>, Denied> {
    if clients.is_some_and(|clients| !clients.contains(&client)) {
        return Err(Denied::Client);
    }
    match rules.judge(method, &path) {
        Ok(()) => Ok(Permit { path }),
        Err(RuleDenied::Method) => Err(Denied::Method),
        Err(RuleDenied::Path) => Err(Denied::Path),
    }
}
