//! An answer's own links are turned back: what points at the upstream points at the base URL that the app used, or at the
//! upstream's plain `http://` form where we are the app's `HTTP_PROXY`, so that following it leads through us again.

use http::HeaderValue;
use http::header::{CONTENT_LOCATION, HOST, LINK, LOCATION};

use super::head::Head;
use super::message::Fields;
use super::target::{By, Target};
use crate::authority::{Authority, Endpoint, Scheme};
use crate::route::Route;

/// The base URL that an app used, and the upstream that it stands for.
pub struct BaseUrl<'a> {
    /// How the app reaches us.
    pub scheme: Scheme,
    pub upstream: &'a Endpoint,
    /// What the app calls us, or the upstream: the Host header.
    pub host: &'a str,
    /// The route's name, where it is a path prefix.
    pub prefix: Option<&'a str>,
}

impl BaseUrl<'_> {
    /// Turns back `Location`, `Content-Location` and `Link` (RFC 9110, sections 10.2.2 and 8.7; RFC 8288).
    pub fn turn_back(&self, headers: &mut Fields) {
        for name in [LOCATION, CONTENT_LOCATION] {
            if let Some(value) = headers.get_mut(&name)
                && let Some(turned) = value.to_str().ok().and_then(|link| self.link(link))
                && let Ok(turned) = HeaderValue::try_from(turned)
            {
                *value = turned;
            }
        }
        for value in headers.get_all_mut(LINK) {
            if let Ok(text) = value.to_str()
                && let Ok(turned) = HeaderValue::try_from(self.link_header(text))
            {
                *value = turned;
            }
        }
    }

    /// The turned link; `None` where it stays as it is.
    fn link(&self, link: &str) -> Option<String> {
        let (absolute, path) = if let Some(rest) = link.strip_prefix("//") {
            (true, self.path_of(self.upstream.scheme, rest)?)
        } else if link.starts_with('/') {
            (false, link)
        } else {
            let (scheme, rest) = link.split_once("://")?;
            let scheme =
                [Scheme::Http, Scheme::Https].into_iter().find(|known| scheme.eq_ignore_ascii_case(known.as_str()));
            (true, self.path_of(scheme?, rest)?)
        };
        let base = self.upstream.path.trim_end_matches('/');
        let rest = path.strip_prefix(base).filter(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))?;
        let prefix = self.prefix.map(|name| format!("/{name}")).unwrap_or_default();
        let rest = if rest.starts_with('/') || !prefix.is_empty() { rest.to_owned() } else { format!("/{rest}") };
        Some(if absolute {
            format!("{}://{}{prefix}{rest}", self.scheme, self.host)
        } else {
            format!("{prefix}{rest}")
        })
    }

    /// The path and what follows, of a link to our upstream.
    fn path_of<'l>(&self, scheme: Scheme, authority_and_path: &'l str) -> Option<&'l str> {
        let end = authority_and_path.find(['/', '?', '#']).unwrap_or(authority_and_path.len());
        let (authority, path) = authority_and_path.split_at(end);
        let authority = Authority::parse(authority, scheme.default_port()).ok()?;
        (scheme == self.upstream.scheme && authority == self.upstream.authority).then_some(path)
    }

    /// A `Link` header: each target between angle brackets, but not those inside of quoted parameters.
    fn link_header(&self, text: &str) -> String {
        let mut turned = String::with_capacity(text.len());
        let mut rest = text;
        let mut quoted = false;
        while let Some(at) = rest.find(['<', '"', '\\']) {
            let (before, from) = rest.split_at(at);
            turned.push_str(before);
            let mark = from.as_bytes()[0];
            let end = match (mark, quoted) {
                (b'<', false) => from.find('>').unwrap_or(from.len() - 1) + 1,
                // An escaped character in a quoted string.
                (b'\\', true) => from.char_indices().nth(2).map_or(from.len(), |(at, _)| at),
                _ => 1,
            };
            quoted ^= mark == b'"';
            let (piece, after) = from.split_at(end);
            match piece.strip_prefix('<').and_then(|piece| piece.strip_suffix('>')).and_then(|link| self.link(link)) {
                Some(link) => turned.extend(["<", &link, ">"]),
                None => turned.push_str(piece),
            }
            rest = after;
        }
        turned.push_str(rest);
        turned
    }
}

/// What the app called us, or the upstream over plain HTTP: kept until the answer's links are turned back to it.
pub struct Base {
    host: HeaderValue,
    way: Way,
}

/// How an answer's links can lead through us.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Prefix,
    Label,
    /// We are asked for the upstream's plain form, whatever we ourselves are reached by.
    Proxy,
}

