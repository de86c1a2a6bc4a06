//! What an API is sent, with places for what is known only then.
//!
//! | place | what stands there |
//! |---|---|
//! | `{id}` | the key's id, as the API gave it: where a key is deleted |
//! | `{unique}` | 16 random hex digits, for an API that wants a name for each key |
//! | `{life}` | how long the key is used, in seconds |
//! | `{expires}`, `{expires_date}` | when that is over, as `2027-06-30T12:00:00Z` and `2027-06-30` |
//!
//! Braces around anything else are the text's own, as JSON has them.

use std::fmt;
use std::time::Duration;

use crate::clock::Moment;
use crate::text::Piece;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template(Vec<Piece<Place>>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Id,
    Unique,
    Life,
    Expires,
    ExpiresDate,
}

const PLACES: [(&str, Place); 5] = [
    ("id", Place::Id),
    ("unique", Place::Unique),
    ("life", Place::Life),
    ("expires", Place::Expires),
    ("expires_date", Place::ExpiresDate),
];

/// What is known when it is sent.
pub struct Filling<'a> {
    pub id: Option<&'a str>,
    pub life: Duration,
    pub now: Moment,
}

/// Why a text is no template.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("there is no such place: there are {{id}}, {{unique}}, {{life}}, {{expires}} and {{expires_date}}")]
    Unknown,
    #[error("a key has an id only when it has been made: {{id}} is for `delete`")]
    NoId,
}

impl Template {
    /// # Errors
    /// When a word stands in braces that is no place.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let (mut pieces, mut own, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find('{') {
            let (before, after) = rest.split_at(at);
            own.push_str(before);
            let word = after[1..].split_once('}').map(|(word, _)| word).filter(|word| is_word(word));
            let Some(word) = word else {
                own.push('{');
                rest = &after[1..];
                continue;
            };
            let pair = Piece::pair(std::mem::take(&mut own), word, &PLACES);
            pieces.extend(pair.ok_or(TemplateError::Unknown)?);
            rest = &after[word.len() + 2..];
        }
        own.push_str(rest);
        pieces.push(Piece::Text(own));
        Ok(Self(pieces))
    }

    pub fn has_id(&self) -> bool {
        self.0.contains(&Piece::Place(Place::Id))
    }

    /// As part of a path: whatever stands in a place is one segment.
    pub fn in_path(&self, filling: &Filling<'_>) -> String {
        self.filled(filling, |text| {
            text.bytes().fold(String::new(), |mut path, byte| {
                match byte {
                    b'-' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => path.push(char::from(byte)),
                    b'.' if !matches!(text, "." | "..") => path.push('.'),
                    _ => path.push_str(&format!("%{byte:02X}")),
                }
                path
            })
        })
    }

    /// As JSON, in whose texts the places stand.
    pub fn in_json(&self, filling: &Filling<'_>) -> String {
        self.filled(filling, |text| {
            let quoted = serde_json::Value::from(text).to_string();
            quoted.trim_start_matches('"').strip_suffix('"').unwrap_or_default().to_owned()
        })
    }

    fn filled(&self, filling: &Filling<'_>, write: impl Fn(&str) -> String) -> String {
        self.0.iter().map(|piece| piece.filled(|place| write(&place.filled(filling)))).collect::<String>()
    }
}

impl Place {
    fn filled(self, filling: &Filling<'_>) -> String {
        let ends = || Moment { wall: filling.now.wall.saturating_add(filling.life), ..filling.now }.to_rfc3339();
        let prefix = |length| ends().chars().take(length).collect::<String>();
        match self {
            Self::Id => filling.id.unwrap_or_default().to_owned(),
            Self::Unique => format!("{:016x}", fastrand::u64(..)),
            Self::Life => filling.life.as_secs().to_string(),
            Self::Expires => prefix("2027-06-30T12:00:00".len()) + "Z",
            Self::ExpiresDate => prefix("2027-06-30".len()),
        }
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// As it is written.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(text),
            Piece::Place(place) => {
                let name = PLACES.iter().find(|(_, known)| known == place).map_or("", |(name, _)| name);
                write!(f, "{{{name}}}")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment { boot: Duration::ZERO, wall: Duration::from_secs(1_767_225_600) };

    fn filling(id: &str) -> Filling<'_> {
        Filling { id: Some(id), life: Duration::from_secs(86_400), now: NOW }
    }

    #[test]
    fn each_place_is_filled_and_other_braces_stay() {
        let text = r#"{"name":"a-{unique}","ttl":{life},"at":"{expires}","on":"{expires_date}","x":{},"y":{"z":1}}"#;
        let filled = Template::parse(text).expect("a template").in_json(&filling("k"));
        let json: serde_json::Value = serde_json::from_str(&filled).expect("JSON");
        assert_eq!(json["name"].as_str().expect("a name").len(), 18);
        assert_eq!((json["ttl"].as_u64(), &json["at"]), (Some(86_400), &"2026-01-02T00:00:00Z".into()));
        assert_eq!(json["on"], "2026-01-02");
        assert_eq!(Template::parse(text).expect("a template").to_string(), text);
    }

    #[test]
    fn what_an_api_calls_a_key_leaves_its_place_nowhere() {
        let path = Template::parse("/keys/{id}").expect("a template");
        for (id, expected) in [
            ("k_1-a.b~", "/keys/k_1-a.b~"),
            ("a/b", "/keys/a%2Fb"),
            ("..", "/keys/%2E%2E"),
            ("a?b#c d", "/keys/a%3Fb%23c%20d"),
            ("ä", "/keys/%C3%A4"),
        ] {
            assert_eq!(path.in_path(&filling(id)), expected);
        }
        let body = Template::parse(r#"{"id":"{id}"}"#).expect("a template");
        assert_eq!(body.in_json(&filling("a\",\"b\":\"c\n")), r#"{"id":"a\",\"b\":\"c\n"}"#);
    }

    #[test]
    fn a_misspelt_place_is_told() {
        assert_eq!(Template::parse("/keys/{ident}"), Err(TemplateError::Unknown));
        assert!(Template::parse("/keys/{id}").expect("a template").has_id());
        assert!(!Template::parse("{\"id\":1}{").expect("a template").has_id());
    }
}
