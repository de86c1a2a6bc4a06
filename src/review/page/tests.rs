use super::super::report::{Client, Finding, Kind, Reviewed, Route, Rule, Scope, Sums, Trend, Used};
use super::*;

const NASTY: &str = "</pre><script>alert(1)</script>`|\n\u{1b}[31m";

fn report(reason: &str) -> Report {
    let time = "2026-11-22T10:00:00.000Z".to_owned();
    let used = |method: &str, template: &str, ok| Used {
        method: method.into(),
        template: template.into(),
        client: "billing".into(),
        uses: 7,
        ok,
        rule: None,
        last_use: time.clone(),
        last_success: (ok > 0).then(|| time.clone()),
        proposed: ok > 0,
    };
    let entry = Entry {
        token: "github".into(),
        owner: "team@example.com".into(),
        reason: reason.into(),
        state: "active".into(),
        source: "client_credentials".into(),
        known_since: "2026-11-01T10:00:00.000Z".into(),
        age_seconds: 21 * 86_400,
        grant_ends: None,
        generation: Some(Generation {
            number: 3,
            issued: "2026-11-22T09:40:00.000Z".into(),
            age_seconds: 1200,
            expires: "2026-11-22T10:40:00.000Z".into(),
        }),
        uses: 14,
        first_use: Some("2026-11-02T10:00:00.000Z".into()),
        last_use: Some(time.clone()),
        least_privilege: false,
        findings: vec![Finding {
            kind: Kind::OpenRoute,
            what: "route api lets anything pass".into(),
            fix: "tighten".into(),
        }],
        scopes: vec![Scope { scope: "issues:read".into(), known: Known::MayBeUsed }],
        clients: vec![Client { client: "billing".into(), uses: 14, last_use: time.clone() }],
        routes: vec![
            Route {
                route: "api".into(),
                open: true,
                rules: Vec::new(),
                uses: vec![used("GET", "/repos/*", 7), used("GET", reason, 0)],
                tighter: vec!["GET /repos/*".into()],
            },
            Route {
                route: "tight".into(),
                open: false,
                rules: vec![Rule { rule: "GET /a".into(), uses: 1, last_use: None }],
                uses: Vec::new(),
                tighter: vec!["GET /a".into()],
            },
        ],
    };
    let sums = Sums { active: 1, least_privilege: 0, least_privilege_ratio: 0.0, unused: 0, long_lived: 0 };
    let last = Reviewed { time: time.clone(), by: "alice".into(), reason: reason.into() };
    let figure = Figure {
        name: "time_to_replace".into(),
        week: "2026-11-16".into(),
        count: 2,
        mean_seconds: 0.5,
        worst_seconds: 0.75,
    };
    Report {
        made: time.clone(),
        since: time.clone(),
        window_seconds: 30 * 86_400,
        sums,
        review: Standing { last: Some(last), due: Some(time), overdue: true },
        tokens: vec![entry],
        figures: vec![figure],
        trend: vec![Trend {
            week: "2026-11-09".into(),
            sums: Sums { active: 4, least_privilege: 3, least_privilege_ratio: 0.75, unused: 7, long_lived: 9 },
        }],
    }
}

#[test]
fn each_form_tells_who_owns_it_what_was_used_and_the_list_to_paste() {
    let report = report("reads issues");
    for page in [text(&report), markdown(&report), html(&report)] {
        for said in [
            "team@example.com",
            "reads issues",
            "GET /repos/*",
            "billing",
            "OVERDUE",
            "30 days",
            "2026-11-16",
            "0.500 s",
            "0.750 s at worst",
            "2026-11-09",
            "75 % of 4",
        ] {
            assert!(page.contains(said), "{said} in {page}");
        }
        assert_eq!(page.matches("ready to paste").count(), 1, "nothing is proposed where nothing changes");
    }
}

#[test]
fn each_form_tells_how_old_a_token_and_its_live_generation_are() {
    let mut report = report("reads issues");
    for page in [text(&report), markdown(&report), html(&report)] {
        for said in [
            "2026-11-01T10:00:00.000Z, for 21 days",
            "3, from 2026-11-22T09:40:00.000Z, for 20 minutes, to 2026-11-22T10:40:00.000Z",
            "first use",
            "2026-11-02T10:00:00.000Z",
        ] {
            assert!(page.contains(said), "{said} in {page}");
        }
    }
    report.tokens[0].generation = None;
    report.tokens[0].first_use = None;
    let page = text(&report);
    assert!(page.contains("generation:   none is live") && page.contains("first use:    never"), "{page}");
}

#[test]
fn the_proposed_list_is_toml() {
    let report = report("reads issues");
    let page = markdown(&report);
    let (_, rest) = page.split_once("```toml\n").expect("a block");
    let (block, _) = rest.split_once("```").expect("its end");
    let (table, errors) = toml::de::DeTable::parse_recoverable(block);
    assert_eq!(errors.len(), 0, "{block}");
    let list = table.get_ref().get("allow").and_then(|list| list.get_ref().as_array()).map(|list| list.iter().count());
    assert_eq!(list, Some(1));
}

#[test]
fn what_stands_in_a_report_does_not_get_out_of_its_place() {
    let report = report(NASTY);
    let page = html(&report);
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;"), "{page}");
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="), "nothing is loaded");
    let page = markdown(&report);
    let lines: Vec<&str> = page.lines().filter(|line| line.contains("script")).collect();
    assert!(lines.iter().all(|line| line.contains("<script>alert(1)</script>'¦ ")), "{lines:?}");
    assert!(!text(&report).contains('\u{1b}'));
}

#[test]
fn tags_of_the_page_are_closed() {
    let page = html(&report("reads issues"));
    for tag in [
        "table", "tr", "td", "th", "article", "section", "dl", "dt", "dd", "ul", "li", "pre", "div", "main", "body",
        "html",
    ] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn a_report_is_read_as_it_was_written() {
    let report = report(NASTY);
    let json = serde_json::to_string(&report).expect("JSON");
    assert_eq!(serde_json::from_str::<Report>(&json).expect("what was written"), report);
}
