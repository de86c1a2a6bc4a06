//! `detect`: what is unusual in figures of the past, by the code that watches live use.

mod backtest;
mod score;

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, stdin};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;

use super::{ConfigOption, ended, with_config};

#[derive(Subcommand)]
pub enum Command {
    /// Score each row of a series by those before it, from 0 to 1: from 0.5 on it is unusual
    Score {
        /// Rows of `timestamp,value`; `-` is standard input
        #[arg(long, value_name = "FILE")]
        series: PathBuf,
        /// Print how rare each size of a row is, in powers of ten, before its score
        #[arg(long)]
        sizes: bool,
    },
    /// Print what would have been told of recorded use, as JSON lines
    Backtest {
        /// Usage events, one JSON object a line, in order of time; `-` is standard input
        #[arg(long, value_name = "FILE")]
        events: PathBuf,
        /// Look at the tokens of this config alone [default: at all that the events name]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print how many of each signal there were on each day instead
        #[arg(long)]
        summary: bool,
    },
}

pub fn detect(command: &Command) -> ExitCode {
    match command {
        Command::Score { series, sizes } => ended(score::score(series, *sizes)),
        Command::Backtest { events, config: None, summary } => ended(backtest::backtest(events, None, *summary)),
        Command::Backtest { events, config, summary } => {
            with_config(&ConfigOption { config: config.clone() }, |_, config| {
                ended(backtest::backtest(events, Some(&config), *summary))
            })
        }
    }
}

fn open(path: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(stdin().lock()));
    }
    Ok(Box::new(BufReader::new(File::open(path).with_context(|| path.display().to_string())?)))
}

/// Whether whoever reads what is printed has what they wanted.
fn gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
