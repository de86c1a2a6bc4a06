//! A token that a program prints: a cloud's command line, a company's own helper.
//!
//! ```text
//!  run ─▶ text: the first line ──────────────────────┐
//!      ├▶ json: judged as a token endpoint's answer ─┼▶ Issued | Failure
//!      ├▶ kubernetes: its ExecCredential ────────────┤
//!      └▶ aws: its keys ─────────────────────────────┘
//! ```
//!
//! Invariant: what the program writes to its standard error is for the log alone, and there without what it printed. Of
//! what it prints only the words of an error are told, without a token. Neither shows what it was given in variables.

use std::process::ExitStatus;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::answer::members::Member;
use super::answer::{self, Asked};
use super::aws::Printed;
use super::{Class, Failure, Issued, Obtaining, Reason, Source, found};
use crate::clock::{Clock, Moment};
use crate::program::{Output, Program, ProgramError, ending};
use crate::secret::Secret;
use crate::text::redacted;

/// `source = { kind = "exec", command = ["/path/program", "argument"], ... }`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub program: Program,
    pub format: Format,
    /// The token's: what a JSON answer has to grant, where it says what it grants.
    pub scopes: Vec<String>,
}

/// What the program prints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// A line that is the token.
    Text,
    /// An object with `access_token` or `token`, and perhaps `expires_in` or `expires_at`, and `scope`.
    Json,
    /// Keys, as a `credential_process` of AWS prints them.
    Aws,
    /// An `ExecCredential` (client.authentication.k8s.io), as the helpers of kubectl print it.
    Kubernetes,
}

#[derive(serde::Deserialize)]
struct ExecCredential {
    kind: Member,
    status: CredentialStatus,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct CredentialStatus {
    token: Member,
    expiration_timestamp: Member,
}

pub struct Exec {
    settings: Settings,
    clock: Arc<dyn Clock>,
}

impl Exec {
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Self {
        Self { settings, clock }
    }

    async fn ask(&self) -> Result<Issued, Failure> {
        let Settings { program, format, scopes } = &self.settings;
        let asked_at = self.clock.now();
        let output = program.run().await?;
        self.say(&output);
        if !output.status.success() {
            let detail = format!("{} {}", program.path.display(), ending(output.status));
            return Err(Failure { reason: Reason::Program, class: class(output.status), detail });
        }
        let judged = match format {
            Format::Text => first_line(&output.stdout, self.clock.now()),
            Format::Json => {
                let given: Vec<_> = given(&program.variables).collect();
                let secrets: Vec<&str> = given.iter().map(|value| value.as_str()).collect();
                let asked = Asked { scopes, at: asked_at, now: self.clock.now(), secrets: &secrets };
                answer::judge_output(&output.stdout, &asked)
            }
            Format::Aws => keys(&output.stdout, asked_at, self.clock.now()),
            Format::Kubernetes => {
                let asked = Asked { scopes: &[], at: asked_at, now: self.clock.now(), secrets: &[] };
                credential(&output.stdout, &asked)
            }
        };
        judged
            .map_err(|failure| Failure { detail: format!("{}: {}", program.path.display(), failure.detail), ..failure })
    }

    /// Shows in the log what the program says beside the token.
    fn say(&self, output: &Output) {
        let said = without_secrets(output, &self.settings.program.variables);
        if said.is_empty() {
            return;
        }
        let program = self.settings.program.path.display();
        if output.status.success() {
            tracing::debug!(%program, said, "the program wrote to its standard error");
        } else {
            tracing::warn!(%program, said, "the program failed, and wrote to its standard error");
        }
    }
}

impl Source for Exec {
    fn obtain(&self) -> Obtaining<'_> {
        Box::pin(self.ask())
    }

    /// Many such programs keep a token and print it again until it has nearly ended.
    fn mints(&self) -> bool {
        false
    }

    fn kind(&self) -> &'static str {
        "exec"
    }
}

