//! What is done about an anomaly: as the config says it of the mode, of signals and severities, and of single tokens.
//!
//! Invariant: nothing is taken away for what an exempt signal says, nor for what a host's trouble makes an app do.

use std::collections::BTreeMap;
use std::time::Duration;

use super::anomaly::{Anomaly, Finding, Severity, Signal};
use crate::name::TokenName;

/// `[detect]`
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Settings {
    pub policy: Policy,
    pub exempt: Vec<Exemption>,
    /// What tokens say themselves.
    pub of_tokens: BTreeMap<TokenName, Override>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Policy {
    pub mode: Mode,
    pub respond: Answers,
}

/// `detect` of a token: what is not given is as for all.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Override {
    pub mode: Option<Mode>,
    pub respond: Answers,
}

/// How much may be done at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// It is written down.
    #[default]
    Observe,
    /// Somebody is told.
    Alert,
    /// Tokens may be taken out of use.
    Respond,
}

/// What is done, the mildest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Response {
    /// An exemption says that this is as it should be.
    Exempt,
    Observe,
    Alert,
    Quarantine,
}

/// What is done in the mode [`Mode::Respond`], as far as it is said. A signal's word goes before that of its severity.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Answers {
    pub of_signals: BTreeMap<Signal, Response>,
    pub of_severities: BTreeMap<Severity, Response>,
}

/// A known job.
#[derive(Clone, PartialEq, Debug)]
pub struct Exemption {
    pub token: TokenName,
    pub signals: Vec<Signal>,
    /// From then on it counts no more; since the Unix epoch.
    pub until: Duration,
    pub reason: String,
}

impl Response {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exempt => "exempt",
            Self::Observe => "observe",
            Self::Alert => "alert",
            Self::Quarantine => "quarantine",
        }
    }
}

impl Settings {
    /// What is done about an anomaly at this moment.
    pub fn response(&self, anomaly: &Anomaly, now: Duration) -> Response {
        let own = self.of_tokens.get(anomaly.token.as_str());
        let counted: Vec<&Finding> =
            anomaly.findings.iter().filter(|finding| !self.exempts(anomaly, finding.signal, now)).collect();
        if counted.is_empty() {
            return Response::Exempt;
        }
        match own.and_then(|own| own.mode).unwrap_or(self.policy.mode) {
            Mode::Observe => Response::Observe,
            Mode::Alert => Response::Alert,
            Mode::Respond => {
                let mut levels: Vec<&Answers> = own.map(|own| &own.respond).into_iter().collect();
                levels.push(&self.policy.respond);
                answer(&levels, anomaly, &counted)
            }
        }
    }

    fn exempts(&self, anomaly: &Anomaly, signal: Signal, now: Duration) -> bool {
        self.exempt.iter().any(|exemption| {
            exemption.token.as_str() == anomaly.token && exemption.signals.contains(&signal) && now < exemption.until
        })
    }
}

/// What these levels, the nearest first, say of findings: each signal that is named by itself, the rest together.
fn answer(levels: &[&Answers], anomaly: &Anomaly, counted: &[&Finding]) -> Response {
    let of_signal = |signal| levels.iter().find_map(|level| level.of_signals.get(&signal)).copied();
    let capped = |finding: &Finding, response: Response| {
        if finding.in_trouble { response.min(Response::Alert) } else { response }
    };
    let named =
        counted.iter().filter_map(|finding| Some(capped(finding, of_signal(finding.signal).or(by_default(finding))?)));
    let rest = counted.iter().filter(|finding| of_signal(finding.signal).or(by_default(finding)).is_none());
    let (doubtful, sure): (Vec<Finding>, Vec<Finding>) =
        rest.map(|finding| (*finding).clone()).partition(|finding| finding.in_trouble);
    let together = |findings: Vec<Finding>| {
        let severity = (!findings.is_empty()).then(|| Anomaly::new(anomaly.time, &anomaly.token, findings).severity)?;
        let said = levels.iter().find_map(|level| level.of_severities.get(&severity)).copied();
        Some(said.unwrap_or(if severity == Severity::Critical { Response::Quarantine } else { Response::Alert }))
    };
    let doubtful = together(doubtful).map(|response| response.min(Response::Alert));
    named.chain(together(sure)).chain(doubtful).max().unwrap_or(Response::Alert)
}

