//! A cluster, played by kmock and `kubernetes.py`.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::process::Process;
use super::{free_port, http, package, wait_until};

pub struct Cluster {
    pub address: SocketAddr,
    folder: TempDir,
    _process: Process,
}

impl Cluster {
    /// With tokens that live so many seconds.
    pub async fn start(life: u64) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let python = package().join(".tools/kmock/bin/python");
        assert!(python.is_file(), "kmock is not installed: `make test` installs it");
        std::fs::write(folder.path().join("own"), "peers-own-token-Zq7").expect("write a token");
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let mut command = Command::new(python);
        command.arg(package().join("tests/peers/kubernetes.py")).args([address.port().to_string(), life.to_string()]);
        command.arg(folder.path().join("own"));
        let mut process = Process::start("kmock", &command, folder.path());
        wait_until("kmock answers", Duration::from_secs(30), async || {
            process.assert_running();
            http::get(address, "/peers/seen").await.filter(|answer| answer.status == 200)
        })
        .await;
        Self { address, folder, _process: process }
    }

    /// A service account's token and the route of its name, to the cluster by the address with this number.
    pub fn entry(&self, host: u8, name: &str, account: &str, more: &str) -> String {
        let upstream = SocketAddr::from(([127, 0, 0, host], self.address.port()));
        let (address, own) = (self.address, self.folder.path().join("own"));
        format!(
            r#"
[[token]]
name = "{name}"
required = {}
owner = "team-peers@example.com"
reason = "to read secrets"
scopes = ["secrets:read"]
expires = "{}"
hosts = ["{}"]
source = {{ kind = "kubernetes", api_url = "http://{address}", namespace = "billing", service_account = "{account}", lifetime = "10m", own_token = "file:{}"{more} }}

[[route]]
name = "{name}"
upstream = "http://{upstream}"
token = "{name}"
allow = ["GET /api/v1/namespaces/billing/secrets/**"]
"#,
            account == "reader",
            super::proxy::in_a_month(),
            upstream.ip(),
            own.display(),
        )
    }

    /// What it was asked for.
    pub async fn seen(&self) -> Value {
        let answer = http::get(self.address, "/peers/seen").await.expect("an answer");
        serde_json::from_slice(&answer.body).expect("JSON")
    }
}
