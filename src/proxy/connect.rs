//! CONNECT (RFC 9110, section 9.3.6): the way of the apps that obey `HTTPS_PROXY`.
//!
//! ```text
//!  route with `intercept`  ─▶ 200 ─▶ we end TLS as that host ─▶ requests, judged like all others
//!  open route, no token    ─▶ dial ─▶ 200 ─▶ bytes in both directions, which nobody looks at
//!  no route, and allowed   ─▶ likewise, to port 443
//!  anything else           ─▶ 403
//! ```
//!
//! In HTTP/2 a tunnel is a stream, and so is a WebSocket: `http2`.
//!
//! Invariant: no token ever enters a tunnel that is not looked into, and nothing that a route's rules would refuse does. A
//! request that comes in a tunnel that is looked into is for the tunnel's own authority, or is refused.

mod http2;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, StatusCode, Version};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::body::ResponseBody;
use super::error::Refusal;
use super::head::{self, Head};
use super::message::{Fields, Response};
use super::stream::Socket;
use super::tunnel::Tunnel;
use super::{Caller, Opened, Place, Proxy, job, phantom, places};
use crate::authority::{Authority, Scheme};
use crate::identity::ClientIndex;
use crate::route::{Route, Table, Timeouts};
use crate::usage::UsageGuard;

/// Where a tunnel may lead that no route knows.
const PORT: u16 = 443;

/// What a client's connection turns into.
pub enum Onward {
    Tunnel(Box<Tunnel>),
    Inside(Inside),
}

/// A tunnel that is looked into.
pub struct Inside {
    opened: Opened,
    config: Arc<ServerConfig>,
    /// Of a stream: it becomes a connection beside the one that it is in.
    place: Option<places::Place>,
}

impl Proxy {
    /// Answers a request for a tunnel. With the answer 200 comes what the client's connection turns into.
    pub(super) async fn connect(
        &self,
        caller: &Caller,
        head: &Head,
        mut fields: Fields,
    ) -> (Response<ResponseBody>, Option<Onward>) {
        let mut usage = UsageGuard::new(&self.observer, &head.method);
        let table = self.table();
        let mut place = Place::default();
        let onward = match self.judge_tunnel(caller, head, &mut fields, &table.0, &mut usage, &mut place).await {
            Ok(Judged::Inside(inside)) => {
                usage.answered(StatusCode::OK);
                usage.complete();
                Ok(Onward::Inside(inside))
            }
            Ok(Judged::Blind(authority, client, route)) => self.dig(&authority, client, route, &table.0, usage).await,
            Err(refusal) => Err((refusal, usage)),
        };
        match onward {
            Ok(onward) => (Response::new(StatusCode::OK, ResponseBody::Switched), Some(onward)),
            Err((refusal, usage)) => (self.refuse(refusal, usage, place, head, false), None),
        }
    }