/// A phantom key is where it cannot be by no accident.
fn by_default(finding: &Finding) -> Option<Response> {
    (finding.signal == Signal::Tripwire).then_some(Response::Quarantine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::event::Time;

    const NOW: Duration = Duration::from_secs(1_795_305_600);

    fn respond() -> Settings {
        Settings { policy: Policy { mode: Mode::Respond, ..Policy::default() }, ..Settings::default() }
    }

    fn finding(signal: Signal, excess: f64) -> Finding {
        Finding::new(signal, excess, "said".to_owned())
    }

    fn anomaly(findings: Vec<Finding>) -> Anomaly {
        Anomaly::new(Time(NOW), "github", findings)
    }

    /// Three that agree.
    fn attack() -> Vec<Finding> {
        [Signal::Burst, Signal::Errors, Signal::FanOut].map(|signal| finding(signal, 12.0)).to_vec()
    }

    #[test]
    fn nothing_but_mode_respond_takes_anything_away() {
        let attack = anomaly(attack());
        let of = |mode| Settings { policy: Policy { mode, ..Policy::default() }, ..Settings::default() };
        assert_eq!(Settings::default().response(&attack, NOW), Response::Observe);
        assert_eq!(of(Mode::Alert).response(&attack, NOW), Response::Alert);
        assert_eq!(of(Mode::Respond).response(&attack, NOW), Response::Quarantine);
        assert_eq!(respond().response(&anomaly(vec![finding(Signal::Burst, 1.0)]), NOW), Response::Alert);
        assert_eq!(respond().response(&anomaly(vec![finding(Signal::Tripwire, 1.0)]), NOW), Response::Quarantine);
    }

    #[test]
    fn what_a_host_in_trouble_makes_an_app_do_takes_nothing_away() {
        let in_trouble = |finding| Finding { in_trouble: true, ..finding };
        let doubtful = anomaly(attack().into_iter().map(in_trouble).collect());
        assert_eq!((doubtful.severity, respond().response(&doubtful, NOW)), (Severity::Critical, Response::Alert));
        let mut settings = respond();
        settings.policy.respond.of_signals.insert(Signal::Burst, Response::Quarantine);
        assert_eq!(settings.response(&doubtful, NOW), Response::Alert);
        let with_tripwire = doubtful.findings.into_iter().chain([finding(Signal::Tripwire, 12.0)]).collect();
        assert_eq!(settings.response(&anomaly(with_tripwire), NOW), Response::Quarantine);
    }

    #[test]
    fn an_exemption_counts_until_its_end_for_its_token_and_signals_alone() {
        let mut settings = respond();
        settings.exempt.push(Exemption {
            token: "github".parse().expect("a name"),
            signals: vec![Signal::Burst, Signal::FanOut],
            until: NOW,
            reason: "migration".to_owned(),
        });
        let before = NOW - Duration::from_secs(1);
        assert_eq!(settings.response(&anomaly(vec![finding(Signal::Burst, 12.0)]), before), Response::Exempt);
        assert_eq!(settings.response(&anomaly(attack()), before), Response::Alert, "one signal is left");
        assert_eq!(settings.response(&anomaly(attack()), NOW), Response::Quarantine);
        let other = Anomaly { token: "other".to_owned(), ..anomaly(attack()) };
        assert_eq!(settings.response(&other, before), Response::Quarantine);
    }

    #[test]
    fn a_tokens_word_goes_before_that_for_all_and_a_signals_before_its_severity() {
        let mut settings = respond();
        settings.policy.respond.of_severities.insert(Severity::Medium, Response::Quarantine);
        let burst = anomaly(vec![finding(Signal::Burst, 1.0)]);
        assert_eq!(settings.response(&burst, NOW), Response::Quarantine);
        settings.policy.respond.of_signals.insert(Signal::Burst, Response::Observe);
        assert_eq!(settings.response(&burst, NOW), Response::Observe);
        let name: TokenName = "github".parse().expect("a name");
        let mut own = Override::default();
        own.respond.of_signals.insert(Signal::Burst, Response::Alert);
        settings.of_tokens.insert(name.clone(), own.clone());
        assert_eq!(settings.response(&burst, NOW), Response::Alert);
        settings.of_tokens.insert(name, Override { mode: Some(Mode::Observe), ..own });
        assert_eq!(settings.response(&anomaly(attack()), NOW), Response::Observe);
    }
}
