//! `run`: the proxy until it is told to stop. SIGTERM and SIGINT drain, a second one ends at once, SIGHUP reloads.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::process;
use crate::app::{App, Handle};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Environment, LoadError, Severity};
use crate::signals::Stop;
use crate::telemetry::Log;

pub fn run(path: &Path, config: Config) -> anyhow::Result<()> {
    let log = Log::open(&config.telemetry).context("cannot open the log")?;
    process::settle();
    for warning in &config.warnings {
        let (line, help) = (warning.line, warning.help.as_deref().unwrap_or(""));
        tracing::warn!(file = %path.display(), line, help, "{}", warning.message);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = Stop::listen()?;
        let hangup = signal(SignalKind::hangup())?;
        let bound = App::bind(config, Arc::new(SystemClock), Some(&log)).await?;
        let reloads = reload_on(hangup, bound.handle(), path.to_owned());
        tokio::select! {
            outcome = bound.run(stop.asked()) => Ok(outcome?),
            never = reloads => match never {},
        }
    })
}

/// Loads the file again at each signal. Whatever is wrong with it, the running configuration goes on.
async fn reload_on(mut hangup: Signal, handle: Handle, path: PathBuf) -> std::convert::Infallible {
    loop {
        if hangup.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        match Config::load(&path, &Environment::of_this_process(SystemClock.now())) {
            Ok(config) => {
                if let Err(error) = handle.reload(&config).await {
                    tracing::error!(file = %path.display(), %error, "the new config is not taken: the old one goes on");
                }
            }
            Err(error) => {
                let problems = match &error {
                    LoadError::Problems(problems) => {
                        problems.iter().filter(|problem| problem.severity == Severity::Error).count()
                    }
                    _ => 1,
                };
                handle.refused(problems);
                tracing::error!(file = %path.display(), problems, "the new config is not taken: the old one goes on");
                for line in error.to_string().lines() {
                    tracing::error!("{line}");
                }
            }
        }
    }
}
