use super::super::book::Spans;
use super::*;
use crate::name::ClientName;
use crate::usage::Use;

const DAY: Duration = Duration::from_secs(86_400);
const NOW: Duration = Duration::from_secs(1_800_000_000);
const WINDOW: Duration = Duration::from_secs(30 * 86_400);

fn facts() -> Facts {
    Facts {
        name: "github".parse().expect("a name"),
        owner: "team@example.com".into(),
        reason: "reads issues".into(),
        scopes: vec!["issues:read".into()],
        state: "active",
        is_active: true,
        source: "client_credentials",
        is_static: false,
        known_since: NOW - 40 * DAY,
        grant_ends: Some(NOW + 100 * DAY),
        generation: Some(Life { number: 3, issued: NOW, expires: NOW + Duration::from_secs(3600) }),
        max_life: Duration::from_secs(3600),
        ghosts: Default::default(),
        routes: vec![Reach {
            name: "api".parse().expect("a name"),
            allow: Some(vec!["GET /repos/**".into(), "POST /repos/*/*/issues".into()]),
        }],
    }
}

/// A use so many days ago: method, path, rule, outcome.
type Seen<'a> = (u32, &'a str, &'a str, Option<&'a str>, &'static str);

fn books(uses: &[Seen<'_>]) -> BTreeMap<RouteName, Book> {
    let (token, route, client): (TokenName, RouteName, ClientName) =
        ("github".parse().expect("a name"), "api".parse().expect("a name"), ClientName::implicit());
    let mut book = Book::default();
    for (ago, method, path, rule, outcome) in uses {
        let methods = ["GET", "HEAD", "POST", "DELETE"];
        book.note(&Use {
            at: NOW - *ago * DAY,
            route_token: None,
            shadowed: false,
            token: Some(&token),
            generation: Some(1),
            client: &client,
            route: &route,
            host: "api.example.com",
            method: methods.into_iter().find(|known| known == method).expect("a method"),
            path,
            rule: rule.map(RuleMark::of),
            status: 200,
            outcome,
            reason: None,
            request_bytes: 0,
            response_bytes: 0,
            fresh: [0; 2],
            duration: Duration::ZERO,
            complete: true,
            is_over: true,
        });
    }
    BTreeMap::from([(route, book)])
}

fn entry(facts: &Facts, uses: &[Seen<'_>]) -> Entry {
    judged(facts, &books(uses))
}

fn judged(facts: &Facts, books: &BTreeMap<RouteName, Book>) -> Entry {
    Entry::of(facts, &books.iter().collect(), NOW, WINDOW).propose(facts)
}

fn kinds(entry: &Entry) -> Vec<Kind> {
    entry.findings.iter().map(|finding| finding.kind).collect()
}

const READ: Seen<'static> = (1, "GET", "/repos/a/b", Some("GET /repos/**"), "ok");
const WRITE: Seen<'static> = (2, "POST", "/repos/a/b/issues", Some("POST /repos/*/*/issues"), "ok");

#[test]
fn a_token_that_uses_all_that_it_may_has_the_least_privilege() {
    let entry = entry(&facts(), &[READ, WRITE]);
    assert_eq!((kinds(&entry), entry.least_privilege, entry.uses), (vec![], true, 2));
    assert_eq!(entry.last_use, Some(time_text(NOW - DAY)));
    assert_eq!(entry.clients.len(), 1);
    assert_eq!(entry.scopes[0].known, Known::MayBeUsed, "nobody knows from a request");
    let route = &entry.routes[0];
    assert_eq!(route.tighter, ["GET /repos/a/b", "POST /repos/a/b/issues"]);
    assert_eq!(route.rules.iter().map(|rule| rule.uses).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn what_was_not_used_in_the_window_is_told() {
    let late = (31, WRITE.1, WRITE.2, WRITE.3, WRITE.4);
    let found = entry(&facts(), &[READ, late]);
    assert_eq!((kinds(&found), found.least_privilege), (vec![Kind::UnusedRule], false));
    assert!(found.findings[0].what.contains("POST /repos/*/*/issues"), "{:?}", found.findings);
    assert_eq!(found.routes[0].tighter, ["GET /repos/a/b"]);
    let unused = entry(&facts(), &[(31, READ.1, READ.2, READ.3, READ.4)]);
    let expected = [Kind::UnusedRule, Kind::UnusedRule, Kind::UnusedScope, Kind::UnusedToken];
    assert_eq!(kinds(&unused), expected);
    assert_eq!(unused.last_use, Some(time_text(NOW - 31 * DAY)), "the last use is known all the same");
    let never = entry(&facts(), &[]);
    assert!(never.has(Kind::UnusedToken) && never.last_use.is_none());
}

#[test]
fn a_route_that_lets_anything_pass_and_a_scope_that_writes_in_vain_are_told() {
    let mut open = facts();
    open.routes[0].allow = None;
    open.scopes.push("issues:write".into());
    let reading = entry(&open, &[(1, "GET", "/repos/17", None, "ok"), (1, "HEAD", "/repos/18", None, "ok")]);
    assert_eq!(kinds(&reading), [Kind::OpenRoute, Kind::UnneededScope]);
    assert_eq!(reading.routes[0].tighter, ["GET /repos/*"]);
    let writing = entry(&open, &[(1, "GET", "/repos/17", None, "ok"), (1, "DELETE", "/repos/18", None, "ok")]);
    assert_eq!(kinds(&writing), [Kind::OpenRoute]);
}

#[test]
fn what_never_had_success_is_shown_and_not_proposed() {
    let probed = (1, "GET", "/admin", None, "forbidden");
    let mut open = facts();
    open.routes[0].allow = None;
    let entry = entry(&open, &[probed, (1, "GET", "/a", None, "ok")]);
    assert_eq!((entry.routes[0].uses.len(), &*entry.routes[0].tighter), (2, &["GET /a".to_owned()][..]));
}

#[test]
fn what_had_its_last_success_before_the_window_is_not_proposed() {
    let mut open = facts();
    open.routes[0].allow = None;
    let gone = [(31, "GET", "/gone", None, "ok"), (1, "GET", "/gone", None, "client_error")];
    let entry = entry(&open, &[gone[0], gone[1], (1, "GET", "/a", None, "ok")]);
    let route = &entry.routes[0];
    assert_eq!(route.tighter, ["GET /a"]);
    let gone = route.uses.iter().find(|used| used.template == "/gone").expect("it is shown");
    assert_eq!((gone.uses, gone.ok, gone.proposed), (2, 1, false));
    assert_eq!(gone.last_success, Some(time_text(NOW - 31 * DAY)));
}

#[test]
fn a_generation_that_lives_for_long_is_told() {
    let year = |facts: &mut Facts| facts.generation.as_mut().expect("one").expires = NOW + 365 * DAY;
    let mut file = Facts { source: "file", is_static: true, ..facts() };
    assert!(!entry(&file, &[READ, WRITE]).has(Kind::LongLived), "somebody else rotates it well");
    year(&mut file);
    let found = entry(&file, &[READ, WRITE]);
    assert_eq!((kinds(&found), found.least_privilege), (vec![Kind::LongLived], true));
    file.generation = None;
    assert!(entry(&file, &[]).has(Kind::LongLived));
    assert!(!entry(&Facts { generation: None, ..facts() }, &[]).has(Kind::LongLived));
}

#[test]
fn generations_that_are_hardly_used_could_be_shorter() {
    let mut books = books(&[READ, WRITE]);
    for book in books.values_mut() {
        book.spans = Spans::seen(4, 300);
    }
    let found = judged(&facts(), &books);
    assert_eq!(kinds(&found), [Kind::LongerThanNeeded]);
    assert!(found.findings[0].what.contains("1 hours") || found.findings[0].what.contains("60 minutes"));
    for book in books.values_mut() {
        book.spans = Spans::seen(4, 1000);
    }
    assert_eq!(kinds(&judged(&facts(), &books)), []);
}

#[test]
fn sums_are_of_tokens_as_they_are_found() {
    let (good, bad) = (entry(&facts(), &[READ, WRITE]), entry(&facts(), &[]));
    let sums = Sums::of([&good, &bad].into_iter());
    assert_eq!((sums.active, sums.least_privilege, sums.least_privilege_ratio, sums.unused), (2, 1, 0.5, 1));
    assert_eq!(Sums::of([].into_iter()).least_privilege_ratio, 1.0);
}
