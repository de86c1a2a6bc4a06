//! Phantom keys of requests: whose they are, whether they may stand where they stand, and that none of them goes on.
//!
//! ```text
//!  head ─▶ identify: whose key? is it its client? ─▶ route ─▶ settle: a place that is cleared? a host of its own? ─▶ taken out
//!                          └────────────────────────────────────┴─▶ Tripped: refused as nobody, and told
//! ```
//!
//! A key may stand where APIs take credentials, which is cleared of the app's own ones: in the headers that are known for it,
//! and where the route's token goes. In `Proxy-Authorization` it is for this proxy alone, and says nothing of where it was meant
//! to go: a client that is told to use a proxy sends it with every request.
//!
//! Where no client has a key nothing is looked for.

use std::borrow::Cow;
use std::ops::ControlFlow;

use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode;

use super::error::Refusal;
use super::head::Head;
use super::headers::is_credential;
use super::message::Fields;
use super::target::{By, Target};
use super::tripwire::{Cause, Tripped};
use super::{Caller, credentials, job, sign};
use crate::identity::job::Job;
use crate::identity::{ClientIndex, Keys, Proof, Unknown};
use crate::route::{Route, Table};
use crate::secret::Mark;
use crate::token::Placement;

/// Who sent a request, and the key that it brought along.
pub struct Identified {
    pub client: ClientIndex,
    shown: Option<Shown>,
}

/// A key in a request.
struct Shown {
    mark: Mark,
    client: ClientIndex,
    /// Whether it stands anywhere but where it is for this proxy alone.
    is_for_an_api: bool,
    /// Whether it is in the query, or among cookies.
    is_in_pairs: bool,
}

/// Where a text stands that may hold one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    ForProxy,
    Field,
    Path,
    Pairs,
}

/// Recognises the client.
///
/// # Errors
/// When it is none.
pub fn identify(
    table: &Table,
    caller: &Caller,
    head: &Head,
    fields: &Fields,
    job: Option<&Job>,
) -> Result<Identified, Refusal> {
    let clients = &table.clients;
    let of_another = |key| trip(table, caller, key, Cause::OtherClient, None);
    let shown = match clients.keys() {
        Some(keys) => shown(keys, head, fields).map_err(of_another)?,
        None => None,
    };
    // A tunnel was opened with one, which is looked up anew: it may have been replaced since.
    let of_tunnel = || clients.keys()?.client(caller.inside.as_ref()?.key.as_ref()?);
    let key = shown.as_ref().map(|shown| shown.client).or_else(of_tunnel);
    match clients.identify(&caller.peer, Proof { key, job, certificate: caller.certificate() }) {
        Ok(client) => Ok(Identified { client, shown }),
        Err(Unknown::Nobody) => Err(Refusal::ClientUnknown),
        Err(Unknown::KeyMissing) => Err(Refusal::ClientAuthRequired),
        Err(Unknown::OtherJob) => Err(job::other(table, caller)),
        Err(Unknown::KeyOf(client)) => Err(of_another(client)),
    }
}

impl Part {
    fn of(name: &HeaderName) -> Self {
        match *name {
            PROXY_AUTHORIZATION => Self::ForProxy,
            COOKIE => Self::Pairs,
            _ => Self::Field,
        }
    }
}

impl Identified {
    /// Whether the key is what the client has in its query or its cookies, where the token goes into one of them.
    pub fn is_in_pairs(&self) -> bool {
        self.shown.as_ref().is_some_and(|shown| shown.is_in_pairs)
    }

    /// What a tunnel keeps, for the requests inside.
    pub fn mark(&self) -> Option<Mark> {
        self.shown.as_ref().map(|shown| shown.mark)
    }

    /// Judges where the request's key stands, and where it was to go; takes it out of the fields.
    ///
    /// # Errors
    /// When it trips a wire.
    pub fn settle(
        &self,
        table: &Table,
        caller: &Caller,
        route: Option<&Route>,
        target: &Target<'_>,
        fields: &mut Fields,
    ) -> Result<(), Refusal> {
        let (Some(shown), Some(keys)) = (&self.shown, table.clients.keys()) else { return Ok(()) };
        let refuse = |cause| Err(trip(table, caller, shown.client, cause, route));
        let is_astray = match route {
            Some(route) => !route.is_for(self.client),
            // A name that is none of ours leads nowhere.
            None => matches!(target.by, By::Authority { .. }),
        };
        if is_astray && shown.is_for_an_api {
            return refuse(Cause::OtherHost);
        }
        let placement = route.and_then(|route| route.token.as_ref()).map(|token| &token.placement);
        if shown.is_for_an_api && is_misplaced(keys, fields, target, placement) {
            return refuse(Cause::WrongPlace);
        }
        let guarded = placement.map(Placement::guarded_headers);
        // A signature is taken out as a whole, with what belongs to it.
        let stays = |name: &HeaderName, value: &HeaderValue| {
            matches!(placement, Some(Placement::SigV4(_))) && *name == AUTHORIZATION && sign::is_signature(value)
        };
        fields.retain(|name, value| {
            !(is_credential(name.as_str(), guarded) && holds(keys, name, value)) || stays(name, value)
        });
        Ok(())
    }

