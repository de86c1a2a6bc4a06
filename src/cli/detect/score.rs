//! `detect score`: rows of `timestamp,value` in, the same with `anomaly_score` out, one for one and in their order.

use std::io::{BufRead, BufWriter, Write, stdout};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::{gone, open};
use crate::detect::series::{Detector, NAMES};

/// With `sizes`, how rare each size of a row is goes before its score.
pub fn score(path: &Path, sizes: bool) -> anyhow::Result<ExitCode> {
    let input = open(path)?;
    let mut output = BufWriter::new(stdout().lock());
    match rows(input, sizes, &mut output).with_context(|| path.display().to_string()).and_then(|()| Ok(output.flush()?))
    {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if gone(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
    }
}

fn rows(mut input: impl BufRead, sizes: bool, output: &mut impl Write) -> anyhow::Result<()> {
    let mut detector = Detector::default();
    let mut line = String::new();
    for number in 1_u64.. {
        line.clear();
        if input.read_line(&mut line).with_context(|| format!("line {number}"))? == 0 {
            break;
        }
        let text = line.trim_end_matches(['\n', '\r']).trim_start_matches('\u{feff}');
        if number == 1 {
            if text != HEADER {
                bail!("line 1: it is not the header `{HEADER}`");
            }
            write!(output, "{HEADER}")?;
            NAMES.iter().take_while(|_| sizes).try_for_each(|name| write!(output, ",{name}"))?;
            writeln!(output, ",anomaly_score")?;
        } else if !text.is_empty() {
            let row = Row::parse(text).with_context(|| format!("line {number}"))?;
            let rarities = detector.rarities(row.seconds, row.value);
            write!(output, "{text}")?;
            rarities.iter().take_while(|_| sizes).try_for_each(|rarity| write!(output, ",{rarity:.6}"))?;
            writeln!(output, ",{:.6}", detector.heard(&rarities))?;
        }
    }
    Ok(())
}

const HEADER: &str = "timestamp,value";

struct Row {
    /// Since 1970.
    seconds: f64,
    value: f64,
}

impl Row {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let Some((time, value)) = text.split_once(',') else { bail!("there is no comma between a time and a value") };
        let seconds = seconds(time.trim()).with_context(|| {
            format!("`{}` is no time, as in 2026-11-22 10:00:00 or 2026-11-22T10:00:00Z", shown(time))
        })?;
        match value.trim().parse() {
            Ok(value) if f64::is_finite(value) => Ok(Self { seconds, value }),
            _ => bail!("`{}` is no number", shown(value)),
        }
    }
}

/// With an offset, as a civil time taken for UTC, or as seconds since 1970.
fn seconds(text: &str) -> Option<f64> {
    let time = text.parse::<jiff::Timestamp>().ok().or_else(|| {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    });
    match time {
        Some(time) => Some(time.as_millisecond() as f64 / 1e3),
        None => text.parse().ok().filter(|seconds: &f64| seconds.is_finite()),
    }
}

/// A cell as an error repeats it.
fn shown(cell: &str) -> String {
    cell.trim().chars().take(40).flat_map(char::escape_debug).collect()
}
