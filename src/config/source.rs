//! `source = { kind = ... }`: how a token is obtained.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use jsonwebtoken::Algorithm;
use toml::Spanned;
use toml::de::DeValue;

use super::placement::header_name;
use super::problem::quote;
use super::reader::{Section, conceal};
use super::{Context, later, tls, value};

mod assertion;
mod exec;

use crate::authority::Endpoint;
use crate::secret::Reference;
use crate::token::source::client_credentials::Auth;
use crate::token::source::{Settings, client_credentials, signed_jwt};

/// `scopes`: the token's own, which the source may not exceed.
pub fn read(mut section: Section<'_>, scopes: Option<&[String]>, context: &Context<'_>) -> Option<Settings> {
    let kinds = [
        ("client_credentials", Kind::ClientCredentials),
        ("env", Kind::Env),
        ("exec", Kind::Exec),
        ("file", Kind::File),
        ("signed_jwt", Kind::SignedJwt),
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
    let settings = match kind {
        Kind::ClientCredentials => client_credentials(&mut section, scopes, context)
            .map(|settings| Settings::ClientCredentials(settings.into())),
        Kind::Env => env(&mut section),
        Kind::Exec => exec::read(&mut section, scopes.unwrap_or_default()).map(Settings::Exec),
        Kind::File => file(&mut section, context),
        Kind::SignedJwt => signed_jwt(&mut section, context).map(Settings::SignedJwt),
    };
    section.finish();
    settings
}

#[derive(Clone, Copy)]
enum Kind {
    ClientCredentials,
    Env,
    Exec,
    File,
    SignedJwt,
}

fn client_credentials(
    section: &mut Section<'_>,
    scopes: Option<&[String]>,
    context: &Context<'_>,
) -> Option<client_credentials::Settings> {
    section.require("token_url", "`source` does not name its issuer", "token_url = \"https://issuer.example/token\"");
    section.require("client_id", "`source` does not say as whom to ask", "client_id = \"ci\"");
    let token_url = section.endpoint("token_url");
    if let Some(url) = &token_url {
        context.judge_endpoint("token_url", url);
    }
    let revocation_url = section.endpoint("revocation_url");
    if let Some(url) = &revocation_url {
        context.judge_endpoint("revocation_url", url);
    }
    let client_id = section.text("client_id");
    let scope = asked_scopes(section, scopes.unwrap_or_default());
    let audience = texts(section, "audience");
    let resource = texts(section, "resource");
    let extra = pairs(section, "extra", field);
    let headers = pairs(section, "headers", header);
    let tls = tls::read(section.table("tls", "`tls`"), token_url.as_ref(), context);
    let auth = auth(section, &tls, token_url.as_ref().map(Spanned::get_ref), context);
    Some(client_credentials::Settings {
        token_url: token_url?.into_inner(),
        revocation_url: revocation_url.map(Spanned::into_inner),
        client_id: client_id?,
        auth: auth?,
        scope,
        audience,
        resource,
        extra,
        headers,
        tls,
    })
}

/// How the client proves itself: with a secret, with the certificate of its `tls`, or with what it signs.
fn auth(
    section: &mut Section<'_>,
    tls: &crate::tls::Settings,
    token_url: Option<&Endpoint>,
    context: &Context<'_>,
) -> Option<Auth> {
    let with_secret = |auth: fn(Reference) -> Auth| Proof::Secret(auth);
    let ways = [
        ("basic", with_secret(Auth::Basic)),
        ("post", with_secret(Auth::Post)),
        ("mtls", Proof::Certificate),
        ("private_key_jwt", Proof::Signature),
    ];
    let way = section.choice("auth", &ways, &[]);
    let secret = section.reference("client_secret", context.base);
    let assertion = assertion::read(section, matches!(way, Some(Proof::Signature)), token_url, context);
    match way.or((!section.has("auth")).then_some(with_secret(Auth::Basic)))? {
        Proof::Secret(auth) => {
            let example = "client_secret = \"env:CI_SECRET\"";
            section.require("client_secret", "`source` does not say where its secret is", example);
            secret.map(auth)
        }
        Proof::Certificate | Proof::Signature if section.has("client_secret") => {
            let message = "this `auth` proves the client with a key, and sends no secret";
            section.refuse("client_secret", message, "remove `client_secret`");
            None
        }
        Proof::Certificate if tls.identity.is_none() => {
            let message = "`auth = \"mtls\"` needs the client certificate that it proves itself with";
            section.refuse("auth", message, "add `tls = { cert = \"file:/path\", key = \"file:/path\" }`");
            None
        }
        Proof::Certificate => Some(Auth::Mtls),
        Proof::Signature => assertion.map(|settings| Auth::PrivateKeyJwt(Box::new(settings))),
    }
}

#[derive(Clone, Copy)]
enum Proof {
    Secret(fn(Reference) -> Auth),
    Certificate,
    Signature,
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

/// Those that need no shared key: the public key can be published.
const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("EdDSA", Algorithm::EdDSA),
];

fn signed_jwt(section: &mut Section<'_>, context: &Context<'_>) -> Option<signed_jwt::Settings> {
    let needed = [
        ("key", "does not say where its private key is", "key = \"file:/etc/countersign/jwt.pem\""),
        ("algorithm", "does not say how to sign", "algorithm = \"ES256\""),
        ("issuer", "does not say who issues", "issuer = \"https://ci.example.com\""),
        ("subject", "does not say for whom it is issued", "subject = \"billing\""),
        ("audience", "does not say who is to accept it", "audience = \"https://api.example.com\""),
    ];
    for (key, what, example) in needed {
        section.require(key, format!("`source` {what}"), example);
    }
    let key = section.reference("key", context.base);
    let algorithm = section.choice("algorithm", &ALGORITHMS, &[]);
    let key_id = section.text("key_id");
    let issuer = section.text("issuer");
    let subject = section.text("subject");
    let audience = texts(section, "audience");
    if audience.is_empty() && section.has("audience") {
        section.refuse("audience", "`audience` must name at least one audience", None);
    }
    let day = Duration::from_secs(86_400);
    let lifetime = section.duration("lifetime", Duration::from_secs(1)..=day).unwrap_or(Duration::from_secs(300));
    let claims = claims(section.table("claims", "`claims`"));
    Some(signed_jwt::Settings {
        key: key?,
        algorithm: algorithm?,
        key_id,
        issuer: issuer?,
        subject: subject?,
        audience,
        lifetime,
        claims,
    })
}

/// Claims that the other keys set.
const SET_CLAIMS: [&str; 7] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];

