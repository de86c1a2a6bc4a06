//! Access requests: looked at, submitted and decided.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Pending;
use super::answer::{Answer, Refusal};
use super::endpoint::{self, Call, Endpoint, Field, REASON, Shape};
use crate::access::approval::{Case, NotAllowed};
use crate::access::register::{self, NotTaken, Register};
use crate::access::request::{Digest, RequestId, rfc3339};
use crate::access::submission::{Problem, Wish};
use crate::audit::Unavailable;
use crate::name::TokenName;
use crate::operator::{Operator, Role};
use crate::proxy::{Lack, Want};
use crate::text;

const TOKEN: Field = Field { name: "token", shape: Shape::Text, required: true, about: "A token of the config" };

const LASTS: Field =
    Field { name: "for", shape: Shape::Duration, required: true, about: "How long, from its approval on, as in 30m" };

const SCOPES: Field = Field {
    name: "scopes",
    shape: Shape::Texts,
    required: false,
    about: "Exactly the scopes that it shall have; without them those that the config grants",
};

const ALLOW: Field = Field {
    name: "allow",
    shape: Shape::Rules,
    required: false,
    about: "What its routes shall allow in addition: METHOD /path, or ROUTE:METHOD /path",
};

const REFUSED: Field = Field {
    name: "refused",
    shape: Shape::Text,
    required: false,
    about: "The `request_id` of a refusal for want of a right, ours or the API's: what would let such a request pass is asked for",
};

const DIGEST: Field = Field {
    name: "digest",
    shape: Shape::Digest,
    required: true,
    about: "Of what was looked at: another one is refused",
};

pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: Method::GET,
        path: "/v1/requests",
        role: Role::Viewer,
        summary: "All access requests that wait or are granted, and the last that are over.",
        fields: &[],
        answer: (StatusCode::OK, || {
            json!({
                "type": "object",
                "required": ["requests"],
                "properties": { "requests": { "type": "array", "items": schema() } },
                "additionalProperties": false,
            })
        }),
        refusals: &[],
        work: list_all,
    },
    Endpoint {
        method: Method::POST,
        path: "/v1/requests",
        role: Role::Requester,
        summary: "Ask for a token of the config for a while: with other scopes, or with more that its routes allow.",
        fields: &[TOKEN, LASTS, REASON, SCOPES, ALLOW, REFUSED],
        answer: (StatusCode::CREATED, schema),
        refusals: &[StatusCode::NOT_FOUND, StatusCode::CONFLICT, StatusCode::SERVICE_UNAVAILABLE],
        work: submit,
    },
    Endpoint {
        method: Method::GET,
        path: "/v1/requests/{id}",
        role: Role::Viewer,
        summary: "One access request.",
        fields: &[],
        answer: (StatusCode::OK, schema),
        refusals: &[StatusCode::NOT_FOUND],
        work: show,
    },
    Endpoint {
        method: Method::POST,
        path: "/v1/requests/{id}/approve",
        role: Role::Approver,
        summary: "Approve what others ask for. The token works when this is answered, if no other approval is missing.",
        fields: &[REASON, DIGEST],
        answer: (StatusCode::OK, schema),
        refusals: &[StatusCode::NOT_FOUND, StatusCode::CONFLICT, StatusCode::SERVICE_UNAVAILABLE],
        work: approve,
    },
    Endpoint {
        method: Method::POST,
        path: "/v1/requests/{id}/deny",
        role: Role::Viewer,
        summary: "Deny a request, or take away what it was granted: as approver or responder, or as who asked.",
        fields: &[REASON],
        answer: (StatusCode::OK, schema),
        refusals: &[StatusCode::NOT_FOUND, StatusCode::CONFLICT, StatusCode::SERVICE_UNAVAILABLE],
        work: deny,
    },
];

