//! The running configuration, to be seen and to be loaded again; and who the caller is to it.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Pending;
use super::answer::{Answer, Refusal};
use super::endpoint::{Call, Endpoint};
use crate::operator::Role;

pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: Method::GET,
        path: "/v1/config",
        role: Role::Viewer,
        summary: "The config in force. Secrets stand in it as references only; what may hold one is left out.",
        fields: &[],
        answer: (StatusCode::OK, || json!({ "type": "object" })),
        refusals: &[],
        work: show,
    },
    Endpoint {
        method: Method::GET,
        path: "/v1/operator",
        role: Role::Viewer,
        summary: "Who the caller is, and may do.",
        fields: &[],
        answer: (StatusCode::OK, operator),
        refusals: &[],
        work: who,
    },
    Endpoint {
        method: Method::POST,
        path: "/v1/reload",
        role: Role::Admin,
        summary: "Load the config file again. It takes effect whole, or not at all.",
        fields: &[],
        answer: (StatusCode::OK, reloaded),
        refusals: &[StatusCode::CONFLICT, StatusCode::UNPROCESSABLE_ENTITY, StatusCode::SERVICE_UNAVAILABLE],
        work: reload,
    },
];

fn operator() -> Value {
    json!({
        "type": "object",
        "required": ["name", "groups", "roles", "told_apart"],
        "properties": {
            "name": { "type": "string" },
            "groups": { "type": "array", "items": { "type": "string" } },
            "roles": { "type": "array", "items": { "enum": Role::ALL.map(Role::as_str) } },
            "told_apart": { "type": "boolean", "description": "Whether no app could be taken for it" },
        },
        "additionalProperties": false,
    })
}

fn reloaded() -> Value {
    json!({
        "type": "object",
        "required": ["digest"],
        "properties": { "digest": { "type": "string", "description": "SHA-256 of the file, in hex" } },
        "additionalProperties": false,
    })
}

fn show<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async { Ok(Answer::ok(Value::clone(&call.admin.house.config()))) })
}

fn who<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let operator = call.operator;
        let roles: Vec<&str> = operator.roles().map(Role::as_str).collect();
        let (name, groups, told_apart) = (&operator.name, &operator.groups, operator.is_told_apart());
        Ok(Answer::ok(json!({ "name": name, "groups": groups, "roles": roles, "told_apart": told_apart })))
    })
}

fn reload<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let reloaded = call.admin.house.reload().await.map_err(Refusal::NotReloaded)?;
        Ok(Answer::ok(json!({ "digest": reloaded.digest })))
    })
}
