//! `[[client]]`: who may call.

use std::fmt::Display;

use rustls_pki_types::DnsName;
use toml::Spanned;

use super::reader::Section;
use super::route::rules_of_client;
use super::{Context, job, version};
use crate::identity::{Cgroup, Named, Settings, SpiffeId};
use crate::name::ClientName;
use crate::policy::ClientPolicy;
use crate::policy::limit::Rate;
use crate::proxy::Address;
use crate::tls::ServerSettings;

/// The largest id: the one above it means "none" to the kernel.
const MAX_ID: u64 = u32::MAX as u64 - 1;

const HOW_TO_TELL: &str =
    "give each a `uid`, `gid`, `cgroup`, `key` or certificate of its own, or jobs a `subject` of their own";

const APART: &str = "run the app as another user, and name it: `[[client]]` with `name = \"app\"` and `uid = 1000`";

/// A client of the file, with the place of its name, and what it may beside its routes' own; none where the name is wrong.
pub fn read(mut section: Section<'_>, context: &Context<'_>) -> Option<(Spanned<Settings>, ClientPolicy)> {
    let name = section.name::<ClientName>("name");
    section.require("name", "the client has no name", "name = \"app\"");
    let uid = id(&mut section, "uid");
    let gid = id(&mut section, "gid");
    if name.as_ref().is_some_and(|name| *name.get_ref() == ClientName::implicit()) {
        section.refuse("name", "`local` is the client that is there when the file names none", "choose another name");
    }
    let has_cgroup = section.has("cgroup");
    let cgroup = section.parsed("cgroup", str::parse::<Cgroup>).map(Spanned::into_inner);
    let key = section.reference_at_rest("key", context.base);
    let is_job = section.has("jwt");
    let jwt = job::read(section.table("jwt", "`jwt`"), context);
    let version = section.parsed("version", version::version).map(Spanned::into_inner);
    let spiffe = section.parsed("spiffe", str::parse::<SpiffeId>).map(Spanned::into_inner);
    let dns = section.parsed("dns", dns_name).map(Spanned::into_inner);
    let is_named = section.has("spiffe") || section.has("dns");
    let is_told = is_named || ["uid", "gid", "key", "jwt", "cgroup"].iter().any(|mark| section.has(mark));
    if !is_told {
        let message =
            format!("{} is not told from others: nothing says how it is known", label("client", name.as_ref()));
        section.require("uid", message, "uid = 1000");
    }
    if uid == Some(context.environment.uid) {
        let message =
            format!("{} is not kept apart from the proxy, which runs as the same user", label("client", name.as_ref()));
        context.report.warning(section.place("uid"), message, APART);
    }
    let rules = rules_of_client(&mut section, &label("client", name.as_ref()));
    let rate = section.parsed("rate", str::parse::<Rate>).map(Spanned::into_inner);
    section.finish();
    let certificate = Named::new(spiffe, dns);
    if is_job && jwt.is_none() || is_named && certificate.is_none() || has_cgroup && cgroup.is_none() {
        return None;
    }
    let name = name?;
    let settings = Settings { name: name.get_ref().clone(), uid, gid, cgroup, key, jwt, certificate, version };
    Some((Spanned::new(name.span(), settings), ClientPolicy { rules, rate }))
}

fn dns_name(text: &str) -> Result<DnsName<'static>, &'static str> {
    let name = DnsName::try_from(text.to_owned()).ok().filter(|name| !name.as_ref().ends_with('.'));
    name.ok_or("a DNS name of a certificate is written as \"billing.apps.example\": no pattern, and no dot at its end")
}

pub fn id(section: &mut Section<'_>, key: &'static str) -> Option<u32> {
    section.integer(key, 0..=MAX_ID).and_then(|id| u32::try_from(id).ok())
}

/// How messages name one of these.
pub fn label<N: Display>(what: &str, name: Option<&Spanned<N>>) -> String {
    name.map_or(format!("the {what}"), |name| format!("{what} `{}`", name.get_ref()))
}

/// The app of a file without clients is any process of our own user.
pub fn warn_of_the_implicit_one(context: &Context<'_>) {
    let message = "the file names no client, so any process of the proxy's own user is one: such an app is not kept \
                   apart from the proxy";
    context.report.warning(0..0, message, APART);
}

