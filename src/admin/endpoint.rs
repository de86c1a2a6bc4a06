//! The table of endpoints: for each its method, path, role, fields and what does the work. Calls are matched and judged by
//! it, and `/openapi.json` is made from it, so that neither can say what the other does not.
//!
//! Invariant: a call reaches its work only with the role that it needs, and with fields of the right form and no others.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Map, Value};

use super::answer::{Answer, Refusal};
use super::{Admin, Pending, anomalies, audit, clients, drill, openapi, reports, requests, running, tokens, usage};
use crate::access::request::Digest;
use crate::access::submission::{self, MOST_RULES};
use crate::name::RouteName;
use crate::operator::{Operator, Role};
use crate::text;

/// The largest number of a field: larger ones are not the same to every reader of JSON.
const MOST: u64 = (1 << 53) - 1;

/// The longest text of a field, in characters.
pub const LONGEST_TEXT: usize = submission::LONGEST_REASON;

/// From a second to 7 days, in each unit, for those who read the description.
const DURATIONS: &str = concat!(
    "^(",
    "([1-9][0-9]{3,7}|[1-5][0-9]{8}|60[0-3][0-9]{6}|604[0-7][0-9]{5}|604800000)ms|",
    "([1-9][0-9]{0,4}|[1-5][0-9]{5}|60[0-3][0-9]{3}|604[0-7][0-9]{2}|604800)s|",
    "([1-9][0-9]{0,3}|100[0-7][0-9]|10080)m|",
    "([1-9][0-9]?|1[0-5][0-9]|16[0-8])h|",
    "[1-7]d",
    ")$"
);

/// How long ago something may have begun.
const AGES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(365 * 86_400);

/// The same, for those who read the description.
const AGE: &str = concat!(
    "^(",
    "([1-9][0-9]{0,9}|[12][0-9]{10}|30[0-9]{9}|31[0-4][0-9]{8}|315[0-2][0-9]{7}|3153[0-5][0-9]{6}|31536000000)ms|",
    "([1-9][0-9]{0,6}|[12][0-9]{7}|30[0-9]{6}|31[0-4][0-9]{5}|315[0-2][0-9]{4}|3153[0-5][0-9]{3}|31536000)s|",
    "([1-9][0-9]{0,4}|[1-4][0-9]{5}|5[01][0-9]{4}|52[0-4][0-9]{3}|525[0-5][0-9]{2}|525600)m|",
    "([1-9][0-9]{0,2}|[1-7][0-9]{3}|8[0-6][0-9]{2}|87[0-5][0-9]|8760)h|",
    "([1-9][0-9]?|[12][0-9]{2}|3[0-5][0-9]|36[0-5])d",
    ")$"
);

/// The most texts of a list.
const MOST_TEXTS: usize = 100;

/// Stands in a path for a name or an id.
const PARAMETERS: [&str; 2] = ["{name}", "{id}"];

/// The longest name or id.
const LONGEST_PARAMETER: usize = 128;

pub struct Endpoint {
    pub method: Method,
    /// As `/v1/tokens/{name}/rotate`.
    pub path: &'static str,
    pub role: Role,
    /// A sentence for people.
    pub summary: &'static str,
    /// Of the query for `GET`, of the body for `POST`.
    pub fields: &'static [Field],
    /// What it answers when it did what was asked, and in which form (JSON Schema).
    pub answer: (StatusCode, fn() -> Value),
    /// With what it refuses, beyond what any call may be refused for.
    pub refusals: &'static [StatusCode],
    pub work: for<'a> fn(&'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>>,
}

pub struct Field {
    pub name: &'static str,
    pub shape: Shape,
    pub required: bool,
    pub about: &'static str,
}

/// What a field may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// One line for people.
    Text,
    /// Several of them.
    Texts,
    /// Rules of routes, as `METHOD /path` or `ROUTE:METHOD /path`.
    Rules,
    /// A whole number, as a query writes it.
    Number,
    /// For how long something is wanted, as `30m`.
    Duration,
    /// For how long something has gone on, as `30d`.
    Age,
    /// The digest of an access request.
    Digest,
}

/// Why something is taken away, or let in.
pub const REASON: Field = Field { name: "reason", shape: Shape::Text, required: true, about: "Why, for the trail" };

/// Why something is done that takes nothing away.
pub const REASON_IF_ANY: Field = Field { required: false, ..REASON };

