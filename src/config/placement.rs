//! `placement = ...`: where in the request the token goes.

use std::sync::Arc;

use http::HeaderName;
use toml::Spanned;
use toml::de::DeValue;

use super::problem::quote;
use super::reader::Section;
use crate::hmac::{Algorithm, Encoding, KeyForm, Recipe, Template};
use crate::sigv4;
use crate::token::Placement;

/// The placement of a token; in `Authorization: Bearer`, if it says none.
pub fn read(section: &mut Section<'_>) -> Option<Placement> {
    read_at(section, "placement")
}

/// The same under another key: where a secret goes that proves us to an issuer.
pub fn read_at(section: &mut Section<'_>, key: &'static str) -> Option<Placement> {
    let Some(written) = section.take(key) else { return Some(Placement::bearer()) };
    match written.get_ref() {
        DeValue::String(text) => {
            let text = Spanned::new(written.span(), text.as_ref());
            let signs = section.as_choice(key, &text, &[("bearer", false), ("sigv4", true)], &[])?;
            Some(if signs { Placement::SigV4(sigv4::Place::default()) } else { Placement::bearer() })
        }
        DeValue::Table(table) => in_table(Section::new(section.report, "`placement`", written.span(), Some(table))),
        _ => section.mismatch(key, written, "\"bearer\" or a table"),
    }
}

/// The keys of which one says where the token goes.
const PLACES: [&str; 6] = ["header", "basic", "query", "cookie", "sigv4", "hmac"];

fn in_table(mut section: Section<'_>) -> Option<Placement> {
    let named: Vec<&str> = PLACES.into_iter().filter(|place| section.has(place)).collect();
    if let [_, second, ..] = named[..] {
        section.refuse(second, "`placement` names two places, and a token goes into one", "remove one of them");
    }
    let header = section.parsed("header", header_name).map(Spanned::into_inner);
    let basic = section.parsed("basic", user).map(Spanned::into_inner);
    let query = section.parsed("query", parameter).map(Spanned::into_inner);
    let cookie = section.parsed("cookie", cookie_name).map(Spanned::into_inner);
    let place = place(section.table("sigv4", "`sigv4`"));
    let recipe = recipe(section.table("hmac", "`hmac`"));
    let template = template(&mut section);
    if section.has("template") && !section.has("header") && !named.is_empty() {
        section.refuse("template", "`template` is for a header", "remove it");
    }
    let placement = match named[..] {
        [] => {
            section.require("header", "`placement` does not say which header", "header = \"x-api-key\"");
            None
        }
        ["basic", ..] => basic.map(|user| Placement::Basic { user }),
        ["query", ..] => query.map(|name| Placement::Query { name }),
        ["cookie", ..] => cookie.map(|name| Placement::Cookie { name }),
        ["sigv4", ..] => place.map(Placement::SigV4),
        ["hmac", ..] => recipe.map(|recipe| Placement::Hmac(Arc::new(recipe))),
        _ => header.zip(template).map(|(name, (before, after))| Placement::Header { name, before, after }),
    };
    section.finish();
    placement
}

/// For which region and service is signed, where the upstream's host does not say it.
fn place(mut section: Section<'_>) -> Option<sigv4::Place> {
    let region = section.parsed("region", scope_part).map(Spanned::into_inner);
    let service = section.parsed("service", scope_part).map(Spanned::into_inner);
    let is_whole = section.has("region") == region.is_some() && section.has("service") == service.is_some();
    section.finish();
    is_whole.then_some(sigv4::Place { region, service })
}

