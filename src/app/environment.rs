//! The variables through which an app finds the proxy: a base URL for each route, and the proxy itself for plain `http://` URLs.
//!
//! ```text
//! listen ─► Entrance ─┬─ base_url(route) ─► http://127.0.0.1:8080/github
//!                     └─ variables ───────► GITHUB_BASE_URL, HTTP_PROXY, http_proxy, NO_PROXY, no_proxy
//! ```
//!
//! Invariant: no variable leads to something that is always refused: `HTTPS_PROXY` is among them only where some tunnels lead
//! somewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::authority::{Endpoint, Host};
use crate::name::RouteName;
use crate::proxy::Address;
use crate::route;

/// Variables that SDKs read by themselves, with the host whose API they expect there and the path that their base URL has.
const KNOWN_TO_SDKS: [(&str, &str, &str); 2] =
    [("api.openai.com", "OPENAI_BASE_URL", "/v1"), ("api.anthropic.com", "ANTHROPIC_BASE_URL", "/")];

/// Hosts that are never asked for through a proxy: this machine, where the base URLs are.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Where an app of this machine comes in.
#[derive(Clone, Copy, Debug)]
pub struct Entrance(SocketAddr);

impl Entrance {
    /// By the first plain listener on TCP, with the port that it has; `None` where there are unix sockets only.
    pub fn of(listen: &[Address]) -> Option<Self> {
        let mut addresses = listen.iter().filter_map(|address| match address {
            Address::Tcp(address) => Some(*address),
            Address::Tls(_) | Address::Unix(_) => None,
        });
        addresses.next().map(|address| Self(SocketAddr::new(reachable(address.ip()), address.port())))
    }

    pub fn address(self) -> SocketAddr {
        self.0
    }

    /// What an app uses in place of the route's upstream, without a slash at its end.
    pub fn base_url(self, route: &RouteName) -> String {
        format!("http://{}/{route}", self.0)
    }

    /// All variables, each once: those of routes in their order, then those for URLs as they are. `no_proxy` is what the app
    /// would have as `NO_PROXY`, or nothing: it is added to.
    /// `tunnels`: those lead to hosts without a route, too.
    pub fn variables(self, routes: &[route::Settings], tunnels: bool, no_proxy: &str) -> Vec<(String, String)> {
        let known = routes.iter().filter_map(|route| self.known_to_sdks(route));
        let named = routes.iter().map(|route| (variable(&route.name), self.base_url(&route.name)));
        let proxy = format!("http://{}", self.0);
        let exempt = exempt(no_proxy);
        let as_they_are =
            [("HTTP_PROXY", &proxy), ("http_proxy", &proxy), ("NO_PROXY", &exempt), ("no_proxy", &exempt)];
        let in_tunnels = [("HTTPS_PROXY", &proxy), ("https_proxy", &proxy)];
        let has_tunnels = tunnels || routes.iter().any(|route| route.intercept);
        let as_they_are = as_they_are.into_iter().chain(in_tunnels.into_iter().filter(|_| has_tunnels));
        let as_they_are = as_they_are.map(|(name, value)| (name.to_owned(), value.clone()));
        let mut all: Vec<(String, String)> = Vec::new();
        for (name, value) in known.chain(named).chain(as_they_are) {
            if all.iter().all(|(taken, _)| *taken != name) {
                all.push((name, value));
            }
        }
        all
    }

    /// The variable that an SDK for this very API obeys, as that SDK understands it.
    fn known_to_sdks(self, route: &route::Settings) -> Option<(String, String)> {
        let Endpoint { authority, path, .. } = &route.upstream;
        let Host::Name(host) = &authority.host else { return None };
        let (_, name, expected) = KNOWN_TO_SDKS.iter().find(|(known, ..)| *known == &**host)?;
        let rest = expected.strip_prefix(path.trim_end_matches('/'))?.trim_end_matches('/');
        if !rest.is_empty() && !rest.starts_with('/') {
            return None;
        }
        Some(((*name).to_owned(), format!("{}{rest}", self.base_url(&route.name))))
    }
}

/// The variables by which runtimes and tools are told which roots to trust: the first ones in place of their own, the last one
/// beside them.
pub fn variables_of_roots(bundle: &str) -> Vec<(String, String)> {
    const NAMES: [&str; 7] = [
        "SSL_CERT_FILE",
        "CURL_CA_BUNDLE",
        "REQUESTS_CA_BUNDLE",
        "AWS_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
        "NODE_EXTRA_CA_CERTS",
    ];
    NAMES.iter().map(|name| ((*name).to_owned(), bundle.to_owned())).collect()
}

/// `GITHUB_BASE_URL`. A shell takes no name that begins with a digit.
pub fn variable(route: &RouteName) -> String {
    let name = route.as_str().to_ascii_uppercase().replace('-', "_");
    let before = if name.starts_with(|first: char| first.is_ascii_digit()) { "_" } else { "" };
    format!("{before}{name}_BASE_URL")
}

