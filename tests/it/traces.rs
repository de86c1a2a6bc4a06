//! What a request carries of its way: the trace that it belongs to, and who it has passed through.

use crate::support::{Issuer, Setup, Upstream};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn a_trace_goes_on_and_baggage_stays() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    let fields = format!("traceparent: {PARENT}\r\ntracestate: vendor=1\r\nbaggage: user=7\r\n");
    let answer = scene.exchange(format!("GET /api/x HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")).await;
    assert_eq!(answer.status, 200);
    let seen = upstream.last();
    let parents = seen.all("traceparent");
    assert_eq!(parents.len(), 1);
    assert_eq!((&parents[0][..36], &parents[0][52..]), (&PARENT[..36], "-01"));
    assert_ne!(parents[0][36..52], PARENT[36..52], "our own span");
    assert_eq!((seen.header("tracestate"), seen.header("baggage")), (Some("vendor=1"), None));

    assert_eq!(scene.get("/api/y").await.status, 200);
    let seen = upstream.last();
    assert_eq!(seen.header("traceparent").map(str::len), Some(55), "a trace begins where there is none");
    assert_eq!(seen.header("tracestate"), None);
    scene.finish().await;
}

#[tokio::test]
async fn a_request_that_comes_back_is_a_loop() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    let answer = scene.exchange("GET /api/x HTTP/1.1\r\nHost: localhost\r\nVia: 1.0 squid\r\n\r\n").await;
    let via = upstream.last().all("via").into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!((via.len(), via[0].as_str()), (2, "1.0 squid"));
    assert!(via[1].starts_with("1.1 countersign-"), "{via:?}");
    assert_eq!((answer.status, answer.header("via")), (200, None));

    let again = format!("GET /api/x HTTP/1.1\r\nHost: localhost\r\nVia: {}, {}\r\n\r\n", via[0], via[1]);
    assert_eq!(scene.exchange(again).await.refusal(), (508, "loop".to_owned()));
    assert_eq!(upstream.count(), 1);
    scene.finish().await;
}
