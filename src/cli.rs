//! The command line: one function a command, and what its outcome means as an exit code.

mod admin;
mod anomalies;
mod audit;
mod ca;
mod child;
mod clients;
mod detect;
mod doctor;
mod drill;
mod env;
mod explain;
mod login;
mod paper;
mod policy;
mod process;
mod report;
mod requests;
mod run;
mod shown;
mod telemetry;
mod tokens;
mod usage;
mod user;
mod wait;

use std::ffi::OsString;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::app::StartError;
use crate::audit::Exposed;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config, Environment, Severity};
use crate::dial::{Dialer, Tunnel};
use crate::fetch::Fetcher;
use crate::name::{ClientName, RouteName};
use crate::route::Upstream;
use crate::token::source;
use crate::vault::Vault;
use crate::{REVISION, demo, text};
use child::Launch;
use policy::Verdict;
use user::{User, UserError};

/// Exit codes beyond 0 and 1 (sysexits.h).
const USAGE: u8 = 64;
const UNREACHABLE: u8 = 69;
const NOT_ALLOWED: u8 = 77;
const CONFIG: u8 = 78;

/// Attaches short-lived tokens to an app's outbound API calls, so that the app never holds a credential.
#[derive(Parser)]
#[command(name = "countersign", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the proxy, and with `--` an app as its child: started when its calls would be served, without the variables that
    /// hold secrets; its exit code is ours
    Run {
        #[command(flatten)]
        config: ConfigOption,
        /// Run the app as this user: a name, a number, or UID:GID
        #[arg(long, value_name = "NAME", requires = "app")]
        user: Option<String>,
        /// How long the app waits for the proxy to become ready, as in 250ms, 30s or 5m; 69 when it does not
        #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration, requires = "app")]
        wait_timeout: Duration,
        /// The app and its arguments
        #[arg(last = true, value_name = "APP")]
        app: Vec<OsString>,
    },
    /// Run the proxy against an issuer and an API of its own, and say what to try
    Demo {
        /// Make a round trip, rotate the token, make another, and end
        #[arg(long)]
        once: bool,
    },
    /// Read and build the whole config, and print every problem in it; resolves no secret, runs nothing
    Check {
        #[command(flatten)]
        config: ConfigOption,
        /// Print the problems as JSON
        #[arg(long)]
        json: bool,
        /// Judge its access requests by its rules too: 1 if one of them is not approved
        #[arg(long)]
        policy: bool,
    },
    /// Return when the running proxy is ready: 69 when it cannot be reached in time, 1 when it is not ready by then
    Wait {
        #[command(flatten)]
        config: ConfigOption,
        /// How long to wait, as in 250ms, 30s or 5m
        #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
        timeout: Duration,
        /// The proxy's telemetry listener [default: that of the config]
        #[arg(long, value_name = "ADDRESS")]
        telemetry: Option<SocketAddr>,
    },
    /// Look at the running set-up as an attacker and an operator would: 0 if nothing is worse than a note, else 1
    Doctor {
        #[command(flatten)]
        config: ConfigOption,
        /// Print a list of objects with `severity`, `what` and `fix`
        #[arg(long)]
        json: bool,
    },
    /// Say which route, rule and token a request would take, or why it would be refused: 0 or 1. Sends nothing
    Explain {
        method: http::Method,
        /// A base URL of the proxy, a URL of an upstream, a path at the proxy; for CONNECT a host and a port
        url: String,
        #[command(flatten)]
        config: ConfigOption,
        /// Who asks [default: the only client of the config]
        #[arg(long, value_name = "NAME")]
        client: Option<ClientName>,
        /// Print an object
        #[arg(long)]
        json: bool,
    },
    /// Print the variables that an app needs, for `eval`; what no variable can do is said in comments
    Env {
        #[command(flatten)]
        config: ConfigOption,
        /// The platform of the app, which may obey variables of its own
        #[arg(long = "for", value_name = "PLATFORM")]
        platform: Option<env::Platform>,
        /// The base URL of this route alone
        #[arg(long, value_name = "NAME")]
        route: Option<RouteName>,
        /// Print an object with `variables` and `notes`
        #[arg(long)]
        json: bool,
    },
    /// Tell what is unusual in recorded figures, with the code that watches live use
    Detect {
        #[command(subcommand)]
        command: detect::Command,
    },
    /// Read the trail, or a copy of it: whether it is what was written, its records, its last checkpoint
    Audit {
        #[command(subcommand)]
        command: audit::Command,
    },
    /// Ask for access, and decide what others ask for, at the running proxy
    Requests {
        #[command(subcommand)]
        command: requests::Requests,
    },
    /// Say what the tokens of the running proxy are used for, what to tighten, and how
    Report(report::Report),
    /// Show what was unusual about the use of the running proxy's tokens, and what was done about it
    Anomalies {
        #[command(subcommand)]
        command: anomalies::Anomalies,
    },
    /// Give out what the tokens of the running proxy were used for
    Usage {
        #[command(subcommand)]
        command: usage::Usage,
    },
    /// What clients prove themselves with, and what is held back from those of the running proxy
    Clients {
        #[command(subcommand)]
        command: clients::Clients,
    },
    /// Sign in at the issuer of a token, and put the refresh token where the config says that it is
    Login(login::Login),
    /// Look after the tokens of the running proxy
    Tokens {
        #[command(subcommand)]
        command: tokens::Tokens,
    },
    /// Rehearse a compromise of a token while requests go on: replace it, have it let go of, have it voided at its issuer.
    /// Says how long each step took: 0 if all were done. A responder's
    Drill(drill::Drill),
    /// The local certificate authority, which apps have to trust whose tunnels are looked into
    Ca {
        #[command(subcommand)]
        command: ca::Command,
    },
    /// Print the JSON Schema of the config, for editors
    Schema,
    /// Print what a shell needs to complete the commands
    Completions { shell: clap_complete::Shell },
    /// Print the manual, in roff
    Man {
        /// Write a page for each command into this folder instead
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
    },
    /// Print what this is
    Version {
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct ConfigOption {
    /// The config file [default: $COUNTERSIGN_CONFIG, then $XDG_CONFIG_HOME/countersign/countersign.toml, then
    /// /etc/countersign/countersign.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the command that the arguments name.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    process::say_no_payload_in_panics();
    let arguments: Vec<OsString> = arguments.collect();
    if let Some(code) = child::leash(&arguments) {
        return code;
    }
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors. That they cannot be printed is nobody's fault.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match arguments.command {
        Command::Run { config, user, wait_timeout, app } => {
            let user = user.as_deref().map(User::find).transpose();
            let launch = user.map(|user| (!app.is_empty()).then_some(Launch { app, user, wait_timeout }));
            match launch {
                Ok(launch) => with_config(&config, |path, config| ended(run::run(path, config, launch.as_ref()))),
                Err(error) => {
                    eprintln!("countersign: {error}");
                    ExitCode::from(if matches!(error, UserError::NotRoot(_)) { NOT_ALLOWED } else { USAGE })
                }
            }
        }
        Command::Demo { once } => outcome(demo::main(once)),
        Command::Check { config, json, policy } => check(&config, json, policy),
        Command::Wait { timeout, telemetry: Some(address), .. } => wait::wait(address, timeout),
        Command::Wait { config, timeout, telemetry: None } => {
            with_config(&config, |_, config| wait::wait(telemetry::address(&config), timeout))
        }
        Command::Env { config, platform, route, json } => {
            with_config(&config, |_, config| env::env(&config, platform, route.as_ref(), json))
        }
        Command::Explain { method, url, config, client, json } => with_config(&config, |path, config| {
            explain::explain(path, &config, &explain::Question { method, url, client }, json)
        }),
        Command::Doctor { config, json } => with_config(&config, |path, config| doctor::doctor(path, &config, json)),
        Command::Detect { command } => detect::detect(&command),
        Command::Audit { command } => audit::audit(command),
        Command::Requests { command } => requests::requests(&command),
        Command::Report(command) => report::report(&command),
        Command::Anomalies { command } => anomalies::anomalies(&command),
        Command::Usage { command } => usage::usage(&command),
        Command::Clients { command } => clients::clients(&command),
        Command::Login(login) => with_config(&login.config, |_, config| login::login(&config, &login)),
        Command::Tokens { command } => tokens::tokens(&command),
        Command::Drill(drill) => drill::drill(&drill),
        Command::Ca { command } => ca::ca(&command),
        Command::Schema => {
            print(config::SCHEMA.as_bytes());
            ExitCode::SUCCESS
        }
        Command::Completions { shell } => paper::completions(shell),
        Command::Man { dir } => paper::man(dir.as_deref()),
        Command::Version { json } => version(json),
    }
}