fn claims(section: Section<'_>) -> serde_json::Map<String, serde_json::Value> {
    let mut claims = serde_json::Map::new();
    for (key, written) in section.entries() {
        let name = *key.get_ref();
        if SET_CLAIMS.contains(&name) {
            section.report.error(key.span(), format!("the claim `{name}` is set by the source itself"), "remove it");
        } else if let Some(value) = json(written) {
            claims.insert(name.to_owned(), value);
        } else {
            let message = format!("the claim {} has a number that JSON has not", quote(name));
            section.report.error(written.span(), message, None);
        }
    }
    claims
}

/// A value as JSON has it; `None` where it holds a number that is not finite or too large.
fn json(value: &Spanned<DeValue<'_>>) -> Option<serde_json::Value> {
    use serde_json::{Number, Value as Json};
    Some(match value.get_ref() {
        DeValue::String(text) => Json::from(text.as_ref()),
        DeValue::Integer(number) => Json::from(i64::from_str_radix(number.as_str(), number.radix()).ok()?),
        DeValue::Float(number) => Json::Number(Number::from_f64(number.as_str().parse().ok()?)?),
        DeValue::Boolean(value) => Json::from(*value),
        DeValue::Datetime(time) => Json::from(time.to_string()),
        DeValue::Array(list) => Json::Array(list.iter().map(json).collect::<Option<_>>()?),
        DeValue::Table(table) => {
            let entry =
                |(key, value): (&Spanned<_>, _)| Some((AsRef::<str>::as_ref(key.get_ref()).to_owned(), json(value)?));
            Json::Object(table.iter().map(entry).collect::<Option<_>>()?)
        }
    })
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

/// Names with texts. The texts are not shown: a secret may have been written there.
fn pairs<T>(section: &mut Section<'_>, key: &'static str, parse: fn(&str, &str) -> Result<T, PairError>) -> Vec<T> {
    let table = section.table(key, "a table of texts");
    let mut parsed = Vec::new();
    for (name, written) in table.entries() {
        conceal(section.report, written);
        let Some(text) = table.as_string(key, written) else { continue };
        match parse(name.get_ref(), text.get_ref()) {
            Ok(pair) => parsed.push(pair),
            Err(error) => section.report.error(name.span(), format!("`{key}`: {error}"), error.help()),
        }
    }
    parsed
}

#[derive(Debug, thiserror::Error)]
enum PairError {
    #[error("the source sets this itself")]
    Set,
    #[error("a secret may not stand in the config, and this looks like the name of one")]
    Secret,
    #[error("{0}")]
    Name(String),
    #[error("the value must be one line of visible ASCII")]
    Value,
}

impl PairError {
    fn help(&self) -> Option<String> {
        match self {
            Self::Set => Some("remove it, and use the source's own keys".to_owned()),
            Self::Secret => Some("the source sends one secret, `client_secret`, which is a reference".to_owned()),
            Self::Name(_) | Self::Value => None,
        }
    }
}

/// A form field that the issuer wants beyond those of the grant.
fn field(name: &str, text: &str) -> Result<(String, String), PairError> {
    const SET: [&str; 6] = ["grant_type", "client_id", "scope", "audience", "resource", "client_assertion_type"];
    match name {
        _ if SET.contains(&name) => Err(PairError::Set),
        _ if names_a_secret(name) => Err(PairError::Secret),
        "" => Err(PairError::Name("the name of a field must not be empty".to_owned())),
        _ => Ok((name.to_owned(), text.to_owned())),
    }
}

/// A header that the issuer wants.
fn header(name: &str, text: &str) -> Result<(HeaderName, HeaderValue), PairError> {
    let header = header_name(name).map_err(PairError::Name)?;
    match header.as_str() {
        "content-type" | "accept" => Err(PairError::Set),
        name if names_a_secret(name) => Err(PairError::Secret),
        _ if !text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) => Err(PairError::Value),
        _ => HeaderValue::from_str(text).map(|value| (header, value)).map_err(|_| PairError::Value),
    }
}

/// Names under which credentials are sent, whatever stands before and after.
fn names_a_secret(name: &str) -> bool {
    const PARTS: [&str; 8] =
        ["secret", "password", "passwd", "assertion", "authorization", "cookie", "apikey", "credential"];
    const WHOLE: [&str; 7] =
        ["code", "refreshtoken", "subjecttoken", "actortoken", "accesstoken", "xauthtoken", "privatekey"];
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    PARTS.iter().any(|part| plain.contains(part)) || WHOLE.contains(&plain.as_str())
}
