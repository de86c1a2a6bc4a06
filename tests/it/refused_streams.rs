//! Upstreams of HTTP/2 that say of a request that they did not process it: it is sent again, once, whatever its method.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::support::certificate::Certificate;
use crate::support::setup::Place;
use crate::support::{Issuer, Scene, Setup};

/// Resets the first streams that it gets, and answers the others with what they brought.
struct Refusing {
    address: SocketAddr,
    certificate: Certificate,
    streams: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Place for Refusing {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn certificate(&self) -> &Certificate {
        &self.certificate
    }
}

impl Refusing {
    async fn start(refused: usize, reason: Reason) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
        let certificate = Certificate::new(&["127.0.0.1"], &["h2"]);
        let (acceptor, streams) = (TlsAcceptor::from(certificate.server.clone()), Arc::<AtomicUsize>::default());
        let address = listener.local_addr().expect("an address");
        let (mut serving, seen) = (JoinSet::new(), streams.clone());
        serving.spawn(async move {
            let mut answering = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.expect("accepts");
                let Ok(tls) = acceptor.accept(tcp).await else { continue };
                let mut connection = h2::server::handshake(tls).await.expect("a handshake");
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    if seen.fetch_add(1, Ordering::SeqCst) < refused {
                        respond.send_reset(reason);
                    } else {
                        answering.spawn(answer(request, respond));
                    }
                }
            }
        });
        Self { address, certificate, streams, _serving: serving }
    }

    fn streams(&self) -> usize {
        self.streams.load(Ordering::SeqCst)
    }
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut body = request.into_body();
    let mut text = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        text.extend_from_slice(&data);
    }
    let mut sending = respond.send_response(Response::new(()), false).expect("a head");
    sending.send_data(text.into(), true).expect("a body");
}

async fn before(refused: usize, reason: Reason) -> (Issuer, Refusing, Scene) {
    let (issuer, upstream) = (Issuer::start().await, Refusing::start(refused, reason).await);
    let scene = Setup::api(&issuer, &upstream).workers(1).start().await;
    scene.ready().await;
    (issuer, upstream, scene)
}

fn request(method: &str, body: &str) -> String {
    format!("{method} /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn what_was_refused_is_sent_again_once() {
    for (method, body) in [("GET", ""), ("POST", "pay")] {
        let (_issuer, upstream, scene) = before(1, Reason::REFUSED_STREAM).await;
        let answer = scene.exchange(request(method, body)).await;
        assert_eq!((answer.status, answer.text()), (200, body), "{method}");
        assert_eq!(upstream.streams(), 2);
        assert_eq!(scene.metric("countersign_requests_repeated_total", &[("cause", "lost")]).await, 1.0);
        scene.finish().await;

        let (_issuer, upstream, scene) = before(2, Reason::REFUSED_STREAM).await;
        let answer = scene.exchange(request(method, body)).await;
        assert_eq!(answer.refusal(), (502, "upstream_protocol".to_owned()), "{method}");
        assert_eq!(upstream.streams(), 2, "and not a third time");
        scene.finish().await;
    }
}

#[tokio::test]
async fn what_may_have_been_processed_is_not_sent_again() {
    for (method, body) in [("GET", ""), ("POST", "pay")] {
        let (_issuer, upstream, scene) = before(1, Reason::INTERNAL_ERROR).await;
        let answer = scene.exchange(request(method, body)).await;
        assert_eq!(answer.refusal(), (502, "upstream_protocol".to_owned()), "{method}");
        assert_eq!(upstream.streams(), 1);
        scene.finish().await;
    }
}
