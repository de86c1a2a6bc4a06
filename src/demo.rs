//! `demo`: the ordinary proxy on a shipped config, in front of an issuer and an API that live in this process. What it
//! shows is the main job: an app without credentials, a short-lived token on its call, a rotation in between.

mod api;
mod issuer;
mod show;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::app::{App, Bound};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Environment};
use crate::name::TokenName;
use crate::proxy::Address;
use crate::secret::{Fingerprinter, Secret};
use crate::signals::Stop;
use crate::state;
use crate::tasks::{Task, Tasks};
use crate::telemetry::Log;

/// The config as it is shipped; what stands in it below is put in its place at start.
const SHIPPED: &str = include_str!("../config/demo.toml");
const PROXY: &str = "127.0.0.1:8080";
const TELEMETRY: &str = "127.0.0.1:9180";
const ISSUER: &str = "127.0.0.1:8181";
const API: &str = "localhost:8443";
const EXPIRES: &str = "2027-06-30";
const LEVEL: &str = r#"level = "info""#;

/// How many ports after the usual one are tried.
const NEXT_PORTS: u16 = 100;

/// Runs the demo.
///
/// # Errors
/// When it cannot start, or, with `once`, when a round trip does not show what it should.
pub fn main(once: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let scenery = Scenery::build(once).await?;
        let log = Log::open(&scenery.config.telemetry).context("cannot open the log")?;
        let bound = App::bind(scenery.config.clone(), Arc::new(SystemClock), Some(&log)).await?;
        if once { show_once(bound).await } else { show_until_told(bound, &scenery).await }
    })
}

/// Everything around the proxy: the folder, the issuer, the API.
struct Scenery {
    folder: TempDir,
    config: Config,
    config_file: PathBuf,
    _servers: [Task; 2],
}

impl Scenery {
    async fn build(once: bool) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("countersign-demo-").tempdir()?;
        let client_secret = crate::text::hex(&Fingerprinter::random_key());
        write_private(&folder.path().join("client-secret"), &client_secret)?;
        let certificate = Certificate::make()?;
        fs::write(folder.path().join("ca.pem"), &certificate.ca_pem)?;
        let state_dir = folder.path().join("state");
        state::open(&state_dir)?;
        // The API names tokens as the proxy's own log and trail do.
        let fingerprinter = Arc::new(state::fingerprinter(&state_dir)?);

        let keys = issuer::Keys::make()?;
        let issuer = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let api = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let ports = Ports {
            proxy: if once { 0 } else { free_port(PROXY)? },
            telemetry: if once { 0 } else { free_port(TELEMETRY)? },
            issuer: issuer.local_addr()?.port(),
            api: api.local_addr()?.port(),
        };
        let config_file = folder.path().join("countersign.toml");
        write_private(&config_file, &ports.written(once))?;
        let config = Config::load(&config_file, &Environment::of_this_process(SystemClock.now()))?;

        let tasks = Tasks::new();
        let issuer = issuer::serve(issuer, keys.clone(), Secret::new(client_secret));
        let api = api::serve(api, certificate, keys, fingerprinter)?;
        let servers = [tasks.essential("demo issuer", issuer), tasks.essential("demo API", api)];
        Ok(Self { folder, config, config_file, _servers: servers })
    }
}

/// Where everything listens.
struct Ports {
    proxy: u16,
    telemetry: u16,
    issuer: u16,
    api: u16,
}

