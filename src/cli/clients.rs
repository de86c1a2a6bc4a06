//! `clients`: what clients prove themselves with.

use std::process::ExitCode;

use clap::Subcommand;

use super::say;
use crate::identity::Format;
use crate::name::ClientName;

#[derive(Subcommand)]
pub enum Clients {
    /// Make a phantom key: what the app sends where its SDK wants an API key. It is printed once and kept nowhere
    Key {
        /// The client of the config whose key it is to be
        name: ClientName,
        /// What the SDK takes: sk, ghp, xoxb, or a template as "key-{}": {} becomes 43 random letters and digits, {20} as
        /// many, {20:hex} and {20:digits} others
        #[arg(long, value_name = "FORMAT", default_value = "sk")]
        format: Format,
    },
}

pub fn clients(command: &Clients) -> ExitCode {
    let Clients::Key { name, format } = command;
    say(&format.mint());
    // Apart from the key, so that `>` takes the key alone.
    eprintln!(
        "Keep it in a file that the proxy can read and apps cannot (umask 077; chown it to the proxy's user), and name that\n\
         in the config:\n\n    [[client]]\n    name = \"{name}\"\n    key = \"file:/etc/countersign/{name}.key\"\n\n\
         The app gets the same text as its API key (OPENAI_API_KEY=...), or in HTTP_PROXY=http://{name}:KEY@127.0.0.1:8080."
    );
    ExitCode::SUCCESS
}
