//! `tokens`: how tokens stand, and what is done to them, by the admin API of the running proxy.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::admin::AdminOption;
use super::shown::{Shown, columns, text};
use crate::name::TokenName;

#[derive(Subcommand)]
pub enum Tokens {
    /// All tokens, by name
    List {
        #[command(flatten)]
        admin: AdminOption,
    },
    /// One token
    Show {
        name: TokenName,
        #[command(flatten)]
        admin: AdminOption,
    },
    /// Have the issuer give a new generation now; nothing is cut. A responder's
    Rotate {
        name: TokenName,
        /// Why, for the trail
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        admin: AdminOption,
    },
    /// Stop attaching the token, and keep its generation, until it is released. A responder's
    Quarantine(Taking),
    /// Void all generations, here and at the issuer, until it is released. A responder's
    Revoke(Taking),
    /// Let in what was quarantined, or have a new generation of what was revoked. An approver's
    Release(Change),
    /// End the token's grant. An admin's
    Retire(Change),
}

#[derive(Args)]
pub struct Change {
    name: TokenName,
    /// Why, for the trail
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    admin: AdminOption,
}

#[derive(Args)]
pub struct Taking {
    #[command(flatten)]
    change: Change,
    /// For how long that has gone on for which it is taken out of use, as in 30m: the time to detect it is measured so
    #[arg(long, value_name = "DURATION")]
    since: Option<String>,
}

pub fn tokens(command: &Tokens) -> ExitCode {
    let (admin, method, path, body) = match command {
        Tokens::List { admin } => (admin, Method::GET, "/v1/tokens".to_owned(), Value::Null),
        Tokens::Show { name, admin } => (admin, Method::GET, format!("/v1/tokens/{name}"), Value::Null),
        Tokens::Rotate { name, reason, admin } => {
            let body = reason.as_ref().map_or(json!({}), |reason| json!({ "reason": reason }));
            (admin, Method::POST, format!("/v1/tokens/{name}/rotate"), body)
        }
        Tokens::Quarantine(taking) => taking.call("quarantine"),
        Tokens::Revoke(taking) => taking.call("revoke"),
        Tokens::Release(change) => change.call("release"),
        Tokens::Retire(change) => change.call("retire"),
    };
    admin.show(method, &path, &body, &Shown { list: "tokens", table, page })
}

impl Change {
    fn call(&self, what: &str) -> (&AdminOption, Method, String, Value) {
        let path = format!("/v1/tokens/{}/{what}", self.name);
        (&self.admin, Method::POST, path, json!({ "reason": self.reason }))
    }
}

impl Taking {
    fn call(&self, what: &str) -> (&AdminOption, Method, String, Value) {
        let (admin, method, path, mut body) = self.change.call(what);
        if let Some(since) = &self.since {
            body["since"] = json!(since);
        }
        (admin, method, path, body)
    }
}

/// A line a token, in columns.
fn table(tokens: &[Value]) -> String {
    let head = ["NAME", "STATE", "GENERATION", "FINGERPRINT", "EXPIRES", "GRANT ENDS", "OWNER"];
    let row = |token: &Value| {
        let generation = &token["generation"];
        [
            text(&token["name"]),
            text(&token["state"]),
            text(&generation["number"]),
            text(&generation["fingerprint"]),
            text(&generation["expires"]),
            text(&token["grant_ends"]),
            text(&token["owner"]),
        ]
    };
    columns(head, tokens.iter().map(row))
}

/// A line for each thing that there is to say of one token.
fn page(token: &Value) -> String {
    let mut lines = Vec::new();
    let mut say = |name: &str, value: &Value| lines.push(format!("{:<14}{}", format!("{name}:"), text(value)));
    for name in ["name", "state", "owner", "reason", "scopes", "hosts", "source", "placement"] {
        say(name, &token[name]);
    }
    let next = &token["next_source"];
    if next.is_object() {
        say("next source", &format!("{} ({})", text(&next["source"]), text(&next["state"])).into());
    }
    say("grant ends", &token["grant_ends"]);
    let generation = &token["generation"];
    say("generation", &generation["number"]);
    if generation.is_object() {
        for name in ["fingerprint", "issued", "expires"] {
            say(name, &generation[name]);
        }
        say("usable until", &generation["usable_until"]);
    }
    if !token["retry_at"].is_null() {
        say("asked again", &token["retry_at"]);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_a_token_and_columns_that_stand_below_each_other() {
        let generation = json!({ "number": 12, "fingerprint": "0a1b2c3d", "expires": "2026-11-22T10:00:00.000Z" });
        let token = |name: &str, generation: &Value| json!({ "name": name, "state": "active", "owner": "me", "grant_ends": "2027", "generation": generation });
        let shown = table(&[token("a", &generation), token("longer-name", &Value::Null)]);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(
            lines,
            [
                "NAME         STATE   GENERATION  FINGERPRINT  EXPIRES                   GRANT ENDS  OWNER",
                "a            active  12          0a1b2c3d     2026-11-22T10:00:00.000Z  2027        me",
                "longer-name  active  -           -            -                         2027        me",
            ]
        );
    }
}
