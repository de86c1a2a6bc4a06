//! `source = { kind = "github_app", ... }`: the tokens of an App's installation.

use toml::Spanned;

use super::asked_scopes;
use crate::authority::Endpoint;
use crate::config::problem::quote;
use crate::config::reader::Section;
use crate::config::{Context, tls};
use crate::token::source::Settings as Source;
use crate::token::source::github_app::Settings;

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
    for scope in permissions.iter().filter(|scope| !is_permission(scope)) {
        let message = format!("the scope {} is no permission of a GitHub App", quote(scope));
        let help = "a permission and its level, as in \"contents:read\" or \"pull_requests:write\"";
        section.refuse("scope", message, help);
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

fn is_permission(scope: &str) -> bool {
    let Some((name, level)) = scope.split_once(':') else { return false };
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && ["read", "write", "admin"].contains(&level)
}
