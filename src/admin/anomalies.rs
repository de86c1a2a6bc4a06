//! What was unusual of late.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Pending;
use super::answer::{Answer, Refusal};
use super::endpoint::{Call, Endpoint, Field, Shape};
use crate::operator::Role;

/// What the running app knows of it.
pub trait Anomalies: Send + Sync {
    /// The last ones, the newest first, in the form in which detectors tell them.
    fn anomalies(&self) -> Vec<Value>;
}

const TOKEN: Field = Field { name: "token", shape: Shape::Text, required: false, about: "Only of this token" };

pub const ENDPOINTS: &[Endpoint] = &[Endpoint {
    method: Method::GET,
    path: "/v1/anomalies",
    role: Role::Viewer,
    summary: "What was unusual about the use of tokens since the start, the newest first, with its evidence and what was done \
              about it. The last 256; the trail has all.",
    fields: &[TOKEN],
    answer: (StatusCode::OK, schema),
    refusals: &[],
    work: show,
}];

fn show<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let token = call.text(&TOKEN);
        let fits = |anomaly: &Value| token.is_empty() || anomaly["token"] == token;
        let anomalies: Vec<Value> = call.admin.house.anomalies().into_iter().filter(fits).collect();
        Ok(Answer::ok(json!({ "anomalies": anomalies })))
    })
}

fn schema() -> Value {
    let text = || json!({ "type": "string" });
    let anomaly = json!({
        "type": "object",
        "required": ["time", "token", "signal", "score", "severity", "response", "evidence"],
        "properties": {
            "time": { "type": "string", "format": "date-time" },
            "token": text(),
            "signal": { "type": "string", "description": "The gravest" },
            "score": { "type": "number", "minimum": 0.5, "maximum": 1 },
            "severity": { "type": "string", "enum": ["low", "medium", "high", "critical"] },
            "response": { "type": "string", "enum": ["exempt", "observe", "alert", "throttle", "replace", "approval", "block", "quarantine"] },
            "evidence": {
                "type": "object",
                "required": ["said", "client", "signals"],
                "properties": {
                    "said": text(),
                    "client": text(),
                    "signals": { "type": "object", "additionalProperties": text() },
                },
                "additionalProperties": false,
            },
        },
        "additionalProperties": false,
    });
    json!({
        "type": "object",
        "required": ["anomalies"],
        "properties": { "anomalies": { "type": "array", "items": anomaly } },
        "additionalProperties": false,
    })
}
