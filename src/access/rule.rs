//! `[approval]`: which requests are approved at once, which are asked about, and which are denied.
//!
//! ```text
//! request, risk ─► the first rule that matches ─► approve | ask (how many, of which role) | deny
//!                   └─ none ─► `default`; without the section by risk: low and medium pass, high is asked about
//! ```
//!
//! Invariant: nothing permanent is approved by a rule; it asks, whatever the rule says, unless it is denied. So does what is
//! more than the config grants, unless the rule says in so many words that it is for high risk.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::request::{Request, Until};
use super::risk::{Level, Risk};

/// `[approval]`
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    pub rules: Vec<Rule>,
    /// Where no rule matches; `None` without the section.
    pub default: Option<Decision>,
    /// Who is asked about what no rule may approve.
    pub quorum: Quorum,
}

/// `[[approval.rule]]`: it matches a request that meets all that it names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    pub name: String,
    pub tokens: Option<Vec<Pattern>>,
    pub owners: Option<Vec<Pattern>>,
    /// Every requested scope matches one of these.
    pub scopes: Option<Vec<Pattern>>,
    /// Every requested host matches one of these.
    pub hosts: Option<Vec<Pattern>>,
    /// Kinds of sources.
    pub sources: Option<Vec<Pattern>>,
    /// The longest that the grant lasts from now.
    pub max_ttl: Option<Duration>,
    pub max_risk: Option<Level>,
    pub decide: Decision,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    Approve,
    Ask(Quorum),
    Deny,
}

/// How many people have to approve, and which.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Quorum {
    pub required: NonZeroU32,
    pub role: Role,
}

impl Default for Quorum {
    fn default() -> Self {
        Self { required: NonZeroU32::MIN, role: Role::Approver }
    }
}

impl Quorum {
    /// The stricter of both in each.
    #[must_use]
    pub fn or_stricter(self, other: Self) -> Self {
        Self { required: self.required.max(other.required), role: self.role.max(other.role) }
    }
}

/// Whose approval counts: any approver's, or only of one who is an admin besides, which is stricter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Approver,
    Admin,
}

impl Role {
    /// What somebody approves as who may approve, or not, and may do everything, or not.
    pub fn of(approves: bool, administers: bool) -> Option<Self> {
        match (approves, administers) {
            (true, true) => Some(Self::Admin),
            (true, false) => Some(Self::Approver),
            (false, _) => None,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Approver => "approver",
            Self::Admin => "admin",
        })
    }
}

/// What the rules say of one request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Judgement {
    pub decision: Decision,
    /// What said so, in words.
    pub by: String,
}

impl Policy {
    /// `is_beyond`: it asks for more than the config grants.
    pub fn judge(&self, request: &Request, risk: &Risk, is_beyond: bool, now: Duration) -> Judgement {
        let matching = self.rules.iter().find(|rule| rule.matches(request, risk, now));
        let (decision, by) = match (matching, self.default) {
            (Some(rule), _) => (rule.decide, format!("rule {}", rule.name)),
            (None, Some(default)) => (default, "the default of [approval]".to_owned()),
            (None, None) if risk.level == Level::High => {
                (Decision::Ask(self.quorum), "its high risk, without [approval] in the config".to_owned())
            }
            (None, None) => (Decision::Approve, format!("its {} risk, without [approval] in the config", risk.level)),
        };
        let is_meant = matching.is_some_and(|rule| rule.max_risk == Some(Level::High));
        let why_ask = match decision {
            Decision::Approve if request.until == Until::Permanent => Some("it is permanent"),
            Decision::Approve if is_beyond && !is_meant => Some("it is more than the config grants"),
            Decision::Approve | Decision::Ask(_) | Decision::Deny => None,
        };
        match why_ask {
            Some(why) => Judgement { decision: Decision::Ask(self.quorum), by: why.to_owned() },
            None => Judgement { decision, by },
        }
    }
}

