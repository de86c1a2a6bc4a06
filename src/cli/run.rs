//! `run`: the proxy until it is told to stop. SIGTERM and SIGINT drain, a second one ends at once, SIGHUP reloads.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use super::process;
use crate::app::{App, Reloads};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Environment};
use crate::signals::Stop;
use crate::telemetry::Log;

pub fn run(path: &Path, config: Config) -> anyhow::Result<()> {
    let environment = Environment::of_this_process(SystemClock.now());
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
        let bound = App::bind(config.clone(), clock.clone(), Some(&log)).await?;
        let reloads = Reloads::new(bound.handle(), path.to_owned(), &config, environment, clock);
        let asked = Arc::new(Notify::new());
        tokio::select! {
            outcome = bound.run(stop.asked()) => Ok(outcome?),
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
