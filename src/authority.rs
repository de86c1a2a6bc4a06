//! The one canonicaliser of hosts, authorities and the config's URLs: what is judged is what is dialled and sent.
//!
//! A host has one spelling here, or is refused: names in lower case without trailing dot, IPv4 as a dotted quad, IPv6 as
//! RFC 5952 writes it. Nothing is percent-decoded, and no name is translated: a name outside ASCII is written as punycode.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::path::{Form, PathError};

/// A host in canonical form: a lower-case DNS name without trailing dot, or an IP address.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Host {
    Name(Arc<str>),
    Ip(IpAddr),
}

impl Host {
    /// A host alone: `api.example.com`, `192.0.2.1`, `2001:db8::1`, `[2001:db8::1]`. An IPv4 address mapped into IPv6 stays IPv6.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        refuse_what_no_host_has(text)?;
        match text.strip_prefix('[').map(|inner| inner.strip_suffix(']')) {
            Some(inner) => parse_v6(inner.ok_or(HostError::Ipv6)?),
            None if text.matches(':').count() == 1 => Err(HostError::UnexpectedPort),
            None if text.contains(':') => parse_v6(text),
            None => parse_name_or_v4(text),
        }
    }

    /// `localhost`, or a loopback address: the hosts that mean this machine wherever they are resolved.
    pub fn is_loopback_name(&self) -> bool {
        match self {
            Self::Name(name) => &**name == LOCALHOST,
            Self::Ip(address) => address.is_loopback(),
        }
    }

    /// `github` of `github.localhost`: exactly one label in front.
    pub fn label_of_localhost(&self) -> Option<&str> {
        match self {
            Self::Name(name) => name.strip_suffix(LOCALHOST)?.strip_suffix('.').filter(|label| !label.contains('.')),
            Self::Ip(_) => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// A host and a port.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Authority {
    pub host: Host,
    pub port: u16,
}

impl Authority {
    /// `host`, `host:port` or `[v6]:port`: what a `Host` header or a CONNECT request names.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, HostError> {
        refuse_what_no_host_has(text)?;
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, after) = rest.split_once(']').ok_or(HostError::Ipv6)?;
                let port = if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or(HostError::Ipv6)?) };
                (parse_v6(address)?, port)
            }
            None => match text.split_once(':') {
                Some((_, port)) if port.contains(':') => return Err(HostError::Brackets),
                Some((host, port)) => (parse_name_or_v4(host)?, Some(port)),
                None => (parse_name_or_v4(text)?, None),
            },
        };
        Ok(Self { host, port: port.map_or(Ok(default_port), parse_port)? })
    }

    /// The value of a `Host` header: without the port that the scheme implies.
    pub fn to_header(&self, scheme: Scheme) -> String {
        if self.port == scheme.default_port() { self.host.to_string() } else { self.to_string() }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An `http` or `https` URL of the config, without user info, query and fragment: an issuer's endpoint, an upstream's base.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint {
    pub scheme: Scheme,
    pub authority: Authority,
    /// Canonical; starts with a slash.
    pub path: String,
}

impl Endpoint {
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let (scheme, rest) = text.split_once("://").ok_or(EndpointError::Scheme)?;
        let scheme = [Scheme::Http, Scheme::Https]
            .into_iter()
            .find(|known| scheme.eq_ignore_ascii_case(known.as_str()))
            .ok_or(EndpointError::Scheme)?;
        if rest.contains('#') {
            return Err(EndpointError::Fragment);
        }
        if rest.contains('?') {
            return Err(EndpointError::Query);
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self {
            scheme,
            authority: Authority::parse(authority, scheme.default_port())?,
            path: Form::Strict.canonical(path)?.to_string(),
        })
    }

    /// What lies under this URL; `path` starts with a slash, and is canonical.
    pub fn below(&self, path: &str) -> Self {
        Self { path: format!("{}{path}", self.path.trim_end_matches('/')), ..self.clone() }
    }
}

/// The URL, without the port that the scheme implies.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority.to_header(self.scheme), self.path)
    }
}

