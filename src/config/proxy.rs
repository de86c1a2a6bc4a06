//! `[proxy]`: where it listens, how much it takes on, and which addresses may be dialled.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;

use super::admin::server;
use super::reader::Section;
use super::record::share;
use super::{Context, upstream_proxy};
use crate::dial::{Destinations, address, tunnel};
use crate::proxy::{Address, Limits, Settings, TunnelLimits};
use crate::tls::ServerSettings;

/// The longest path of a unix socket (`sun_path` less its end mark).
const MAX_SOCKET_PATH: usize = 107;

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// What `[proxy]` holds. The addresses keep their places, to be compared with the other listener's.
pub struct Proxy {
    pub settings: Settings,
    pub listen: Vec<Spanned<Address>>,
    pub watch: bool,
    pub destinations: Destinations,
    pub upstream_proxy: Option<tunnel::Settings>,
}

pub fn read(mut section: Section<'_>, context: &Context<'_>) -> Proxy {
    let listen = listen(&mut section, context.base);
    let tunnels = section.choice("unrouted", &[("refuse", false), ("tunnel", true)], &[]).unwrap_or(false);
    let tls = tls(&mut section, &listen, context);
    let settings = Settings {
        tls,
        listen: listen.iter().map(|address| address.get_ref().clone()).collect(),
        workers: section.count("workers", 1..=1024).unwrap_or(context.environment.cores.clamp(1, 1024)),
        drain: section.duration("drain", Duration::ZERO..=HOUR).unwrap_or(Duration::from_secs(30)),
        acquire_timeout: section
            .duration("acquire_timeout", MILLISECOND..=Duration::from_secs(300))
            .unwrap_or(Duration::from_secs(10)),
        tunnels,
        limits: limits(section.table("limits", "[proxy.limits]")),
    };
    let watch = section.boolean("watch").unwrap_or(true);
    let destinations = destinations(section.table("destinations", "[proxy.destinations]"));
    let upstream_proxy = upstream_proxy::read(&mut section, context);
    section.finish();
    Proxy { settings, listen, watch, destinations, upstream_proxy }
}

fn limits(mut section: Section<'_>) -> Limits {
    let header_bytes = section.count("header_bytes", 8192..=1024 * 1024).unwrap_or(32 * 1024);
    let target_bytes = section.count("target_bytes", 64..=1024 * 1024).unwrap_or(8 * 1024);
    if target_bytes > header_bytes {
        let message = format!("`target_bytes` must be at most `header_bytes`, which is {header_bytes}");
        section.refuse("target_bytes", message, "the target is a part of the head");
    }
    let wait = MILLISECOND..=HOUR;
    let connections = section.count("connections", 1..=1_000_000).unwrap_or(10_000);
    let of_one = section.count("connections_per_client", 1..=1_000_000);
    if of_one.is_some_and(|of_one| of_one > connections) {
        let message = format!("`connections_per_client` must be at most `connections`, which is {connections}");
        section.refuse("connections_per_client", message, "one client's connections are a part of all");
    }
    let limits = Limits {
        connections,
        connections_per_client: of_one,
        header_bytes,
        header_count: section.count("header_count", 1..=1000).unwrap_or(100),
        target_bytes,
        header_timeout: section.duration("header_timeout", wait.clone()).unwrap_or(Duration::from_secs(10)),
        idle_timeout: section.duration("idle_timeout", wait.clone()).unwrap_or(Duration::from_secs(60)),
        body_timeout: section.duration("body_timeout", wait).unwrap_or(Duration::from_secs(30)),
        tunnel: TunnelLimits {
            bytes: section.size("tunnel_bytes", 1..=1 << 50).unwrap_or(10 << 30),
            time: section.duration("tunnel_time", MILLISECOND..=24 * 30 * HOUR).unwrap_or(24 * HOUR),
        },
    };
    section.finish();
    limits
}

fn listen(section: &mut Section<'_>, base: &Path) -> Vec<Spanned<Address>> {
    if !section.has("listen") {
        section.take("listen");
        return vec![Spanned::new(section.at(), Address::Tcp((Ipv4Addr::LOCALHOST, 8080).into()))];
    }
    let Some(texts) = section.strings("listen") else { return Vec::new() };
    if texts.is_empty() {
        section.refuse("listen", "`listen` must name at least one address", "as in [\"127.0.0.1:8080\"]");
    }
    let mut addresses: Vec<Spanned<Address>> = Vec::new();
    for text in texts {
        match address(text.get_ref(), base) {
            Ok(address) if addresses.iter().any(|other| *other.get_ref() == address) => {
                section.report.error(text.span(), "`listen` names this address twice", None);
            }
            Ok(address) => {
                let is_other = |other: &Address| is_secured(other) != is_secured(&address) && share(other, &address);
                if addresses.iter().any(|other| is_other(other.get_ref())) {
                    let help = "give one of the two another port";
                    section.report.error(text.span(), "`listen` has this port with TLS and without", help);
                }
                addresses.push(Spanned::new(text.span(), address));
            }
            Err(error) => section.report.error(text.span(), format!("`listen`: {error}"), error.help()),
        }
    }
    addresses
}

