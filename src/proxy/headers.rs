//! Heads are rebuilt, never copied: what may not go on is left out, and what the client put where a credential belongs is
//! taken out and counted.
//!
//! Invariant: after [`rebuild_request`] no field is left that is a credential of the client's own, under any spelling, nor
//! one that the client named in `Connection`.

use http::header::{CONNECTION, HOST, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::message::Fields;

/// What becomes of a request's field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Keep,
    /// Of this hop only, made anew by us, or a trick.
    Drop,
    /// A credential.
    Credential,
}

/// Rebuilds a request's head for its upstream: what may not go on is taken out, `host` takes the place of the client's.
/// `placement` are the headers that the route's token goes into; on a route without token the client's own credentials pass.
/// Returns whether the app sent a credential of its own.
pub fn rebuild_request(headers: &mut Fields, host: HeaderValue, placement: Option<&[HeaderName]>) -> bool {
    // What the client's `Connection` names goes first, so that it cannot name what is added later.
    let mut shadow = drop_named(headers, placement);
    headers.insert(HOST, host);
    headers.retain(|name, _| {
        let fate = fate(name, placement);
        shadow |= fate == Fate::Credential || *name == PROXY_AUTHORIZATION;
        match fate {
            Fate::Keep => true,
            Fate::Drop => false,
            Fate::Credential => placement.is_none(),
        }
    });
    shadow
}

/// Takes out of an answer's head what is of the upstream's hop only, what would steer the client round us, and the header
/// that the token went into. Returns whether the upstream announces its end.
pub fn rebuild_response(headers: &mut Fields, placement: Option<&[HeaderName]>) -> bool {
    let mut ends = false;
    drop_named(headers, None);
    headers.retain(|name, _| {
        let hop = matches!(
            name.as_str(),
            "connection"
                | "keep-alive"
                | "proxy-connection"
                | "proxy-authenticate"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
                | "alt-svc"
                // Ours alone.
                | "countersign-request"
        );
        ends |= matches!(name.as_str(), "deprecation" | "sunset");
        !hop && !placement.is_some_and(|placement| placement.contains(name))
    });
    ends
}

/// Takes out of an answer's trailers what would be read as part of its head (RFC 9110, section 6.5.1): framing, routing,
/// who may see it, and the header that the token went into.
pub fn rebuild_trailers(trailers: &mut HeaderMap, placement: Option<&[HeaderName]>) {
    let goes = |name: &&HeaderName| {
        let text = name.as_str();
        let head_only = matches!(
            text,
            "age"
                | "alt-svc"
                | "cache-control"
                | "connection"
                | "countersign-request"
                | "date"
                | "expires"
                | "host"
                | "keep-alive"
                | "location"
                | "proxy-authenticate"
                | "proxy-connection"
                | "range"
                | "retry-after"
                | "set-cookie"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
                | "vary"
                | "via"
                | "warning"
                | "www-authenticate"
        );
        head_only || text.starts_with("content-") || is_credential(text, placement)
    };
    let doomed: Vec<HeaderName> = trailers.keys().filter(goes).cloned().collect();
    for name in doomed {
        trailers.remove(name);
    }
}

/// Takes out the fields that `Connection` names. Returns whether one of them was a credential.
fn drop_named(headers: &mut Fields, placement: Option<&[HeaderName]>) -> bool {
    let mut shadow = false;
    // As nearly always.
    if headers.get_all(CONNECTION).all(says_what_becomes_of_it) {
        return false;
    }
    for name in connection_options(headers) {
        if headers.retain(|known, _| known.as_str() != name) {
            shadow |= is_credential(&name, placement);
        }
    }
    shadow
}

/// The fields that a `Connection` header names, in lower case (RFC 9110, section 7.6.1).
fn connection_options(headers: &Fields) -> Vec<String> {
    headers.get_all(CONNECTION).flat_map(options).filter(|option| option != "keep-alive" && option != "close").collect()
}

/// Whether a `Connection` names no field.
fn says_what_becomes_of_it(value: &HeaderValue) -> bool {
    [&b"keep-alive"[..], b"close"].iter().any(|word| value.as_bytes().eq_ignore_ascii_case(word))
}

fn options(value: &HeaderValue) -> impl Iterator<Item = String> + '_ {
    let text = value.to_str().unwrap_or("");
    text.split(',').map(|option| option.trim().to_ascii_lowercase()).filter(|option| !option.is_empty())
}

fn fate(name: &HeaderName, placement: Option<&[HeaderName]>) -> Fate {
    match name.as_str() {
        "connection"
        | "keep-alive"
        | "proxy-connection"
        | "proxy-authenticate"
        | "proxy-authorization"
        | "te"
        | "trailer"
        | "transfer-encoding"
        | "upgrade"
        | "http2-settings" => Fate::Drop,
        // Made anew from the body that is sent; and `Expect` is between the client and us.
        "content-length" | "expect" => Fate::Drop,
        // Some servers read these instead of the method and the target that were judged.
        "x-http-method-override"
        | "x-http-method"
        | "x-method-override"
        | "x-original-url"
        | "x-rewrite-url"
        | "x-original-method" => Fate::Drop,
        text if is_plain_credential(text, placement) => Fate::Credential,
        text => match twin(text).map(HeaderName::try_from) {
            Some(Ok(twin)) => fate(&twin, placement),
            // A name such as `_` is nobody's twin.
            Some(Err(_)) | None => Fate::Keep,
        },
    }
}

