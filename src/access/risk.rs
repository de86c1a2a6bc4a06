//! How much a request puts at risk, as points with a reason each: what is decided by them can be read, and argued with.
//!
//! | factor | points |
//! |---|---|
//! | a scope writes; is for administration | 2; 4 |
//! | a route allows anything, or does not enforce its rules | 2 |
//! | a static source: its values live until somebody else replaces them | 2 |
//! | for more than 90 days; 366 days | 1; 2 |
//! | more than 3 hosts; 10 hosts | 1; 2 |
//! | a host that no live grant names | 1 |
//! | permanent | 8 |
//! | more than the config grants | 8 |
//!
//! Less than 3 points are low, less than 8 medium, the others high.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::request::{Request, Until};

const DAY: Duration = Duration::from_secs(86_400);

const MEDIUM: u32 = 3;
const HIGH: u32 = 8;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Low,
    Medium,
    High,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        })
    }
}

/// One reason for points.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Factor {
    pub points: u32,
    pub why: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Risk {
    pub level: Level,
    pub factors: Vec<Factor>,
}

/// What risk depends on besides the request.
pub struct Background<'a> {
    /// Since the Unix epoch.
    pub now: Duration,
    /// Hosts that live grants name.
    pub known_hosts: &'a BTreeSet<String>,
    /// The request asks for more than the config grants, namely this.
    pub beyond: Option<String>,
}

impl Risk {
    pub fn of(request: &Request, background: Background<'_>) -> Self {
        let factors = [
            scopes(request),
            open_routes(request),
            unenforced_routes(request),
            request.sources().find(|source| source.is_static).map(|source| {
                factor(2, format!("its source ({}) gives values that we cannot have replaced", source.kind))
            }),
            lifetime(request.until, background.now),
            many_hosts(request),
            new_hosts(request, background.known_hosts),
            background.beyond.map(|beyond| factor(8, format!("more than the config grants: {beyond}"))),
        ];
        let factors: Vec<Factor> = factors.into_iter().flatten().collect();
        let level = match factors.iter().map(|factor| factor.points).sum::<u32>() {
            HIGH.. => Level::High,
            MEDIUM.. => Level::Medium,
            _ => Level::Low,
        };
        Self { level, factors }
    }
}

/// `high: permanent: it never ends by itself (+8); ...`
impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.level)?;
        for (at, factor) in self.factors.iter().enumerate() {
            write!(f, "{} {factor}", if at == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (+{})", self.why, self.points)
    }
}

fn factor(points: u32, why: String) -> Factor {
    Factor { points, why }
}

fn scopes(request: &Request) -> Option<Factor> {
    let of = |wanted: Power| -> Vec<&str> {
        request.scopes.iter().map(String::as_str).filter(|scope| power(scope) == wanted).collect()
    };
    let (administers, writes) = (of(Power::Administers), of(Power::Writes));
    if !administers.is_empty() {
        return Some(factor(4, format!("scopes for administration: {}", administers.join(", "))));
    }
    (!writes.is_empty()).then(|| factor(2, format!("scopes that write: {}", writes.join(", "))))
}

#[derive(PartialEq)]
enum Power {
    Reads,
    Writes,
    Administers,
}

/// What the words of a scope say. Nobody but its issuer knows what it really permits.
fn power(scope: &str) -> Power {
    const WRITE: [&str; 17] = [
        "write",
        "rw",
        "readwrite",
        "edit",
        "modify",
        "create",
        "delete",
        "update",
        "push",
        "publish",
        "deploy",
        "manage",
        "send",
        "repo",
        "post",
        "remove",
        "upload",
    ];
    const ADMINISTER: [&str; 8] = ["admin", "administration", "owner", "root", "full", "all", "superuser", "*"];
    let lower = scope.to_ascii_lowercase();
    let words = || lower.split(|c: char| !c.is_ascii_alphanumeric() && c != '*');
    if words().any(|word| ADMINISTER.contains(&word)) || lower.ends_with("/cloud-platform") {
        Power::Administers
    } else if words().any(|word| WRITE.contains(&word)) {
        Power::Writes
    } else {
        Power::Reads
    }
}

/// Whether the words of a scope say that it changes something.
pub fn writes(scope: &str) -> bool {
    power(scope) != Power::Reads
}

fn open_routes(request: &Request) -> Option<Factor> {
    let open: Vec<&str> =
        request.routes.iter().filter(|(_, reach)| reach.allow.is_any()).map(|(name, _)| name.as_str()).collect();
    (!open.is_empty()).then(|| factor(2, format!("allow = \"any\" on {}", open.join(", "))))
}

fn unenforced_routes(request: &Request) -> Option<Factor> {
    let observing: Vec<&str> =
        request.routes.iter().filter(|(_, reach)| reach.observe).map(|(name, _)| name.as_str()).collect();
    (!observing.is_empty()).then(|| factor(2, format!("mode = \"observe\" on {}", observing.join(", "))))
}

