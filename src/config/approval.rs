//! `[approval]`: which requests are approved at once, who else decides, and whose signatures count.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::Context;
use super::problem::{Report, did_you_mean};
use super::reader::{Section, conceal};
use super::value;
use crate::access::Settings;
use crate::access::grants::PublicKey;
use crate::access::risk::Level;
use crate::access::rule::{Decision, Pattern, Policy, Quorum, Role, Rule};
use crate::operator;

const DAY: Duration = Duration::from_secs(86_400);

/// The most people that may have to agree.
const MOST_REQUIRED: u64 = 10;

/// A decision as it is written, before it is known how many people it asks.
#[derive(Clone, Copy)]
enum Word {
    Approve,
    Ask,
    Deny,
}

impl Word {
    fn with(self, quorum: Quorum) -> Decision {
        match self {
            Self::Approve => Decision::Approve,
            Self::Ask => Decision::Ask(quorum),
            Self::Deny => Decision::Deny,
        }
    }
}

const WORDS: [(&str, Word); 3] = [("approve", Word::Approve), ("ask", Word::Ask), ("deny", Word::Deny)];

/// `operators`: those of the file, if all of them could be named.
pub fn read(mut section: Section<'_>, operators: Option<&[operator::Settings]>, context: &Context<'_>) -> Settings {
    let default = section.choice("default", &WORDS, &[]);
    let quorum = quorum(&mut section, Quorum::default());
    let signers = signers(section.table("signers", "`signers`"), operators);
    let grants = grants(&mut section, &signers, context);
    let rules = section.tables("rule", "[[approval.rule]]").unwrap_or_default();
    let rules = rules.into_iter().filter_map(|each| rule(each, quorum, context)).collect();
    // The section itself says that somebody wants to be asked.
    let default = section.is_present().then(|| default.unwrap_or(Word::Ask).with(quorum));
    section.finish();
    Settings { policy: Policy { rules, default, quorum }, signers, grants }
}

/// How many people are asked, and of which role, where a key does not say otherwise.
fn quorum(section: &mut Section<'_>, otherwise: Quorum) -> Quorum {
    let required = section.integer("required", 1..=MOST_REQUIRED);
    let required = required.and_then(|number| NonZeroU32::new(u32::try_from(number).ok()?));
    let role = section.choice("role", &[("approver", Role::Approver), ("admin", Role::Admin)], &[]);
    Quorum { required: required.unwrap_or(otherwise.required), role: role.unwrap_or(otherwise.role) }
}

fn signers(section: Section<'_>, operators: Option<&[operator::Settings]>) -> BTreeMap<String, PublicKey> {
    let report = section.report;
    let signer = |(name, value): (Spanned<&str>, &Spanned<DeValue<'_>>)| {
        let DeValue::String(text) = value.get_ref() else {
            report.error(value.span(), "`signers`: a signer's key is a string", None);
            return None;
        };
        if let Err(error) = value::text(name.get_ref()) {
            report.error(name.span(), format!("`signers`: a signer's name {error}"), None);
            return None;
        }
        if let Some(operators) = operators {
            must_be_an_operator(&name, operators, report);
        }
        let key = text.parse().map_err(|error| {
            // A private key may have been pasted here.
            conceal(report, value);
            report.error(value.span(), format!("`signers`: {error}"), None);
        });
        Some(((*name.get_ref()).to_owned(), key.ok()?))
    };
    let mut signers: BTreeMap<String, PublicKey> = BTreeMap::new();
    let entries = section.entries().map(|(name, value)| (value.span(), signer((name, value))));
    for (span, (name, key)) in entries.filter_map(|(span, signer)| Some((span, signer?))) {
        match signers.iter().find(|(_, known)| **known == key) {
            // Whoever has it would be as many people as it has names.
            Some((other, _)) => report.error(span, format!("`signers`: {name} and {other} have the same key"), None),
            None => drop(signers.insert(name, key)),
        }
    }
    signers
}

/// Of nobody else are the groups known, for which it must not sign.
fn must_be_an_operator(name: &Spanned<&str>, operators: &[operator::Settings], report: &Report<'_>) {
    let names = || operators.iter().map(|operator| operator.name.as_str());
    if names().any(|known| known == *name.get_ref()) {
        return;
    }
    let message = format!(
        "`signers`: there is no operator `{}`, so that nobody knows whose requests it must not sign",
        name.get_ref()
    );
    let help = did_you_mean(name.get_ref(), names())
        .unwrap_or_else(|| "add an [[operator]] of this name, with its `groups` and the role \"approver\"".to_owned());
    report.error(name.span(), message, help);
}

fn grants(section: &mut Section<'_>, signers: &BTreeMap<String, PublicKey>, context: &Context<'_>) -> Option<PathBuf> {
    let folder = section.path("grants", context.base);
    if folder.is_some() && signers.is_empty() && !section.has("signers") {
        let message = "`grants` names a folder, and no signature counts: there are no `signers`";
        section.refuse("grants", message, "add `signers = { alice = \"ed25519:...\" }`");
    }
    folder
}

fn rule(mut section: Section<'_>, quorum: Quorum, context: &Context<'_>) -> Option<Rule> {
    let name = section.text("name");
    section.require("name", "the rule has no name", "name = \"read-only\"");
    section.require("decide", "the rule does not say what it decides", "decide = \"approve\"");
    let levels = [("low", Level::Low), ("medium", Level::Medium), ("high", Level::High)];
    let mut rule = Rule {
        name: String::new(),
        tokens: patterns(&mut section, "tokens"),
        owners: patterns(&mut section, "owners"),
        scopes: patterns(&mut section, "scopes"),
        hosts: patterns(&mut section, "hosts"),
        sources: patterns(&mut section, "sources"),
        max_ttl: section.duration("max_ttl", Duration::from_secs(1)..=DAY * 3660),
        max_risk: section.choice("max_risk", &levels, &[]),
        decide: Decision::Deny,
    };
    let word = section.choice("decide", &WORDS, &[]);
    let own = self::quorum(&mut section, quorum);
    let matches_all = ["tokens", "owners", "scopes", "hosts", "sources", "max_ttl", "max_risk"];
    if matches!(word, Some(Word::Approve)) && !matches_all.iter().any(|key| section.has(key)) {
        let message = "the rule approves every request, whatever it asks for";
        context.report.warning(
            section.at(),
            message,
            "name the scopes that it is about, as in `scopes = [\"*:read\"]`",
        );
    }
    section.finish();
    rule.name = name?;
    rule.decide = word?.with(own);
    Some(rule)
}

fn patterns(section: &mut Section<'_>, key: &'static str) -> Option<Vec<Pattern>> {
    let texts = section.strings(key)?;
    if texts.is_empty() {
        section.refuse(
            key,
            format!("`{key}` is empty, so that the rule matches nothing"),
            "remove the key, or name one",
        );
    }
    Some(texts.iter().map(|text| Pattern::new(text.get_ref())).collect())
}
