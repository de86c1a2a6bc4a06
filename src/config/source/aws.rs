//! `source = { kind = "aws_..." }`: keys that sign requests to AWS.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;

use crate::authority::{Endpoint, Host};
use crate::config::placement::scope_part;
use crate::config::reader::Section;
use crate::config::{Context, tls};
use crate::dial::address::is_metadata;
use crate::sigv4;
use crate::token::source::Settings as Source;
use crate::token::source::aws::sts::Proof;
use crate::token::source::aws::{Settings, fixed as keys, machine as own, sts};

/// What STS gives at all; how long a role's keys may live is said by the role.
const LIFETIMES: RangeInclusive<Duration> = Duration::from_secs(900)..=Duration::from_secs(12 * 3600);

pub fn fixed(section: &mut Section<'_>, context: &Context<'_>) -> Option<Source> {
    require_keys(section);
    keys(section, context).map(|keys| Source::Aws(Box::new(Settings::Static(keys))))
}

pub fn metadata(section: &mut Section<'_>, context: &Context<'_>) -> Option<Source> {
    machine(section, context).map(|machine| Source::Aws(Box::new(Settings::Machine(machine))))
}

pub fn assume_role(section: &mut Section<'_>, context: &Context<'_>) -> Option<Source> {
    let named = section.has("access_key_id") || section.has("secret_access_key");
    if named {
        require_keys(section);
        for key in ["service", "metadata_url", "instance_role", "authorization"] {
            if section.has(key) {
                let message = format!("`{key}` is for the machine's own keys, and others are named");
                section.refuse(key, message, "remove it, or the keys");
            }
        }
    }
    let keys = keys(section, context);
    let machine = machine(section, context);
    let external_id = section.text("external_id");
    let id_is_whole = !section.has("external_id") || external_id.is_some();
    let proof = if named { keys.map(Proof::Keys) } else { machine.map(Proof::Machine) };
    role(section, proof, external_id.filter(|_| id_is_whole), context).filter(|_| id_is_whole)
}

pub fn web_identity(section: &mut Section<'_>, context: &Context<'_>) -> Option<Source> {
    let example = "web_identity_token = \"file:/var/run/secrets/eks.amazonaws.com/serviceaccount/token\"";
    section.require("web_identity_token", "`source` does not say which JWT it shows", example);
    let token = section.reference("web_identity_token", context.base);
    role(section, token.map(Proof::WebIdentity), None, context)
}

/// What is asked of STS.
fn role(
    section: &mut Section<'_>,
    proof: Option<Proof>,
    external_id: Option<String>,
    context: &Context<'_>,
) -> Option<Source> {
    let example = "role_arn = \"arn:aws:iam::123456789012:role/reader\"";
    section.require("role_arn", "`source` does not say which role it asks for", example);
    let role = section.parsed("role_arn", arn).map(Spanned::into_inner);
    let named = section.has("session_name");
    let session_name = section.parsed("session_name", session_name).map(Spanned::into_inner);
    let session_name = if named { session_name } else { Some("countersign".to_owned()) };
    let lifetime = section.duration("lifetime", LIFETIMES).unwrap_or(Duration::from_secs(3600));
    let region = section.parsed("region", scope_part).map(Spanned::into_inner);
    let url = section.endpoint("sts_url");
    if let Some(url) = &url {
        context.judge_endpoint("sts_url", url);
    }
    let tls = tls::read(section.table("tls", "`tls`"), url.as_ref(), context);
    let place = sigv4::Place { region: region.clone(), service: Some("sts".to_owned()) };
    let url = match (section.has("sts_url"), &region) {
        (true, _) => url.map(Spanned::into_inner),
        (false, Some(region)) => Endpoint::parse(&format!("https://sts.{region}.amazonaws.com")).ok(),
        (false, None) => {
            section.require("region", "`source` does not say in which region STS is asked", "region = \"eu-west-1\"");
            None
        }
    };
    if url.as_ref().is_some_and(|url| place.scope(&url.authority.host).is_none()) {
        let message = "the host of `sts_url` does not say for which region the call is signed";
        section.refuse("sts_url", message, "add `region = \"eu-west-1\"`");
        return None;
    }
    Some(Source::Aws(Box::new(Settings::Sts(Box::new(sts::Settings {
        url: url?,
        place,
        role: role?,
        session_name: session_name?,
        external_id,
        lifetime,
        proof: proof?,
        tls,
    })))))
}

