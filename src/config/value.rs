//! The kinds of values that a config is made of: how each is written, and what is said when it is not.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::problem::did_you_mean;
use super::reader::Section;
use crate::authority::Endpoint;
use crate::secret::{Reference, ReferenceError};
use crate::text::{duration, show_duration};

impl<'a> Section<'a> {
    /// A text for people: not empty, of at most 200 characters, on one line.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.parsed(key, text).map(Spanned::into_inner)
    }

    /// A name. What is none may be a token that was pasted here, and is not shown.
    pub fn name<N: FromStr<Err: Display>>(&mut self, key: &'static str) -> Option<Spanned<N>> {
        let text = self.string(key)?;
        self.as_name(key, &text)
    }

    /// A list of names.
    pub fn names<N: FromStr<Err: Display>>(&mut self, key: &'static str) -> Option<Vec<Spanned<N>>> {
        let list = self.strings(key)?;
        let names: Vec<_> = list.iter().map(|text| self.as_name(key, text)).collect();
        names.into_iter().collect()
    }

    fn as_name<N: FromStr<Err: Display>>(&self, key: &str, text: &Spanned<&str>) -> Option<Spanned<N>> {
        let parsed = text.get_ref().parse().map_err(|error| {
            self.report.conceal(text.span());
            self.report.error(text.span(), format!("`{key}`: {error}"), None);
        });
        Some(Spanned::new(text.span(), parsed.ok()?))
    }

    pub fn duration(&mut self, key: &'static str, allowed: RangeInclusive<Duration>) -> Option<Duration> {
        let value = self.take(key)?;
        if let DeValue::Integer(number) = value.get_ref() {
            let help = format!("write a unit, as in `{key} = \"{number}s\"`");
            self.report.error(value.span(), format!("`{key}` must be a duration, not a number"), help);
            return None;
        }
        let text = self.as_string(key, value)?;
        let Some(duration) = duration(text.get_ref()) else {
            let help = "write a whole number and a unit, as in \"250ms\", \"30s\", \"5m\", \"12h\" or \"90d\"";
            self.report.error(value.span(), format!("`{key}` must be a duration"), help);
            return None;
        };
        if !allowed.contains(&duration) {
            let [least, most] = [allowed.start(), allowed.end()].map(|bound| show_duration(*bound));
            self.report.error(value.span(), format!("`{key}` must be from {least} to {most}"), None);
            return None;
        }
        Some(duration)
    }

    /// A number of bytes.
    pub fn size(&mut self, key: &'static str, allowed: RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(key)?;
        if let DeValue::Integer(number) = value.get_ref() {
            let help = format!("write a unit, as in `{key} = \"{number}KiB\"`");
            self.report.error(value.span(), format!("`{key}` must be a size, not a number"), help);
            return None;
        }
        let text = self.as_string(key, value)?;
        let Some(size) = size(text.get_ref()) else {
            let help = "write a whole number and a unit, as in \"100B\", \"64KiB\", \"10MiB\" or \"1GiB\"";
            self.report.error(value.span(), format!("`{key}` must be a size"), help);
            return None;
        };
        if !allowed.contains(&size) {
            let [least, most] = [allowed.start(), allowed.end()].map(|bound| show_size(*bound));
            self.report.error(value.span(), format!("`{key}` must be from {least} to {most}"), None);
            return None;
        }
        Some(size)
    }

    /// One of a few words. `later` are words that a later version may know.
    pub fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&'static str, T)], later: &[&str]) -> Option<T> {
        let text = self.string(key)?;
        self.as_choice(key, &text, words, later)
    }

    /// As [`Section::choice`], of a string that was taken already.
    pub fn as_choice<T: Copy>(
        &self,
        key: &str,
        text: &Spanned<&str>,
        words: &[(&'static str, T)],
        later: &[&str],
    ) -> Option<T> {
        #[cfg(test)]
        words.iter().for_each(|(word, _)| super::reader::asked::note(self.title(), key, word));
        let word = *text.get_ref();
        let known = || words.iter().map(|(known, _)| *known);
        if let Some((_, value)) = words.iter().find(|(known, _)| *known == word) {
            return Some(*value);
        }
        let all = known().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        if later.contains(&word) {
            let message = format!("this version does not support `{key} = \"{word}\"` yet");
            self.report.error(text.span(), message, format!("this version has {all}"));
        } else {
            let near = did_you_mean(word, known());
            if near.is_none() && word.chars().count() > LONGEST_WORD {
                // A secret may have been pasted here.
                self.report.conceal(text.span());
            }
            let help = near.unwrap_or_else(|| format!("it can be {all}"));
            self.report.error(text.span(), format!("`{key}` has no such value"), help);
        }
        None
    }

    /// Where a secret is to be read. Anything else that stands here is taken for a secret, and is not shown.
    pub fn reference(&mut self, key: &'static str, base: &Path) -> Option<Reference> {
        let value = self.take(key)?;
        let DeValue::String(text) = value.get_ref() else {
            self.report.conceal(value.span());
            return self.mismatch(key, value, "a reference to a secret");
        };
        let mut parsed = Reference::parse(text, base).map_err(|error| {
            self.report.conceal(value.span());
            // The error for a text that is no reference at all says how to write one.
            let help = (error != ReferenceError::Inline).then(|| "as in \"env:NAME\" or \"file:/path\"".to_owned());
            self.report.error(value.span(), format!("`{key}`: {error}"), help);
        });
        match &mut parsed {
            Ok(Reference::Env(variable)) => self.report.holds_a_secret(variable),
            // Its arguments may say more than others should see.
            Ok(Reference::Exec(_)) => self.report.conceal(value.span()),
            Ok(Reference::Vault(deposited)) => match self.report.vault() {
                Some(opening) => deposited.through(&opening),
                None => {
                    let message = format!("`{key}` lies in a vault, and nothing says in which");
                    self.refuse(key, message, "add [vault] with its `url` and `auth`");
                }
            },
            Ok(Reference::File(_) | Reference::Credential(_)) | Err(()) => {}
        }
        parsed.ok()
    }

    /// As [`Section::reference`], of what is read at a start or a reload, where there is no time for a program or a vault.
    pub fn reference_at_rest(&mut self, key: &'static str, base: &Path) -> Option<Reference> {
        let reference = self.reference(key, base)?;
        let (why, help) = match reference {
            Reference::Env(_) | Reference::File(_) | Reference::Credential(_) => return Some(reference),
            Reference::Exec(_) => (
                "when no program is run",
                "have the program write a file before, and name that: \"file:/path\", or \"credential:NAME\"",
            ),
            Reference::Vault(_) => (
                "when no vault is asked",
                "have an agent write a file, and name that: \"file:/path\", or \"credential:NAME\"",
            ),
        };
        self.refuse(key, format!("`{key}` is read at the start and at a reload, {why}"), help);
        None
    }

    /// An `http` or `https` URL. Where it may hold a password or a key, it is not shown.
    pub fn endpoint(&mut self, key: &'static str) -> Option<Spanned<Endpoint>> {
        let text = self.string(key)?;
        let parsed = Endpoint::parse(text.get_ref()).map_err(|error| {
            if text.get_ref().contains(['@', '?', '#']) {
                self.report.conceal(text.span());
            }
            self.report.error(text.span(), format!("`{key}`: {error}"), "a URL is like \"https://api.example.com\"");
        });
        Some(Spanned::new(text.span(), parsed.ok()?))
    }

    /// A file or a folder; a relative one starts from `base`.
    pub fn path(&mut self, key: &'static str, base: &Path) -> Option<PathBuf> {
        self.parsed(key, path).map(|path| base.join(path.into_inner()))
    }
}

/// A place in JSON (RFC 6901).
pub fn pointer(text: &str) -> Result<String, &'static str> {
    match text.starts_with('/') && text.len() <= LONGEST_POINTER {
        true => Ok(text.to_owned()),
        false => Err("a JSON pointer begins with a slash, as in \"/ok\""),
    }
}

