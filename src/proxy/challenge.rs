//! What an API says that a token lacks: `WWW-Authenticate: Bearer error="insufficient_scope", scope="contents:write"` (RFC
//! 6750, section 3.1). Where the token's config lets that be asked for, the answer gets the command that does.
//!
//! ```text
//!  401, 403 ─▶ challenges (RFC 9110, section 11.6.1) ─▶ scopes ─▶ Offer of the token ─▶ Want, under an id ─▶ the header
//! ```
//!
//! Invariant: the header is ours alone, and holds names and ids of ours. A field that is not of its grammar to the last
//! character is not understood, and the answer goes on as it came.

use http::header::WWW_AUTHENTICATE;
use http::{HeaderName, HeaderValue};

use super::Proxy;
use super::message::Fields;
use super::wanted::{Lack, Want, command};
use crate::route::Route;

/// Where the command stands.
pub const REQUEST: HeaderName = HeaderName::from_static("countersign-request");

/// A longer field is not read.
const LONGEST: usize = 2048;

/// Of more fields, and more scopes, nothing is asked for.
const MOST_FIELDS: usize = 8;
const MOST_SCOPES: usize = 16;

impl Proxy {
    /// To an answer 401 or 403 adds the command that asks for the scopes it was given for want of.
    pub(super) fn tell_what_is_lacking(&self, route: &Route, fields: &mut Fields) {
        let Some(want) = wanted(route, fields) else { return };
        let request_id = self.request_ids.next();
        tracing::debug!(route = %route.name, token = %want.token, request_id, "a scope is lacking that can be asked for");
        let command = HeaderValue::try_from(command(&want.token, &request_id));
        self.shared.wants.keep(&request_id, want);
        fields.insert(REQUEST, command.expect("names and ids are visible ASCII"));
    }
}

fn wanted(route: &Route, fields: &Fields) -> Option<Want> {
    let token = route.token.as_ref()?;
    let offer = token.offer.as_ref()?;
    let scopes = fields.get_all(WWW_AUTHENTICATE).take(MOST_FIELDS).find_map(lacking)?;
    if scopes.split(' ').count() > MOST_SCOPES {
        return None;
    }
    let lacks = Lack::Scopes(offer.with(scopes.split(' '))?);
    Some(Want { token: token.name.clone(), lacks })
}

/// The scopes that a Bearer challenge of this field names, if it names them for want of one.
fn lacking(field: &HeaderValue) -> Option<&str> {
    let field = field.to_str().ok().filter(|field| field.len() <= LONGEST)?;
    let mut found = None;
    let mut current = Challenge::default();
    let mut rest = Rest(field);
    loop {
        let between = rest.skip(|byte| matches!(byte, b' ' | b'\t' | b','));
        if rest.0.is_empty() {
            break;
        }
        let word = rest.token()?;
        let at_the_name = rest;
        rest.blank();
        if rest.eat('=') {
            rest.blank();
            let value = if rest.eat('"') { rest.quoted()? } else { rest.token()? };
            current.take(word, value)?;
        } else {
            rest = at_the_name;
            found = found.or(current.lacks());
            let follows_a_comma = between.contains(',') || !current.has_scheme;
            current = Challenge::of(word);
            // After a scheme come its parameters: nothing else, and nothing without a space.
            if !follows_a_comma || !(rest.0.is_empty() || rest.0.starts_with([' ', ','])) {
                return None;
            }
            continue;
        }
        rest.blank();
        if !rest.0.is_empty() && !rest.0.starts_with(',') {
            return None;
        }
    }
    found.or(current.lacks())
}

/// One of the challenges in a field.
#[derive(Default)]
struct Challenge<'f> {
    has_scheme: bool,
    is_bearer: bool,
    error: Option<&'f str>,
    scope: Option<&'f str>,
}

impl<'f> Challenge<'f> {
    fn of(scheme: &str) -> Self {
        Self { has_scheme: true, is_bearer: scheme.eq_ignore_ascii_case("bearer"), ..Self::default() }
    }

    /// `None` where there is no challenge that a parameter could belong to, or where it is there already: it stands no more
    /// than once.
    fn take(&mut self, name: &str, value: &'f str) -> Option<()> {
        if !self.has_scheme {
            return None;
        }
        let place = match () {
            () if name.eq_ignore_ascii_case("error") => &mut self.error,
            () if name.eq_ignore_ascii_case("scope") => &mut self.scope,
            () => return Some(()),
        };
        place.replace(value).is_none().then_some(())
    }

