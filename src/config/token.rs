//! `[[token]]`: who asks for it, why, for which scopes and until when; where it comes from and where it may go.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::Context;
use super::reader::Section;
use super::source::pairs::{header, pairs};
use super::{detect, placement, sha256, source, value};
use crate::access::Terms;
use crate::authority::Host;
use crate::detect::response::Override;
use crate::name::TokenName;
use crate::sigv4;
use crate::token::source::Settings as Source;
use crate::token::{Mode, NEVER, Placement, Rotation, Settings, probe};

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

/// A longer grant is worth a look.
const LONG_GRANT: Duration = DAY.saturating_mul(366);

/// What could be read of a token: enough to judge the routes that name it, even where the rest is wrong.
pub struct Token {
    pub name: Option<Spanned<TokenName>>,
    pub hosts: Option<Vec<Host>>,
    pub terms: Terms,
    pub detect: Option<Override>,
    /// Whether it goes when no client has a version of its routes any more.
    pub retires_with_version: bool,
    /// Where it signs for, if it signs.
    pub signs: Option<sigv4::Place>,
    pub settings: Option<Settings>,
}

pub fn read(mut section: Section<'_>, context: &Context<'_>) -> Token {
    let name = section.name::<TokenName>("name");
    let label = name.as_ref().map_or("the token".to_owned(), |name| format!("token `{}`", name.get_ref()));
    say_what_is_missing(&section, &label);
    let owner = section.text("owner");
    let reason = section.text("reason");
    let scopes = scopes(&mut section);
    let further_scopes = further_scopes(&mut section);
    let permanent = permanent(&mut section, &label);
    let grant_ends = if permanent { Some(NEVER) } else { expires(&mut section, &label, context) };
    let hosts = hosts(&mut section);
    let required = section.boolean("required").unwrap_or(true);
    let placement_at = section.place("placement");
    let placement = placement::read(&mut section);
    let mut of_rotation = section.table("rotation", "`rotation`");
    let probe = probe(&mut of_rotation, hosts.as_deref(), context);
    let mode = mode(&mut of_rotation);
    let rotation = rotation(of_rotation, mode);
    let retire_unused = section.duration("retire_unused", HOUR..=DAY * 366);
    let retire_after = section.duration("retire_after", HOUR..=DAY * 366);
    let detect = detect::of_token(section.table("detect", "`detect`"), context);
    super::preset::read(&mut section);
    let source = section.table("source", "`source`");
    let next = section.table("next_source", "`source`");
    let next_source = next.is_present().then(|| reference_of(&next));
    let terms = Terms { permanent, further_scopes, source: reference_of(&source), next_source };
    let read = |source| {
        let mut source = source::read(source, scopes.as_deref(), context);
        if let Some(Source::VaultDynamic(dynamic)) = &mut source {
            dynamic.max_life = rotation.max_life;
        }
        if let (Some(placement), Some(source)) = (&placement, &source) {
            judge_fit(placement, source, &label, placement_at.clone(), context);
        }
        source
    };
    let source = read(source);
    let next_source = if next.is_present() { read(next) } else { None };
    if section.has("next_source") {
        judge_move(&section, &rotation, probe.is_some(), source.as_ref().zip(next_source.as_ref()));
    }
    let placement = placement.map(|placement| match &source {
        Some(source) if source.is_bound() => Placement::Dpop,
        _ => placement,
    });
    source::judge_further(&section, source.as_ref(), &terms.further_scopes);
    section.finish();
    let signs = match &placement {
        Some(Placement::SigV4(place)) => Some(place.clone()),
        _ => None,
    };
    let settings = || {
        Some(Settings {
            name: name.as_ref()?.get_ref().clone(),
            owner: owner?,
            reason: reason?,
            scopes: scopes?,
            grant_ends: grant_ends?,
            hosts: hosts.clone()?,
            required,
            placement: placement?,
            rotation,
            probe,
            retire_unused,
            retire_after,
            source: source?,
            next_source,
        })
    };
    let settings = settings();
    Token { name, hosts, terms, detect, retires_with_version: retire_after.is_some(), signs, settings }
}

