//! `report`: what the running proxy's tokens are used for, and that somebody has looked at it.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use super::admin::AdminOption;
use super::{UNREACHABLE, print, say};
use crate::review::{Report as Content, page};

#[derive(Args)]
pub struct Report {
    /// How to show it
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Say that access has been reviewed. An approver's, or an admin's
    #[arg(long, requires = "reason")]
    reviewed: bool,
    /// What came of the review, for the trail
    #[arg(long, value_name = "TEXT", requires = "reviewed")]
    reason: Option<String>,
    #[command(flatten)]
    admin: AdminOption,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Md,
    Html,
    Json,
}

pub fn report(report: &Report) -> ExitCode {
    let admin = &report.admin;
    let (method, path, body) = match &report.reason {
        Some(reason) => (Method::POST, "/v1/report/reviewed", json!({ "reason": reason })),
        None => (Method::GET, "/v1/report", Value::Null),
    };
    let answer = match admin.call(method, path, &body) {
        Ok(answer) => answer,
        Err(failed) => return failed.tell(admin.json),
    };
    if admin.json || report.format == Format::Json {
        say(&format!("{answer:#}"));
        return ExitCode::SUCCESS;
    }
    let content: Content = match serde_json::from_value(answer) {
        Ok(content) => content,
        Err(error) => {
            eprintln!("countersign: the proxy gives a report of another version: {error}");
            return ExitCode::from(UNREACHABLE);
        }
    };
    print(
        match report.format {
            Format::Text | Format::Json => page::text(&content),
            Format::Md => page::markdown(&content),
            Format::Html => page::html(&content),
        }
        .as_bytes(),
    );
    ExitCode::SUCCESS
}