/// How requests are signed by an HMAC, and which headers say so.
fn recipe(mut section: Section<'_>) -> Option<Recipe> {
    section.require("message", "`hmac` does not say what is signed", r#"message = "{timestamp}.{body}""#);
    section.require("header", "`hmac` does not say which header the signature goes into", "header = \"x-signature\"");
    let algorithms = [("sha256", Algorithm::Sha256), ("sha384", Algorithm::Sha384), ("sha512", Algorithm::Sha512)];
    let algorithm = section.choice("algorithm", &algorithms, &[]).unwrap_or(Algorithm::Sha256);
    let encodings = [("hex", Encoding::Hex), ("base64", Encoding::Base64)];
    let encoding = section.choice("encoding", &encodings, &[]).unwrap_or(Encoding::Hex);
    let forms = [("text", KeyForm::Text), ("base64", KeyForm::Base64), ("hex", KeyForm::Hex)];
    let key = section.choice("key", &forms, &[]).unwrap_or(KeyForm::Text);
    let message = section.parsed("message", Template::message).map(Spanned::into_inner);
    let name = section.parsed("header", header_name).map(Spanned::into_inner);
    let template = section.parsed("template", Template::header).map(Spanned::into_inner);
    let own = if section.has("template") { template } else { Template::header("{signature}").ok() };
    if own.as_ref().is_some_and(|own| !own.has_signature()) {
        section.refuse("template", "`template` has no {signature}", "as in \"t={timestamp},v1={signature}\"");
    }
    let mut headers: Vec<_> = name.zip(own).into_iter().collect();
    let others = section.table("headers", "a table of texts");
    for (name, written) in others.entries() {
        let Some(text) = others.as_string("headers", written) else { continue };
        let parsed = header_name(name.get_ref()).map_err(|error| (name.span(), error));
        let template = || Template::header(text.get_ref()).map_err(|error| (written.span(), error.to_string()));
        match parsed.and_then(|name| Ok((name, template()?))) {
            Ok((name, _)) if headers.iter().any(|(other, _)| *other == name) => {
                let message = format!("`headers`: {name} is written twice");
                section.report.error(written.span(), message, "remove one of them");
            }
            Ok(header) => headers.push(header),
            Err((at, error)) => section.report.error(at, format!("`headers`: {error}"), None),
        }
    }
    section.finish();
    let message = message.filter(|_| !headers.is_empty())?;
    Some(Recipe::new(algorithm, encoding, key, message, headers))
}

/// A region or a service, as it stands in a signature.
pub fn scope_part(text: &str) -> Result<String, &'static str> {
    let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    match text.len() {
        1..=LONGEST_NAME if plain => Ok(text.to_owned()),
        _ => Err("this is written as in \"eu-west-1\" or \"execute-api\""),
    }
}

/// A user's name for Basic (RFC 7617): a colon would end it.
fn user(text: &str) -> Result<String, &'static str> {
    match text {
        _ if text.contains(':') => Err("a user's name holds no colon: the token itself is the password"),
        _ if text.chars().any(char::is_control) => Err("a user's name is one line of text"),
        _ if text.len() > LONGEST_NAME => Err("a user's name has at most 100 bytes"),
        _ => Ok(text.to_owned()),
    }
}

/// A parameter's name that needs no encoding in a query.
fn parameter(text: &str) -> Result<String, &'static str> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'$'));
    match text.len() {
        1..=LONGEST_NAME if plain => Ok(text.to_owned()),
        _ => Err("a parameter's name has 1 to 100 letters, digits and `-._~$`"),
    }
}

/// A cookie's name (RFC 6265, section 4.1.1). One that starts with a dollar sign is none to older servers.
fn cookie_name(text: &str) -> Result<String, &'static str> {
    let token = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    match text.len() {
        1..=LONGEST_NAME if token && !text.starts_with('$') => Ok(text.to_owned()),
        _ => Err("a cookie's name has 1 to 100 letters, digits and signs that are no separators"),
    }
}

/// Of a user, a parameter, a cookie, a region or a service.
const LONGEST_NAME: usize = 100;

/// What stands before and after the token.
fn template(section: &mut Section<'_>) -> Option<(String, String)> {
    let Some(written) = section.string("template") else {
        return (!section.has("template")).then(Default::default);
    };
    let text = *written.get_ref();
    let plain = text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    match text.split_once("{}") {
        Some((before, after)) if plain && !after.contains("{}") => Some((before.to_owned(), after.to_owned())),
        _ => {
            section.report.conceal(written.span());
            let message = "`template` must be visible ASCII with exactly one `{}`, where the token goes";
            section.refuse("template", message, "as in \"Token {}\"");
            None
        }
    }
}

/// Headers that say where a message ends, where it goes and who it is for: nothing of the config may set them.
const RESERVED: [&str; 16] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-host",
];

/// A header that may be set.
pub fn header_name(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| "this is not a header's name".to_owned())?;
    if RESERVED.contains(&name.as_str()) {
        return Err(format!("{} belongs to the connection, and cannot be set", quote(name.as_str())));
    }
    Ok(name)
}
