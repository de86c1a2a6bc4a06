//! The tighter list of allow rules: what was used, and no more than what is allowed.
//!
//! ```text
//!  rule   GET /repos/**             ┐
//!                                   ├─▶ GET /repos/rust-lang/*/releases/latest
//!  used   /repos/rust-lang/*/releases/latest ┘
//! ```
//!
//! Invariants: what the list lets pass, a rule of before lets pass; what was used with success, the list lets pass.

use crate::path::Form;
use crate::usage::RuleMark;

/// One thing that was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Done<'a> {
    pub method: &'a str,
    pub template: &'a str,
    /// Under which rule; `None` where anything passed.
    pub rule: Option<RuleMark>,
}

/// The rules for what was done; `allow` is `None` where anything passes now.
pub fn tighter<'a>(allow: Option<&[String]>, done: impl Iterator<Item = Done<'a>>) -> Vec<String> {
    let mut rules: Vec<(String, String)> = Vec::new();
    for Done { method, template, rule } in done {
        match allow {
            None => rules.push((known(method).to_owned(), template.to_owned())),
            Some(allow) => rules.extend(narrowed(allow, method, template, rule)),
        }
    }
    rules.sort();
    rules.dedup();
    let is_covered = |at: usize| {
        let (method, path) = &rules[at];
        rules.iter().enumerate().any(|(other, (theirs, wider))| {
            other != at && covers(theirs, method) && meet(wider, path).as_deref() == Some(path)
        })
    };
    (0..rules.len()).filter(|at| !is_covered(*at)).map(|at| format!("{} {}", rules[at].0, rules[at].1)).collect()
}

/// The part of the rule that was used; of a rule that has gone meanwhile, of the first that fits.
fn narrowed(allow: &[String], method: &str, template: &str, mark: Option<RuleMark>) -> Option<(String, String)> {
    let parted = |rule: &str| rule.split_once(' ').map(|(own, path)| (own.to_owned(), canonical(path)));
    let marked = allow.iter().find(|rule| Some(RuleMark::of(rule)) == mark);
    let fitting = |rule: &&String| {
        parted(rule).is_some_and(|(own, path)| covers(&own, method) && meet(&path, template).is_some())
    };
    let (own, path) = parted(marked.or_else(|| allow.iter().find(fitting))?)?;
    let method = if own == "*" { known(method).to_owned() } else { own };
    // Where it cannot be said how they meet, the rule stays as it is.
    let met = meet(&path, template).unwrap_or(path);
    Some((method, met))
}

/// As an allow rule says it.
fn known(method: &str) -> &str {
    match method {
        "other" => "*",
        // Whoever may GET may HEAD.
        "HEAD" => "GET",
        method => method,
    }
}

fn covers(rule: &str, method: &str) -> bool {
    rule == "*" || rule == method || (rule == "GET" && method == "HEAD")
}

fn canonical(path: &str) -> String {
    Form::Opaque.canonical(path).map_or_else(|_| path.to_owned(), |canonical| canonical.as_str().to_owned())
}

/// What both patterns match, where that is a pattern.
fn meet(rule: &str, template: &str) -> Option<String> {
    let (rule, template): (Vec<&str>, Vec<&str>) = (parts(rule), parts(template));
    let (rule, rule_goes_on) = open_end(&rule);
    let (template, template_goes_on) = open_end(&template);
    if rule.contains(&"**") {
        return None;
    }
    let both = rule.iter().zip(template).map(|(rule, template)| meet_segment(rule, template));
    let mut met: Vec<&str> = both.collect::<Option<_>>()?;
    let (shared, goes_on) = (met.len(), rule_goes_on && template_goes_on);
    if (rule.len() > shared && !template_goes_on) || (template.len() > shared && !rule_goes_on) {
        return None;
    }
    met.extend(&rule[shared..]);
    met.extend(&template[shared..]);
    if goes_on {
        met.push("**");
    }
    Some(format!("/{}", met.join("/")))
}

fn parts(path: &str) -> Vec<&str> {
    path.strip_prefix('/').unwrap_or(path).split('/').collect()
}

/// Without the `**` that it ends with, if it does.
fn open_end<'v, 'p>(parts: &'v [&'p str]) -> (&'v [&'p str], bool) {
    match parts {
        [rest @ .., "**"] => (rest, true),
        all => (all, false),
    }
}

fn meet_segment<'p>(rule: &'p str, template: &'p str) -> Option<&'p str> {
    match (rule, template) {
        (rule, template) if rule == template => Some(rule),
        ("*", "") | ("", "*") => None,
        ("*", other) | (other, "*") => Some(other),
        (rule, literal) => (rule.contains('*') && is_within(rule, literal)).then_some(literal),
    }
}

/// Whether a text is one of those that a pattern such as `v*.json` stands for.
fn is_within(pattern: &str, text: &str) -> bool {
    let (Some((first, rest)), Some((_, last))) = (pattern.split_once('*'), pattern.rsplit_once('*')) else {
        return pattern == text;
    };
    let middle = rest.rsplit_once('*').map_or("", |(middle, _)| middle);
    let Some(mut left) = text.strip_prefix(first) else { return false };
    for piece in middle.split('*') {
        match left.split_once(piece) {
            Some((_, after)) => left = after,
            None => return false,
        }
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests;
