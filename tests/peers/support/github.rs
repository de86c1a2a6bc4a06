//! GitHub, played by `github.mjs`, which verifies what an App shows it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::process::Process;
use super::{free_port, http, package, tool, wait_until};

pub const APP: &str = "Iv23liPeers";
pub const INSTALLATION: u64 = 42;

pub struct Github {
    pub address: SocketAddr,
    folder: TempDir,
    _process: Process,
}

impl Github {
    /// With tokens that live so many seconds.
    pub async fn start(life: u64) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        std::fs::copy(package().join("tests/peers/github.mjs"), folder.path().join("github.mjs")).expect("copy");
        // Node looks for packages beside the program and above it.
        let packages: PathBuf = package().join(".tools/node/node_modules");
        assert!(packages.join("jose").is_dir(), "jose is not installed: `make test` installs it");
        std::os::unix::fs::symlink(packages, folder.path().join("node_modules")).expect("symbolic link");
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let mut command = Command::new(tool("node"));
        command
            .arg(folder.path().join("github.mjs"))
            .env("PORT", address.port().to_string())
            .env("LIFE", life.to_string())
            .env("APP", APP)
            .env("INSTALLATION", INSTALLATION.to_string())
            .env("KEY", folder.path().join("app.pem"))
            .env("OTHER_KEY", folder.path().join("other.pem"));
        let mut process = Process::start("github", &command, folder.path());
        wait_until("GitHub answers", Duration::from_secs(30), async || {
            process.assert_running();
            http::get(address, "/peers/seen").await.filter(|answer| answer.status == 200)
        })
        .await;
        Self { address, folder, _process: process }
    }

    /// A token of the App and the route of its name, to the host with this number: what GitHub is shown is signed with this key
    /// (`app` or `other`).
    pub fn entry(&self, host: u8, name: &str, key: &str, scopes: &str, more: &str) -> String {
        let upstream = SocketAddr::from(([127, 0, 0, host], self.address.port()));
        let (address, key) = (self.address, self.folder.path().join(format!("{key}.pem")));
        format!(
            r#"
[[token]]
name = "{name}"
preset = "github"
owner = "team-peers@example.com"
reason = "to call GitHub"
scopes = {scopes}
expires = "{}"
hosts = ["{}"]
rotation = {{ overlap = "0s" }}
source = {{ kind = "github_app", api_url = "http://{address}", app_id = "{APP}", installation_id = {INSTALLATION}, key = "file:{}"{more} }}

[[route]]
name = "{name}"
upstream = "http://{upstream}"
token = "{name}"
allow = "any"
"#,
            super::proxy::in_a_month(),
            upstream.ip(),
            key.display(),
        )
    }

    /// What it was asked for, what it refused, and what it was told is void.
    pub async fn seen(&self) -> Value {
        let answer = http::get(self.address, "/peers/seen").await.expect("an answer");
        serde_json::from_slice(&answer.body).expect("JSON")
    }
}