/// A source is left for another that is verified, and can be left again.
fn judge_move(section: &Section<'_>, rotation: &Rotation, is_probed: bool, both: Option<(&Source, &Source)>) {
    let refuse = |message: &str, help: &str| section.refuse("next_source", message, help);
    if rotation.mode == Mode::Exclusive {
        refuse(
            "with `mode = \"exclusive\"` there is nothing to go back to from `next_source`",
            "remove `next_source`, or `mode`",
        );
    } else if !is_probed {
        refuse(
            "`next_source` is verified before `source` is left, and there is no `probe`",
            "add `rotation = { probe = \"https://...\" }`",
        );
    }
    if rotation.overlap.is_zero() {
        refuse("with `overlap = \"0s\"` nothing goes back to `source`", "remove `overlap`, or write a longer one");
    }
    let Some((source, next)) = both else { return };
    if source == next {
        refuse("`next_source` is the same as `source`", "remove it");
    }
    if source.is_bound() != next.is_bound() {
        refuse(
            "`next_source` and `source` have to agree about `dpop`: requests carry a proof, or none",
            "write it in both, or in none",
        );
    }
    if matches!((source, next), (Source::RefreshToken(_), Source::RefreshToken(_))) {
        refuse("one refresh token is kept for a token, and `source` has one", "write another kind of source");
    }
}

/// Keys of AWS sign and are sent nowhere; nothing else signs.
fn judge_fit(placement: &Placement, source: &Source, label: &str, at: Range<usize>, context: &Context<'_>) {
    let signs = matches!(placement, Placement::SigV4(_));
    let kind = source.kind();
    if source.is_bound() && *placement != Placement::bearer() {
        let message =
            format!("{label} is bound to a key by `dpop`, and goes into `Authorization` with a proof beside it");
        context.report.error(at.clone(), message, "remove `placement`, or `dpop`");
    }
    if source.gives_keys_of_aws() && !signs {
        let message = format!("{label} has keys of AWS from `{kind}`, and they sign requests: they go into no header");
        context.report.error(at, message, "write `placement = \"sigv4\"`");
    } else if signs && !source.gives_keys_of_aws() {
        let message = format!("{label} is to sign requests to AWS, and `{kind}` gives no keys for that");
        context.report.error(
            at,
            message,
            "take a source whose kind begins with `aws_`, or `exec` with `format = \"aws\"`; or another placement",
        );
    }
}

/// Nothing is provisioned without the first four answers.
fn say_what_is_missing(section: &Section<'_>, label: &str) {
    section.require("name", "the token has no name", "name = \"github\"");
    let questions = [
        ("owner", "who owns it", "owner = \"team@example.com\""),
        ("reason", "why it is needed", "reason = \"read release assets in CI\""),
        ("scopes", "which scopes it needs", "scopes = [\"contents:read\"]"),
        ("expires", "until when it is granted", "expires = \"2027-06-30\""),
        ("hosts", "where it may be sent", "hosts = [\"api.example.com\"]"),
        ("source", "where it comes from", "source = { kind = \"client_credentials\", ... }"),
    ];
    for (key, question, example) in questions {
        let replaced = key == "expires" && section.has("permanent");
        if !replaced {
            section.require(key, format!("{label} does not say {question}"), example);
        }
    }
}

fn scopes(section: &mut Section<'_>) -> Option<Vec<String>> {
    let scopes = list_of_scopes(section, "scopes")?;
    if scopes.is_empty() {
        section.refuse("scopes", "`scopes` must name at least one scope", "as in [\"contents:read\"]");
        return None;
    }
    Some(scopes)
}

/// What can be asked for while the proxy runs, besides `scopes`.
fn further_scopes(section: &mut Section<'_>) -> BTreeSet<String> {
    list_of_scopes(section, "scopes_on_request").unwrap_or_default().into_iter().collect()
}

