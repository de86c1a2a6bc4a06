//! `audit`: the trail, read where it lies or in a copy of it. The proxy need not run, and nothing in the folder is changed.

use std::collections::BTreeSet;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::{ConfigOption, ended, print, say, with_config};
use crate::audit::{self, Archive, Note, Trusted, Verifier};
use crate::clock::Moment;

#[derive(Subcommand)]
pub enum Command {
    /// Say whether the trail is what was written, and if not, what was done to it and where: 0 or 1
    Verify {
        #[command(flatten)]
        at: Place,
        #[command(flatten)]
        trust: Trust,
        /// Print an object
        #[arg(long)]
        json: bool,
    },
    /// Print records, as lines for people
    Show {
        #[command(flatten)]
        at: Place,
        #[command(flatten)]
        filter: Filter,
        /// Print them as JSON lines
        #[arg(long)]
        json: bool,
    },
    /// Print the last checkpoint, to be kept elsewhere; the key that verifies it goes to standard error
    Checkpoint {
        #[command(flatten)]
        at: Place,
        #[command(flatten)]
        trust: Trust,
        /// Print an object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub struct Place {
    /// The folder of the trail, or of a copy [default: that of the config]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigOption,
}

#[derive(Args)]
pub struct Trust {
    /// Checkpoints of this trail that were kept elsewhere
    #[arg(long, value_name = "FILE")]
    trusted: Option<PathBuf>,
    /// The trail's key, as `checkpoint.vkey` was when it was known to be right [default: the one beside the records]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

#[derive(Args)]
pub struct Filter {
    /// Only records of this event; may be given more than once
    #[arg(long, value_name = "NAME")]
    event: Vec<String>,
    /// Only records of this token
    #[arg(long, value_name = "NAME")]
    token: Option<String>,
    /// Only records of this client
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
    /// From this record on
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    from: u64,
    /// Not before this date or time: 2026-11-22, 2026-11-22T10:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<String>,
    /// Before this date or time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<String>,
}

pub fn audit(command: Command) -> ExitCode {
    match command {
        Command::Verify { at, trust, json } => at.archive(|archive| verify(archive, &trust, json)),
        Command::Show { at, filter, json } => at.archive(|archive| show(archive, &filter, json)),
        Command::Checkpoint { at, trust, json } => at.archive(|archive| checkpoint(archive, &trust, json)),
    }
}

impl Place {
    fn archive(&self, go_on: impl FnOnce(&Archive) -> anyhow::Result<ExitCode>) -> ExitCode {
        match &self.dir {
            Some(dir) => ended(go_on(&Archive::new(dir))),
            None => with_config(&self.config, |_, config| ended(go_on(&Archive::new(&config.audit.dir)))),
        }
    }
}

impl Trust {
    fn read(&self) -> anyhow::Result<Trusted> {
        let verifier = self.verifier()?;
        let notes = self.trusted.as_deref().map(|file| {
            let notes = Note::parse_all(&text(file)?).with_context(|| file.display().to_string())?;
            if notes.is_empty() {
                bail!("{}: there is no checkpoint in it", file.display());
            }
            Ok(notes)
        });
        Ok(Trusted { verifier, notes: notes.transpose()?.unwrap_or_default() })
    }

