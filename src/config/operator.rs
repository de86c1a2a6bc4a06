//! `[[operator]]`: who looks after tokens.

use rustls_pki_types::ServerName;
use toml::Spanned;

use super::Context;
use super::client::{self, label};
use super::reader::Section;
use super::value;
use crate::identity;
use crate::name::OperatorName;
use crate::operator::{KeyDigest, Operators, Role, Settings};

/// How a key comes into the file.
const HOW_TO_DIGEST: &str = "printf %s \"$KEY\" | sha256sum, and write \"sha256:\" before it";

/// Who does something by itself, as the trail has it.
const OURS: [&str; 3] = ["detection", "reload", "state"];

/// An operator of the file, with the place of its name; none where the name is wrong.
pub fn read(mut section: Section<'_>) -> Option<Spanned<Settings>> {
    let name = section.name::<OperatorName>("name");
    section.require("name", "the operator has no name", "name = \"alice\"");
    if name.as_ref().is_some_and(|name| *name.get_ref() == OperatorName::implicit()) {
        section.refuse("name", "`local` is the operator that is there when the file names none", "choose another name");
    }
    if name.as_ref().is_some_and(|name| OURS.contains(&name.get_ref().as_str())) {
        section.refuse("name", "the trail has this name for what the proxy does by itself", "choose another name");
    }
    let groups = groups(&mut section);
    let uid = client::id(&mut section, "uid");
    let key = key(&mut section);
    let certificate = section.parsed("certificate", certificate).map(Spanned::into_inner);
    let roles = roles(&mut section);
    let label = label("operator", name.as_ref());
    if !["uid", "key", "certificate"].iter().any(|proof| section.has(proof)) {
        let message = format!("{label} is not told from others: nothing says how it is known");
        section.require("uid", message, "uid = 1001");
    }
    if uid.is_some() && certificate.is_some() {
        let message = format!("{label} can never be known: a `uid` is told on the unix socket, a certificate over TLS");
        section.refuse("certificate", message, "remove one of them");
    }
    section.require("roles", format!("{label} does not say what it may do"), "roles = [\"viewer\"]");
    section.finish();
    let name = name?;
    let at = name.span();
    Some(Spanned::new(at, Settings { name: name.into_inner(), groups, uid, key, certificate, roles }))
}

fn groups(section: &mut Section<'_>) -> Vec<String> {
    let group = |text: &Spanned<&str>| {
        let parsed = value::text(text.get_ref());
        parsed.map_err(|error| section.report.error(text.span(), format!("`groups`: {error}"), None)).ok()
    };
    section.strings("groups").unwrap_or_default().iter().filter_map(group).collect()
}

/// What is no digest may be the key itself, and is not shown.
fn key(section: &mut Section<'_>) -> Option<KeyDigest> {
    let text = section.string("key")?;
    let parsed = text.get_ref().parse().map_err(|error| {
        section.report.conceal(text.span());
        section.report.error(text.span(), format!("`key`: {error}"), HOW_TO_DIGEST);
    });
    parsed.ok()
}

fn certificate(text: &str) -> Result<ServerName<'static>, &'static str> {
    match ServerName::try_from(text.to_owned()) {
        Ok(name @ ServerName::DnsName(_)) => Ok(name),
        Ok(_) | Err(_) => Err("a certificate is known by a DNS name that it holds, as in \"alice.ops.example\""),
    }
}

fn roles(section: &mut Section<'_>) -> Vec<Role> {
    let words = Role::ALL.map(|role| (role.as_str(), role));
    let texts = section.strings("roles").unwrap_or_default();
    texts.iter().filter_map(|text| section.as_choice("roles", text, &words, &[])).collect()
}

/// One process, one key and one certificate must not be two operators, and who approves must be told from the apps.
pub fn keep_apart(operators: &[Spanned<Settings>], clients: Option<&[identity::Settings]>, context: &Context<'_>) {
    for (index, one) in operators.iter().enumerate() {
        let own = one.get_ref();
        if let Some(other) = operators[..index].iter().map(Spanned::get_ref).find(|other| overlap(own, other)) {
            let message = format!("operator `{}` and operator `{}` prove themselves alike", other.name, own.name);
            context.report.error(one.span(), message, "give each a `uid`, `key` or `certificate` of its own");
        }
    }
    if let Some(clients) = clients {
        let is_job = |name: &str| clients.iter().any(|client| client.jwt.is_some() && client.name.as_str() == name);
        for one in operators.iter().filter(|one| is_job(one.get_ref().name.as_str())) {
            let message =
                format!("operator `{0}` and the jobs of client `{0}` have one name in the trail", one.get_ref().name);
            context.report.error(one.span(), message, "rename one of them");
        }
        warn_of_those_that_never_approve(operators, clients, context);
    }
}

/// Their author thinks that they do.
fn warn_of_those_that_never_approve(
    operators: &[Spanned<Settings>],
    clients: &[identity::Settings],
    context: &Context<'_>,
) {
    let own_uid = context.environment.uid;
    let all = Operators::new(Vec::new(), &identity::Clients::new(clients.to_vec(), own_uid), own_uid);
    for operator in operators {
        let settings = operator.get_ref();
        if settings.uid.is_some() && settings.roles.contains(&Role::Approver) && !all.tells_apart(settings) {
            let message = format!(
                "operator `{}` never approves: it is known only by a user that is also a client's, or the proxy's own",
                settings.name
            );
            context.report.warning(operator.span(), message, "give it a `key`");
        }
    }
}

/// Whether the same proof can make both.
fn overlap(one: &Settings, other: &Settings) -> bool {
    let differ = |a: Option<u32>, b: Option<u32>| a.is_some() && b.is_some() && a != b;
    let names_differ = one.certificate.is_some() && other.certificate.is_some() && one.certificate != other.certificate;
    // Of one that says nothing it is told already.
    let says_something = |of: &Settings| of.uid.is_some() || of.key.is_some() || of.certificate.is_some();
    let alike = one.key == other.key && !differ(one.uid, other.uid) && !names_differ;
    // What is known by a user comes over another socket than what is known by a certificate.
    let may_meet = one.certificate.is_none() || other.uid.is_none();
    let may_meet = may_meet && (one.uid.is_none() || other.certificate.is_none());
    one.name != other.name && says_something(one) && says_something(other) && alike && may_meet
}
