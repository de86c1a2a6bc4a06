//! Credentials of the client's own that are not headers: in the query, and in cookies. And what those in headers say.
//!
//! ```text
//!  /x?a=1&%61ccess_token=mine   ─▶  /x?a=1
//!  cookie: a=1; session=mine    ─▶  cookie: a=1          where the token goes into the cookie `session`
//! ```
//!
//! Invariant: no name is left that a server could read as the one that the token goes under: not in another case, not
//! percent-encoded however often, not behind another separator, not with what some frameworks cut off or turn into
//! underscores. Everything else stays as it was, byte for byte in a query.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::header::{COOKIE, SET_COOKIE};

use super::message::Fields;
use crate::dpop;
use crate::token::Placement;

/// Where RFC 6750, section 2.3, lets a bearer token stand, so that an API may look there first.
const ACCESS_TOKEN: &str = "access_token";

/// How often an encoded name is decoded: more than any chain of servers does.
const ROUNDS: usize = 4;

/// What a field says after this scheme (RFC 9110, section 11.4), if it is of it.
pub fn after_scheme<'v>(value: &'v [u8], scheme: &str) -> Option<&'v [u8]> {
    let (found, rest) = value.split_at_checked(scheme.len())?;
    let rest = rest.strip_prefix(b" ").filter(|_| found.eq_ignore_ascii_case(scheme.as_bytes()))?;
    Some(rest.trim_ascii())
}

/// User and password of a field of the scheme Basic (RFC 7617), with the colon between them.
pub fn basic(value: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(after_scheme(value, "basic")?).ok()
}

/// Takes the client's own credentials out of query and cookies. On a route without token, which has no placement, they pass.
/// Returns what is left of the query, and whether there was a credential.
pub fn clear<'q>(
    headers: &mut Fields,
    query: Option<&'q str>,
    placement: Option<&Placement>,
) -> (Option<Cow<'q, str>>, bool) {
    let own = |name: &[u8]| is_own(name, placement);
    let mut shadow = query.is_some_and(|query| pieces(query).any(|(_, piece)| own(name_of(piece.as_bytes()))));
    let query = match query {
        Some(query) if shadow && placement.is_some() => without(query, own).map(Cow::Owned),
        query => query.map(Cow::Borrowed),
    };
    if let Some(Placement::Cookie { name }) = placement {
        shadow |= clear_cookies(headers, name);
    }
    (query, shadow)
}

/// Whether a parameter of the query is a credential of the client's own.
fn is_own(name: &[u8], placement: Option<&Placement>) -> bool {
    let placed = matches!(placement, Some(Placement::Query { name: placed }) if reads_as(name, placed));
    placed || reads_as(name, ACCESS_TOKEN)
}

/// The pairs of a query that [`clear`] leaves there.
pub fn kept_pairs<'q>(query: &'q str, placement: Option<&Placement>) -> impl Iterator<Item = &'q str> {
    let goes = move |pair: &str| placement.is_some() && is_own(name_of(pair.as_bytes()), placement);
    pieces(query).map(|(_, pair)| pair).filter(move |pair| !goes(pair))
}

/// The cookies of one field that [`clear`] leaves there.
pub fn kept_cookies<'v>(value: &'v HeaderValue, placement: Option<&Placement>) -> impl Iterator<Item = &'v [u8]> {
    let name = match placement {
        Some(Placement::Cookie { name }) => Some(name.as_str()),
        _ => None,
    };
    cookies_of(value).filter(move |cookie| !name.is_some_and(|name| is_own_cookie(cookie, name)))
}

fn cookies_of(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii)
}

fn is_own_cookie(cookie: &[u8], name: &str) -> bool {
    cookie.split(|byte| *byte == b',').any(|part| reads_as(name_of(part), name))
}

/// Takes cookies out of an answer: all that it sets, or the one that the token goes into. An API that sets that one hands out a
/// credential.
pub fn clear_answer(headers: &mut Fields, placement: Option<&Placement>, keeps_cookies: bool) {
    if !keeps_cookies {
        headers.retain(|header, _| *header != SET_COOKIE && *header != "set-cookie2");
    }
    if let Some(Placement::Dpop) = placement {
        // It is between the server and whoever signs.
        headers.remove(dpop::NONCE);
    }
    let Some(Placement::Cookie { name }) = placement else { return };
    headers.retain(|header, cookie| *header != SET_COOKIE || !reads_as(name_of(cookie.as_bytes()), name));
}

