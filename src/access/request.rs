//! What is asked for: who asks, whose it is, why, for which scopes, hosts and routes, until when, and from which source.
//!
//! Invariant: a request has one digest, over all that a decision is about; whatever is edited makes another request. The
//! digest is the same on every replica, so that what was decided on one holds on the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use aws_lc_rs::digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::Moment;
use crate::name::{RouteName, TokenName};

/// The form of the JSON that is hashed. Another form makes every request another one.
const FORM: u32 = 1;

/// An access request. Its fields stand in alphabetical order, so that its JSON is the canonical one: sorted keys, no spaces.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    pub hosts: BTreeSet<String>,
    /// The source that the token is to move to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_source: Option<Source>,
    /// What sets apart two requests that ask for the same: only those that were submitted have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    pub owner: String,
    pub reason: String,
    pub requester: Requester,
    /// Of a standing request: all that the token may be used for. Of a submitted one: what is allowed in addition.
    pub routes: BTreeMap<RouteName, Reach>,
    pub scopes: BTreeSet<String>,
    pub source: Source,
    pub token: TokenName,
    pub until: Until,
}

/// Who asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Requester {
    /// Whoever owns the config file: the request stands in it.
    ConfigFile,
    /// An operator, who has proved to be that, with its groups.
    Operator { groups: BTreeSet<String>, name: String },
    /// What is unusual about a token's use is the reason: nobody asks.
    Detection,
    /// A job that is this client. Whatever it is granted ends when it does, at the latest.
    Job { client: String, ends: Until, subject: String },
}

impl Requester {
    /// Whether it is the same one, whatever else there is to say of it: a client has many jobs.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Job { client: one, .. }, Self::Job { client: other, .. }) => one == other,
            (one, other) => one == other,
        }
    }
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConfigFile => f.write_str("the owner of the config file"),
            Self::Operator { name, .. } => f.write_str(name),
            Self::Detection => f.write_str("detection"),
            Self::Job { client, subject, .. } => write!(f, "{client} ({subject})"),
        }
    }
}

/// What a route lets pass with the token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reach {
    pub allow: Allow,
    /// `None`: all.
    pub clients: Option<BTreeSet<String>>,
    pub deny: Vec<String>,
    /// Cookies that answers set reach the client.
    #[serde(default, skip_serializing_if = "is_false")]
    pub keeps_cookies: bool,
    /// Requests for credentials, which are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub minting: Vec<String>,
    /// Its rules are not enforced.
    pub observe: bool,
    /// An encoded slash is data.
    pub opaque: bool,
    pub upstream: String,
}

/// What was asked for before there was such a key has the digest that it had.
fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allow {
    Any,
    These(Vec<String>),
}

impl Allow {
    /// Whether nothing is refused by it: also where a rule says so in other words.
    pub fn is_any(&self) -> bool {
        match self {
            Self::Any => true,
            Self::These(rules) => rules.iter().any(|rule| rule == "* /**"),
        }
    }
}

impl Reach {
    /// Whether a rule allows more than this does, as far as the texts say.
    pub fn adds(&self, rule: &str) -> bool {
        match &self.allow {
            Allow::Any => false,
            Allow::These(rules) => !rules.iter().any(|own| own == rule),
        }
    }

    /// With what another one allows besides.
    #[must_use]
    pub fn with(&self, other: Option<&Self>) -> Self {
        let mut both = self.clone();
        let Some(other) = other else { return both };
        both.allow = match (both.allow, &other.allow) {
            (Allow::These(mut rules), Allow::These(more)) => {
                rules.extend(more.iter().filter(|rule| self.adds(rule)).cloned());
                Allow::These(rules)
            }
            (Allow::Any, _) | (_, Allow::Any) => Allow::Any,
        };
        both
    }
}

/// Where generations come from, by reference: what its settings say, hashed. No secret is among them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Source {
    pub kind: String,
    pub settings: String,
    /// It gives values that somebody else made and that may live for ever.
    #[serde(rename = "static")]
    pub is_static: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// Since the Unix epoch.
    At(Duration),
    /// From the moment of its approval.
    For(Duration),
    Permanent,
}

impl Until {
    /// When a grant that begins at `now` ends; `None` if never.
    pub fn end(self, now: Duration) -> Option<Duration> {
        match self {
            Self::At(end) => Some(end),
            Self::For(length) => Some(now.saturating_add(length)),
            Self::Permanent => None,
        }
    }
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(end) => write!(f, "until {}", rfc3339(*end)),
            Self::For(length) => write!(f, "for {} s from its approval", length.as_secs()),
            Self::Permanent => f.write_str("for ever"),
        }
    }
}

