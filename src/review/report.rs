//! The report of an access review: of each token who owns it, why, since when, until when, what it was used for, what to
//! tighten, and the tighter policy.
//!
//! ```text
//!  Facts (tokens, routes) + Books + window ─▶ Report ─▶ JSON ─▶ text, Markdown, HTML
//! ```
//!
//! It says what is known, and what nobody can know: which scopes a request needed is between the API and its issuer.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::book::{Book, Way};
use super::tighter::{Done, tighter};
use crate::access::risk;
use crate::audit::{AccessCounts, time_text};
use crate::name::{RouteName, TokenName};
use crate::token::source::Ghost;
use crate::usage::RuleMark;

/// What the running proxy knows of one token.
#[derive(PartialEq)]
pub struct Facts {
    pub name: TokenName,
    pub owner: String,
    pub reason: String,
    pub scopes: Vec<String>,
    pub state: &'static str,
    pub is_active: bool,
    pub source: &'static str,
    /// Whether its source finds what somebody else has made.
    pub is_static: bool,
    /// Since when the books know it.
    pub known_since: Duration,
    /// `None` of what is permanent.
    pub grant_ends: Option<Duration>,
    pub generation: Option<Life>,
    /// The longest that a generation should live.
    pub max_life: Duration,
    /// What its issuer lists and nobody here has, and how many there are besides.
    pub ghosts: (Vec<Ghost>, usize),
    pub routes: Vec<Reach>,
}

/// The live generation.
#[derive(Clone, Copy, PartialEq)]
pub struct Life {
    pub number: u64,
    pub issued: Duration,
    pub expires: Duration,
}

/// A route that carries the token.
#[derive(PartialEq)]
pub struct Reach {
    pub name: RouteName,
    /// The allow rules as they are in force; `None` where anything passes.
    pub allow: Option<Vec<String>>,
}

/// See the module.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Report {
    pub made: String,
    /// Since when uses are written down.
    pub since: String,
    /// What was used longer ago counts as not used.
    pub window_seconds: u64,
    pub sums: Sums,
    pub review: Standing,
    pub tokens: Vec<Entry>,
    /// How fast things went in the last weeks, as far as it is measured, the oldest first.
    pub figures: Vec<Figure>,
    /// How the active tokens stood at the end of each of the last weeks, the oldest first.
    pub trend: Vec<Trend>,
}

/// Of the tokens that are active.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, Debug)]
pub struct Sums {
    pub active: u64,
    pub least_privilege: u64,
    /// 1 where none is active: none asks for too much.
    pub least_privilege_ratio: f64,
    pub unused: u64,
    pub long_lived: u64,
}

/// [`Sums`], as the trail has them of one week.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Trend {
    /// Its Monday, in UTC: `2026-11-16`.
    pub week: String,
    #[serde(flatten)]
    pub sums: Sums,
}

/// Where the reviews stand.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, Debug)]
pub struct Standing {
    pub last: Option<Reviewed>,
    /// `None` without a schedule.
    pub due: Option<String>,
    pub overdue: bool,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Reviewed {
    pub time: String,
    pub by: String,
    pub reason: String,
}

/// A duration that is measured: how often in a week, and how long it was.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Figure {
    pub name: String,
    /// Its Monday, in UTC: `2026-11-16`.
    pub week: String,
    pub count: u32,
    pub mean_seconds: f64,
    pub worst_seconds: f64,
}

/// One token.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Entry {
    pub token: String,
    pub owner: String,
    pub reason: String,
    pub state: String,
    pub source: String,
    pub known_since: String,
    /// Since then.
    pub age_seconds: u64,
    pub grant_ends: Option<String>,
    pub generation: Option<Generation>,
    /// Of all that was used within the window, since it was used first.
    pub uses: u64,
    pub first_use: Option<String>,
    pub last_use: Option<String>,
    pub least_privilege: bool,
    pub findings: Vec<Finding>,
    pub scopes: Vec<Scope>,
    pub clients: Vec<Client>,
    pub routes: Vec<Route>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Generation {
    pub number: u64,
    pub issued: String,
    pub age_seconds: u64,
    pub expires: String,
}

