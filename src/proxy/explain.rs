//! What would become of a request, without sending it.
//!
//! Invariant: it is judged by the functions that the request path calls, in the same order, on a table made of the same
//! config; what differs is that the client is named, not recognised, and that nothing is dialled.

use http::Method;

use super::connect::{asked_for, lead};
use super::message::Fields;
use super::{Head, Limits, Refusal, Target, find, head as heads, path_and_query};
use crate::authority::{Host, Scheme};
use crate::identity::ClientIndex;
use crate::policy::Denied;
use crate::policy::rule::Ruling;
use crate::route::{NotAdmitted, Route, Table};

pub struct Explanation<'t> {
    pub route: Option<&'t Route>,
    /// None where no rule was asked.
    pub ruling: Option<Ruling<'t>>,
    /// Of the client's own lists; none where it has none.
    pub ruling_of_client: Option<Ruling<'t>>,
    /// The path and query that the upstream would get, if policy lets the request pass; nothing of a tunnel, which has none.
    pub outcome: Result<String, Refusal>,
}

/// Judges a request of this client. `port` is the one that it comes in on; unix sockets have none. `is_ours` says whether a
/// host is a name of our own certificate.
pub fn explain<'t>(
    table: &'t Table,
    limits: &Limits,
    client: ClientIndex,
    head: &Head,
    headers: &Fields,
    port: Option<u16>,
    is_ours: impl Fn(&Host) -> bool,
) -> Explanation<'t> {
    let (mut route, mut ruling, mut ruling_of_client) = (None, None, None);
    let mut judge = || {
        heads::judge(head, headers, limits)?;
        if head.method == Method::CONNECT {
            let authority = asked_for(head, headers)?;
            route = table.authority(Scheme::Https, &authority, client).map(|route| &**route);
            lead(table, route, &authority, client)?;
            return Ok(String::new());
        }
        let target = Target::of(head, headers, port, |authority| table.is_upstream(authority), &is_ours)?;
        let found = find(table, &target, client).ok_or(Refusal::NoRoute)?;
        route = Some(found);
        let permit = found.admit(client, &head.method, target.rest);
        if !matches!(permit, Err(NotAdmitted::Denied(Denied::Client))) {
            ruling = found.ruling(&head.method, target.rest);
            ruling_of_client = found.ruling_of_client(client, &head.method, target.rest);
        }
        Ok(path_and_query(&permit?, target.query)?.to_string())
    };
    let outcome = judge();
    Explanation { route, ruling, ruling_of_client, outcome }
}
