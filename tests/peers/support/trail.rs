//! What an upstream recorded, and what that proves.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;

/// The access log of an upstream.
pub struct Trail {
    path: PathBuf,
    parse: fn(&str) -> Record,
}

/// One request, as the upstream saw it.
pub struct Record {
    /// When it was answered, in seconds since 1970.
    pub time: f64,
    /// Path and query.
    pub uri: String,
    /// Every `Authorization` it carried.
    pub authorization: Vec<String>,
    /// nginx only: the number of the connection it came on.
    pub connection: Option<u64>,
}

impl Record {
    /// The token of `Authorization: Bearer TOKEN`, when that is the only one there.
    pub fn token(&self) -> Option<&str> {
        match self.authorization.as_slice() {
            [one] => one.strip_prefix("Bearer "),
            _ => None,
        }
    }
}

/// What the records of a load say together.
#[derive(Default, Debug)]
pub struct Finding {
    pub requests: u64,
    /// How often each request was recorded, by its number.
    pub times: HashMap<u64, u64>,
    /// Without a token, with more than one, or with one that the issuer did not sign.
    pub foreign: u64,
    /// With a token that had expired when it was recorded.
    pub stale: u64,
    /// The shortest life that a token had left, in seconds.
    pub shortest_rest: Option<f64>,
    pub tokens: HashSet<String>,
    pub connections: HashSet<u64>,
}

impl Trail {
    pub fn of_caddy(path: PathBuf) -> Self {
        Self { path, parse: caddy }
    }

    pub fn of_nginx(path: PathBuf) -> Self {
        Self { path, parse: nginx }
    }

    /// Every record whose path starts with `prefix`.
    pub fn records(&self, prefix: &str) -> impl Iterator<Item = Record> {
        // A server that was not asked yet has no log.
        let lines = File::open(&self.path).ok().map(|file| BufReader::new(file).lines());
        let parse = self.parse;
        lines
            .into_iter()
            .flatten()
            .map(move |line| parse(&line.expect("a line of UTF-8")))
            .filter(move |record| record.uri.starts_with(prefix))
    }

    pub fn count(&self, prefix: &str) -> usize {
        self.records(prefix).count()
    }

    /// The distinct tokens that were recorded.
    pub fn tokens(&self, prefix: &str) -> HashSet<String> {
        self.records(prefix).filter_map(|record| record.token().map(ToOwned::to_owned)).collect()
    }

    /// Judges every record whose path starts with `prefix` against the keys of the issuer.
    pub fn judge(&self, prefix: &str, keys: &JwkSet) -> Finding {
        let mut finding = Finding::default();
        let mut expiry_of: HashMap<String, Option<f64>> = HashMap::new();
        for record in self.records(prefix) {
            finding.requests += 1;
            if let Some(number) = record.uri.split_once("?n=").and_then(|(_, number)| number.parse().ok()) {
                *finding.times.entry(number).or_default() += 1;
            }
            finding.connections.extend(record.connection);
            let Some(token) = record.token() else {
                finding.foreign += 1;
                continue;
            };
            // A signature is verified once for each distinct token.
            if !expiry_of.contains_key(token) {
                expiry_of.insert(token.to_owned(), expiry(token, keys));
            }
            let Some(expiry) = expiry_of[token] else {
                finding.foreign += 1;
                continue;
            };
            let rest = expiry - record.time;
            if rest <= 0.0 {
                finding.stale += 1;
            }
            finding.shortest_rest = Some(finding.shortest_rest.map_or(rest, |shortest| shortest.min(rest)));
        }
        finding.tokens = expiry_of.into_keys().collect();
        finding
    }
}

impl Finding {
    /// # Panics
    /// When a request lacked the issuer's token, carried an expired one, or was recorded more than once.
    pub fn assert_every_request_carried_a_live_token_once(&self) {
        let twice: Vec<_> = self.times.iter().filter(|(_, times)| **times != 1).take(5).collect();
        assert!(twice.is_empty(), "recorded more than once: {twice:?}");
        assert_eq!(self.foreign, 0, "requests without the issuer's token, of {}", self.requests);
        assert_eq!(self.stale, 0, "requests with an expired token, of {}", self.requests);
    }
}

/// The `exp` of a token that one of `keys` has signed.
pub fn expiry(token: &str, keys: &JwkSet) -> Option<f64> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let key = keys.find(&decode_header(token).ok()?.kid?)?;
    let mut validation = Validation::new(Algorithm::RS256);
    // Whether it was live is judged against the time of its record.
    validation.validate_exp = false;
    validation.validate_aud = false;
    let decoded = decode::<Claims>(token, &DecodingKey::from_jwk(key).ok()?, &validation).ok()?;
    Some(decoded.claims.exp)
}

fn caddy(line: &str) -> Record {
    #[derive(Deserialize)]
    struct Line {
        ts: f64,
        request: Request,
    }
    #[derive(Deserialize)]
    struct Request {
        uri: String,
        #[serde(default)]
        headers: Headers,
    }
    #[derive(Deserialize, Default)]
    struct Headers {
        #[serde(default, rename = "Authorization")]
        authorization: Vec<String>,
    }
    let line: Line = serde_json::from_str(line).unwrap_or_else(|error| panic!("a record of Caddy: {error}: {line}"));
    Record { time: line.ts, uri: line.request.uri, authorization: line.request.headers.authorization, connection: None }
}

fn nginx(line: &str) -> Record {
    #[derive(Deserialize)]
    struct Line {
        ts: f64,
        uri: String,
        authorization: String,
        connection: u64,
    }
    let line: Line = serde_json::from_str(line).unwrap_or_else(|error| panic!("a record of nginx: {error}: {line}"));
    let authorization = if line.authorization.is_empty() { Vec::new() } else { vec![line.authorization] };
    Record { time: line.ts, uri: line.uri, authorization, connection: Some(line.connection) }
}
