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
use super::{free_port, package, tool, wait_until};

/// The one route, its token, and the prefix of its base URL.
pub const ROUTE: &str = "api";

/// One route with one token, from the issuer to the upstream.
pub struct Settings<'a> {
    pub upstream: SocketAddr,
    pub certificates: &'a Certificates,
    pub log_level: &'static str,
    /// Lines of `[proxy]`.
    pub proxy_lines: String,
    /// Where it listens besides, as `listen` has it.
    pub listeners: Vec<String>,
    /// Lines of the `[[token]]`.
    pub token_lines: &'static str,
    /// Lines of the `[[route]]`.
    pub route_lines: &'static str,
    /// What the upstream is called by, if not by its address.
    pub host: Option<&'static str>,
    /// Keys of the token's source.
    pub source: String,
}

pub struct Proxy {
    pub address: SocketAddr,
    pub telemetry: SocketAddr,
    pub socket: PathBuf,
    /// Before the folder, which has what it printed: a test that fails shows that.
    process: Process,
    folder: TempDir,
}

impl Proxy {
    /// Starts it between an issuer and an upstream, with an ordinary log.
    pub async fn between(issuer: &Issuer, upstream: SocketAddr, certificates: &Certificates) -> Self {
        Self::start(&Settings::between(issuer, upstream, certificates)).await
    }

    /// Starts it and waits until it is ready.
    pub async fn start(settings: &Settings<'_>) -> Self {
        Self::launch(|place| settings.config(place), |_| Command::new(binary())).await
    }

    /// Starts it with these tokens and routes.
    pub async fn with(entries: &str) -> Self {
        Self::launch(|place| format!("{}{entries}", place.sections("info", &[], "")), |_| Command::new(binary())).await
    }

    /// Starts it with routes to names that are this machine's for the proxy alone, and with further listeners.
    pub async fn among_names(issuer: &Issuer, names: &[&str], routes: &str, listeners: &[SocketAddr]) -> Self {
        let hosts = format!("127.0.0.1 {}\n", names.join(" "));
        let listeners: Vec<String> = listeners.iter().map(ToString::to_string).collect();
        let config = |place: &Place| {
            format!("{}{}{routes}", place.sections("info", &listeners, ""), token(&issuer.source(), names, ""))
        };
        Self::launch(config, |place| {
            let file = place.folder.path().join("hosts");
            std::fs::write(&file, hosts).expect("write a hosts file");
            // A view of the file system of its own has a hosts file of its own.
            let script = r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#;
            let mut command = Command::new(tool("unshare"));
            command.args(["--mount", "--", "sh", "-c", script, "sh"]).arg(file).arg(binary());
            command
        })
        .await
    }

    async fn launch(config: impl FnOnce(&Place) -> String, command: impl FnOnce(&Place) -> Command) -> Self {
        let place = Place {
            address: ([127, 0, 0, 1], free_port()).into(),
            telemetry: ([127, 0, 0, 1], free_port()).into(),
            folder: tempfile::tempdir().expect("temporary folder"),
        };
        let file = place.folder.path().join("countersign.toml");
        std::fs::write(&file, config(&place)).expect("write the config");
        let process = begin(command(&place), place.folder.path(), place.telemetry).await;
        let socket = place.socket();
        Self { address: place.address, telemetry: place.telemetry, socket, folder: place.folder, process }
    }

    /// `GET path` below the route's prefix.
    pub async fn get(&self, path: &str) -> Option<Answer> {
        http::get(self.address, &format!("/{ROUTE}{path}")).await
    }

