//! AWS in one process, moto's server: it gives keys by its STS, and lets nobody pass whose signature is not right.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::process::Process;
use super::{free_port, http, package, tool, wait_until};

pub struct Moto {
    pub address: SocketAddr,
    pub folder: TempDir,
    _process: Process,
}

impl Moto {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let mut command = Command::new(python());
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p"]).arg(address.port().to_string());
        let mut process = Process::start("moto", &command, folder.path());
        wait_until("moto answers", Duration::from_secs(60), async || {
            process.assert_running();
            http::get(address, "/moto-api/data.json").await.filter(|answer| answer.status == 200)
        })
        .await;
        Self { address, folder, _process: process }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it prints: each request that it gets.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("moto.out")
    }

    /// From now on signatures and policies are looked at.
    pub fn verify_signatures(&self) {
        let mut command = Command::new(tool("curl"));
        command.args(["--silent", "--show-error", "--fail", "--header", "Content-Type: text/plain", "--data", "0"]);
        let ran = command.arg(format!("{}/moto-api/reset-auth", self.url())).output().expect("curl runs");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }

    /// What is prepared for the test: a user's keys, and the name of a role that it may have.
    pub fn prepare(&self) -> Prepared {
        let told: Value = serde_json::from_str(&self.aws_py(&["prepare", &self.url()], &[])).expect("JSON");
        let text = |name: &str| told[name].as_str().expect("a text").to_owned();
        Prepared { id: text("id"), key: text("key"), role: text("role") }
    }

    /// Runs `aws.py`; what it prints.
    ///
    /// # Panics
    /// When something is not as it should be.
    pub fn aws_py(&self, arguments: &[&str], variables: &[(&str, &str)]) -> String {
        let mut command = Command::new(python());
        command.arg(package().join("tests/peers/aws.py")).args(arguments).envs(variables.iter().copied());
        // What the machine has of its own is not for this test.
        for name in ["AWS_PROFILE", "HTTP_PROXY", "http_proxy", "AWS_ENDPOINT_URL"] {
            command.env_remove(name);
        }
        command.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_EC2_METADATA_DISABLED", "true");
        let ran = command.output().expect("python runs");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).into_owned()
    }
}

pub struct Prepared {
    pub id: String,
    pub key: String,
    pub role: String,
}

/// # Panics
/// When moto is not installed.
fn python() -> PathBuf {
    let python = package().join(".tools/moto/bin/python");
    assert!(python.is_file(), "moto is not installed: `make test` installs it");
    python
}
