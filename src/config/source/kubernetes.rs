//! `source = { kind = "kubernetes", ... }`: what the cluster signs for a service account.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use super::texts;
use crate::authority::Endpoint;
use crate::config::reader::Section;
use crate::config::{Context, tls};
use crate::secret::Reference;
use crate::token::source::Settings as Source;
use crate::token::source::kubernetes::Settings;

/// Where every pod finds its own account (kubernetes.io/docs/tasks/run-application/access-api-from-pod).
const MOUNTED: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The least that an API server takes, and the most that is worth to be called short-lived.
const LIFETIMES: RangeInclusive<Duration> = Duration::from_secs(600)..=Duration::from_secs(86_400);

pub fn read(section: &mut Section<'_>, context: &Context<'_>) -> Option<Source> {
    let needed = [
        ("namespace", "does not name the account's namespace", "namespace = \"billing\""),
        ("service_account", "does not name the service account", "service_account = \"reader\""),
    ];
    for (key, what, example) in needed {
        section.require(key, format!("`source` {what}"), example);
    }
    let namespace = section.parsed("namespace", name).map(Spanned::into_inner);
    let service_account = section.parsed("service_account", name).map(Spanned::into_inner);
    let audience = texts(section, "audience");
    let lifetime = section.duration("lifetime", LIFETIMES).unwrap_or(Duration::from_secs(3600));
    let own_token = section.reference("own_token", context.base);
    let own_token = if section.has("own_token") { own_token } else { Some(mounted("token")) };
    let api_url = section.endpoint("api_url");
    if let Some(url) = &api_url {
        context.judge_endpoint("api_url", url);
    }
    let mut tls = tls::read(section.table("tls", "`tls`"), api_url.as_ref(), context);
    let elsewhere = section.has("api_url");
    if !elsewhere && tls.ca.is_none() {
        tls.ca = Some(PathBuf::from(MOUNTED).join("ca.crt"));
    }
    let usual = || Endpoint::parse("https://kubernetes.default.svc").ok();
    let url = if elsewhere { api_url.map(Spanned::into_inner) } else { usual() };
    Some(Source::Kubernetes(Box::new(Settings {
        url: url?,
        namespace: namespace?,
        service_account: service_account?,
        own_token: own_token?,
        audience,
        lifetime,
        tls,
    })))
}

fn mounted(file: &str) -> Reference {
    Reference::File(PathBuf::from(MOUNTED).join(file))
}

/// A DNS name (RFC 1123), as the API server has it in its paths.
fn name(text: &str) -> Result<String, &'static str> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let fits = text.len() <= 253
        && text.bytes().all(|b| plain(b) || b == b'-' || b == b'.')
        && text.bytes().next().is_some_and(plain)
        && text.bytes().last().is_some_and(plain)
        && !text.contains("..");
    fits.then(|| text.to_owned()).ok_or("a name in a cluster has lower-case letters, digits, hyphens and dots")
}