impl From<ProgramError> for Failure {
    fn from(error: ProgramError) -> Self {
        let reason = match &error {
            ProgramError::Timeout { .. } => Reason::Timeout,
            ProgramError::TooLarge(_) => Reason::TooLarge,
            ProgramError::Start { .. }
            | ProgramError::NotAFile(_)
            | ProgramError::Writable { .. }
            | ProgramError::Owner { .. }
            | ProgramError::Read { .. } => Reason::Program,
        };
        Self::transient(reason, error.to_string())
    }
}

/// A program that says that it may not, or that it is set up wrongly, will say so again (sysexits.h).
fn class(status: ExitStatus) -> Class {
    const EX_NOPERM: i32 = 77;
    const EX_CONFIG: i32 = 78;
    match status.code() {
        Some(EX_NOPERM | EX_CONFIG) => Class::Refused,
        Some(_) | None => Class::Transient { retry_after: None },
    }
}

fn first_line(stdout: &[u8], now: Moment) -> Result<Issued, Failure> {
    let line = stdout.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
    found(Secret::new(line), now)
}

/// The keys of a `credential_process` (docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html); those
/// without an end of their own last as long as they are printed.
fn keys(stdout: &[u8], asked_at: Moment, now: Moment) -> Result<Issued, Failure> {
    let printed = Printed::parse(stdout)?;
    if !matches!(printed.version, Member::Number(version) if version == 1.0) {
        return Err(Failure::transient(Reason::Malformed, "it prints no keys of AWS with `Version` 1"));
    }
    printed.issued(asked_at, now)
}

/// The token of an `ExecCredential`; one without an end of its own lasts as long as it is printed.
fn credential(stdout: &[u8], asked: &Asked<'_>) -> Result<Issued, Failure> {
    // The library's own text is not used: it quotes what it read.
    let parsed = serde_json::from_slice::<ExecCredential>(stdout).ok();
    let Some(ExecCredential { status, .. }) = parsed.filter(|it| it.kind.text() == Some("ExecCredential")) else {
        return Err(Failure::transient(Reason::Malformed, "it prints no ExecCredential in JSON"));
    };
    if status.expiration_timestamp.is_there() {
        let issued = answer::judge_found(status.token, &status.expiration_timestamp, Vec::new(), asked)?;
        return Ok(Issued { granted: None, ..issued });
    }
    match status.token.text() {
        Some(token) => found(Secret::new(token.as_bytes()), asked.now),
        None => Err(Failure::transient(Reason::TokenMissing, "its ExecCredential has no `status.token`")),
    }
}

/// The program's standard error, fit for a log: without what stands on its standard output or in the variables that it was
/// given, on one line, and not much of it.
fn without_secrets(output: &Output, variables: &[String]) -> String {
    // A token of JSON stands between quotation marks.
    let printed = output.stdout.split(|byte| byte.is_ascii_whitespace() || *byte == b'"');
    let printed = printed.map(|word| Zeroizing::new(String::from_utf8_lossy(word).into_owned()));
    let secrets: Vec<Zeroizing<String>> =
        printed.chain(given(variables)).filter(|word| word.len() >= SHORTEST_SECRET).collect();
    let text = Zeroizing::new(String::from_utf8_lossy(&output.stderr).into_owned());
    redacted(&text, secrets.iter().map(|secret| secret.as_str()), MAX_SAID)
}

/// What stands in the variables that a program was given.
fn given(variables: &[String]) -> impl Iterator<Item = Zeroizing<String>> {
    let values = variables.iter().filter_map(std::env::var_os).map(|value| Zeroizing::new(value.into_encoded_bytes()));
    values.map(|value| Zeroizing::new(String::from_utf8_lossy(&value).into_owned()))
}

/// Words that are shorter are no tokens, but parts of the language.
const SHORTEST_SECRET: usize = 8;

/// Characters of the program's own words that are kept.
const MAX_SAID: usize = 400;

#[cfg(test)]
mod tests;
