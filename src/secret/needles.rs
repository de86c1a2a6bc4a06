//! Recognises a token in what an upstream sends, in the forms in which programs repeat what they were sent: as it is, in
//! base64, percent-encoded, in hex, escaped as in JSON.
//!
//! Invariant: the token's plain text stays here. What is told is where it stands in bytes that somebody else brought.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::ops::Range;

use aho_corasick::Span;
use aho_corasick::packed::Searcher;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use memchr::{memchr_iter, memmem};
use zeroize::Zeroizing;

use super::Secret;

/// A shorter token is not looked for: it would be found where it does not stand.
const SHORTEST: usize = 8;

/// So many bytes of a form are looked for first, of all forms at once.
const BEGINNING: usize = 4;

/// All forms of one token; wiped when dropped.
pub struct Needles {
    /// Longest first.
    forms: Vec<Zeroizing<Vec<u8>>>,
    shortest: usize,
    /// Finds the beginnings, which are all of the token that is not wiped. `None` on a processor that cannot compare many
    /// bytes at once.
    beginnings: Option<Searcher>,
}

impl Needles {
    pub(super) fn of(secret: &Secret) -> Self {
        let bytes = secret.aws_shown().unwrap_or(&secret.0);
        let mut needles = Self { forms: Vec::new(), shortest: usize::MAX, beginnings: None };
        if bytes.len() < SHORTEST {
            return needles;
        }
        needles.add(bytes.to_vec());
        needles.add_base64(bytes);
        for upper in [true, false] {
            needles.add_written(bytes, |byte, text| percent(byte, !is_unreserved(byte), upper, text));
            // A slash is often left as it is.
            needles.add_written(bytes, |byte, text| percent(byte, !is_unreserved(byte) && byte != b'/', upper, text));
            needles.add_written(bytes, |byte, text| percent(byte, true, upper, text));
            needles.add_written(bytes, |byte, text| hex(byte, upper, text));
            // Between which characters are written by their number, encoders differ.
            needles.add_written(bytes, |byte, text| json(byte, b"", b"<>&", upper, text));
            needles.add_written(bytes, |byte, text| json(byte, b"", b"<>&'+`\"", upper, text));
        }
        needles.add_written(bytes, |byte, text| json(byte, b"", b"", true, text));
        needles.add_written(bytes, |byte, text| json(byte, b"/", b"", true, text));
        needles.forms.sort_by_key(|form| Reverse(form.len()));
        needles.beginnings = Searcher::new(needles.forms.iter().map(|form| &form[..BEGINNING]));
        needles
    }

    /// No shorter text holds the token in any form.
    pub fn shortest(&self) -> usize {
        self.shortest
    }

    /// Whether the token stands in it, in any form.
    pub fn are_in(&self, bytes: &[u8]) -> bool {
        bytes.len() >= self.shortest && self.find(bytes, 0).is_some()
    }

    /// Calls for each place where the token stands, in any form.
    pub fn each(&self, bytes: &mut [u8], mut found: impl FnMut(&mut [u8])) {
        let mut from = 0;
        while let Some(place) = self.find(bytes, from) {
            from = place.end;
            found(&mut bytes[place]);
        }
    }

    /// The first place from there on.
    fn find(&self, bytes: &[u8], mut from: usize) -> Option<Range<usize>> {
        let Some(beginnings) = &self.beginnings else {
            let places = self.forms.iter().filter_map(|form| {
                let at = from + memmem::find(&bytes[from..], form)?;
                Some(at..at + form.len())
            });
            return places.min_by_key(|place| place.start);
        };
        while let Some(beginning) = beginnings.find_in(bytes, Span::from(from..bytes.len())) {
            let at = beginning.start();
            if let Some(form) = self.forms.iter().find(|form| bytes[at..].starts_with(form)) {
                return Some(at..at + form.len());
            }
            from = at + 1;
        }
        None
    }

    /// How many of the last bytes may be the beginning of a form that goes on in what follows.
    pub fn begun(&self, bytes: &[u8]) -> usize {
        let begun = |form: &Zeroizing<Vec<u8>>| {
            let end = &bytes[bytes.len() - bytes.len().min(form.len() - 1)..];
            let begins = memchr_iter(form[0], end).find(|at| form.starts_with(&end[*at..]));
            begins.map_or(0, |at| end.len() - at)
        };
        self.forms.iter().map(begun).max().unwrap_or(0)
    }

