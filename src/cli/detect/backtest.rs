//! `detect backtest`: recorded use in, one for a line; what would have been told of it out, and what would have been done.

use std::collections::BTreeMap;
use std::io::{BufRead, BufWriter, Write, stdout};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;

use super::{gone, open};
use crate::config::Config;
use crate::detect::response::Response;
use crate::detect::{Anomaly, Engine, Event};

/// With a config, of its tokens alone, and answered as it says; without one, all of them are alerts.
pub fn backtest(path: &Path, config: Option<&Config>, summary: bool) -> anyhow::Result<ExitCode> {
    let input = open(path)?;
    let mut output = BufWriter::new(stdout().lock());
    let told = if summary {
        summed(input, config, &mut output)
    } else {
        each(input, config, |anomaly, response| Ok(writeln!(output, "{}", anomaly.to_json(response.as_str()))?))
    };
    match told.with_context(|| path.display().to_string()).and_then(|()| Ok(output.flush()?)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if gone(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
    }
}

fn each(
    mut input: impl BufRead,
    config: Option<&Config>,
    mut tell: impl FnMut(&Anomaly, Response) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let known =
        |token: &str| config.is_none_or(|config| config.tokens.iter().any(|known| known.name.as_str() == token));
    let mut tell = |anomaly: &Anomaly| tell(anomaly, response(anomaly, config));
    let mut engine = Engine::default();
    if let Some(config) = config {
        engine.settle(&config.detect);
    }
    let mut line = String::new();
    for number in 1_u64.. {
        line.clear();
        if input.read_line(&mut line).with_context(|| format!("line {number}"))? == 0 {
            break;
        }
        if line.trim().is_empty() {
            continue;
        }
        let event: Event = serde_json::from_str(&line).with_context(|| format!("line {number}"))?;
        if known(&event.token) {
            engine.observe(&event).iter().try_for_each(&mut tell)?;
        }
    }
    engine.end().iter().try_for_each(tell)
}

/// The gravest that would have been done.
fn response(anomaly: &Anomaly, config: Option<&Config>) -> Response {
    let deeds = config.map(|config| config.detect.deeds(anomaly, anomaly.time.0));
    deeds.and_then(|deeds| deeds.last().map(|(response, _)| *response)).unwrap_or(Response::Alert)
}

/// How many of each signal on each day, but for what is exempt.
fn summed(input: impl BufRead, config: Option<&Config>, output: &mut impl Write) -> anyhow::Result<()> {
    let mut days: BTreeMap<(String, &str), u64> = BTreeMap::new();
    each(input, config, |anomaly, response| {
        if response != Response::Exempt {
            let day = anomaly.time.to_string().chars().take("2026-11-22".len()).collect();
            *days.entry((day, anomaly.signal().as_str())).or_default() += 1;
        }
        Ok(())
    })?;
    for ((day, signal), alerts) in days {
        writeln!(output, "{}", json!({ "day": day, "signal": signal, "alerts": alerts }))?;
    }
    Ok(())
}
