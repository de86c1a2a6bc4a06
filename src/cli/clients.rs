//! `clients`: what clients prove themselves with; what is held back from those of the running proxy, and letting them in again.

use std::process::ExitCode;

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::admin::AdminOption;
use super::say;
use super::shown::{Shown, columns, text};
use crate::identity::Format;
use crate::name::ClientName;

#[derive(Subcommand)]
pub enum Clients {
    /// Make a phantom key: what the app sends where its SDK wants an API key. It is printed once and kept nowhere
    Key {
        /// The client of the config whose key it is to be
        name: ClientName,
        /// What the SDK takes: sk, ghp, xoxb, the name of a preset as anthropic, or a template as "key-{}": {} becomes 43 random letters and digits, {20} as
        /// many, {20:hex} and {20:digits} others
        #[arg(long, value_name = "FORMAT", default_value = "sk", value_parser = crate::config::phantom)]
        format: Format,
    },
    /// All clients, and what is held back from each while its use is unusual
    List {
        #[command(flatten)]
        admin: AdminOption,
    },
    /// Let a client in again that was blocked, and give it back what was held back from it. An approver's
    Release {
        name: ClientName,
        /// Why, for the trail
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        admin: AdminOption,
    },
}

const SHOWN: Shown = Shown { list: "clients", table, page };

pub fn clients(command: &Clients) -> ExitCode {
    match command {
        Clients::Key { name, format } => mint(name, format),
        Clients::List { admin } => admin.show(Method::GET, "/v1/clients", &Value::Null, &SHOWN),
        Clients::Release { name, reason, admin } => {
            admin.show(Method::POST, &format!("/v1/clients/{name}/release"), &json!({ "reason": reason }), &SHOWN)
        }
    }
}

fn mint(name: &ClientName, format: &Format) -> ExitCode {
    say(&format.mint());
    // Apart from the key, so that `>` takes the key alone.
    eprintln!(
        "Keep it in a file that the proxy can read and apps cannot (umask 077; chown it to the proxy's user), and name that\n\
         in the config:\n\n    [[client]]\n    name = \"{name}\"\n    key = \"file:/etc/countersign/{name}.key\"\n\n\
         The app gets the same text as its API key (OPENAI_API_KEY=...), or in HTTP_PROXY=http://{name}:KEY@127.0.0.1:8080."
    );
    ExitCode::SUCCESS
}

/// A line for each thing that is held back, and one for a client from whom nothing is.
fn table(clients: &[Value]) -> String {
    let head = ["NAME", "HELD", "TOKEN", "SINCE", "REQUEST", "WHY"];
    let row = |client: &Value, held: &Value| {
        [
            text(&client["name"]),
            text(&held["hold"]),
            text(&held["token"]),
            text(&held["since"]),
            text(&held["request"]),
            text(&held["reason"]),
        ]
    };
    let rows = clients.iter().flat_map(|client| match client["held"].as_array().map(Vec::as_slice) {
        None | Some([]) => vec![row(client, &Value::Null)],
        Some(held) => held.iter().map(|held| row(client, held)).collect(),
    });
    columns(head, rows)
}

fn page(client: &Value) -> String {
    table(std::slice::from_ref(client))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_a_line_for_each_thing_that_is_held_back_from_it() {
        let held = json!({ "hold": "block", "token": null, "since": "2026", "request": null, "reason": "odd" });
        let shown = table(&[json!({ "name": "a", "held": [held] }), json!({ "name": "b", "held": [] })]);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(
            lines,
            [
                "NAME  HELD   TOKEN  SINCE  REQUEST  WHY",
                "a     block  -      2026   -        odd",
                "b     -      -      -      -        -",
            ]
        );
    }
}
