//! `[detect]`, and `detect` of a token: what is done about unusual use, and which jobs are known.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::problem::did_you_mean;
use super::reader::Section;
use super::token::Token;
use super::{Context, value};
use crate::detect::anomaly::{Severity, Signal};
use crate::detect::response::{Answers, Exemption, Mode, Override, Policy, Response, Rule, Sensitivity, Settings};
use crate::name::TokenName;

const MODES: [(&str, Mode); 3] = [("observe", Mode::Observe), ("alert", Mode::Alert), ("respond", Mode::Respond)];

const SENSITIVITIES: [(&str, Sensitivity); 3] =
    [("low", Sensitivity::Low), ("medium", Sensitivity::Medium), ("high", Sensitivity::High)];

const RESPONSES: [(&str, Response); 7] = [
    ("observe", Response::Observe),
    ("alert", Response::Alert),
    ("throttle", Response::Throttle),
    ("replace", Response::Replace),
    ("approval", Response::Approval),
    ("block", Response::Block),
    ("quarantine", Response::Quarantine),
];

/// `[detect]`, and the names that its exemptions need.
pub fn read(mut section: Section<'_>, context: &Context<'_>) -> (Settings, Vec<Spanned<TokenName>>) {
    let policy = Policy {
        mode: section.choice("mode", &MODES, &[]).unwrap_or_default(),
        sensitivity: section.choice("sensitivity", &SENSITIVITIES, &[]).unwrap_or_default(),
        respond: answers(&mut section, context),
    };
    let exempt = section.tables("exempt", "`exempt`").unwrap_or_default();
    section.finish();
    let exempt = exempt.into_iter().filter_map(|each| exemption(each, context));
    let (exempt, names): (Vec<_>, Vec<_>) = exempt.unzip();
    (Settings { policy, exempt, of_tokens: BTreeMap::new() }, names)
}

/// `detect` of a token; `None` where it has none.
pub fn of_token(mut section: Section<'_>, context: &Context<'_>) -> Option<Override> {
    let mode = section.choice("mode", &MODES, &[]);
    let sensitivity = section.choice("sensitivity", &SENSITIVITIES, &[]);
    let own = Override { mode, sensitivity, respond: answers(&mut section, context) };
    let is_present = section.is_present();
    section.finish();
    is_present.then_some(own)
}

/// `rule` and `respond`.
fn answers(section: &mut Section<'_>, context: &Context<'_>) -> Answers {
    let rules: Vec<_> = section.tables("rule", "[[detect.rule]]").unwrap_or_default();
    let mut answers = Answers::default();
    for each in rules {
        let at = each.at();
        let Some(rule) = rule(each) else { continue };
        let is_covered = |earlier: &Rule| {
            earlier.at <= rule.at
                && earlier.signals.is_empty() == rule.signals.is_empty()
                && rule.signals.iter().all(|signal| earlier.signals.contains(signal))
        };
        if answers.rules.iter().any(is_covered) {
            let message = "a rule before this one says what is done about all of this, and the first that fits counts";
            context.report.warning(at, message, "remove one of them, or put the one from the higher severity on first");
        }
        answers.rules.push(rule);
    }
    let mut section = section.table("respond", "`respond`");
    for signal in Signal::ALL {
        answers.of_signals.extend(section.choice(signal.as_str(), &RESPONSES, &[]).map(|response| (signal, response)));
    }
    for severity in Severity::ALL {
        let response = section.choice(severity.as_str(), &RESPONSES, &[]);
        answers.of_severities.extend(response.map(|response| (severity, response)));
    }
    section.finish();
    answers
}

fn rule(mut section: Section<'_>) -> Option<Rule> {
    section.require("respond", "the rule does not say what is done", "respond = \"throttle\"");
    let levels = Severity::ALL.map(|severity| (severity.as_str(), severity));
    let names_signals = section.has("signals");
    let signals = signals(&mut section, "the rule is about nothing");
    let at = section.choice("at", &levels, &[]);
    let respond = section.choice("respond", &RESPONSES, &[]);
    section.finish();
    let signals = if names_signals { signals? } else { Vec::new() };
    Some(Rule { signals, at: at.unwrap_or(Severity::Low), respond: respond? })
}

fn exemption(mut section: Section<'_>, context: &Context<'_>) -> Option<(Exemption, Spanned<TokenName>)> {
    section.require("token", "the exemption has no token", "token = \"nightly\"");
    section.require("signals", "the exemption does not say what it is about", "signals = [\"burst\"]");
    section.require("until", "the exemption does not end: known jobs are looked at again", "until = \"2026-12-31\"");
    section.require("reason", "the exemption does not say why", "reason = \"migration\"");
    let token = section.name::<TokenName>("token");
    let signals = signals(&mut section, "nothing is exempt");
    let until = until(&mut section, context);
    let reason = section.text("reason");
    section.finish();
    let token = token?;
    let exemption = Exemption { token: token.get_ref().clone(), signals: signals?, until: until?, reason: reason? };
    Some((exemption, token))
}

/// `none` says what it means to name none.
fn signals(section: &mut Section<'_>, none: &str) -> Option<Vec<Signal>> {
    let words = Signal::ALL.map(|signal| (signal.as_str(), signal));
    let texts = section.strings("signals")?;
    if texts.is_empty() {
        section.refuse("signals", format!("`signals` names no signal, so that {none}"), "as in [\"burst\"]");
        return None;
    }
    let signals: Vec<_> = texts.iter().map(|text| section.as_choice("signals", text, &words, &[])).collect();
    signals.into_iter().collect()
}

fn until(section: &mut Section<'_>, context: &Context<'_>) -> Option<Duration> {
    let written = section.take("until")?;
    let text = match written.get_ref() {
        DeValue::Datetime(time) => time.to_string(),
        DeValue::String(text) => text.to_string(),
        _ => return section.mismatch("until", written, "a date"),
    };
    let until = value::moment(&text);
    let until = until.map_err(|error| section.refuse("until", format!("`until`: {error}"), None)).ok()?;
    if until <= context.environment.now {
        let message = "the exemption has ended, and counts no more";
        context.report.warning(written.span(), message, "remove it, or say until when the job is known");
    }
    Some(until)
}

/// Exemptions are for tokens that are there.
pub fn tokens_of_exemptions(names: &[Spanned<TokenName>], tokens: &[Token], context: &Context<'_>) {
    let known: Option<Vec<&str>> =
        tokens.iter().map(|token| token.name.as_ref().map(|name| name.get_ref().as_str())).collect();
    // One whose own name is wrong may be the one that is meant.
    let Some(known) = known else { return };
    for name in names.iter().filter(|name| !known.contains(&name.get_ref().as_str())) {
        let near = did_you_mean(name.get_ref().as_str(), known.iter().copied());
        if near.is_none() {
            // A token itself may have been pasted here.
            context.report.conceal(name.span());
        }
        let help = near.unwrap_or("write the `name` of a [[token]]".to_owned());
        context.report.error(name.span(), "there is no token of this name", help);
    }
}