    /// Runs a command against it, as its own user: exit code, and what it printed.
    pub fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(binary());
        command.args(arguments).arg("--config").arg(self.config_file());
        let ran = command.output().expect("the program runs");
        let printed = [ran.stdout, ran.stderr].concat();
        (ran.status.code(), String::from_utf8_lossy(&printed).into_owned())
    }

    /// Its config, as it lies on the disk.
    pub fn config(&self) -> String {
        std::fs::read_to_string(self.config_file()).expect("the config")
    }

    /// Writes another config, which the proxy sees by itself.
    pub fn write_config(&self, config: &str) {
        std::fs::write(self.config_file(), config).expect("write the config");
    }

    fn config_file(&self) -> PathBuf {
        self.folder.path().join("countersign.toml")
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

    /// Ends it and starts it again, on what it has kept.
    pub async fn restart(&mut self) {
        self.terminate().await;
        self.process = begin(Command::new(binary()), self.folder.path(), self.telemetry).await;
    }

    /// Of its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
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

/// Runs it in its folder, and waits until it is ready.
async fn begin(mut command: Command, folder: &Path, telemetry: SocketAddr) -> Process {
    let file = folder.join("countersign.toml");
    command.args(["run", "--config"]).arg(&file).env("PEERS_CLIENT_SECRET", CLIENT_SECRET);
    command.env("PEERS_PROXY_PASSWORD", super::squid::PASSWORD);
    let mut process = Process::start("countersign", &command, folder);
    wait_until("the proxy is ready", Duration::from_secs(30), async || {
        process.assert_running();
        http::get(telemetry, "/readyz").await.filter(|answer| answer.status == 200)
    })
    .await;
    process
}

/// What a proxy that is about to start has for itself.
struct Place {
    address: SocketAddr,
    telemetry: SocketAddr,
    folder: TempDir,
}

impl Place {
    fn socket(&self) -> PathBuf {
        self.folder.path().join("proxy.sock")
    }

    /// All of the config but tokens and routes.
    fn sections(&self, log_level: &str, listeners: &[String], proxy_lines: &str) -> String {
        let more: String = listeners.iter().map(|address| format!(", \"{address}\"")).collect();
        format!(
            r#"
[proxy]
listen = ["{}", "unix:{}"{more}]
{proxy_lines}

[proxy.destinations]
allow = ["127.0.0.0/8", "::1/128"]

[telemetry]
listen = "{}"
log = {{ level = "{log_level}", format = "text" }}

[state]
dir = "{}"
"#,
            self.address,
            self.socket().display(),
            self.telemetry,
            self.folder.path().join("state").display(),
        )
    }
}

impl<'a> Settings<'a> {
    /// With an ordinary log, and nothing out of the ordinary else.
    pub fn between(issuer: &Issuer, upstream: SocketAddr, certificates: &'a Certificates) -> Self {
        let (proxy_lines, source) = (String::new(), issuer.source());
        let (token_lines, route_lines) = ("", "");
        let (listeners, host, log_level) = (Vec::new(), None, "info");
        Self { upstream, certificates, log_level, proxy_lines, listeners, token_lines, route_lines, host, source }
    }

    fn config(&self, place: &Place) -> String {
        let rules = r#"allow = ["GET /**", "PUT /files/**"]
deny = ["GET /denied"]"#;
        let rules = format!("{rules}\n{}", self.route_lines);
        let address = self.upstream.ip().to_string();
        let host = self.host.unwrap_or(&address);
        let route = route(ROUTE, &format!("{host}:{}", self.upstream.port()), self.certificates, &rules);
        let sections = place.sections(self.log_level, &self.listeners, &self.proxy_lines);
        format!("{sections}{}{route}", token(&self.source, &[host], self.token_lines))
    }
}

/// The one token, for these hosts; `lines` are further ones.
fn token(source: &str, hosts: &[&str], lines: &str) -> String {
    format!(
        r#"
[[token]]
name = "{ROUTE}"
owner = "team-peers@example.com"
reason = "to call a server of this test"
scopes = ["api:read"]
expires = "{}"
hosts = {hosts:?}
source = {{ {source} }}
{lines}
"#,
        in_a_month(),
    )
}

/// A route with that token; `rules` are further lines.
pub fn route(name: &str, authority: &str, certificates: &Certificates, rules: &str) -> String {
    format!(
        r#"
[[route]]
name = "{name}"
upstream = "https://{authority}"
token = "{ROUTE}"
{rules}
tls = {{ ca = "file:{}" }}
"#,
        certificates.ca.display(),
    )
}

/// When the grant ends: `2027-06-30`.
pub fn in_a_month() -> String {
    let then = jiff::Timestamp::now() + Duration::from_secs(30 * 24 * 3600);
    then.to_string().chars().take(10).collect()
}

/// # Panics
/// When it was not built.
pub fn binary() -> PathBuf {
    let path =
        std::env::var_os("COUNTERSIGN_BIN").map_or_else(|| package().join("target/release/countersign"), PathBuf::from);
    assert!(path.is_file(), "{} is not there: `make test` builds it", path.display());
    path
}
