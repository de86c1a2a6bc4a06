//! The proxy under test: the release build, as an operator would run it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::certificates::Certificates;
use super::http::{self, Answer};
use super::issuer::{CLIENT_SECRET, Issuer};
use super::process::Process;
use super::{free_port, package, wait_until};

/// The one route, its token, and the prefix of its base URL.
pub const ROUTE: &str = "api";

/// One route with one token, from the issuer to the upstream.
pub struct Settings<'a> {
    pub issuer: &'a Issuer,
    pub upstream: SocketAddr,
    pub certificates: &'a Certificates,
    pub log_level: &'static str,
}

pub struct Proxy {
    pub address: SocketAddr,
    pub telemetry: SocketAddr,
    pub socket: PathBuf,
    folder: TempDir,
    process: Process,
}

impl Proxy {
    /// Starts it between an issuer and an upstream, with an ordinary log.
    pub async fn between(issuer: &Issuer, upstream: SocketAddr, certificates: &Certificates) -> Self {
        Self::start(&Settings { issuer, upstream, certificates, log_level: "info" }).await
    }

    /// Starts it and waits until it is ready.
    pub async fn start(settings: &Settings<'_>) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let telemetry: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let socket = folder.path().join("proxy.sock");
        let config = folder.path().join("countersign.toml");
        std::fs::write(&config, settings.config(address, telemetry, &socket, &folder.path().join("state")))
            .expect("write the config");
        let mut command = Command::new(binary());
        command.args(["run", "--config"]).arg(&config).env("PEERS_CLIENT_SECRET", CLIENT_SECRET);
        let mut process = Process::start("countersign", &command, folder.path());
        wait_until("the proxy is ready", Duration::from_secs(30), async || {
            process.assert_running();
            http::get(telemetry, "/readyz").await.filter(|answer| answer.status == 200)
        })
        .await;
        Self { address, telemetry, socket, folder, process }
    }

    /// `GET path` below the route's prefix.
    pub async fn get(&self, path: &str) -> Option<Answer> {
        http::get(self.address, &format!("/{ROUTE}{path}")).await
    }

    /// All that it has printed until now.
    pub fn output(&self) -> String {
        self.process.output()
    }

    pub async fn metrics(&self) -> String {
        http::get(self.telemetry, "/metrics").await.expect("metrics").text()
    }

    pub async fn terminate(&mut self) {
        self.process.terminate().await;
    }

    /// Its state, the audit trail included.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Lets other users of the machine reach the socket's folder: whether they may use it is then for the proxy to say.
    pub fn open_folder(&self) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(self.folder.path(), std::fs::Permissions::from_mode(0o755)).expect("open the folder");
    }
}

impl Settings<'_> {
    fn config(&self, address: SocketAddr, telemetry: SocketAddr, socket: &Path, state: &Path) -> String {
        format!(
            r#"
[proxy]
listen = ["{address}", "unix:{}"]

[proxy.destinations]
allow = ["127.0.0.0/8"]

[telemetry]
listen = "{telemetry}"
log = {{ level = "{}", format = "text" }}

[state]
dir = "{}"

[[token]]
name = "{ROUTE}"
owner = "team-peers@example.com"
reason = "to call a server of this test"
scopes = ["api:read"]
expires = "{}"
hosts = ["127.0.0.1"]
source = {{ kind = "client_credentials", token_url = "http://{}/token", client_id = "basic", client_secret = "env:PEERS_CLIENT_SECRET" }}

[[route]]
name = "{ROUTE}"
upstream = "https://{}"
token = "{ROUTE}"
allow = ["GET /**", "PUT /files/**"]
deny = ["GET /denied"]
tls = {{ ca = "file:{}" }}
"#,
            socket.display(),
            self.log_level,
            state.display(),
            in_a_month(),
            self.issuer.address,
            self.upstream,
            self.certificates.ca.display(),
        )
    }
}

/// When the grant ends: `2027-06-30`.
fn in_a_month() -> String {
    let then = jiff::Timestamp::now() + Duration::from_secs(30 * 24 * 3600);
    then.to_string().chars().take(10).collect()
}

/// # Panics
/// When it was not built.
fn binary() -> PathBuf {
    let path =
        std::env::var_os("COUNTERSIGN_BIN").map_or_else(|| package().join("target/release/countersign"), PathBuf::from);
    assert!(path.is_file(), "{} is not there: `make test` builds it", path.display());
    path
}
