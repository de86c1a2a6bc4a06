//! Reads a table of the file key by key. A [`Section`] notes what was asked of it, so that in the end each key that
//! nobody asked for can be reported: an unknown key is a protection that its author believes in and that is not there.
//!
//! Every method reports what is wrong and returns `None` then, or where the key is absent: a caller with a default uses
//! it in both cases, because a report with an error yields no config.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::later;
use super::problem::{Help, Report, did_you_mean, quote};

/// One table of the file, or the absence of it: then every key is absent.
pub struct Section<'a> {
    pub report: &'a Report<'a>,
    title: &'static str,
    at: Range<usize>,
    table: Option<&'a DeTable<'a>>,
    taken: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// A table that was found, or not. `title` names it in messages, and in the list of what is not supported yet.
    pub fn new(report: &'a Report<'a>, title: &'static str, at: Range<usize>, table: Option<&'a DeTable<'a>>) -> Self {
        Self { report, title, at, table, taken: Vec::new() }
    }

    /// How messages name it.
    #[cfg(test)]
    pub fn title(&self) -> &'static str {
        self.title
    }

    /// Where the section stands: its header, or its braces.
    pub fn at(&self) -> Range<usize> {
        self.at.clone()
    }

    /// Whether the section is in the file at all.
    pub fn is_present(&self) -> bool {
        self.table.is_some()
    }

    pub fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Where a key's value stands, or the section without it.
    pub fn place(&self, key: &str) -> Range<usize> {
        self.table.and_then(|table| table.get(key)).map_or(self.at(), Spanned::span)
    }

    /// An error about a key's value.
    pub fn refuse(&self, key: &str, message: impl Into<String>, help: impl Into<Help>) {
        self.report.error(self.place(key), message, help);
    }

    /// Reports that a key is absent, in words that say what it is needed for.
    pub fn require(&self, key: &str, sentence: impl Into<String>, example: &str) {
        if self.is_present() && !self.has(key) {
            self.report.error(self.at(), sentence, format!("add `{example}`"));
        }
    }

    /// The value as the file has it.
    pub fn take(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.taken.push(key);
        #[cfg(test)]
        asked::note(self.title, key, "");
        self.table.and_then(|table| table.get(key))
    }

    pub fn string(&mut self, key: &'static str) -> Option<Spanned<&'a str>> {
        let value = self.take(key)?;
        self.as_string(key, value)
    }

    /// A string that `parse` understands.
    pub fn parsed<T, E: Display>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Spanned<T>> {
        let text = self.string(key)?;
        let parsed = parse(text.get_ref()).map_err(|error| {
            if text.get_ref().contains('\n') {
                // Private keys have several lines, and what belongs here has one.
                self.report.conceal(text.span());
            }
            self.report.error(text.span(), format!("`{key}`: {error}"), None);
        });
        Some(Spanned::new(text.span(), parsed.ok()?))
    }

    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let value = self.take(key)?;
        value.get_ref().as_bool().or_else(|| self.mismatch(key, value, "true or false"))
    }

    pub fn integer(&mut self, key: &'static str, allowed: RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(key)?;
        let DeValue::Integer(number) = value.get_ref() else {
            return self.mismatch(key, value, "an integer");
        };
        let parsed = u64::from_str_radix(number.as_str(), number.radix()).ok().filter(|n| allowed.contains(n));
        if parsed.is_none() {
            let (least, most) = (allowed.start(), allowed.end());
            self.report.error(value.span(), format!("`{key}` must be from {least} to {most}"), None);
        }
        parsed
    }

    /// A size or a number of things.
    pub fn count(&mut self, key: &'static str, allowed: RangeInclusive<usize>) -> Option<usize> {
        let allowed = *allowed.start() as u64..=*allowed.end() as u64;
        self.integer(key, allowed).and_then(|number| usize::try_from(number).ok())
    }

    pub fn number(&mut self, key: &'static str, allowed: RangeInclusive<f64>) -> Option<f64> {
        let value = self.take(key)?;
        let text = match value.get_ref() {
            DeValue::Float(number) => number.as_str(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            _ => return self.mismatch(key, value, "a number"),
        };
        let parsed = text.parse::<f64>().ok().filter(|number| allowed.contains(number));
        if parsed.is_none() {
            let (least, most) = (allowed.start(), allowed.end());
            self.report.error(value.span(), format!("`{key}` must be from {least:?} to {most:?}"), None);
        }
        parsed
    }

    /// The strings of a list. Items of another type are reported and left out, so that the others are judged as well.
    pub fn strings(&mut self, key: &'static str) -> Option<Vec<Spanned<&'a str>>> {
        let value = self.take(key)?;
        match value.get_ref() {
            DeValue::Array(list) => {
                let strings: Vec<_> = list.iter().filter_map(|item| self.as_string(key, item)).collect();
                (list.is_empty() || !strings.is_empty()).then_some(strings)
            }
            DeValue::String(_) => {
                self.report.error(value.span(), format!("`{key}` must be a list"), "put it in brackets: [\"...\"]");
                None
            }
            _ => self.mismatch(key, value, "a list of strings"),
        }
    }

    /// A list of strings, or one.
    pub fn string_or_strings(&mut self, key: &'static str) -> Option<Vec<Spanned<&'a str>>> {
        match self.take(key)?.get_ref() {
            DeValue::String(_) => self.string(key).map(|one| vec![one]),
            _ => self.strings(key),
        }
    }

    /// A table inside this one; empty if it is absent.
    pub fn table(&mut self, key: &'static str, title: &'static str) -> Section<'a> {
        let value = self.take(key);
        let table = value.and_then(|value| match value.get_ref() {
            DeValue::Table(table) => Some(table),
            DeValue::Array(list) if list.iter().any(|item| item.get_ref().is_table()) => {
                let message = format!("`{key}` is one table, not a list of them");
                self.report.error(value.span(), message, format!("write `[{key}]`"));
                None
            }
            _ => self.mismatch(key, value, "a table"),
        });
        Section::new(self.report, title, value.map_or(self.at(), Spanned::span), table)
    }

    /// The tables of an array, `[[key]]`: no table where the key is absent, `None` where it is something else.
    pub fn tables(&mut self, key: &'static str, title: &'static str) -> Option<Vec<Section<'a>>> {
        let Some(value) = self.take(key) else { return Some(Vec::new()) };
        let DeValue::Array(list) = value.get_ref() else {
            conceal(self.report, value);
            let message = format!("`{key}` must be a list of tables");
            self.report.error(value.span(), message, format!("write `[[{key}]]`"));
            return None;
        };
        let section = |item: &'a Spanned<DeValue<'a>>| match item.get_ref() {
            DeValue::Table(table) => Some(Section::new(self.report, title, item.span(), Some(table))),
            _ => self.mismatch(key, item, "a list of tables"),
        };
        Some(list.iter().filter_map(section).collect())
    }

    /// All keys with their values: of a table whose keys are not ours.
    pub fn entries(&self) -> impl Iterator<Item = (Spanned<&'a str>, &'a Spanned<DeValue<'a>>)> + use<'a> {
        let table = self.table.into_iter().flatten();
        table.map(|(key, value)| (Spanned::new(key.span(), key.get_ref().as_ref()), value))
    }

    /// A value as the string that `key` should have.
    pub fn as_string(&self, key: &str, value: &'a Spanned<DeValue<'a>>) -> Option<Spanned<&'a str>> {
        match value.get_ref() {
            DeValue::String(text) => Some(Spanned::new(value.span(), text.as_ref())),
            _ => self.mismatch(key, value, "a string"),
        }
    }

    /// Reports a value of the wrong type. A text where a table should be may be a pasted secret.
    pub fn mismatch<T>(&self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) -> Option<T> {
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        if expected.contains("table") {
            conceal(self.report, value);
        }
        self.report.error(value.span(), format!("`{key}` must be {expected}, not {found}"), None);
        None
    }

    /// Reports each key that nobody asked for.
    pub fn finish(self) {
        for (key, value) in self.entries() {
            let name = *key.get_ref();
            if self.taken.contains(&name) {
                continue;
            }
            conceal(self.report, value);
            if later::has(self.title, name) {
                let place = if self.title == later::ROOT { String::new() } else { format!(" in {}", self.title) };
                let message = format!("this version does not support `{name}`{place} yet");
                self.report.error(key.span(), message, later::HELP);
            } else {
                let known = self.taken.iter().copied();
                let help = did_you_mean(name, known).unwrap_or_else(|| self.known());
                self.report.error(key.span(), format!("unknown key {} in {}", quote(name), self.title), help);
            }
        }
    }

    fn known(&self) -> String {
        let mut names = self.taken.clone();
        names.sort_unstable();
        names.dedup();
        format!("{} has the keys {}", self.title, names.join(", "))
    }
}

/// Conceals every text in a value.
pub fn conceal(report: &Report<'_>, value: &Spanned<DeValue<'_>>) {
    match value.get_ref() {
        DeValue::Array(list) => list.iter().for_each(|item| conceal(report, item)),
        DeValue::Table(table) => table.iter().for_each(|(_, item)| conceal(report, item)),
        DeValue::Boolean(_) => {}
        DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) | DeValue::Datetime(_) => {
            report.conceal(value.span());
        }
    }
}

/// What the reader asks for, noted while tests run: so that nothing else that lists the keys can differ from it.
#[cfg(test)]
pub mod asked {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    thread_local! {
        static ASKED: RefCell<BTreeSet<[String; 3]>> = RefCell::default();
    }

    /// A key of the section with this title, or one of the words that it can be.
    pub fn note(title: &str, key: &str, word: &str) {
        ASKED.with_borrow_mut(|asked| asked.insert([title, key, word].map(str::to_owned)));
    }

    /// All of it since the last time, on this thread.
    pub fn take() -> BTreeSet<[String; 3]> {
        ASKED.take()
    }
}
