//! Secrets that a program prints: `exec:/path argument ...`.
//!
//! ```text
//!  text ─▶ split at spaces ─▶ Program ─▶ ended with code 0? ─▶ its first line, or all of it
//! ```
//!
//! Invariant: what it printed is the secret, or is wiped; no error repeats any of it. What it writes to its standard error is
//! shown nowhere, since it may hold the secret too.

use std::time::Duration;

use zeroize::Zeroizing;

use super::{ReferenceError, ResolveError, Secret, without_line_end};
use crate::program::{Program, ending};

/// Leaves time for the call that the secret is for.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What stands behind `exec:`. There is no shell, and a quotation mark is a character like any other.
pub fn program(text: &str) -> Result<Program, ReferenceError> {
    if text.chars().any(char::is_control) {
        return Err(ReferenceError::ProgramText);
    }
    let mut words = text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned);
    let path = words.next().filter(|_| text.starts_with('/')).ok_or(ReferenceError::ProgramPath)?;
    Ok(Program { path: path.into(), arguments: words.collect(), variables: Vec::new(), timeout: TIMEOUT })
}

/// What it prints up to the first line end.
pub async fn line(program: &Program) -> Result<Secret, ResolveError> {
    let printed = run(program).await?;
    secret(program, printed.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default())
}

/// All that it prints.
pub async fn document(program: &Program) -> Result<Secret, ResolveError> {
    secret(program, &run(program).await?)
}

async fn run(program: &Program) -> Result<Zeroizing<Vec<u8>>, ResolveError> {
    let output = program.run().await?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(ResolveError::Failed { path: program.path.clone(), ending: ending(output.status) })
}

fn secret(program: &Program, printed: &[u8]) -> Result<Secret, ResolveError> {
    match without_line_end(printed) {
        [] => Err(ResolveError::Silent(program.path.clone())),
        bytes => Ok(Secret::new(bytes)),
    }
}

#[cfg(test)]
mod tests;