/// Why a text is no host or authority. No text repeats what was given: it may be a request's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HostError {
    #[error("the host is empty")]
    Empty,
    #[error("the host has a character outside ASCII: write its punycode form, which starts with xn--")]
    NotAscii,
    #[error("the host has user info before an at sign: only a host goes here, and a credential never does")]
    UserInfo,
    #[error("the host has a percent sign: names are not percent-encoded, and IPv6 addresses have no zone here")]
    PercentSign,
    #[error("only a host goes here, without scheme, path, query and fragment")]
    MoreThanHost,
    #[error("a host name has letters, digits, hyphens, underscores and dots only")]
    Character,
    #[error("each label of a host name has 1 to 63 characters and neither starts nor ends with a hyphen")]
    Label,
    #[error("a host name has at most 253 characters")]
    TooLong,
    #[error("a host that ends in a number is an IPv4 address: four decimal numbers up to 255, without leading zeros")]
    Ipv4,
    #[error("an IPv6 address is written as in 2001:db8::1, in brackets before a port")]
    Ipv6,
    #[error("an IPv6 address is written in brackets here, as in [2001:db8::1]:443")]
    Brackets,
    #[error("only a host goes here, without a port")]
    UnexpectedPort,
    #[error("a port is a decimal number from 1 to 65535, without sign and leading zeros")]
    Port,
}

/// Why a text is no endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("the URL starts with https:// or http://")]
    Scheme,
    #[error("the URL has no query here")]
    Query,
    #[error("the URL has no fragment here")]
    Fragment,
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Path(#[from] PathError),
}

/// The characters whose presence says what went wrong.
fn refuse_what_no_host_has(text: &str) -> Result<(), HostError> {
    if !text.is_ascii() {
        return Err(HostError::NotAscii);
    }
    for byte in text.bytes() {
        match byte {
            b'@' => return Err(HostError::UserInfo),
            b'%' => return Err(HostError::PercentSign),
            b'/' | b'?' | b'#' => return Err(HostError::MoreThanHost),
            _ => {}
        }
    }
    Ok(())
}

fn parse_v6(text: &str) -> Result<Host, HostError> {
    text.parse::<Ipv6Addr>().map(|address| Host::Ip(address.into())).map_err(|_| HostError::Ipv6)
}

fn parse_name_or_v4(text: &str) -> Result<Host, HostError> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    let last = name.rsplit_once('.').map_or(name, |(_, last)| last);
    if !is_number(last) {
        return parse_name(name);
    }
    text.parse::<Ipv4Addr>().map(|address| Host::Ip(address.into())).map_err(|_| HostError::Ipv4)
}

/// What some resolvers read as a part of an IPv4 address (the URL standard, "ends in a number").
fn is_number(label: &str) -> bool {
    let hexadecimal = label.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
    hexadecimal || (!label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit()))
}

