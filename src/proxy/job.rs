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

use http::header::PROXY_AUTHORIZATION;
use http::{HeaderName, HeaderValue};

use super::error::Refusal;
use super::headers::is_credential;
use super::message::Fields;
use super::{Caller, credentials};
use crate::identity::Keys;
use crate::identity::job::{Job, Jobs, Refused, Shown};
use crate::route::Table;
use crate::usage::UsageGuard;

/// The job that sent these fields, which lose its token; or the one that has opened the tunnel that they came in.
///
/// # Errors
/// When a token is shown that proves nothing.
pub async fn of(
    table: &Table,
    caller: &Caller,
    fields: &mut Fields,
    usage: &mut UsageGuard,
) -> Result<Option<Arc<Job>>, Refusal> {
    let Some(jobs) = &table.jobs else { return Ok(None) };
    let proved = match take_out(jobs, table.clients.keys(), fields) {
        Ok(Some(shown)) => {
            usage.waits();
            // What is rare stands apart: the future of each request keeps room for all that it may wait for.
            let proved = Box::pin(jobs.verify(&shown, table.acquire_timeout)).await;
            usage.resumes();
            proved.map(Some)
        }
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

/// Takes the tokens that are for us out of the fields: the one that they all are.
fn take_out(jobs: &Jobs, keys: Option<&Keys>, fields: &mut Fields) -> Result<Option<Shown>, Refused> {
    let mut shown: Option<Shown> = None;
    let mut are_several = false;
    fields.retain(|name, value| {
        let Some(token) = token(jobs, keys, name, value) else { return true };
        are_several |= shown.get_or_insert_with(|| token.clone()) != &token;
        false
    });
    if are_several { Err(Refused::Several) } else { Ok(shown) }
}

/// The token in a field, if it is for us.
fn token(jobs: &Jobs, keys: Option<&Keys>, name: &HeaderName, value: &HeaderValue) -> Option<Shown> {
    if !is_credential(name.as_str(), None) {
        return None;
    }
    let text = credential(value.as_bytes());
    if *name != PROXY_AUTHORIZATION {
        return jobs.meant(text);
    }
    // A phantom key may have the form of a token.
    if keys.is_some_and(|keys| keys.is_in(&text)) { None } else { Shown::of(text) }
}

/// What a field says without its scheme: of Basic the password, or the user where that is all there is.
fn credential(value: &[u8]) -> Cow<'_, [u8]> {
    if let Some(pair) = credentials::basic(value) {
        let at = pair.iter().position(|byte| *byte == b':').unwrap_or(pair.len());
        let (user, password) = (&pair[..at], pair.get(at + 1..).unwrap_or_default());
        return Cow::Owned(if password.is_empty() { user } else { password }.to_vec());
    }
    Cow::Borrowed(credentials::after_scheme(value, "bearer").unwrap_or(value).trim_ascii())
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
