//! `doctor`: looks at the running set-up as an attacker and as an operator would. Each finding says what is so and what to do.
//!
//! ```text
//! config ─┬─ people     who is a client, and whether it is kept apart from the proxy
//!         ├─ files      who can read secrets, who could have written what is trusted
//!         ├─ listeners  forged requests, which must be refused
//!         ├─ running    readiness, tokens, the last reload, descriptors: what telemetry tells
//!         └─ remotes    issuers and upstreams: a connection, verified; and an issuer's clock
//! ```
//!
//! Nothing that it asks carries a token or a secret, and no content of a secret is kept or shown.

mod files;
mod listeners;
mod people;
mod remotes;
mod running;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::{outcome, runtime, say};
use crate::config::{self, Config, Severity as ConfigSeverity};

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Severity {
    /// As it should be.
    Ok,
    Note,
    Warning,
    Problem,
}

/// One thing that was looked at.
struct Finding {
    severity: Severity,
    what: String,
    fix: Option<String>,
}

/// All that was found, in the order in which it was looked at.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, what: impl Into<String>) {
        self.0.push(Finding { severity: Severity::Ok, what: what.into(), fix: None });
    }

    fn note(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { severity: Severity::Note, what: what.into(), fix: Some(fix.into()) });
    }

    fn warning(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { severity: Severity::Warning, what: what.into(), fix: Some(fix.into()) });
    }

    fn problem(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { severity: Severity::Problem, what: what.into(), fix: Some(fix.into()) });
    }

    fn worst(&self) -> Severity {
        self.0.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
    }
}

pub fn doctor(path: &Path, config: &Config, json: bool) -> ExitCode {
    let found = match look(path, config) {
        Ok(found) => found,
        Err(error) => return outcome(Err(error)),
    };
    say(&if json { format!("{:#}", found.to_json()) } else { found.to_string() });
    if found.worst() <= Severity::Note { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn look(path: &Path, config: &Config) -> anyhow::Result<Findings> {
    let text = std::fs::read_to_string(path)?;
    let absolute = std::path::absolute(path)?;
    let survey = config::survey(&text, absolute.parent().unwrap_or(Path::new("/")));
    let mut found = Findings::default();
    for warning in config.warnings.iter().filter(|problem| problem.severity == ConfigSeverity::Warning) {
        let what = format!("{}:{}: {}", path.display(), warning.line, warning.message);
        found.warning(what, warning.help.clone().unwrap_or_else(|| "see `countersign check`".to_owned()));
    }
    let people = people::look(config, &mut found);
    files::look(path, config, &survey, &people, &mut found);
    runtime()?.block_on(async {
        listeners::look(config, &people, &mut found).await;
        running::look(config, &mut found).await;
        remotes::look(config, &survey, &mut found).await;
    });
    Ok(found)
}

impl Findings {
    fn to_json(&self) -> serde_json::Value {
        let finding = |Finding { severity, what, fix }: &Finding| json!({ "severity": severity.to_string(), "what": what, "fix": fix });
        self.0.iter().map(finding).collect()
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { severity, what, fix } in &self.0 {
            writeln!(f, "{severity}: {what}")?;
            if let Some(fix) = fix {
                writeln!(f, "  fix: {fix}")?;
            }
        }
        let count = |wanted| self.0.iter().filter(|finding| finding.severity == wanted).count();
        let [problems, warnings, notes] = [Severity::Problem, Severity::Warning, Severity::Note].map(count);
        write!(f, "{} things looked at: problems {problems}, warnings {warnings}, notes {notes}", self.0.len())
    }
}