    async fn judge_tunnel<'t>(
        &self,
        caller: &Caller,
        head: &Head,
        fields: &mut Fields,
        table: &'t Table,
        usage: &mut UsageGuard,
        place: &mut Place<'t>,
    ) -> Result<Judged<'t>, Refusal> {
        head::judge(head, fields, &self.shared.limits)?;
        if self.shared.via.is_in(fields) {
            return Err(Refusal::Loop);
        }
        let authority = asked_for(head, fields)?;
        let job = job::of(table, caller, fields, usage).await?;
        let known = phantom::identify(table, caller, head, fields, job.as_deref())?;
        let client = known.client;
        table.holds_back(client)?;
        let route = table.authority(Scheme::Https, &authority, client).map(|route| &**route);
        // Whoever shows a key where it cannot be learns of no route.
        known.settle_tunnel(table, caller, route)?;
        place.route = route;
        let looked_into = lead(table, place.route, &authority, client)?;
        let Some(route) = place.route else { return Ok(Judged::Blind(authority, client, None)) };
        if looked_into {
            let interception = table.interception.as_ref().ok_or(Refusal::TunnelDenied)?;
            let config = interception.server(&authority.host).map_err(|error| {
                tracing::error!(route = %route.name, %error, "a tunnel cannot be looked into");
                Refusal::TunnelDenied
            })?;
            let place = self.place_of_stream(caller, head)?;
            let opened = Opened { authority, key: known.mark(), job };
            return Ok(Judged::Inside(Inside { opened, config, place }));
        }
        usage.of(route.cell(client));
        route.admit(client, &head.method, "/")?;
        if !usage.enters(route.limits.concurrency) {
            return Err(Refusal::Busy);
        }
        Ok(Judged::Blind(authority, client, Some(route)))
    }

    /// Where a tunnel is a stream, what is served in it is a connection like others: there is room for it before it is granted.
    fn place_of_stream(&self, caller: &Caller, head: &Head) -> Result<Option<places::Place>, Refusal> {
        if head.version != Version::HTTP_2 {
            return Ok(None);
        }
        self.shared.places.take(caller.whom()).map(Some).map_err(|_| Refusal::Overloaded)
    }

    /// A tunnel that nobody looks into, to an address that has been judged.
    async fn dig(
        &self,
        authority: &Authority,
        client: ClientIndex,
        route: Option<&Route>,
        table: &Table,
        mut usage: UsageGuard,
    ) -> Result<Onward, (Refusal, UsageGuard)> {
        let timeouts = route.map_or_else(Timeouts::default, |route| route.timeouts);
        let metrics = &self.shared.metrics.tunnels;
        usage.waits();
        let dug = self.pool.dig(authority, table.clients.name(client), &table.dialer, timeouts.connect).await;
        usage.resumes();
        if let Err(held) = table.bars(client) {
            return Err((held.into(), usage));
        }
        match dug {
            Ok(upstream) => {
                usage.answered(StatusCode::OK);
                let tunnel = Tunnel::blind(upstream, usage, timeouts.idle, self.shared.limits.tunnel, metrics.clone());
                Ok(Onward::Tunnel(Box::new(tunnel)))
            }
            Err(error) => {
                tracing::debug!(%authority, %error, "no tunnel");
                Err((Refusal::from(&error), usage))
            }
        }
    }
}

enum Judged<'t> {
    Inside(Inside),
    Blind(Authority, ClientIndex, Option<&'t Route>),
}

/// Whether a tunnel that leads to this authority, which has this route, is looked into.
///
/// # Errors
/// When none leads there.
pub fn lead(table: &Table, route: Option<&Route>, authority: &Authority, client: ClientIndex) -> Result<bool, Refusal> {
    let Some(route) = route else {
        let may = table.tunnels && authority.port == PORT && !table.is_host(&authority.host);
        return match may {
            true if table.has_rules(client) => Err(Refusal::TunnelDeniedToClient),
            true => Ok(false),
            false => Err(Refusal::TunnelDenied),
        };
    };
    if !route.is_for(client) {
        return Err(Refusal::RouteDenied);
    }
    // What cannot be seen cannot be judged, nor can its bodies be measured.
    let is_open = route.token.is_none() && route.passes_everything() && route.limits.body.is_none();
    match (route.intercept, is_open) {
        (true, _) => Ok(true),
        (false, true) if table.has_rules(client) => Err(Refusal::TunnelDeniedToClient),
        (false, true) => Ok(false),
        (false, false) => Err(Refusal::TunnelDenied),
    }
}

/// The authority that a request for a tunnel names, once or twice.
///
/// # Errors
/// When it names none, or two, or has a body.
pub fn asked_for(head: &Head, fields: &Fields) -> Result<Authority, Refusal> {
    // What follows is the tunnel's (RFC 9110, section 9.3.6): to whoever reads a body there it would begin later.
    if fields.contains(TRANSFER_ENCODING) || fields.get(CONTENT_LENGTH).is_some_and(|length| length != "0") {
        return Err(Refusal::Framing);
    }
    let named = head.uri.authority().filter(|named| named.port().is_some()).ok_or(Refusal::HostMismatch)?;
    // Whoever leaves the port out means nothing: there is no default (RFC 9110, section 9.3.6).
    let parse = |text: &str| Authority::parse(text, 0).map_err(|_| Refusal::HostMismatch);
    let authority = parse(named.as_str())?;
    let mut hosts = fields.get_all(HOST).map(HeaderValue::to_str);
    match (hosts.next(), hosts.next()) {
        (None, None) if head.version != Version::HTTP_11 => Ok(authority),
        (Some(Ok(host)), None) => {
            let host = Authority::parse(host, authority.port).map_err(|_| Refusal::HostMismatch)?;
            if host == authority { Ok(authority) } else { Err(Refusal::HostMismatch) }
        }
        _ => Err(Refusal::HostMismatch),
    }
}

