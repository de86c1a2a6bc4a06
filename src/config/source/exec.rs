//! `source = { kind = "exec", ... }`: a program that prints the token.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::reader::Section;
use crate::config::value;
use crate::program::Program;
use crate::token::source::exec::{Format, Settings};

/// Less than what a call for a token may take at all.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(25);

/// `scopes`: the token's own.
pub fn read(section: &mut Section<'_>, scopes: &[String]) -> Option<Settings> {
    section.require(
        "command",
        "`source` does not say what to run",
        "command = [\"/usr/local/bin/token\", \"billing\"]",
    );
    let command = command(section);
    let formats =
        [("text", Format::Text), ("json", Format::Json), ("kubernetes", Format::Kubernetes), ("aws", Format::Aws)];
    let format = section.choice("format", &formats, &[]).unwrap_or(Format::Text);
    let timeout = section.duration("timeout", TIMEOUTS).unwrap_or(Duration::from_secs(10));
    let variables = variables(section);
    let (path, arguments) = command?;
    let program = Program { path: path.into(), arguments, variables: variables?, timeout };
    Some(Settings { program, format, scopes: scopes.to_vec() })
}

/// The program and its arguments.
fn command(section: &mut Section<'_>) -> Option<(String, Vec<String>)> {
    let texts = section.strings("command")?;
    if let Some(bad) = texts.iter().find(|text| text.get_ref().contains('\0')) {
        section.report.error(bad.span(), "`command`: an argument cannot hold a zero byte", None);
        return None;
    }
    let mut words = texts.iter().map(|text| (*text.get_ref()).to_owned());
    match words.next() {
        Some(program) if program.starts_with('/') => Some((program, words.collect())),
        Some(_) => {
            let help = "write where it is, as in \"/usr/bin/gcloud\": it is not looked for, and there is no shell";
            section.report.error(texts[0].span(), "`command` must start with the absolute path of a program", help);
            None
        }
        None => {
            section.refuse("command", "`command` must name a program", "as in [\"/usr/local/bin/token\", \"billing\"]");
            None
        }
    }
}

/// Names of variables that the program is given. What is none may be a value, and is not shown.
fn variables(section: &mut Section<'_>) -> Option<Vec<String>> {
    let texts = section.strings("env").unwrap_or_default();
    let mut names = Some(Vec::new());
    for text in &texts {
        if value::is_variable(text.get_ref()) {
            section.report.holds_a_secret(text.get_ref());
            names.iter_mut().for_each(|names| names.push((*text.get_ref()).to_owned()));
        } else {
            section.report.conceal(text.span());
            let message = "`env` lists names of variables: letters, digits and underscores";
            section.report.error(
                text.span(),
                message,
                "write the name alone: its value comes from our own environment",
            );
            names = None;
        }
    }
    names
}
