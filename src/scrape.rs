//! Metrics, health and public keys: the listener that changes nothing, so that a pod's address is fine for it.
//!
//! | path | says |
//! |---|---|
//! | `/metrics` | Prometheus text format 0.0.4 |
//! | `/livez` | 200 while the process runs |
//! | `/readyz` | 200 when every required token has a usable generation and nothing drains; `?verbose` says what is missing |
//! | `/startupz` | 200 from the first time that `/readyz` was |
//! | `/.well-known/jwks.json` | the public keys of `signed_jwt` tokens (RFC 7517) |

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::metrics::Metrics;
use crate::readiness::Readiness;

/// Scrapers are few; a flood of connections must not take the memory of the proxy.
const CONNECTIONS: usize = 64;

/// For a whole request and its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the listener shows.
pub struct Scrape {
    pub metrics: Metrics,
    pub readiness: Arc<Readiness>,
    /// The keys change with a reload.
    pub keys: Box<dyn Fn() -> Vec<serde_json::Value> + Send + Sync>,
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, scrape: Arc<Scrape>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                // Without room the connection is closed.
                if let Ok(place) = room.clone().try_acquire_owned() {
                    let scrape = scrape.clone();
                    connections.spawn(async move {
                        connection(stream, scrape).await;
                        drop(place);
                    });
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the telemetry listener cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, scrape: Arc<Scrape>) {
    let service = service_fn(move |request| {
        let answer = answer(&scrape, &request);
        async { Ok::<_, Infallible>(answer) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(PATIENCE, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a telemetry connection failed"),
        Err(_) => tracing::debug!("a telemetry connection took too long"),
    }
}

fn answer(scrape: &Scrape, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", "only GET\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let verbose = request.uri().query() == Some("verbose");
    match request.uri().path() {
        "/metrics" => text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", scrape.metrics.scrape()),
        "/livez" | "/healthz" => health(true, "alive", verbose),
        "/readyz" => health(scrape.readiness.is_ready(), &scrape.readiness.to_string(), verbose),
        "/startupz" => health(scrape.readiness.has_been_ready(), &scrape.readiness.to_string(), verbose),
        "/.well-known/jwks.json" => {
            let keys = serde_json::json!({ "keys": (scrape.keys)() });
            text(StatusCode::OK, "application/jwk-set+json", keys.to_string())
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "text/plain; charset=utf-8",
            "here are /metrics /livez /readyz /startupz /.well-known/jwks.json\n",
        ),
    }
}

fn health(well: bool, detail: &str, verbose: bool) -> Response<Full<Bytes>> {
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = match (well, verbose) {
        (_, true) => format!("{detail}\n"),
        (true, false) => "ok\n".to_owned(),
        (false, false) => "not ready: ask with ?verbose\n".to_owned(),
    };
    text(status, "text/plain; charset=utf-8", body)
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
