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
use crate::detect::response::{Answers, Exemption, Mode, Override, Policy, Response, Settings};
use crate::name::TokenName;

const MODES: [(&str, Mode); 3] = [("observe", Mode::Observe), ("alert", Mode::Alert), ("respond", Mode::Respond)];

const RESPONSES: [(&str, Response); 3] =
    [("observe", Response::Observe), ("alert", Response::Alert), ("quarantine", Response::Quarantine)];

/// `[detect]`, and the names that its exemptions need.
pub fn read(mut section: Section<'_>, context: &Context<'_>) -> (Settings, Vec<Spanned<TokenName>>) {
    let policy = Policy {
        mode: section.choice("mode", &MODES, &[]).unwrap_or_default(),
        respond: answers(section.table("respond", "`respond`")),
    };
    let exempt = section.tables("exempt", "`exempt`").unwrap_or_default();
    section.finish();
    let exempt = exempt.into_iter().filter_map(|each| exemption(each, context));
    let (exempt, names): (Vec<_>, Vec<_>) = exempt.unzip();
    (Settings { policy, exempt, of_tokens: BTreeMap::new() }, names)
}

/// `detect` of a token; `None` where it has none.
pub fn of_token(mut section: Section<'_>) -> Option<Override> {
    let own =
        Override { mode: section.choice("mode", &MODES, &[]), respond: answers(section.table("respond", "`respond`")) };
    let is_present = section.is_present();
    section.finish();
    is_present.then_some(own)
}

fn answers(mut section: Section<'_>) -> Answers {
    let mut answers = Answers::default();
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

fn exemption(mut section: Section<'_>, context: &Context<'_>) -> Option<(Exemption, Spanned<TokenName>)> {
    section.require("token", "the exemption has no token", "token = \"nightly\"");
    section.require("signals", "the exemption does not say what it is about", "signals = [\"burst\"]");
    section.require("until", "the exemption does not end: known jobs are looked at again", "until = \"2026-12-31\"");
    section.require("reason", "the exemption does not say why", "reason = \"migration\"");
    let token = section.name::<TokenName>("token");
    let signals = signals(&mut section);
    let until = until(&mut section, context);
    let reason = section.text("reason");
    section.finish();
    let token = token?;
    let exemption = Exemption { token: token.get_ref().clone(), signals: signals?, until: until?, reason: reason? };
    Some((exemption, token))
}

fn signals(section: &mut Section<'_>) -> Option<Vec<Signal>> {
    let words = Signal::ALL.map(|signal| (signal.as_str(), signal));
    let texts = section.strings("signals")?;
    if texts.is_empty() {
        section.refuse("signals", "`signals` names no signal, so that nothing is exempt", "as in [\"burst\"]");
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
