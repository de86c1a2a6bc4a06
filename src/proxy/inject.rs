//! The one place where a token meets a request.
//!
//! Invariant: a token is attached last, under a [`Permit`], towards its upstream only, on a connection that is established
//! and whose certificate was verified for that upstream. A request that is sent again carries the new token alone. What
//! signs a request signs it here, as it is going to be sent.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use zeroize::Zeroizing;

use super::credentials::{clear_cookies, with_cookie, with_pair};
use super::error::Refusal;
use super::message::{Fields, Request};
use super::pool::Lease;
use super::sign::Signing;
use crate::clock::Moment;
use crate::dpop;
use crate::policy::Permit;
use crate::route::Upstream;
use crate::sigv4::Chunks;
use crate::token::{Placed, Placement, Usable};

/// Attaches the token: whatever stood in its place is gone. What is returned signs the body as it passes.
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
    (signing, now): (Option<&Signing>, Moment),
) -> Result<Option<Box<Chunks>>, Refusal> {
    if !connection.reaches(&upstream.endpoint.authority) {
        return Err(Refusal::UpstreamTls("the connection is another host's".into()));
    }
    let value = match (&token.generation().value, placement, signing) {
        (Placed::Value(value), _, _) => value,
        (Placed::Bound(bound), Placement::Dpop, _) => {
            let proof = bound.proof(request.method.as_str(), &upstream.endpoint, request.uri.path(), now);
            for (name, value) in &dpop::headers(bound, proof.ok_or(MISPLACED)?) {
                request.fields.insert(name.clone(), value.clone());
            }
            return Ok(None);
        }
        (Placed::Keys(keys), Placement::SigV4(place), Some(signing)) => {
            return signing.attach(request, place, upstream, keys, now);
        }
        (Placed::Key(key), Placement::Hmac(recipe), Some(signing)) => {
            return signing.attach_hmac(request, recipe, upstream, key, now).map(|()| None);
        }
        (Placed::Keys(_) | Placed::Key(_) | Placed::Bound(_), _, _) => return Err(MISPLACED),
    };
    match placement {
        Placement::Header { name, .. } => {
            request.fields.insert(name.clone(), value.clone());
        }
        Placement::Basic { .. } => {
            request.fields.insert(AUTHORIZATION, value.clone());
        }
        Placement::Query { name } => request.uri = in_query(&request.uri, name, value)?,
        Placement::Cookie { name } => in_cookies(&mut request.fields, name, value)?,
        Placement::Dpop | Placement::SigV4(_) | Placement::Hmac(_) => return Err(MISPLACED),
    }
    Ok(None)
}

/// A token that is not what its placement is for: a source and a placement that do not fit are refused with the config.
const MISPLACED: Refusal = Refusal::TokenUnavailable { retry_after: Duration::from_secs(1) };

fn in_query(uri: &Uri, name: &str, pair: &HeaderValue) -> Result<Uri, Refusal> {
    let before = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    with_target(uri, Zeroizing::new(with_pair(before, name, pair.as_bytes())))
}

/// A URI with another path and query, which holds a secret: wiped when the last holder of the URI lets go.
///
/// # Errors
/// When it is longer than any URI may be.
pub fn with_target(uri: &Uri, target: Zeroizing<Vec<u8>>) -> Result<Uri, Refusal> {
    let mut parts = uri.clone().into_parts();
    let target = PathAndQuery::from_maybe_shared(Bytes::from_owner(target));
    parts.path_and_query = Some(target.map_err(|_| Refusal::TargetTooLong)?);
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
