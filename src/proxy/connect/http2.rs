//! CONNECT in HTTP/2: a tunnel is one stream of a connection (RFC 9113, section 8.5), and so is a WebSocket (RFC 8441).
//!
//! ```text
//!  CONNECT                        ─▶ as in HTTP/1.1 ──────────────────┐
//!  CONNECT, `:protocol` websocket ─▶ the GET of HTTP/1.1 that asks so ─┴▶ 200 ─▶ the stream turns into what comes of it
//! ```
//!
//! What is looked into in a stream takes the place of a connection of its own, before it is answered.
//!
//! Invariant: a stream is answered 200 only where there is something that it turns into; it is judged as what it would be in
//! HTTP/1.1.

use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use super::Onward;
use crate::proxy::Caller;
use crate::proxy::body::ClientBody;
use crate::proxy::executor::run as run_local;
use crate::proxy::head::Head;
use crate::proxy::message::Fields;
use crate::proxy::stream::Socket;
use crate::proxy::watch::{Busy, Watched};
use crate::proxy::websocket::Handshake;
use crate::proxy::worker::Desk;

impl Desk {
    /// Answers a request for a stream, and lets it go on as what it asks for.
    pub(in crate::proxy) async fn connect_http2(
        self: Rc<Self>,
        mut request: Request<Incoming>,
        caller: Rc<Caller>,
        busy: Busy,
    ) -> http::Response<Watched> {
        let upgrading = hyper::upgrade::on(&mut request);
        let (parts, _) = request.into_parts();
        let mut fields = Fields::from(parts.headers);
        let method = match parts.extensions.get::<Protocol>() {
            None => Method::CONNECT,
            Some(protocol) => {
                Handshake::translate(protocol.as_str(), &mut fields);
                Method::GET
            }
        };
        let head = Head { method, uri: parts.uri, version: parts.version };
        let (mut response, onward) = self.proxy.handle(&caller, head, fields, ClientBody::Nothing).await;
        if let Some(onward) = onward {
            if response.status == StatusCode::SWITCHING_PROTOCOLS {
                response.status = StatusCode::OK;
                Handshake::translate_grant(&mut response.fields);
            }
            run_local(self.carry(onward, upgrading, caller, busy.another()));
        }
        http::Response::from(response.map(|body| Watched::new(body, busy)))
    }

    /// `_busy`: its connection does not rest meanwhile.
    async fn carry(self: Rc<Self>, onward: Onward, upgrading: OnUpgrade, caller: Rc<Caller>, _busy: Busy) {
        let stream = match upgrading.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => return tracing::debug!(%error, "a stream has gone before it turned into a tunnel"),
        };
        match onward {
            Onward::Tunnel(tunnel) => tunnel.run(&self.proxy.rounds, stream, Bytes::new()).await,
            Onward::Inside(inside) => {
                let watch = self.seat(&caller);
                let looked: Pin<Box<dyn Future<Output = ()>>> =
                    Box::pin(self.look_into(inside, Box::new(stream), Bytes::new(), &caller, watch));
                looked.await;
            }
        }
    }
}

/// A stream that carries bytes: when it is dropped before its end, it is reset.
impl Socket for TokioIo<Upgraded> {
    fn break_off(&self) {}
}
