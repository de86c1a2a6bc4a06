//! Many requests at once, before there is a token.

use crate::support::crowd::raise_descriptors;
use crate::support::issuer::Reply;
use crate::support::{Crowd, Gate, Issuer, Setup, Upstream};

const REQUESTS: usize = 10_000;

#[tokio::test]
async fn ten_thousand_cold_requests_cause_one_call_to_the_issuer() {
    raise_descriptors();
    let (issuer, upstream, gate) = (Issuer::start().await, Upstream::http2().await, Gate::closed());
    issuer.next(Reply::token("tok-cold", 3600).behind(&gate));
    let empty = Setup::new().limits("connections = 11000").proxy("acquire_timeout = \"60s\"");
    let scene = empty.start().await;
    let mut crowd = Crowd::connected(scene.proxy, REQUESTS, "/api/x", None).await;
    scene.reaches("countersign_connections", &[], REQUESTS as f64).await;

    // On a busy machine some wait long for a stream of the connection.
    let route = "token = \"api\"\ntimeouts = { connect = \"60s\" }";
    let setup = empty.token("api", &issuer, "").route("api", &upstream, route);
    scene.reload(&setup).await.expect("a good config");
    crowd.go().await;
    assert_eq!(upstream.count(), 0, "nothing goes without its token");
    gate.open();
    assert_eq!(crowd.answered().await, format!("200={REQUESTS}"));
    assert_eq!((issuer.count(), upstream.count()), (1, REQUESTS));
    assert!(upstream.seen().iter().all(|seen| seen.all("authorization") == ["Bearer tok-cold"]));
    let uses = [("token", "api"), ("outcome", "ok")];
    scene.reaches("countersign_token_uses_total", &uses, REQUESTS as f64).await;
    scene.finish().await;
}
