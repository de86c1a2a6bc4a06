//! A report as people read it: on a terminal, in an issue, in a browser.
//!
//! Invariant: what stands in a report is data. In HTML each text is escaped and nothing is loaded; in Markdown each text that
//! came from outside stands in code.

mod html;
mod markdown;
mod text;

pub use html::html;
pub use markdown::markdown;
pub use text::text;

use std::time::Duration;

use super::report::{Entry, Figure, Generation, Known, Report, Standing, Trend, days};

/// A share as people say it.
fn percent(ratio: f64) -> String {
    format!("{:.0} %", ratio * 100.0)
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn or_never(time: Option<&String>) -> &str {
    time.map_or("never", String::as_str)
}

fn grant_end(entry: &Entry) -> &str {
    entry.grant_ends.as_deref().unwrap_or("never: it is permanent")
}

fn known_since(entry: &Entry) -> String {
    format!("{}, {}", entry.known_since, for_so_long(entry.age_seconds))
}

/// The generation that is attached now.
fn live(entry: &Entry) -> String {
    match &entry.generation {
        Some(Generation { number, issued, age_seconds, expires }) => {
            format!("{number}, from {issued}, {}, to {expires}", for_so_long(*age_seconds))
        }
        None => "none is live".to_owned(),
    }
}

fn for_so_long(seconds: u64) -> String {
    format!("for {}", days(Duration::from_secs(seconds)))
}

/// What can be said of a scope.
fn words(known: Known) -> &'static str {
    match known {
        Known::Unused => "unused: its token was not used",
        Known::Unneeded => "writes, and there was nothing but reading",
        Known::MayBeUsed => "may be used: no request tells",
    }
}

fn review(standing: &Standing) -> String {
    let last = match &standing.last {
        Some(last) => format!("last reviewed {} by {}: {}", last.time, last.by, last.reason),
        None => "never reviewed".to_owned(),
    };
    match (&standing.due, standing.overdue) {
        (None, _) => format!("{last}; no schedule"),
        (Some(due), false) => format!("{last}; due {due}"),
        (Some(due), true) => format!("{last}; OVERDUE since {due}"),
    }
}

/// How long it took, in words.
fn measured(figure: &Figure) -> String {
    let Figure { count, mean_seconds, worst_seconds, .. } = figure;
    let times = counted(u64::from(*count), "time");
    format!("{times}, {mean_seconds:.3} s on average, {worst_seconds:.3} s at worst")
}

/// The heads of a table of how tokens stood week by week, and one of its rows.
const TREND: [&str; 5] = ["week of", "active", "with least privilege", "unused", "long-lived"];

fn with_week(week: &str, [active, least, unused, long_lived]: [String; 4]) -> [String; 5] {
    [week.to_owned(), active, least, unused, long_lived]
}

/// How the active tokens stood in a week.
fn stood(Trend { sums, .. }: &Trend) -> [String; 4] {
    let least = format!("{} of {}", percent(sums.least_privilege_ratio), sums.active);
    [sums.active.to_string(), least, sums.unused.to_string(), sums.long_lived.to_string()]
}

/// `allow` as the config writes it.
fn allow(list: &[String]) -> String {
    let rules: Vec<String> = list.iter().map(|rule| format!("    {rule:?},\n")).collect();
    if rules.is_empty() { "allow = []".to_owned() } else { format!("allow = [\n{}]", rules.concat()) }
}

/// The list to paste, where it is another one than there is, and there is something to tell of.
fn proposal(route: &super::report::Route) -> Option<String> {
    let same = route.rules.iter().map(|rule| &rule.rule).collect::<std::collections::BTreeSet<_>>()
        == route.tighter.iter().collect();
    (!route.tighter.is_empty() && (route.open || !same)).then(|| allow(&route.tighter))
}

fn heading(report: &Report) -> String {
    let sums = &report.sums;
    format!(
        "{}: {} with least privilege ({}), {} unused, {} long-lived",
        counted(sums.active, "active token"),
        sums.least_privilege,
        percent(sums.least_privilege_ratio),
        sums.unused,
        sums.long_lived
    )
}

/// Of what, and since when, uses are counted.
fn counting(report: &Report) -> String {
    let window = days(Duration::from_secs(report.window_seconds));
    format!(
        "What was used in the last {window}; each counted since its first use, at the earliest since {}",
        report.since
    )
}

#[cfg(test)]
mod tests;