/// A time since the Unix epoch.
pub fn rfc3339(since_epoch: Duration) -> String {
    Moment { boot: Duration::ZERO, wall: since_epoch }.to_rfc3339()
}

impl Serialize for Until {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::At(end) => serializer.serialize_str(&rfc3339(*end)),
            Self::For(length) => serializer.serialize_str(&format!("for {}s", length.as_secs())),
            Self::Permanent => serializer.serialize_str("permanent"),
        }
    }
}

impl<'de> Deserialize<'de> for Until {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom("neither a time, nor `for` some seconds, nor `permanent`");
        if text == "permanent" {
            return Ok(Self::Permanent);
        }
        if let Some(length) = text.strip_prefix("for ").and_then(|rest| rest.strip_suffix('s')) {
            return Ok(Self::For(Duration::from_secs(length.parse().map_err(|_| wrong())?)));
        }
        since_epoch(&text).map(Self::At).ok_or_else(wrong)
    }
}

/// The time that a text of RFC 3339 names, since the Unix epoch.
pub fn since_epoch(text: &str) -> Option<Duration> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(Duration::from_millis(u64::try_from(time.as_millisecond()).ok()?))
}

impl Request {
    /// What decisions are bound to.
    pub fn digest(&self) -> Digest {
        #[derive(Serialize)]
        struct Hashed<'a> {
            form: u32,
            request: &'a Request,
        }
        let json = serde_json::to_vec(&Hashed { form: FORM, request: self });
        let json = json.expect("texts, numbers and maps with names for keys are JSON");
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, &json).as_ref());
        Digest(bytes)
    }

    /// When a grant of it that begins at `now` ends; `None` if never.
    pub fn end(&self, now: Duration) -> Option<Duration> {
        let of_job = match &self.requester {
            Requester::Job { ends, .. } => ends.end(now),
            Requester::ConfigFile | Requester::Operator { .. } | Requester::Detection => None,
        };
        [self.until.end(now), of_job].into_iter().flatten().min()
    }

    /// What makes a grant another one to those who have ended one: its owner, its reason, its scopes, its hosts, its end. What
    /// its routes let pass does not, nor where its generations come from.
    pub fn terms(&self) -> Digest {
        let source = Source { kind: String::new(), settings: String::new(), is_static: false };
        Self { routes: BTreeMap::new(), source, next_source: None, ..self.clone() }.digest()
    }

    /// All that its generations come from, now or later.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        std::iter::once(&self.source).chain(&self.next_source)
    }

    /// Whether it asks for time on top of a token that the config defines.
    pub fn is_submitted(&self) -> bool {
        self.nonce.is_some()
    }
}

/// SHA-256 of a request's canonical JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// What people call the request by.
    pub fn id(&self) -> RequestId {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        RequestId([a, b, c, d, e, f, g, h])
    }
}

/// The first 16 hex digits of a request's digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId([u8; 8]);

/// A text is not the hex digits that it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} hex digits are expected, in lower case")]
pub struct NotHex(usize);

