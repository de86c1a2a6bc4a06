//! What a token is made of: fields of what the vault gives, with text between them.

use std::str::FromStr;

use zeroize::Zeroizing;

/// `{username}:{password}`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template(Vec<Piece>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Text(String),
    Field(String),
}

/// Why a text is no template.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("a template names a field in braces, as in \"{{username}}:{{password}}\"")]
    NoField,
    #[error("a template has no braces but those around the names of fields")]
    Braces,
    #[error("the name of a field is not empty, and has no control characters")]
    Field,
}

impl Template {
    /// One field, and nothing else.
    ///
    /// # Errors
    /// When that is no name of a field.
    pub fn of_field(name: &str) -> Result<Self, TemplateError> {
        let fits = !name.is_empty() && !name.chars().any(char::is_control);
        fits.then(|| Self(vec![Piece::Field(name.to_owned())])).ok_or(TemplateError::Field)
    }

    /// With the fields put in. The buffer is in one piece from the start: growing would leave copies behind.
    ///
    /// # Errors
    /// When a field is not there.
    pub fn fill<E>(&self, field: impl Fn(&str) -> Result<Zeroizing<String>, E>) -> Result<Zeroizing<String>, E> {
        let pieces: Vec<Zeroizing<String>> = self
            .0
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => Ok(Zeroizing::new(text.clone())),
                Piece::Field(name) => field(name),
            })
            .collect::<Result<_, E>>()?;
        let mut filled = Zeroizing::new(String::with_capacity(pieces.iter().map(|piece| piece.len()).sum()));
        pieces.iter().for_each(|piece| filled.push_str(piece));
        Ok(filled)
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or(TemplateError::Braces)?;
            if before.contains('}') || name.contains('{') {
                return Err(TemplateError::Braces);
            }
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.extend(Self::of_field(name)?.0);
            rest = after;
        }
        if rest.contains('}') {
            return Err(TemplateError::Braces);
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        let has_a_field = pieces.iter().any(|piece| matches!(piece, Piece::Field(_)));
        has_a_field.then_some(Self(pieces)).ok_or(TemplateError::NoField)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(template: &str) -> Result<String, String> {
        let template: Template = template.parse().map_err(|error: TemplateError| error.to_string())?;
        let field = |name: &str| match name {
            "user" => Ok(Zeroizing::new("alice".to_owned())),
            "password" => Ok(Zeroizing::new("{user}".to_owned())),
            _ => Err(name.to_owned()),
        };
        template.fill(field).map(|filled| filled.to_string())
    }

    #[test]
    fn fields_are_put_in_once_and_all_else_stays() {
        assert_eq!(fill("{user}:{password}!"), Ok("alice:{user}!".to_owned()));
        assert_eq!(fill("{user}"), Ok("alice".to_owned()));
        assert_eq!(fill("{user}{role}"), Err("role".to_owned()));
        for bad in ["", "text", "{}", "{user", "user}", "{{user}}", "}{user}", "{user}}"] {
            assert!(bad.parse::<Template>().is_err(), "{bad}");
        }
    }
}
