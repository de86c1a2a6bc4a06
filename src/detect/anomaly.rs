//! What is said of unusual use, and how signals of one cause become one anomaly.

use serde_json::{Map, Value, json};

use super::event::Time;

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

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    const fn raised(self) -> Self {
        match self {
            Self::Low => Self::Medium,
            Self::Medium => Self::High,
            Self::High | Self::Critical => Self::Critical,
        }
    }
}

/// One signal that has crossed its threshold.
#[derive(Clone, PartialEq, Debug)]
pub struct Finding {
    pub signal: Signal,
    /// From 0.5, where it is told, to 1.
    pub score: f64,
    /// What a person reads.
    pub said: String,
}

impl Finding {
    /// `excess` is what was found over what it takes to be told: at least 1.
    pub fn new(signal: Signal, excess: f64, said: String) -> Self {
        Self { signal, score: 1.0 - 0.5_f64.powf(excess.clamp(1.0, 12.0)), said }
    }

    /// A strong signal is graver than one that has only just crossed.
    pub fn severity(&self) -> Severity {
        if self.score >= STRONG { self.signal.severity().raised() } else { self.signal.severity() }
    }
}

/// One or more signals of one token that belong together.
#[derive(Clone, PartialEq, Debug)]
pub struct Anomaly {
    pub time: Time,
    pub token: String,
    pub client: String,
    /// The gravest first.
    pub findings: Vec<Finding>,
    pub severity: Severity,
}

impl Anomaly {
    pub fn new(time: Time, token: &str, client: &str, mut findings: Vec<Finding>) -> Self {
        let gravity = |finding: &Finding| (finding.severity(), finding.score);
        findings.sort_by(|one, other| {
            let (one, other) = (gravity(one), gravity(other));
            other.0.cmp(&one.0).then(other.1.total_cmp(&one.1))
        });
        let gravest = findings.first().map_or(Severity::Low, Finding::severity);
        // Signals that agree are graver than each alone.
        let severity = if findings.len() >= MANY { gravest.raised() } else { gravest };
        Self { time, token: token.to_owned(), client: client.to_owned(), findings, severity }
    }

    pub fn score(&self) -> f64 {
        // The chance that not all of them are chance.
        1.0 - self.findings.iter().map(|finding| 1.0 - finding.score).product::<f64>()
    }

    pub fn signal(&self) -> Signal {
        self.findings.first().map_or(Signal::Silence, |finding| finding.signal)
    }

    pub fn to_json(&self, response: &str) -> Value {
        let signals: Map<String, Value> = self
            .findings
            .iter()
            .map(|finding| (finding.signal.as_str().to_owned(), Value::from(finding.said.as_str())))
            .collect();
        let said: Vec<&str> = self.findings.iter().map(|finding| finding.said.as_str()).collect();
        json!({
            "time": self.time.to_string(),
            "token": self.token,
            "signal": self.signal().as_str(),
            "score": (self.score() * 1e4).round() / 1e4,
            "severity": self.severity.as_str(),
            "response": response,
            "evidence": { "said": said.join("; "), "client": self.client, "signals": signals },
        })
    }
}

const STRONG: f64 = 0.97;
const MANY: usize = 3;
