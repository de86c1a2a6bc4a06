//! `preset = "github"`: what is the same for everybody who calls an API need not be written.
//!
//! ```text
//!  [[token]] preset ─► its absent keys            [[route]] preset, else its token's ─► its absent keys
//! ```
//!
//! A preset is TOML, put into the file's own tables before these are read: what is filled in is judged, shown, asked for and
//! approved as if somebody had written it there. Whatever the file writes wins.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::reader::Section;
use crate::authority::{Endpoint, Host};
use crate::identity::{Format, FormatError};

const PRESETS: &str = include_str!("preset/presets.toml");

/// The names, as the reader takes them; a test compares them with what there is.
const NAMES: [(&str, ()); 9] = [
    ("github", ()),
    ("gitlab", ()),
    ("openai", ()),
    ("anthropic", ()),
    ("stripe", ()),
    ("slack", ()),
    ("aws", ()),
    ("gcp", ()),
    ("azure", ()),
];

/// What a preset has filled in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filled {
    /// `token` or `route`.
    pub section: &'static str,
    pub name: String,
    pub preset: String,
    /// As they are written: `rotation.probe`.
    pub keys: Vec<String>,
}

/// `route github: preset github fills in upstream, minting`
impl std::fmt::Display for Filled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { section, name, preset, keys } = self;
        write!(f, "{section} {name}: preset {preset} fills in {}", keys.join(", "))
    }
}

/// The key itself. What is wrong with it is reported here, and only here.
pub fn read(section: &mut Section<'_>) {
    section.choice("preset", &NAMES, &[]);
}

/// The format of a phantom key: one of its own names, a template, or that of a preset.
///
/// # Errors
/// When it is none of them, or the preset's SDK takes no key that could be made.
pub fn phantom(text: &str) -> Result<Format, FormatError> {
    let presets = all();
    match preset(&presets, text) {
        Some(preset) => preset.get("phantom").and_then(|format| format.get_ref().as_str()).unwrap_or_default().parse(),
        None => text.parse(),
    }
}

fn all() -> DeTable<'static> {
    DeTable::parse(PRESETS).map(Spanned::into_inner).unwrap_or_default()
}

fn preset<'p>(presets: &'p DeTable<'static>, name: &str) -> Option<&'p DeTable<'static>> {
    presets.get(name)?.get_ref().as_table()
}

/// A preset that a section names, and where: what it fills in stands there.
type Named = Spanned<String>;

/// Fills in what presets have and the file's tokens and routes have not.
pub fn apply(file: &mut DeTable<'_>) -> Vec<Filled> {
    let mut filled = Vec::new();
    let mut of_tokens = BTreeMap::new();
    let is_used = |table: &DeTable<'_>| table.contains_key("preset");
    if !["token", "route"].into_iter().any(|key| sections(file, key).any(|section| is_used(section))) {
        return filled;
    }
    let presets = all();
    for token in sections(file, "token") {
        let (Some(named), name) = (text(token, "preset"), text(token, "name")) else { continue };
        if let Some(preset) = preset(&presets, named.get_ref()) {
            let keys = fill_token(token, preset, &named);
            filled.extend(told("token", name.as_ref(), &named, keys));
        }
        of_tokens.extend(name.map(|name| (name.into_inner(), named)));
    }
    for route in sections(file, "route") {
        let of_token = || {
            let token = text(route, "token")?;
            of_tokens.get(token.get_ref()).map(|named| Spanned::new(token.span(), named.get_ref().clone()))
        };
        let Some(named) = text(route, "preset").or_else(of_token) else { continue };
        if let Some(preset) = preset(&presets, named.get_ref()) {
            let keys = fill_route(route, preset, &named);
            filled.extend(told("route", text(route, "name").as_ref(), &named, keys));
        }
    }
    filled
}

fn told(section: &'static str, name: Option<&Named>, preset: &Named, keys: Vec<String>) -> Option<Filled> {
    let (name, preset) = (name?.get_ref().clone(), preset.get_ref().clone());
    (!keys.is_empty()).then_some(Filled { section, name, preset, keys })
}

fn sections<'t, 'a>(file: &'t mut DeTable<'a>, key: &str) -> impl Iterator<Item = &'t mut DeTable<'a>> + use<'t, 'a> {
    let list = file.get_mut(key).and_then(|list| match list.get_mut() {
        DeValue::Array(list) => Some(list),
        // Reported when it is read.
        _ => None,
    });
    list.into_iter().flat_map(|list| list.iter_mut()).filter_map(|section| match section.get_mut() {
        DeValue::Table(table) => Some(table),
        _ => None,
    })
}

fn text(table: &DeTable<'_>, key: &str) -> Option<Named> {
    let value = table.get(key)?;
    Some(Spanned::new(value.span(), value.get_ref().as_str()?.to_owned()))
}

