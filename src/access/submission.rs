//! A request that somebody submits while the proxy runs: for a while, a token with other scopes, or routes that allow more.
//!
//! Invariant: it names nothing but tokens, routes and scopes that the config defines. What it adds to a route is a rule for
//! that route's own upstream; no host, source, file or command can be asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::request::{Allow, Reach, Request, Requester, Until};
use crate::name::{RouteName, TokenName};

/// For how long can be asked.
pub const LENGTHS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);

/// The most rules in one request.
pub const MOST_RULES: usize = 50;

pub const LONGEST_REASON: usize = 200;

/// What is wished for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wish {
    pub token: TokenName,
    /// Exactly these; `None`: as the config grants.
    pub scopes: Option<BTreeSet<String>>,
    /// Rules, in addition. The route need not be named where the token has one only.
    pub allow: Vec<(Option<RouteName>, String)>,
    pub lasts: Duration,
    pub reason: String,
}

/// What the config says of a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Definition {
    pub standing: Request,
    /// Scopes that can be asked for besides the granted ones.
    pub further_scopes: BTreeSet<String>,
    /// Whether its issuer can be asked for other scopes.
    pub scopes_can_differ: bool,
}

/// What is wrong with a wish.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Problem {
    #[error(
        "the config does not let scope {scope} be asked for: name it in `scopes_on_request` of the token. There are: {known}"
    )]
    Scope { scope: String, known: String },
    #[error("no scope is asked for: name at least one")]
    NoScope,
    #[error("its source ({0}) gives values that have the scopes they have: leave the scopes out")]
    FixedScopes(String),
    #[error("token {0} has no route {1}")]
    Route(TokenName, RouteName),
    #[error("token {0} has more than one route: write ROUTE:METHOD /path")]
    WhichRoute(TokenName),
    #[error("rule {rule:?}: {why}")]
    Rule { rule: String, why: String },
    #[error("more than {MOST_RULES} rules")]
    ManyRules,
    #[error("it must be for at least a second and at most 7 days")]
    Length,
    #[error("the reason must be one line of 1 to {LONGEST_REASON} characters")]
    Reason,
}

impl Problem {
    /// Whether the config is asked for what it does not offer, by a wish that may be well formed.
    pub fn is_of_the_config(&self) -> bool {
        match self {
            Self::Scope { .. } | Self::FixedScopes(_) | Self::Route(..) | Self::WhichRoute(_) | Self::Rule { .. } => {
                true
            }
            Self::NoScope | Self::ManyRules | Self::Length | Self::Reason => false,
        }
    }
}

impl Wish {
    /// The request that this wish makes, by what the config defines. Where that is not granted, the request is for all of it.
    /// `judge_rule` says what is wrong with a rule of a route.
    ///
    /// # Errors
    /// With all that is wrong with it.
    pub fn request(
        self,
        requester: Requester,
        nonce: String,
        definition: &Definition,
        standing_is_granted: bool,
        judge_rule: impl Fn(&RouteName, &str) -> Result<(), String>,
    ) -> Result<Request, Vec<Problem>> {
        let standing = &definition.standing;
        let mut problems = Vec::new();
        if !LENGTHS.contains(&self.lasts) {
            problems.push(Problem::Length);
        }
        let length = self.reason.chars().count();
        if self.reason.trim().is_empty() || length > LONGEST_REASON || self.reason.chars().any(char::is_control) {
            problems.push(Problem::Reason);
        }
        let scopes = self.scopes.clone().unwrap_or_else(|| standing.scopes.clone());
        judge_scopes(&scopes, definition, &mut problems);
        let mut routes = self.routes(standing, judge_rule, &mut problems);
        if !standing_is_granted {
            routes = standing.routes.iter().map(|(name, reach)| (name.clone(), reach.with(routes.get(name)))).collect();
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Request {
            hosts: standing.hosts.clone(),
            next_source: standing.next_source.clone(),
            nonce: Some(nonce),
            owner: standing.owner.clone(),
            reason: self.reason,
            requester,
            routes,
            scopes,
            source: standing.source.clone(),
            token: self.token,
            // Whole seconds, as its digest has them.
            until: Until::For(Duration::from_secs(self.lasts.as_secs())),
        })
    }

    fn routes(
        &self,
        standing: &Request,
        judge_rule: impl Fn(&RouteName, &str) -> Result<(), String>,
        problems: &mut Vec<Problem>,
    ) -> BTreeMap<RouteName, Reach> {
        let mut rules: BTreeMap<RouteName, Vec<String>> = BTreeMap::new();
        if self.allow.len() > MOST_RULES {
            problems.push(Problem::ManyRules);
            return BTreeMap::new();
        }
        for (route, rule) in &self.allow {
            let mut names = standing.routes.keys();
            let route = match (route, names.next(), names.next()) {
                (Some(named), ..) if standing.routes.contains_key(named) => named,
                (Some(named), ..) => {
                    problems.push(Problem::Route(self.token.clone(), named.clone()));
                    continue;
                }
                (None, Some(only), None) => only,
                (None, ..) => {
                    problems.push(Problem::WhichRoute(self.token.clone()));
                    continue;
                }
            };
            if let Err(why) = judge_rule(route, rule) {
                problems.push(Problem::Rule { rule: rule.clone(), why });
            } else if standing.routes[route].adds(rule) {
                rules.entry(route.clone()).or_default().push(rule.clone());
            }
        }
        let reach = |(name, rules): (RouteName, Vec<String>)| {
            let reach = Reach { allow: Allow::These(rules), ..standing.routes[&name].clone() };
            (name, reach)
        };
        rules.into_iter().map(reach).collect()
    }
}