/// The query without the pairs of these names.
pub fn without_any(query: &str, names: &[&str]) -> Option<String> {
    without(query, |written| names.iter().any(|name| reads_as(written, name)))
}

/// Whether some server reads a pair as one of these names.
pub fn is_any(pair: &str, names: &[&str]) -> bool {
    let written = name_of(pair.as_bytes());
    names.iter().any(|name| reads_as(written, name))
}

/// The value of the first pair that some server reads as one of this name, as it is written.
pub fn value_of<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    let (_, pair) = pieces(query).find(|(_, piece)| reads_as(name_of(piece.as_bytes()), name))?;
    Some(pair.split_once('=').map_or("", |(_, value)| value))
}

/// The path with the query's other pieces, and at the end the pair of this name.
pub fn with_pair(path_and_query: &str, name: &str, pair: &[u8]) -> Vec<u8> {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let others = without(query, |written| reads_as(written, name)).filter(|others| !others.is_empty());
    let others = others.map_or_else(String::new, |others| others + "&");
    [path, "?", &others].map(str::as_bytes).into_iter().chain([pair]).collect::<Vec<_>>().concat()
}

/// The cookies with a pair before them: a quotation mark that the client leaves open swallows what follows it.
pub fn with_cookie(cookies: Option<&HeaderValue>, pair: &[u8]) -> Vec<u8> {
    match cookies {
        None => pair.to_vec(),
        Some(cookies) => [pair, b"; ", cookies.as_bytes()].concat(),
    }
}

/// Leaves of the client's cookies one header without those of this name, nor what turns a server to the rules of RFC 2965,
/// in which commas separate too.
pub fn clear_cookies(headers: &mut Fields, name: &str) -> bool {
    let mut shadow = headers.retain(|header, _| !is_twin(header.as_str()));
    let mut kept: Vec<&[u8]> = Vec::new();
    for value in headers.get_all(COOKIE) {
        for cookie in cookies_of(value) {
            let own = is_own_cookie(cookie, name);
            shadow |= own;
            if !own && !cookie.is_empty() && !cookie.starts_with(b"$") {
                kept.push(cookie);
            }
        }
    }
    let left = HeaderValue::from_bytes(&kept.join(&b"; "[..])).ok().filter(|left| !left.is_empty());
    headers.remove(COOKIE);
    if let Some(left) = left {
        headers.append(COOKIE, left);
    }
    shadow
}

fn is_twin(header: &str) -> bool {
    header != COOKIE.as_str() && header.trim_matches(['-', '_']) == COOKIE.as_str()
}

/// The query without the pieces whose names are `own`; `None` where nothing is left.
fn without(query: &str, own: impl Fn(&[u8]) -> bool) -> Option<String> {
    let mut left = String::with_capacity(query.len());
    let mut empty = true;
    for (separator, piece) in pieces(query).filter(|(_, piece)| !own(name_of(piece.as_bytes()))) {
        if !empty {
            left.push_str(separator);
        }
        left.push_str(piece);
        empty = false;
    }
    (!empty).then_some(left)
}

/// The pieces of a query, each with the separator before it. Some servers split at semicolons too.
fn pieces(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut at = 0;
    query.split(['&', ';']).map(move |piece| {
        let separator = &query[at.max(1) - 1..at];
        at += piece.len() + 1;
        (separator, piece)
    })
}

/// The name of a pair.
fn name_of(pair: &[u8]) -> &[u8] {
    pair.split(|byte| *byte == b'=').next().unwrap_or_default()
}

/// Whether some server reads a written name as `name`.
fn reads_as(written: &[u8], name: &str) -> bool {
    if reads_once_as(written, name) {
        return true;
    }
    // Most names hold nothing that could be decoded twice.
    let twice = written.windows(3).any(|triplet| triplet.eq_ignore_ascii_case(b"%25"));
    let mut decoded = if twice { written.to_vec() } else { return false };
    for _ in 0..ROUNDS {
        let before = std::mem::take(&mut decoded);
        decoded = decode(&before).collect();
        if decoded == before || reads_once_as(&decoded, name) {
            return decoded != before;
        }
    }
    // What is encoded still more often is no honest name.
    true
}

