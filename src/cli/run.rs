//! `run`: the proxy until it is told to stop. SIGTERM and SIGINT drain, a second one ends at once, SIGHUP reloads.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use super::process;
use crate::app::{App, Reloads, Surroundings, announce};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Environment};
use crate::dial::Resolver;
use crate::signals::Stop;
use crate::systemd::{Inherited, Manager};
use crate::telemetry::Log;

pub fn run(path: &Path, config: Config) -> anyhow::Result<()> {
    let environment = Environment::of_this_process(SystemClock.now());
    // Before there is a second thread: it takes variables of the environment away.
    let inherited = Inherited::take()?;
    let log = Log::open(&config.telemetry).context("cannot open the log")?;
    process::settle();
    for warning in &config.warnings {
        let (line, help) = (warning.line, warning.help.as_deref().unwrap_or(""));
        tracing::warn!(file = %path.display(), line, help, "{}", warning.message);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let stop = Stop::listen()?;
        let hangup = signal(SignalKind::hangup())?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let manager = Arc::new(Manager::of_this_process().context("cannot reach the service manager")?);
        let (own_clock, resolver) = (clock.clone(), Resolver::System);
        let surroundings = Surroundings { clock: own_clock, log: Some(&log), resolver, inherited };
        let bound = App::bind_in(surroundings, config.clone()).await?;
        let reloads = Reloads::new(bound.handle(), path.to_owned(), &config, environment, clock);
        let reloads = reloads.telling(manager.clone());
        let announcing = announce(manager.clone(), bound.vitals.clone());
        let stopped = async {
            let cause = stop.asked().await;
            manager.stopping("draining");
            cause
        };
        let asked = Arc::new(Notify::new());
        tokio::select! {
            outcome = bound.run(stopped) => Ok(outcome?),
            never = announcing => match never {},
            never = reloads.run(asked.clone()) => match never {},
            never = forward(hangup, &asked) => match never {},
        }
    });
    // A folder that does not answer must not hold the end up.
    runtime.shutdown_background();
    outcome
}

/// Each signal asks for a reload; several that come at once ask for one.
async fn forward(mut hangup: Signal, asked: &Notify) -> Infallible {
    while hangup.recv().await.is_some() {
        asked.notify_one();
    }
    std::future::pending().await
}
