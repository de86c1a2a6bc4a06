//! `wait`: asks the running proxy until it is ready, for scripts that start an app beside it.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, sleep, timeout_at};

use super::{UNREACHABLE, runtime, telemetry};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);

pub fn wait(address: SocketAddr, timeout: Duration) -> ExitCode {
    if address.port() == 0 {
        eprintln!("countersign: `listen` in [telemetry] is port 0, so that only the running proxy knows its port");
        eprintln!("  help: say where it is with --telemetry, or give `listen` a port");
        return ExitCode::from(UNREACHABLE);
    }
    let outcome = match runtime() {
        Ok(runtime) => runtime.block_on(until_ready(address, timeout)),
        Err(error) => Err(NotReady::Unreachable(error)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(NotReady::Unreachable(error)) => {
            eprintln!("countersign: the proxy cannot be reached at {address}: {error:#}");
            ExitCode::from(UNREACHABLE)
        }
        Err(NotReady::Missing(what)) => {
            eprintln!("countersign: the proxy at {address} is not ready:");
            what.lines().for_each(|line| eprintln!("  {line}"));
            ExitCode::FAILURE
        }
    }
}

/// How the last question was answered.
enum NotReady {
    Unreachable(anyhow::Error),
    /// What it waits for, in its own words.
    Missing(String),
}

async fn until_ready(address: SocketAddr, timeout: Duration) -> Result<(), NotReady> {
    // A timeout beyond the clock's end is none.
    let deadline = Instant::now().checked_add(timeout);
    let mut last = NotReady::Unreachable(anyhow::anyhow!("no answer in time"));
    loop {
        let asked = telemetry::get(address, "/readyz?verbose");
        let answer = match deadline {
            Some(deadline) => match timeout_at(deadline, asked).await {
                Ok(answer) => answer,
                Err(_) => return Err(last),
            },
            None => asked.await,
        };
        last = match answer {
            Ok(answer) if answer.status == StatusCode::OK => return Ok(()),
            Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => NotReady::Missing(missing(&answer.text)),
            Ok(answer) => NotReady::Missing(format!("it answers {} to /readyz: is it countersign?", answer.status)),
            Err(error) => NotReady::Unreachable(error),
        };
        if deadline.is_some_and(|deadline| Instant::now() + PAUSE >= deadline) {
            return Err(last);
        }
        sleep(PAUSE).await;
    }
}

/// Of `/readyz?verbose`, the lines of what does not hold.
fn missing(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("[-]")).collect();
    if lines.is_empty() { text.trim().to_owned() } else { lines.join("\n") }
}
