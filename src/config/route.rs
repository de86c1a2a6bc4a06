//! `[[route]]`: which upstream, with which token, for whom, and what of it.

use std::num::NonZeroU32;
use std::time::Duration;

use semver::VersionReq;
use toml::Spanned;
use toml::de::DeValue;

use super::reader::Section;
use super::{Context, tls, version};
use crate::authority::{Endpoint, Scheme};
use crate::name::{ClientName, RouteName, TokenName};
use crate::path::Form;
use crate::policy::Mode;
use crate::policy::limit::{Limits, Rate};
use crate::policy::rule::{Allow, Rule, Rules};
use crate::route::{Settings, Timeouts};

const DAY: Duration = Duration::from_secs(86_400);

/// What could be read of a route: enough to compare it with others, even where the rest is wrong.
pub struct Route {
    pub name: Option<Spanned<RouteName>>,
    pub upstream: Option<Spanned<Endpoint>>,
    pub token: Option<Spanned<TokenName>>,
    pub clients: Option<Vec<Spanned<ClientName>>>,
    /// Of those clients it is for.
    pub version: Option<Spanned<VersionReq>>,
    pub settings: Option<Settings>,
}

pub fn read(mut section: Section<'_>, context: &Context<'_>) -> Route {
    let name = section.name::<RouteName>("name");
    let label = name.as_ref().map_or("the route".to_owned(), |name| format!("route `{}`", name.get_ref()));
    section.require("name", "the route has no name", "name = \"github\"");
    super::preset::read(&mut section);
    section.require(
        "upstream",
        format!("{label} does not name its upstream"),
        "upstream = \"https://api.example.com\"",
    );
    let upstream = section.endpoint("upstream");
    if let Some(url) = &upstream {
        context.judge_endpoint("upstream", url);
    }
    let token = section.name::<TokenName>("token");
    let clients = section.names::<ClientName>("clients");
    if clients.as_ref().is_some_and(Vec::is_empty) {
        section.refuse("clients", "`clients` must name at least one client", "remove the key to let every client pass");
    }
    let version = section.parsed("version", version::range);
    let rules = rules(&mut section, &label);
    let mode = section.choice("mode", &[("enforce", Mode::Enforce), ("observe", Mode::Observe)], &[]);
    if mode == Some(Mode::Observe) {
        let message = format!("{label} only observes: what its rules and its rate would refuse passes");
        context.report.warning(section.place("mode"), message, "remove the key to enforce them");
    }
    let rate = section.parsed("rate", str::parse::<Rate>).map(Spanned::into_inner);
    let intercept = section.boolean("intercept").unwrap_or(false);
    if intercept && upstream.as_ref().is_some_and(|upstream| upstream.get_ref().scheme == Scheme::Http) {
        let message = "`intercept` is for upstreams under TLS: a tunnel leads to no other";
        section.refuse("intercept", message, "remove the key, or give the route an https:// upstream");
    }
    let limits = limits(section.table("limits", "`limits`"));
    let scrub = section.boolean("scrub").unwrap_or(false);
    if scrub && token.is_none() {
        section.refuse("scrub", format!("{label} has no token to look for"), "remove the key, or name a `token`");
    }
    let keeps_cookies = section.choice("set_cookie", &[("strip", false), ("pass", true)], &[]);
    let websocket = section.boolean("websocket").unwrap_or(false);
    if websocket && scrub {
        let message = "`websocket` and `scrub` exclude each other: what a tunnel carries is not looked at";
        section.refuse("websocket", message, "remove one of them");
    }
    let timeouts = timeouts(section.table("timeouts", "`timeouts`"));
    let tls = tls::read(section.table("tls", "`tls`"), upstream.as_ref(), context);
    section.finish();
    let settings = || {
        Some(Settings {
            name: name.as_ref()?.get_ref().clone(),
            upstream: upstream.as_ref()?.get_ref().clone(),
            token: token.as_ref().map(|token| token.get_ref().clone()),
            clients: clients.as_ref().map(|list| list.iter().map(|client| client.get_ref().clone()).collect()),
            rules: rules?,
            mode: mode.unwrap_or(Mode::Enforce),
            rate,
            limits,
            timeouts,
            scrub,
            keeps_cookies: keeps_cookies.unwrap_or(token.is_none()),
            tls,
            websocket,
            intercept,
        })
    };
    let settings = settings();
    Route { name, upstream, token, clients, version, settings }
}