/// A call that may be made.
pub struct Call<'a> {
    pub admin: &'a Admin,
    pub operator: &'a Operator,
    /// The name or id in the path; empty where there is none.
    pub parameter: &'a str,
    pub fields: Map<String, Value>,
}

impl Call<'_> {
    /// A field of this shape: empty where it was not given.
    pub fn text(&self, field: &Field) -> &str {
        self.fields.get(field.name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number; `None` where it was not given.
    pub fn number(&self, field: &Field) -> Option<u64> {
        number(self.text(field))
    }

    /// A list of texts; `None` where it was not given.
    pub fn texts(&self, field: &Field) -> Option<Vec<&str>> {
        let list = self.fields.get(field.name).and_then(Value::as_array)?;
        Some(list.iter().filter_map(Value::as_str).collect())
    }
}

/// All of them.
pub fn endpoints() -> impl Iterator<Item = &'static Endpoint> {
    let parts = [
        tokens::ENDPOINTS,
        drill::ENDPOINTS,
        requests::ENDPOINTS,
        reports::ENDPOINTS,
        anomalies::ENDPOINTS,
        clients::ENDPOINTS,
        usage::ENDPOINTS,
        audit::ENDPOINTS,
        running::ENDPOINTS,
        openapi::ENDPOINTS,
    ];
    parts.into_iter().flatten()
}

/// The endpoint for a method and a path, and the name or id in that path.
///
/// # Errors
/// When there is none: of this path, or of this method.
pub fn find<'p>(method: &Method, path: &'p str) -> Result<(&'static Endpoint, &'p str), Refusal> {
    let mut others = Vec::new();
    for endpoint in endpoints() {
        if let Some(parameter) = matches(endpoint.path, path) {
            if endpoint.method == *method {
                return Ok((endpoint, parameter));
            }
            others.push(&endpoint.method);
        }
    }
    match others[..] {
        [] => Err(Refusal::NotFound),
        [only] if *only == Method::GET => Err(Refusal::MethodRefused("GET")),
        [only] if *only == Method::POST => Err(Refusal::MethodRefused("POST")),
        _ => Err(Refusal::MethodRefused("GET, POST")),
    }
}

/// The name or id in a path that a template describes; empty where the template has none.
fn matches<'p>(template: &str, path: &'p str) -> Option<&'p str> {
    let (mut wanted, mut found) = (template.split('/'), path.split('/'));
    let mut parameter = "";
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return Some(parameter),
            (Some(wanted), Some(found)) if PARAMETERS.contains(&wanted) && is_parameter(found) => parameter = found,
            (Some(wanted), Some(found)) if wanted == found => {}
            _ => return None,
        }
    }
}

/// Names and ids are plain: nothing in a path is decoded.
fn is_parameter(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=LONGEST_PARAMETER).contains(&text.len()) && text.bytes().all(plain)
}

impl Endpoint {
    /// Judges the fields of a call.
    ///
    /// # Errors
    /// With what is wrong with them.
    pub fn judge(&self, fields: &Map<String, Value>) -> Result<(), Refusal> {
        for name in fields.keys() {
            if !self.fields.iter().any(|field| field.name == name) {
                let known: Vec<_> = self.fields.iter().map(|field| field.name).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Refusal::Invalid(format!("it has an unknown field; the fields of this call: {known}")));
            }
        }
        for field in self.fields {
            match fields.get(field.name) {
                None if field.required => {
                    return Err(Refusal::Invalid(format!("the field `{}` is missing: {}", field.name, field.about)));
                }
                Some(value) if !field.shape.fits(value) => {
                    return Err(Refusal::Invalid(format!(
                        "the field `{}` must be {}",
                        field.name,
                        field.shape.words()
                    )));
                }
                None | Some(_) => {}
            }
        }
        Ok(())
    }
}

