//! `detect backtest`: recorded use in, one for a line; what would have been told of it out.

use std::collections::BTreeMap;
use std::io::{BufRead, BufWriter, Write, stdout};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;

use super::{gone, open};
use crate::config::Config;
use crate::detect::{Anomaly, Engine, Event};

/// What would be done about it: nothing is taken away on the word of the past.
const RESPONSE: &str = "alert";

/// With a config, of its tokens alone.
pub fn backtest(path: &Path, config: Option<&Config>, summary: bool) -> anyhow::Result<ExitCode> {
    let input = open(path)?;
    let mut output = BufWriter::new(stdout().lock());
    let known =
        |token: &str| config.is_none_or(|config| config.tokens.iter().any(|known| known.name.as_str() == token));
    let told = if summary {
        summed(input, known, &mut output)
    } else {
        each(input, known, |anomaly| Ok(writeln!(output, "{}", anomaly.to_json(RESPONSE))?))
    };
    match told.with_context(|| path.display().to_string()).and_then(|()| Ok(output.flush()?)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if gone(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
    }
}

fn each(
    mut input: impl BufRead,
    known: impl Fn(&str) -> bool,
    mut tell: impl FnMut(&Anomaly) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut engine = Engine::default();
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

/// How many of each signal on each day.
fn summed(input: impl BufRead, known: impl Fn(&str) -> bool, output: &mut impl Write) -> anyhow::Result<()> {
    let mut days: BTreeMap<(String, &str), u64> = BTreeMap::new();
    each(input, known, |anomaly| {
        let day = anomaly.time.to_string().chars().take("2026-11-22".len()).collect();
        *days.entry((day, anomaly.signal().as_str())).or_default() += 1;
        Ok(())
    })?;
    for ((day, signal), alerts) in days {
        writeln!(output, "{}", json!({ "day": day, "signal": signal, "alerts": alerts }))?;
    }
    Ok(())
}
