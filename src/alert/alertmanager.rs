//! What Alertmanager is told: `POST /api/v2/alerts`.
//!
//! It takes an alert for over when it has not heard of it for a while, so it is told again, each minute, of what is open.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Alert;
use super::board::Telling;
use crate::audit::time_text;
use crate::authority::Endpoint;
use crate::name::{ClientName, RouteName, TokenName};

/// How often it is told again.
pub const AGAIN: Duration = Duration::from_secs(60);

/// How long it takes an alert for open that it does not hear of any more.
const FORGOTTEN: Duration = Duration::from_secs(240);

/// The most alerts in one call.
pub const MOST: usize = 100;

/// The alerts of one call: what there is to tell, and what is told again.
pub fn body<'a>(
    tellings: impl IntoIterator<Item = &'a Telling>,
    again: impl IntoIterator<Item = &'a Alert>,
    instance: &str,
    runbooks: Option<&Endpoint>,
    now: Duration,
) -> Vec<u8> {
    let news = tellings.into_iter().map(|telling| (&telling.alert, telling.ended));
    let alerts = news.chain(again.into_iter().map(|alert| (alert, None)));
    let alerts: Value = alerts.map(|(alert, ended)| one(alert, ended, instance, runbooks, now)).collect();
    alerts.to_string().into_bytes()
}

fn one(alert: &Alert, ended: Option<Duration>, instance: &str, runbooks: Option<&Endpoint>, now: Duration) -> Value {
    let mut labels = Map::new();
    let mut label = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            labels.insert(name.to_owned(), value.into());
        }
    };
    label("alertname", Some(&alert.name));
    label("severity", Some(alert.severity.as_str()));
    label("instance", Some(instance));
    label("token", alert.token.as_ref().map(TokenName::as_str));
    label("route", alert.route.as_ref().map(RouteName::as_str));
    label("client", alert.client.as_ref().map(ClientName::as_str));
    json!({
        "labels": labels,
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": alert.runbook(runbooks),
        },
        "startsAt": time_text(alert.started.min(now)),
        "endsAt": time_text(ended.unwrap_or(now + FORGOTTEN)),
    })
}
