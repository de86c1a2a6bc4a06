//! `upstream_proxy` of `[proxy]`: a company's proxy, through which upstreams and issuers are reached.

use std::net::IpAddr;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use super::environment::ProxyVariable;
use super::reader::{Section, conceal};
use super::{Context, tls};
use crate::authority::{Endpoint, Host};
use crate::dial::tunnel::{Credentials, Settings};

const KEY: &str = "upstream_proxy";

/// The one word that it can be.
const ENVIRONMENT: &str = "environment";

pub fn read(section: &mut Section<'_>, context: &Context<'_>) -> Option<Settings> {
    let written = section.take(KEY)?;
    match written.get_ref() {
        DeValue::String(text) if text == ENVIRONMENT => of_environment(section, context),
        DeValue::String(_) => {
            let proxy = url(section, KEY)?;
            Some(Settings { proxy, credentials: None, no_proxy: String::new(), tls: crate::tls::Settings::default() })
        }
        DeValue::Table(_) => of_table(section.table(KEY, "`upstream_proxy`"), context),
        _ => {
            conceal(section.report, written);
            section.mismatch(KEY, written, "a URL, \"environment\" or a table with a `url`")
        }
    }
}

fn of_table(mut section: Section<'_>, context: &Context<'_>) -> Option<Settings> {
    section.require("url", "`upstream_proxy` does not say where the proxy is", "url = \"http://proxy.corp:3128\"");
    let at = section.place("url");
    let proxy = url(&mut section, "url").map(|proxy| Spanned::new(at, proxy));
    let username = section.text("username");
    let password = section.reference_at_rest("password", context.base);
    for (one, other) in [("username", "password"), ("password", "username")] {
        if section.has(one) && !section.has(other) {
            let message = format!("`upstream_proxy` has a `{one}` without a `{other}`");
            section.refuse(one, message, format!("add `{other}`, or remove this"));
        }
    }
    if username.as_ref().is_some_and(|name| name.contains(':')) {
        section.refuse("username", "`username` must not hold a colon, which ends it (RFC 7617)", None);
    }
    let no_proxy = exceptions(&mut section);
    let tls = tls::read(section.table("tls", "`tls`"), proxy.as_ref(), context);
    section.finish();
    let credentials = username.zip(password).map(|(username, password)| Credentials { username, password });
    Some(Settings { proxy: proxy?.into_inner(), credentials, no_proxy, tls })
}

/// What other programs obey, and this one only if it is told to.
fn of_environment(section: &Section<'_>, context: &Context<'_>) -> Option<Settings> {
    let refuse = |message: &str, help: &str| {
        section.refuse(KEY, message, help.to_owned());
        None
    };
    let url = match &context.environment.https_proxy {
        ProxyVariable::Unset => {
            let message = "neither $HTTPS_PROXY nor $ALL_PROXY is set, so nothing goes through a proxy";
            context.report.warning(section.place(KEY), message, "set one, or remove `upstream_proxy`");
            return None;
        }
        ProxyVariable::HoldsSecret => {
            let help = "write `upstream_proxy = { url = \"...\", username = \"...\", password = \"env:...\" }`";
            return refuse("the proxy's variable holds a password, which is not taken from a URL", help);
        }
        ProxyVariable::Url(url) => url,
    };
    let url = if url.contains("://") { url.clone() } else { format!("http://{url}") };
    match Endpoint::parse(&url) {
        Ok(proxy) => Some(Settings {
            proxy,
            credentials: None,
            no_proxy: context.environment.no_proxy.clone(),
            tls: crate::tls::Settings::default(),
        }),
        Err(error) => refuse(&format!("the proxy's variable: {error}"), "it is like \"http://proxy.corp:3128\""),
    }
}

fn url(section: &mut Section<'_>, key: &'static str) -> Option<Endpoint> {
    let proxy = section.endpoint(key)?;
    if proxy.get_ref().path == "/" {
        return Some(proxy.into_inner());
    }
    section.refuse(key, format!("`{key}`: a proxy has no path"), "as in \"http://proxy.corp:3128\"");
    None
}

/// As `$NO_PROXY` would have them.
fn exceptions(section: &mut Section<'_>) -> String {
    let texts = section.string_or_strings("no_proxy").unwrap_or_default();
    let mut entries = Vec::new();
    for text in &texts {
        for entry in text.get_ref().split(',').map(str::trim) {
            if is_exception(entry) {
                entries.push(entry);
            } else {
                let message = "`no_proxy`: an entry is a host name, an address, a network, or \"*\"";
                section.report.error(text.span(), message, "as in [\"corp.example\", \"10.0.0.0/8\"]");
            }
        }
    }
    entries.join(",")
}

fn is_exception(entry: &str) -> bool {
    let is_host = || Host::parse(entry.strip_prefix('.').unwrap_or(entry)).is_ok();
    entry == "*" || entry.parse::<IpNet>().is_ok() || entry.parse::<IpAddr>().is_ok() || is_host()
}