/// A grant without an end, which people decide about.
fn permanent(section: &mut Section<'_>, label: &str) -> bool {
    let permanent = section.boolean("permanent").unwrap_or(false);
    if permanent && section.has("expires") {
        let message = format!("{label} cannot both end and be permanent");
        section.refuse("permanent", message, "remove `permanent`, or `expires`");
        section.take("expires");
    }
    if !permanent && section.has("permanent") {
        section.require(
            "expires",
            format!("{label} does not say until when it is granted"),
            "expires = \"2027-06-30\"",
        );
    }
    permanent
}

/// SHA-256 over what the section says, in hex: another source is another request. References to secrets are in it, and no
/// secret.
fn reference_of(source: &Section<'_>) -> String {
    let entries = source.entries().map(|(key, value)| ((*key.get_ref()).to_owned(), to_json(value.get_ref())));
    let mut said: serde_json::Map<String, serde_json::Value> = entries.collect();
    // The same path in another vault is another source.
    if said.get("kind").and_then(|kind| kind.as_str()).is_some_and(|kind| kind.starts_with("vault_")) {
        said.insert("[vault]".to_owned(), source.report.vault_address().into());
    }
    sha256(&serde_json::Value::Object(said).to_string())
}

fn to_json(value: &DeValue<'_>) -> serde_json::Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => number.to_string().into(),
        DeValue::Float(number) => number.to_string().into(),
        DeValue::Boolean(value) => (*value).into(),
        DeValue::Datetime(time) => time.to_string().into(),
        DeValue::Array(items) => items.iter().map(|item| to_json(item.get_ref())).collect(),
        DeValue::Table(table) => {
            let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| (text_of(key), to_json(value.get_ref()));
            serde_json::Value::Object(table.iter().map(entry).collect())
        }
    }
}

fn text_of(key: &Spanned<impl AsRef<str>>) -> String {
    key.get_ref().as_ref().to_owned()
}

fn list_of_scopes(section: &mut Section<'_>, key: &'static str) -> Option<Vec<String>> {
    let texts = section.strings(key)?;
    let scope = |text: &Spanned<&str>| {
        if value::is_scope(text.get_ref()) {
            return Some((*text.get_ref()).to_owned());
        }
        let message = format!("`{key}`: a scope is visible ASCII without spaces, quotation marks and backslashes");
        section.report.error(text.span(), message, "write one scope an item");
        None
    };
    // All of them are looked at, so that each problem is told.
    let scopes: Vec<_> = texts.iter().map(scope).collect();
    scopes.into_iter().collect()
}

/// When the grant ends: a date, or a time with its offset.
fn expires(section: &mut Section<'_>, label: &str, context: &Context<'_>) -> Option<Duration> {
    let written = section.take("expires")?;
    let text = match written.get_ref() {
        DeValue::Datetime(time) => time.to_string(),
        DeValue::String(text) => text.to_string(),
        _ => return section.mismatch("expires", written, "a date"),
    };
    let ends =
        value::moment(&text).map_err(|error| section.refuse("expires", format!("`expires`: {error}"), None)).ok()?;
    if ends <= context.environment.now {
        let message = format!("the grant of {label} has ended: the token starts retired");
        context.report.warning(written.span(), message, "ask for it anew with a later `expires`, or remove the token");
    } else if ends > context.environment.now.saturating_add(LONG_GRANT) {
        let message = format!("the grant of {label} lasts for more than a year");
        context.report.warning(written.span(), message, "a shorter one is looked at again sooner");
    }
    Some(ends)
}

fn hosts(section: &mut Section<'_>) -> Option<Vec<Host>> {
    let texts = section.strings("hosts")?;
    if texts.is_empty() {
        section.refuse("hosts", "`hosts` must name at least one host", "as in [\"api.example.com\"]");
        return None;
    }
    let host = |text: &Spanned<&str>| {
        let parsed = Host::parse(text.get_ref()).map_err(|error| {
            if text.get_ref().contains(['@', '?', '#']) {
                section.report.conceal(text.span());
            }
            section.report.error(text.span(), format!("`hosts`: {error}"), "a host is like \"api.example.com\"");
        });
        parsed.ok()
    };
    let hosts: Vec<_> = texts.iter().map(host).collect();
    hosts.into_iter().collect()
}