fn require_keys(section: &Section<'_>) {
    let needed = [("access_key_id", "AWS_ACCESS_KEY_ID"), ("secret_access_key", "AWS_SECRET_ACCESS_KEY")];
    for (key, variable) in needed {
        let example = format!("{key} = \"env:{variable}\"");
        section.require(key, format!("`source` does not say where the `{key}` is"), &example);
    }
}

fn keys(section: &mut Section<'_>, context: &Context<'_>) -> Option<keys::Settings> {
    let access_key_id = section.reference("access_key_id", context.base);
    let secret_access_key = section.reference("secret_access_key", context.base);
    let session_token = section.reference("session_token", context.base);
    let named = section.has("session_token");
    Some(keys::Settings {
        access_key_id: access_key_id?,
        secret_access_key: secret_access_key?,
        session_token: if named { Some(session_token?) } else { None },
    })
}

/// The machine's own keys. `None` only with an error reported.
fn machine(section: &mut Section<'_>, context: &Context<'_>) -> Option<own::Settings> {
    let in_container = section.choice("service", &[("ec2", false), ("container", true)], &[]);
    let in_container = if section.has("service") { in_container } else { Some(false) };
    let url = section.endpoint("metadata_url");
    if let Some(url) = &url
        && !matches!(url.get_ref().authority.host, Host::Ip(ip) if is_metadata(ip))
    {
        context.judge_endpoint("metadata_url", url);
    }
    let role = section.parsed("instance_role", instance_role).map(Spanned::into_inner);
    let authorization = section.reference("authorization", context.base);
    let is_whole = [("metadata_url", url.is_some()), ("instance_role", role.is_some())]
        .into_iter()
        .chain([("authorization", authorization.is_some())])
        .all(|(key, is_read)| section.has(key) == is_read);
    let misplaced = if in_container? { "instance_role" } else { "authorization" };
    if section.has(misplaced) {
        let fit = if misplaced == "authorization" { "container" } else { "ec2" };
        section.refuse(misplaced, format!("`{misplaced}` is for `service = \"{fit}\"`"), "remove it");
    }
    let url = url.map(Spanned::into_inner);
    let settings = if in_container? {
        own::Settings::Container { url, authorization }
    } else {
        let usual = || Endpoint::parse("http://169.254.169.254").ok();
        own::Settings::Instance { url: url.or_else(usual)?, role }
    };
    is_whole.then_some(settings)
}

/// `arn:aws:iam::123456789012:role/reader`
fn arn(text: &str) -> Result<String, &'static str> {
    let plain = text.bytes().all(|b| b.is_ascii_graphic());
    let is_one = plain && (20..=2048).contains(&text.len()) && text.starts_with("arn:") && text.contains(":role/");
    is_one.then(|| text.to_owned()).ok_or("a role is like \"arn:aws:iam::123456789012:role/reader\"")
}

fn session_name(text: &str) -> Result<String, &'static str> {
    let is_one = (2..=64).contains(&text.len()) && text.bytes().all(of_names);
    is_one.then(|| text.to_owned()).ok_or("it has 2 to 64 letters, digits and signs of `_+=,.@-`")
}

fn instance_role(text: &str) -> Result<String, &'static str> {
    let is_one = (1..=64).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(of_names);
    is_one.then(|| text.to_owned()).ok_or("it has 1 to 64 letters, digits and signs of `_+=,.@-`")
}

/// What AWS takes in names.
fn of_names(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte)
}