impl Inside {
    /// Ends the client's TLS.
    ///
    /// # Errors
    /// When the handshake fails, or is for another host.
    pub async fn accept(self, io: Box<dyn Socket>, early: Bytes) -> io::Result<(Ended, Opened, Option<places::Place>)> {
        Ok((Ended::accept(self.config, io, early).await?, self.opened, self.place))
    }
}

/// A client's connection whose TLS ends here.
pub struct Ended(Box<TlsStream<Early>>);

impl Ended {
    /// Shakes hands with a client.
    ///
    /// # Errors
    /// When it fails.
    pub async fn accept(config: Arc<ServerConfig>, io: Box<dyn Socket>, early: Bytes) -> io::Result<Self> {
        let tls = TlsAcceptor::from(config).accept(Early { io, early }).await?;
        Ok(Self(Box::new(tls)))
    }

    /// What the client has proved itself with: its certificate first.
    pub fn shown(&self) -> &[CertificateDer<'static>] {
        self.0.get_ref().1.peer_certificates().unwrap_or_default()
    }
}

/// A socket of which something has been read ahead.
pub struct Early {
    io: Box<dyn Socket>,
    early: Bytes,
}

impl AsyncRead for Early {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.io).poll_read(context, buffer);
        }
        let length = self.early.len().min(buffer.remaining());
        buffer.put_slice(&self.early[..length]);
        self.early.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Early {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

impl AsyncRead for Ended {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Ended {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

impl Socket for Ended {
    fn break_off(&self) {
        self.0.get_ref().0.io.break_off();
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn asked(target: &str, hosts: &[&str]) -> Result<String, &'static str> {
        let lines: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
        judged(target, &lines, Version::HTTP_11)
    }

    fn asked_with(lines: &[(&str, &str)], version: Version) -> Result<String, &'static str> {
        judged("api.example.com:443", lines, version)
    }

    fn judged(target: &str, lines: &[(&str, &str)], version: Version) -> Result<String, &'static str> {
        let head = Head { method: Method::CONNECT, uri: target.parse().expect("a target"), version };
        asked_for(&head, &Fields::of(lines)).map(|found| found.to_string()).map_err(|refusal| refusal.reason())
    }

    #[test]
    fn what_follows_a_head_is_the_tunnels() {
        let asked = |line| asked_with(&[("host", "api.example.com:443"), line], Version::HTTP_11);
        assert_eq!(asked(("content-length", "5")), Err("framing"));
        assert_eq!(asked(("transfer-encoding", "chunked")), Err("framing"));
        assert!(asked(("content-length", "0")).is_ok());
    }

    #[test]
    fn only_http_1_1_does_not_do_without_host() {
        assert!(asked_with(&[], Version::HTTP_10).is_ok());
        assert!(asked_with(&[], Version::HTTP_2).is_ok());
        assert_eq!(asked_with(&[], Version::HTTP_11), Err("host_mismatch"));
    }

    #[test]
    fn a_tunnel_is_asked_for_by_host_and_port_and_by_one_alone() {
        let table: &[(&str, &[&str], Result<&str, &str>)] = &[
            ("api.example.com:443", &["api.example.com:443"], Ok("api.example.com:443")),
            ("API.example.com:443", &["api.example.com"], Ok("api.example.com:443")),
            ("api.example.com:8443", &["api.example.com:8443"], Ok("api.example.com:8443")),
            ("api.example.com", &["api.example.com"], Err("host_mismatch")),
            ("api.example.com:443", &["other.example.com:443"], Err("host_mismatch")),
            ("api.example.com:443", &["api.example.com:8443"], Err("host_mismatch")),
            ("api.example.com:443", &["api.example.com", "api.example.com"], Err("host_mismatch")),
            ("/api.example.com:443", &["api.example.com"], Err("host_mismatch")),
        ];
        for (target, hosts, expected) in table {
            assert_eq!(asked(target, hosts).as_deref().map_err(|reason| *reason), *expected, "{target} {hosts:?}");
        }
    }
}