    /// The characters of base64 that say something of the token alone, for each number of bytes that may go before it in a
    /// group of three. What is left of it then are the few bits that its first and last bytes share with their neighbours.
    fn add_base64(&mut self, bytes: &[u8]) {
        for (before, shared) in [(0, 0), (1, 2), (2, 3)] {
            let mut shifted = Zeroizing::new(vec![0; before]);
            shifted.extend_from_slice(bytes);
            let whole = shifted.len() * 8 / 6;
            for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
                let text = Zeroizing::new(engine.encode(&*shifted));
                self.add(text.as_bytes()[shared..whole].to_vec());
            }
        }
    }

    fn add_written(&mut self, bytes: &[u8], write: impl Fn(u8, &mut String)) {
        // In one piece from the start: growing would leave copies behind.
        let mut text = String::with_capacity(6 * bytes.len());
        bytes.iter().for_each(|byte| write(*byte, &mut text));
        self.add(text.into_bytes());
    }

    fn add(&mut self, form: Vec<u8>) {
        let form = Zeroizing::new(form);
        if self.forms.iter().all(|known| **known != *form) {
            self.shortest = self.shortest.min(form.len());
            self.forms.push(form);
        }
    }
}

/// RFC 3986, section 2.3
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn percent(byte: u8, encode: bool, upper: bool, text: &mut String) {
    if encode {
        text.push('%');
        hex(byte, upper, text);
    } else {
        text.push(char::from(byte));
    }
}

fn json(byte: u8, escaped: &[u8], numbered: &[u8], upper: bool, text: &mut String) {
    if numbered.contains(&byte) {
        text.push_str("\\u00");
        hex(byte, upper, text);
    } else {
        if escaped.contains(&byte) || byte == b'"' || byte == b'\\' {
            text.push('\\');
        }
        text.push(char::from(byte));
    }
}

fn hex(byte: u8, upper: bool, text: &mut String) {
    // Writing to a String does not fail.
    let _ = if upper { write!(text, "{byte:02X}") } else { write!(text, "{byte:02x}") };
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    /// With every kind of character that some encoder treats in a way of its own.
    const TOKENS: [&str; 3] = ["ghp_0123456789abcdefABCDEF", "a+b/c==d\"e\\f<g>h&i'j`k~l", "sk-proj-0123/4567+89=="];

    fn needles(token: &str) -> Needles {
        Secret::new(token).make_needles()
    }

    #[test]
    fn a_token_is_found_in_every_form_wherever_it_stands() {
        for (token, beginnings) in TOKENS.iter().flat_map(|token| [(*token, true), (*token, false)]) {
            let mut needles = needles(token);
            assert!(needles.beginnings.is_some() || cfg!(not(target_arch = "x86_64")), "both ways are tried");
            needles.beginnings = needles.beginnings.filter(|_| beginnings);
            let bytes = token.as_bytes();
            let all = |upper| {
                bytes.iter().fold(String::new(), |mut text, byte| {
                    percent(*byte, true, upper, &mut text);
                    text
                })
            };
            let some = percent_encoding::utf8_percent_encode(token, percent_encoding::NON_ALPHANUMERIC).to_string();
            let some = ["-", ".", "_", "~"]
                .iter()
                .fold(some, |text, plain| text.replace(&format!("%{:02X}", plain.as_bytes()[0]), plain));
            let json = serde_json::to_string(token).expect("JSON");
            let forms = [
                token.to_owned(),
                all(true),
                all(false),
                some.clone(),
                all(true).replace('%', ""),
                all(false).replace('%', ""),
                json.trim_matches('"').to_owned(),
                json.replace('/', "\\/"),
                json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"),
            ];
            for form in forms {
                assert!(needles.are_in(format!("before {form} after").as_bytes()), "{form}");
            }
            for before in ["", "a", "ab", "abc", "Bearer "] {
                for after in ["", "x", "xy", "xyz"] {
                    for engine in [&STANDARD, &URL_SAFE] {
                        let text = engine.encode(format!("{before}{token}{after}"));
                        assert!(needles.are_in(text.as_bytes()), "{before} {after}");
                    }
                }
            }
            for innocent in
                [&token[1..], &token[..token.len() - 1], "", "an innocent text that is as long as any token"]
            {
                assert!(!needles.are_in(innocent.as_bytes()), "{innocent}");
            }
        }
    }

    #[test]
    fn a_form_that_has_begun_is_noticed_and_nothing_else() {
        let needles = needles(TOKENS[0]);
        for length in 0..TOKENS[0].len() {
            let text = format!("data: {}", &TOKENS[0][..length]);
            assert_eq!(needles.begun(text.as_bytes()), length);
        }
        assert_eq!(needles.begun(b"data: an event\n\n"), 0);
        assert_eq!(needles.begun(b""), 0);
    }

    #[test]
    fn a_short_token_is_not_looked_for() {
        let needles = needles("tok-123");
        assert!(!needles.are_in(b"tok-123"));
        assert_eq!((needles.begun(b"tok-12"), needles.shortest()), (0, usize::MAX));
    }

    #[test]
    fn each_place_is_called_once() {
        let (needles, token) = (needles(TOKENS[0]), TOKENS[0]);
        let mut text = format!("{token}{token} and {}", STANDARD.encode(token)).into_bytes();
        let mut places = 0;
        needles.each(&mut text, |place| {
            places += 1;
            place.fill(b'*');
        });
        assert_eq!(places, 3);
        assert!(!needles.are_in(&text));
    }
}