/// One process must not be two clients.
pub fn keep_apart(clients: &[Spanned<Settings>], context: &Context<'_>) {
    for (index, one) in clients.iter().enumerate() {
        let (own, earlier) = (one.get_ref(), &clients[..index]);
        if let Some(other) = earlier.iter().map(Spanned::get_ref).find(|other| overlap(own, other)) {
            let message = format!("one process can be both client `{}` and client `{}`", other.name, own.name);
            context.report.error(one.span(), message, HOW_TO_TELL);
        }
        let issuer = |client: &Settings| client.jwt.as_ref().map(|jwt| jwt.issuer.clone());
        let Some(known) = issuer(own) else { continue };
        let others = earlier.iter().filter_map(|other| issuer(other.get_ref()));
        if others.into_iter().any(|other| other.name == known.name && other != known) {
            let message =
                format!("client `{}` says something else of the issuer {} than another client", own.name, known.name);
            context.report.error(one.span(), message, "write the same `tls` in both");
        }
    }
}

/// Whether there is a process that both describe. Whoever shows the token of a job, or a certificate, is known by it, or not at
/// all.
fn overlap(one: &Settings, other: &Settings) -> bool {
    let may_agree = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
    // A request has one key: where both are known by theirs, it tells them apart.
    let told_by_key = one.key.is_some() && other.key.is_some() && one.key != other.key;
    let may_be_one_job = match (&one.jwt, &other.jwt) {
        (None, None) => true,
        (Some(one), Some(other)) => one.overlaps(other),
        (None, Some(_)) | (Some(_), None) => false,
    };
    let may_be_named_one = match (&one.certificate, &other.certificate) {
        (None, None) => true,
        (Some(one), Some(other)) => one.overlaps(other),
        (None, Some(_)) | (Some(_), None) => false,
    };
    let may_be_in_both = match (&one.cgroup, &other.cgroup) {
        (Some(one), Some(other)) => one.overlaps(other),
        (None, _) | (_, None) => true,
    };
    let may_be_one = may_be_in_both && may_agree(one.uid, other.uid) && may_agree(one.gid, other.gid);
    let may_be_one = may_be_one && may_be_one_job && may_be_named_one;
    one.name != other.name && may_be_one && !told_by_key
}

/// The groups of a process are known on unix sockets only.
pub fn check_groups(clients: &[Spanned<Settings>], listen: &[Spanned<Address>], context: &Context<'_>) {
    if listen.iter().any(|address| matches!(address.get_ref(), Address::Unix(_))) {
        return;
    }
    for client in clients {
        let Settings { name, gid, cgroup, .. } = client.get_ref();
        let key = match (gid, cgroup) {
            (Some(_), _) => "gid",
            (None, Some(_)) => "cgroup",
            (None, None) => continue,
        };
        let message = format!("client `{name}` can never call: its `{key}` is told on unix sockets only");
        context.report.warning(client.span(), message, "add a \"unix:\" address to `listen` in [proxy]");
    }
}

/// Whoever can come from another machine proves who it is; and who is known by a certificate, is asked for it.
pub fn check_certificates(
    clients: &[Spanned<Settings>],
    listen: &[Spanned<Address>],
    tls: Option<&ServerSettings>,
    context: &Context<'_>,
) {
    let is_open = |address: &Address| matches!(address, Address::Tls(address) if !address.ip().is_loopback());
    let open = listen.iter().find(|address| is_open(address.get_ref()));
    let are_asked = tls.is_some_and(|tls| tls.client_ca.is_some());
    let by_certificate = |client: &Settings| client.certificate.is_some();
    for client in clients.iter().filter(|client| by_certificate(client.get_ref())).filter(|_| !are_asked) {
        let message = format!("client `{}` can never call: nobody is asked for a certificate", client.get_ref().name);
        let help = "add a \"tls:\" address to `listen` in [proxy], and `tls` with its `client_ca`";
        context.report.warning(client.span(), message, help);
    }
    let Some(open) = open else { return };
    let proves_itself = |client: &Settings| client.may_lack_certificate() || by_certificate(client);
    let shows_something = |client: &Settings| client.key.is_some() || client.jwt.is_some();
    if !clients.iter().any(|client| proves_itself(client.get_ref())) {
        let message =
            "nobody can call from another machine: no client has a `key`, a `jwt`, or a name of a certificate";
        let help =
            "give a [[client]] a `key`, or the `spiffe` or `dns` of its certificate; or listen on a loopback address";
        context.report.error(open.span(), message, help);
    } else if !are_asked && let Some(other) = clients.iter().find(|client| !shows_something(client.get_ref())) {
        let name = &other.get_ref().name;
        let message =
            format!("`listen` is open to other machines, and client `{name}` has nothing to prove itself with there");
        let help = "add `client_ca` to `tls` in [proxy], or give each client a `key`";
        context.report.error(open.span(), message, help);
    }
}
