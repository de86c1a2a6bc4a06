//! What a request asks for, whichever way it came in: a route by name, or an authority.
//!
//! | the app uses | the request line | the target |
//! |---|---|---|
//! | a base URL with a prefix | `GET /github/repos/x`, Host localhost | `Named { by: Prefix }` |
//! | a base URL with a name | `GET /repos/x`, Host `github.localhost` | `Named { by: Host }` |
//! | `HTTP_PROXY` | `GET http://api.github.com/repos/x` | `Authority` |
//!
//! HTTP/2 has one form for all three. There, a name of this machine stands for Host, with any port, as a forwarded one has;
//! but what is exactly the authority of a route's upstream names that upstream. Under TLS the names of our own certificate are names
//! of this machine, too.
//!
//! Invariant: one Host header, and where the target has an authority of its own, both are the same.

use http::header::HOST;
use http::{Method, Version};

use super::error::Refusal;
use super::head::Head;
use super::message::Fields;
use crate::authority::{Authority, Host, Scheme};
use crate::path::query_is_clean;

/// What a request asks for.
#[derive(Debug)]
pub struct Target<'a> {
    pub by: By<'a>,
    /// The path without the route's prefix, as received.
    pub rest: &'a str,
    pub query: Option<&'a str>,
}

/// How a request names its route.
#[derive(Debug)]
pub enum By<'a> {
    /// `/name/...`
    Prefix {
        name: &'a str,
    },
    /// `name.localhost`
    HostLabel {
        name: String,
    },
    Authority {
        scheme: Scheme,
        authority: Authority,
    },
}

impl<'a> Target<'a> {
    /// Reads the target. `port` is the one that the request came in on; unix sockets have none. `is_upstream` says whether a
    /// route leads to an authority, `is_ours` whether a host means us that does not mean this machine everywhere.
    ///
    /// # Errors
    /// When the target, its host or its query is not well-formed, or the host is not ours to serve.
    pub fn of(
        head: &'a Head,
        headers: &Fields,
        port: Option<u16>,
        is_upstream: impl FnOnce(&Authority) -> bool,
        is_ours: impl Fn(&Host) -> bool,
    ) -> Result<Self, Refusal> {
        if head.method == Method::CONNECT {
            return Err(Refusal::TunnelDenied);
        }
        let host = host(head, headers)?;
        let rest = head.uri.path();
        let query = head.uri.query();
        if query.is_some_and(|query| !query_is_clean(query)) {
            return Err(Refusal::QueryAmbiguous);
        }
        let Some(authority) = head.uri.authority() else {
            return Self::origin_form(host.ok_or(Refusal::HostMismatch)?, rest, query, is_ours);
        };
        let scheme = match head.uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(Refusal::NoRoute),
        };
        let named = parse(authority.as_str(), scheme)?;
        if host.is_some_and(|host| parse(host, scheme).ok().as_ref() != Some(&named)) {
            return Err(Refusal::HostMismatch);
        }
        let means_us =
            named.host.is_loopback_name() || named.host.label_of_localhost().is_some() || is_ours(&named.host);
        let stands_for_host =
            || head.version == Version::HTTP_2 && (authority.port().is_none() || !is_upstream(&named));
        if means_us && (Some(named.port) == port || stands_for_host()) {
            return Self::origin_form(authority.as_str(), rest, query, is_ours);
        }
        Ok(Self { by: By::Authority { scheme, authority: named }, rest, query })
    }

    /// The same of a request that came in a tunnel to `authority`, and is for nobody else.
    ///
    /// # Errors
    /// As [`Target::of`], and when it names another authority.
    pub fn inside(head: &'a Head, headers: &Fields, authority: &Authority) -> Result<Self, Refusal> {
        if head.method == Method::CONNECT {
            return Err(Refusal::TunnelDenied);
        }
        let host = host(head, headers)?;
        let query = head.uri.query();
        if query.is_some_and(|query| !query_is_clean(query)) {
            return Err(Refusal::QueryAmbiguous);
        }
        let named = head.uri.authority().map(http::uri::Authority::as_str);
        if named.is_some() && head.uri.scheme_str() != Some("https") {
            return Err(Refusal::HostMismatch);
        }
        for text in named.iter().copied().chain(host) {
            if parse(text, Scheme::Https)? != *authority {
                return Err(Refusal::HostMismatch);
            }
        }
        let by = By::Authority { scheme: Scheme::Https, authority: authority.clone() };
        Ok(Self { by, rest: head.uri.path(), query })
    }

    fn origin_form(
        host: &str,
        path: &'a str,
        query: Option<&'a str>,
        is_ours: impl Fn(&Host) -> bool,
    ) -> Result<Self, Refusal> {
        if is_plain_loopback(host) {
            return Self::prefixed(path, query);
        }
        let named = parse(host, Scheme::Http)?;
        if let Some(label) = named.host.label_of_localhost() {
            let by = By::HostLabel { name: label.to_owned() };
            return Ok(Self { by, rest: path, query });
        }
        if !named.host.is_loopback_name() && !is_ours(&named.host) {
            return Err(Refusal::HostUnknown);
        }
        Self::prefixed(path, query)
    }

    fn prefixed(path: &'a str, query: Option<&'a str>) -> Result<Self, Refusal> {
        let after = path.strip_prefix('/').ok_or(Refusal::NoRoute)?;
        let end = after.bytes().position(|byte| byte == b'/').unwrap_or(after.len());
        let (name, rest) = after.split_at(end);
        let rest = if rest.is_empty() { "/" } else { rest };
        Ok(Self { by: By::Prefix { name }, rest, query })
    }
}