fn duration(written: &str) -> Result<Duration, &'static str> {
    text::duration(written).ok_or("write a whole number and a unit, as in 250ms, 30s or 5m")
}

fn outcome(outcome: anyhow::Result<()>) -> ExitCode {
    ended(outcome.map(|()| ExitCode::SUCCESS))
}

fn ended(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("countersign: {}", with_causes(&error));
            // What `check` would have said.
            let config = matches!(error.downcast_ref(), Some(StartError::Draft(_)));
            if config { ExitCode::from(CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

/// An error and its causes, each once: many tell their cause themselves.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match &*said {
        "" => cause,
        said if said.contains(&cause) => said.to_owned(),
        said => format!("{said}: {cause}"),
    })
}

/// Finds and loads the config, and goes on with it.
fn with_config(option: &ConfigOption, go_on: impl FnOnce(&Path, Config) -> ExitCode) -> ExitCode {
    let environment = Environment::of_this_process(SystemClock.now());
    let path = match config::find(option.config.as_deref(), &environment) {
        Ok(path) => path,
        Err(error) => {
            eprintln!("countersign: {error}\n  help: countersign demo runs without one");
            return ExitCode::from(CONFIG);
        }
    };
    match Config::load(&path, &environment) {
        Ok(config) => go_on(&path, config),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(CONFIG)
        }
    }
}