fn reads_once_as(written: &[u8], name: &str) -> bool {
    let skipped = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'"';
    let mut characters = decode(written).skip_while(skipped);
    if !name.bytes().all(|byte| characters.next().map(plain) == Some(plain(byte))) {
        return false;
    }
    // `name[]` is a list to some, and a zero byte the end of a text to others.
    matches!(characters.find(|byte| !skipped(byte)), None | Some(b'[' | 0))
}

/// What some frameworks take for one and the same.
fn plain(byte: u8) -> u8 {
    match byte.to_ascii_lowercase() {
        b'.' | b' ' | b'-' => b'_',
        other => other,
    }
}

/// One round of decoding: `%6b`, `%u006b`, and `+` for a space. What is none of these stays.
fn decode(written: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = written;
    std::iter::from_fn(move || {
        let (first, others) = rest.split_first()?;
        let hex = |digits: &[u8]| {
            let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
            u16::from_str_radix(text, 16).ok()
        };
        let (byte, length) = match (first, others) {
            (b'%', [b'u' | b'U', digits @ ..]) if digits.len() >= 4 => {
                let code = hex(&digits[..4]).and_then(|code| u8::try_from(code).ok());
                code.map_or((b'%', 0), |byte| (byte, 5))
            }
            (b'%', digits) if digits.len() >= 2 => {
                let code = hex(&digits[..2]).and_then(|code| u8::try_from(code).ok());
                code.map_or((b'%', 0), |byte| (byte, 2))
            }
            (b'+', _) => (b' ', 0),
            (other, _) => (*other, 0),
        };
        rest = &others[length..];
        Some(byte)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn left_of(query: &str, placement: Option<&Placement>) -> (Option<String>, bool) {
        let (left, shadow) = clear(&mut Fields::new(), Some(query), placement);
        (left.map(Cow::into_owned), shadow)
    }

    fn key() -> Placement {
        Placement::Query { name: "api_key".to_owned() }
    }

    #[test]
    fn the_clients_own_parameter_is_removed_under_every_spelling() {
        for name in [
            "api_key",
            "API_KEY",
            "Api_Key",
            "%61pi_key",
            "%61%70%69%5f%6B%65%79",
            "%2561pi_key",
            "%252561pi_key",
            "%25252525252561pi_key",
            "%u0061pi_key",
            "api.key",
            "api+key",
            "api%20key",
            "api-key",
            "+api_key",
            "api_key+",
            "%09api_key",
            "api_key[]",
            "api_key[0]",
            "api_key%5B%5D",
            "api_key%00x",
            "\"api_key\"",
            "%22api_key%22",
        ] {
            for pair in [format!("{name}=mine"), name.to_owned(), format!("{name}=mine=more"), format!("{name}=")] {
                for (query, left) in [
                    (pair.clone(), None),
                    (format!("a=1&{pair}"), Some("a=1")),
                    (format!("{pair}&a=1"), Some("a=1")),
                    (format!("a=1;{pair}"), Some("a=1")),
                    (format!("a=1;{pair}&b=2"), Some("a=1&b=2")),
                    (format!("{pair}&a=%41+%zz&{pair}&&=x&"), Some("a=%41+%zz&&=x&")),
                ] {
                    assert_eq!(left_of(&query, Some(&key())), (left.map(str::to_owned), true), "{query}");
                }
            }
        }
    }

    #[test]
    fn what_only_looks_like_it_stays_byte_for_byte() {
        for query in [
            "",
            "&",
            "a=api_key",
            "api_keys=1",
            "my_api_key=1",
            "xapi_key",
            "a=1&&b;;c=%41+%zz",
            "=api_key",
            "api_ke",
            "api%_key=1",
            "%61%25=%2541",
            "q=%26api_key=1",
        ] {
            assert_eq!(left_of(query, Some(&key())), (Some(query.to_owned()), false), "{query}");
        }
    }

    #[test]
    fn an_access_token_is_removed_wherever_the_token_goes_and_passes_without_one() {
        let removed = (Some("a=1".to_owned()), true);
        for placement in [Placement::bearer(), key(), Placement::Cookie { name: "s".to_owned() }] {
            assert_eq!(left_of("a=1&Access%5FToken=mine", Some(&placement)), removed);
            assert!(!left_of("a=1&key=mine", Some(&placement)).1);
        }
        let query = "a=1&access_token=mine";
        assert_eq!(left_of(query, None), (Some(query.to_owned()), true));
    }

    /// What is left of these cookie headers, and whether a credential was among them.
    fn cookies(values: &[&'static str]) -> (Vec<String>, bool) {
        let mut headers = Fields::of(&values.iter().map(|value| ("cookie", *value)).collect::<Vec<_>>());
        let placement = Placement::Cookie { name: "session".to_owned() };
        let (_, shadow) = clear(&mut headers, None, Some(&placement));
        let left = headers.get_all(COOKIE).map(|value| value.to_str().expect("text").to_owned());
        (left.collect(), shadow)
    }

    #[test]
    fn the_clients_own_cookie_is_removed_and_the_others_are_kept() {
        let none: &[&str] = &[];
        for (values, left, shadow) in [
            (&["session=mine"][..], none, true),
            (&["a=1; session=mine; b=2"], &["a=1; b=2"], true),
            (&["a=1;session=mine;b=2"], &["a=1; b=2"], true),
            (&["SESSION=mine; a=1", "Session=mine", "b=2"], &["a=1; b=2"], true),
            (&["session"], none, true),
            (&["  session  = mine;a=1"], &["a=1"], true),
            (&["session=\"x; y\"; a=1"], &["y\"; a=1"], true),
            (&["a=\"x; session=mine\"; b=2"], &["a=\"x; b=2"], true),
            (&["sess%69on=mine", "\"session\"=mine"], none, true),
            (&["$Version=1; a=x,session=mine; $Path=/; b=2"], &["b=2"], true),
            (&["$Version=\"1\"; a=1; $Domain=x"], &["a=1"], false),
            (&["a=session; sessions=1; my-session=2"], &["a=session; sessions=1; my-session=2"], false),
            (&["", ";;"], none, false),
        ] {
            let left: Vec<String> = left.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(cookies(values), (left, shadow), "{values:?}");
        }
    }

    #[test]
    fn a_header_that_is_read_as_cookies_goes_with_them() {
        let mut headers = Fields::of(&[("cookie_", "session=mine")]);
        let placement = Placement::Cookie { name: "session".to_owned() };
        assert!(clear(&mut headers, None, Some(&placement)).1);
        assert!(headers.is_empty());
    }

    #[test]
    fn a_pair_is_added_where_it_belongs() {
        for (before, after) in [
            ("/x", "/x?k=t"),
            ("/x?", "/x?k=t"),
            ("/x?a=1", "/x?a=1&k=t"),
            ("/x?a&", "/x?a&&k=t"),
            ("/x?a=?&k=old", "/x?a=?&k=t"),
        ] {
            assert_eq!(with_pair(before, "k", b"k=t"), after.as_bytes(), "{before}");
        }
        assert_eq!(with_cookie(None, b"k=t"), b"k=t");
        assert_eq!(with_cookie(Some(&HeaderValue::from_static("a=\"1")), b"k=t"), b"k=t; a=\"1");
    }

    #[test]
    fn an_answer_does_not_set_the_cookie_of_the_token() {
        let mut headers = Fields::new();
        for cookie in ["a=1; Path=/", "Session=new; HttpOnly", "b=2"] {
            headers.append(SET_COOKIE, HeaderValue::from_static(cookie));
        }
        clear_answer(&mut headers, Some(&Placement::bearer()), true);
        assert_eq!(headers.len(), 3);
        clear_answer(&mut headers, Some(&Placement::Cookie { name: "session".to_owned() }), true);
        let left: Vec<&HeaderValue> = headers.get_all(SET_COOKIE).collect();
        assert_eq!(left, ["a=1; Path=/", "b=2"]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_but_the_clients_own(query in "[a-c=&;%+_.]{0,24}") {
            let all: Vec<&str> = pieces(&query).map(|(_, piece)| piece).collect();
            prop_assert_eq!(pieces(&query).map(|(separator, piece)| format!("{separator}{piece}")).collect::<String>(), query.clone());
            let placement = Placement::Query { name: "a_b".to_owned() };
            let (left, shadow) = left_of(&query, Some(&placement));
            let kept: Vec<&str> = left.as_deref().map(|left| pieces(left).map(|(_, piece)| piece).collect()).unwrap_or_default();
            prop_assert!(kept.iter().all(|piece| !reads_as(name_of(piece.as_bytes()), "a_b")));
            prop_assert_eq!(kept.len() < all.len(), shadow);
            let (again, shadow) = left.map_or((None, false), |left| left_of(&left, Some(&placement)));
            prop_assert!(!shadow && again.is_none_or(|again| again.len() <= query.len()));
        }
    }
}
