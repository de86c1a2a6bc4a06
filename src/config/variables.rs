//! Variables that take the place of a scalar of the file: `COUNTERSIGN_PROXY__WORKERS=4` is `workers = 4` in `[proxy]`.
//!
//! Invariant: none of them decides who may do what. There is a list of those that are taken; others are errors.

use std::borrow::Cow;
use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Report, nearest};

/// What the names of variables start with.
pub const PREFIX: &str = "COUNTERSIGN_";

/// What parts a section from its key.
pub const SEPARATOR: &str = "__";

/// The keys that a variable may set.
const KEYS: &[&str] = &[
    "proxy.workers",
    "proxy.drain",
    "proxy.watch",
    "proxy.acquire_timeout",
    "proxy.limits.connections",
    "proxy.limits.connections_per_client",
    "proxy.limits.header_bytes",
    "proxy.limits.header_count",
    "proxy.limits.target_bytes",
    "proxy.limits.header_timeout",
    "proxy.limits.idle_timeout",
    "proxy.limits.body_timeout",
    "telemetry.listen",
    "telemetry.log.level",
    "telemetry.log.format",
    "telemetry.log.access",
    "state.dir",
    "state.keep_generations",
    "admin.listen",
];

/// Puts the variables into the file's table, each in a place of its own after the text.
pub fn apply<'a>(table: &mut DeTable<'a>, variables: &'a BTreeMap<String, String>, report: &Report<'_>) {
    for (variable, text) in variables {
        let at = report.outside(variable);
        let written = variable.strip_prefix(PREFIX).unwrap_or(variable);
        let Some(key) = KEYS.iter().find(|key| name(key) == written) else {
            let known: Vec<String> = KEYS.iter().map(|key| name(key)).collect();
            let near = nearest(written, known.iter().map(String::as_str));
            let near = near.map(|near| format!("did you mean `{PREFIX}{near}`?"));
            let help =
                near.unwrap_or("variables set scalars of [proxy], [telemetry], [state] and [admin] only".to_owned());
            report.error(at, "no variable of this name sets anything", help);
            continue;
        };
        let place = |value| Spanned::new(at.clone(), value);
        let (sections, key) = key.rsplit_once('.').unwrap_or(("", key));
        let mut inner = Some(&mut *table);
        for section in sections.split('.') {
            inner = inner.and_then(|table| {
                let key = Spanned::new(at.clone(), Cow::Borrowed(section));
                let found = table.entry(key).or_insert_with(|| place(DeValue::Table(DeTable::new())));
                match found.get_mut() {
                    DeValue::Table(table) => Some(table),
                    // Reported when the section is read.
                    _ => None,
                }
            });
        }
        if let Some(table) = inner {
            table.insert(Spanned::new(at.clone(), Cow::Borrowed(key)), place(value(text)));
        }
    }
}

/// `PROXY__LIMITS__CONNECTIONS`
fn name(key: &str) -> String {
    key.replace('.', SEPARATOR).to_ascii_uppercase()
}

/// What looks like an integer or a boolean is one; all else is a text.
fn value(text: &str) -> DeValue<'_> {
    let parsed = DeValue::parse(text).map(Spanned::into_inner).ok();
    let plain = parsed.filter(|value| value.is_integer() || value.is_bool());
    plain.unwrap_or(DeValue::String(Cow::Borrowed(text)))
}
