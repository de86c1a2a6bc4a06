//! What is said of unusual use, and how signals of one cause become one anomaly.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::event::Time;
use super::memory::{Kept, kept};
use super::rarity;
pub use crate::alert::Severity;

/// In what way use is unusual.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Signal {
    NewClient,
    NewPlace,
    NewMethod,
    Burst,
    Silence,
    Errors,
    Volume,
    Hours,
    Dormant,
    Tripwire,
    Shadow,
    FanOut,
    Issuance,
    IssuerChange,
}

impl Signal {
    pub const ALL: [Self; 14] = [
        Self::NewClient,
        Self::NewPlace,
        Self::NewMethod,
        Self::Burst,
        Self::Silence,
        Self::Errors,
        Self::Volume,
        Self::Hours,
        Self::Dormant,
        Self::Tripwire,
        Self::Shadow,
        Self::FanOut,
        Self::Issuance,
        Self::IssuerChange,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NewClient => "new_client",
            Self::NewPlace => "new_place",
            Self::NewMethod => "new_method",
            Self::Burst => "burst",
            Self::Silence => "silence",
            Self::Errors => "errors",
            Self::Volume => "volume",
            Self::Hours => "hours",
            Self::Dormant => "dormant",
            Self::Tripwire => "tripwire",
            Self::Shadow => "shadow",
            Self::FanOut => "fan_out",
            Self::Issuance => "issuance",
            Self::IssuerChange => "issuer_change",
        }
    }

    /// What rises for the same reason: who does more of everything has no reasons for each of them.
    const fn kind(self) -> Kind {
        match self {
            Self::NewClient | Self::Tripwire | Self::Shadow => Kind::Who,
            Self::NewPlace | Self::NewMethod => Kind::What,
            Self::Burst | Self::Volume | Self::FanOut => Kind::HowMuch,
            Self::Errors => Kind::HowWell,
            Self::Hours | Self::Dormant | Self::Silence => Kind::When,
            Self::Issuance | Self::IssuerChange => Kind::Issuer,
        }
    }

    /// How grave it is at the score from which it is told at all.
    const fn severity(self) -> Severity {
        match self {
            Self::Silence | Self::Shadow | Self::NewPlace => Severity::Low,
            Self::NewMethod | Self::Burst | Self::Errors | Self::Volume | Self::Hours | Self::Issuance => {
                Severity::Medium
            }
            Self::FanOut | Self::IssuerChange => Severity::Medium,
            Self::NewClient | Self::Dormant => Severity::High,
            Self::Tripwire => Severity::Critical,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Who,
    What,
    HowMuch,
    HowWell,
    When,
    Issuer,
}

/// One signal that has crossed its threshold.
#[derive(Clone, PartialEq, Debug)]
pub struct Finding {
    pub signal: Signal,
    /// Whose use it is; empty where it is nobody's.
    pub client: String,
    /// What was found over what it takes to be told: from 1 to 12.
    pub strength: f64,
    /// The chance that thirty quiet days of its token bring nothing of its signal that is as strong.
    pub score: f64,
    /// What a person reads.
    pub said: String,
    /// It happens or it does not, as the first deletion: another one of its signal is another matter. What is no fact is a
    /// figure, and the strongest of its signal says all.
    pub is_fact: bool,
    /// Its host was in trouble, which alone makes apps do what they never did.
    pub in_trouble: bool,
}

impl Finding {
    /// `strength` is what was found over what it takes to be told: at least 1. Nothing is known of its token.
    pub fn new(signal: Signal, strength: f64, said: String) -> Self {
        Self::unjudged(signal, strength, said, false)
    }

    pub fn fact(signal: Signal, strength: f64, said: String) -> Self {
        Self::unjudged(signal, strength, said, true)
    }

    fn unjudged(signal: Signal, strength: f64, said: String, is_fact: bool) -> Self {
        let strength = strength.clamp(1.0, 12.0);
        let finding = Self { signal, client: String::new(), strength, score: 0.0, said, is_fact, in_trouble: false };
        Self { score: rarity::unknown(&finding), ..finding }
    }

    /// Whether it says nothing that the other does not say.
    pub fn repeats(&self, other: &Self) -> bool {
        self.signal == other.signal && self.client == other.client && self.said == other.said
    }

    /// Whether both are figures of one signal, of one client: the stronger one says all.
    pub fn is_figure_of(&self, other: &Self) -> bool {
        !self.is_fact && !other.is_fact && self.signal == other.signal && self.client == other.client
    }

    pub fn gravity(&self, other: &Self) -> Ordering {
        self.severity().cmp(&other.severity()).then(self.strength.total_cmp(&other.strength))
    }

    /// A strong signal is graver than one that has only just crossed.
    pub fn severity(&self) -> Severity {
        if self.strength >= STRONG { self.signal.severity().raised() } else { self.signal.severity() }
    }
}

/// One or more signals of one token that belong together.
#[derive(Clone, PartialEq, Debug)]
pub struct Anomaly {
    pub time: Time,
    pub token: String,
    /// That of the gravest finding.
    pub client: String,
    /// The gravest first.
    pub findings: Vec<Finding>,
    pub severity: Severity,
}

impl Anomaly {
    pub fn new(time: Time, token: &str, mut findings: Vec<Finding>) -> Self {
        findings.sort_by(|one, other| other.gravity(one));
        let client = findings.first().map(|first| first.client.clone()).unwrap_or_default();
        Self { time, token: token.to_owned(), client, severity: joint_severity(&findings), findings }
    }

    /// What of it one client does: as grave as the whole, if it does the gravest of it.
    #[must_use]
    pub fn of(&self, client: &str) -> Self {
        let own = self.findings.iter().filter(|finding| finding.client == client).cloned().collect();
        let own = Self { client: client.to_owned(), ..Self::new(self.time, &self.token, own) };
        if client == self.client { Self { severity: self.severity, ..own } } else { own }
    }

    /// That of its rarest finding: what else agrees with it makes it graver, and is seldom independent of it.
    pub fn score(&self) -> f64 {
        self.findings.iter().map(|finding| finding.score).fold(0.0, f64::max)
    }

    /// As it is written.
    pub fn rounded_score(&self) -> f64 {
        (self.score() * 1e4).round() / 1e4
    }

    /// All of it, for a person.
    pub fn said(&self) -> String {
        self.findings.iter().map(|finding| finding.said.as_str()).collect::<Vec<_>>().join("; ")
    }

    pub fn signal(&self) -> Signal {
        self.findings.first().map_or(Signal::Silence, |finding| finding.signal)
    }

    pub fn to_json(&self, response: &str) -> Value {
        let mut signals = Map::new();
        for Finding { signal, said, .. } in &self.findings {
            let all = signals.entry(signal.as_str()).or_insert_with(|| Value::from(""));
            let before = all.as_str().unwrap_or_default();
            *all = if before.is_empty() { said.as_str().into() } else { format!("{before}; {said}").into() };
        }
        json!({
            "time": self.time.to_string(),
            "token": self.token,
            "signal": self.signal().as_str(),
            "score": self.rounded_score(),
            "severity": self.severity.as_str(),
            "response": response,
            "evidence": { "said": self.said(), "client": self.client, "signals": signals },
        })
    }
}

impl Kept for Signal {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_str().to_owned().put(out);
    }

    fn take(left: &mut &[u8]) -> Option<Self> {
        let name = String::take(left)?;
        Self::ALL.into_iter().find(|signal| signal.as_str() == name)
    }
}

impl Kept for Severity {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_str().to_owned().put(out);
    }

    fn take(left: &mut &[u8]) -> Option<Self> {
        let name = String::take(left)?;
        Self::ALL.into_iter().find(|severity| severity.as_str() == name)
    }
}

kept!(Finding { signal, client, strength, score, said, is_fact, in_trouble });

/// Signals that agree, and not for the same reason, are graver than each alone.
pub fn joint_severity<'f>(findings: impl IntoIterator<Item = &'f Finding>) -> Severity {
    let (mut gravest, mut signals, mut kinds) = (Severity::Low, BTreeSet::new(), BTreeSet::new());
    for finding in findings {
        gravest = gravest.max(finding.severity());
        signals.insert(finding.signal);
        kinds.insert(finding.signal.kind());
    }
    if signals.len() >= MANY && kinds.len() > 1 { gravest.raised() } else { gravest }
}

/// So many times what it takes to be told is strong.
const STRONG: f64 = 5.0;
const MANY: usize = 3;