/// The one Host header. HTTP/1.0 and HTTP/2 may do without where the target names an authority.
fn host<'h>(head: &Head, headers: &'h Fields) -> Result<Option<&'h str>, Refusal> {
    let mut hosts = headers.get_all(HOST);
    let (first, second) = (hosts.next(), hosts.next());
    match (first, second) {
        (Some(host), None) => Ok(Some(host.to_str().map_err(|_| Refusal::HostMismatch)?)),
        (None, _) if head.version != Version::HTTP_11 && head.uri.authority().is_some() => Ok(None),
        _ => Err(Refusal::HostMismatch),
    }
}

/// What nearly every app writes, told without building an authority of it; any other spelling is parsed.
fn is_plain_loopback(host: &str) -> bool {
    let Some(rest) = host.strip_prefix("127.0.0.1").or_else(|| host.strip_prefix("localhost")) else { return false };
    let Some(port) = rest.strip_prefix(':') else { return rest.is_empty() };
    (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0')
}

fn parse(authority: &str, scheme: Scheme) -> Result<Authority, Refusal> {
    Authority::parse(authority, scheme.default_port()).map_err(|_| Refusal::HostMismatch)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(uri: &str, hosts: &[&str]) -> (Head, Fields) {
        let mut request = Request::get(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        (Head { method: parts.method, uri: parts.uri, version: parts.version }, parts.headers.into())
    }

    fn outcome(uri: &str, hosts: &[&str]) -> String {
        let (head, headers) = parts(uri, hosts);
        said(&head, &headers, Some(8080))
    }

    /// There is a route to `localhost:9000`, and one to a port that is the proxy's own.
    fn said(head: &Head, headers: &Fields, port: Option<u16>) -> String {
        let is_upstream =
            |authority: &Authority| ["localhost:9000", "localhost:8080"].contains(&&*authority.to_string());
        let is_ours = |host: &Host| host.to_string() == "proxy.example";
        match Target::of(head, headers, port, is_upstream, is_ours) {
            Err(refusal) => refusal.reason().to_owned(),
            Ok(Target { by: By::Prefix { name, .. }, rest, .. }) => format!("prefix {name} {rest}"),
            Ok(Target { by: By::HostLabel { name, .. }, rest, .. }) => format!("label {name} {rest}"),
            Ok(Target { by: By::Authority { scheme, authority }, rest, .. }) => {
                format!("{scheme} {authority} {rest}")
            }
        }
    }

    #[test]
    fn each_way_in_leads_to_its_target() {
        let table: &[(&str, &[&str], &str)] = &[
            ("/github/repos/x", &["localhost:8080"], "prefix github /repos/x"),
            ("/github", &["127.0.0.1:8080"], "prefix github /"),
            ("/github/", &["[::1]:8080"], "prefix github /"),
            ("/github//x", &["localhost"], "prefix github //x"),
            ("/repos/x", &["github.localhost:8080"], "label github /repos/x"),
            ("/repos/x", &["GitHub.localhost"], "label github /repos/x"),
            ("http://api.github.com/x", &["api.github.com"], "http api.github.com:80 /x"),
            ("http://api.github.com/x", &["API.github.com:80"], "http api.github.com:80 /x"),
            ("https://api.github.com/x", &["api.github.com"], "https api.github.com:443 /x"),
            ("http://localhost:8080/github/x", &["localhost:8080"], "prefix github /x"),
            ("http://localhost:9999/github/x", &["localhost:9999"], "http localhost:9999 /github/x"),
            ("/github/x", &["proxy.example:443"], "prefix github /x"),
            ("https://proxy.example:8080/github/x", &["proxy.example:8080"], "prefix github /x"),
            ("https://proxy.example/github/x", &["proxy.example"], "https proxy.example:443 /github/x"),
        ];
        for (uri, hosts, expected) in table {
            assert_eq!(outcome(uri, hosts), *expected, "{uri} {hosts:?}");
        }
    }

    #[test]
    fn an_authority_of_http2_stands_for_host_unless_it_is_an_upstreams() {
        let table = [
            ("http://localhost:8080/github/x", "prefix github /x"),
            ("http://localhost:9999/github/x", "prefix github /x"),
            ("http://[::1]:9999/github/x", "prefix github /x"),
            ("http://github.localhost:9999/x", "label github /x"),
            ("http://localhost/github/x", "prefix github /x"),
            ("http://localhost:9000/github/x", "http localhost:9000 /github/x"),
            ("http://127.0.0.1:9000/github/x", "prefix github /x"),
            ("http://api.github.com:8080/x", "http api.github.com:8080 /x"),
        ];
        for (uri, expected) in table {
            let (mut head, headers) = parts(uri, &[]);
            head.version = Version::HTTP_2;
            for port in [Some(8080), None] {
                let expected = match (uri, port) {
                    // Only a port of our own makes it ours.
                    ("http://localhost:8080/github/x", None) => "http localhost:8080 /github/x",
                    _ => expected,
                };
                assert_eq!(said(&head, &headers, port), expected, "{uri} {port:?}");
            }
        }
    }

    #[test]
    fn a_host_that_is_not_ours_or_not_one_is_refused() {
        let table: &[(&str, &[&str], &str)] = &[
            ("/github/x", &[], "host_mismatch"),
            ("/github/x", &["localhost", "localhost"], "host_mismatch"),
            ("/github/x", &["user@localhost"], "host_mismatch"),
            ("/github/x", &["localhost:080"], "host_mismatch"),
            ("/github/x", &["evil.test:8080"], "host_unknown"),
            ("/github/x", &["api.github.com"], "host_unknown"),
            ("/github/x", &["github.proxy.example"], "host_unknown"),
            ("http://api.github.com/x", &["evil.test"], "host_mismatch"),
            ("http://api.github.com/x", &["api.github.com:8443"], "host_mismatch"),
            ("http://api.github.com/x", &[], "host_mismatch"),
            ("ftp://api.github.com/x", &["api.github.com"], "no_route"),
        ];
        for (uri, hosts, expected) in table {
            assert_eq!(outcome(uri, hosts), *expected, "{uri} {hosts:?}");
        }
    }
}