impl Base {
    /// `None` where the upstream's own links lead the way that the app came.
    pub fn of(target: &Target<'_>, head: &Head, headers: &Fields) -> Option<Self> {
        let way = match target.by {
            By::Prefix { .. } => Way::Prefix,
            By::HostLabel { .. } => Way::Label,
            // An https link would go round an app's HTTP_PROXY, and arrive without a token.
            By::Authority { scheme: Scheme::Http, .. } => Way::Proxy,
            By::Authority { scheme: Scheme::Https, .. } => return None,
        };
        let host = match headers.get(HOST) {
            Some(host) => host.clone(),
            // `:authority` stands for it.
            None => HeaderValue::from_str(head.uri.authority()?.as_str()).ok()?,
        };
        Some(Self { host, way })
    }

    /// `over_tls`: the app has come to us so.
    pub fn turn_back(&self, route: &Route, headers: &mut Fields, over_tls: bool) {
        // As nearly always.
        if ![LOCATION, CONTENT_LOCATION, LINK].iter().any(|name| headers.contains(name)) {
            return;
        }
        let Ok(host) = self.host.to_str() else { return };
        let prefix = (self.way == Way::Prefix).then_some(route.name.as_str());
        let scheme = if over_tls && self.way != Way::Proxy { Scheme::Https } else { Scheme::Http };
        BaseUrl { scheme, upstream: &route.upstream.endpoint, host, prefix }.turn_back(headers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned(upstream: &str, prefix: Option<&str>, header: &'static str, value: &str) -> String {
        let upstream = Endpoint::parse(upstream).expect("a URL");
        let mut headers = Fields::of(&[(header, value)]);
        BaseUrl { scheme: Scheme::Http, upstream: &upstream, host: "localhost:8080", prefix }.turn_back(&mut headers);
        headers.said(header).to_owned()
    }

    #[test]
    fn links_to_the_upstream_lead_through_us_again() {
        let api = "https://api.github.com";
        let table = [
            ("https://api.github.com/x?a=1#f", "http://localhost:8080/github/x?a=1#f"),
            ("HTTPS://API.github.com:443/x", "http://localhost:8080/github/x"),
            ("https://api.github.com", "http://localhost:8080/github"),
            ("//api.github.com/x", "http://localhost:8080/github/x"),
            ("/x", "/github/x"),
            ("https://elsewhere.test/x", "https://elsewhere.test/x"),
            ("http://api.github.com/x", "http://api.github.com/x"),
            ("https://api.github.com:8443/x", "https://api.github.com:8443/x"),
            ("https://user@api.github.com/x", "https://user@api.github.com/x"),
            ("https://api.github.com.evil.test/x", "https://api.github.com.evil.test/x"),
            ("x/y", "x/y"),
            ("?page=2", "?page=2"),
        ];
        for (link, expected) in table {
            assert_eq!(turned(api, Some("github"), "location", link), expected, "{link}");
            assert_eq!(turned(api, Some("github"), "content-location", link), expected, "{link}");
        }
        assert_eq!(turned(api, None, "location", "https://api.github.com/x"), "http://localhost:8080/x");
        assert_eq!(turned(api, None, "location", "https://api.github.com"), "http://localhost:8080/");
        assert_eq!(turned(api, None, "location", "/x"), "/x");
    }

    #[test]
    fn a_base_path_of_the_upstream_is_taken_off() {
        let api = "https://gitlab.test/api/v4";
        assert_eq!(turned(api, Some("gl"), "location", "/api/v4/x"), "/gl/x");
        assert_eq!(turned(api, Some("gl"), "location", "https://gitlab.test/api/v4"), "http://localhost:8080/gl");
        assert_eq!(turned(api, Some("gl"), "location", "/api/v40/x"), "/api/v40/x");
        assert_eq!(turned(api, Some("gl"), "location", "/login"), "/login");
    }

    #[test]
    fn each_target_of_a_link_header_is_turned_back() {
        let api = "https://api.github.com";
        let link = r#"<https://api.github.com/r?page=2>; rel="next"; title="a <https://api.github.com/no> \" b", </last>; rel=last, <https://other.test/>; rel=x"#;
        let expected = r#"<http://localhost:8080/github/r?page=2>; rel="next"; title="a <https://api.github.com/no> \" b", </github/last>; rel=last, <https://other.test/>; rel=x"#;
        assert_eq!(turned(api, Some("github"), "link", link), expected);
        for odd in ["<", "<unclosed", "\"", "\\", "", "a\"\\"] {
            assert_eq!(turned(api, Some("github"), "link", odd), odd);
        }
    }
}