/// Something to look at, and what to do about it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Finding {
    pub kind: Kind,
    pub what: String,
    pub fix: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    OpenRoute,
    UnusedRule,
    UnusedScope,
    UnneededScope,
    UnusedToken,
    LongLived,
    LongerThanNeeded,
    Ghosts,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Scope {
    pub scope: String,
    pub known: Known,
}

/// What can be said of a scope.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// Its token was not used at all.
    Unused,
    /// It writes, and there was nothing but GET and HEAD.
    Unneeded,
    /// Its token was used. For what it was needed a request does not tell.
    MayBeUsed,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Client {
    pub client: String,
    pub uses: u64,
    pub last_use: String,
}

/// What was done by one route.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Route {
    pub route: String,
    /// Whether anything passes.
    pub open: bool,
    pub rules: Vec<Rule>,
    pub uses: Vec<Used>,
    /// The list that lets pass what was used with success, and no more than now.
    pub tighter: Vec<String>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Rule {
    pub rule: String,
    pub uses: u64,
    pub last_use: Option<String>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Used {
    pub method: String,
    pub template: String,
    pub client: String,
    pub uses: u64,
    /// Of these, answered with something else than an error.
    pub ok: u64,
    /// Under which rule; it tells the rules of this report apart, and nothing else.
    #[serde(skip)]
    pub rule: Option<RuleMark>,
    pub last_use: String,
    pub last_success: Option<String>,
    /// Whether the tighter list lets it pass: it had success within the window.
    pub proposed: bool,
}

impl Entry {
    /// What it was used for within the window. The lists to paste are made by [`Entry::propose`].
    pub fn of(facts: &Facts, books: &BTreeMap<&RouteName, &Book>, now: Duration, window: Duration) -> Self {
        let since = now.saturating_sub(window).as_secs();
        let ways: BTreeMap<&RouteName, Vec<(String, &Way)>> = books
            .iter()
            .map(|(route, book)| (*route, book.ways().filter(|(_, way)| way.last >= since).collect()))
            .collect();
        let all = || ways.values().flatten().map(|(_, way)| *way);
        let routes: Vec<Route> = facts
            .routes
            .iter()
            .map(|reach| route(reach, ways.get(&reach.name).map_or(&[], Vec::as_slice), since))
            .collect();
        let scopes: Vec<Scope> =
            facts.scopes.iter().map(|scope| Scope { scope: scope.clone(), known: known(scope, all()) }).collect();
        let spans = books.values().map(|book| book.spans).max_by_key(|spans| spans.longest);
        let observed = days(window.min(now.saturating_sub(facts.known_since)));
        let mut findings = findings_of_use(&scopes, &routes, &observed);
        let least_privilege = findings.is_empty() && !routes.is_empty();
        let last = books.values().filter_map(|book| book.last()).max();
        findings.extend(unused(all().next().is_none(), last, &observed));
        findings.extend(long_lived(facts));
        findings.extend(ghosts(facts));
        findings.extend(spans.and_then(|spans| longer_than_needed(facts, spans.generations, spans.longest)));
        Self {
            token: facts.name.to_string(),
            owner: facts.owner.clone(),
            reason: facts.reason.clone(),
            state: facts.state.to_owned(),
            source: facts.source.to_owned(),
            known_since: time_text(facts.known_since),
            age_seconds: now.saturating_sub(facts.known_since).as_secs(),
            grant_ends: facts.grant_ends.map(time_text),
            generation: facts.generation.map(|life| Generation {
                number: life.number,
                issued: time_text(life.issued),
                age_seconds: now.saturating_sub(life.issued).as_secs(),
                expires: time_text(life.expires),
            }),
            uses: all().map(|way| way.uses).sum(),
            first_use: all().map(|way| way.first).min().map(seconds),
            last_use: last.map(seconds),
            least_privilege,
            findings,
            scopes,
            clients: clients(all()),
            routes,
        }
    }

    /// Adds the list to paste to each route.
    #[must_use]
    pub fn propose(mut self, facts: &Facts) -> Self {
        for (route, reach) in self.routes.iter_mut().zip(&facts.routes) {
            let proposed = route.uses.iter().filter(|used| used.proposed);
            let done = proposed.map(|used| Done { method: &used.method, template: &used.template, rule: used.rule });
            route.tighter = tighter(reach.allow.as_deref(), done);
        }
        self
    }

    pub fn has(&self, kind: Kind) -> bool {
        self.findings.iter().any(|finding| finding.kind == kind)
    }
}

impl Sums {
    /// Of those that are active.
    pub fn of<'a>(active: impl Iterator<Item = &'a Entry> + Clone) -> Self {
        let count = |of: fn(&Entry) -> bool| active.clone().filter(|entry| of(entry)).count() as u64;
        Self::from(AccessCounts {
            active: count(|_| true),
            least_privilege: count(|entry| entry.least_privilege),
            unused: count(|entry| entry.has(Kind::UnusedToken)),
            long_lived: count(|entry| entry.has(Kind::LongLived)),
        })
    }

    /// As the trail has them.
    pub fn counts(&self) -> AccessCounts {
        let Self { active, least_privilege, unused, long_lived, .. } = *self;
        AccessCounts { active, least_privilege, unused, long_lived }
    }
}

