//! `anomalies`: what was unusual about the use of the running proxy's tokens.

use std::process::ExitCode;

use clap::Subcommand;
use http::Method;
use serde_json::Value;

use super::admin::AdminOption;
use super::shown::{Shown, columns, text};
use crate::name::TokenName;

#[derive(Subcommand)]
pub enum Anomalies {
    /// The last ones since the start, the newest first
    List {
        /// Only of this token
        #[arg(long, value_name = "NAME")]
        token: Option<TokenName>,
        #[command(flatten)]
        admin: AdminOption,
    },
}

const SHOWN: Shown = Shown { list: "anomalies", table, page: text };

pub fn anomalies(Anomalies::List { token, admin }: &Anomalies) -> ExitCode {
    let query = token.as_ref().map(|token| format!("?token={token}")).unwrap_or_default();
    admin.show(Method::GET, &format!("/v1/anomalies{query}"), &Value::Null, &SHOWN)
}

fn table(anomalies: &[Value]) -> String {
    if anomalies.is_empty() {
        return "nothing was unusual".to_owned();
    }
    let head = ["TIME", "TOKEN", "CLIENT", "SEVERITY", "SIGNAL", "RESPONSE", "WHAT"];
    let row = |anomaly: &Value| {
        let evidence = &anomaly["evidence"];
        [
            text(&anomaly["time"]),
            text(&anomaly["token"]),
            text(&evidence["client"]),
            text(&anomaly["severity"]),
            text(&anomaly["signal"]),
            text(&anomaly["response"]),
            text(&evidence["said"]),
        ]
    };
    columns(head, anomalies.iter().map(row))
}
