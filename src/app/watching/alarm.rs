//! Unusual use as alerts: open as long as it goes on, or somebody has to release the token or the client.
//!
//! ```text
//! anomaly that is to be answered ─▶ raised, once for each client of a token, again when graver
//! nothing of it for QUIET, and nothing is held back ──┐
//! somebody released it; it is not in the config ──────┴▶ over
//! ```
//!
//! Invariants: what is observed or exempt raises nothing; an alert of before a restart has as long as one that is new; no more
//! is open than there are clients of tokens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::alert::{Alert, Alerts};
use crate::detect::Anomaly;
use crate::detect::response::{Deeds, Response};
use crate::name::{ClientName, TokenName};

/// How the keys of these alerts begin: `anomaly/TOKEN/CLIENT`.
const KEYS: &str = "anomaly/";

/// Without any of it for so long it is over.
const QUIET: Duration = Duration::from_secs(crate::detect::QUIET);

/// What is open.
pub(super) struct Alarms {
    alerts: Arc<Alerts>,
    open: BTreeMap<String, Duration>,
}

impl Alarms {
    /// With what was open before a restart.
    pub fn resume(alerts: Arc<Alerts>, now: Duration) -> Self {
        let open = alerts.open_below(KEYS).into_iter().map(|key| (key, now)).collect();
        Self { alerts, open }
    }

    /// Somebody is told of each client, and of the gravest that is done about it.
    pub fn raise(
        &mut self,
        token: Option<&TokenName>,
        anomaly: &Anomaly,
        deeds: &Deeds,
        owner: Option<&str>,
        now: Duration,
    ) {
        // The gravest comes last.
        let gravest: BTreeMap<&str, Response> = deeds.iter().map(|(response, client)| (&**client, *response)).collect();
        for (client, response) in gravest {
            let own = anomaly.of(client);
            if let Some(done) = done(response, &own) {
                let owner = owner.map(|owner| format!(" Owner: {owner}.")).unwrap_or_default();
                let description = format!("{}. Score {}. {done}{owner}", own.said(), own.rounded_score());
                self.raise_one(token, &own, description, now);
            }
        }
    }

    fn raise_one(&mut self, token: Option<&TokenName>, own: &Anomaly, description: String, now: Duration) {
        let by = if own.client.is_empty() { String::new() } else { format!(" by {}", own.client) };
        let key = format!("{KEYS}{}/{}", own.token, own.client);
        self.open.insert(key.clone(), now);
        self.alerts.raise(Alert {
            key,
            name: "CountersignAnomaly".to_owned(),
            severity: own.severity,
            token: token.cloned(),
            route: None,
            client: own.client.parse().ok(),
            summary: match token {
                Some(token) => format!("Unusual use of token {token}{by}: {}", own.signal().as_str()),
                None => format!("Unusual use{by}: {}", own.signal().as_str()),
            },
            description,
            started: own.time.0,
        });
    }

    /// Ends what is over: `lasts` says of a token and a client whether it goes on, and nothing of a token that is not there.
    pub fn pass(&mut self, now: Duration, lasts: impl Fn(&str, &str) -> Option<bool>) {
        let is_over = |key: &str, seen: &mut Duration| match lasts(token_of(key), client_of(key)) {
            Some(true) => {
                *seen = now;
                false
            }
            Some(false) => now >= *seen + QUIET,
            None => true,
        };
        for (key, _) in self.open.extract_if(.., |key, seen| is_over(key, seen)) {
            self.alerts.over(&key);
        }
    }

    pub fn is_open(&self, token: &TokenName) -> bool {
        self.open.keys().any(|key| token_of(key) == token.as_str())
    }

    /// Somebody has looked at the token, and lets it in again.
    pub fn release(&mut self, token: &TokenName) {
        self.end(|of_token, _| of_token == token.as_str());
    }

    /// Somebody has looked at the client, and lets it in again: to a token, or to all that was held back from it.
    pub fn release_client(&mut self, client: &ClientName, token: Option<&TokenName>) {
        self.end(|of_token, of| of == client.as_str() && token.is_none_or(|token| token.as_str() == of_token));
    }

    fn end(&mut self, is_over: impl Fn(&str, &str) -> bool) {
        for (key, _) in self.open.extract_if(.., |key, _| is_over(token_of(key), client_of(key))) {
            self.alerts.over(&key);
        }
    }
}

/// What is done about it, and what ends that; `None` where nobody is told.
fn done(response: Response, own: &Anomaly) -> Option<String> {
    let Anomaly { token, client, .. } = own;
    Some(match response {
        Response::Exempt | Response::Observe => return None,
        Response::Alert if token.is_empty() => {
            "Its requests go on. `countersign anomalies list` has the evidence.".to_owned()
        }
        Response::Alert => format!(
            "Its requests go on. `countersign anomalies list` has the evidence; `countersign tokens quarantine {token}` \
             takes it out of use."
        ),
        Response::Throttle => format!(
            "The client is held to what is usual until this is over, or somebody releases the token, \
             `countersign tokens release {token}`."
        ),
        Response::Replace => {
            "The token is being replaced, and its issuer told that the generation before is void: it is when the \
             trail has `replacement_finished`, and is tried until then."
                .to_owned()
        }
        Response::Approval => format!(
            "The client does not get the token until somebody approves its request, `countersign requests list`, or releases \
             the token, `countersign tokens release {token}`."
        ),
        Response::Block => format!(
            "The client is blocked: all of its requests are refused until somebody releases it, \
             `countersign clients release {client}`."
        ),
        Response::Quarantine => format!(
            "It is quarantined: its requests are refused until somebody releases it, `countersign tokens release {token}`."
        ),
    })
}

/// No name has a slash.
fn token_of(key: &str) -> &str {
    key.strip_prefix(KEYS).and_then(|key| key.split('/').next()).unwrap_or_default()
}

fn client_of(key: &str) -> &str {
    key.strip_prefix(KEYS).and_then(|key| key.split('/').nth(1)).unwrap_or_default()
}
