//! What is looked at before anybody is asked who they are: that the call means us, and that no web page has sent it.

use http::header::{CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use std::net::IpAddr;

use super::answer::Refusal;
use super::listener::Entrance;

/// Browsers say with it where a request comes from, and no page can keep them from it.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// # Errors
/// When the call was made for somebody else, or by a page in a browser.
pub fn judge<B>(request: &Request<B>, entrance: &Entrance) -> Result<(), Refusal> {
    let headers = request.headers();
    // A target with an authority is for proxies.
    if request.uri().authority().is_some() || !is_for_us(headers, entrance) {
        return Err(Refusal::HostUnknown);
    }
    let typed_by_a_person = |site: &HeaderValue| site.as_bytes() == b"none";
    if headers.contains_key(ORIGIN) || !headers.get_all(SEC_FETCH_SITE).iter().all(typed_by_a_person) {
        return Err(Refusal::BrowserRefused);
    }
    Ok(())
}

/// # Errors
/// When the body is not said to be JSON: a page could send anything else without asking first.
pub fn judge_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(kind), None) = (types.next().and_then(|kind| kind.to_str().ok()), types.next()) else {
        return Err(Refusal::ContentType);
    };
    let (kind, parameter) = kind.split_once(';').unwrap_or((kind, "charset=utf-8"));
    let is_json = kind.trim().eq_ignore_ascii_case("application/json");
    let is_utf8 = parameter.trim().to_ascii_lowercase().replace('"', "") == "charset=utf-8";
    if is_json && is_utf8 { Ok(()) } else { Err(Refusal::ContentType) }
}

/// Whether the one Host is a name of ours: a page whose name leads to this machine has another one.
fn is_for_us(headers: &HeaderMap, entrance: &Entrance) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) else { return false };
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let local = name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let port = authority.port_u16();
    match entrance {
        // No page reaches a unix socket, and what stands here is whatever the client had to write.
        Entrance::Unix => local,
        Entrance::Loopback(own) => local && port == Some(own.port()),
        Entrance::Tls(own, server) => {
            let right_port = port == Some(own.port()) || (port.is_none() && own.port() == 443);
            right_port && (local || server.is_for(name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let request = Request::get("/v1/tokens");
        headers
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, *value))
            .body(())
            .expect("a request")
    }

    fn judged(headers: &[(&str, &str)]) -> Option<&'static str> {
        let entrance = Entrance::Loopback(([127, 0, 0, 1], 9000).into());
        judge(&request(headers), &entrance).err().map(|refusal| refusal.reason())
    }

    #[test]
    fn a_call_by_another_name_is_for_somebody_else() {
        for good in ["localhost:9000", "LOCALHOST:9000", "127.0.0.1:9000", "127.0.0.2:9000", "[::1]:9000"] {
            assert_eq!(judged(&[("host", good)]), None, "{good}");
        }
        for bad in ["evil.test:9000", "localhost", "localhost:80", "10.0.0.1:9000", "localhost.evil.test:9000", "", "@"]
        {
            assert_eq!(judged(&[("host", bad)]), Some("host_unknown"), "{bad}");
        }
        assert_eq!(judged(&[]), Some("host_unknown"));
        assert_eq!(judged(&[("host", "localhost:9000"), ("host", "localhost:9000")]), Some("host_unknown"));
        let absolute = Request::get("http://localhost:9000/").header("host", "localhost:9000").body(()).expect("one");
        assert!(judge(&absolute, &Entrance::Unix).is_err());
        assert!(judge(&request(&[("host", "localhost")]), &Entrance::Unix).is_ok());
        assert!(judge(&request(&[("host", "evil.test")]), &Entrance::Unix).is_err());
    }

    #[test]
    fn a_page_in_a_browser_is_refused() {
        let host = ("host", "localhost:9000");
        for origin in ["http://evil.test", "http://localhost:9000", "null"] {
            assert_eq!(judged(&[host, ("origin", origin)]), Some("browser_refused"));
        }
        for site in ["cross-site", "same-site", "same-origin"] {
            assert_eq!(judged(&[host, ("sec-fetch-site", site)]), Some("browser_refused"));
        }
        assert_eq!(judged(&[host, ("sec-fetch-site", "none")]), None);
    }

    #[test]
    fn only_json_is_json() {
        let judged = |kinds: &[&str]| {
            let kinds: Vec<_> = kinds.iter().map(|kind| ("content-type", *kind)).collect();
            judge_type(request(&kinds).headers()).is_ok()
        };
        for good in ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\""] {
            assert!(judged(&[good]), "{good}");
        }
        for bad in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "",
            "application/jsonp",
            "application/json; charset=utf-16",
            "text/plain; application/json",
        ] {
            assert!(!judged(&[bad]), "{bad}");
        }
        assert!(!judged(&[]) && !judged(&["application/json", "application/json"]));
    }
}
