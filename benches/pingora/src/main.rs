//! The smallest proxy on pingora that does the work which is measured: an `Authorization` header on every request, over
//! connections that are kept alive, encrypted and verified. One thread.
//!
//!     pingora-peer LISTEN UPSTREAM AUTHORIZATION [--tls CA.pem] [--h2]

use std::env;

use async_trait::async_trait;
use pingora::apps::HttpServerOptions;
use pingora::http::RequestHeader;
use pingora::prelude::*;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::ALPN;

struct Peer {
    upstream: String,
    authorization: String,
    tls: bool,
    h2: bool,
}

#[async_trait]
impl ProxyHttp for Peer {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        let mut peer = HttpPeer::new(self.upstream.as_str(), self.tls, "localhost".to_owned());
        peer.options.alpn = if self.h2 { ALPN::H2 } else { ALPN::H1 };
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(&self, _: &mut Session, request: &mut RequestHeader, (): &mut ()) -> Result<()> {
        request.insert_header("Authorization", &self.authorization)?;
        request.insert_header("Host", "localhost")
    }
}

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    let [listen, upstream, authorization, options @ ..] = words.as_slice() else {
        panic!("LISTEN UPSTREAM AUTHORIZATION [--tls CA.pem] [--h2]");
    };
    let tls = options.iter().position(|option| option == "--tls");
    let h2 = options.iter().any(|option| option == "--h2");
    let conf = ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: 512,
        ca_file: tls.map(|place| options[place + 1].clone()),
        // A test's server is stopped at once.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let (upstream, authorization) = (upstream.clone(), authorization.clone());
    let peer = Peer { upstream, authorization, tls: tls.is_some(), h2 };
    let mut service = http_proxy_service(&server.configuration, peer);
    if let Some(app) = service.app_logic_mut() {
        let mut allowed = HttpServerOptions::default();
        allowed.h2c = h2;
        app.server_options = Some(allowed);
    }
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever();
}
