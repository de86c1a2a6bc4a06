//! What tokens were used for, and the review of it.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::answer::{Answer, Refusal};
use super::endpoint::{self, Call, Endpoint};
use super::{NotDone, Pending};
use crate::name::OperatorName;
use crate::operator::Role;
use crate::review::Report;

/// What the running app knows of it.
pub trait Reports: Send + Sync {
    fn report(&self) -> Report;

    /// Somebody has looked at the report.
    fn reviewed(&self, by: OperatorName, reason: String) -> Pending<'_, Result<(), NotDone>>;
}

pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: Method::GET,
        path: "/v1/report",
        role: Role::Viewer,
        summary: "The report of an access review: of each token who owns it, what it was used for, what to tighten, and the \
                  tighter `allow`.",
        fields: &[],
        answer: (StatusCode::OK, schema),
        refusals: &[],
        work: show,
    },
    Endpoint {
        method: Method::POST,
        path: "/v1/report/reviewed",
        role: Role::Viewer,
        summary: "Say that access has been reviewed: for an approver or an admin. Answered with the report when the trail has \
                  it.",
        fields: &[endpoint::REASON],
        answer: (StatusCode::OK, schema),
        refusals: &[StatusCode::SERVICE_UNAVAILABLE],
        work: reviewed,
    },
];

fn show<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async { Ok(answer(&call.admin.house.report())) })
}

fn reviewed<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let operator = call.operator;
        if !operator.may(Role::Approver) && !operator.may(Role::Admin) {
            return Err(Refusal::NotAllowed(Role::Approver));
        }
        let reason = call.text(&endpoint::REASON).to_owned();
        call.admin.house.reviewed(operator.name.clone(), reason).await?;
        Ok(answer(&call.admin.house.report()))
    })
}

fn answer(report: &Report) -> Answer {
    Answer::ok(serde_json::to_value(report).expect("a report is plain data with keys that are texts"))
}

fn schema() -> Value {
    let list = || json!({ "type": "array", "items": { "type": "object" } });
    let count = || json!({ "type": "integer", "minimum": 0 });
    let sums = json!({
        "type": "object",
        "required": ["active", "least_privilege", "least_privilege_ratio", "unused", "long_lived"],
        "properties": {
            "active": count(),
            "least_privilege": count(),
            "least_privilege_ratio": { "type": "number", "minimum": 0, "maximum": 1 },
            "unused": count(),
            "long_lived": count(),
        },
        "additionalProperties": false,
    });
    let properties = json!({
        "made": { "type": "string", "format": "date-time" },
        "since": { "type": "string", "format": "date-time", "description": "Since when uses are written down" },
        "window_seconds": { "type": "integer", "description": "What was used longer ago counts as not used" },
        "sums": sums,
        "review": { "type": "object" },
        "tokens": list(),
        "figures": list(),
        "trend": list(),
    });
    let required: Vec<&String> = properties.as_object().into_iter().flat_map(serde_json::Map::keys).collect();
    json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false })
}