impl Shape {
    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Text => value.as_str().is_some_and(is_line),
            Self::Number => value.as_str().is_some_and(|text| number(text).is_some()),
            Self::Duration => is_duration(value, &submission::LENGTHS),
            Self::Age => is_duration(value, &AGES),
            Self::Digest => value.as_str().is_some_and(|text| text.parse::<Digest>().is_ok()),
            Self::Rules => value.as_array().is_some_and(|list| {
                list.len() <= MOST_RULES && list.iter().all(|rule| rule.as_str().is_some_and(is_rule))
            }),
            Self::Texts => value.as_array().is_some_and(|list| {
                (1..=MOST_TEXTS).contains(&list.len()) && list.iter().all(|text| text.as_str().is_some_and(is_line))
            }),
        }
    }

    fn words(self) -> String {
        match self {
            Self::Text => format!("one line of text, of 1 to {LONGEST_TEXT} characters"),
            Self::Number => format!("a whole number, up to {MOST}"),
            Self::Duration => "a duration from 1s to 7d, as in 30m".to_owned(),
            Self::Age => "a duration of 365d at most, as in 30m".to_owned(),
            Self::Digest => "64 hex digits, in lower case".to_owned(),
            Self::Rules => format!("a list of at most {MOST_RULES} rules, each METHOD /path or ROUTE:METHOD /path"),
            Self::Texts => {
                format!("a list of 1 to {MOST_TEXTS} lines of text, each of 1 to {LONGEST_TEXT} characters")
            }
        }
    }

    pub fn schema(self) -> Value {
        match self {
            Self::Rules => serde_json::json!({
                "type": "array", "maxItems": MOST_RULES,
                "items": {
                    "type": "string", "maxLength": LONGEST_TEXT,
                    "pattern": r"^([a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?:)?[A-Z0-9*_-]+ /[\x21-\x7e]*$",
                },
            }),
            Self::Texts => {
                serde_json::json!({ "type": "array", "minItems": 1, "maxItems": MOST_TEXTS, "items": Self::Text.schema() })
            }
            Self::Number => serde_json::json!({ "type": "integer", "minimum": 0, "maximum": MOST }),
            Self::Duration => serde_json::json!({ "type": "string", "pattern": DURATIONS }),
            Self::Age => serde_json::json!({ "type": "string", "pattern": AGE }),
            Self::Digest => serde_json::json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" }),
            Self::Text => serde_json::json!({
                "type": "string", "minLength": 1, "maxLength": LONGEST_TEXT,
                // At least one character that is no space, and none that controls.
                "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$",
            }),
        }
    }
}

fn number(text: &str) -> Option<u64> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| is_plain && *number <= MOST)
}

fn is_duration(value: &Value, range: &RangeInclusive<Duration>) -> bool {
    let length = value.as_str().filter(|text| !text.starts_with('0')).and_then(text::duration);
    length.is_some_and(|length| range.contains(&length))
}

fn is_rule(text: &str) -> bool {
    let (route, rule) = split_rule(text);
    let Some((method, path)) = rule.split_once(' ') else { return false };
    text.len() <= LONGEST_TEXT
        && route.is_none_or(|route| route.parse::<RouteName>().is_ok())
        && !method.is_empty()
        && method.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"*_-".contains(&byte))
        && path.starts_with('/')
        && path.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A rule, and the route that it is for, if it names one.
pub fn split_rule(text: &str) -> (Option<&str>, &str) {
    match text.split_once(':') {
        Some((route, rule)) if !route.contains([' ', '/']) => (Some(route), rule),
        _ => (None, text),
    }
}

fn is_line(text: &str) -> bool {
    !text.trim().is_empty() && !text.chars().any(char::is_control) && text.chars().count() <= LONGEST_TEXT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_described_as_it_is_judged() {
        let day = 86_400_000;
        for (shape, days) in [(Shape::Duration, 7), (Shape::Age, 365)] {
            let schema = shape.schema();
            let pattern = regex::Regex::new(schema["pattern"].as_str().expect("a pattern")).expect("a good one");
            let is_judged_alike = |text: &str| {
                let fits = shape.fits(&text.into());
                assert_eq!(fits, pattern.is_match(text), "{text} as {shape:?}");
                fits
            };
            for (unit, worth) in [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", day)] {
                let most = days * day / worth;
                // All around each place where one more digit, or another one, begins.
                let tens = std::iter::successors(Some(1_u64), |ten| Some(ten * 10)).take_while(|ten| *ten <= 10 * most);
                let cut = |ten: u64| (most / ten) * ten;
                for near in tens.flat_map(|ten| [ten, 2 * ten, 9 * ten, cut(ten), cut(ten) + ten]) {
                    for number in near.saturating_sub(1)..=near + 1 {
                        is_judged_alike(&format!("{number}{unit}"));
                    }
                }
                assert!(is_judged_alike(&format!("{most}{unit}")));
                assert!(!is_judged_alike(&format!("{}{unit}", most + 1)));
            }
            for text in ["", "d", "1", "01d", "0s", "-1d", "+1d", "1 d", "1d ", "1.5h", "1w", "99999999999999999999ms"]
            {
                assert!(!is_judged_alike(text), "{text:?}");
            }
        }
    }
}
