//! What is wrong with a config file, and how it is told: every problem with its place and, where there is one, its fix.
//!
//! Invariant: a text that may be a secret is in no message, no help and no excerpt. Messages are written so; of the
//! lines of the file, [`Report`] shows none whose problem lies in a concealed place, and masks such places in others.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use serde_json::json;

use crate::secret::Opening;

/// The widest line that is shown, in characters.
const MAX_EXCERPT: usize = 200;

/// The most problems that are told of one file: errors first.
const MAX_PROBLEMS: usize = 1000;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken, but somebody should look.
    Warning,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One thing that is wrong, at one place. Lines and columns count from 1, columns in characters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    pub line: usize,
    pub column: usize,
    pub severity: Severity,
    pub message: String,
    pub help: Option<String>,
    excerpt: Option<Excerpt>,
}

/// All that is wrong with one file, in the order of the file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Problems {
    file: String,
    list: Vec<Problem>,
}

impl Problems {
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// An array of objects with `file`, `line`, `column`, `severity`, `message` and `help`.
    pub fn to_json(&self) -> serde_json::Value {
        let object = |problem: &Problem| {
            json!({
                "file": self.file,
                "line": problem.line,
                "column": problem.column,
                "severity": problem.severity.as_str(),
                "message": problem.message,
                "help": problem.help,
            })
        };
        self.list.iter().map(object).collect()
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// For people: a line `file:line:column: error: sentence` each, then the line of the file and the help.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.list {
            let Problem { line, column, severity, message, help, excerpt } = problem;
            writeln!(f, "{}:{line}:{column}: {}: {message}", self.file, severity.as_str())?;
            if let Some(excerpt) = excerpt {
                let margin = line.to_string().len() + 1;
                writeln!(f, " {line} | {}", excerpt.text)?;
                writeln!(
                    f,
                    "{:margin$} | {:start$}{:^<width$}",
                    "",
                    "",
                    "",
                    start = excerpt.start,
                    width = excerpt.width
                )?;
            }
            if let Some(help) = help {
                writeln!(f, "  help: {help}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A line of the file, and which of its characters the problem is about.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Excerpt {
    text: String,
    start: usize,
    width: usize,
}

/// Collects problems while a file is read. Places are byte ranges of its text.
pub struct Report<'a> {
    text: &'a str,
    findings: RefCell<Vec<Finding>>,
    concealed: RefCell<Vec<Range<usize>>>,
    /// What has a say besides the text.
    outside: RefCell<Vec<String>>,
    secret_variables: RefCell<BTreeSet<String>>,
    /// Through which `vault:` references are read, where the file says which vault that is.
    vault: RefCell<Option<Opening>>,
    /// Which one that is.
    vault_address: RefCell<String>,
}

struct Finding {
    at: Range<usize>,
    severity: Severity,
    message: String,
    help: Option<String>,
}

impl<'a> Report<'a> {
    pub fn new(text: &'a str) -> Self {
        Self {
            text,
            findings: RefCell::default(),
            concealed: RefCell::default(),
            outside: RefCell::default(),
            secret_variables: RefCell::default(),
            vault: RefCell::default(),
            vault_address: RefCell::default(),
        }
    }

    /// The file cannot be taken as it is.
    pub fn error(&self, at: Range<usize>, message: impl Into<String>, help: impl Into<Help>) {
        self.add(at, Severity::Error, message.into(), help.into());
    }

    /// The file can be taken, but somebody should look.
    pub fn warning(&self, at: Range<usize>, message: impl Into<String>, help: impl Into<Help>) {
        self.add(at, Severity::Warning, message.into(), help.into());
    }

    fn add(&self, at: Range<usize>, severity: Severity, message: String, help: Help) {
        self.findings.borrow_mut().push(Finding { at, severity, message, help: help.0 });
    }

    /// A secret is in this variable.
    pub fn holds_a_secret(&self, variable: &str) {
        self.secret_variables.borrow_mut().insert(variable.to_owned());
    }

    /// The variables that secrets are in.
    pub fn secret_variables(&self) -> Vec<String> {
        self.secret_variables.borrow().iter().cloned().collect()
    }

    /// The file says where `vault:` references are to be read: through what is returned.
    pub fn has_a_vault(&self) -> Opening {
        self.vault.borrow_mut().get_or_insert_default().clone()
    }

    /// Which one it is: another is another source of what it gives.
    pub fn vault_is_at(&self, address: String) {
        *self.vault_address.borrow_mut() = address;
    }

    pub fn vault_address(&self) -> String {
        self.vault_address.borrow().clone()
    }

    pub fn vault(&self) -> Option<Opening> {
        self.vault.borrow().clone()
    }

    /// From now on, no excerpt shows this place: a secret was expected there, or may have been written there.
    pub fn conceal(&self, at: Range<usize>) {
        self.concealed.borrow_mut().push(at);
    }

    /// A place that is not in the text, such as a variable. Problems there are told at the file's start, with its name.
    pub fn outside(&self, name: &str) -> Range<usize> {
        let mut names = self.outside.borrow_mut();
        names.push(name.to_owned());
        let end = self.text.len() + 1 + names.len();
        end - 1..end
    }

    pub fn has_errors(&self) -> bool {
        self.findings.borrow().iter().any(|finding| finding.severity == Severity::Error)
    }

    /// The line, from 1, that a place is on.
    pub fn line(&self, at: &Range<usize>) -> usize {
        1 + self.text[..self.boundary(at.start)].matches('\n').count()
    }

    /// All that was found, in the order of the file.
    pub fn finish(self, file: &str) -> Problems {
        let mut findings = self.findings.take();
        if findings.len() > MAX_PROBLEMS {
            findings.sort_by_key(|finding| finding.severity);
            findings.truncate(MAX_PROBLEMS);
        }
        findings.sort_by_key(|finding| (finding.at.start, finding.severity));
        Problems { file: file.to_owned(), list: findings.into_iter().map(|finding| self.place(finding)).collect() }
    }

    fn place(&self, Finding { at, severity, message, help }: Finding) -> Problem {
        let outside = at.start.checked_sub(self.text.len() + 1);
        if let Some(name) = outside.and_then(|index| self.outside.borrow().get(index).cloned()) {
            let message = format!("${}: {message}", name.escape_debug());
            return Problem { line: 1, column: 1, severity, message, help, excerpt: None };
        }
        let start = self.boundary(at.start);
        let line = self.line(&at);
        let column = 1 + self.text[self.line_start(start)..start].chars().count();
        Problem { line, column, severity, message, help, excerpt: self.excerpt(start, at.end) }
    }

    /// The line that a place starts on, with concealed places masked; none where the place itself is concealed, or is the
    /// file as a whole.
    fn excerpt(&self, start: usize, end: usize) -> Option<Excerpt> {
        if start >= end {
            return None;
        }
        let concealed = self.concealed.borrow();
        if concealed.iter().any(|hidden| hidden.start < end && start < hidden.end) {
            return None;
        }
        let from = self.line_start(start);
        let line = self.text[from..].lines().next().unwrap_or_default();
        let mut shown = Excerpt { text: String::new(), start: 0, width: 0 };
        let mut masked = false;
        for (length, (offset, character)) in line.char_indices().enumerate() {
            let offset = from + offset;
            if length == MAX_EXCERPT {
                shown.text.push('…');
                break;
            }
            let hidden = concealed.iter().any(|hidden| hidden.contains(&offset));
            if hidden && masked {
                continue;
            }
            masked = hidden;
            shown.start += usize::from(offset < start);
            shown.width += usize::from((start..end).contains(&offset));
            shown.text.push(if hidden { '…' } else { plain(character) });
        }
        shown.width = shown.width.max(1);
        (start < from + line.len().max(1) && shown.start <= MAX_EXCERPT).then_some(shown)
    }

    fn line_start(&self, offset: usize) -> usize {
        self.text[..offset].rfind('\n').map_or(0, |end| end + 1)
    }

    fn boundary(&self, offset: usize) -> usize {
        self.text.floor_char_boundary(offset)
    }
}

/// The fix that goes with a problem, if there is one to tell.
pub struct Help(Option<String>);

impl From<&str> for Help {
    fn from(text: &str) -> Self {
        Self(Some(text.to_owned()))
    }
}

impl From<String> for Help {
    fn from(text: String) -> Self {
        Self(Some(text))
    }
}

impl From<Option<String>> for Help {
    fn from(text: Option<String>) -> Self {
        Self(text)
    }
}

/// A word of the file, as messages quote it: short, and without characters that a terminal would obey.
pub fn quote(word: &str) -> String {
    const LONGEST: usize = 60;
    let cut = if word.chars().count() > LONGEST { "…" } else { "" };
    let shown: String = word.chars().take(LONGEST).map(plain).collect();
    format!("`{shown}{cut}`")
}

/// The name that was probably meant, if one is close.
pub fn nearest<'n>(word: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let close = (word.chars().count() / 3).max(1);
    let measured = names.into_iter().map(|name| (strsim::damerau_levenshtein(word, name), name));
    measured.filter(|(distance, _)| *distance <= close).min().map(|(_, name)| name)
}

/// "did you mean", if a name is close.
pub fn did_you_mean<'n>(word: &str, names: impl IntoIterator<Item = &'n str>) -> Option<String> {
    nearest(word, names).map(|name| format!("did you mean `{name}`?"))
}