fn is_secured(address: &Address) -> bool {
    matches!(address, Address::Tls(_))
}

/// What the listeners under TLS prove themselves with: there is none without such a listener, nor such a listener without it.
fn tls(section: &mut Section<'_>, listen: &[Spanned<Address>], context: &Context<'_>) -> Option<ServerSettings> {
    let under_tls = listen.iter().find(|address| is_secured(address.get_ref()));
    if !section.has("tls") {
        section.take("tls");
        if let Some(address) = under_tls {
            let help = "add `tls = { cert = \"file:...\", key = \"file:...\", client_ca = \"file:...\" }` to [proxy]";
            section.report.error(address.span(), "`listen`: an address under TLS needs a certificate of ours", help);
        }
        return None;
    }
    if under_tls.is_none() {
        let help = "write \"tls:0.0.0.0:8443\" in `listen`, or remove `tls`";
        section.refuse("tls", "`tls` in [proxy] is for listeners under TLS, and there is none", help);
    }
    server(section.table("tls", "`tls` in [proxy]"), context)
}

fn address(text: &str, base: &Path) -> Result<Address, AddressError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path, base).map(Address::Unix);
    }
    if let Some(address) = text.strip_prefix("tls:") {
        return address.parse().map(Address::Tls).map_err(|_| AddressError::Tls);
    }
    let address: SocketAddr = text.parse().map_err(|_| AddressError::Shape)?;
    if address.ip().is_loopback() { Ok(Address::Tcp(address)) } else { Err(AddressError::Open) }
}

pub fn socket_path(text: &str, base: &Path) -> Result<PathBuf, AddressError> {
    let path = base.join(text);
    if text.is_empty() || text.chars().any(char::is_control) {
        Err(AddressError::Shape)
    } else if path.as_os_str().len() > MAX_SOCKET_PATH {
        Err(AddressError::Long)
    } else {
        Ok(path)
    }
}

#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum AddressError {
    #[error("an address is an IP address and a port, or \"unix:\" and a path")]
    Shape,
    #[error("anything but a loopback address needs TLS, and clients that prove who they are")]
    Open,
    #[error("an address under TLS is \"tls:\", an IP address and a port")]
    Tls,
    #[error("the path of a unix socket has at most {MAX_SOCKET_PATH} bytes, with the folder that it starts from")]
    Long,
}

impl AddressError {
    pub fn help(self) -> &'static str {
        match self {
            Self::Shape => "as in \"127.0.0.1:8080\", \"[::1]:8080\" or \"unix:/run/countersign/proxy.sock\"",
            Self::Open => {
                "listen on \"127.0.0.1:8080\" or a unix socket; or on \"tls:0.0.0.0:8443\", with `tls` in [proxy]"
            }
            Self::Tls => "as in \"tls:0.0.0.0:8443\" or \"tls:[::]:8443\"",
            Self::Long => "choose a shorter path",
        }
    }
}

fn destinations(mut section: Section<'_>) -> Destinations {
    let mut allow = Vec::new();
    for text in section.strings("allow").unwrap_or_default() {
        match network(text.get_ref()) {
            Ok(network) => allow.push(network),
            Err(error) => section.report.error(text.span(), format!("`allow`: {error}"), error.help()),
        }
    }
    section.finish();
    Destinations { allow }
}

fn network(text: &str) -> Result<IpNet, NetworkError> {
    let network = match text.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => text.parse::<IpAddr>().map(IpNet::from).map_err(|_| NetworkError::Shape)?,
    };
    match network {
        _ if network.prefix_len() == 0 => Err(NetworkError::Everything),
        IpNet::V6(mapped) if mapped.addr().to_ipv4_mapped().is_some() => Err(NetworkError::Mapped),
        _ if network.prefix_len() == network.max_prefix_len() && address::is_metadata(network.addr()) => {
            Err(NetworkError::Metadata)
        }
        _ if network.trunc() != network => Err(NetworkError::HostBits(network.trunc())),
        _ => Ok(network),
    }
}

#[derive(Clone, Copy, Debug, thiserror::Error)]
enum NetworkError {
    #[error("this is neither an IP address nor a network")]
    Shape,
    #[error("this would allow every address, and switch the guard off")]
    Everything,
    #[error("an IPv4 address is written as one, not mapped into IPv6")]
    Mapped,
    #[error("the address of a metadata service can never be allowed")]
    Metadata,
    #[error("the network has bits beyond its prefix")]
    HostBits(IpNet),
}

impl NetworkError {
    fn help(self) -> String {
        match self {
            Self::Shape => "as in \"10.1.0.0/16\", \"127.0.0.1\" or \"fd12:3456::/32\"".to_owned(),
            Self::Everything => "name the networks that your upstreams and issuers are in".to_owned(),
            Self::Mapped => "as in \"10.1.0.0/16\"".to_owned(),
            Self::Metadata => "remove it: whoever reaches that service is the machine".to_owned(),
            Self::HostBits(truncated) => format!("write \"{truncated}\""),
        }
    }
}
