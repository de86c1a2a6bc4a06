//! `source = { kind = "github_app", ... }`: the tokens of an App's installation.

use toml::Spanned;
use toml::de::DeValue;

use super::asked_scopes;
use crate::authority::Endpoint;
use crate::config::problem::quote;
use crate::config::reader::Section;
use crate::config::{Context, tls};
use crate::token::source::Settings as Source;
use crate::token::source::github_app::{Settings, permission};

/// `scopes`: the token's own, which are permissions of the App.
pub fn read(section: &mut Section<'_>, scopes: &[String], context: &Context<'_>) -> Option<Source> {
    let needed = [
        ("app_id", "does not name the App", "app_id = \"Iv23liExample\""),
        ("installation_id", "does not say which installation of the App", "installation_id = 12345678"),
        ("key", "does not say where the App's private key is", "key = \"file:/etc/countersign/app.pem\""),
    ];
    for (key, what, example) in needed {
        section.require(key, format!("`source` {what}"), example);
    }
    let app = section.text("app_id");
    let installation = section.integer("installation_id", 1..=u64::MAX);
    let key = section.reference("key", context.base);
    let repositories = repositories(section);
    let permissions = asked_scopes(section, scopes);
    judge(section, "scope", &permissions);
    if section.take("scope").is_some_and(|written| names_nothing(written.get_ref())) {
        let message = "`scope` names no permission: GitHub would give all that the App may do";
        section.refuse("scope", message, "remove it to ask for the token's scopes, or name some of them");
    }
    let api_url = section.endpoint("api_url");
    if let Some(url) = &api_url {
        context.judge_endpoint("api_url", url);
    }
    let tls = tls::read(section.table("tls", "`tls`"), api_url.as_ref(), context);
    let usual = || Endpoint::parse("https://api.github.com").ok();
    let api_url = if section.has("api_url") { api_url.map(Spanned::into_inner) } else { usual() };
    Some(Source::GithubApp(Box::new(Settings {
        api_url: api_url?,
        app: app?,
        installation: installation?,
        key: key?,
        repositories: repositories?,
        permissions,
        tls,
    })))
}

/// Names without their owner, as GitHub wants them.
fn repositories(section: &mut Section<'_>) -> Option<Vec<String>> {
    let texts = section.strings("repositories").unwrap_or_default();
    let is_name = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    if let Some(bad) = texts.iter().find(|text| !is_name(text.get_ref())) {
        let message = "`repositories` lists names of repositories";
        section.report.error(bad.span(), message, "write the name alone, without its owner and a slash");
        return None;
    }
    Some(texts.into_iter().map(|text| (*text.get_ref()).to_owned()).collect())
}

/// Reports what is no permission.
pub fn judge<'s>(section: &Section<'_>, key: &str, scopes: impl IntoIterator<Item = &'s String>) {
    for scope in scopes.into_iter().filter(|scope| permission(scope).is_none()) {
        let message = format!("the scope {} is no permission of a GitHub App", quote(scope));
        let help = "a permission and its level, as in \"contents:read\" or \"pull_requests:write\"";
        section.refuse(key, message, help);
    }
}

fn names_nothing(scope: &DeValue<'_>) -> bool {
    match scope {
        DeValue::String(text) => text.trim().is_empty(),
        DeValue::Array(items) => items.iter().all(|item| names_nothing(item.get_ref())),
        _ => false,
    }
}
