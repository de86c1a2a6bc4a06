//! What clients can do through the proxy: measured, and compared with what `docs/clients.md` says.
//!
//! ```text
//! a program of tests/clients ──> relay ──> countersign ──TLS──> echo
//!   says what it got              counts                         writes down what arrived
//! ```
//!
//! Each client takes the steps of the plan in each of the ways in, tunnels that are looked into among them. Whatever it does, each
//! request that arrives has the issuer's token exactly once, and nothing of the credential that the client brought along.
//! `make clients` writes the page anew.

mod catalogue;
mod page;
mod plan;
mod program;
mod run;
mod upstream;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use jsonwebtoken::jwk::JwkSet;
use tempfile::TempDir;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;

use crate::support::certificates::Certificates;
use crate::support::echo::{Echo, Seen};
use crate::support::issuer::Issuer;
use crate::support::proxy::{Proxy, route};
use crate::support::{free_port, in_turn, package, tool};
use catalogue::{CLIENTS, Protocol, ROOTS, TRUST_STORE, TRUST_STORE_PASSWORD};
use plan::sha256;
use run::Run;
use upstream::Upstream;

const PAGE: &str = "docs/clients.md";

/// Where to write the page instead of comparing with it.
const WRITE: &str = "COUNTERSIGN_WRITE_CLIENTS";

/// Of each route.
const RULES: &str =
    "allow = \"any\"\ndeny = [\"* /**/denied\", \"* /**/denied/**\", \"* /peers.Plan/Denied\"]\nintercept = true";

/// How many programs run at a time, each with a listener of its own.
const DOORS: usize = 3;

#[test]
fn clients_can_do_what_their_page_says() {
    in_turn(async {
        let house = Arc::new(House::open().await);
        let permits = Arc::new(Semaphore::new(DOORS));
        let mut measuring = JoinSet::new();
        let ways = CLIENTS.iter().flat_map(|client| client.ways().into_iter().map(move |way| (client, way)));
        for (number, (client, way)) in (1..).zip(ways) {
            let (house, permits) = (house.clone(), permits.clone());
            measuring.spawn(async move {
                let _permit = permits.acquire().await.expect("never closed");
                let door = house.doors.lock().await.pop().expect("as many as permits");
                let measured = Run::start(&house, client, way, number, door).await.measure().await;
                house.doors.lock().await.push(door);
                (number, measured)
            });
        }
        let mut measured = measuring.join_all().await;
        measured.sort_by_key(|(number, _)| *number);
        let measured: Vec<_> = measured.into_iter().map(|(_, measured)| measured).collect();
        let page = page::written(&measured);
        let file = package().join(PAGE);
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(&file, page).expect("write the page");
            return;
        }
        let committed = std::fs::read_to_string(&file).expect("the page is there");
        assert!(
            committed == page,
            "{PAGE} says otherwise than what was measured; `make clients` writes it anew:\n{}",
            page::difference(&committed, &page)
        );
    });
}

/// What all clients share.
struct House {
    keys: JwkSet,
    echo: Echo,
    grpc: Upstream,
    web_socket: Upstream,
    git: Upstream,
    proxy: Proxy,
    /// Listeners that nobody uses.
    doors: Mutex<Vec<SocketAddr>>,
    large: String,
    /// Who counts refusals has them for itself.
    refusals: Mutex<()>,
    folder: TempDir,
    _issuer: Issuer,
}

