//! Drills: a compromise rehearsed, and how long each of its steps took.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Pending;
use super::answer::{Answer, Refusal};
use super::endpoint::{self, Call, Endpoint};
use super::tokens::order;
use crate::audit::Unavailable;
use crate::name::TokenName;
use crate::operator::Role;
use crate::token::RotateError;

pub const ENDPOINTS: &[Endpoint] = &[Endpoint {
    method: Method::POST,
    path: "/v1/tokens/{name}/drill",
    role: Role::Responder,
    summary: "Rehearse a compromise: replace the live generation, have it let go of, and have it voided at its issuer. Nothing is \
              cut. Answered with how long each step took.",
    fields: &[endpoint::REASON],
    answer: (StatusCode::OK, schema),
    refusals: &[
        StatusCode::NOT_FOUND,
        StatusCode::CONFLICT,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ],
    work: drill,
}];

/// A drill that has replaced a generation.
#[derive(Clone, PartialEq, Debug)]
pub struct Drill {
    pub token: TokenName,
    /// The generation that was replaced.
    pub replaced: u64,
    pub generation: u64,
    pub steps: Vec<Step>,
    pub took: Duration,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    pub name: &'static str,
    pub took: Duration,
    pub is_done: bool,
    /// What else there is to say of it; why it is not done, if it is not.
    pub note: Option<&'static str>,
}

impl Drill {
    /// Whether all of it was done within the drill.
    pub fn is_complete(&self) -> bool {
        self.steps.iter().all(|step| step.is_done)
    }
}

/// Why there was no drill, or none that replaced anything.
#[derive(Debug, thiserror::Error)]
pub enum NotDrilled {
    #[error("there is no token of this name")]
    NoToken,
    #[error("the token is not in use: it has no generation that could be replaced")]
    NotInUse,
    #[error("a drill of this token is under way: wait until it is over")]
    UnderWay,
    #[error("the live generation was not replaced, and is used on: {0}")]
    NotReplaced(#[from] RotateError),
    #[error("the audit trail cannot be written, and a drill is there to leave a proof in it: {0}")]
    Trail(#[from] Unavailable),
}

fn drill<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let token = call.admin.token(call.parameter).ok_or(Refusal::NoToken)?;
        let drill = call.admin.house.drill(&token.settings.name, order(call)).await.map_err(Refusal::NotDrilled)?;
        Ok(Answer::ok(view(&drill)))
    })
}

fn view(drill: &Drill) -> Value {
    let steps = drill.steps.iter().map(|step| {
        json!({ "step": step.name, "seconds": step.took.as_secs_f64(), "done": step.is_done, "note": step.note })
    });
    json!({
        "token": drill.token,
        "replaced": drill.replaced,
        "generation": drill.generation,
        "complete": drill.is_complete(),
        "steps": steps.collect::<Vec<_>>(),
        "seconds": drill.took.as_secs_f64(),
    })
}

/// What [`view`] looks like.
fn schema() -> Value {
    let number = || json!({ "type": "integer", "minimum": 1 });
    let seconds = || json!({ "type": "number", "minimum": 0 });
    let step = json!({
        "type": "object",
        "required": ["step", "seconds", "done", "note"],
        "properties": {
            "step": { "enum": ["replace", "quarantine", "revoke"] },
            "seconds": seconds(),
            "done": { "type": "boolean" },
            "note": { "type": ["string", "null"] },
        },
        "additionalProperties": false,
    });
    json!({
        "type": "object",
        "required": ["token", "replaced", "generation", "complete", "steps", "seconds"],
        "properties": {
            "token": { "type": "string" },
            "replaced": number(),
            "generation": number(),
            "complete": { "type": "boolean" },
            "steps": { "type": "array", "items": step },
            "seconds": seconds(),
        },
        "additionalProperties": false,
    })
}