/// Where a new generation is tried. How a connection to it is protected is for the routes to say.
fn probe(section: &mut Section<'_>, hosts: Option<&[Host]>, context: &Context<'_>) -> Option<probe::Settings> {
    let every = section.duration("probe_every", SECOND * 60..=DAY * 30);
    if section.has("probe_every") && !section.has("probe") {
        section.refuse(
            "probe_every",
            "`probe_every` has no `probe` to ask",
            "add `probe = \"https://...\"`, or remove it",
        );
    }
    let probe = asked(section, context)?;
    let host = &probe.url.authority.host;
    if hosts.is_some_and(|hosts| !hosts.contains(host)) {
        let message = format!("`probe` would send the token to {host}, which is not among its `hosts`");
        section.refuse("probe", message, "write a URL of an API that the token is for");
    }
    Some(probe::Settings { every, ..probe })
}

/// A URL, or a table with what is unlike others about it; `"none"` where a preset has one.
fn asked(section: &mut Section<'_>, context: &Context<'_>) -> Option<probe::Settings> {
    let written = section.take("probe")?;
    let DeValue::Table(table) = written.get_ref() else {
        if written.get_ref().as_str() == Some("none") {
            return None;
        }
        let url = section.endpoint("probe")?;
        context.judge_endpoint("probe", &url);
        return Some(probe::Settings::new(url.into_inner()));
    };
    let mut table = Section::new(section.report, "`probe`", written.span(), Some(table));
    table.require("url", "`probe` does not say whom to ask", "url = \"https://...\"");
    let url = table.endpoint("url");
    let headers = pairs(&mut table, "headers", header);
    let forbidden_passes = table.choice("forbidden", &[("refused", false), ("passed", true)], &[]);
    let ok = table.parsed("ok", value::pointer).map(Spanned::into_inner);
    table.finish();
    let url = url?;
    context.judge_endpoint("url", &url);
    let forbidden_passes = forbidden_passes.unwrap_or(false);
    Some(probe::Settings { headers, forbidden_passes, ok, ..probe::Settings::new(url.into_inner()) })
}

/// What a new generation is to the one before. Where it ends that, nothing can go back to it.
fn mode(section: &mut Section<'_>) -> Mode {
    let modes = [("overlap", Mode::Overlap), ("exclusive", Mode::Exclusive)];
    let mode = section.choice("mode", &modes, &[]).unwrap_or_default();
    let single_instance = section.boolean("single_instance").unwrap_or(false);
    match mode {
        Mode::Exclusive => {
            if !single_instance {
                let message = "with `mode = \"exclusive\"` two replicas would make each other's tokens void";
                section.refuse("mode", message, "add `single_instance = true` to `rotation` if there is one");
            }
            for key in ["overlap", "probe", "probe_every"] {
                if section.has(key) {
                    let message = format!("`{key}` would have no effect: the issuer makes the generation before void");
                    section.refuse(key, message, "remove it, or `mode = \"exclusive\"`");
                }
            }
        }
        Mode::Overlap if section.has("single_instance") => {
            let message = "`single_instance` is for `mode = \"exclusive\"`";
            section.refuse("single_instance", message, "remove it, or add that");
        }
        Mode::Overlap => {}
    }
    mode
}

fn rotation(mut section: Section<'_>, mode: Mode) -> Rotation {
    let rotation = Rotation {
        mode,
        at: section.number("at", 0.1..=0.95).unwrap_or(0.7),
        jitter: section.number("jitter", 0.0..=0.5).unwrap_or(0.1),
        skew: section.duration("skew", Duration::ZERO..=DAY).unwrap_or(Duration::from_secs(30)),
        max_life: section.duration("max_life", SECOND..=DAY * 90).unwrap_or(Duration::from_secs(3600)),
        overlap: section.duration("overlap", Duration::ZERO..=DAY).unwrap_or(Duration::from_secs(30)),
        shorten: section.boolean("shorten").unwrap_or(false),
    };
    if rotation.jitter >= rotation.at {
        let key = if section.has("jitter") { "jitter" } else { "at" };
        section.refuse(key, "`jitter` must be less than `at`: a generation would be replaced as it is issued", None);
    }
    section.finish();
    rotation
}
