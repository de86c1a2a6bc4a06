//! `[[alert]]`: who is told of alerts.

use toml::Spanned;

use super::reader::Section;
use super::{Context, cross, tls};
use crate::alert::{Kind, Settings, Severity};
use crate::authority::Endpoint;
use crate::name::SinkName;
use crate::secret::Reference;

#[derive(Clone, Copy)]
enum Word {
    Alertmanager,
    Log,
    Webhook,
}

/// The sinks of the file. One that is wrong is left out, with an error reported.
pub fn read(sections: Vec<Section<'_>>, context: &Context<'_>) -> Vec<Settings> {
    let numbered = sections.into_iter().zip(1..);
    let sinks: Vec<Spanned<Settings>> =
        numbered.filter_map(|(section, number)| one(section, number, context)).collect();
    cross::unique("alert sink", sinks.iter().map(Some), context);
    sinks.into_iter().map(Spanned::into_inner).collect()
}

fn one(mut section: Section<'_>, number: usize, context: &Context<'_>) -> Option<Spanned<Settings>> {
    let kinds = [("alertmanager", Word::Alertmanager), ("log", Word::Log), ("webhook", Word::Webhook)];
    section.require("kind", "the alert does not say of which kind its sink is", "kind = \"alertmanager\"");
    let kind = section.choice("kind", &kinds, &[]);
    let name = section.name::<SinkName>("name");
    let severities = Severity::ALL.map(|severity| (severity.as_str(), severity));
    let severity = section.choice("severity", &severities, &[]).unwrap_or(Severity::Low);
    let url = section.endpoint("url");
    let secret = section.reference("secret", context.base);
    let tls = tls::read(section.table("tls", "`tls`"), url.as_ref(), context);
    let runbooks = section.endpoint("runbooks").map(Spanned::into_inner);
    if let Some(url) = &url {
        context.judge_endpoint("url", url);
    }
    match kind {
        Some(Word::Alertmanager) => {
            section.require("url", "nothing says where Alertmanager is", "url = \"https://alertmanager.example\"");
            none(&section, "secret", "Alertmanager checks no signature");
        }
        Some(Word::Webhook) => {
            section.require("url", "nothing says where the webhook is", "url = \"https://hooks.example/countersign\"");
            section.require(
                "secret",
                "nothing says what the webhook is signed with",
                "secret = \"env:WEBHOOK_SECRET\"",
            );
        }
        Some(Word::Log) => {
            for key in ["url", "secret", "tls", "runbooks"] {
                none(&section, key, "the log is our own");
            }
        }
        None => {}
    }
    let (is_named, at) = (section.has("name"), section.place("name"));
    section.finish();
    let kind = kind?;
    let name = match name {
        Some(name) => name.into_inner(),
        None if is_named => return None,
        None => default_name(kind, number),
    };
    let endpoint = url.map(Spanned::into_inner);
    let kind = of_kind(kind, endpoint, tls, secret)?;
    Some(Spanned::new(at, Settings { name, severity, kind, runbooks }))
}

fn of_kind(
    word: Word,
    endpoint: Option<Endpoint>,
    tls: crate::tls::Settings,
    secret: Option<Reference>,
) -> Option<Kind> {
    Some(match word {
        Word::Log => Kind::Log,
        Word::Alertmanager => Kind::Alertmanager { endpoint: endpoint?, tls },
        Word::Webhook => Kind::Webhook { endpoint: endpoint?, tls, secret: secret? },
    })
}

/// A key that would have no effect.
fn none(section: &Section<'_>, key: &str, why: &str) {
    if section.has(key) {
        section.refuse(key, format!("`{key}` would have no effect: {why}"), "remove it");
    }
}

fn default_name(word: Word, number: usize) -> SinkName {
    let word = match word {
        Word::Alertmanager => "alertmanager",
        Word::Log => "log",
        Word::Webhook => "webhook",
    };
    format!("{word}-{number}").parse().expect("a word, a hyphen and a number are a name")
}
