//! Tokens: how they stand, and what is done to them.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Pending;
use super::answer::{Answer, Refusal};
use super::endpoint::{self, Call, Endpoint, Field, Shape};
use crate::clock::Moment;
use crate::operator::Role;
use crate::text;
use crate::token::{Move, Order, Restraint, State, Token};

const SINCE: Field = Field {
    name: "since",
    shape: Shape::Age,
    required: false,
    about: "For how long that has gone on for which it is taken out of use, as in 30m",
};

pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: Method::GET,
        path: "/v1/tokens",
        role: Role::Viewer,
        summary: "All tokens, by name.",
        fields: &[],
        answer: (StatusCode::OK, || {
            json!({
                "type": "object",
                "required": ["tokens"],
                "properties": { "tokens": { "type": "array", "items": schema() } },
                "additionalProperties": false,
            })
        }),
        refusals: &[],
        work: list,
    },
    Endpoint {
        method: Method::GET,
        path: "/v1/tokens/{name}",
        role: Role::Viewer,
        summary: "One token.",
        fields: &[],
        answer: (StatusCode::OK, schema),
        refusals: &[StatusCode::NOT_FOUND],
        work: show,
    },
    Endpoint {
        method: Method::POST,
        path: "/v1/tokens/{name}/rotate",
        role: Role::Responder,
        summary: "Have the issuer give a new generation now. Answered when it is live; nothing is cut.",
        fields: &[endpoint::REASON_IF_ANY],
        answer: (StatusCode::OK, schema),
        refusals: &[StatusCode::NOT_FOUND, StatusCode::CONFLICT, StatusCode::BAD_GATEWAY],
        work: rotate,
    },
    Endpoint {
        method: Method::POST,
        path: "/v1/tokens/{name}/quarantine",
        role: Role::Responder,
        summary: "Stop attaching the token, and keep its generation, until it is released. Answered when nobody has it: what \
                  was under way with it is cut.",
        fields: &[endpoint::REASON, SINCE],
        answer: (StatusCode::OK, schema),
        refusals: OF_TAKING_AWAY,
        work: |call| Box::pin(restrain(call, Restraint::Quarantined)),
    },
    Endpoint {
        method: Method::POST,
        path: "/v1/tokens/{name}/revoke",
        role: Role::Responder,
        summary: "Void all generations of the token, here and at its issuer, until it is released. Answered when nobody has it; \
                  the issuer is told until it confirms.",
        fields: &[endpoint::REASON, SINCE],
        answer: (StatusCode::OK, schema),
        refusals: OF_TAKING_AWAY,
        work: |call| Box::pin(restrain(call, Restraint::Revoked)),
    },
    Endpoint {
        method: Method::POST,
        path: "/v1/tokens/{name}/release",
        role: Role::Approver,
        summary: "Let in what was quarantined, or have the issuer give a new generation of what was revoked. Not for those who \
                  own the token.",
        fields: &[endpoint::REASON],
        answer: (StatusCode::OK, schema),
        refusals: OF_TAKING_AWAY,
        work: release,
    },
    Endpoint {
        method: Method::POST,
        path: "/v1/tokens/{name}/retire",
        role: Role::Admin,
        summary: "End the token's grant. Answered when nobody has it; the issuer is told until it confirms.",
        fields: &[endpoint::REASON],
        answer: (StatusCode::OK, schema),
        refusals: OF_TAKING_AWAY,
        work: retire,
    },
];

const OF_TAKING_AWAY: &[StatusCode] = &[StatusCode::NOT_FOUND, StatusCode::CONFLICT, StatusCode::SERVICE_UNAVAILABLE];

async fn restrain(call: &Call<'_>, restraint: Restraint) -> Result<Answer, Refusal> {
    let token = call.admin.token(call.parameter).ok_or(Refusal::NoToken)?;
    call.admin.house.restrain(&token.settings.name, restraint, order(call)).await?;
    Ok(Answer::ok(view(&token, call.admin.clock.now())))
}

