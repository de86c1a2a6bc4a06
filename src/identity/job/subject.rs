//! Which subjects of an issuer are meant: exactly one, or those of a form.
//!
//! Subjects are cut into segments at `:` and `/`. A `*` stands for one or more characters of its own segment; at the very end
//! it stands for whatever follows, of at least one character. All else is taken as it is, byte for byte.
//!
//! Invariant: a form begins with something that is no `*`, so that it never means everybody whom an issuer knows.

use std::fmt;
use std::str::FromStr;

/// The longest subject that is taken, in bytes.
pub const LONGEST: usize = 512;

/// As `repo:org/app:*`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject(String);

/// Why a text is no form of subjects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SubjectError {
    #[error("a subject has 1 to {LONGEST} visible characters of ASCII")]
    Character,
    #[error("a `*` at the beginning would mean everybody whom the issuer knows")]
    Everybody,
    #[error("there is one `*` at most between two of `:` and `/`")]
    Stars,
}

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        if !is_subject(text) {
            return Err(SubjectError::Character);
        }
        if text.starts_with('*') {
            return Err(SubjectError::Everybody);
        }
        if text.split([':', '/']).any(|segment| segment.matches('*').count() > 1) {
            return Err(SubjectError::Stars);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text may be a subject at all: it stands in logs and in the trail.
pub fn is_subject(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl Subject {
    pub fn matches(&self, subject: &str) -> bool {
        matches(self.0.as_bytes(), subject.as_bytes())
    }

    /// What stands before the first `*`: all subjects of the form begin with it. `None` where there is no `*`.
    pub fn beginning(&self) -> Option<&str> {
        self.0.split_once('*').map(|(beginning, _)| beginning)
    }

    /// Whether there is a subject that both mean.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (own, others) = (steps(&self.0), steps(&other.0));
        // The places that can be reached in both forms with the same characters.
        let mut reached = vec![vec![false; others.len() + 1]; own.len() + 1];
        reached[0][0] = true;
        for one in 0..=own.len() {
            for two in 0..=others.len() {
                if !reached[one][two] {
                    continue;
                }
                let (step, further) = (own.get(one), others.get(two));
                if step.is_some_and(|step| step.repeats) {
                    reached[one + 1][two] = true;
                }
                if further.is_some_and(|step| step.repeats) {
                    reached[one][two + 1] = true;
                }
                if let (Some(step), Some(further)) = (step, further)
                    && step.what.agrees(further.what)
                {
                    reached[one + usize::from(!step.repeats)][two + usize::from(!further.repeats)] = true;
                }
            }
        }
        reached[own.len()][others.len()]
    }
}

fn matches(form: &[u8], text: &[u8]) -> bool {
    match form {
        [] => text.is_empty(),
        [b'*'] => !text.is_empty(),
        [b'*', rest @ ..] => {
            let most = text.iter().position(|byte| is_separator(*byte)).unwrap_or(text.len());
            // With one star in a segment, only one length lets the rest of the segment fit.
            (1..=most).any(|length| matches(rest, &text[length..]))
        }
        [byte, rest @ ..] => text.split_first().is_some_and(|(first, others)| first == byte && matches(rest, others)),
    }
}

fn is_separator(byte: u8) -> bool {
    byte == b':' || byte == b'/'
}

/// What may stand at a place of a subject.
#[derive(Clone, Copy)]
enum What {
    This(u8),
    /// Anything but a separator.
    InSegment,
    Anything,
}

impl What {
    fn agrees(self, other: Self) -> bool {
        match (self, other) {
            (Self::This(one), Self::This(two)) => one == two,
            (Self::This(byte), Self::InSegment) | (Self::InSegment, Self::This(byte)) => !is_separator(byte),
            (Self::Anything, _) | (_, Self::Anything) | (Self::InSegment, Self::InSegment) => true,
        }
    }
}

#[derive(Clone, Copy)]
struct Step {
    what: What,
    /// Any number of times, or never.
    repeats: bool,
}

fn steps(form: &str) -> Vec<Step> {
    let mut steps = Vec::with_capacity(form.len() + 1);
    for (at, byte) in form.bytes().enumerate() {
        let what = match byte {
            b'*' if at + 1 == form.len() => What::Anything,
            b'*' => What::InSegment,
            byte => What::This(byte),
        };
        steps.push(Step { what, repeats: false });
        if byte == b'*' {
            steps.push(Step { what, repeats: true });
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn form(text: &str) -> Subject {
        text.parse().expect("a form of subjects")
    }

    #[test]
    fn a_form_means_what_it_says_and_nothing_beside() {
        let app = form("repo:org/app:*");
        for good in ["repo:org/app:ref:refs/heads/main", "repo:org/app:pull_request", "repo:org/app:x"] {
            assert!(app.matches(good), "{good}");
        }
        for bad in [
            "repo:org/app-evil:x",
            "repo:org/app",
            "repo:org/app:",
            "repo:org/APP:x",
            "repo:evil/app:x",
            "repo:evil/repo:org/app:x",
            " repo:org/app:x",
            "xrepo:org/app:x",
            "repo:org/app/x:y",
            "repo:org%2Fapp:x",
            "",
        ] {
            assert!(!app.matches(bad), "{bad}");
        }
    }

    #[test]
    fn a_star_in_the_middle_stays_in_its_segment() {
        let main = form("repo:org/*:ref:refs/heads/main");
        assert!(main.matches("repo:org/app:ref:refs/heads/main"));
        for bad in [
            "repo:org/app:ref:refs/heads/evil:ref:refs/heads/main",
            "repo:org/app/x:ref:refs/heads/main",
            "repo:org/:ref:refs/heads/main",
            "repo:org/app:ref:refs/heads/main2",
            "repo:org/app:ref:refs/heads/main:x",
        ] {
            assert!(!main.matches(bad), "{bad}");
        }
        let release = form("repo:org/app:ref:refs/heads/release-*-final");
        assert!(release.matches("repo:org/app:ref:refs/heads/release-1-final-final"));
        assert!(!release.matches("repo:org/app:ref:refs/heads/release--final"), "a star is no nothing");
    }

    #[test]
    fn a_form_without_a_star_is_one_subject() {
        assert!(form("repo:org/app:x").matches("repo:org/app:x"));
        assert!(!form("repo:org/app:x").matches("repo:org/app:x:y"));
    }

    #[test]
    fn nobody_means_everybody() {
        assert_eq!("*".parse::<Subject>(), Err(SubjectError::Everybody));
        assert_eq!("*:org".parse::<Subject>(), Err(SubjectError::Everybody));
        assert_eq!("repo:**".parse::<Subject>(), Err(SubjectError::Stars));
        for bad in ["", "a b", "ä", "a\n", &"a".repeat(LONGEST + 1)] {
            assert_eq!(bad.parse::<Subject>(), Err(SubjectError::Character), "{bad:?}");
        }
    }

    #[test]
    fn forms_overlap_where_a_subject_is_of_both() {
        for (one, other, both) in [
            ("repo:org/app:*", "repo:org/app:ref:x", true),
            ("repo:org/app:*", "repo:org/*:ref:x", true),
            ("repo:org/app:*", "repo:org/lib:*", false),
            ("repo:org/app:*", "repo:org/app-evil:*", false),
            ("repo:org/*", "repo:org/app:*", true),
            ("repo:org/a*:x", "repo:org/*b:x", true),
            ("repo:org/a*:x", "repo:org/b*:x", false),
            ("a:*", "a:*", true),
            ("a:b", "a:b", true),
            ("a:b", "a:c", false),
            ("a:*", "a:", false),
        ] {
            assert_eq!(form(one).overlaps(&form(other)), both, "{one} and {other}");
            assert_eq!(form(other).overlaps(&form(one)), both, "{other} and {one}");
        }
    }

    proptest! {
        #[test]
        fn what_two_forms_match_is_an_overlap(one in "a[ab:/*]{0,6}", other in "a[ab:/*]{0,6}", text in "a[ab:/]{0,7}") {
            let (Ok(one), Ok(other)) = (one.parse::<Subject>(), other.parse::<Subject>()) else { return Ok(()) };
            if one.matches(&text) && other.matches(&text) {
                prop_assert!(one.overlaps(&other), "{one} and {other} both mean {text}");
            }
        }
    }
}
