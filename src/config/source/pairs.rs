//! `extra` and `headers`: what an issuer wants beyond the protocol. No secret may stand there.

use http::{HeaderName, HeaderValue};

use crate::config::placement::header_name;
use crate::config::reader::{Section, conceal};
use crate::token::source::oauth::OWN_FIELDS;

/// Names with texts. The texts are not shown: a secret may have been written there.
pub fn pairs<T>(section: &mut Section<'_>, key: &'static str, parse: fn(&str, &str) -> Result<T, PairError>) -> Vec<T> {
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
pub enum PairError {
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
            Self::Secret => {
                Some("the source sends what proves it, which is a reference, and no other secret".to_owned())
            }
            Self::Name(_) | Self::Value => None,
        }
    }
}

/// A form field that the issuer wants beyond those of the grant.
pub fn field(name: &str, text: &str) -> Result<(String, String), PairError> {
    match name {
        _ if OWN_FIELDS.contains(&name) => Err(PairError::Set),
        _ if names_a_secret(name) => Err(PairError::Secret),
        "" => Err(PairError::Name("the name of a field must not be empty".to_owned())),
        _ => Ok((name.to_owned(), text.to_owned())),
    }
}

/// What a path of a vault is told.
pub fn parameter(name: &str, text: &str) -> Result<(String, String), PairError> {
    match name {
        _ if names_a_secret(name) => Err(PairError::Secret),
        "" => Err(PairError::Name("the name of a parameter must not be empty".to_owned())),
        _ => Ok((name.to_owned(), text.to_owned())),
    }
}

/// A header that the issuer wants.
pub fn header(name: &str, text: &str) -> Result<(HeaderName, HeaderValue), PairError> {
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