impl From<AccessCounts> for Sums {
    fn from(AccessCounts { active, least_privilege, unused, long_lived }: AccessCounts) -> Self {
        let least_privilege_ratio = if active == 0 { 1.0 } else { least_privilege as f64 / active as f64 };
        Self { active, least_privilege, least_privilege_ratio, unused, long_lived }
    }
}

/// `since` is the start of the window.
fn route(reach: &Reach, ways: &[(String, &Way)], since: u64) -> Route {
    let rule = |text: &String| {
        let mark = Some(RuleMark::of(text));
        let under = || ways.iter().filter(|(_, way)| way.rule == mark);
        Rule {
            rule: text.clone(),
            uses: under().map(|(_, way)| way.uses).sum(),
            last_use: under().map(|(_, way)| way.last).max().map(seconds),
        }
    };
    let mut uses: Vec<Used> = ways
        .iter()
        .map(|(template, way)| Used {
            method: way.method.clone(),
            template: template.clone(),
            client: way.client.to_string(),
            uses: way.uses,
            ok: way.ok,
            rule: way.rule,
            last_use: seconds(way.last),
            last_success: way.last_ok.map(seconds),
            proposed: way.last_ok.is_some_and(|at| at >= since),
        })
        .collect();
    uses.sort_by(|one, other| other.uses.cmp(&one.uses).then_with(|| one.template.cmp(&other.template)));
    Route {
        route: reach.name.to_string(),
        open: reach.allow.is_none(),
        rules: reach.allow.iter().flatten().map(rule).collect(),
        uses,
        tighter: Vec::new(),
    }
}

fn clients<'a>(ways: impl Iterator<Item = &'a Way>) -> Vec<Client> {
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for way in ways {
        let (uses, last) = sums.entry(way.client.as_str()).or_default();
        (*uses, *last) = (*uses + way.uses, (*last).max(way.last));
    }
    let client = |(client, (uses, last)): (&str, (u64, u64))| Client {
        client: client.to_owned(),
        uses,
        last_use: seconds(last),
    };
    sums.into_iter().map(client).collect()
}

fn known<'a>(scope: &str, mut ways: impl Iterator<Item = &'a Way>) -> Known {
    let reads = |way: &Way| matches!(way.method.as_str(), "GET" | "HEAD");
    match ways.next() {
        None => Known::Unused,
        Some(first) if risk::writes(scope) && reads(first) && ways.all(reads) => Known::Unneeded,
        Some(_) => Known::MayBeUsed,
    }
}

/// What keeps a token from having the least privilege, by what was observed for so long.
fn findings_of_use(scopes: &[Scope], routes: &[Route], observed: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |kind, what: String, fix: &str| findings.push(Finding { kind, what, fix: fix.to_owned() });
    for route in routes {
        if route.open {
            let what = format!("route {} lets anything pass", route.route);
            find(Kind::OpenRoute, what, "give it the list of `allow` that is shown below");
        }
        for rule in route.rules.iter().filter(|rule| rule.uses == 0) {
            let what = format!("route {}: nothing needed the rule {:?} for {observed}", route.route, rule.rule);
            find(Kind::UnusedRule, what, "remove it from `allow`");
        }
    }
    for Scope { scope, known } in scopes {
        match known {
            Known::Unused => find(
                Kind::UnusedScope,
                format!("the scope {scope:?} was not used for {observed}: neither was the token"),
                "remove the token, or the scope",
            ),
            Known::Unneeded => find(
                Kind::UnneededScope,
                format!("the scope {scope:?} writes, and for {observed} there was nothing but reading"),
                "ask for a scope that reads",
            ),
            Known::MayBeUsed => {}
        }
    }
    findings
}