/// What the route lets pass. Nothing passes by default, and a route that says nothing is a mistake.
fn rules(section: &mut Section<'_>, label: &str) -> Option<Rules> {
    let form =
        section.choice("path", &[("strict", Form::Strict), ("opaque", Form::Opaque)], &[]).unwrap_or(Form::Strict);
    if !section.has("allow") {
        let help = "list what the app calls, as in `allow = [\"GET /repos/**\"]`; all of it is `allow = \"any\"`";
        section.report.error(section.at(), format!("{label} does not say what it allows"), help);
    }
    let allow = allow(section, form, label);
    let deny = these(section, "deny", form);
    let minting = these(section, "minting", form);
    Some(Rules { form, allow: allow?, deny: deny.unwrap_or_default(), minting: minting.unwrap_or_default() })
}

/// A list of rules that is not empty, or `"any"`.
fn allow(section: &mut Section<'_>, form: Form, label: &str) -> Option<Allow> {
    section.take("allow").and_then(|written| match written.get_ref() {
        DeValue::String(text) if text == "any" => Some(Allow::Any),
        DeValue::String(text) => {
            let help = if Rule::parse(text, form).is_ok() { "put it in brackets" } else { "as in [\"GET /repos/**\"]" };
            section.refuse("allow", "`allow` must be a list of rules, or \"any\"", help);
            None
        }
        DeValue::Array(list) if list.is_empty() => {
            section.refuse("allow", format!("{label} allows nothing"), "as in [\"GET /repos/**\"]");
            None
        }
        _ => these(section, "allow", form).map(Allow::These),
    })
}

/// The rules of a client, on top of its routes'. What they say holds for paths of either form.
pub fn rules_of_client(section: &mut Section<'_>, label: &str) -> Rules {
    let allow = allow(section, Form::Strict, label);
    let deny = these(section, "deny", Form::Strict);
    Rules {
        form: Form::Strict,
        allow: allow.unwrap_or(Allow::Any),
        deny: deny.unwrap_or_default(),
        minting: Vec::new(),
    }
}

fn these(section: &mut Section<'_>, key: &'static str, form: Form) -> Option<Vec<Rule>> {
    let texts = section.strings(key)?;
    let rule = |text: &Spanned<&str>| {
        let parsed = Rule::parse(text.get_ref(), form).map_err(|error| {
            section.report.error(text.span(), format!("`{key}`: {error}"), None);
        });
        parsed.ok()
    };
    let rules: Vec<_> = texts.iter().map(rule).collect();
    rules.into_iter().collect()
}

fn limits(mut section: Section<'_>) -> Limits {
    let concurrency = section.integer("concurrency", 1..=1_000_000);
    let concurrency = concurrency.and_then(|most| NonZeroU32::new(u32::try_from(most).ok()?));
    let limits = Limits { concurrency, body: section.size("body", 1..=1 << 40) };
    section.finish();
    limits
}

fn timeouts(mut section: Section<'_>) -> Timeouts {
    let least = Duration::from_millis(1);
    let Timeouts { connect, response, idle } = Timeouts::default();
    let timeouts = Timeouts {
        connect: section.duration("connect", least..=Duration::from_secs(300)).unwrap_or(connect),
        response: section.duration("response", least..=DAY).unwrap_or(response),
        idle: section.duration("idle", least..=DAY).unwrap_or(idle),
    };
    section.finish();
    timeouts
}
