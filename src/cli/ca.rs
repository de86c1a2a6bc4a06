//! `ca`: the local certificate authority, for apps to trust.

use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;

use super::{ConfigOption, ended, print, with_config};
use crate::config::Config;
use crate::interception::Interception;
use crate::store::Store;
use crate::tls;

#[derive(Subcommand)]
pub enum Command {
    /// Print its certificate, in PEM. It is made when the proxy starts with a route that has `intercept = true`
    Export {
        /// After the system's own roots, for apps that take one file for all
        #[arg(long)]
        bundle: bool,
        #[command(flatten)]
        config: ConfigOption,
    },
}

pub fn ca(command: &Command) -> ExitCode {
    let Command::Export { bundle, config } = command;
    with_config(config, |_, config| ended(export(&config, *bundle)))
}

fn export(config: &Config, bundle: bool) -> anyhow::Result<ExitCode> {
    // To look for it makes nothing: whoever asks may be another user than the proxy's.
    let certificate = match Store::is_there(&config.state_dir) {
        true => Interception::exported(&Store::open(&config.state_dir, config.state_key.as_ref())?)?,
        false => None,
    };
    let Some(certificate) = certificate else {
        bail!(
            "there is none in {}: start the proxy with a route that has `intercept = true`",
            config.state_dir.display()
        )
    };
    if bundle {
        print(tls::system_roots_in_pem()?.as_bytes());
    }
    print(certificate.as_bytes());
    Ok(ExitCode::SUCCESS)
}