const LONGEST_POINTER: usize = 200;

/// Why a value is not what its key needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ValueError {
    #[error("must not be empty")]
    Empty,
    #[error("must not be longer than {0} characters")]
    Long(usize),
    #[error("must be one line of text, without control characters")]
    Control,
    #[error("must be a date like \"2027-06-30\", or a time with its offset like \"2027-06-30T12:00:00Z\"")]
    Time,
}

const LONGEST_TEXT: usize = 200;

/// No word that a key can be is longer, in characters.
const LONGEST_WORD: usize = 20;

/// A text for people.
pub fn text(text: &str) -> Result<String, ValueError> {
    match text {
        _ if text.trim().is_empty() => Err(ValueError::Empty),
        _ if text.chars().any(char::is_control) => Err(ValueError::Control),
        _ if text.chars().count() > LONGEST_TEXT => Err(ValueError::Long(LONGEST_TEXT)),
        _ => Ok(text.to_owned()),
    }
}

/// A path of the file system.
pub fn path(text: &str) -> Result<PathBuf, ValueError> {
    match text {
        "" => Err(ValueError::Empty),
        _ if text.chars().any(char::is_control) => Err(ValueError::Control),
        _ => Ok(text.into()),
    }
}

/// What the units of a size are worth.
const SIZES: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// `100B`, `64KiB`, `10MiB`, `1GiB`
pub fn size(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, bytes) = SIZES.iter().find(|(name, _)| *name == unit)?;
    digits.parse::<u64>().ok()?.checked_mul(*bytes)
}