fn lifetime(until: Until, now: Duration) -> Option<Factor> {
    let Some(end) = until.end(now) else {
        return Some(factor(8, "permanent: it never ends by itself".to_owned()));
    };
    match end.saturating_sub(now) {
        left if left > 366 * DAY => Some(factor(2, "for more than a year".to_owned())),
        left if left > 90 * DAY => Some(factor(1, "for more than 90 days".to_owned())),
        _ => None,
    }
}

fn many_hosts(request: &Request) -> Option<Factor> {
    let count = request.hosts.len();
    match count {
        11.. => Some(factor(2, format!("{count} hosts"))),
        4.. => Some(factor(1, format!("{count} hosts"))),
        _ => None,
    }
}

fn new_hosts(request: &Request, known: &BTreeSet<String>) -> Option<Factor> {
    let new: Vec<&str> = request.hosts.difference(known).map(String::as_str).take(4).collect();
    (!new.is_empty()).then(|| factor(1, format!("first use of {}", new.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::super::request::tests::standing;
    use super::super::request::{Allow, Source};
    use super::*;

    const NOW: Duration = Duration::from_secs(1_799_000_000);

    fn risk(edit: impl FnOnce(&mut Request)) -> Risk {
        let mut request = standing();
        edit(&mut request);
        let known_hosts = BTreeSet::from(["api.example.com".to_owned()]);
        Risk::of(&request, Background { now: NOW, known_hosts: &known_hosts, beyond: None })
    }

    fn points(edit: impl FnOnce(&mut Request)) -> u32 {
        risk(edit).factors.iter().map(|factor| factor.points).sum()
    }

    #[test]
    fn each_factor_has_its_points_and_says_why() {
        let until = |days: u32| Until::At(NOW + days * DAY);
        let scope = |scope: &str| BTreeSet::from([scope.to_owned()]);
        assert_eq!(points(|_| ()), 0);
        for (write, expected) in [
            ("contents:write", 2),
            ("write:packages", 2),
            ("repo", 2),
            ("https://www.googleapis.com/auth/cloud-platform", 4),
            ("admin:org", 4),
            ("*", 4),
            ("issues.read", 0),
            ("reporting", 0),
        ] {
            assert_eq!(points(|r| r.scopes = scope(write)), expected, "{write}");
        }
        let allow =
            |allow: Allow| move |r: &mut Request| r.routes.values_mut().for_each(|reach| reach.allow = allow.clone());
        assert_eq!(points(allow(Allow::Any)), 2);
        assert_eq!(points(allow(Allow::These(vec!["* /**".into()]))), 2, "in other words");
        assert_eq!(points(|r| r.routes.values_mut().for_each(|reach| reach.observe = true)), 2);
        assert_eq!(points(|r| r.source = Source { is_static: true, ..r.source.clone() }), 2);
        for (days, expected) in [(90, 0), (91, 1), (366, 1), (367, 2)] {
            assert_eq!(points(|r| r.until = until(days)), expected, "{days}");
        }
        assert_eq!(points(|r| r.until = Until::Permanent), 8);
        assert_eq!(
            points(|r| {
                r.hosts.insert("other.example.com".into());
            }),
            1
        );
        let many = risk(|r| r.hosts = (0..11).map(|n| format!("h{n}.example.com")).collect());
        assert_eq!(
            many.to_string(),
            "medium: 11 hosts (+2); first use of h0.example.com, h1.example.com, h10.example.com, h2.example.com (+1)"
        );
    }

    #[test]
    fn points_add_up_to_a_level() {
        assert_eq!(risk(|_| ()).to_string(), "low");
        assert_eq!(risk(|r| r.until = Until::Permanent).level, Level::High);
        let open = |r: &mut Request| {
            r.routes.values_mut().for_each(|reach| reach.allow = Allow::Any);
            r.until = Until::At(NOW + 100 * DAY);
        };
        assert_eq!(risk(open).to_string(), "medium: allow = \"any\" on api (+2); for more than 90 days (+1)");
        let worst = |r: &mut Request| {
            open(r);
            r.source.is_static = true;
            r.scopes = BTreeSet::from(["admin".to_owned()]);
        };
        assert_eq!(risk(worst).level, Level::High);
    }

    #[test]
    fn what_the_config_does_not_grant_is_high() {
        let known_hosts = BTreeSet::from(["api.example.com".to_owned()]);
        let beyond = Some("scope contents:write".to_owned());
        let risk = Risk::of(&standing(), Background { now: NOW, known_hosts: &known_hosts, beyond });
        assert_eq!(risk.to_string(), "high: more than the config grants: scope contents:write (+8)");
    }
}