/// A listener on every address is reached on this machine's own.
pub fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        _ => ip,
    }
}

fn exempt(before: &str) -> String {
    let before = before.trim();
    let has = |host: &&str| before.split(',').any(|known| known.trim() == *host);
    let added = LOCAL.iter().filter(|host| !has(host)).copied();
    Some(before).filter(|before| !before.is_empty()).into_iter().chain(added).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Environment};

    fn routes(upstreams: &[(&str, &str)]) -> Vec<route::Settings> {
        let route = |(name, upstream): &(&str, &str)| {
            format!("[[route]]\nname = \"{name}\"\nupstream = \"{upstream}\"\nallow = \"any\"\n")
        };
        let text: String = upstreams.iter().map(route).collect();
        let environment = Environment { home: Some("/home/you".into()), ..Environment::default() };
        Config::parse(&text, "test.toml", Path::new("/"), &environment).expect("a good config").routes
    }

    fn variables(upstreams: &[(&str, &str)]) -> Vec<(String, String)> {
        let entrance = Entrance::of(&[Address::Tcp(([127, 0, 0, 1], 8080).into())]).expect("an address");
        entrance.variables(&routes(upstreams), false, "")
    }

    fn value<'v>(variables: &'v [(String, String)], name: &str) -> Option<&'v str> {
        variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn each_route_has_a_variable_with_its_base_url() {
        let all = variables(&[("git-hub", "https://api.github.com"), ("1st", "https://one.example")]);
        let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["GIT_HUB_BASE_URL", "_1ST_BASE_URL", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"],
            "and no HTTPS_PROXY: no tunnel leads anywhere"
        );
        assert_eq!(value(&all, "GIT_HUB_BASE_URL"), Some("http://127.0.0.1:8080/git-hub"));
        assert_eq!(value(&all, "http_proxy"), Some("http://127.0.0.1:8080"));
        assert_eq!(value(&all, "NO_PROXY"), Some("localhost,127.0.0.1,::1"));
    }

    #[test]
    fn of_two_routes_with_one_variable_the_first_has_it() {
        let all = variables(&[("a-b", "https://one.example"), ("a_b", "https://two.example")]);
        assert_eq!(all.iter().filter(|(name, _)| name == "A_B_BASE_URL").count(), 1);
        assert_eq!(value(&all, "A_B_BASE_URL"), Some("http://127.0.0.1:8080/a-b"));
    }

    #[test]
    fn the_variable_of_an_sdk_has_the_path_that_the_sdk_expects() {
        let base = "http://127.0.0.1:8080";
        for (route, upstream, name, path) in [
            ("openai", "https://api.openai.com", "OPENAI_BASE_URL", Some("/openai/v1")),
            ("openai", "https://api.openai.com/v1", "OPENAI_BASE_URL", Some("/openai")),
            ("openai", "https://mine.openai.azure.com", "OPENAI_BASE_URL", Some("/openai")),
            ("ai", "https://api.openai.com", "OPENAI_BASE_URL", Some("/ai/v1")),
            ("ai", "https://api.openai.com/v2", "OPENAI_BASE_URL", None),
            ("ai", "https://api.openai.com/v", "OPENAI_BASE_URL", None),
            ("ai", "https://api.anthropic.com", "ANTHROPIC_BASE_URL", Some("/ai")),
            ("ai", "https://api.anthropic.com", "OPENAI_BASE_URL", None),
        ] {
            let all = variables(&[(route, upstream)]);
            let expected = path.map(|path| format!("{base}{path}"));
            assert_eq!(value(&all, name), expected.as_deref(), "{route} to {upstream}");
        }
    }

    #[test]
    fn what_the_app_asks_for_without_a_proxy_stays_so() {
        assert_eq!(exempt("internal.example, localhost"), "internal.example, localhost,127.0.0.1,::1");
        assert_eq!(exempt(""), "localhost,127.0.0.1,::1");
    }

    #[test]
    fn the_entrance_is_on_tcp_and_on_this_machine() {
        let unix = Address::Unix("/run/proxy.sock".into());
        assert!(Entrance::of(std::slice::from_ref(&unix)).is_none());
        let everywhere = Address::Tcp(([0, 0, 0, 0], 80).into());
        let entrance = Entrance::of(&[unix, everywhere]).expect("an address");
        assert_eq!(entrance.address(), ([127, 0, 0, 1], 80).into());
        let six: SocketAddr = "[::1]:8080".parse().expect("an address");
        let entrance = Entrance::of(&[Address::Tcp(six)]).expect("an address");
        assert_eq!(entrance.base_url(&"a".parse().expect("a name")), "http://[::1]:8080/a");
    }
}
