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
use crate::detect::response::Response;
use crate::name::TokenName;

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

    /// Somebody is told, if that is the answer.
    pub fn raise(
        &mut self,
        token: Option<&TokenName>,
        anomaly: &Anomaly,
        response: Response,
        owner: Option<&str>,
        now: Duration,
    ) {
        let (of_token, token) = (token, anomaly.token.as_str());
        let done = match response {
            Response::Exempt | Response::Observe => return,
            Response::Alert if anomaly.token.is_empty() => {
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
                "The token is replaced, and its issuer is told that the generation before is void.".to_owned()
            }
            Response::Approval => format!(
                "The client does not get the token until somebody approves its request, `countersign requests list`, or releases \
                 the token, `countersign tokens release {token}`."
            ),
            Response::Block => format!(
                "The client is blocked: all of its requests are refused until somebody releases it, \
                 `countersign clients release {}`.",
                anomaly.client
            ),
            Response::Quarantine => format!(
                "It is quarantined: its requests are refused until somebody releases it, `countersign tokens release {token}`."
            ),
        };
        let by = if anomaly.client.is_empty() { String::new() } else { format!(" by {}", anomaly.client) };
        let owner = owner.map(|owner| format!(" Owner: {owner}.")).unwrap_or_default();
        let key = format!("{KEYS}{token}/{}", anomaly.client);
        self.open.insert(key.clone(), now);
        self.alerts.raise(Alert {
            key,
            name: "CountersignAnomaly".to_owned(),
            severity: anomaly.severity,
            token: of_token.cloned(),
            route: None,
            client: anomaly.client.parse().ok(),
            summary: match of_token {
                Some(token) => format!("Unusual use of token {token}{by}: {}", anomaly.signal().as_str()),
                None => format!("Unusual use{by}: {}", anomaly.signal().as_str()),
            },
            description: format!("{}. Score {}. {done}{owner}", anomaly.said(), anomaly.rounded_score()),
            started: anomaly.time.0,
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
        for (key, _) in self.open.extract_if(.., |key, _| token_of(key) == token.as_str()) {
            self.alerts.over(&key);
        }
    }
}

/// No name has a slash.
fn token_of(key: &str) -> &str {
    key.strip_prefix(KEYS).and_then(|key| key.split('/').next()).unwrap_or_default()
}

fn client_of(key: &str) -> &str {
    key.strip_prefix(KEYS).and_then(|key| key.split('/').nth(1)).unwrap_or_default()
}
