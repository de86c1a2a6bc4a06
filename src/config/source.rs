//! `source = { kind = ... }`: how a token is obtained.

use std::collections::BTreeSet;

use super::problem::quote;
use super::reader::{Section, conceal};
use super::{Context, later, value};

mod assertion;
mod aws;
mod exec;
mod github_app;
mod key_endpoint;
mod kubernetes;
mod metadata;
mod oauth;
pub mod pairs;
mod signed_jwt;
mod vault;

use crate::token::source::Settings;

/// `scopes`: the token's own, which the source may not exceed.
pub fn read(mut section: Section<'_>, scopes: Option<&[String]>, context: &Context<'_>) -> Option<Settings> {
    let kinds = [
        ("aws_assume_role", Kind::AwsAssumeRole),
        ("aws_metadata", Kind::AwsMetadata),
        ("aws_static", Kind::AwsStatic),
        ("aws_web_identity", Kind::AwsWebIdentity),
        ("azure_client", Kind::AzureClient),
        ("azure_metadata", Kind::AzureMetadata),
        ("client_credentials", Kind::ClientCredentials),
        ("env", Kind::Env),
        ("exec", Kind::Exec),
        ("file", Kind::File),
        ("gcp_metadata", Kind::GcpMetadata),
        ("gcp_service_account", Kind::GcpServiceAccount),
        ("github_app", Kind::GithubApp),
        ("jwt_bearer", Kind::JwtBearer),
        ("key_endpoint", Kind::KeyEndpoint),
        ("kubernetes", Kind::Kubernetes),
        ("refresh_token", Kind::RefreshToken),
        ("signed_jwt", Kind::SignedJwt),
        ("token_exchange", Kind::TokenExchange),
        ("vault_dynamic", Kind::VaultDynamic),
        ("vault_kv", Kind::VaultKv),
    ];
    section.require("kind", "`source` does not say of which kind it is", "kind = \"client_credentials\"");
    let Some(kind) = section.choice("kind", &kinds, &later::SOURCES) else {
        // Its other keys cannot be judged, so any of them may be a secret.
        section
            .entries()
            .filter(|(key, _)| *key.get_ref() != "kind")
            .for_each(|(_, value)| conceal(section.report, value));
        return None;
    };
    let own = scopes.unwrap_or_default();
    let settings = match kind {
        Kind::AwsAssumeRole => aws::assume_role(&mut section, context),
        Kind::AwsMetadata => aws::metadata(&mut section, context),
        Kind::AwsStatic => aws::fixed(&mut section, context),
        Kind::AwsWebIdentity => aws::web_identity(&mut section, context),
        Kind::AzureClient => oauth::azure_client(&mut section, own, context),
        Kind::AzureMetadata => metadata::azure(&mut section, context),
        Kind::ClientCredentials => oauth::client_credentials(&mut section, own, context),
        Kind::Env => env(&mut section),
        Kind::Exec => exec::read(&mut section, own).map(Settings::Exec),
        Kind::File => file(&mut section, context),
        Kind::GcpMetadata => metadata::google(&mut section, own, context),
        Kind::GcpServiceAccount => oauth::service_account(&mut section, own, context),
        Kind::GithubApp => github_app::read(&mut section, own, context),
        Kind::JwtBearer => oauth::jwt_bearer(&mut section, own, context),
        Kind::KeyEndpoint => key_endpoint::read(&mut section, context),
        Kind::Kubernetes => kubernetes::read(&mut section, context),
        Kind::RefreshToken => oauth::refresh_token(&mut section, own, context),
        Kind::SignedJwt => signed_jwt::read(&mut section, "`source`", None, context).map(Settings::SignedJwt),
        Kind::TokenExchange => oauth::token_exchange(&mut section, own, context),
        Kind::VaultDynamic => vault::dynamic(&mut section, context),
        Kind::VaultKv => vault::kv(&mut section, context),
    };
    section.finish();
    settings
}

/// Reports what could be asked for later, and not of this source.
pub fn judge_further(section: &Section<'_>, source: Option<&Settings>, scopes: &BTreeSet<String>) {
    if let Some(Settings::GithubApp(_)) = source {
        github_app::judge(section, "scopes_on_request", scopes);
    }
}

#[derive(Clone, Copy)]
enum Kind {
    AwsAssumeRole,
    AwsMetadata,
    AwsStatic,
    AwsWebIdentity,
    AzureClient,
    AzureMetadata,
    ClientCredentials,
    Env,
    Exec,
    File,
    GcpMetadata,
    GcpServiceAccount,
    GithubApp,
    JwtBearer,
    KeyEndpoint,
    Kubernetes,
    RefreshToken,
    SignedJwt,
    TokenExchange,
    VaultDynamic,
    VaultKv,
}

/// What is asked for: some of the token's scopes, or all of them.
fn asked_scopes(section: &mut Section<'_>, granted: &[String]) -> Vec<String> {
    let written = section.string_or_strings("scope");
    if !section.has("scope") {
        return granted.to_vec();
    }
    let mut asked = Vec::new();
    for text in written.unwrap_or_default() {
        for scope in text.get_ref().split(' ').filter(|scope| !scope.is_empty()) {
            if granted.iter().any(|other| other == scope) {
                asked.push(scope.to_owned());
            } else if !granted.is_empty() {
                let message = format!("`scope` asks for {}, which is not among the token's scopes", quote(scope));
                section.report.error(text.span(), message, "add it to `scopes`, where it is reviewed, or leave it out");
            }
        }
    }
    asked
}

fn env(section: &mut Section<'_>) -> Option<Settings> {
    section.require("name", "`source` does not name its variable", "name = \"GITHUB_TOKEN\"");
    let name = section.string("name")?;
    if !value::is_variable(name.get_ref()) {
        section.report.conceal(name.span());
        let message = "`name` must be a variable's name: letters, digits and underscores";
        section.refuse("name", message, "write the name of the variable, never its value");
        return None;
    }
    section.report.holds_a_secret(name.get_ref());
    Some(Settings::Env { name: (*name.get_ref()).to_owned() })
}

fn file(section: &mut Section<'_>, context: &Context<'_>) -> Option<Settings> {
    section.require("path", "`source` does not name its file", "path = \"/run/secrets/token\"");
    section.path("path", context.base).map(|path| Settings::File { path })
}

/// A list of texts, or one.
fn texts(section: &mut Section<'_>, key: &'static str) -> Vec<String> {
    let written = section.string_or_strings(key).unwrap_or_default();
    let checked = written.iter().filter_map(|text| {
        let parsed = value::text(text.get_ref());
        parsed.map_err(|error| section.report.error(text.span(), format!("`{key}`: {error}"), None)).ok()
    });
    checked.collect()
}
