//! What a job proves itself with: the token of its issuer, in `Proxy-Authorization`, or where its SDK sends an API key.
//!
//! ```text
//!  Proxy-Authorization: Bearer JWT, Basic any:JWT   ─▶ for us, whatever it says
//!  Authorization, x-api-key and their like: JWT     ─▶ for us, if its issuer and its audience are those of a client
//! ```
//!
//! Invariant: a token that is for us is taken out, good or not; one that is not good is not passed over.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::PROXY_AUTHORIZATION;
use http::{HeaderName, HeaderValue};

use super::Caller;
use super::error::Refusal;
use super::headers::is_credential;
use super::message::Fields;
use crate::identity::job::{Job, Jobs, Refused, has_form};
use crate::route::Table;

/// The job that sent these fields, which lose its token; or the one that has opened the tunnel that they came in.
///
/// # Errors
/// When a token is shown that proves nothing.
pub async fn of(table: &Table, caller: &Caller, fields: &mut Fields) -> Result<Option<Arc<Job>>, Refusal> {
    let Some(jobs) = &table.jobs else { return Ok(None) };
    let shown = shown(jobs, fields);
    fields.retain(|name, value| !(is_place(name) && token(jobs, name, value).is_some()));
    Box::pin(prove(jobs, table, caller, shown)).await
}

/// The same of a request for a tunnel, which goes no further.
///
/// # Errors
/// As [`of`].
pub async fn of_tunnel(table: &Table, caller: &Caller, fields: &Fields) -> Result<Option<Arc<Job>>, Refusal> {
    let Some(jobs) = &table.jobs else { return Ok(None) };
    Box::pin(prove(jobs, table, caller, shown(jobs, fields))).await
}

async fn prove(
    jobs: &Jobs,
    table: &Table,
    caller: &Caller,
    shown: Result<Option<Vec<u8>>, Refused>,
) -> Result<Option<Arc<Job>>, Refusal> {
    let proved = match shown {
        Ok(Some(shown)) => jobs.verify(&shown, table.acquire_timeout).await.map(Some),
        Ok(None) => match caller.inside.as_ref().and_then(|opened| opened.job.as_ref()) {
            Some(job) => jobs.still(job).map(Some),
            None => Ok(None),
        },
        Err(why) => Err(why),
    };
    proved.map_err(|why| refuse(jobs, caller, why))
}

/// A job that is none of the clients.
pub fn other(table: &Table, caller: &Caller) -> Refusal {
    match &table.jobs {
        Some(jobs) => refuse(jobs, caller, Refused::Subject),
        None => Refusal::ClientUnknown,
    }
}

/// Counts what proves nothing.
fn refuse(jobs: &Jobs, caller: &Caller, why: Refused) -> Refusal {
    jobs.office().refused(why, caller.peer.uid);
    match why {
        Refused::Unavailable => Refusal::ClientUnverified,
        why => Refusal::JobRefused(why),
    }
}

/// The one token of these fields that is for us.
fn shown(jobs: &Jobs, fields: &Fields) -> Result<Option<Vec<u8>>, Refused> {
    let mut shown: Option<Cow<'_, [u8]>> = None;
    for (name, value) in fields.iter().filter(|(name, _)| is_place(name)) {
        let Some(token) = token(jobs, name, value) else { continue };
        if shown.as_ref().is_some_and(|other| *other != token) {
            return Err(Refused::Several);
        }
        shown = Some(token);
    }
    Ok(shown.map(Cow::into_owned))
}

fn is_place(name: &HeaderName) -> bool {
    is_credential(name.as_str(), None)
}

/// The token in a field, if it is for us.
fn token<'v>(jobs: &Jobs, name: &HeaderName, value: &'v HeaderValue) -> Option<Cow<'v, [u8]>> {
    let token = credential(value.as_bytes());
    let is_ours = if *name == PROXY_AUTHORIZATION { has_form(&token) } else { jobs.are_meant(&token) };
    is_ours.then_some(token)
}

/// What a field says without its scheme: of Basic the password, or the user where that is all there is.
fn credential(value: &[u8]) -> Cow<'_, [u8]> {
    let after = |scheme: &[u8]| {
        let (found, rest) = value.split_at_checked(scheme.len())?;
        found.eq_ignore_ascii_case(scheme).then(|| rest.trim_ascii())
    };
    if let Some(pair) = after(b"basic ").and_then(|pair| STANDARD.decode(pair).ok()) {
        let at = pair.iter().position(|byte| *byte == b':').unwrap_or(pair.len());
        let (user, password) = (&pair[..at], pair.get(at + 1..).unwrap_or_default());
        return Cow::Owned(if password.is_empty() { user } else { password }.to_vec());
    }
    Cow::Borrowed(after(b"bearer ").unwrap_or_else(|| value.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_read_out_of_every_scheme() {
        for (value, read) in [
            ("Bearer a.b.c", "a.b.c"),
            ("bearer  a.b.c ", "a.b.c"),
            ("a.b.c", "a.b.c"),
            // `job:a.b.c`, `a.b.c:` and `a.b.c`
            ("Basic am9iOmEuYi5j", "a.b.c"),
            ("basic YS5iLmM6", "a.b.c"),
            ("Basic YS5iLmM=", "a.b.c"),
            ("Basic ???", "Basic ???"),
            ("Digest a.b.c", "Digest a.b.c"),
            ("", ""),
        ] {
            assert_eq!(credential(value.as_bytes()), read.as_bytes(), "{value}");
        }
    }
}
