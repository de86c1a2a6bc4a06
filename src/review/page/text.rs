//! For a terminal.

use std::fmt::Write as _;

use super::{
    counted, counting, grant_end, heading, known_since, live, measured, or_never, proposal, review, stood, words,
};
use crate::review::report::{Entry, Report, Route};

/// The report as plain text.
pub fn text(report: &Report) -> String {
    let mut page = format!("Access review, {}\n{}\n", report.made, heading(report));
    say(&mut page, &counting(report));
    say(&mut page, &format!("Reviews: {}", review(&report.review)));
    for figure in &report.figures {
        say(&mut page, &format!("Week of {}, {}: {}", figure.week, figure.name, measured(figure)));
    }
    for trend in &report.trend {
        let [active, least, unused, long_lived] = stood(trend);
        let said = format!("{active} active, {least} with least privilege, {unused} unused, {long_lived} long-lived");
        say(&mut page, &format!("Week of {}, tokens: {said}", trend.week));
    }
    report.tokens.iter().for_each(|entry| token(&mut page, entry));
    page
}

fn token(page: &mut String, entry: &Entry) {
    let mark = if entry.least_privilege { "least privilege" } else { "more than is needed" };
    say(page, &format!("\n{} ({}, {mark})", entry.token, entry.state));
    let mut line = |name: &str, value: &str| say(page, &format!("  {:<14}{value}", format!("{name}:")));
    line("owner", &entry.owner);
    line("reason", &entry.reason);
    line("source", &entry.source);
    line("known since", &known_since(entry));
    line("grant ends", grant_end(entry));
    line("generation", &live(entry));
    line("first use", or_never(entry.first_use.as_ref()));
    line("last use", or_never(entry.last_use.as_ref()));
    for scope in &entry.scopes {
        line("scope", &format!("{}: {}", scope.scope, words(scope.known)));
    }
    for client in &entry.clients {
        line("client", &format!("{}: {}, the last {}", client.client, counted(client.uses, "use"), client.last_use));
    }
    for finding in &entry.findings {
        line("to do", &format!("{}: {}", finding.what, finding.fix));
    }
    entry.routes.iter().for_each(|each| route(page, each));
}

fn route(page: &mut String, route: &Route) {
    say(page, &format!("  route {}{}", route.route, if route.open { " (anything passes)" } else { "" }));
    for rule in &route.rules {
        say(
            page,
            &format!(
                "    rule {}: {}, the last {}",
                rule.rule,
                counted(rule.uses, "use"),
                or_never(rule.last_use.as_ref())
            ),
        );
    }
    for used in &route.uses {
        let failed = match &used.last_success {
            Some(_) if used.proposed => String::new(),
            Some(last) => format!(", the last success {last}"),
            None => ", none with success".to_owned(),
        };
        let line = format!("{:>10}  {} {} by {}{failed}", used.uses, used.method, used.template, used.client);
        say(page, &format!("    {line}"));
    }
    if let Some(proposal) = proposal(route) {
        say(page, "    tighter, ready to paste:");
        proposal.lines().for_each(|line| say(page, &format!("      {line}")));
    }
}

/// A line. What controls a terminal does not get there.
fn say(page: &mut String, line: &str) {
    let shown = line.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c });
    let shown: String = shown.collect();
    // Writing to a string does not fail.
    let _ = writeln!(page, "{shown}");
}
