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
    /// Lines of `[proxy]`.
    pub proxy_lines: String,
    /// What the upstream is called by, if not by its address.
    pub host: Option<&'static str>,
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
        Self::start(&Settings::between(issuer, upstream, certificates)).await
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
        command.env("PEERS_PROXY_PASSWORD", super::squid::PASSWORD);
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

impl<'a> Settings<'a> {
    /// With an ordinary log, and nothing out of the ordinary else.
    pub fn between(issuer: &'a Issuer, upstream: SocketAddr, certificates: &'a Certificates) -> Self {
        Self { issuer, upstream, certificates, log_level: "info", proxy_lines: String::new(), host: None }
    }

    fn config(&self, address: SocketAddr, telemetry: SocketAddr, socket: &Path, state: &Path) -> String {
        let address_of_upstream = self.upstream.ip().to_string();
        let host = self.host.unwrap_or(&address_of_upstream);
        format!(
            r#"
[proxy]
listen = ["{address}", "unix:{}"]
{}

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
hosts = ["{host}"]
source = {{ kind = "client_credentials", token_url = "http://{}/token", client_id = "basic", client_secret = "env:PEERS_CLIENT_SECRET" }}

[[route]]
name = "{ROUTE}"
upstream = "https://{host}:{}"
token = "{ROUTE}"
allow = ["GET /**", "PUT /files/**"]
deny = ["GET /denied"]
tls = {{ ca = "file:{}" }}
"#,
            socket.display(),
            self.proxy_lines,
            self.log_level,
            state.display(),
            in_a_month(),
            self.issuer.address,
            self.upstream.port(),
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
