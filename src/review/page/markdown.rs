//! For an issue or a page of a wiki.

use super::{
    TREND, counted, counting, grant_end, heading, known_since, live, measured, or_never, proposal, review, stood,
    with_week, words,
};
use crate::review::report::{Entry, Report, Route};

/// The report as Markdown.
pub fn markdown(report: &Report) -> String {
    let mut page = vec![
        format!("# Access review, {}", report.made),
        heading(report),
        format!("{}.", counting(report)),
        format!("Reviews: {}", code(&review(&report.review))),
    ];
    if !report.figures.is_empty() {
        page.push("## How fast things went".to_owned());
        let figures = report.figures.iter();
        let figures = figures.map(|figure| [figure.week.clone(), code(&figure.name), measured(figure)]);
        page.push(table(["week of", "figure", "measured"], figures));
    }
    if !report.trend.is_empty() {
        page.push("## How tokens stood".to_owned());
        let rows = report.trend.iter().map(|trend| with_week(&trend.week, stood(trend)));
        page.push(table(TREND, rows));
    }
    report.tokens.iter().for_each(|entry| token(&mut page, entry));
    page.join("\n\n") + "\n"
}

fn token(page: &mut Vec<String>, entry: &Entry) {
    let mark = if entry.least_privilege { "least privilege" } else { "more than is needed" };
    page.push(format!("## {} ({}, {mark})", entry.token, entry.state));
    let mut rows = vec![
        ["owner".to_owned(), code(&entry.owner)],
        ["reason".to_owned(), code(&entry.reason)],
        ["source".to_owned(), code(&entry.source)],
        ["known since".to_owned(), known_since(entry)],
        ["grant ends".to_owned(), grant_end(entry).to_owned()],
        ["generation".to_owned(), live(entry)],
        ["first use".to_owned(), or_never(entry.first_use.as_ref()).to_owned()],
        ["last use".to_owned(), or_never(entry.last_use.as_ref()).to_owned()],
    ];
    let scopes =
        entry.scopes.iter().map(|scope| ["scope".to_owned(), format!("{} {}", code(&scope.scope), words(scope.known))]);
    rows.extend(scopes);
    let client = |client: &crate::review::report::Client| {
        [
            "client".to_owned(),
            format!("{} {}, the last {}", code(&client.client), counted(client.uses, "use"), client.last_use),
        ]
    };
    rows.extend(entry.clients.iter().map(client));
    page.push(table(["", ""], rows.into_iter()));
    if !entry.findings.is_empty() {
        let lines = entry.findings.iter().map(|finding| format!("- {} → {}", code(&finding.what), code(&finding.fix)));
        page.push(lines.collect::<Vec<_>>().join("\n"));
    }
    entry.routes.iter().for_each(|each| route(page, each));
}

fn route(page: &mut Vec<String>, route: &Route) {
    page.push(format!("### Route {}{}", route.route, if route.open { " (anything passes)" } else { "" }));
    if !route.rules.is_empty() {
        let rows = route.rules.iter();
        let rows =
            rows.map(|rule| [code(&rule.rule), rule.uses.to_string(), or_never(rule.last_use.as_ref()).to_owned()]);
        page.push(table(["allow", "uses", "last use"], rows));
    }
    if !route.uses.is_empty() {
        let rows = route.uses.iter().map(|used| {
            let what = code(&format!("{} {}", used.method, used.template));
            let last_success = or_never(used.last_success.as_ref()).to_owned();
            let (uses, ok) = (used.uses.to_string(), used.ok.to_string());
            [what, code(&used.client), uses, ok, used.last_use.clone(), last_success]
        });
        page.push(table(["used", "client", "uses", "with success", "last use", "last success"], rows));
    }
    if let Some(proposal) = proposal(route) {
        page.push(format!("Tighter, ready to paste:\n\n```toml\n{proposal}\n```"));
    }
}

fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let line = |cells: &[String; N]| format!("| {} |", cells.join(" | "));
    let head = [line(&head.map(str::to_owned)), format!("|{}", "---|".repeat(N))];
    head.into_iter().chain(rows.map(|row| line(&row))).collect::<Vec<_>>().join("\n")
}

/// A text from outside, so that nothing in it is taken for Markdown: no line, no cell and no code ends early.
fn code(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("`{}`", plain.replace('`', "'").replace('|', "¦"))
}
