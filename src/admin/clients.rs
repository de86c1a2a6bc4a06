//! Clients: what is held back from them while their use is unusual, and letting them in again.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::answer::{Answer, Refusal};
use super::endpoint::{self, Call, Endpoint};
use super::{NotDone, Pending};
use crate::name::ClientName;
use crate::operator::Role;

/// What the running app knows of them.
pub trait Clients: Send + Sync {
    /// All of them, each with what is held back from it.
    fn clients(&self) -> Vec<(ClientName, Vec<Value>)>;

    /// Lets a client in again, with all that was held back from it.
    fn release_client<'a>(
        &'a self,
        client: &'a ClientName,
        by: String,
        reason: String,
    ) -> Pending<'a, Result<(), NotDone>>;
}

pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: Method::GET,
        path: "/v1/clients",
        role: Role::Viewer,
        summary: "All clients, and what is held back from each while its use is unusual.",
        fields: &[],
        answer: (StatusCode::OK, || {
            json!({
                "type": "object",
                "required": ["clients"],
                "properties": { "clients": { "type": "array", "items": schema() } },
                "additionalProperties": false,
            })
        }),
        refusals: &[],
        work: list,
    },
    Endpoint {
        method: Method::POST,
        path: "/v1/clients/{name}/release",
        role: Role::Approver,
        summary: "Let a client in again that was blocked, and give it back what was held back from it of any token.",
        fields: &[endpoint::REASON],
        answer: (StatusCode::OK, schema),
        refusals: &[StatusCode::NOT_FOUND, StatusCode::CONFLICT, StatusCode::SERVICE_UNAVAILABLE],
        work: release,
    },
];

fn list<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let clients: Vec<Value> = call.admin.house.clients().into_iter().map(view).collect();
        Ok(Answer::ok(json!({ "clients": clients })))
    })
}

fn release<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let house = &call.admin.house;
        let find = || house.clients().into_iter().find(|(name, _)| name.as_str() == call.parameter);
        let (client, _) = find().ok_or(NotDone::NoClient)?;
        let (by, reason) = (call.operator.name.to_string(), call.text(&endpoint::REASON).to_owned());
        house.release_client(&client, by, reason).await?;
        // One that the config has not any more is gone with what was held back from it.
        Ok(Answer::ok(view(find().unwrap_or((client, Vec::new())))))
    })
}

fn view((name, held): (ClientName, Vec<Value>)) -> Value {
    json!({ "name": name, "held": held })
}

fn schema() -> Value {
    let text = || json!({ "type": "string" });
    let held = json!({
        "type": "object",
        "required": ["hold", "token", "since", "by", "reason", "request"],
        "properties": {
            "hold": { "enum": ["block", "throttle", "approval", "denied"] },
            "token": { "type": ["string", "null"], "description": "Of a block, all" },
            "since": { "type": "string", "format": "date-time" },
            "by": text(),
            "reason": text(),
            "request": { "type": ["string", "null"], "description": "The access request that decides it" },
        },
        "additionalProperties": false,
    });
    json!({
        "type": "object",
        "required": ["name", "held"],
        "properties": { "name": text(), "held": { "type": "array", "items": held } },
        "additionalProperties": false,
    })
}