impl House {
    async fn open() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        build(folder.path());
        let certificates = Certificates::make(folder.path());
        let issuer = Issuer::start().await;
        let echo = Echo::start(&certificates).await;
        let grpc = Upstream::start("upstream_grpc.py", &certificates, folder.path()).await;
        let web_socket = Upstream::start("upstream_websocket.py", &certificates, folder.path()).await;
        let git = Upstream::start("upstream_git.py", &certificates, folder.path()).await;
        let mut routes = String::new();
        let mut names = Vec::new();
        for (protocol, port) in [
            (Protocol::Http, echo.address.port()),
            (Protocol::Grpc, grpc.port),
            (Protocol::WebSocket, web_socket.port),
            (Protocol::Git, git.port),
        ] {
            let authority = format!("{}:{port}", protocol.host());
            let web_socket = protocol == Protocol::WebSocket;
            let rules = format!("{RULES}\nwebsocket = {web_socket}");
            routes.push_str(&route(protocol.route(), &authority, &certificates, &rules));
            names.push(protocol.host());
        }
        // Relays have their ports on 127.0.0.1.
        let doors: Vec<SocketAddr> = (0..DOORS).map(|_| ([127, 0, 0, 2], free_port()).into()).collect();
        let proxy = Proxy::among_names(&issuer, &names, &routes, &doors).await;
        trust(&proxy, folder.path());
        let large = sha256(&echo.large());
        let keys = issuer.keys().await;
        let (doors, refusals) = (Mutex::new(doors), Mutex::new(()));
        Self { keys, echo, grpc, web_socket, git, proxy, doors, large, refusals, folder, _issuer: issuer }
    }

    /// Where the upstream that speaks it listens.
    fn port(&self, protocol: Protocol) -> u16 {
        match protocol {
            Protocol::Http => self.echo.address.port(),
            Protocol::Grpc => self.grpc.port,
            Protocol::WebSocket => self.web_socket.port,
            Protocol::Git => self.git.port,
        }
    }

    /// The requests of a run that reached the upstream.
    fn seen(&self, protocol: Protocol, run: u32) -> Vec<Seen> {
        match protocol {
            Protocol::Http => self.echo.seen(run),
            Protocol::Grpc => self.grpc.seen(run),
            Protocol::WebSocket => self.web_socket.seen(run),
            Protocol::Git => self.git.seen(run),
        }
    }

    /// Whether a run did not show that it reads a stream while it comes.
    fn was_late(&self, protocol: Protocol, run: u32) -> bool {
        match protocol {
            Protocol::Http => self.echo.was_late(run),
            Protocol::Grpc => self.grpc.was_late(run),
            Protocol::WebSocket => self.web_socket.was_late(run),
            Protocol::Git => self.git.was_late(run),
        }
    }

    /// How many requests were denied their path.
    async fn refused(&self) -> u64 {
        let metrics = self.proxy.metrics().await;
        let sample =
            metrics.lines().find_map(|line| line.strip_prefix("countersign_refused_total{reason=\"path_denied\"} "));
        sample.map_or(0, |count| count.parse().expect("a count"))
    }
}

/// Writes down whom clients are to trust in tunnels: the system's roots and our authority, and that alone for Java.
fn trust(proxy: &Proxy, folder: &Path) {
    let exported = |arguments: &[&str], name: &str| {
        let (code, certificates) = proxy.run(arguments);
        assert_eq!(code, Some(0), "{certificates}");
        let path = folder.join(name);
        std::fs::write(&path, certificates).expect("write certificates");
        path
    };
    exported(&["ca", "export", "--bundle"], ROOTS);
    let authority = exported(&["ca", "export"], "authority.pem");
    let mut keytool = Command::new(tool("keytool"));
    keytool.args(["-importcert", "-noprompt", "-alias", "countersign", "-storepass", TRUST_STORE_PASSWORD, "-file"]);
    keytool.arg(authority).arg("-keystore").arg(folder.join(TRUST_STORE));
    let output = keytool.output().unwrap_or_else(|error| panic!("keytool: {error}: `make test` installs it"));
    assert!(output.status.success(), "keytool: {}", String::from_utf8_lossy(&output.stdout));
}

/// Compiles what must be, and puts what Node.js runs beside its packages.
fn build(folder: &Path) {
    let sources = package().join("tests/clients");
    let installed = package().join(".tools");
    let mut go = Command::new(installed.join("clients-venv/bin/go"));
    go.args(["build", "-o"]).arg(folder.join("go")).arg(sources.join("with_net_http.go"));
    go.env("GOCACHE", installed.join("clients-go"))
        .env("GOFLAGS", "-mod=mod")
        .env("GO111MODULE", "off")
        .env("CGO_ENABLED", "0");
    let mut java = Command::new(tool("javac"));
    java.arg("-d").arg(folder).arg(sources.join("WithHttpClient.java"));
    for mut command in [go, java] {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}: `make test` installs it"));
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    for entry in std::fs::read_dir(&sources).expect("tests/clients") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "mjs") {
            std::fs::copy(&path, folder.join(path.file_name().expect("a name"))).expect("copy");
        }
    }
    let packages = installed.join("clients-node/node_modules");
    assert!(packages.join("undici").is_dir(), "undici is not installed: `make test` installs it");
    std::os::unix::fs::symlink(packages, folder.join("node_modules")).expect("symbolic link");
}