macro_rules! hex {
    ($name:ident, $bytes:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&crate::text::hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NotHex;

            fn from_str(text: &str) -> Result<Self, NotHex> {
                let wrong = NotHex(2 * $bytes);
                let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                if text.len() != 2 * $bytes || !text.bytes().all(digit) {
                    return Err(wrong);
                }
                let mut bytes = [0; $bytes];
                for (at, byte) in bytes.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| wrong)?;
                }
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex!(Digest, 32);
hex!(RequestId, 8);

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn standing() -> Request {
        let reach = Reach {
            allow: Allow::These(vec!["GET /repos/**".into()]),
            clients: None,
            deny: Vec::new(),
            keeps_cookies: false,
            minting: Vec::new(),
            observe: false,
            opaque: false,
            upstream: "https://api.example.com/".into(),
        };
        Request {
            hosts: ["api.example.com".to_owned()].into(),
            next_source: None,
            nonce: None,
            owner: "team@example.com".into(),
            reason: "reads releases".into(),
            requester: Requester::ConfigFile,
            routes: [("api".parse().expect("a name"), reach)].into(),
            scopes: ["contents:read".to_owned()].into(),
            source: Source { kind: "client_credentials".into(), settings: "ab".into(), is_static: false },
            token: "api".parse().expect("a name"),
            until: Until::At(Duration::from_secs(1_800_000_000)),
        }
    }

    /// Each a small step away from the other.
    pub fn edits() -> Vec<(&'static str, Request)> {
        let of = |edit: fn(&mut Request)| {
            let mut request = standing();
            edit(&mut request);
            request
        };
        fn reach(request: &mut Request) -> &mut Reach {
            request.routes.values_mut().next().expect("a route")
        }
        vec![
            (
                "host",
                of(|r| {
                    r.hosts.insert("b.example.com".into());
                }),
            ),
            ("owner", of(|r| r.owner.push('x'))),
            ("reason", of(|r| r.reason.push('.'))),
            (
                "scope",
                of(|r| {
                    r.scopes.insert("contents:write".into());
                }),
            ),
            ("fewer scopes", of(|r| r.scopes.clear())),
            ("token", of(|r| r.token = "other".parse().expect("a name"))),
            ("later", of(|r| r.until = Until::At(Duration::from_secs(1_800_000_001)))),
            ("permanent", of(|r| r.until = Until::Permanent)),
            ("for", of(|r| r.until = Until::For(Duration::from_secs(60)))),
            ("source kind", of(|r| r.source.kind = "file".into())),
            ("source", of(|r| r.source.settings = "cd".into())),
            ("next source", of(|r| r.next_source = Some(r.source.clone()))),
            ("any", of(|r| reach(r).allow = Allow::Any)),
            ("allow", of(|r| reach(r).allow = Allow::These(vec!["* /**".into()]))),
            ("clients", of(|r| reach(r).clients = Some(["app".to_owned()].into()))),
            ("deny", of(|r| reach(r).deny = vec!["DELETE /**".into()])),
            ("cookies", of(|r| reach(r).keeps_cookies = true)),
            ("minting", of(|r| reach(r).minting = vec!["POST /token".into()])),
            ("observe", of(|r| reach(r).observe = true)),
            ("opaque", of(|r| reach(r).opaque = true)),
            ("upstream", of(|r| reach(r).upstream = "https://b.example.com/".into())),
            ("no route", of(|r| r.routes.clear())),
            ("nonce", of(|r| r.nonce = Some("1".into()))),
            (
                "requester",
                of(|r| {
                    r.requester = Requester::Operator { groups: BTreeSet::new(), name: "alice".into() };
                }),
            ),
        ]
    }

    #[test]
    fn whatever_is_edited_makes_another_request() {
        let mut seen = BTreeMap::from([(standing().digest(), "itself")]);
        for (what, edited) in edits() {
            assert_eq!(seen.insert(edited.digest(), what), None, "{what}");
        }
        assert_eq!(standing().digest(), standing().digest());
    }

    #[test]
    fn only_what_makes_another_grant_makes_other_terms() {
        let the_same: Vec<&str> = edits()
            .into_iter()
            .filter(|(_, edited)| edited.terms() == standing().terms())
            .map(|(what, _)| what)
            .collect();
        let of_the_source = ["source kind", "source", "next source"];
        let of_routes =
            ["any", "allow", "clients", "deny", "cookies", "minting", "observe", "opaque", "upstream", "no route"];
        assert_eq!(the_same, [&of_the_source[..], &of_routes].concat());
    }

    #[test]
    fn the_digest_is_of_json_with_sorted_keys_and_no_spaces() {
        let json = r#"{"form":1,"request":{"hosts":["api.example.com"],"owner":"team@example.com","reason":"reads releases","requester":"config_file","routes":{"api":{"allow":{"these":["GET /repos/**"]},"clients":null,"deny":[],"observe":false,"opaque":false,"upstream":"https://api.example.com/"}},"scopes":["contents:read"],"source":{"kind":"client_credentials","settings":"ab","static":false},"token":"api","until":"2027-01-15T08:00:00.000Z"}}"#;
        let digest = digest::digest(&digest::SHA256, json.as_bytes());
        assert_eq!(standing().digest().to_string(), crate::text::hex(digest.as_ref()));
        let sorted: serde_json::Value = serde_json::from_str(json).expect("JSON");
        assert_eq!(sorted.to_string(), json, "a map of values sorts its keys");
    }

    #[test]
    fn a_request_is_read_back_as_it_was_written() {
        for (what, request) in edits() {
            let json = serde_json::to_string(&request).expect("JSON");
            assert_eq!(serde_json::from_str::<Request>(&json).expect(what), request);
        }
        let digest = standing().digest();
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!(digest.to_string().starts_with(&digest.id().to_string()));
        assert_eq!("xy".parse::<RequestId>(), Err(NotHex(16)));
        assert!("AB12AB12AB12AB12".parse::<RequestId>().is_err(), "one spelling");
    }
}
