//! Out through a company's proxy: a tunnel to the upstream, inside of which TLS is ours.
//!
//! ```text
//! authority → not excepted → dial the proxy (judged like any destination) → [TLS] → CONNECT → 2xx → a stream of bytes
//! ```
//!
//! The proxy sees which authority is asked for, and resolves its name: what addresses that name has is never known here. It
//! sees no request, since the certificate at the far end of the tunnel is verified for the upstream's own name.
//!
//! Invariants: the proxy's credential goes to the proxy alone, and stands in no log; what a proxy says before the tunnel is
//! bounded, and what it says instead of one is told by its status only.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::upgrade::{Parts, Upgraded};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;

use super::stream::Stream;
use crate::authority::{Authority, Endpoint, Host};
use crate::secret::{self, NotText, NotVisibleAscii, Reference, ResolveError, Secret};
use crate::tls::{self, Alpn, Security};

/// `[proxy] upstream_proxy`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub proxy: Endpoint,
    pub credentials: Option<Credentials>,
    /// What `$NO_PROXY` would hold: names, addresses and networks that are reached without the proxy.
    pub no_proxy: String,
    /// For a proxy that is reached under TLS itself.
    pub tls: tls::Settings,
}

/// What the proxy asks of its clients (RFC 7617).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    pub username: String,
    pub password: Reference,
}

/// A proxy that can be used.
pub struct Tunnel {
    pub(super) proxy: Authority,
    pub(super) security: Security,
    authorization: Option<HeaderValue>,
    /// Intercepts what is to go through the proxy.
    matcher: Matcher,
}

/// Why a proxy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error("cannot read the password for the proxy: {0}")]
    Password(#[from] ResolveError),
    #[error("the password for the proxy: {0}")]
    NotText(#[from] NotText),
    #[error("the credential for the proxy cannot stand in a header: {0}")]
    Header(#[from] NotVisibleAscii),
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    #[error("it wants a credential (407): give `username` and `password` in `upstream_proxy`")]
    Unauthenticated,
    #[error("it does not take the credential (407)")]
    CredentialRefused,
    #[error("it forbids the upstream (403)")]
    Forbidden,
    #[error("it answers {0} to CONNECT")]
    Status(StatusCode),
    #[error("its answer is larger than {} KiB", MAX_HEAD / 1024)]
    TooLarge,
    #[error("it sends bytes before it was asked for any")]
    Hasty,
    #[error("its answer is no sound HTTP/1.1: {0}")]
    NotHttp(hyper::Error),
}

impl Settings {
    /// The same, without what we prove ourselves with: enough to see whether the rest can be used.
    pub fn without_secrets(&self) -> Self {
        Self { credentials: None, tls: self.tls.without_identity(), ..self.clone() }
    }
}

impl Tunnel {
    /// # Errors
    /// When the password or the roots cannot be read.
    pub fn new(settings: &Settings) -> Result<Self, SetUpError> {
        let authorization = match &settings.credentials {
            None => None,
            Some(Credentials { username, password }) => {
                let password = password.resolve()?;
                let pair = secret::basic(username, password.expose_to_issuer()?.as_bytes());
                Some(Secret::new(pair.as_bytes()).header_value("Basic ", "")?)
            }
        };
        // Whether it intercepts is all that is asked of it: the URL is never looked at.
        let matcher = Matcher::builder().all("http://proxy.invalid").no(settings.no_proxy.as_str()).build();
        Ok(Self {
            proxy: settings.proxy.authority.clone(),
            security: Security::new(settings.proxy.scheme, &settings.tls, Alpn::Http1)?,
            authorization,
            matcher,
        })
    }

    /// Whether `authority` is reached through the proxy. Loopback is this machine's own, and the proxy is on another.
    pub(super) fn takes(&self, authority: &Authority) -> bool {
        let host = &authority.host;
        let is_local = host.is_loopback_name()
            || host.label_of_localhost().is_some()
            || matches!(host, Host::Ip(ip) if ip.to_canonical().is_loopback());
        let uri = Uri::builder().scheme("https").authority(authority.to_string()).path_and_query("/").build();
        !is_local && uri.is_ok_and(|uri| self.matcher.intercept(&uri).is_some())
    }

    /// Asks the proxy, which `io` leads to, for a tunnel to `authority`.
    pub(super) async fn open(&self, io: Stream, authority: &Authority) -> Result<Stream, TunnelError> {
        let (mut sender, connection) = http1::Builder::new()
            .max_header_size(MAX_HEAD)
            .handshake::<TokioIo<Stream>, Empty<Bytes>>(TokioIo::new(io))
            .await
            .map_err(failure)?;
        let asking = async {
            let response = sender.send_request(self.request(authority)).await.map_err(failure)?;
            match response.status() {
                status if status.is_success() => {}
                StatusCode::PROXY_AUTHENTICATION_REQUIRED if self.authorization.is_none() => {
                    return Err(TunnelError::Unauthenticated);
                }
                StatusCode::PROXY_AUTHENTICATION_REQUIRED => return Err(TunnelError::CredentialRefused),
                StatusCode::FORBIDDEN => return Err(TunnelError::Forbidden),
                status => return Err(TunnelError::Status(status)),
            }
            hyper::upgrade::on(response).await.map_err(failure)
        };
        let driving = async {
            // What goes wrong with the connection is told to whoever asks.
            let _ = connection.with_upgrades().await;
            std::future::pending::<Infallible>().await
        };
        let upgraded = tokio::select! {
            upgraded = asking => upgraded?,
            never = driving => match never {},
        };
        bytes_of(upgraded)
    }

    fn request(&self, authority: &Authority) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::CONNECT;
        let target = authority.to_string();
        if let (Ok(uri), Ok(host)) = (Uri::try_from(&target), HeaderValue::try_from(&target)) {
            *request.uri_mut() = uri;
            request.headers_mut().insert(HOST, host);
        }
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(NAME));
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        request
    }
}