    /// The same of a request for a tunnel, which has a place for it, and says nothing else.
    ///
    /// # Errors
    /// When it trips a wire.
    pub fn settle_tunnel(&self, table: &Table, caller: &Caller, route: Option<&Route>) -> Result<(), Refusal> {
        match &self.shown {
            Some(shown) if shown.is_for_an_api => Err(trip(table, caller, shown.client, Cause::WrongPlace, route)),
            _ => Ok(()),
        }
    }
}

/// The key in a head, wherever it stands.
///
/// # Errors
/// When there are those of two clients: names one of them.
fn shown(keys: &Keys, head: &Head, fields: &Fields) -> Result<Option<Shown>, ClientIndex> {
    let mut shown: Option<Shown> = None;
    let mut look = |text: &[u8], part: Part| {
        keys.find(text, |mark, client| {
            let shown = shown.get_or_insert(Shown { mark, client, is_for_an_api: false, is_in_pairs: false });
            shown.is_for_an_api |= part != Part::ForProxy;
            shown.is_in_pairs |= part == Part::Pairs;
            if shown.client == client { ControlFlow::Continue(()) } else { ControlFlow::Break(client) }
        })
    };
    let mut look_at_all = || {
        for (name, value) in fields.iter() {
            look(&plain(name, value), Part::of(name))?;
        }
        look(&decoded(head.uri.path()), Part::Path)?;
        head.uri.query().map_or(ControlFlow::Continue(()), |query| look(&decoded(query), Part::Pairs))
    };
    match look_at_all() {
        ControlFlow::Break(client) => Err(client),
        ControlFlow::Continue(()) => Ok(shown),
    }
}

/// Whether a key stands in what would go on.
fn is_misplaced(keys: &Keys, fields: &Fields, target: &Target<'_>, placement: Option<&Placement>) -> bool {
    let guarded = placement.map(Placement::guarded_headers);
    let in_field = |(name, value): (&HeaderName, &HeaderValue)| match name {
        name if is_credential(name.as_str(), guarded) => false,
        name if *name == COOKIE => credentials::kept_cookies(value, placement).any(|cookie| keys.is_in(cookie)),
        _ => holds(keys, name, value),
    };
    let is_signed = matches!(placement, Some(Placement::SigV4(_)));
    let in_query = |query| {
        let taken_out = if is_signed { sign::pairs_of(query) } else { &[] };
        let mut kept = credentials::kept_pairs(query, placement).filter(|pair| !credentials::is_any(pair, taken_out));
        kept.any(|pair| keys.is_in(&decoded(pair)))
    };
    fields.iter().any(in_field) || keys.is_in(&decoded(target.rest)) || target.query.is_some_and(in_query)
}

fn holds(keys: &Keys, name: &HeaderName, value: &HeaderValue) -> bool {
    keys.is_in(&plain(name, value))
}

/// A field's value, as whoever takes credentials from it reads it: a Basic one as user and password.
fn plain<'v>(name: &HeaderName, value: &'v HeaderValue) -> Cow<'v, [u8]> {
    let bytes = value.as_bytes();
    if *name != AUTHORIZATION && *name != PROXY_AUTHORIZATION {
        return Cow::Borrowed(bytes);
    }
    credentials::basic(bytes).map_or(Cow::Borrowed(bytes), Cow::Owned)
}

fn decoded(text: &str) -> Cow<'_, [u8]> {
    percent_decode(text.as_bytes()).into()
}

/// What is known of a key that came from where it should not.
fn trip(table: &Table, caller: &Caller, key: ClientIndex, cause: Cause, route: Option<&Route>) -> Refusal {
    let sent_by =
        if cause == Cause::OtherClient { table.clients.like(&caller.peer, caller.certificate()) } else { Some(key) };
    Refusal::Tripped(Box::new(Tripped {
        cause,
        key: table.clients.name(key).clone(),
        sent_by: sent_by.map(|client| table.clients.name(client).clone()),
        uid: caller.peer.uid,
        route: route.map(|route| route.name.clone()),
        token: route.and_then(|route| route.token.as_ref()).map(|token| token.name.clone()),
    }))
}
