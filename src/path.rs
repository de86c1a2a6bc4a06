//! The one canonicaliser of paths: what a rule judges is byte for byte what the upstream gets.
//!
//! ```text
//! as received ─► characters: refuse, or write in their one spelling ─► nested encodings, dot segments: refuse ─► Canonical
//! ```
//!
//! Nothing is resolved or repaired: a path that two servers may read in two ways is refused. Only two rewritings are safe, as
//! every server undoes them: an encoded unreserved character is decoded, and hexadecimal digits become upper-case.
//! A path that needs neither is borrowed as it came.

use std::borrow::Cow;
use std::fmt;
use std::iter;

/// How a route's upstream reads paths.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Form {
    /// An encoded slash and a semicolon are ambiguous: refused.
    #[default]
    Strict,
    /// An encoded slash, a semicolon and an encoded percent sign are data inside a segment: GitLab, npm scopes, object stores.
    Opaque,
}

impl Form {
    /// The canonical form of a request target's path, without its query. What is canonical stays as it is, and what
    /// `Strict` accepts `Opaque` writes the same.
    pub fn canonical(self, raw_path: &str) -> Result<Canonical<'_>, PathError> {
        let spelt = self.spell(raw_path)?;
        let dotted = if spelt.contains("%25") {
            has_dot_segment(self.decode_fully(&spelt)?.into_iter())
        } else {
            has_dot_segment(characters(&spelt).map(|character| character.byte))
        };
        if dotted { Err(PathError::DotSegment) } else { Ok(Canonical(spelt)) }
    }

    /// Judges each character, and writes it in its one spelling.
    fn spell(self, raw: &str) -> Result<Cow<'_, str>, PathError> {
        let bytes = raw.as_bytes();
        if bytes.first() != Some(&b'/') {
            return Err(PathError::NoSlash);
        }
        let mut spelling = Spelling { raw, copied: 0, text: String::new() };
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'%' => {
                    for _ in 0..self.encoded_character(&bytes[at..])? {
                        spelling.triplet(at);
                        at += TRIPLET;
                    }
                    continue;
                }
                b'/' if bytes.get(at + 1) == Some(&b'/') => return Err(PathError::EmptySegment),
                b';' if self == Self::Strict => return Err(PathError::Parameter),
                b'\\' => return Err(PathError::Backslash),
                b'/' => {}
                _ if is_unreserved(byte) || is_reserved_in_segments(byte) => {}
                _ => return Err(PathError::Character),
            }
            at += 1;
        }
        Ok(spelling.finish())
    }

    /// How many triplets make up the encoded character that `bytes` start with.
    fn encoded_character(self, bytes: &[u8]) -> Result<usize, PathError> {
        match triplet(bytes).ok_or(PathError::PercentSign)? {
            0..=0x1f | 0x7f => Err(PathError::Control),
            b'\\' => Err(PathError::Backslash),
            b'/' if self == Self::Strict => Err(PathError::EncodedSlash),
            0..=0x7f => Ok(1),
            0x80.. => utf8_width(bytes).ok_or(PathError::NotUtf8),
        }
    }

    /// Decodes until nothing is left to decode, as a chain of careless servers would, and refuses what then means something
    /// else. The order of decoding does not matter, so one pass with a look back finds every depth.
    fn decode_fully(self, spelt: &str) -> Result<Vec<u8>, PathError> {
        // Each byte, and whether it came out of an encoding.
        let mut decoded: Vec<(u8, bool)> = Vec::with_capacity(spelt.len());
        for byte in spelt.bytes() {
            decoded.push((byte, false));
            while let [.., (b'%', nested), (high, _), (low, _)] = decoded[..]
                && let Some(byte) = octet(high, low)
            {
                if nested && (self == Self::Strict || matches!(byte, b'.' | b'/' | b'\\')) {
                    return Err(PathError::DoubleEncoding);
                }
                decoded.truncate(decoded.len() - TRIPLET);
                decoded.push((byte, true));
            }
        }
        Ok(decoded.into_iter().map(|(byte, _)| byte).collect())
    }
}