    fn lacks(&self) -> Option<&'f str> {
        // No scope has a quote or a backslash (RFC 6749, section 3.3), so that nothing in it is escaped.
        let is_plain = |scope: &&str| !scope.contains('\\') && scope.split(' ').all(|each| !each.is_empty());
        self.scope.filter(|_| self.is_bearer && self.error == Some("insufficient_scope")).filter(is_plain)
    }
}

/// What is still to be read of a field of visible ASCII and blanks.
#[derive(Clone, Copy)]
struct Rest<'f>(&'f str);

impl<'f> Rest<'f> {
    fn skip(&mut self, skips: impl Fn(u8) -> bool) -> &'f str {
        let length = self.0.bytes().take_while(|byte| skips(*byte)).count();
        let (skipped, rest) = self.0.split_at(length);
        self.0 = rest;
        skipped
    }

    fn blank(&mut self) {
        self.skip(|byte| matches!(byte, b' ' | b'\t'));
    }

    fn eat(&mut self, expected: char) -> bool {
        let rest = self.0.strip_prefix(expected);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn token(&mut self) -> Option<&'f str> {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        Some(self.skip(is_token)).filter(|token| !token.is_empty())
    }

    /// What stands before the closing quote, as it is written.
    fn quoted(&mut self) -> Option<&'f str> {
        let mut escaped = false;
        for (at, byte) in self.0.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    let (inside, rest) = (&self.0[..at], &self.0[at + 1..]);
                    self.0 = rest;
                    return Some(inside);
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(field: &str) -> Option<String> {
        lacking(&HeaderValue::from_str(field).expect("a value")).map(str::to_owned)
    }

    #[test]
    fn the_scopes_of_a_bearer_challenge_are_read() {
        for field in [
            r#"Bearer error="insufficient_scope", scope="a:b c""#,
            r#"bearer realm="x, y", ERROR="insufficient_scope" , Scope = "a:b c""#,
            r#"Bearer error=insufficient_scope,scope="a:b c",error_description="more \"rights\"""#,
            r#"Basic realm="x", Bearer error="insufficient_scope", scope="a:b c""#,
            r#"Bearer error="insufficient_scope", scope="a:b c", Basic realm="x""#,
            r#"Negotiate, Bearer error="insufficient_scope", scope="a:b c","#,
        ] {
            assert_eq!(said(field).as_deref(), Some("a:b c"), "{field}");
        }
    }

    #[test]
    fn what_says_something_else_or_is_malformed_says_nothing() {
        for field in [
            "",
            "Bearer",
            r#"Bearer scope="a""#,
            r#"Bearer error="insufficient_scope""#,
            r#"Bearer error="invalid_token", scope="a""#,
            r#"DPoP error="insufficient_scope", scope="a""#,
            r#"error="insufficient_scope", scope="a""#,
            r#"Bearer error="insufficient_scope", scope="""#,
            r#"Bearer error="insufficient_scope", scope="a  b""#,
            r#"Bearer error="insufficient_scope", scope="a\b""#,
            r#"Bearer error="insufficient_scope", scope="a"#,
            r#"Bearer error="insufficient_scope", scope="a" b"#,
            r#"Bearer error="insufficient_scope", scope="a", scope="b""#,
            r#"Bearer error="insufficient_scope", error="x", scope="a""#,
            r#"Bearer error="insufficient_scope" scope="a""#,
            r#"Negotiate Bearer error="insufficient_scope", scope="a""#,
            r#"Bearererror="insufficient_scope", scope="a""#,
            r#"Bearer;error="insufficient_scope", scope="a""#,
            r#"Bearer error="insufficient_scope", Basic scope="a""#,
            r#"Bearer =, error="insufficient_scope", scope="a""#,
        ] {
            assert_eq!(said(field), None, "{field}");
        }
        let long = format!(r#"Bearer error="insufficient_scope", scope="{}""#, "a".repeat(LONGEST));
        assert_eq!(said(&long), None);
    }

    proptest::proptest! {
        #[test]
        fn no_field_does_harm(field in r#"[ -~\t]{0,80}"#) {
            said(&field);
        }

        #[test]
        fn pieces_of_challenges_do_no_harm(pieces in proptest::collection::vec(
            proptest::sample::select(vec!["Bearer", " ", ",", "=", "\"", "\\", "error", "scope", "insufficient_scope", "a"]),
            0..20,
        )) {
            said(&pieces.concat());
        }
    }
}
