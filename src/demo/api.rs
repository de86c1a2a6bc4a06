//! The demo's API: over TLS, only for tokens of the demo's issuer, and it says what it received: of the token the
//! fingerprint, never the value.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::Certificate;
use super::issuer::{Keys, json_answer};
use crate::clock::{Clock, SystemClock};
use crate::secret::{Fingerprinter, Secret};
use crate::tls;

/// Serves until dropped.
///
/// # Errors
/// When the certificate does not suit its key.
pub fn serve(
    listener: TcpListener,
    certificate: Certificate,
    keys: Keys,
    fingerprinter: Arc<Fingerprinter>,
) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificate.chain, certificate.key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Ok(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, keys, fingerprinter) = (acceptor.clone(), keys.clone(), fingerprinter.clone());
            connections.spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |request| {
                    let answer = answer(&request, &keys, &fingerprinter);
                    async { Ok::<_, Infallible>(answer) }
                });
                // A caller that goes away is its own loss.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
            while connections.try_join_next().is_some() {}
        }
    })
}

fn answer(request: &Request<Incoming>, keys: &Keys, fingerprinter: &Fingerprinter) -> Response<Full<Bytes>> {
    let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(token) = token.and_then(|text| text.strip_prefix("Bearer ")) else {
        return json_answer(StatusCode::UNAUTHORIZED, &json!({ "error": "no token" }));
    };
    let Some(claims) = keys.verify(token) else {
        return json_answer(StatusCode::UNAUTHORIZED, &json!({ "error": "the token is not ours, or has expired" }));
    };
    let fingerprint = fingerprinter.of(&Secret::new(token)).to_string();
    let left = claims.exp.saturating_sub(SystemClock.now().wall.as_secs());
    let headers: Map<String, Value> = request
        .headers()
        .iter()
        .map(|(name, value)| {
            let shown = match *name == AUTHORIZATION {
                true => format!("Bearer <fingerprint {fingerprint}>"),
                false => value.to_str().unwrap_or("<not text>").to_owned(),
            };
            (name.to_string(), Value::from(shown))
        })
        .collect();
    let body = json!({
        "received": {
            "method": request.method().as_str(),
            "target": request.uri().to_string(),
            "headers": headers,
        },
        "token": { "fingerprint": fingerprint, "scope": claims.scope, "expires_in_seconds": left },
    });
    json_answer(StatusCode::OK, &body)
}
