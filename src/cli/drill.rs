//! `drill`: a compromise of one token, rehearsed at the running proxy.

use std::process::ExitCode;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::admin::AdminOption;
use super::say;
use super::shown::{columns, text};
use crate::name::TokenName;

#[derive(Args)]
pub struct Drill {
    token: TokenName,
    /// Why, for the trail
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    admin: AdminOption,
}

pub fn drill(drill: &Drill) -> ExitCode {
    let Drill { token, reason, admin } = drill;
    match admin.call(Method::POST, &format!("/v1/tokens/{token}/drill"), &json!({ "reason": reason })) {
        Err(failed) => failed.tell(admin.json),
        Ok(answer) => {
            say(&if admin.json { format!("{answer:#}") } else { table(&answer) });
            // What a rehearsal could not do is a finding.
            if answer["complete"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

/// A line a step.
fn table(drill: &Value) -> String {
    let (token, replaced, generation) = (text(&drill["token"]), text(&drill["replaced"]), text(&drill["generation"]));
    let words = |step: &Value| match step["step"].as_str() {
        Some("replace") => format!("generation {generation} is live"),
        Some("quarantine") => format!("no request carries generation {replaced} any more"),
        _ => format!("generation {replaced} is void at the issuer of {token}"),
    };
    let row = |step: &Value| {
        let outcome = if step["done"] == true { words(step) } else { "not done".to_owned() };
        let outcome = step["note"].as_str().map_or(outcome.clone(), |note| format!("{outcome}: {note}"));
        [text(&step["step"]), seconds(&step["seconds"]), outcome]
    };
    let steps = drill["steps"].as_array().map_or(&[][..], Vec::as_slice);
    let whole = if drill["complete"] == true { "the token was replaced" } else { "something is left to be done" };
    let last = ["all".to_owned(), seconds(&drill["seconds"]), whole.to_owned()];
    columns(["STEP", "TOOK", "OUTCOME"], steps.iter().map(row).chain([last]))
}

fn seconds(value: &Value) -> String {
    format!("{:.3} s", value.as_f64().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drill_is_a_line_a_step_and_says_what_is_left() {
        let step = |name: &str, done: bool, note: Option<&str>| json!({ "step": name, "seconds": 0.0415, "done": done, "note": note });
        let drill = json!({
            "token": "api", "replaced": 1, "generation": 2, "complete": false, "seconds": 1.2,
            "steps": [step("replace", true, None), step("quarantine", true, None), step("revoke", false, Some("nobody to tell"))],
        });
        let shown = table(&drill);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(
            lines,
            [
                "STEP        TOOK     OUTCOME",
                "replace     0.042 s  generation 2 is live",
                "quarantine  0.042 s  no request carries generation 1 any more",
                "revoke      0.042 s  not done: nobody to tell",
                "all         1.200 s  something is left to be done",
            ]
        );
    }
}
