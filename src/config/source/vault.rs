//! `source = { kind = "vault_kv", ... }` and `{ kind = "vault_dynamic", ... }`: what the vault of `[vault]` has, or makes.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;

use super::pairs::{pairs, parameter};
use crate::config::Context;
use crate::config::reader::Section;
use crate::secret::vault_path;
use crate::token::source::Settings as Source;
use crate::token::source::vault::{Made, dynamic, kv};
use crate::vault::{Engine, Template};

const SECOND: Duration = Duration::from_secs(1);

/// How often somebody may want to look.
const EVERY: RangeInclusive<Duration> = SECOND..=Duration::from_secs(86_400);

pub fn kv(section: &mut Section<'_>, context: &Context<'_>) -> Option<Source> {
    let path = path(section, "path = \"secret/ci\"", context);
    let made = made(section);
    let engine =
        section.integer("kv", 1..=2).map(|version| if version == 2 { Engine::Versioned } else { Engine::Plain });
    let version = section.integer("version", 1..=u64::from(u32::MAX));
    if version.is_some() && engine == Some(Engine::Plain) {
        let message = "the first version of the key-value engine keeps no versions";
        section.refuse("version", message, "remove `version`, or `kv = 1`");
    }
    let every = section.duration("every", EVERY).unwrap_or(Duration::from_secs(60));
    Some(Source::VaultKv(Box::new(kv::Settings { path: path?, made: made?, engine, version, every })))
}

pub fn dynamic(section: &mut Section<'_>, context: &Context<'_>) -> Option<Source> {
    let path = path(section, "path = \"database/creds/reader\"", context);
    let made = made(section);
    let parameters = section.has("parameters").then(|| pairs(section, "parameters", parameter));
    if parameters.is_none() {
        section.take("parameters");
    }
    let list = section.boolean("list").unwrap_or(false);
    if list && path.as_ref().is_some_and(|path| path.starts_with("auth/")) {
        let message = "the vault lists its own tokens by what nobody can know them by";
        section.refuse("list", message, "remove `list`: it is for the leases of a role");
    }
    // The token's own bound takes its place.
    let max_life = Duration::MAX;
    Some(Source::VaultDynamic(Box::new(dynamic::Settings { path: path?, made: made?, parameters, max_life, list })))
}

fn path(section: &mut Section<'_>, example: &str, context: &Context<'_>) -> Option<String> {
    if context.report.vault().is_none() {
        let help = "add [vault] with its `url` and `auth`";
        section.refuse("kind", "the source asks a vault, and nothing says which", help);
    }
    section.require("path", "`source` does not say where in the vault the token is", example);
    let path =
        |text: &str| vault_path(text).ok_or("a path of a vault has letters, digits and -_.~@:+=, in its segments");
    section.parsed("path", path).map(Spanned::into_inner)
}

/// What the token is made of: a field, or a template of several.
fn made(section: &mut Section<'_>) -> Option<Made> {
    let field = section.parsed("field", Template::of_field);
    let template = section.parsed("template", str::parse::<Template>);
    let base64 = section.boolean("base64").unwrap_or(false);
    match (section.has("field"), section.has("template")) {
        (true, true) => {
            section.refuse("template", "`source` has a `field` and a `template`", "leave one of them");
            None
        }
        (false, false) => {
            section.require("field", "`source` does not say which field the token is", "field = \"token\"");
            None
        }
        (true, false) | (false, true) => Some(Made { template: field.or(template)?.into_inner(), base64 }),
    }
}