impl Ports {
    /// The shipped config with these ports, and a grant that ends tomorrow.
    fn written(&self, once: bool) -> String {
        // Not so soon that the proxy would say that it ends.
        let month = std::time::Duration::from_secs(30 * 86_400);
        let next_month = SystemClock.now().after(month).to_rfc3339();
        let local = |port: u16| format!("127.0.0.1:{port}");
        let level = if once { r#"level = "warn""# } else { LEVEL };
        SHIPPED
            .replace(PROXY, &local(self.proxy))
            .replace(TELEMETRY, &local(self.telemetry))
            .replace(ISSUER, &local(self.issuer))
            .replace(API, &format!("localhost:{}", self.api))
            .replace(EXPIRES, &next_month)
            .replace(LEVEL, level)
    }
}

/// The usual port, or the next one that is free.
fn free_port(usual: &str) -> anyhow::Result<u16> {
    let usual: SocketAddr = usual.parse()?;
    let free = (usual.port()..=usual.port().saturating_add(NEXT_PORTS)).find(|port| {
        // Let go at once: somebody else could take it before the proxy does, which then says so.
        std::net::TcpListener::bind((usual.ip(), *port)).is_ok()
    });
    free.with_context(|| format!("no port from {} to {} is free", usual.port(), usual.port() + NEXT_PORTS))
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

/// The API's certificate, and the authority that the demo made for it and that only this demo's route trusts.
struct Certificate {
    ca_pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Certificate {
    fn make() -> anyhow::Result<Self> {
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        ca.distinguished_name.push(rcgen::DnType::CommonName, "Countersign demo");
        let ca_certificate = ca.self_signed(&ca_key)?;
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &Issuer::new(ca, ca_key))?;
        Ok(Self {
            ca_pem: ca_certificate.pem(),
            chain: vec![leaf.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?,
        })
    }
}

/// `demo --once`: a round trip, a rotation, a round trip.
async fn show_once(bound: Bound) -> anyhow::Result<()> {
    let proxy = tcp_address(&bound)?;
    let handle = bound.handle();
    let token: TokenName = "echo".parse()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = bound.run(async {
        // Dropped or sent, it is the end.
        let _ = stopped.await;
        "end of the demo"
    });
    let showing = async {
        println!("The app knows this address and nothing else: http://{proxy}/echo\n");
        let first = show::round_trip(proxy, "/echo/hello?name=world").await?;
        let generation = handle.rotate(&token).await?;
        println!("Rotated: generation {generation} is live, and the app did not notice.\n");
        let second = show::round_trip(proxy, "/echo/hello?name=again").await?;
        ensure!(first != second, "the same token was seen before and after the rotation");
        println!("Two calls, two tokens, none of them ever in the app. Next: countersign demo");
        drop(stop);
        anyhow::Ok(())
    };
    let (ran, shown) = tokio::join!(running, showing);
    shown?;
    ran?;
    Ok(())
}

async fn show_until_told(bound: Bound, scenery: &Scenery) -> anyhow::Result<()> {
    let stop = Stop::listen()?;
    let (proxy, telemetry) = (tcp_address(&bound)?, bound.telemetry_address);
    show::instructions(proxy, telemetry, &scenery.config_file, &scenery.folder.path().join("state/audit"));
    bound.run(stop.asked()).await?;
    Ok(())
}

fn tcp_address(bound: &Bound) -> anyhow::Result<SocketAddr> {
    let tcp = bound.listen.iter().find_map(|address| match address {
        Address::Tcp(address) => Some(*address),
        Address::Tls(_) | Address::Unix(_) => None,
    });
    tcp.context("the demo's config has no TCP listener")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_demo_puts_into_its_config_stands_there_once() {
        for text in [PROXY, TELEMETRY, ISSUER, API, EXPIRES, LEVEL] {
            assert_eq!(SHIPPED.matches(text).count(), 1, "{text}");
        }
    }

    #[test]
    fn the_shipped_config_has_no_problem() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let environment = Environment::of_this_process(SystemClock.now());
        let text = Ports { proxy: 1, telemetry: 2, issuer: 3, api: 4 }.written(false);
        let config = Config::parse(&text, "demo.toml", folder.path(), &environment).expect("a good config");
        let warnings: Vec<_> = config.warnings.iter().map(|warning| &warning.message).collect();
        assert!(warnings.len() <= 1, "only that the client is the proxy's own user: {warnings:?}");
    }
}