fn parse_name(name: &str) -> Result<Host, HostError> {
    if name.len() > MAX_NAME_LENGTH {
        return Err(HostError::TooLong);
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !name.bytes().all(plain) {
        return Err(HostError::Character);
    }
    let whole =
        |label: &str| (1..=MAX_LABEL_LENGTH).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
    if !name.split('.').all(whole) {
        return Err(HostError::Label);
    }
    Ok(Host::Name(lower_case(name)))
}

/// With one allocation: a host is parsed on each request.
fn lower_case(name: &str) -> Arc<str> {
    let mut lower: Arc<str> = name.into();
    if let Some(unshared) = Arc::get_mut(&mut lower) {
        unshared.make_ascii_lowercase();
    }
    lower
}

fn parse_port(text: &str) -> Result<u16, HostError> {
    let decimal = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if decimal { text.parse().map_err(|_| HostError::Port) } else { Err(HostError::Port) }
}

const LOCALHOST: &str = "localhost";
/// RFC 1035, section 2.3.4: 255 octets on the wire, of which two frame the labels.
const MAX_NAME_LENGTH: usize = 253;
const MAX_LABEL_LENGTH: usize = 63;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::HostError::*;
    use super::*;

    #[test]
    fn a_host_has_one_spelling() {
        let longest = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
        for (text, canonical) in [
            ("api.github.com", "api.github.com"),
            ("API.GitHub.COM", "api.github.com"),
            ("api.github.com.", "api.github.com"),
            ("localhost", "localhost"),
            ("my_service.internal", "my_service.internal"),
            ("_dmarc.example.com", "_dmarc.example.com"),
            ("r3---sn-a.example.com", "r3---sn-a.example.com"),
            ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
            ("1password.com", "1password.com"),
            ("1.2.3.4.example", "1.2.3.4.example"),
            ("0x7f.example", "0x7f.example"),
            (&longest, &longest),
            ("127.0.0.1", "127.0.0.1"),
            ("255.255.255.255", "255.255.255.255"),
            ("::1", "[::1]"),
            ("[::1]", "[::1]"),
            ("2001:DB8:0:0::1", "[2001:db8::1]"),
            ("::ffff:127.0.0.1", "[::ffff:127.0.0.1]"),
            ("[::ffff:7f00:1]", "[::ffff:127.0.0.1]"),
        ] {
            assert_eq!(Host::parse(text).map(|host| host.to_string()).as_deref(), Ok(canonical), "{text}");
        }
    }

    #[test]
    fn a_mapped_address_stays_ipv6() {
        let mapped = Host::parse("::ffff:127.0.0.1").expect("well-formed");
        assert!(matches!(mapped, Host::Ip(IpAddr::V6(_))));
        assert_ne!(mapped, Host::parse("127.0.0.1").expect("well-formed"));
    }

    #[test]
    fn any_other_spelling_of_a_host_is_refused() {
        let long_label = format!("{}.com", "a".repeat(64));
        let long_name = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(62)].join(".");
        for (text, error) in [
            ("", Empty),
            (".", Empty),
            ("m\u{fc}nchen.example", NotAscii),
            ("\u{ff11}27.0.0.1", NotAscii),
            ("api.github.com\u{3002}", NotAscii),
            ("user@api.github.com", UserInfo),
            ("api.github.com@evil.example", UserInfo),
            ("api%2egithub.com", PercentSign),
            ("fe80::1%eth0", PercentSign),
            ("[fe80::1%25eth0]", PercentSign),
            ("https://api.github.com", MoreThanHost),
            ("api.github.com/", MoreThanHost),
            ("api.github.com?x", MoreThanHost),
            ("api.github.com#x", MoreThanHost),
            ("api.github.com\\@x", UserInfo),
            ("api.github.com\\x", Character),
            ("api github.com", Character),
            (" api.github.com", Character),
            ("api.github.com\r\n", Character),
            ("api.github.com\0", Character),
            ("*.github.com", Character),
            ("a,b", Character),
            ("api..com", Label),
            (".com", Label),
            ("api.com..", Label),
            ("-a.com", Label),
            ("a-.com", Label),
            ("a.-", Label),
            (&long_label, Label),
            (&long_name, TooLong),
            ("127.1", Ipv4),
            ("0x7f.1", Ipv4),
            ("2130706433", Ipv4),
            ("0177.0.0.1", Ipv4),
            ("127.0.0.01", Ipv4),
            ("127.0.0.1.", Ipv4),
            ("127.0.0.256", Ipv4),
            ("1.2.3.4.5", Ipv4),
            ("0x7f000001", Ipv4),
            ("0X7F000001", Ipv4),
            ("0x", Ipv4),
            ("a.0xg", Ipv4),
            ("example.1", Ipv4),
            ("080", Ipv4),
            ("[::1", Ipv6),
            ("[::1]:80", Ipv6),
            ("[127.0.0.1]", Ipv6),
            ("[localhost]", Ipv6),
            ("[]", Ipv6),
            ("::g", Ipv6),
            ("1:2:3", Ipv6),
            ("::ffff:127.1", Ipv6),
            ("localhost:80", UnexpectedPort),
        ] {
            assert_eq!(Host::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for (text, canonical) in [
            ("api.github.com", "api.github.com:443"),
            ("API.github.com.:8443", "api.github.com:8443"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("[::1]", "[::1]:443"),
            ("[0:0::1]:65535", "[::1]:65535"),
        ] {
            assert_eq!(
                Authority::parse(text, 443).map(|authority| authority.to_string()).as_deref(),
                Ok(canonical),
                "{text}"
            );
        }
        for (text, error) in [
            ("", Empty),
            (":443", Empty),
            ("a:", Port),
            ("a:0", Port),
            ("a:080", Port),
            ("a:+80", Port),
            ("a:-1", Port),
            ("a:65536", Port),
            ("a:0x50", Port),
            ("a: 80", Port),
            ("a:80 ", Port),
            ("a:443:443", Brackets),
            ("::1", Brackets),
            ("[::1]443", Ipv6),
            ("[::1", Ipv6),
            ("[::1]:", Port),
            ("[a]:80", Ipv6),
            ("u:p@a:80", UserInfo),
            ("a:80/", MoreThanHost),
            ("127.1:80", Ipv4),
        ] {
            assert_eq!(Authority::parse(text, 443), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_host_header_leaves_out_the_port_that_the_scheme_implies() {
        let header = |text, scheme| Authority::parse(text, 443).expect("well-formed").to_header(scheme);
        assert_eq!(header("a.example:443", Scheme::Https), "a.example");
        assert_eq!(header("a.example:443", Scheme::Http), "a.example:443");
        assert_eq!(header("[::1]:80", Scheme::Http), "[::1]");
        assert_eq!(header("[::1]:80", Scheme::Https), "[::1]:80");
    }

    #[test]
    fn loopback_is_localhost_and_the_loopback_addresses() {
        for (text, expected) in [
            ("localhost", true),
            ("LOCALHOST.", true),
            ("127.0.0.1", true),
            ("127.255.0.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", false),
            ("0.0.0.0", false),
            ("::", false),
            ("github.localhost", false),
            ("localhost.example", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(Host::parse(text).expect("well-formed").is_loopback_name(), expected, "{text}");
        }
    }

    #[test]
    fn a_route_is_named_by_exactly_one_label_before_localhost() {
        for (text, label) in [
            ("github.localhost", Some("github")),
            ("GitHub.localhost.", Some("github")),
            ("a.b.localhost", None),
            ("localhost", None),
            ("notlocalhost", None),
            ("github.localhost.example", None),
            ("127.0.0.1", None),
        ] {
            assert_eq!(Host::parse(text).expect("well-formed").label_of_localhost(), label, "{text}");
        }
    }

    #[test]
    fn an_endpoint_is_a_plain_url() {
        for (text, canonical) in [
            ("https://api.github.com", "https://api.github.com/"),
            ("HTTPS://API.github.com:443/v%31/", "https://api.github.com/v1/"),
            ("http://127.0.0.1:8080/token", "http://127.0.0.1:8080/token"),
            ("http://[::1]:80/a%c3%a9", "http://[::1]/a%C3%A9"),
        ] {
            assert_eq!(Endpoint::parse(text).map(|endpoint| endpoint.to_string()).as_deref(), Ok(canonical), "{text}");
        }
        for (text, error) in [
            ("", EndpointError::Scheme),
            ("api.github.com", EndpointError::Scheme),
            ("ftp://a", EndpointError::Scheme),
            (" https://a", EndpointError::Scheme),
            ("https:/a", EndpointError::Scheme),
            ("https://a/?q", EndpointError::Query),
            ("https://a?q", EndpointError::Query),
            ("https://a/#f", EndpointError::Fragment),
            ("https://u:p@a/", UserInfo.into()),
            ("https:///a", Empty.into()),
            ("https://a:99999/", Port.into()),
            ("https://a\\b/", Character.into()),
            ("https://a/../b", PathError::DotSegment.into()),
            ("https://a//b", PathError::EmptySegment.into()),
        ] {
            assert_eq!(Endpoint::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn what_lies_below_a_url_keeps_its_start() {
        for (url, below) in
            [("https://a", "https://a/x/y"), ("https://a/", "https://a/x/y"), ("https://a/v3", "https://a/v3/x/y")]
        {
            assert_eq!(Endpoint::parse(url).map(|url| url.below("/x/y").to_string()).as_deref(), Ok(below));
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_to_the_same(text in "(\\[?[0-9a-fA-F:.xX]{1,12}\\]?|[a-zA-Z0-9._-]{1,20}|\\PC{0,10})(:[0-9+]{0,6})?", path in "(/[a-z%0-9.]{0,4}){0,3}") {
            if let Ok(host) = Host::parse(&text) {
                prop_assert_eq!(Host::parse(&host.to_string()), Ok(host));
            }
            if let Ok(authority) = Authority::parse(&text, 443) {
                prop_assert_eq!(Authority::parse(&authority.to_string(), 1), Ok(authority.clone()));
                prop_assert_eq!(Authority::parse(&authority.to_header(Scheme::Https), 443), Ok(authority.clone()));
                prop_assert!(authority.to_string().parse::<http::uri::Authority>().is_ok());
            }
            if let Ok(endpoint) = Endpoint::parse(&format!("https://{text}{path}")) {
                prop_assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
            }
        }

        #[test]
        fn every_address_is_a_host(address: IpAddr) {
            prop_assert_eq!(Host::parse(&address.to_string()), Ok(Host::Ip(address)));
        }
    }
}