fn check(option: &ConfigOption, json: bool, policy: bool) -> ExitCode {
    let environment = Environment::of_this_process(SystemClock.now());
    let path = match config::find(option.config.as_deref(), &environment) {
        Ok(path) => path,
        Err(error) if json => {
            return problems(&serde_json::json!([unplaced("", Severity::Error, &error.to_string(), None)]));
        }
        Err(error) => {
            eprintln!("countersign: {error}");
            return ExitCode::from(CONFIG);
        }
    };
    match Config::load(&path, &environment) {
        Err(error) if json => problems(&error.to_json()),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(CONFIG)
        }
        Ok(config) => check_built(&path, &config, json, policy),
    }
}

/// What a file alone cannot tell: whether what it names can be built.
fn check_built(path: &Path, config: &Config, json: bool, policy: bool) -> ExitCode {
    let file = path.display().to_string();
    let unbuilt = build(config);
    let verdict = policy.then(|| Verdict::of(config));
    let undecided = verdict.as_ref().map(Verdict::problems).unwrap_or_default();
    let exposed = Exposed::of(&config.audit);
    if json {
        let mut all = config.warnings.to_json();
        if let Some(all) = all.as_array_mut() {
            let warned = exposed
                .iter()
                .map(|exposed| unplaced(&file, Severity::Warning, &exposed.to_string(), Some(exposed.fix())));
            all.extend(warned);
            let refused = unbuilt.iter().chain(&undecided);
            all.extend(refused.map(|message| unplaced(&file, Severity::Error, message, None)));
        }
        say(&format!("{all:#}"));
    } else {
        if !config.warnings.is_empty() {
            eprintln!("{}", config.warnings);
        }
        for exposed in &exposed {
            eprintln!("{file}: warning: {exposed}\n  help: {}", exposed.fix());
        }
        for message in unbuilt.iter().chain(&undecided) {
            eprintln!("{file}: error: {message}");
        }
    }
    if !unbuilt.is_empty() {
        return ExitCode::from(CONFIG);
    }
    if !undecided.is_empty() {
        return ExitCode::FAILURE;
    }
    if !json {
        verdict.iter().flat_map(Verdict::lines).for_each(|line| say(&line));
        config.filled.iter().for_each(|filled| say(&filled.to_string()));
        say(&format!("{file}: ok, {} tokens, {} routes", config.tokens.len(), config.routes.len()));
    }
    ExitCode::SUCCESS
}

/// Builds each source and upstream, and the way to them, as `run` would, but for secrets, and lets go of them.
fn build(config: &Config) -> Vec<String> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let fetcher = Arc::new(Fetcher::new(Arc::new(Dialer::new(config.destinations.clone(), Vec::new()))));
    let vault = config.vault.as_ref().map(|named| Vault::new(&named.settings, fetcher.clone(), clock.clone()));
    let vault = match vault.transpose() {
        Ok(vault) => vault.map(Arc::new),
        Err(error) => return vec![format!("vault: {error}")],
    };
    let vault = vault.as_ref();
    let sources = config
        .tokens
        .iter()
        .flat_map(|token| std::iter::once(&token.source).chain(&token.next_source).map(|source| (&token.name, source)));
    let tokens = sources.filter_map(|(name, source)| {
        let built = source::build(source, &fetcher, vault, clock.clone(), None);
        built.err().map(|error| format!("token {name}: {error}"))
    });
    let routes = config.routes.iter().filter_map(|route| {
        let built = Upstream::new(&route.upstream, &route.tls.without_identity());
        built.err().map(|error| format!("route {}: {error}", route.name))
    });
    let way_out = config.upstream_proxy.iter().filter_map(|proxy| {
        let built = Tunnel::new(&proxy.without_secrets());
        built.err().map(|error| format!("upstream_proxy: {error}"))
    });
    tokens.chain(routes).chain(way_out).collect()
}

fn unplaced(file: &str, severity: Severity, message: &str, help: Option<&str>) -> serde_json::Value {
    let severity = severity.as_str();
    serde_json::json!({ "file": file, "line": 1, "column": 1, "severity": severity, "message": message, "help": help })
}

fn problems(all: &serde_json::Value) -> ExitCode {
    say(&format!("{all:#}"));
    ExitCode::from(CONFIG)
}

fn version(json: bool) -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    if json {
        say(&serde_json::json!({ "version": version, "revision": REVISION }).to_string());
    } else {
        say(&format!("countersign {version} ({REVISION})"));
    }
    ExitCode::SUCCESS
}

/// A runtime for a command that asks somebody.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Prints a line on standard output; a reader that has gone (`| head`) is no error.
fn say(text: &str) {
    print(format!("{text}\n").as_bytes());
}

fn print(bytes: &[u8]) {
    let _ = std::io::stdout().write_all(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