/// A size as [`size`] reads it, in the largest unit that divides it.
fn show_size(bytes: u64) -> String {
    let fits = |(_, worth): &&(&str, u64)| bytes.is_multiple_of(*worth) && bytes > 0;
    let (unit, worth) = SIZES.iter().rev().find(fits).unwrap_or(&SIZES[0]);
    format!("{}{unit}", bytes / worth)
}

/// A moment, since the Unix epoch: a date stands for its end in UTC, which is the next day's first instant.
pub fn moment(text: &str) -> Result<Duration, ValueError> {
    let timestamp = match text.parse::<jiff::civil::Date>() {
        Ok(date) if text.len() == "2027-06-30".len() => {
            let next = date.tomorrow().and_then(|day| day.to_zoned(jiff::tz::TimeZone::UTC));
            next.map_err(|_| ValueError::Time)?.timestamp()
        }
        _ => text.parse::<jiff::Timestamp>().map_err(|_| ValueError::Time)?,
    };
    let millis = u64::try_from(timestamp.as_millisecond()).map_err(|_| ValueError::Time)?;
    Ok(Duration::from_millis(millis))
}

/// One scope (RFC 6749, section 3.3): visible ASCII without quotation mark and backslash.
pub fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
}

/// A variable's name.
pub fn is_variable(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, millis) in [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("12h", 43_200_000), ("0s", 0)] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)));
            assert_eq!(show_duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(duration("90d"), Some(Duration::from_secs(90 * 86_400)));
        for bad in ["", "5", "s", "-5s", "1.5h", "5 s", "5S", "1h30m", "99999999999999999999s", "5µs", "٣s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_a_number_and_a_unit() {
        for (text, bytes) in [("100B", 100), ("64KiB", 65_536), ("10MiB", 10_485_760), ("1GiB", 1 << 30)] {
            assert_eq!(size(text), Some(bytes));
            assert_eq!(show_size(bytes), text);
        }
        for bad in
            ["", "5", "KiB", "-5KiB", "1.5MiB", "5 KiB", "5kib", "5MB", "99999999999GiB", "99999999999999999999B"]
        {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_date_lasts_until_its_end_in_utc() {
        assert_eq!(moment("1970-01-01"), Ok(Duration::from_secs(86_400)));
        assert_eq!(moment("1970-01-01T00:00:10Z"), Ok(Duration::from_secs(10)));
        assert_eq!(moment("1970-01-01T01:00:00+01:00"), Ok(Duration::ZERO));
        for bad in ["", "2027", "2027-02-30", "2027-06-30T12:00:00", "30.06.2027", "1969-01-01", "tomorrow"] {
            assert_eq!(moment(bad), Err(ValueError::Time), "{bad}");
        }
    }

    #[test]
    fn texts_are_for_people() {
        assert_eq!(text(" "), Err(ValueError::Empty));
        assert_eq!(text("a\nb"), Err(ValueError::Control));
        assert_eq!(text(&"ä".repeat(200)).map(|text| text.len()), Ok(400));
        assert_eq!(text(&"ä".repeat(201)), Err(ValueError::Long(200)));
    }

    #[test]
    fn scopes_are_tokens_of_oauth() {
        assert!(is_scope("contents:read") && is_scope("https://www.example.com/auth/x"));
        assert!(!is_scope("") && !is_scope("a b") && !is_scope("a\"b") && !is_scope("ä"));
    }
}