/// The stream again, of which nothing may have been read yet: the upstream does not speak before we do.
fn bytes_of(upgraded: Upgraded) -> Result<Stream, TunnelError> {
    match upgraded.downcast::<TokioIo<Stream>>() {
        Ok(Parts { io, read_buf, .. }) if read_buf.is_empty() => Ok(io.into_inner()),
        Ok(_) | Err(_) => Err(TunnelError::Hasty),
    }
}

fn failure(error: hyper::Error) -> TunnelError {
    if error.is_parse_too_large() { TunnelError::TooLarge } else { TunnelError::NotHttp(error) }
}

/// Names under which clouds reach their metadata services. Through a proxy their addresses are not seen.
pub(super) fn names_metadata(host: &Host) -> bool {
    const NAMES: [&str; 5] = [
        "metadata",
        "metadata.google.internal",
        "metadata.tencentyun.com",
        "instance-data",
        "instance-data.ec2.internal",
    ];
    matches!(host, Host::Name(name) if NAMES.contains(&&**name))
}

const MAX_HEAD: usize = 16 * 1024;

const NAME: &str = concat!("countersign/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnel(no_proxy: &str) -> Tunnel {
        let settings = Settings {
            proxy: Endpoint::parse("http://proxy.corp:3128").expect("well-formed"),
            credentials: None,
            no_proxy: no_proxy.to_owned(),
            tls: tls::Settings::default(),
        };
        Tunnel::new(&settings).expect("no failure")
    }

    fn takes(tunnel: &Tunnel, authority: &str) -> bool {
        tunnel.takes(&Authority::parse(authority, 443).expect("well-formed"))
    }

    #[test]
    fn names_addresses_and_networks_are_excepted() {
        let tunnel = tunnel("corp.test, .dotted.test,10.0.0.0/8 ,192.0.2.7,[2001:db8::1]");
        for direct in
            ["corp.test", "a.corp.test:8443", "a.dotted.test", "10.1.2.3", "192.0.2.7", "localhost", "127.0.0.1:8443"]
        {
            assert!(!takes(&tunnel, direct), "{direct}");
        }
        for through in ["api.test", "notcorp.test", "corp.test.evil.test", "11.0.0.1", "192.0.2.8", "[2001:db8::2]"] {
            assert!(takes(&tunnel, through), "{through}");
        }
        assert!(!takes(&super::tests::tunnel("*"), "api.test"));
        for local in ["[::1]", "[::ffff:127.0.0.1]", "a.localhost"] {
            assert!(!takes(&super::tests::tunnel(""), local), "{local}");
        }
    }
}