/// A character that changes nothing but its own cell of the screen: control and bidirectional marks are replaced.
fn plain(character: char) -> char {
    match character {
        '\t' => ' ',
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "ä = 1\nkey = \"hunter2\", b = 2\n";

    #[test]
    fn columns_count_characters_from_one() {
        let report = Report::new(TEXT);
        report.error(3..4, "here", None);
        let problems = report.finish("f");
        assert_eq!(problems.to_string(), "f:1:3: error: here\n 1 | ä = 1\n   |   ^\n");
    }

    #[test]
    fn problems_are_sorted_by_place() {
        let report = Report::new(TEXT);
        report.warning(7..10, "second", "do this");
        report.error(0..2, "first", None);
        let messages: Vec<_> = report.finish("f").iter().map(|p| (p.line, p.message.clone())).collect();
        assert_eq!(messages, [(1, "first".to_owned()), (2, "second".to_owned())]);
    }

    #[test]
    fn a_problem_in_a_concealed_place_shows_no_line() {
        let report = Report::new(TEXT);
        report.conceal(13..22);
        report.error(13..22, "a secret", None);
        assert_eq!(report.finish("f").to_string(), "f:2:7: error: a secret\n");
    }

    #[test]
    fn a_concealed_place_is_masked_in_the_line_of_another_problem() {
        let report = Report::new(TEXT);
        report.error(24..25, "b", "remove it");
        report.conceal(13..22);
        let shown = report.finish("f").to_string();
        assert_eq!(shown, "f:2:18: error: b\n 2 | key = …, b = 2\n   |          ^\n  help: remove it\n");
    }

    #[test]
    fn a_terminal_obeys_nothing_that_is_quoted() {
        assert_eq!(quote("a\u{1b}[31m\u{202e}"), "`a\u{fffd}[31m\u{fffd}`");
        assert_eq!(quote(&"x".repeat(100)).chars().count(), 63);
    }

    #[test]
    fn only_a_close_name_is_suggested() {
        assert_eq!(nearest("onwer", ["owner", "name"]), Some("owner"));
        assert_eq!(nearest("colour", ["owner", "name"]), None);
        assert_eq!(nearest("uid", ["gid", "key"]), Some("gid"));
    }
}
