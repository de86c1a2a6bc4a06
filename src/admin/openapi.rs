//! `/openapi.json`: the table of endpoints as OpenAPI 3.1 says it.

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::Pending;
use super::answer::{Answer, Refusal};
use super::endpoint::{self, Call, Endpoint, Field};
use crate::operator::Role;

pub const ENDPOINTS: &[Endpoint] = &[Endpoint {
    method: Method::GET,
    path: "/openapi.json",
    role: Role::Viewer,
    summary: "This description.",
    fields: &[],
    answer: (StatusCode::OK, || json!({ "type": "object" })),
    refusals: &[],
    work: show,
}];

/// What any call may be refused with, once it is known whose it is.
const OF_ANY: [StatusCode; 6] = [
    StatusCode::UNAUTHORIZED,
    StatusCode::FORBIDDEN,
    StatusCode::MISDIRECTED_REQUEST,
    StatusCode::UNPROCESSABLE_ENTITY,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::GATEWAY_TIMEOUT,
];

/// And one with a body.
const OF_POST: [StatusCode; 3] =
    [StatusCode::REQUEST_TIMEOUT, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNSUPPORTED_MEDIA_TYPE];

fn show<'a>(_: &'a Call<'a>) -> Pending<'a, Result<Answer, Refusal>> {
    Box::pin(async { Ok(Answer::ok(describe())) })
}

pub fn describe() -> Value {
    let mut paths = Map::new();
    for endpoint in endpoint::endpoints() {
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[endpoint.method.as_str().to_ascii_lowercase()] = operation(endpoint);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Countersign admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "How tokens stand, and what operators do to them. No answer holds a token or a secret.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "security": [{ "key": [] }, {}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": {
                    "type": "http", "scheme": "bearer",
                    "description": "An operator's key. Over the unix socket the caller's user may do, over TLS its certificate.",
                },
            },
            "schemas": { "problem": problem() },
        },
    })
}

fn operation(endpoint: &Endpoint) -> Value {
    let (status, schema) = endpoint.answer;
    let mut responses = Map::new();
    let content = json!({ "application/json": { "schema": schema() } });
    responses.insert(status.as_str().to_owned(), json!({ "description": "Done.", "content": content }));
    let of_post: &[StatusCode] = if endpoint.method == Method::POST { &OF_POST } else { &[] };
    for status in OF_ANY.iter().chain(of_post).chain(endpoint.refusals) {
        let content = json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/problem" } } });
        let description = status.canonical_reason().unwrap_or_default();
        responses.insert(status.as_str().to_owned(), json!({ "description": description, "content": content }));
    }
    let mut operation = json!({
        "operationId": operation_id(endpoint),
        "summary": endpoint.summary,
        "description": format!("Needs the role {}.", endpoint.role),
        "parameters": parameters(endpoint),
        "responses": responses,
    });
    if endpoint.method == Method::POST {
        operation["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": body(endpoint.fields) } },
        });
    }
    operation
}

/// `post_tokens_rotate`
fn operation_id(endpoint: &Endpoint) -> String {
    let words = endpoint.path.split(['/', '.']).filter(|word| !word.is_empty() && *word != "v1");
    let words = words.map(|word| word.trim_matches(['{', '}']));
    std::iter::once(endpoint.method.as_str().to_ascii_lowercase().as_str()).chain(words).collect::<Vec<_>>().join("_")
}

fn parameters(endpoint: &Endpoint) -> Vec<Value> {
    let of_path = ["name", "id"].into_iter().filter(|name| endpoint.path.contains(&format!("{{{name}}}")));
    let of_path = of_path.map(|name| {
        let schema = json!({ "type": "string", "pattern": "^[A-Za-z0-9_-]{1,128}$" });
        json!({ "name": name, "in": "path", "required": true, "schema": schema })
    });
    let of_query: &[Field] = if endpoint.method == Method::GET { endpoint.fields } else { &[] };
    let of_query = of_query.iter().map(|field| {
        let schema = field.shape.schema();
        let (name, about) = (field.name, field.about);
        json!({ "name": name, "in": "query", "required": field.required, "description": about, "schema": schema })
    });
    of_path.chain(of_query).collect()
}

fn body(fields: &[Field]) -> Value {
    let property = |field: &Field| {
        let mut schema = field.shape.schema();
        schema["description"] = field.about.into();
        (field.name.to_owned(), schema)
    };
    let properties: Map<String, Value> = fields.iter().map(property).collect();
    let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

/// RFC 9457
fn problem() -> Value {
    json!({
        "type": "object",
        "required": ["type", "title", "status", "detail", "reason", "request_id"],
        "properties": {
            "type": { "type": "string", "pattern": "^urn:countersign:" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "reason": { "type": "string" },
            "request_id": { "type": "string" },
            "problems": { "type": "array", "description": "Of a config file that was refused" },
        },
    })
}
