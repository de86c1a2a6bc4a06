//! What the running proxy tells of itself: readiness, tokens, the last reload, its descriptors.

use super::Findings;
use crate::cli::telemetry::{self, Scrape};
use crate::config::Config;

/// Descriptors beside those of connections: listeners, the trail, logs, runtimes, calls to issuers.
const OTHER_FILES: usize = 128;

pub async fn look(config: &Config, found: &mut Findings) {
    let address = telemetry::address(config);
    let ready = match telemetry::get(address, "/readyz?verbose").await {
        Ok(answer) => answer,
        Err(error) => {
            found.warning(
                format!("telemetry does not answer at {address}: {error:#}"),
                "start the proxy: countersign run",
            );
            return;
        }
    };
    if ready.status.is_success() {
        found.ok(format!("the proxy is ready, says {address}"));
    } else {
        let missing: Vec<&str> = ready.text.lines().filter_map(|line| line.strip_prefix("[-]")).collect();
        found.warning(format!("the proxy is not ready: {}", missing.join(", ")), "its log says why");
    }
    match Scrape::of(address).await {
        Ok(scrape) => metrics(config, &scrape, found),
        Err(error) => found.warning(format!("no metrics at {address}: {error:#}"), "look at the proxy's log"),
    }
}

fn metrics(config: &Config, scrape: &Scrape, found: &mut Findings) {
    for token in &config.tokens {
        let name = &token.name;
        match scrape.state_of(name) {
            Some("active") => found.ok(format!("token {name} is active")),
            Some(state) => found.warning(
                format!("token {name} is {state}: requests that need it are refused"),
                format!("countersign_rotation_failures_total{{token=\"{name}\"}} and the log say why"),
            ),
            None => found.warning(
                format!("the running proxy has no token {name}: it runs on another config"),
                "reload it (SIGHUP) or restart it",
            ),
        }
    }
    let plain = |family| scrape.samples(family).next().and_then(|(_, value)| value.parse::<f64>().ok());
    if plain("countersign_config_reload_success") == Some(0.0) {
        let fix = "its log says why; `countersign check` finds what is wrong with the file alone";
        found.warning("the last reload was refused: the proxy runs on an older config", fix);
    }
    for target in &config.audit.export {
        let (sink, sample) = (target.name(), format!("sink=\"{}\"", target.name()));
        let signed = plain("countersign_audit_checkpoint_size");
        match (scrape.value("countersign_audit_exported_size", &sample), signed) {
            (Some(taken), Some(signed)) if taken == signed => {
                found.ok(format!("checkpoints of the trail reach {sink}"));
            }
            (Some(taken), Some(signed)) => found.warning(
                format!("{sink} has taken the checkpoint of {taken} records, and that of {signed} is signed"),
                format!("countersign_audit_exports_total{{{sample}}} and the log say why, if that lasts"),
            ),
            _ => {}
        }
    }
    // A request has a connection at each side.
    let needed = 2 * config.proxy.limits.connections + OTHER_FILES;
    match plain("process_max_fds") {
        Some(most) if most < needed as f64 => found.warning(
            format!("the proxy may open {most} files, and `connections` in [proxy.limits] needs up to {needed}"),
            format!("raise the limit (LimitNOFILE={needed} in systemd), or lower `connections`"),
        ),
        Some(most) => found.ok(format!("the proxy may open {most} files")),
        None => {}
    }
}