/// The name that careless servers read this one as: `x_api_key` as `x-api-key` (RFC 3875, section 4.1.18), `authorization_`
/// as `authorization`. `None` for a plain name.
fn twin(name: &str) -> Option<String> {
    let bytes = name.as_bytes();
    let odd = bytes.contains(&b'_') || bytes.first() == Some(&b'-') || bytes.last() == Some(&b'-');
    odd.then(|| name.replace('_', "-").trim_matches('-').to_owned())
}

/// Whether a field carries a credential: those that APIs are known to take, and the one that our token goes into.
pub fn is_credential(name: &str, placement: Option<&[HeaderName]>) -> bool {
    is_plain_credential(name, placement) || twin(name).is_some_and(|twin| is_plain_credential(&twin, placement))
}

/// The same of a name under its own spelling.
fn is_plain_credential(name: &str, placement: Option<&[HeaderName]>) -> bool {
    let known = matches!(
        name,
        "authorization"
            | "proxy-authorization"
            | "x-api-key"
            | "api-key"
            | "apikey"
            | "x-auth-token"
            | "x-access-token"
            | "private-token"
            | "job-token"
            | "x-goog-api-key"
            | "x-amz-security-token"
            | "x-vault-token"
            // The proof of a token that is bound to a key.
            | "dpop"
    );
    // A twin is no longer than the name that it is one of.
    let is_own = |own: &HeaderName| {
        own == name || (name.len() <= own.as_str().len() && twin(own.as_str()).is_some_and(|twin| twin == name))
    };
    known || placement.into_iter().flatten().any(is_own)
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;

    fn rebuilt(fields: &[(&str, &str)], placement: Option<&str>) -> (Vec<String>, bool) {
        let mut headers = Fields::new();
        for (name, value) in fields {
            headers.append(HeaderName::try_from(*name).expect("name"), HeaderValue::from_str(value).expect("value"));
        }
        let placement = placement.map(|name| HeaderName::try_from(name).expect("name"));
        let shadow = rebuild_request(
            &mut headers,
            HeaderValue::from_static("api.test"),
            placement.as_ref().map(slice::from_ref),
        );
        assert!(headers.get(HOST).is_some_and(|host| host == "api.test") && headers.remove(HOST));
        let left = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")));
        (left.collect(), shadow)
    }

    #[test]
    fn the_clients_own_credentials_are_removed_under_every_spelling() {
        for name in [
            "Authorization",
            "authorization_",
            "X-Api-Key",
            "x_api_key",
            "X_Api-Key",
            "Proxy-Authorization",
            "X_Custom",
        ] {
            let (left, shadow) = rebuilt(&[(name, "mine"), (name, "twice"), ("accept", "*/*")], Some("x-custom"));
            assert_eq!(left, ["accept: */*"], "{name}");
            assert!(shadow, "{name}");
        }
    }

    #[test]
    fn on_a_route_without_token_the_clients_credentials_pass_and_are_noticed() {
        let (left, shadow) = rebuilt(&[("authorization", "mine"), ("proxy-authorization", "hop")], None);
        assert_eq!(left, ["authorization: mine"]);
        assert!(shadow);
        assert!(!rebuilt(&[("accept", "*/*")], None).1);
    }

    #[test]
    fn what_connection_names_goes_no_further() {
        let fields = [
            ("connection", "keep-alive, X-Secret"),
            ("x-secret", "1"),
            ("connection", "x-b"),
            ("x-b", "2"),
            ("a", "3"),
        ];
        assert_eq!(rebuilt(&fields, None).0, ["a: 3"]);
    }

    #[test]
    fn framing_and_tricks_are_not_copied() {
        let fields = [
            ("host", "evil"),
            ("content-length", "3"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("x-http-method-override", "DELETE"),
            ("x_http_method_override", "DELETE"),
            ("x-original-url", "/admin"),
            ("accept", "a"),
            ("accept", "b"),
        ];
        assert_eq!(rebuilt(&fields, Some("authorization")).0, ["accept: a", "accept: b"]);
    }

    #[test]
    fn an_answer_loses_its_hop_and_the_header_of_the_token() {
        let mut headers = Fields::new();
        for (name, value) in [
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("alt-svc", "h3"),
            ("authorization", "echo"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("set-cookie", "a"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        assert!(!rebuild_response(&mut headers, Some(&[http::header::AUTHORIZATION])));
        let mut left: Vec<&str> = headers.names().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "set-cookie"]);
    }
}
