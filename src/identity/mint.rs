//! Phantom keys are made here, in a form that the SDK takes which is to send them.
//!
//! | format | looks like |
//! |---|---|
//! | `sk` | `sk-` and 48 letters and digits, as OpenAI, Anthropic and Stripe begin theirs |
//! | `ghp` | `ghp_`, 30 letters and digits and their checksum, which GitHub's tools verify |
//! | `xoxb` | `xoxb-`, two numbers and 24 letters and digits, as Slack's |
//! | a template | as written, `{}` for 43 random letters and digits, `{N}` for N, `{N:hex}` and `{N:digits}` for others |

use std::str::FromStr;

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::key::{LONGEST, SHORTEST, is_key_character};

const LETTERS_AND_DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const DIGITS: &[u8; 10] = b"0123456789";
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Letters and digits that are worth 256 bits.
const WHOLE: usize = 43;

/// What nobody guesses.
const LEAST_BITS: f64 = 128.0;

/// What a key looks like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Format(Vec<Piece>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Text(String),
    Random {
        count: usize,
        of: &'static [u8],
    },
    /// Of the random piece before it: CRC-32, in six letters and digits.
    Checksum,
}

/// Why a text is no format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    #[error(
        "a format is sk, ghp, xoxb, or a template such as \"key-{{}}\": {{}} becomes 43 random letters and digits, {{20}} as many, {{20:hex}} and {{20:digits}} others"
    )]
    Shape,
    #[error("a key has letters, digits, `-`, `.`, `_` and `~` alone, which need no encoding anywhere")]
    Character,
    #[error("a key has {SHORTEST} to {LONGEST} characters")]
    Length,
    #[error("such a key could be guessed: give it 22 random letters and digits, or 32 digits in hex, at least")]
    Guessable,
}

impl Format {
    /// A key that nobody has seen before.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    pub fn mint(&self) -> Zeroizing<String> {
        let mut key = Zeroizing::new(String::with_capacity(LONGEST));
        let mut last = 0;
        for piece in &self.0 {
            let begun = key.len();
            match piece {
                Piece::Text(text) => key.push_str(text),
                Piece::Random { count, of } => random(*count, of, &mut key),
                Piece::Checksum => {
                    let checksum = checksum(key.get(last..).unwrap_or_default());
                    key.push_str(&checksum);
                }
            }
            last = begun;
        }
        key
    }

    fn of(pieces: &[Piece]) -> Result<Self, FormatError> {
        let (mut length, mut bits) = (0, 0.0);
        for piece in pieces {
            match piece {
                Piece::Text(text) if !text.bytes().all(is_key_character) => return Err(FormatError::Character),
                Piece::Text(text) => length += text.len(),
                Piece::Random { count, of } => {
                    length += count;
                    bits += *count as f64 * (of.len() as f64).log2();
                }
                Piece::Checksum => length += 6,
            }
        }
        if !(SHORTEST..=LONGEST).contains(&length) {
            return Err(FormatError::Length);
        }
        if bits < LEAST_BITS { Err(FormatError::Guessable) } else { Ok(Self(pieces.to_vec())) }
    }
}

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let letters = |count| Piece::Random { count, of: LETTERS_AND_DIGITS };
        let digits = |count| Piece::Random { count, of: DIGITS };
        let written = |text: &str| Piece::Text(text.to_owned());
        match text {
            "sk" => Self::of(&[written("sk-"), letters(48)]),
            "ghp" => Self::of(&[written("ghp_"), letters(30), Piece::Checksum]),
            "xoxb" => Self::of(&[written("xoxb-"), digits(12), written("-"), digits(13), written("-"), letters(24)]),
            template => Self::of(&pieces(template)?),
        }
    }
}

