//! What is done about an anomaly: as the config says it of the mode, of signals and severities, and of single tokens.
//!
//! ```text
//! findings ─▶ not exempt ─▶ each that is named by its signal │ the others together, by their severity ─▶ Deeds
//! ```
//!
//! Invariant: nothing is taken away for what an exempt signal says, nor for what a host's trouble makes an app do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::anomaly::{Anomaly, Finding, Severity, Signal, joint_severity};
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
    pub sensitivity: Sensitivity,
    pub respond: Answers,
}

/// `detect` of a token: what is not given is as for all.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Override {
    pub mode: Option<Mode>,
    pub sensitivity: Option<Sensitivity>,
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

/// How little it takes for a figure to be unusual.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sensitivity {
    Low,
    #[default]
    Medium,
    High,
}

impl Sensitivity {
    /// How many times as much as what is written of the signals.
    pub const fn caution(self) -> f64 {
        match self {
            Self::Low => 2.0,
            Self::Medium => 1.0,
            Self::High => 0.7,
        }
    }
}

/// What is done, the mildest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Response {
    /// An exemption says that this is as it should be.
    Exempt,
    Observe,
    Alert,
    /// The client uses the token no more than is usual.
    Throttle,
    /// The token gets another generation, and its issuer voids the one before.
    Replace,
    /// The client uses the token when somebody has approved it.
    Approval,
    /// The client uses nothing.
    Block,
    /// Nobody uses the token.
    Quarantine,
}

/// What is done in the mode [`Mode::Respond`], as far as it is said. What names a signal goes before what names none, and a rule
/// before a word.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Answers {
    /// The first that fits counts.
    pub rules: Vec<Rule>,
    pub of_signals: BTreeMap<Signal, Response>,
    pub of_severities: BTreeMap<Severity, Response>,
}

/// What is done about these signals from a severity on.
#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    /// Empty: all that are not named otherwise.
    pub signals: Vec<Signal>,
    pub at: Severity,
    pub respond: Response,
}

/// All that is done about an anomaly, each with the client that it is done to; the gravest last.
pub type Deeds = BTreeSet<(Response, String)>;

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
            Self::Throttle => "throttle",
            Self::Replace => "replace",
            Self::Approval => "approval",
            Self::Block => "block",
            Self::Quarantine => "quarantine",
        }
    }

    /// Whether it is done to one client.
    const fn is_of_client(self) -> bool {
        match self {
            Self::Throttle | Self::Approval | Self::Block => true,
            Self::Exempt | Self::Observe | Self::Alert | Self::Replace | Self::Quarantine => false,
        }
    }

    /// Whether it is done about one token.
    const fn is_of_token(self) -> bool {
        match self {
            Self::Throttle | Self::Approval | Self::Replace | Self::Quarantine => true,
            Self::Exempt | Self::Observe | Self::Alert | Self::Block => false,
        }
    }
}

impl Answers {
    /// What is said of a signal by its name, in an anomaly of this severity.
    fn of_signal(&self, signal: Signal, severity: Severity) -> Option<Response> {
        let rule = self.rules.iter().find(|rule| rule.signals.contains(&signal) && severity >= rule.at);
        rule.map(|rule| rule.respond).or_else(|| self.of_signals.get(&signal).copied())
    }

    fn of_severity(&self, severity: Severity) -> Option<Response> {
        let rule = self.rules.iter().find(|rule| rule.signals.is_empty() && severity >= rule.at);
        rule.map(|rule| rule.respond).or_else(|| self.of_severities.get(&severity).copied())
    }
}

impl Settings {
    pub fn sensitivity(&self, token: &str) -> Sensitivity {
        let own = self.of_tokens.get(token).and_then(|own| own.sensitivity);
        own.unwrap_or(self.policy.sensitivity)
    }