/// What the running app lets operators do about access requests.
pub trait Requests: Send + Sync + 'static {
    fn register(&self) -> Arc<Register>;

    /// What the request with this id lacked, if it was refused not long ago.
    fn refused(&self, request_id: &str) -> Option<Want>;

    fn submit<'a>(&'a self, wish: Wish, operator: &'a Operator) -> Pending<'a, Result<Case, NotSubmitted>>;

    fn decide<'a>(
        &'a self,
        id: RequestId,
        decision: Decision,
        operator: &'a Operator,
        reason: &'a str,
    ) -> Pending<'a, Result<Case, NotDecided>>;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Of what has this digest.
    Approve(Digest),
    Deny,
}

/// Why nothing was submitted.
#[derive(Debug, thiserror::Error)]
pub enum NotSubmitted {
    #[error("there is no token {0} in the config")]
    NoToken(TokenName),
    #[error("{}", list(.0))]
    Problems(Vec<Problem>),
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
    #[error(
        "no refusal with this request_id is remembered: it was made here, since the start, and not many others since. Write the rule \
         instead, with `allow`"
    )]
    UnknownRefusal,
    #[error("that request was refused on a route of token {0}: ask for that one")]
    OtherToken(TokenName),
    #[error("the audit trail cannot be written, and nothing is asked for without it: {0}")]
    Trail(#[from] Unavailable),
    #[error("{0}")]
    NotNow(String),
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Why nothing was decided.
#[derive(Debug, thiserror::Error)]
pub enum NotDecided {
    #[error("there is no request {0}")]
    Unknown(RequestId),
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    #[error("the audit trail cannot be written, and nothing is let in without it: {0}")]
    Trail(#[from] Unavailable),
    #[error("{0}")]
    NotNow(String),
}

impl From<register::NotDecided> for NotDecided {
    fn from(error: register::NotDecided) -> Self {
        match error {
            register::NotDecided::Unknown(id) => Self::Unknown(id),
            register::NotDecided::NotAllowed(error) => Self::NotAllowed(error),
        }
    }
}

fn list_all<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let register = call.admin.house.register();
        let mut cases: Vec<&Case> = register.cases().map(|(_, case)| case).collect();
        cases.sort_by_key(|case| (std::cmp::Reverse(case.asked), case.digest));
        Ok(Answer::ok(json!({ "requests": cases.into_iter().map(view).collect::<Vec<_>>() })))
    })
}

fn show<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let register = call.admin.house.register();
        Ok(Answer::ok(view(register.case(id(call)?).ok_or(Refusal::NoRequest)?)))
    })
}

fn submit<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let wish = wish(call)?;
        let case = call.admin.house.submit(wish, call.operator).await.map_err(Refusal::NotSubmitted)?;
        Ok(Answer { status: StatusCode::CREATED, body: view(&case) })
    })
}

fn wish(call: &Call<'_>) -> Result<Wish, Refusal> {
    let invalid = |field: &Field| Refusal::Invalid(format!("the field `{}` is not of its form", field.name));
    let allow = call.texts(&ALLOW).unwrap_or_default().into_iter().map(|written| {
        let (route, rule) = endpoint::split_rule(written);
        let route = route.map(str::parse).transpose().map_err(|_| invalid(&ALLOW))?;
        Ok((route, rule.to_owned()))
    });
    let token: TokenName = call.text(&TOKEN).parse().map_err(|_| Refusal::NoToken)?;
    let mut allow = allow.collect::<Result<Vec<_>, Refusal>>()?;
    let scopes = call.texts(&SCOPES).map(|scopes| scopes.into_iter().map(str::to_owned));
    let mut scopes: Option<BTreeSet<String>> = scopes.map(Iterator::collect);
    if !call.text(&REFUSED).is_empty() {
        let want = call.admin.house.refused(call.text(&REFUSED));
        let want = want.ok_or(Refusal::NotSubmitted(NotSubmitted::UnknownRefusal))?;
        if want.token != token {
            return Err(Refusal::NotSubmitted(NotSubmitted::OtherToken(want.token)));
        }
        match want.lacks {
            Lack::Rule { route, rule } => allow.push((Some(route), rule)),
            Lack::Scopes(lacking) => scopes.get_or_insert_default().extend(lacking),
        }
    }
    Ok(Wish {
        token,
        scopes,
        allow,
        lasts: text::duration(call.text(&LASTS)).ok_or_else(|| invalid(&LASTS))?,
        reason: call.text(&REASON).to_owned(),
    })
}

