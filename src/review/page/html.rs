//! For a browser: one page that needs nothing else, and runs nothing.

use super::{
    TREND, counting, grant_end, heading, known_since, live, measured, or_never, percent, proposal, review, stood,
    with_week, words,
};
use crate::review::report::{Entry, Figure, Report, Route, Trend};

/// The report as an HTML page.
pub fn html(report: &Report) -> String {
    let sums = &report.sums;
    let tiles = [
        (if sums.active == 1 { "active token" } else { "active tokens" }, sums.active.to_string(), false),
        ("with least privilege", percent(sums.least_privilege_ratio), sums.least_privilege < sums.active),
        ("unused", sums.unused.to_string(), sums.unused > 0),
        ("long-lived", sums.long_lived.to_string(), sums.long_lived > 0),
    ];
    let tile = |(name, value, bad): &(&str, String, bool)| {
        let class = if *bad { "tile bad" } else { "tile" };
        format!("<div class=\"{class}\"><b>{}</b><span>{name}</span></div>", escape(value))
    };
    let class = if report.review.overdue { " class=\"bad\"" } else { "" };
    let body = [
        "<header><h1>Access review</h1>".to_owned(),
        format!("<p>{} · {}</p></header>", escape(&report.made), escape(&counting(report))),
        format!("<section class=\"tiles\" aria-label=\"{}\">", escape(&heading(report))),
        tiles.iter().map(tile).collect(),
        format!("</section><p{class}>Reviews: {}</p>", escape(&review(&report.review))),
        figures(report),
        trend(report),
        report.tokens.iter().map(token).collect(),
    ];
    format!("{HEAD}{}</main></body></html>\n", body.join("\n"))
}

fn figures(report: &Report) -> String {
    let row = |figure: &Figure| [escape(&figure.week), escape(&figure.name), escape(&measured(figure))];
    table("How fast things went", ["week of", "figure", "measured"], report.figures.iter().map(row))
}

fn trend(report: &Report) -> String {
    let row = |trend: &Trend| with_week(&trend.week, stood(trend)).map(|cell| escape(&cell));
    table("How tokens stood", TREND, report.trend.iter().map(row))
}

fn token(entry: &Entry) -> String {
    let (class, mark) =
        if entry.least_privilege { ("good", "least privilege") } else { ("bad", "more than is needed") };
    let facts = [
        ("owner", escape(&entry.owner)),
        ("reason", escape(&entry.reason)),
        ("source", escape(&entry.source)),
        ("known since", escape(&known_since(entry))),
        ("grant ends", escape(grant_end(entry))),
        ("generation", escape(&live(entry))),
        ("uses", entry.uses.to_string()),
        ("first use", escape(or_never(entry.first_use.as_ref()))),
        ("last use", escape(or_never(entry.last_use.as_ref()))),
    ];
    let facts = facts.into_iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{value}</dd>"));
    let findings = entry
        .findings
        .iter()
        .map(|finding| format!("<li>{}<br><em>{}</em></li>", escape(&finding.what), escape(&finding.fix)));
    let scopes = entry.scopes.iter().map(|scope| [code(&scope.scope), words(scope.known).to_owned()]);
    let clients = entry.clients.iter();
    let clients = clients.map(|client| [code(&client.client), client.uses.to_string(), escape(&client.last_use)]);
    let findings: String = findings.collect();
    [
        format!(
            "<article><h2>{} <small>{}</small> <mark class=\"{class}\">{mark}</mark></h2>",
            escape(&entry.token),
            escape(&entry.state)
        ),
        format!("<dl>{}</dl>", facts.collect::<String>()),
        if findings.is_empty() { String::new() } else { format!("<h3>To do</h3><ul>{findings}</ul>") },
        table("Scopes", ["scope", "what is known"], scopes),
        table("Clients", ["client", "uses", "last use"], clients),
        entry.routes.iter().map(route).collect(),
        "</article>".to_owned(),
    ]
    .concat()
}

fn route(route: &Route) -> String {
    let open = if route.open { " <mark class=\"bad\">anything passes</mark>" } else { "" };
    let rules = route.rules.iter();
    let rules = rules.map(|rule| [code(&rule.rule), rule.uses.to_string(), escape(or_never(rule.last_use.as_ref()))]);
    let uses = route.uses.iter().map(|used| {
        let what = code(&format!("{} {}", used.method, used.template));
        let last_success = escape(or_never(used.last_success.as_ref()));
        let (uses, ok) = (used.uses.to_string(), used.ok.to_string());
        [what, code(&used.client), uses, ok, escape(&used.last_use), last_success]
    });
    let proposal = proposal(route);
    let proposal = proposal.map(|list| format!("<h4>Tighter, ready to paste</h4><pre>{}</pre>", escape(&list)));
    [
        format!("<h3>Route {}{open}</h3>", escape(&route.route)),
        table("", ["allow", "uses", "last use"], rules),
        table("", ["used", "client", "uses", "with success", "last use", "last success"], uses),
        proposal.unwrap_or_default(),
    ]
    .concat()
}

/// A table of cells that are HTML; nothing without rows.
fn table<const N: usize>(title: &str, head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let row = |row: [String; N]| format!("<tr>{}</tr>", row.map(|cell| format!("<td>{cell}</td>")).concat());
    let rows: String = rows.map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let title = if title.is_empty() { String::new() } else { format!("<h3>{title}</h3>") };
    let head = head.map(|cell| format!("<th scope=\"col\">{cell}</th>")).concat();
    format!("{title}<div class=\"scroll\"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>")
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", escape(text))
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() && c != '\n' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Access review</title><style>
:root{color-scheme:light dark;--line:#8884;--soft:#8881;--bad:#b3261e;--good:#1b7f4b}
@media(prefers-color-scheme:dark){:root{--bad:#ff8a80;--good:#7bd8a4}}
body{margin:0;font:16px/1.5 system-ui,sans-serif}
main{max-width:60rem;margin:0 auto;padding:2rem 1rem 4rem}
h1{margin:0}header p{margin:.2rem 0 1.5rem;opacity:.75}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(10rem,1fr));gap:.75rem;margin-bottom:1rem}
.tile{border:1px solid var(--line);border-radius:.6rem;padding:.8rem 1rem}
.tile b{display:block;font-size:1.8rem;line-height:1.2}.tile span{opacity:.75}
.bad,.tile.bad b{color:var(--bad)}.good{color:var(--good)}
article{border:1px solid var(--line);border-radius:.8rem;padding:1rem 1.25rem;margin-top:1.5rem}
h2{margin:0 0 .5rem;font-size:1.3rem}h2 small{font-weight:400;opacity:.7;font-size:.9rem}
h3{margin:1.2rem 0 .4rem;font-size:1rem}h4{margin:.8rem 0 .3rem;font-size:.9rem}
mark{background:none;font-size:.8rem;border:1px solid currentcolor;border-radius:1rem;padding:.1rem .6rem;vertical-align:middle}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.2rem;margin:0}dt{opacity:.7}dd{margin:0;overflow-wrap:anywhere}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem;margin-bottom:.5rem}
th,td{text-align:left;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;opacity:.7}ul{margin:0;padding-left:1.2rem}em{opacity:.75}
code,pre{font:.88em ui-monospace,monospace}pre{background:var(--soft);border-radius:.5rem;padding:.8rem;overflow-x:auto;margin:.3rem 0}
@media print{article{break-inside:avoid}}
</style></head><body><main>
"#;
