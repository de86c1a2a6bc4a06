//! `detect`: what is unusual in figures of the past, by the code that watches live use.

mod score;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::ended;

#[derive(Subcommand)]
pub enum Command {
    /// Score each row of a series by those before it, from 0 to 1: from 0.5 on it is unusual
    Score {
        /// Rows of `timestamp,value`; `-` is standard input
        #[arg(long, value_name = "FILE")]
        series: PathBuf,
    },
}

pub fn detect(command: &Command) -> ExitCode {
    match command {
        Command::Score { series } => ended(score::score(series)),
    }
}