impl Rule {
    fn matches(&self, request: &Request, risk: &Risk, now: Duration) -> bool {
        let one = |patterns: &Option<Vec<Pattern>>, text: &str| {
            patterns.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(text)))
        };
        let lasts = request.end(now).map(|end| end.saturating_sub(now));
        one(&self.tokens, request.token.as_str())
            && one(&self.owners, &request.owner)
            && request.sources().all(|source| one(&self.sources, &source.kind))
            && request.scopes.iter().all(|scope| one(&self.scopes, scope))
            && request.hosts.iter().all(|host| one(&self.hosts, host))
            && self.max_ttl.is_none_or(|most| lasts.is_some_and(|lasts| lasts <= most))
            && self.max_risk.is_none_or(|most| risk.level <= most)
    }
}

/// A text in which `*` stands for any characters, or none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(String);

impl Pattern {
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub fn matches(&self, text: &str) -> bool {
        let mut pieces = self.0.split('*');
        let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else { return false };
        let pieces: Vec<&str> = pieces.collect();
        let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
        for piece in middle {
            // The earliest place leaves the most for what follows.
            let Some(at) = rest.find(piece) else { return false };
            rest = &rest[at + piece.len()..];
        }
        rest.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::Source;
    use super::super::request::tests::standing;
    use super::*;

    const NOW: Duration = Duration::from_secs(1_799_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn risk(level: Level) -> Risk {
        Risk { level, factors: Vec::new() }
    }

    fn patterns(text: &str) -> Option<Vec<Pattern>> {
        Some(text.split(' ').map(Pattern::new).collect())
    }

    fn rule(name: &str, decide: Decision) -> Rule {
        Rule {
            name: name.to_owned(),
            tokens: None,
            owners: None,
            scopes: None,
            hosts: None,
            sources: None,
            max_ttl: None,
            max_risk: None,
            decide,
        }
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text, expected) in [
            ("*:read", "contents:read", true),
            ("*:read", "contents:read:all", false),
            ("*:read", ":read", true),
            ("contents:*", "contents:write", true),
            ("read", "read", true),
            ("read", "reads", false),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*bc*bc", "abc", false),
            ("a*a", "a", false),
            ("*.example.com", "api.example.com", true),
            ("*.example.com", "example.com", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_rule_matches_what_meets_all_that_it_names() {
        let ask = rule("r", Decision::Approve);
        let two = |request: &mut Request| {
            request.scopes.insert("contents:write".into());
        };
        type Edit = fn(&mut Request);
        let table: [(&str, Rule, Edit, bool); 16] = [
            ("names nothing", ask.clone(), |_| (), true),
            ("token", Rule { tokens: patterns("a*"), ..ask.clone() }, |_| (), true),
            ("other token", Rule { tokens: patterns("b*"), ..ask.clone() }, |_| (), false),
            ("owner", Rule { owners: patterns("*@example.com"), ..ask.clone() }, |_| (), true),
            ("other owner", Rule { owners: patterns("x *.org"), ..ask.clone() }, |_| (), false),
            ("scope", Rule { scopes: patterns("*:read"), ..ask.clone() }, |_| (), true),
            ("one scope of two", Rule { scopes: patterns("*:read"), ..ask.clone() }, two, false),
            ("each scope", Rule { scopes: patterns("*:read *:write"), ..ask.clone() }, two, true),
            ("host", Rule { hosts: patterns("*.example.com"), ..ask.clone() }, |_| (), true),
            (
                "a host more",
                Rule { hosts: patterns("api.*"), ..ask.clone() },
                |r| {
                    r.hosts.insert("b".into());
                },
                false,
            ),
            ("source", Rule { sources: patterns("client_credentials"), ..ask.clone() }, |_| (), true),
            (
                "other source",
                Rule { sources: patterns("client_credentials"), ..ask.clone() },
                |r| r.source = Source { kind: "file".into(), ..r.source.clone() },
                false,
            ),
            ("in time", Rule { max_ttl: Some(90 * DAY), ..ask.clone() }, |r| r.until = Until::At(NOW + 90 * DAY), true),
            (
                "too long",
                Rule { max_ttl: Some(90 * DAY), ..ask.clone() },
                |r| r.until = Until::At(NOW + 91 * DAY),
                false,
            ),
            ("for ever", Rule { max_ttl: Some(90 * DAY), ..ask.clone() }, |r| r.until = Until::Permanent, false),
            ("for a while", Rule { max_ttl: Some(DAY), ..ask.clone() }, |r| r.until = Until::For(DAY), true),
        ];
        for (what, rule, edit, expected) in table {
            let mut request = standing();
            edit(&mut request);
            assert_eq!(rule.matches(&request, &risk(Level::Low), NOW), expected, "{what}");
        }
        let cautious = Rule { max_risk: Some(Level::Medium), ..ask };
        for (level, expected) in [(Level::Low, true), (Level::Medium, true), (Level::High, false)] {
            assert_eq!(cautious.matches(&standing(), &risk(level), NOW), expected, "{level}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_wins_and_the_default_comes_last() {
        let two = Quorum { required: NonZeroU32::new(2).expect("two"), role: Role::Admin };
        let policy = Policy {
            rules: vec![
                Rule { scopes: patterns("*:write"), ..rule("none", Decision::Deny) },
                Rule { scopes: patterns("contents:*"), ..rule("first", Decision::Ask(two)) },
                Rule { scopes: patterns("*:read"), ..rule("second", Decision::Approve) },
            ],
            default: Some(Decision::Deny),
            quorum: Quorum::default(),
        };
        let judged = policy.judge(&standing(), &risk(Level::Low), false, NOW);
        assert_eq!(judged, Judgement { decision: Decision::Ask(two), by: "rule first".into() });
        let mut other = standing();
        other.scopes = ["issues:read".to_owned(), "other".to_owned()].into();
        let judged = policy.judge(&other, &risk(Level::Low), false, NOW);
        assert_eq!(judged, Judgement { decision: Decision::Deny, by: "the default of [approval]".into() });
    }

    #[test]
    fn without_the_section_risk_decides() {
        let ask = Decision::Ask(Quorum::default());
        for (level, expected) in
            [(Level::Low, Decision::Approve), (Level::Medium, Decision::Approve), (Level::High, ask)]
        {
            assert_eq!(Policy::default().judge(&standing(), &risk(level), false, NOW).decision, expected, "{level}");
        }
    }

    #[test]
    fn what_is_permanent_always_asks_unless_it_is_denied() {
        let permanent = Request { until: Until::Permanent, ..standing() };
        let two = Quorum { required: NonZeroU32::new(2).expect("two"), role: Role::Admin };
        let judge = |decision| {
            let policy = Policy { rules: vec![rule("all", decision)], default: Some(decision), quorum: two };
            policy.judge(&permanent, &risk(Level::Low), false, NOW).decision
        };
        assert_eq!(judge(Decision::Approve), Decision::Ask(two), "as many as [approval] wants");
        assert_eq!(judge(Decision::Deny), Decision::Deny);
        assert_eq!(judge(Decision::Ask(two)), Decision::Ask(two));
        assert_eq!(
            Policy::default().judge(&permanent, &risk(Level::Low), false, NOW).decision,
            Decision::Ask(Quorum::default())
        );
    }

    #[test]
    fn a_rule_approves_more_than_the_config_grants_only_where_it_says_so() {
        let two = Quorum { required: NonZeroU32::new(2).expect("two"), role: Role::Admin };
        // The first one of the documentation: it says nothing of what a route may come to allow.
        let usual =
            Rule { scopes: patterns("*:read"), max_ttl: Some(90 * DAY), ..rule("read-only", Decision::Approve) };
        let soon = Request { until: Until::For(DAY), ..standing() };
        let judge = |rules: Vec<Rule>, is_beyond| {
            let policy = Policy { rules, default: Some(Decision::Approve), quorum: two };
            policy.judge(&soon, &risk(Level::High), is_beyond, NOW).decision
        };
        assert_eq!(judge(vec![usual.clone()], false), Decision::Approve);
        assert_eq!(judge(vec![usual.clone()], true), Decision::Ask(two));
        assert_eq!(judge(Vec::new(), true), Decision::Ask(two), "nor does the default");
        let meant = Rule { max_risk: Some(Level::High), ..usual };
        assert_eq!(judge(vec![meant], true), Decision::Approve);
    }
}