    fn verifier(&self) -> anyhow::Result<Option<Verifier>> {
        let Some(file) = &self.key else { return Ok(None) };
        let key = text(file)?.trim_end().parse().with_context(|| file.display().to_string())?;
        Ok(Some(key))
    }
}

fn text(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn verify(archive: &Archive, trust: &Trust, json: bool) -> anyhow::Result<ExitCode> {
    let trusted = trust.read()?;
    let report = audit::verify(archive, &trusted)?;
    if json {
        say(&format!("{:#}", report.to_json()));
    } else {
        for finding in &report.findings {
            say(&finding.to_string());
        }
        let audit::Report { records, signed, origin, torn_bytes, findings } = &report;
        let dir = archive.path().display();
        if findings.is_empty() {
            say(&format!("{dir}: ok, {records} records, {signed} of them signed by {origin}"));
        } else {
            say(&format!("{dir}: this is not what {origin} has signed: {} findings", findings.len()));
        }
        if *torn_bytes > 0 {
            say(&format!("note: {torn_bytes} bytes of a record that was being written follow the last one"));
        }
        if trusted.verifier.is_none() && trusted.notes.is_empty() {
            say(
                "note: key and checkpoints are those beside the records. Who could write both could have made all of it: \
                 give --key and --trusted what was kept elsewhere",
            );
        }
    }
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn checkpoint(archive: &Archive, trust: &Trust, json: bool) -> anyhow::Result<ExitCode> {
    let note = archive.checkpoint()?;
    let verifier = match trust.verifier()? {
        Some(verifier) => verifier,
        None => archive.verifier()?,
    };
    let checkpoint = verifier.open(&note).context("the checkpoint does not count")?;
    if json {
        say(&format!(
            "{:#}",
            serde_json::json!({
                "origin": verifier.name(),
                "size": checkpoint.size,
                "root": checkpoint.root.to_string(),
                "checkpoint": note.to_string(),
                "key": verifier.to_string(),
            })
        ));
    } else {
        print(note.to_string().as_bytes());
        eprintln!("key: {verifier}");
    }
    Ok(ExitCode::SUCCESS)
}

fn show(archive: &Archive, filter: &Filter, json: bool) -> anyhow::Result<ExitCode> {
    let taken_back = if json { BTreeSet::new() } else { taken_back(archive, filter.from)? };
    let mut records = archive.records(filter.from)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    while let Some((seq, line)) = records.take_next()? {
        let record: Map<String, Value> =
            serde_json::from_slice(line).with_context(|| format!("record {seq} is not an object"))?;
        if !filter.takes(&record) {
            continue;
        }
        let written = if json {
            out.write_all(line).and_then(|()| out.write_all(b"\n"))
        } else {
            let mark = if taken_back.contains(&seq) { NOTHING_CAME } else { "" };
            writeln!(out, "{}{mark}", for_people(&record))
        };
        if written.is_err() {
            // A reader that has gone (`| head`) is no error.
            return Ok(ExitCode::SUCCESS);
        }
    }
    let _ = out.flush();
    Ok(ExitCode::SUCCESS)
}

/// The records from this one on of which nothing came: that is told after them.
fn taken_back(archive: &Archive, from: u64) -> anyhow::Result<BTreeSet<u64>> {
    let (mut records, mut taken_back) = (archive.records(from)?, BTreeSet::new());
    while let Some((seq, line)) = records.take_next()? {
        if memchr::memmem::find(line, br#""event":"not_done""#).is_some() {
            let record: Map<String, Value> =
                serde_json::from_slice(line).with_context(|| format!("record {seq} is not an object"))?;
            let is_so = record.get("event").and_then(Value::as_str) == Some("not_done");
            taken_back.extend(record.get("of").and_then(Value::as_u64).filter(|_| is_so));
        }
    }
    Ok(taken_back)
}

const NOTHING_CAME: &str = " (nothing came of it)";

impl Filter {
    fn takes(&self, record: &Map<String, Value>) -> bool {
        let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
        let is = |key: &str, wanted: &Option<String>| wanted.as_deref().is_none_or(|wanted| text(key) == wanted);
        (self.event.is_empty() || self.event.iter().any(|event| event == text("event")))
            && is("token", &self.token)
            && is("client", &self.client)
            && self.since.as_deref().is_none_or(|since| text("time") >= since)
            && self.until.as_deref().is_none_or(|until| text("time") < until)
    }
}

/// `     7 2026-11-22T10:00:00.000Z token_issued token=github generation=1 ...`
fn for_people(record: &Map<String, Value>) -> String {
    let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
    let seq = record.get("seq").and_then(Value::as_u64).unwrap_or_default();
    let mut line = format!("{seq:>8} {} {}", text("time"), text("event"));
    for (key, value) in record.iter().filter(|(key, _)| !["v", "seq", "time", "event"].contains(&key.as_str())) {
        match value {
            Value::String(text) if is_a_word(text) => line.push_str(&format!(" {key}={text}")),
            value => line.push_str(&format!(" {key}={value}")),
        }
    }
    line
}

/// What needs no quotation marks, and moves no cursor.
fn is_a_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|char| char.is_alphanumeric() || "-_.:/@+*{}".contains(char))
}

/// As records write it. A date is its first moment, in UTC.
fn moment(text: &str) -> Result<String, &'static str> {
    let help = "write a date or a time, as in 2026-11-22 or 2026-11-22T10:00:00Z";
    let timestamp = match text.parse::<jiff::civil::Date>() {
        Ok(date) if text.len() == "2026-11-22".len() => {
            date.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| help)?.timestamp()
        }
        _ => text.parse::<jiff::Timestamp>().map_err(|_| help)?,
    };
    let wall = Duration::from_millis(u64::try_from(timestamp.as_millisecond()).map_err(|_| help)?);
    Ok(Moment { boot: Duration::ZERO, wall }.to_rfc3339())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_its_first_moment() {
        assert_eq!(moment("2026-11-22").as_deref(), Ok("2026-11-22T00:00:00.000Z"));
        assert_eq!(moment("2026-11-22T10:00:00+02:00").as_deref(), Ok("2026-11-22T08:00:00.000Z"));
        assert!(moment("yesterday").is_err());
    }

    #[test]
    fn a_record_for_people_moves_no_cursor() {
        let record = serde_json::json!({
            "v": 1, "seq": 7, "time": "T", "event": "token_failed", "attempt": 3, "detail": "a\u{1b}[31m b", "token": "github",
        });
        let line = for_people(record.as_object().expect("an object"));
        assert_eq!(line, "       7 T token_failed attempt=3 detail=\"a\\u001b[31m b\" token=github");
    }
}