fn approve<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async {
        let digest = call.text(&DIGEST).parse();
        let digest = digest.map_err(|error| Refusal::Invalid(format!("`digest`: {error}")))?;
        decide(call, id(call)?, Decision::Approve(digest)).await
    })
}

fn deny<'a>(call: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async { decide(call, id(call)?, Decision::Deny).await })
}

async fn decide(call: &Call<'_>, id: RequestId, decision: Decision) -> Result<Answer, Refusal> {
    let decided = call.admin.house.decide(id, decision, call.operator, call.text(&REASON)).await;
    Ok(Answer::ok(view(&decided.map_err(Refusal::NotDecided)?)))
}

fn id(call: &Call<'_>) -> Result<RequestId, Refusal> {
    call.parameter.parse().map_err(|_| Refusal::NoRequest)
}

/// A request as operators see it.
fn view(case: &Case) -> Value {
    let request = &case.request;
    let approvals = case.approvals.iter().map(|approval| {
        json!({ "by": approval.by, "reason": approval.reason, "at": rfc3339(approval.at),
                "signed_until": approval.signed_until.map(rfc3339) })
    });
    let quorum = case.quorum();
    json!({
        "id": case.digest.id(),
        "digest": case.digest,
        "request": request,
        "state": case.state.to_string(),
        "summary": case.summary(),
        "token": request.token,
        "requester": request.requester.to_string(),
        "owner": request.owner,
        "reason": request.reason,
        "scopes": request.scopes,
        "hosts": request.hosts,
        "routes": request.routes,
        "until": request.until,
        "source": request.source.kind,
        "next_source": request.next_source.as_ref().map(|next| &next.kind),
        "risk": case.risk,
        "decided_by": case.judgement.by,
        "required": quorum.required,
        "role": quorum.role.to_string(),
        "approvals": approvals.collect::<Vec<_>>(),
        "asked": rfc3339(case.asked),
        "grant_ends": case.ends_at().map(rfc3339),
    })
}

/// What [`view`] looks like.
fn schema() -> Value {
    let text = || json!({ "type": "string" });
    let texts = || json!({ "type": "array", "items": { "type": "string" } });
    let time = || json!({ "type": "string", "format": "date-time" });
    let or_null = |schema: Value| json!({ "anyOf": [schema, { "type": "null" }] });
    let properties = json!({
        "id": { "type": "string", "pattern": "^[0-9a-f]{16}$" },
        "digest": { "type": "string", "pattern": "^[0-9a-f]{64}$" },
        "request": { "type": "object", "description": "All that the digest is of" },
        "state": { "enum": ["pending", "granted", "denied", "expired", "superseded", "withdrawn", "unanswered"] },
        "summary": text(),
        "token": text(),
        "requester": text(),
        "owner": text(),
        "reason": text(),
        "scopes": texts(),
        "hosts": texts(),
        "routes": { "type": "object" },
        "until": text(),
        "source": text(),
        "next_source": { "type": ["string", "null"] },
        "risk": { "type": "object", "required": ["level", "factors"] },
        "decided_by": text(),
        "required": { "type": "integer", "minimum": 1 },
        "role": { "enum": ["approver", "admin"] },
        "approvals": { "type": "array", "items": { "type": "object", "required": ["by", "reason", "at"] } },
        "asked": time(),
        "grant_ends": or_null(time()),
    });
    let required: Vec<&String> = properties.as_object().into_iter().flat_map(serde_json::Map::keys).collect();
    json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false })
}
