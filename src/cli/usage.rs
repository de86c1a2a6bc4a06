//! `usage`: what the running proxy's tokens were used for, line by line, for other programs.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use http::{Method, StatusCode};
use serde_json::Value;

use super::admin::{AdminOption, Failed};
use super::say;
use crate::clock::{Clock, SystemClock};
use crate::name::TokenName;
use crate::text;

/// Before a call that came too early is made again.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Subcommand)]
pub enum Usage {
    /// Print usage events as JSON lines: each request, or sums of a minute, as `usage` of [audit] says; and what became of
    /// tokens
    Export {
        /// Only what was written down since then: a time, as in 2026-11-22T10:00:00Z, or how long ago, as in 24h
        #[arg(long, value_name = "TIME", value_parser = since)]
        since: Option<u64>,
        /// Only of this token
        #[arg(long, value_name = "NAME")]
        token: Option<TokenName>,
        #[command(flatten)]
        admin: AdminOption,
    },
}

pub fn usage(Usage::Export { since, token, admin }: &Usage) -> ExitCode {
    let mut from = 0;
    loop {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("from", &from.to_string());
        query.extend_pairs(since.map(|since| ("since", since.to_string())));
        query.extend_pairs(token.iter().map(|token| ("token", token.as_str())));
        match admin.call(Method::GET, &format!("/v1/usage?{}", query.finish()), &Value::Null) {
            Ok(answer) => {
                answer["events"].as_array().into_iter().flatten().for_each(|event| say(&event.to_string()));
                match answer["next"].as_u64().filter(|next| *next > from) {
                    Some(next) => from = next,
                    None => return ExitCode::SUCCESS,
                }
            }
            Err(Failed::Refused(StatusCode::TOO_MANY_REQUESTS, _)) => std::thread::sleep(PAUSE),
            Err(failed) => return failed.tell(admin.json),
        }
    }
}

/// As Unix time.
fn since(written: &str) -> Result<u64, &'static str> {
    if let Some(ago) = text::duration(written) {
        return Ok(SystemClock.now().wall.saturating_sub(ago).as_secs());
    }
    let time: jiff::Timestamp = written.parse().map_err(|_| "write a time, as in 2026-11-22T10:00:00Z, or 24h")?;
    u64::try_from(time.as_second()).map_err(|_| "that is before 1970")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_how_long_ago() {
        assert_eq!(since("2026-11-22T10:00:00Z"), Ok(1_795_341_600));
        assert_eq!(since("2026-11-22T11:00:00+01:00"), Ok(1_795_341_600));
        let (hour, now) = (since("1h").expect("a time"), SystemClock.now().wall.as_secs());
        assert!((3600..3700).contains(&(now - hour)), "{hour} {now}");
        assert!(since("yesterday").is_err() && since("1960-01-01T00:00:00Z").is_err());
    }
}
