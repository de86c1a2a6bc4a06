//! The one place where a token meets a request.
//!
//! Invariant: a token is attached last, under a [`Permit`], towards its upstream only, on a connection that is established
//! and whose certificate was verified for that upstream.

use http::Request;

use super::error::Refusal;
use super::pool::Lease;
use crate::policy::Permit;
use crate::route::Upstream;
use crate::token::{Placement, Usable};

/// Attaches the token: whatever stood in its place is gone.
///
/// # Errors
/// When the connection is not a verified one to `upstream`: nothing is attached then.
pub fn attach<B>(
    request: &mut Request<B>,
    _permit: &Permit<'_>,
    upstream: &Upstream,
    connection: &Lease,
    placement: &Placement,
    token: &Usable,
) -> Result<(), Refusal> {
    if !connection.reaches(&upstream.endpoint.authority) {
        return Err(Refusal::UpstreamTls("the connection is another host's".into()));
    }
    request.headers_mut().insert(placement.header.clone(), token.generation().header.clone());
    Ok(())
}