fn release<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let token = call.admin.token(call.parameter).ok_or(Refusal::NoToken)?;
        if call.operator.is_or_belongs_to(&token.settings.owner) {
            return Err(Refusal::OwnToken);
        }
        call.admin.house.release(&token.settings.name, order(call)).await?;
        Ok(Answer::ok(view(&token, call.admin.clock.now())))
    })
}

fn retire<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let token = call.admin.token(call.parameter).ok_or(Refusal::NoToken)?;
        call.admin.house.retire(&token.settings.name).await?;
        Ok(Answer::ok(view(&token, call.admin.clock.now())))
    })
}

pub fn order(call: &Call<'_>) -> Order {
    let now = call.admin.clock.now().wall;
    let since = text::duration(call.text(&SINCE)).map(|length| now.saturating_sub(length));
    Order { by: call.operator.name.to_string(), reason: call.text(&endpoint::REASON).to_owned(), since }
}

fn list<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let now = call.admin.clock.now();
        let tokens: Vec<Value> = call.admin.house.tokens().iter().map(|token| view(token, now)).collect();
        Ok(Answer::ok(json!({ "tokens": tokens })))
    })
}

fn show<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let token = call.admin.token(call.parameter).ok_or(Refusal::NoToken)?;
        Ok(Answer::ok(view(&token, call.admin.clock.now())))
    })
}

fn rotate<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let token = call.admin.token(call.parameter).ok_or(Refusal::NoToken)?;
        token.control.rotate().await.map_err(Refusal::NotRotated)?;
        Ok(Answer::ok(view(&token, call.admin.clock.now())))
    })
}

/// A token as operators see it: a generation by its number and fingerprint, never by its value.
fn view(token: &Token, now: Moment) -> Value {
    let (settings, look) = (&token.settings, token.look(now));
    let generation = look.generation.map(|generation| {
        json!({
            "number": generation.number,
            "fingerprint": generation.fingerprint.to_string(),
            "issued": generation.issued.to_rfc3339(),
            "expires": generation.expires.to_rfc3339(),
            "usable_until": generation.usable_until.to_rfc3339(),
        })
    });
    let grant_ends = Moment { boot: now.boot, wall: settings.grant_ends };
    json!({
        "name": settings.name,
        "state": look.state.as_str(),
        "owner": settings.owner,
        "reason": settings.reason,
        "scopes": settings.scopes,
        "hosts": settings.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "required": settings.required,
        "source": token.source_kind(),
        "next_source": token.moves_to().map(|(kind, step)| json!({ "source": kind, "state": step.as_str() })),
        "placement": settings.placement.label(),
        "grant_ends": grant_ends.to_rfc3339(),
        "generation": generation,
        "retry_at": look.retry_at.map(Moment::to_rfc3339),
    })
}

/// What [`view`] looks like.
fn schema() -> Value {
    let texts = || json!({ "type": "array", "items": { "type": "string" } });
    let time = || json!({ "type": "string", "format": "date-time" });
    let generation = json!({
        "type": "object",
        "required": ["number", "fingerprint", "issued", "expires", "usable_until"],
        "properties": {
            "number": { "type": "integer", "minimum": 1 },
            "fingerprint": { "type": "string", "pattern": "^[0-9a-f]{8}$" },
            "issued": time(),
            "expires": time(),
            "usable_until": time(),
        },
        "additionalProperties": false,
    });
    let next_source = json!({
        "type": "object",
        "required": ["source", "state"],
        "properties": { "source": { "type": "string" }, "state": { "enum": Move::ALL.map(Move::as_str) } },
        "additionalProperties": false,
    });
    let properties = json!({
        "name": { "type": "string" },
        "state": { "enum": State::ALL.map(State::as_str) },
        "owner": { "type": "string" },
        "reason": { "type": "string" },
        "scopes": texts(),
        "hosts": texts(),
        "required": { "type": "boolean" },
        "source": { "type": "string" },
        "next_source": { "anyOf": [next_source, { "type": "null" }] },
        "placement": { "type": "string" },
        "grant_ends": time(),
        "generation": { "anyOf": [generation, { "type": "null" }] },
        "retry_at": { "anyOf": [time(), { "type": "null" }] },
    });
    let required: Vec<&String> = properties.as_object().into_iter().flat_map(serde_json::Map::keys).collect();
    json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false })
}