fn unused(is_unused: bool, last: Option<u64>, observed: &str) -> Option<Finding> {
    let what = match last {
        Some(last) => format!("not used for {observed}: the last time was {}", seconds(last)),
        None => format!("not used since it is known, for {observed}"),
    };
    let fix = "retire it, or say in `reason` what it waits for".to_owned();
    is_unused.then_some(Finding { kind: Kind::UnusedToken, what, fix })
}

fn long_lived(facts: &Facts) -> Option<Finding> {
    let life = facts.generation.map(|life| life.expires.saturating_sub(life.issued));
    let what = match life {
        // A value whose end nobody tells lasts as long as its grant.
        Some(life) if life > facts.max_life => {
            format!("its generation lives {}, which is longer than {}", days(life), days(facts.max_life))
        }
        None if facts.is_static => format!("its source ({}) gives values that do not end by themselves", facts.source),
        Some(_) | None => return None,
    };
    let fix = "move it to a source that issues short-lived tokens".to_owned();
    Some(Finding { kind: Kind::LongLived, what, fix })
}

fn ghosts(facts: &Facts) -> Option<Finding> {
    let (told, others) = &facts.ghosts;
    let count = told.len() + others;
    if count == 0 {
        return None;
    }
    let time = |word: &str, time: Option<Duration>| time.map(|time| format!("{word} {}", time_text(time)));
    let one = |ghost: &Ghost| {
        let times: Vec<String> = time("issued", ghost.issued).into_iter().chain(time("until", ghost.expires)).collect();
        if times.is_empty() { ghost.id.clone() } else { format!("{} ({})", ghost.id, times.join(", ")) }
    };
    let mut listed: Vec<String> = told.iter().take(GHOSTS_SHOWN).map(one).collect();
    if count > listed.len() {
        listed.push(format!("{} more", count - listed.len()));
    }
    let what = format!("its issuer lists {count} that nobody here has: {}", listed.join("; "));
    let fix = "find out whose they are, and have their issuer void them".to_owned();
    Some(Finding { kind: Kind::Ghosts, what, fix })
}

/// Ghosts that a report names.
const GHOSTS_SHOWN: usize = 10;

/// How many generations must have been seen before their use says something of the next ones.
const ENOUGH_GENERATIONS: u64 = 3;

/// Generations whose use takes so small a part of their life could be shorter.
const SMALL_PART: u32 = 4;

fn longer_than_needed(facts: &Facts, generations: u64, longest: u64) -> Option<Finding> {
    let life = facts.generation.map(|life| life.expires.saturating_sub(life.issued))?;
    let longest = Duration::from_secs(longest);
    let is_small = generations >= ENOUGH_GENERATIONS && longest.saturating_mul(SMALL_PART) < life && !facts.is_static;
    is_small.then(|| Finding {
        kind: Kind::LongerThanNeeded,
        what: format!("its generations live {}, and none was used for longer than {}", days(life), days(longest)),
        fix: "ask its issuer for a shorter life, or give `rotation` a smaller `max_life`".to_owned(),
    })
}

fn seconds(since_epoch: u64) -> String {
    time_text(Duration::from_secs(since_epoch))
}

/// About how long that is.
pub fn days(length: Duration) -> String {
    let seconds = length.as_secs();
    let (count, unit) = match seconds {
        172_800.. => (seconds / 86_400, "days"),
        7200.. => (seconds / 3600, "hours"),
        120.. => (seconds / 60, "minutes"),
        _ => (seconds, "seconds"),
    };
    format!("{count} {unit}")
}

#[cfg(test)]
mod tests;
