//! Text that others wrote, made fit for a log line or an error: an issuer's `error_description`, a certificate's names. And
//! durations, as people write them.

mod piece;

use std::time::Duration;

use zeroize::Zeroizing;

pub use piece::Piece;

/// `text` without what could forge a second line, move a terminal's cursor or turn the direction of writing, and at most
/// `most` characters of it.
pub fn printable(text: &str, most: usize) -> String {
    let mut clean = String::with_capacity(text.len().min(most));
    let mut spaced = true;
    let mut count = 0;
    for character in text.chars().map(|c| if invisible(c) { ' ' } else { c }) {
        if character == ' ' && spaced {
            continue;
        }
        if count == most {
            clean.push('…');
            break;
        }
        spaced = character == ' ';
        clean.push(character);
        count += 1;
    }
    clean.truncate(clean.trim_end().len());
    clean
}

/// As [`printable`], without any of these secrets. First all of it is cleaned and redacted, then it is cut: a cut through a
/// secret would leave half of it.
pub fn redacted<'s>(text: &str, secrets: impl IntoIterator<Item = &'s str>, most: usize) -> String {
    let mut clean = Zeroizing::new(printable(text, usize::MAX));
    let secrets = secrets.into_iter().map(|secret| Zeroizing::new(printable(secret, usize::MAX)));
    let mut secrets: Vec<Zeroizing<String>> = secrets.filter(|secret| !secret.is_empty()).collect();
    // The longest first: one may be a part of another.
    secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
    for secret in &secrets {
        clean = Zeroizing::new(clean.replace(secret.as_str(), "[redacted]"));
    }
    printable(&clean, most)
}

/// In hex, in lower case.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).expect("four bits are one digit");
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn invisible(character: char) -> bool {
    character.is_control()
        || character.is_whitespace()
        || matches!(character, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}' | '\u{200b}'..='\u{200f}')
        || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}')
        || matches!(character, '\u{e0000}'..='\u{e007f}')
}

/// What the units of a duration are worth, in milliseconds; longest suffix first.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// `250ms`, `30s`, `5m`, `12h`, `90d`
pub fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit)?;
    digits.parse::<u64>().ok()?.checked_mul(*millis).map(Duration::from_millis)
}

/// A duration as [`duration`] reads it, in the largest unit that divides it.
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let fits = |(_, worth): &&(&str, u64)| millis.is_multiple_of(u128::from(*worth)) && millis > 0;
    let (unit, worth) = UNITS.iter().rev().find(fits).unwrap_or(&UNITS[1]);
    format!("{}{unit}", millis / u128::from(*worth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_it_moves_the_cursor_or_starts_a_line() {
        for (text, clean) in [
            ("plain", "plain"),
            ("", ""),
            ("\r\n", ""),
            ("two\r\nlines\n", "two lines"),
            ("\u{1b}[31mred\u{1b}[0m", "[31mred [0m"),
            ("nul\0 bell\u{7} c1\u{9b}x", "nul bell c1 x"),
            ("right\u{202e}tfel", "right tfel"),
            ("Prüfung", "Prüfung"),
        ] {
            assert_eq!(printable(text, 100), clean, "{text:?}");
        }
    }

    #[test]
    fn no_half_of_a_secret_is_left_at_the_cut() {
        let secret = "s3cr3t-s3cr3t";
        for before in 0..30 {
            let text = format!("{}{secret} was\tshown", "x".repeat(before));
            let text = redacted(&text, [secret, ""], 20);
            assert!(!text.contains("s3c") && text.chars().count() <= 21, "{text}");
        }
        assert_eq!(redacted("it was a\r\nb", ["a\nb"], 100), "it was [redacted]", "as it stands in the cleaned text");
    }

    #[test]
    fn it_is_cut_between_characters() {
        assert_eq!(printable("äöü", 3), "äöü");
        assert_eq!(printable("äöüß", 3), "äöü…");
        assert_eq!(printable(&"x".repeat(1000), 200).chars().count(), 201);
    }
}
