//! `placement = ...`: where in the request the token goes.

use http::HeaderName;
use toml::Spanned;
use toml::de::DeValue;

use super::later;
use super::problem::quote;
use super::reader::Section;
use crate::token::Placement;

/// The placement of a token; in `Authorization: Bearer`, if it says none.
pub fn read(section: &mut Section<'_>) -> Option<Placement> {
    let Some(written) = section.take("placement") else { return Some(bearer()) };
    match written.get_ref() {
        DeValue::String(text) => {
            let text = Spanned::new(written.span(), text.as_ref());
            section.as_choice("placement", &text, &[("bearer", ())], &later::PLACEMENTS)?;
            Some(bearer())
        }
        DeValue::Table(table) => in_header(Section::new(section.report, "`placement`", written.span(), Some(table))),
        _ => section.mismatch("placement", written, "\"bearer\" or a table"),
    }
}

fn bearer() -> Placement {
    let header = http::header::AUTHORIZATION;
    Placement { header, before: "Bearer ".to_owned(), after: String::new(), label: "bearer" }
}

fn in_header(mut section: Section<'_>) -> Option<Placement> {
    let another = later::keys("`placement`").any(|key| section.has(key));
    if !another {
        section.require("header", "`placement` does not say which header", "header = \"x-api-key\"");
    }
    let header = section.parsed("header", header_name);
    let template = template(&mut section);
    section.finish();
    let (before, after) = template?;
    Some(Placement { header: header?.into_inner(), before, after, label: "header" })
}

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
