//! `run`: the proxy until it is told to stop, or until the app that it runs has ended. SIGTERM and SIGINT drain, a second one
//! ends at once, SIGHUP reloads.

use std::convert::Infallible;
use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tempfile::NamedTempFile;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use super::child::{self, Forwarded, Launch};
use super::process;
use super::user::User;
use crate::app::environment::{Entrance, variables_of_roots};
use crate::app::{App, Reloads, Surroundings, announce, warn_of, warn_of_the_trail};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Environment};
use crate::dial::Resolver;
use crate::proxy::Address;
use crate::signals::Stop;
use crate::systemd::{Inherited, Manager};
use crate::telemetry::Log;
use crate::tls;

pub fn run(path: &Path, config: Config, launch: Option<&Launch>) -> anyhow::Result<ExitCode> {
    let environment = Environment::of_this_process(SystemClock.now());
    let no_proxy = environment.no_proxy.clone();
    // Before there is a second thread: it takes variables of the environment away.
    let inherited = Inherited::take()?;
    let log = Log::open(&config.telemetry).context("cannot open the log")?;
    let files = process::settle();
    warn_of(path, &config);
    warn_of_the_trail(&config);
    if let Some(user) = launch.and_then(|launch| launch.user.as_ref())
        && !knows(&config, user)
    {
        tracing::warn!(uid = user.uid, "no [[client]] is of the app's user: its calls will be refused");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let (stop, forwarded) = match launch {
            Some(_) => (None, Some(Forwarded::listen()?)),
            None => (Some(Stop::listen()?), None),
        };
        let hangup = signal(SignalKind::hangup())?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let manager = Arc::new(Manager::of_this_process().context("cannot reach the service manager")?);
        let (own_clock, resolver) = (clock.clone(), Resolver::System);
        let surroundings = Surroundings { clock: own_clock, log: Some(&log), resolver, inherited };
        let bound = App::bind_in(surroundings, config.clone()).await?;
        let reloads = Reloads::new(bound.handle(), path.to_owned(), &config, environment, clock);
        let reloads = reloads.telling(manager.clone());
        let announcing = announce(manager.clone(), bound.vitals.clone());
        let authorities = bound.handle().certificate_authorities();
        let roots = launch.and(authorities).map(|authorities| roots_for_app(&authorities)).transpose()?;
        let given = surroundings_of_app(&config, &bound.listen, &no_proxy, roots.as_ref(), files);
        let vitals = bound.vitals.clone();
        let mut code = ExitCode::SUCCESS;
        let stopped = async {
            let cause = match (launch, forwarded, stop) {
                (Some(launch), Some(forwarded), _) => {
                    code = launch.run(&vitals, given, forwarded).await.code(&launch.app[0]);
                    "the app's end"
                }
                (_, _, Some(stop)) => stop.asked().await,
                _ => std::future::pending().await,
            };
            manager.stopping("draining");
            cause
        };
        let asked = Arc::new(Notify::new());
        tokio::select! {
            outcome = bound.run(stopped) => outcome?,
            never = announcing => match never {},
            never = reloads.run(asked.clone()) => match never {},
            never = forward(hangup, &asked) => match never {},
        }
        Ok(code)
    });
    // A folder that does not answer must not hold the end up.
    runtime.shutdown_background();
    outcome
}

/// Whether a client may be a process of this user.
fn knows(config: &Config, user: &User) -> bool {
    let implicit = config.clients.is_empty() && rustix::process::geteuid().as_raw() == user.uid;
    implicit || config.clients.iter().any(|client| client.uid.is_none_or(|uid| uid == user.uid))
}

/// The system's roots and our own, in a file that the app can read whoever it is. It is there until dropped.
fn roots_for_app(authorities: &str) -> anyhow::Result<NamedTempFile> {
    let roots = format!("{}{authorities}", tls::system_roots_in_pem()?);
    let mut builder = tempfile::Builder::new();
    builder.prefix("countersign-roots-").suffix(".pem");
    let written = builder.tempfile().and_then(|mut file| {
        // Whatever our umask is.
        file.as_file().set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(roots.as_bytes())?;
        Ok(file)
    });
    written.context("cannot write the roots that the app is to trust")
}

/// How the app finds the proxy, and what it must not see.
fn surroundings_of_app(
    config: &Config,
    listen: &[Address],
    no_proxy: &str,
    roots: Option<&NamedTempFile>,
    files: Option<u64>,
) -> child::Surroundings {
    let (entrance, tunnels) = (Entrance::of(listen), config.proxy.tunnels);
    let variables = entrance.map(|entrance| entrance.variables(&config.routes, tunnels, no_proxy));
    let mut variables = variables.unwrap_or_default();
    if let Some(roots) = roots {
        variables.extend(variables_of_roots(&roots.path().to_string_lossy()));
        // Before version 24 it obeys no proxy variable at all.
        variables.push(("NODE_USE_ENV_PROXY".to_owned(), "1".to_owned()));
    }
    child::Surroundings { variables, secrets: config.secret_variables.clone(), files }
}

/// Each signal asks for a reload; several that come at once ask for one.
async fn forward(mut hangup: Signal, asked: &Notify) -> Infallible {
    while hangup.recv().await.is_some() {
        asked.notify_one();
    }
    std::future::pending().await
}
