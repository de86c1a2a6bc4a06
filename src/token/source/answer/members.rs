//! The members of a token endpoint's answer, each as it came: that one has a wrong type is judged with the others known.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use zeroize::Zeroizing;

/// What RFC 6749, or the output of a program, gives a meaning to; everything else is skipped. A member that stands there
/// twice is an error.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub struct Members {
    pub access_token: Member,
    pub token_type: Member,
    pub expires_in: Member,
    pub scope: Member,
    pub refresh_token: Member,
    /// Of programs, not of RFC 6749.
    pub token: Member,
    /// Of programs, not of RFC 6749.
    pub expires_at: Member,
    pub error: Member,
    pub error_description: Member,
    /// Of issuers with a form of their own: what they say for humans.
    pub message: Member,
}

#[derive(Default)]
pub enum Member {
    #[default]
    Absent,
    Null,
    Number(f64),
    Text(Zeroizing<String>),
    /// A truth value, a list, an object.
    Other,
}

impl Members {
    /// # Errors
    /// With what is wrong, when this is not one JSON object. The library's own text is not used: it quotes what it read.
    pub fn parse(body: &[u8]) -> Result<Self, &'static str> {
        // A list would pass for an object whose members have no names.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err("the issuer's answer is not a JSON object");
        }
        serde_json::from_slice(body).map_err(|error| match error.classify() {
            Category::Eof => "the issuer's answer is JSON that ends too early",
            Category::Io | Category::Syntax => "the issuer's answer is not well-formed JSON",
            Category::Data => "the issuer's answer is JSON with the same member twice",
        })
    }
}

impl Member {
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Absent | Self::Null | Self::Number(_) | Self::Other => None,
        }
    }

    /// Many issuers write `null` for what they leave out.
    pub fn is_there(&self) -> bool {
        !matches!(self, Self::Absent | Self::Null)
    }
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AsItComes)
    }
}

struct AsItComes;

impl<'de> Visitor<'de> for AsItComes {
    type Value = Member;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Member, E> {
        Ok(Member::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Member, E> {
        Ok(Member::Other)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Member, E> {
        Ok(Member::Number(number as f64))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Member, E> {
        Ok(Member::Number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Member, E> {
        Ok(Member::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Member, E> {
        Ok(Member::Text(Zeroizing::new(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Member, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Member::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Member, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Member::Other)
    }
}