/// The keys of a token, and those of its `rotation`.
fn fill_token(token: &mut DeTable<'_>, preset: &DeTable<'static>, named: &Named) -> Vec<String> {
    let Some(DeValue::Table(defaults)) = preset.get("token").map(Spanned::get_ref) else { return Vec::new() };
    let mut keys = fill(token, defaults.iter().filter(|(key, _)| key.get_ref() != "rotation"), named, "");
    let Some(DeValue::Table(rotation)) = defaults.get("rotation").map(Spanned::get_ref) else { return keys };
    if !may_be_probed(token, rotation) {
        return keys;
    }
    let key = Spanned::new(named.span(), Cow::Borrowed("rotation"));
    let own = token.entry(key).or_insert_with(|| Spanned::new(named.span(), DeValue::Table(DeTable::new())));
    if let DeValue::Table(own) = own.get_mut() {
        keys.extend(fill(own, rotation.iter(), named, "rotation."));
    }
    keys
}

/// Whether the preset's probe would be sent to a host of the token, whose generations do not end each other.
fn may_be_probed(token: &DeTable<'_>, rotation: &DeTable<'static>) -> bool {
    let own = token.get("rotation").and_then(|rotation| rotation.get_ref().as_table());
    let is_exclusive = own.and_then(|own| text(own, "mode")).is_some_and(|mode| mode.get_ref() == "exclusive");
    let probe = rotation.get("probe").and_then(|probe| match probe.get_ref() {
        DeValue::Table(probe) => text(probe, "url"),
        _ => text(rotation, "probe"),
    });
    let host = probe.and_then(|url| Endpoint::parse(url.get_ref()).ok()).map(|url| url.authority.host);
    let hosts = token.get("hosts").and_then(|hosts| hosts.get_ref().as_array());
    let mut hosts = hosts.into_iter().flat_map(|hosts| hosts.iter());
    let is_own = |host: &Host, written: &str| Host::parse(written).is_ok_and(|own| own == *host);
    let mut is_among = |host: &Host| hosts.any(|own| own.get_ref().as_str().is_some_and(|own| is_own(host, own)));
    !is_exclusive && host.is_some_and(|host| is_among(&host))
}

fn fill_route(route: &mut DeTable<'_>, preset: &DeTable<'static>, named: &Named) -> Vec<String> {
    let Some(DeValue::Table(defaults)) = preset.get("route").map(Spanned::get_ref) else { return Vec::new() };
    let mut keys = Vec::new();
    if let Some(rules) = minting_at(route, preset) {
        keys.extend(fill(route, [(&Spanned::new(named.span(), Cow::Borrowed("minting")), rules)], named, ""));
    }
    keys.extend(fill(route, defaults, named, ""));
    keys
}

/// What there is to refuse of an upstream whose host begins with a label that the preset knows.
fn minting_at<'p>(route: &DeTable<'_>, preset: &'p DeTable<'static>) -> Option<&'p Spanned<DeValue<'static>>> {
    let upstream = Endpoint::parse(text(route, "upstream")?.get_ref()).ok()?;
    let host = upstream.authority.host.to_string();
    let label = host.split('.').next()?;
    preset.get("minting_at")?.get_ref().as_table()?.get(label.strip_suffix("-fips").unwrap_or(label))
}

/// Puts in what is absent, and says what that was.
fn fill<'p>(
    table: &mut DeTable<'_>,
    defaults: impl IntoIterator<Item = (&'p Spanned<Cow<'static, str>>, &'p Spanned<DeValue<'static>>)>,
    named: &Named,
    before: &str,
) -> Vec<String> {
    let mut keys = Vec::new();
    for (key, value) in defaults {
        if !table.contains_key(&**key.get_ref()) {
            let key = Spanned::new(named.span(), key.get_ref().clone());
            keys.push(format!("{before}{}", key.get_ref()));
            table.insert(key, placed(value.get_ref(), &named.span()));
        }
    }
    keys
}

/// The value, as if it stood at this place of the file.
fn placed(value: &DeValue<'static>, at: &Range<usize>) -> Spanned<DeValue<'static>> {
    let value = match value {
        DeValue::Array(list) => DeValue::Array(list.iter().map(|item| placed(item.get_ref(), at)).collect()),
        DeValue::Table(table) => {
            let entry = |(key, value): (&Spanned<Cow<'static, str>>, &Spanned<DeValue<'static>>)| {
                (Spanned::new(at.clone(), key.get_ref().clone()), placed(value.get_ref(), at))
            };
            DeValue::Table(table.iter().map(entry).collect())
        }
        other => other.clone(),
    };
    Spanned::new(at.clone(), value)
}

#[cfg(test)]
mod tests;