/// A path in canonical form: exactly the bytes that are judged and sent. Made only by [`Form::canonical`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Canonical<'a>(Cow<'a, str>);

impl Canonical<'_> {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn into_owned(self) -> Canonical<'static> {
        Canonical(Cow::Owned(self.0.into_owned()))
    }

    /// The segments between the slashes, as they are sent; after a trailing slash stands an empty one.
    pub fn segments(&self) -> impl Iterator<Item = &str> + Clone {
        self.0[1..].split('/')
    }
}

impl fmt::Display for Canonical<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a path is refused. The texts are for the client's developer and the config's author; none repeats the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PathError {
    #[error("a path starts with a slash")]
    NoSlash,
    #[error("the path has a character that must be percent-encoded")]
    Character,
    #[error("a percent sign in a path is followed by two hexadecimal digits; the sign itself is written %25")]
    PercentSign,
    #[error("the path encodes a control character")]
    Control,
    #[error("the path encodes bytes that are not UTF-8")]
    NotUtf8,
    #[error("the path has a backslash, plain or encoded: servers disagree on whether it is a slash")]
    Backslash,
    #[error("the path has two slashes in a row: servers disagree on what that means")]
    EmptySegment,
    #[error("the path has a dot segment in some spelling: write the path that is meant")]
    DotSegment,
    #[error("the path has an encoded slash: where that is data inside a segment, the route needs path = \"opaque\"")]
    EncodedSlash,
    #[error("the path has a semicolon: where that is data inside a segment, the route needs path = \"opaque\"")]
    Parameter,
    #[error("the path is percent-encoded twice")]
    DoubleEncoding,
}

/// Whether a query, without its question mark, may be sent as it is: visible ASCII without `#`, `"`, `<` and `>`. That is
/// RFC 3986 and the ``[]\^`{|}`` which browsers and their like send raw. No rule judges a query, so its encodings are not ours
/// to read.
pub fn query_is_clean(query: &str) -> bool {
    query.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'<' | b'>'))
}

/// One character of a canonical path, as it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Character {
    pub byte: u8,
    pub encoded: bool,
}

/// The characters of a piece of a canonical path; one outside ASCII counts as its encoded bytes.
pub(crate) fn characters(canonical: &str) -> impl Iterator<Item = Character> + Clone + '_ {
    let mut rest = canonical.as_bytes();
    iter::from_fn(move || {
        let encoded = triplet(rest);
        let byte = encoded.or(rest.first().copied())?;
        rest = &rest[if encoded.is_some() { TRIPLET } else { 1 }..];
        Some(Character { byte, encoded: encoded.is_some() })
    })
}

/// A path that is being rewritten; it copies only when something changes.
struct Spelling<'a> {
    raw: &'a str,
    /// How much of `raw` is in `text` already.
    copied: usize,
    text: String,
}

impl<'a> Spelling<'a> {
    /// The triplet at this place, in its one spelling.
    fn triplet(&mut self, at: usize) {
        let written = &self.raw[at..at + TRIPLET];
        match triplet(written.as_bytes()) {
            Some(byte) if is_unreserved(byte) => {
                self.text.push_str(&self.raw[self.copied..at]);
                self.text.push(byte.into());
                self.copied = at + TRIPLET;
            }
            _ if written.bytes().any(|b| b.is_ascii_lowercase()) => {
                self.text.push_str(&self.raw[self.copied..at]);
                self.text.extend(written.chars().map(|c| c.to_ascii_uppercase()));
                self.copied = at + TRIPLET;
            }
            _ => {}
        }
    }

    fn finish(mut self) -> Cow<'a, str> {
        if self.copied == 0 {
            return Cow::Borrowed(self.raw);
        }
        self.text.push_str(&self.raw[self.copied..]);
        Cow::Owned(self.text)
    }
}