    /// What is done about an anomaly at this moment; something is, and be it that it is written down.
    pub fn deeds(&self, anomaly: &Anomaly, now: Duration) -> Deeds {
        let own = self.of_tokens.get(anomaly.token.as_str());
        let counted: Vec<&Finding> =
            anomaly.findings.iter().filter(|finding| !self.exempts(anomaly, finding.signal, now)).collect();
        if counted.is_empty() {
            return BTreeSet::from([(Response::Exempt, anomaly.client.clone())]);
        }
        let all = |response| counted.iter().map(|finding| (response, finding.client.clone())).collect();
        match own.and_then(|own| own.mode).unwrap_or(self.policy.mode) {
            Mode::Observe => all(Response::Observe),
            Mode::Alert => all(Response::Alert),
            Mode::Respond => {
                let mut levels: Vec<&Answers> = own.map(|own| &own.respond).into_iter().collect();
                levels.push(&self.policy.respond);
                let (doubtful, sure): (Vec<&Finding>, Vec<&Finding>) =
                    counted.into_iter().partition(|finding| finding.in_trouble);
                let doubtful = answer(&levels, anomaly, &doubtful).into_iter();
                let capped = doubtful.map(|(response, client)| (response.min(Response::Alert), client));
                capped.chain(answer(&levels, anomaly, &sure)).collect()
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
fn answer(levels: &[&Answers], anomaly: &Anomaly, findings: &[&Finding]) -> Deeds {
    let severity = joint_severity(findings.iter().copied());
    let of_signal = |finding: &Finding| {
        let said = levels.iter().find_map(|level| level.of_signal(finding.signal, severity));
        said.or(by_default(finding))
    };
    let rest: Vec<&Finding> = findings.iter().copied().filter(|finding| of_signal(finding).is_none()).collect();
    let of_rest = joint_severity(rest.iter().copied());
    let said = levels.iter().find_map(|level| level.of_severity(of_rest));
    let said = said.unwrap_or(if of_rest == Severity::Critical { Response::Quarantine } else { Response::Alert });
    let deed = |finding: &&Finding| {
        let response = of_signal(finding).unwrap_or(said);
        // What nobody does by itself cannot be held back from it, nor a token where there is none.
        let (has_client, has_token) = (!finding.client.is_empty(), !anomaly.token.is_empty());
        let can_be = (has_client || !response.is_of_client()) && (has_token || !response.is_of_token());
        (if can_be { response } else { Response::Alert }, finding.client.clone())
    };
    findings.iter().map(deed).collect()
}

/// A phantom key is where it cannot be by no accident, and its client has it from somebody.
fn by_default(finding: &Finding) -> Option<Response> {
    (finding.signal == Signal::Tripwire).then_some(Response::Block)
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
        Finding { client: "app".to_owned(), ..Finding::new(signal, excess, "said".to_owned()) }
    }

    impl Settings {
        /// The gravest.
        fn response(&self, anomaly: &Anomaly, now: Duration) -> Response {
            self.deeds(anomaly, now).last().map(|(response, _)| *response).expect("something is done")
        }
    }

    fn rule(signals: &[Signal], at: Severity, respond: Response) -> Rule {
        Rule { signals: signals.to_vec(), at, respond }
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
        assert_eq!(respond().response(&anomaly(vec![finding(Signal::Tripwire, 1.0)]), NOW), Response::Block);
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
        assert_eq!(settings.response(&anomaly(with_tripwire), NOW), Response::Block);
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

    #[test]
    fn a_rule_is_about_signals_from_a_severity_on_and_the_first_that_fits_counts() {
        let mut settings = respond();
        settings.policy.respond.rules = vec![
            rule(&[Signal::Burst, Signal::Volume], Severity::High, Response::Approval),
            rule(&[Signal::Burst], Severity::Low, Response::Throttle),
            rule(&[], Severity::High, Response::Replace),
        ];
        let of = |findings| settings.response(&anomaly(findings), NOW);
        assert_eq!(of(vec![finding(Signal::Burst, 1.0)]), Response::Throttle);
        assert_eq!(of(vec![finding(Signal::Burst, 12.0)]), Response::Approval, "it is high");
        assert_eq!(of(vec![finding(Signal::Volume, 1.0)]), Response::Alert, "no rule fits");
        assert_eq!(of(vec![finding(Signal::NewClient, 1.0)]), Response::Replace, "no rule names it");
        let mut own = Override::default();
        own.respond.rules = vec![rule(&[Signal::Burst], Severity::Low, Response::Observe)];
        settings.of_tokens.insert("github".parse().expect("a name"), own);
        assert_eq!(settings.response(&anomaly(vec![finding(Signal::Burst, 12.0)]), NOW), Response::Observe);
    }

    #[test]
    fn each_client_gets_what_its_own_findings_ask_for() {
        let mut settings = respond();
        settings.policy.respond.of_signals.insert(Signal::Burst, Response::Throttle);
        let stranger = Finding { client: "stranger".to_owned(), ..finding(Signal::Tripwire, 12.0) };
        let nobody = Finding { client: String::new(), ..finding(Signal::Burst, 1.0) };
        let deeds = settings.deeds(&anomaly(vec![finding(Signal::Burst, 1.0), stranger, nobody]), NOW);
        let expected = [(Response::Alert, ""), (Response::Throttle, "app"), (Response::Block, "stranger")];
        assert_eq!(deeds, expected.map(|(response, client)| (response, client.to_owned())).into());
    }
    #[test]
    fn each_client_is_told_of_where_somebody_is_told() {
        let stranger = Finding { client: "stranger".to_owned(), ..finding(Signal::Errors, 1.0) };
        let both = anomaly(vec![finding(Signal::Burst, 12.0), stranger]);
        let settings = Settings { policy: Policy { mode: Mode::Alert, ..Policy::default() }, ..Settings::default() };
        let expected = ["app", "stranger"].map(|client| (Response::Alert, client.to_owned()));
        assert_eq!(settings.deeds(&both, NOW), expected.into());
        let own = both.of("stranger");
        assert_eq!((own.client.as_str(), own.findings.len(), own.severity), ("stranger", 1, Severity::Medium));
        assert_eq!(both.of("app").severity, Severity::High);
    }
}
