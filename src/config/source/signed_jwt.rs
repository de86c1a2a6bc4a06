//! A JWT that the proxy signs: as a token of its own, or to show it to an issuer.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use toml::Spanned;
use toml::de::DeValue;

use super::texts;
use crate::config::Context;
use crate::config::problem::quote;
use crate::config::reader::Section;
use crate::token::source::signed_jwt::Settings;

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

/// `of` is what messages call the section; `accepts` is who is to accept the JWT where the section does not say it.
pub fn read(section: &mut Section<'_>, of: &str, accepts: Option<String>, context: &Context<'_>) -> Option<Settings> {
    let needed = [
        ("key", "does not say where its private key is", "key = \"file:/etc/countersign/jwt.pem\""),
        ("algorithm", "does not say how to sign", "algorithm = \"ES256\""),
        ("issuer", "does not say who issues", "issuer = \"https://ci.example.com\""),
        ("subject", "does not say for whom it is issued", "subject = \"billing\""),
        ("audience", "does not say who is to accept it", "audience = \"https://api.example.com\""),
    ];
    for (key, what, example) in needed {
        if key != "audience" || accepts.is_none() {
            section.require(key, format!("{of} {what}"), example);
        }
    }
    let key = section.reference("key", context.base);
    let algorithm = section.choice("algorithm", &ALGORITHMS, &[]);
    let key_id = section.text("key_id");
    let issuer = section.text("issuer");
    let subject = section.text("subject");
    let mut audience = texts(section, "audience");
    if audience.is_empty() && section.has("audience") {
        section.refuse("audience", "`audience` must name at least one audience", None);
    }
    if !section.has("audience") {
        audience.extend(accepts);
    }
    let day = Duration::from_secs(86_400);
    let lifetime = section.duration("lifetime", Duration::from_secs(1)..=day).unwrap_or(Duration::from_secs(300));
    let claims = claims(section.table("claims", "`claims`"));
    Some(Settings {
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