fn judge_scopes(scopes: &BTreeSet<String>, definition: &Definition, problems: &mut Vec<Problem>) {
    let standing = &definition.standing;
    if scopes.is_empty() {
        problems.push(Problem::NoScope);
    }
    if *scopes != standing.scopes && !definition.scopes_can_differ {
        problems.push(Problem::FixedScopes(standing.source.kind.clone()));
        return;
    }
    let known: BTreeSet<&String> = standing.scopes.union(&definition.further_scopes).collect();
    let all = known.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(", ");
    for scope in scopes.iter().filter(|scope| !known.contains(scope)) {
        problems.push(Problem::Scope { scope: scope.clone(), known: all.clone() });
    }
}

impl Definition {
    /// What a submitted request asks for beyond what is granted without it.
    pub fn beyond(&self, request: &Request, standing_is_granted: bool) -> Option<String> {
        let mut beyond: Vec<String> = Vec::new();
        if !standing_is_granted {
            beyond.push("the token itself, which is not granted".to_owned());
        }
        beyond.extend(request.scopes.difference(&self.standing.scopes).map(|scope| format!("scope {scope}")));
        for (route, reach) in &request.routes {
            let own = self.standing.routes.get(route);
            if let Allow::These(rules) = &reach.allow {
                let new = rules.iter().filter(|rule| own.is_none_or(|own| own.adds(rule)));
                beyond.extend(new.map(|rule| format!("{rule} on {route}")));
            }
        }
        (!beyond.is_empty()).then(|| beyond.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::tests::standing;
    use super::*;

    fn definition() -> Definition {
        Definition {
            standing: standing(),
            further_scopes: ["contents:write".to_owned()].into(),
            scopes_can_differ: true,
        }
    }

    fn wish() -> Wish {
        Wish {
            token: "api".parse().expect("a name"),
            scopes: None,
            allow: Vec::new(),
            lasts: Duration::from_secs(1800),
            reason: "a hotfix".into(),
        }
    }

    fn bob() -> Requester {
        Requester::Operator { groups: BTreeSet::new(), name: "bob".into() }
    }

    fn request(wish: Wish, definition: &Definition) -> Result<Request, Vec<Problem>> {
        let judge_rule = |_: &RouteName, rule: &str| {
            if rule.contains("secret") { Err("`deny` of the route covers it".to_owned()) } else { Ok(()) }
        };
        wish.request(bob(), "1".into(), definition, true, judge_rule)
    }

    fn set(scopes: &[&str]) -> Option<BTreeSet<String>> {
        Some(scopes.iter().map(|scope| (*scope).to_owned()).collect())
    }

    #[test]
    fn what_the_config_defines_can_be_asked_for() {
        let definition = definition();
        let plain = request(wish(), &definition).expect("good");
        assert_eq!((&plain.scopes, plain.routes.len()), (&standing().scopes, 0));
        assert_eq!(definition.beyond(&plain, true), None);
        assert_eq!(definition.beyond(&plain, false).as_deref(), Some("the token itself, which is not granted"));
        let wider = Wish {
            scopes: set(&["contents:read", "contents:write"]),
            allow: vec![(None, "POST /repos/**".into()), (None, "GET /repos/**".into())],
            ..wish()
        };
        let wider = request(wider, &definition).expect("good");
        let beyond = definition.beyond(&wider, true);
        assert_eq!(
            beyond.as_deref(),
            Some("scope contents:write, POST /repos/** on api"),
            "what is granted adds nothing"
        );
        assert_eq!((wider.owner, wider.hosts, wider.source), (standing().owner, standing().hosts, standing().source));
    }

    #[test]
    fn each_problem_is_named() {
        let problems = request(
            Wish {
                scopes: set(&["admin", "contents:read"]),
                allow: vec![(Some("other".parse().expect("a name")), "GET /".into()), (None, "GET /secret".into())],
                lasts: Duration::ZERO,
                reason: " ".into(),
                ..wish()
            },
            &definition(),
        );
        let api: TokenName = "api".parse().expect("a name");
        let expected = vec![
            Problem::Length,
            Problem::Reason,
            Problem::Scope { scope: "admin".into(), known: "contents:read, contents:write".into() },
            Problem::Route(api.clone(), "other".parse().expect("a name")),
            Problem::Rule { rule: "GET /secret".into(), why: "`deny` of the route covers it".into() },
        ];
        assert_eq!(problems, Err(expected));
        let fixed = Definition { scopes_can_differ: false, ..definition() };
        let refused = request(Wish { scopes: set(&["contents:write"]), ..wish() }, &fixed);
        assert_eq!(refused, Err(vec![Problem::FixedScopes("client_credentials".into())]));
        let mut two = definition();
        let reach = two.standing.routes.values().next().expect("a route").clone();
        two.standing.routes.insert("second".parse().expect("a name"), reach);
        let refused = request(Wish { allow: vec![(None, "GET /".into())], ..wish() }, &two);
        assert_eq!(refused, Err(vec![Problem::WhichRoute(api)]));
        assert_eq!(request(Wish { scopes: set(&[]), ..wish() }, &two), Err(vec![Problem::NoScope]));
    }
}
