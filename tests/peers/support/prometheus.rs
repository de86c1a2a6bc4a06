//! Those who watch: Prometheus, which scrapes and judges by the shipped rules, and Alertmanager, which it tells.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::process::Process;
use super::{free_port, http, package, tool, wait_until};

/// What Prometheus calls the proxy's targets.
pub const JOB: &str = "countersign";

/// Until one of them is there: they write to the disk first.
const START: Duration = Duration::from_secs(60);

pub struct Prometheus {
    address: SocketAddr,
    _folder: TempDir,
    _process: Process,
}

impl Prometheus {
    /// Scrapes `target` and judges by the shipped rules, both each second.
    pub async fn start(target: SocketAddr, alertmanager: &Alertmanager) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let rules = package().join("deploy/prometheus/rules.yaml");
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: ['{}']\n\
             scrape_configs: [{{ job_name: {JOB}, static_configs: [{{ targets: ['{target}'] }}] }}]\n\
             alerting: {{ alertmanagers: [{{ static_configs: [{{ targets: ['{}'] }}] }}] }}\n",
            rules.display(),
            alertmanager.address,
        );
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("write prometheus.yml");
        let mut command = Command::new(tool("prometheus"));
        command.arg("--config.file").arg(&file).arg("--storage.tsdb.path").arg(folder.path().join("data"));
        command.arg(format!("--web.listen-address={address}"));
        let process = started("prometheus", &command, &folder, address).await;
        Self { address, _folder: folder, _process: process }
    }

    /// What a call of its API answers; what is wrong with the call.
    pub async fn ask(&self, call: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(parameters);
        let path = format!("/api/v1/{call}?{}", query.finish());
        let answer = http::get(self.address, &path).await.ok_or("no answer")?;
        let mut answer: Value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
        if answer["status"] == "success" { Ok(answer["data"].take()) } else { Err(answer["error"].to_string()) }
    }

    /// What a query yields now: a list of series, each with its value.
    pub async fn query(&self, query: &str) -> Result<Vec<Value>, String> {
        let data = self.ask("query", &[("query", query)]).await?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }
}

pub struct Alertmanager {
    pub address: SocketAddr,
    _folder: TempDir,
    _process: Process,
}

impl Alertmanager {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let file = folder.path().join("alertmanager.yml");
        std::fs::write(&file, "route: { receiver: nobody }\nreceivers: [{ name: nobody }]\n").expect("write it");
        let mut command = Command::new(tool("prometheus-alertmanager"));
        command.arg("--config.file").arg(&file).arg("--storage.path").arg(folder.path().join("data"));
        command.arg(format!("--web.listen-address={address}")).arg("--cluster.listen-address=");
        let process = started("alertmanager", &command, &folder, address).await;
        Self { address, _folder: folder, _process: process }
    }

    /// The alerts of this name that it was told of and that go on.
    pub async fn alerts(&self, name: &str) -> Vec<Value> {
        let Some(answer) = http::get(self.address, "/api/v2/alerts?active=true").await else { return Vec::new() };
        let alerts: Vec<Value> = serde_json::from_slice(&answer.body).expect("a list");
        alerts.into_iter().filter(|alert| alert["labels"]["alertname"] == name).collect()
    }
}

/// Starts one of them and waits until it is ready.
async fn started(name: &str, command: &Command, folder: &TempDir, address: SocketAddr) -> Process {
    let mut process = Process::start(name, command, folder.path());
    wait_until(&format!("{name} is ready"), START, async || {
        process.assert_running();
        http::get(address, "/-/ready").await.filter(|answer| answer.status == 200)
    })
    .await;
    process
}
