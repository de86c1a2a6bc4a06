//! Exactly one credential reaches an upstream, ours; and what an answer may not say to the client.

use crate::support::upstream::Reply;
use crate::support::{Issuer, RawUpstream, Scene, Setup, Upstream};

/// The fields in which servers look for credentials.
const PLACES: &[&str] = &["authorization", "proxy-authorization", "x-api-key", "x_api_key", "api-key", "private-token"];

/// What apps send of their own, or try.
const OWN: &[&str] = &[
    "Authorization: Bearer mine\r\n",
    "AUTHORIZATION: Basic bWluZQ==\r\nAuthorization: Bearer mine\r\n",
    "X-Api-Key: mine\r\n",
    "x_api_key: mine\r\n",
    "X_Api-Key: mine\r\n",
    "Proxy-Authorization: Basic bWluZQ==\r\n",
    "Private-Token: mine\r\nApi-Key: mine\r\n",
    "Connection: close, authorization\r\nAuthorization: Bearer mine\r\n",
    "Connection: X-Api-Key, x_api_key\r\nX-Api-Key: mine\r\n",
];

async fn scene(upstream: &Upstream, placement: &str) -> (Issuer, Scene) {
    let issuer = Issuer::start().await;
    let setup = Setup::new().token("api", &issuer, &format!("placement = {placement}"));
    let scene = setup.route("api", upstream, r#"token = "api""#).start().await;
    (issuer, scene)
}

#[tokio::test]
async fn of_all_credentials_only_ours_reaches_the_upstream() {
    let placements = [
        (r#""bearer""#, "authorization", "Bearer tok-1"),
        (r#"{ header = "x-api-key", template = "Key {};" }"#, "x-api-key", "Key tok-1;"),
        (r#"{ header = "x-own-place" }"#, "x-own-place", "tok-1"),
    ];
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        for (placement, place, expected) in placements {
            let (_issuer, scene) = scene(&upstream, placement).await;
            for own in OWN.iter().chain(&["X-Own-Place: mine\r\nx_own_place: mine\r\n"]) {
                let request = format!("GET /api/x HTTP/1.1\r\nHost: localhost\r\n{own}\r\n");
                assert_eq!(scene.exchange(request).await.status, 200, "{own}");
                let seen = upstream.last();
                assert_eq!(seen.all(place), [expected], "{own}");
                let others: Vec<&str> = PLACES.iter().filter(|name| **name != place).copied().collect();
                assert!(others.iter().all(|name| seen.all(name).is_empty()), "{own}: {:?}", seen.headers);
                let mine = |value: &str| value.contains("mine") || value.contains("bWluZQ");
                let passes = seen.headers.iter().any(|(name, value)| mine(value) && !name.contains("own"));
                assert!(!passes, "{own}: {:?}", seen.headers);
            }
            let shadow = scene.metric("countersign_shadow_credentials_total", &[("route", "api")]).await;
            let own_place = if place == "x-own-place" { 1.0 } else { 0.0 };
            assert_eq!(shadow, OWN.len() as f64 + own_place, "{placement}");
            scene.finish().await;
        }
    }
}

#[tokio::test]
async fn a_connection_option_cannot_take_the_token_away() {
    let upstream = Upstream::http1().await;
    let (_issuer, scene) = scene(&upstream, r#""bearer""#).await;
    for options in ["authorization", "keep-alive, Authorization", "close\r\nConnection: host, authorization"] {
        let request = format!("GET /api/x HTTP/1.1\r\nHost: localhost\r\nConnection: {options}\r\nX-A: b\r\n\r\n");
        assert_eq!(scene.exchange(request).await.status, 200);
        let seen = upstream.last();
        assert_eq!(seen.all("authorization"), ["Bearer tok-1"]);
        assert_eq!(seen.all("host"), [upstream.address.to_string()]);
        assert_eq!((seen.header("connection"), seen.header("x-a")), (None, Some("b")));
    }
    assert_eq!(scene.metric("countersign_shadow_credentials_total", &[]).await, 0.0);
    scene.finish().await;
}

#[tokio::test]
async fn a_credential_in_a_trailer_goes_no_further() {
    let (issuer, upstream) = (Issuer::start().await, RawUpstream::start().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    let mut client = scene.client().await;
    client.send("POST /api/x HTTP/1.1\r\nHost: localhost\r\nTE: trailers\r\nTrailer: authorization\r\n").await;
    client.send("Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nAuthorization: Bearer mine\r\n\r\n").await;
    let mut connection = upstream.accept().await;
    let head = connection.head().await;
    assert_eq!(head.to_ascii_lowercase().matches("authorization").count(), 1, "{head}");
    assert!(head.contains("Bearer tok-1"), "{head}");
    assert_eq!(connection.bytes(12).await, b"2\r\nab\r\n0\r\n\r\n");
    connection.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.answer().await.expect("an answer").status, 200);
    drop(client);
    drop(scene);
    assert_eq!(connection.rest().await, b"", "nothing came after the body");
}

#[tokio::test]
async fn a_route_without_token_passes_the_apps_own_credential_but_not_the_proxys() {
    let upstream = Upstream::http1().await;
    let scene = Setup::new().route("open", &upstream, "").start().await;
    let own = "Authorization: Bearer mine\r\nX-Api-Key: mine\r\nProxy-Authorization: Basic bWluZQ==\r\n";
    let request = format!("GET /open/x HTTP/1.1\r\nHost: localhost\r\n{own}\r\n");
    assert_eq!(scene.exchange(request).await.status, 200);
    let seen = upstream.last();
    assert_eq!((seen.all("authorization"), seen.all("x-api-key")), (vec!["Bearer mine"], vec!["mine"]));
    assert_eq!(seen.header("proxy-authorization"), None);
    let labels = [("route", "open"), ("client", "local")];
    assert_eq!(scene.metric("countersign_shadow_credentials_total", &labels).await, 1.0);
    assert_eq!(scene.metric("countersign_token_uses_total", &[]).await, 0.0);
    scene.finish().await;
}

#[tokio::test]
async fn an_upstream_cannot_hand_the_token_back_in_the_header_it_came_in() {
    for (placement, place) in [(r#""bearer""#, "authorization"), (r#"{ header = "x-api-key" }"#, "x-api-key")] {
        let upstream = Upstream::http1().await;
        let (_issuer, scene) = scene(&upstream, placement).await;
        upstream.answers(move |seen| {
            let echo = seen.header(place).expect("a token");
            Reply::ok("ok").header(place, echo).header(place, echo).header("x-other", "stays")
        });
        let answer = scene.get("/api/x").await;
        assert_eq!((answer.header(place), answer.header("x-other")), (None, Some("stays")));
        assert!(!answer.head.contains("tok-1"), "{}", answer.head);
        scene.finish().await;
    }
}

#[tokio::test]
async fn links_of_answers_lead_through_the_proxy_again_the_way_that_the_app_used() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    let base = format!("https://{}", upstream.address);
    let answered = base.clone();
    upstream.answers(move |_| {
        let link = format!("<{answered}/a?page=2>; rel=\"next\", <https://other.test/>; rel=\"x\"");
        let moved = Reply::new(302).header("location", &format!("{answered}/moved?a=b#c")).header("link", &link);
        moved.header("content-location", "/here")
    });
    let (port, authority) = (scene.proxy.port(), upstream.address);
    let (label, plain) = (format!("http://api.localhost:{port}"), format!("http://{authority}"));
    let ways = [
        ("/api/x".to_owned(), "localhost".to_owned(), "http://localhost/api", "/api/here"),
        ("/x".to_owned(), format!("api.localhost:{port}"), label.as_str(), "/here"),
        // Followed as https, it would go round a client's HTTP_PROXY.
        (format!("{plain}/x"), authority.to_string(), plain.as_str(), "/here"),
        (format!("{base}/x"), authority.to_string(), base.as_str(), "/here"),
    ];
    for (target, host, expected, here) in ways {
        let answer = scene.exchange(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(answer.status, 302, "the redirect is not followed");
        assert_eq!(answer.header("location"), Some(format!("{expected}/moved?a=b#c").as_str()));
        let link = format!("<{expected}/a?page=2>; rel=\"next\", <https://other.test/>; rel=\"x\"");
        assert_eq!(answer.header("link"), Some(link.as_str()));
        assert_eq!(answer.header("content-location"), Some(here));
    }
    assert_eq!(upstream.count(), 4);
    scene.finish().await;
}

#[tokio::test]
async fn what_belongs_to_the_upstreams_connection_or_leads_round_us_is_taken_out_of_answers() {
    let (issuer, upstream) = (Issuer::start().await, RawUpstream::start().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    let mut client = scene.client().await;
    client.send("GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut connection = upstream.accept().await;
    connection.head().await;
    let fields = [
        "Connection: keep-alive, X-Hop",
        "X-Hop: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authenticate: Basic realm=\"x\"",
        "Alt-Svc: h3=\":443\"",
        "Upgrade: h2c",
        "TE: trailers",
        "Trailer: X-Late",
        "Date: Thu, 01 Jan 1970 00:00:00 GMT",
        "Set-Cookie: a=b",
        "Set-Cookie: c=d",
        "Content-Length: 2",
    ];
    connection.write(format!("HTTP/1.1 200 OK\r\n{}\r\n\r\nok", fields.join("\r\n"))).await;
    let answer = client.answer().await.expect("an answer");
    let mut names: Vec<&str> = answer.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "date"]);
    scene.finish().await;
}
