//! Issuers and upstreams: whether they can be reached and prove who they are. A connection is opened, verified and closed. Of an
//! issuer, one HEAD request without any credential is made besides, for the date in its answer.

use std::sync::Arc;
use std::time::Duration;

use http::header::DATE;
use http::{HeaderMap, Method};
use zeroize::Zeroizing;

use super::Findings;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, Remote, Survey};
use crate::dial::{DialError, Dialer, Target, TlsKind, Tunnel};
use crate::fetch::{Call, Fetcher, Remote as Callee};
use crate::tls::{Alpn, Security};

const PATIENCE: Duration = Duration::from_secs(5);

/// JWTs of ours begin to be refused about here, by verifiers without leeway.
const SKEW: u64 = 5;

/// Nobody grants as much leeway.
const LARGE_SKEW: u64 = 300;

pub async fn look(config: &Config, survey: &Survey, found: &mut Findings) {
    let dialer = Arc::new(Dialer::new(config.destinations.clone(), Vec::new()));
    match config.upstream_proxy.as_ref().map(Tunnel::new).transpose() {
        Ok(tunnel) => drop(dialer.through(tunnel.map(Arc::new))),
        Err(error) => {
            found.problem(format!("upstream_proxy: {error}"), "correct `upstream_proxy` of [proxy]");
            return;
        }
    }
    for upstream in &survey.upstreams {
        connect(upstream, &dialer, found).await;
    }
    let fetcher = Fetcher::new(dialer.clone());
    for issuer in &survey.issuers {
        if connect(issuer, &dialer, found).await {
            compare_clocks(issuer, &fetcher, found).await;
        }
    }
}

/// Whether there is a connection.
async fn connect(remote: &Remote, dialer: &Dialer, found: &mut Findings) -> bool {
    let Remote { place, endpoint, tls } = remote;
    let authority = &endpoint.authority;
    let security = match Security::new(endpoint.scheme, tls, Alpn::Http2OrHttp1) {
        Ok(security) => security,
        Err(error) => {
            found.problem(format!("{place}: {error}"), "correct its `tls`");
            return false;
        }
    };
    let target = Target { authority, security: &security, timeout: PATIENCE };
    match dialer.connect(&target).await {
        Ok(_) => found.ok(format!("{place}: {authority} is reached, and is who it should be")),
        Err(error) => {
            found.problem(format!("{place}: {error}"), fix(&error));
            return false;
        }
    }
    true
}

fn fix(error: &DialError) -> &'static str {
    match error {
        DialError::Metadata(_) => "no route may lead to a metadata service",
        DialError::Proxy { .. } | DialError::Tunnel { .. } => {
            "correct `upstream_proxy` of [proxy], or except the host in its `no_proxy`"
        }
        DialError::Prohibited(_) => "if it is meant, name the network in `allow` of [proxy.destinations]",
        DialError::Clear(_) => "write https://",
        DialError::Resolve(..) => "correct the name, or the resolver of this machine",
        DialError::Refused(_) | DialError::Connect(..) | DialError::Timeout(_) => {
            "is it up, and does a firewall let this machine through?"
        }
        DialError::Tls { kind: TlsKind::Certificate, .. } => {
            "if a CA of your own signed its certificate, name that CA: tls = { ca = \"file:/path\" }; a `pin` must be of its key"
        }
        DialError::Tls { kind: TlsKind::Alert, .. } => {
            "does it want a client certificate? tls = { cert = ..., key = ... }"
        }
        DialError::Tls { kind: TlsKind::Protocol, .. } => "it must offer TLS 1.2 or 1.3 with a modern cipher",
    }
}

async fn compare_clocks(issuer: &Remote, fetcher: &Fetcher, found: &mut Findings) {
    let Remote { place, endpoint, tls } = issuer;
    let Ok(callee) = Callee::new(endpoint.clone(), tls) else { return };
    let call =
        Call { method: Method::HEAD, remote: &callee, headers: HeaderMap::new(), body: Zeroizing::new(Vec::new()) };
    let date = fetcher.send(call).await.ok().and_then(|answer| {
        let date = jiff::fmt::rfc2822::parse(answer.headers.get(DATE)?.to_str().ok()?).ok()?;
        u64::try_from(date.timestamp().as_second()).ok()
    });
    let Some(date) = date else {
        found.note(
            format!("{place}: the issuer tells no date, so that the clock is not compared with its own"),
            "keep the clock right by NTP",
        );
        return;
    };
    let apart = SystemClock.now().wall.as_secs().abs_diff(date);
    let what =
        format!("{place}: this machine's clock and the issuer's (the date of its answer to HEAD) are {apart} s apart");
    match apart {
        LARGE_SKEW.. => found.problem(what, "set the clock, and keep it right by NTP"),
        SKEW.. => found.warning(what, "keep the clock right by NTP"),
        _ => found.ok(what),
    }
}
