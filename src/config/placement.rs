//! `placement = ...`: where in the request the token goes.

use http::HeaderName;
use toml::Spanned;
use toml::de::DeValue;

use super::problem::quote;
use super::reader::Section;
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
const PLACES: [&str; 5] = ["header", "basic", "query", "cookie", "sigv4"];

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
