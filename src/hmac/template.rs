//! A text with places for what a request says.

use crate::text::Piece;

/// `{method}\n{path}\n{timestamp}\n{body_sha256}`. Braces around anything else are an error: none is needed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template(Vec<Piece<Place>>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Method,
    Host,
    Path,
    Query,
    /// Path and query.
    Target,
    /// In seconds.
    Timestamp,
    TimestampMillis,
    Time,
    Nonce,
    Body,
    BodySha256,
    BodySha256Base64,
    Signature,
}

const PLACES: [(&str, Place); 13] = [
    ("method", Place::Method),
    ("host", Place::Host),
    ("path", Place::Path),
    ("query", Place::Query),
    ("target", Place::Target),
    ("timestamp", Place::Timestamp),
    ("timestamp_ms", Place::TimestampMillis),
    ("time", Place::Time),
    ("nonce", Place::Nonce),
    ("body", Place::Body),
    ("body_sha256", Place::BodySha256),
    ("body_sha256_base64", Place::BodySha256Base64),
    ("signature", Place::Signature),
];

/// Why a text is no template.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoTemplate {
    #[error(
        "the places are {{method}}, {{host}}, {{path}}, {{query}}, {{target}}, {{timestamp}}, {{timestamp_ms}}, {{time}}, {{nonce}}, {{body}}, {{body_sha256}}, {{body_sha256_base64}} and {{signature}}"
    )]
    Place,
    #[error("the message is what the signature is made of: {{signature}} stands in a header")]
    Signature,
    #[error("a body may be anything, and a header one line: {{body}} stands in `message`")]
    Body,
    #[error("a header is one line of visible ASCII")]
    Header,
}

impl Place {
    pub fn is_of_body(self) -> bool {
        matches!(self, Self::Body | Self::BodySha256 | Self::BodySha256Base64)
    }
}

impl Template {
    /// Of the message that is signed.
    ///
    /// # Errors
    /// When something stands in braces that is no place of a message.
    pub fn message(text: &str) -> Result<Self, NoTemplate> {
        let template = Self::parse(text)?;
        if template.has_signature() { Err(NoTemplate::Signature) } else { Ok(template) }
    }

    /// Of a header's value.
    ///
    /// # Errors
    /// When something stands in braces that is no place of a header.
    pub fn header(text: &str) -> Result<Self, NoTemplate> {
        if text.is_empty() || !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(NoTemplate::Header);
        }
        let template = Self::parse(text)?;
        if template.places().any(|place| place == Place::Body) { Err(NoTemplate::Body) } else { Ok(template) }
    }

    fn parse(text: &str) -> Result<Self, NoTemplate> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let (word, after) = after.split_once('}').ok_or(NoTemplate::Place)?;
            pieces.extend(Piece::pair(before.to_owned(), word, &PLACES).ok_or(NoTemplate::Place)?);
            rest = after;
        }
        if rest.contains('}') || pieces.iter().any(|piece| matches!(piece, Piece::Text(text) if text.contains('}'))) {
            return Err(NoTemplate::Place);
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self(pieces))
    }

    pub fn has_signature(&self) -> bool {
        self.places().any(|place| place == Place::Signature)
    }

    pub fn places(&self) -> impl Iterator<Item = Place> + '_ {
        self.0.iter().filter_map(Piece::place)
    }

    pub fn filled(&self, fill: impl Fn(Place) -> Vec<u8>) -> Vec<u8> {
        self.0.iter().flat_map(|piece| piece.filled(&fill)).collect()
    }
}