fn pieces(template: &str) -> Result<Vec<Piece>, FormatError> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some((text, after)) = rest.split_once('{') {
        let (inside, after) = after.split_once('}').ok_or(FormatError::Shape)?;
        pieces.push(Piece::Text(text.to_owned()));
        let (count, of): (_, &[u8]) = match inside.split_once(':') {
            None => (inside, LETTERS_AND_DIGITS),
            Some((count, "hex")) => (count, HEX),
            Some((count, "digits")) => (count, DIGITS),
            Some(_) => return Err(FormatError::Shape),
        };
        let is_number = count.bytes().all(|byte| byte.is_ascii_digit());
        let number = count.parse().ok().filter(|number| is_number && (1..=LONGEST).contains(number));
        let count = if inside.is_empty() { Some(WHOLE) } else { number };
        pieces.push(Piece::Random { count: count.ok_or(FormatError::Shape)?, of });
        rest = after;
    }
    // Without a place for what is random it is a misspelt name.
    if pieces.is_empty() || rest.contains('}') {
        return Err(FormatError::Shape);
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Ok(pieces)
}

/// Each character as likely as the others: bytes beyond the last whole round are drawn anew.
fn random(count: usize, of: &[u8], into: &mut String) {
    let whole = 256 - 256 % of.len();
    let mut left = count;
    let mut bytes = Zeroizing::new([0; 64]);
    while left > 0 {
        rand::fill(&mut *bytes).expect("the operating system gives randomness");
        let drawn = bytes.iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < whole).take(left);
        let before = into.len();
        into.extend(drawn.map(|byte| char::from(of[byte % of.len()])));
        left -= into.len() - before;
    }
}

/// As GitHub writes it: in base 62, padded with zeros.
fn checksum(text: &str) -> String {
    let mut number = crc32fast::hash(text.as_bytes()) as usize;
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = LETTERS_AND_DIGITS[number % 62];
        number /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(text: &str) -> Result<Format, FormatError> {
        text.parse()
    }

    #[test]
    fn each_format_makes_what_its_sdk_takes() {
        let shapes = [
            ("sk", "^sk-[0-9A-Za-z]{48}$"),
            ("ghp", "^ghp_[0-9A-Za-z]{36}$"),
            ("xoxb", "^xoxb-[0-9]{12}-[0-9]{13}-[0-9A-Za-z]{24}$"),
            ("key-{}", "^key-[0-9A-Za-z]{43}$"),
            ("a.{40:hex}~{3:digits}_", "^a\\.[0-9a-f]{40}~[0-9]{3}_$"),
            ("{100}{100}", "^[0-9A-Za-z]{200}$"),
        ];
        for (written, shape) in shapes {
            let format = format(written).expect("a format");
            let (one, other) = (format.mint(), format.mint());
            assert!(regex::Regex::new(shape).expect("a pattern").is_match(&one), "{written}: {}", *one);
            assert_ne!(*one, *other);
        }
    }

    #[test]
    fn the_checksum_is_githubs() {
        assert_eq!(checksum("zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ"), "0mLq17");
        let key = format("ghp").expect("a format").mint();
        assert_eq!(checksum(&key[4..34]), key[34..]);
    }

    #[test]
    fn what_makes_no_key_is_refused() {
        for (written, why) in [
            ("", FormatError::Shape),
            ("skk", FormatError::Shape),
            ("key-{", FormatError::Shape),
            ("key-{}}", FormatError::Shape),
            ("key-{+40}", FormatError::Shape),
            ("key-{0}", FormatError::Shape),
            ("key-{:hex}", FormatError::Shape),
            ("key-{40:base64}", FormatError::Shape),
            ("key {}", FormatError::Character),
            ("key={}", FormatError::Character),
            ("{31:hex}", FormatError::Length),
            ("{512}-", FormatError::Length),
            ("a-long-enough-text-before-{20}", FormatError::Guessable),
            ("{38:digits}", FormatError::Guessable),
        ] {
            assert_eq!(format(written), Err(why), "{written}");
        }
    }
}
