//! The one place where a token meets a request.
//!
//! Invariant: a token is attached last, under a [`Permit`], towards its upstream only, on a connection that is established
//! and whose certificate was verified for that upstream. A request that is sent again carries the new token alone.

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use zeroize::Zeroizing;

use super::credentials::{clear_cookies, with_cookie, with_pair};
use super::error::Refusal;
use super::message::{Fields, Request};
use super::pool::Lease;
use crate::policy::Permit;
use crate::route::Upstream;
use crate::token::{Placement, Usable};

/// Attaches the token: whatever stood in its place is gone.
///
/// # Errors
/// When the connection is not a verified one to `upstream`: nothing is attached then.
pub fn attach(
    request: &mut Request,
    _permit: &Permit<'_>,
    upstream: &Upstream,
    connection: &Lease,
    placement: &Placement,
    token: &Usable,
) -> Result<(), Refusal> {
    if !connection.reaches(&upstream.endpoint.authority) {
        return Err(Refusal::UpstreamTls("the connection is another host's".into()));
    }
    let value = &token.generation().value;
    match placement {
        Placement::Header { name, .. } => {
            request.fields.insert(name.clone(), value.clone());
        }
        Placement::Basic { .. } => {
            request.fields.insert(AUTHORIZATION, value.clone());
        }
        Placement::Query { name } => request.uri = in_query(&request.uri, name, value)?,
        Placement::Cookie { name } => in_cookies(&mut request.fields, name, value)?,
    }
    Ok(())
}

fn in_query(uri: &Uri, name: &str, pair: &HeaderValue) -> Result<Uri, Refusal> {
    let before = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    // Wiped when the last holder of the URI lets go.
    let target = Bytes::from_owner(Zeroizing::new(with_pair(before, name, pair.as_bytes())));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(target).map_err(|_| Refusal::TargetTooLong)?);
    Uri::from_parts(parts).map_err(|_| Refusal::TargetTooLong)
}

fn in_cookies(headers: &mut Fields, name: &str, pair: &HeaderValue) -> Result<(), Refusal> {
    clear_cookies(headers, name);
    let cookies = Zeroizing::new(with_cookie(headers.get(COOKIE), pair.as_bytes()));
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(cookies)).map_err(|_| Refusal::HeadersTooLarge)?;
    value.set_sensitive(true);
    headers.insert(COOKIE, value);
    Ok(())
}