/// Whether a segment is `.` or `..` once its encodings and parameters are gone.
fn has_dot_segment(decoded: impl Iterator<Item = u8>) -> bool {
    // How many dots the segment is made of so far; none once it has anything else.
    let mut dots = Some(0_usize);
    for byte in decoded.chain(iter::once(b'/')) {
        dots = match (byte, dots) {
            (b'/' | b';', Some(1 | 2)) => return true,
            (b'/', _) => Some(0),
            (b'.', Some(count)) => Some(count + 1),
            _ => None,
        };
    }
    false
}

/// How many triplets encode the one UTF-8 character outside ASCII that `bytes` start with.
fn utf8_width(bytes: &[u8]) -> Option<usize> {
    let mut character = [0; 4];
    let width = match triplet(bytes)? {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return None,
    };
    for (index, byte) in character[..width].iter_mut().enumerate() {
        *byte = triplet(bytes.get(index * TRIPLET..)?)?;
    }
    std::str::from_utf8(&character[..width]).is_ok().then_some(width)
}

/// What the triplet encodes that `bytes` start with.
fn triplet(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [b'%', high, low, ..] => octet(*high, *low),
        _ => None,
    }
}

fn octet(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// RFC 3986, section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The rest of RFC 3986's `pchar`: the sub-delimiters, colon and at sign.
fn is_reserved_in_segments(byte: u8) -> bool {
    matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

/// The length of `%2F` and its like.
const TRIPLET: usize = 3;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::PathError::*;
    use super::*;

    const FORMS: [Form; 2] = [Form::Strict, Form::Opaque];

    #[test]
    fn canonical_paths_are_borrowed_as_they_came() {
        for path in [
            "/",
            "/a",
            "/a/",
            "/repos/octo-org/hello.world/issues/1",
            "/~user/a_b-c.d",
            "/v1/models/x:generate",
            "/@scope/$count/(1)/a+b,c=d&e!*'",
            "/caf%C3%A9/%E2%82%AC/%F0%9F%94%91",
            "/100%25",
            "/100%25off/%25/%25%25",
            "/a%20b%3F%23%5B",
            "/...",
            "/.a/..b/c./d..",
            "/a%3Bb",
        ] {
            for form in FORMS {
                let canonical = form.canonical(path);
                assert!(
                    matches!(&canonical, Ok(Canonical(Cow::Borrowed(text))) if *text == path),
                    "{path}: {canonical:?}"
                );
            }
        }
    }

    #[test]
    fn each_character_has_one_spelling() {
        for (raw, canonical) in [
            ("/%41", "/A"),
            ("/%61%2D%2e%5F%7ez", "/a-._~z"),
            ("/%7euser/%30", "/~user/0"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/%e2%82%ac%41%f4%8f%bf%bf", "/%E2%82%ACA%F4%8F%BF%BF"),
            ("/%3a%3D%25", "/%3A%3D%25"),
            ("/%2e%2e%2e", "/..."),
            ("/%2ea", "/.a"),
        ] {
            for form in FORMS {
                assert_eq!(form.canonical(raw).as_ref().map(Canonical::as_str), Ok(canonical), "{raw}");
            }
        }
    }

    #[test]
    fn ambiguous_paths_are_refused_in_both_forms() {
        for (raw, error) in [
            ("", NoSlash),
            ("*", NoSlash),
            ("a/b", NoSlash),
            ("%2Fa", NoSlash),
            ("http://h/", NoSlash),
            ("//", EmptySegment),
            ("//h/a", EmptySegment),
            ("/a//b", EmptySegment),
            ("/a//", EmptySegment),
            ("/a\\b", Backslash),
            ("/a%5Cb", Backslash),
            ("/a%5cb", Backslash),
            ("/a b", Character),
            ("/a\tb", Character),
            ("/a\0b", Character),
            ("/a\r\nb", Character),
            ("/a\x7f", Character),
            ("/caf\u{e9}", Character),
            ("/a#b", Character),
            ("/a?b", Character),
            ("/a\"b", Character),
            ("/<a>", Character),
            ("/[a]", Character),
            ("/{a}", Character),
            ("/a|b", Character),
            ("/a^b", Character),
            ("/a`b", Character),
            ("/%", PercentSign),
            ("/%4", PercentSign),
            ("/%4/a", PercentSign),
            ("/%zz", PercentSign),
            ("/%+1", PercentSign),
            ("/%u002e", PercentSign),
            ("/%%41", PercentSign),
            ("/%00", Control),
            ("/a%0d%0aX:%20y", Control),
            ("/%1F", Control),
            ("/%7f", Control),
            ("/%80", NotUtf8),
            ("/%c3", NotUtf8),
            ("/%c3a9", NotUtf8),
            ("/%c3/%a9", NotUtf8),
            ("/%a9%c3", NotUtf8),
            ("/%ff", NotUtf8),
            ("/%c0%ae%c0%ae", NotUtf8),
            ("/%c0%af", NotUtf8),
            ("/%e0%80%ae", NotUtf8),
            ("/%f0%80%80%ae", NotUtf8),
            ("/%ed%a0%80", NotUtf8),
            ("/%f4%90%80%80", NotUtf8),
            ("/%f5%80%80%80", NotUtf8),
            ("/.", DotSegment),
            ("/..", DotSegment),
            ("/./a", DotSegment),
            ("/a/../b", DotSegment),
            ("/a/..", DotSegment),
            ("/a/../", DotSegment),
            ("/a/%2e%2E/b", DotSegment),
            ("/a/.%2e/b", DotSegment),
            ("/a/%2e/b", DotSegment),
            ("/a/%2e%2e%3bx/b", DotSegment),
            ("/a/%252e%252e/b", DoubleEncoding),
            ("/a/%25%32%65/b", DoubleEncoding),
            ("/a/%252%65/b", DoubleEncoding),
            ("/a/%25252e/b", DoubleEncoding),
            ("/a/%25%2532e/b", DoubleEncoding),
            ("/a%252Fb", DoubleEncoding),
            ("/a%255cb", DoubleEncoding),
        ] {
            for form in FORMS {
                assert_eq!(form.canonical(raw), Err(error), "{raw:?} {form:?}");
            }
        }
    }

    #[test]
    fn what_may_be_data_is_refused_in_the_strict_form_and_kept_in_the_opaque_one() {
        for (raw, error, canonical) in [
            ("/projects/a%2fb", EncodedSlash, "/projects/a%2Fb"),
            ("/%2F%2F", EncodedSlash, "/%2F%2F"),
            ("/a;v=1/b", Parameter, "/a;v=1/b"),
            ("/a;.", Parameter, "/a;."),
            ("/%2541", DoubleEncoding, "/%2541"),
            ("/50%25de", DoubleEncoding, "/50%25de"),
            ("/%25%32%30", DoubleEncoding, "/%2520"),
        ] {
            assert_eq!(Form::Strict.canonical(raw), Err(error), "{raw}");
            assert_eq!(Form::Opaque.canonical(raw).as_ref().map(Canonical::as_str), Ok(canonical), "{raw}");
        }
    }

    #[test]
    fn dot_segments_are_refused_around_encoded_slashes_and_parameters_too() {
        for raw in [
            "/a%2F..%2Fb",
            "/a%2f%2e%2e",
            "/..%2Fa",
            "/%2F..",
            "/a%2F.",
            "/a/..;/b",
            "/a/..;x=1",
            "/a/.;",
            "/a%2F..;%2Fb",
            "/%25/..",
            "/%25%2F..%2F",
            "/a/..%253bx",
        ] {
            assert_eq!(Form::Opaque.canonical(raw), Err(DotSegment), "{raw}");
        }
    }

    #[test]
    fn a_long_chain_of_encodings_is_judged_in_linear_time() {
        let path = format!("/%{}41", "25".repeat(500_000));
        assert!(Form::Opaque.canonical(&path).is_ok());
        let path = format!("/%{}2e", "25".repeat(500_000));
        assert_eq!(Form::Opaque.canonical(&path), Err(DoubleEncoding));
    }

    #[test]
    fn segments_are_those_that_are_sent() {
        let segments =
            |path| Form::Opaque.canonical(path).map(|path| path.segments().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(segments("/a/b%2fc/").expect("well-formed"), ["a", "b%2Fc", ""]);
        assert_eq!(segments("/").expect("well-formed"), [""]);
    }

    #[test]
    fn queries_are_visible_ascii_that_clients_send_raw() {
        for clean in ["", "a=b&c", "a=%zz", "q=[1]|{2}^`\\", "?a=/b:c@d!$'()*+,;-._~"] {
            assert!(query_is_clean(clean), "{clean}");
            assert!(format!("/?{clean}").parse::<http::Uri>().is_ok(), "{clean}");
        }
        for dirty in ["a b", "a#b", "a\0", "a\r\n", "a\t", "\u{e9}", "\x7f", "\"", "<", ">"] {
            assert!(!query_is_clean(dirty), "{dirty:?}");
        }
    }

    /// One round of percent-decoding, as a server does it that lets bad triplets stand.
    fn decoded_once(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = text;
        while let Some((first, others)) = rest.split_first() {
            let encoded = triplet(rest);
            out.push(encoded.unwrap_or(*first));
            rest = encoded.map_or(others, |_| &rest[TRIPLET..]);
        }
        out
    }

    fn hostile_path() -> impl Strategy<Value = String> {
        let pieces = &[
            "/",
            "/",
            "/",
            ".",
            "..",
            "%2e",
            "%2E",
            "a",
            "A",
            "%41",
            "%",
            "%25",
            "25",
            "2",
            "e",
            "f",
            "F",
            "%2f",
            "%2F",
            "5",
            "c",
            "%5c",
            "%32",
            "%65",
            ";",
            "%3b",
            "%c3%a9",
            "%C3%A9",
            "%e2%82%ac",
            "%c3",
            "~",
            "%7E",
            "*",
            ":",
            "%3A",
            "%00",
            "%20",
            "\\",
        ];
        prop::collection::vec(prop::sample::select(&pieces[..]), 0..14)
            .prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_096))]

        #[test]
        fn an_accepted_path_means_one_thing(raw in hostile_path()) {
            for form in FORMS {
                let Ok(canonical) = form.canonical(&raw) else { continue };
                let text = canonical.as_str();
                prop_assert_eq!(form.canonical(text), Ok(canonical.clone()));
                prop_assert!(matches!(form.canonical(text), Ok(Canonical(Cow::Borrowed(_)))));
                prop_assert_eq!(decoded_once(text.as_bytes()), decoded_once(raw.as_bytes()));
                prop_assert!(!text.contains("//") && text.starts_with('/'));
                let uri: http::Uri = text.parse().expect("visible ASCII");
                prop_assert_eq!(uri.path(), text);

                let mut level = text.as_bytes().to_vec();
                for _ in 0..text.len() {
                    prop_assert!(!level.contains(&b'\\'));
                    for segment in level.split(|byte| *byte == b'/') {
                        let name = segment.split(|byte| *byte == b';').next();
                        prop_assert!(!matches!(name, Some(b"." | b"..")));
                    }
                    level = decoded_once(&level);
                }
                if form == Form::Strict {
                    prop_assert_eq!(level, decoded_once(text.as_bytes()));
                    prop_assert_eq!(Form::Opaque.canonical(&raw), Ok(canonical));
                }
            }
        }

        #[test]
        fn any_text_is_a_path_or_an_error(raw in "/?\\PC{0,40}", query in "\\PC{0,40}") {
            for form in FORMS {
                if let Ok(canonical) = form.canonical(&raw) {
                    prop_assert_eq!(form.canonical(canonical.as_str()), Ok(canonical.clone()));
                }
            }
            if query_is_clean(&query) {
                let target = format!("/?{query}");
                prop_assert!(target.parse::<http::Uri>().is_ok());
            }
        }
    }
}
