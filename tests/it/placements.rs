//! Where tokens go that go into no plain header: exactly one credential is there, ours.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::issuer::Reply;
use crate::support::upstream::Seen;
use crate::support::{Issuer, RawUpstream, Scene, Setup, Upstream, log, trail};

/// Looks like nothing else, and has to be encoded in a query.
const TOKEN: &str = "plc1/Zr8+tQ4=mXw";
const ENCODED: &str = "plc1%2FZr8%2BtQ4%3DmXw";

async fn issuer(token: &'static str) -> Issuer {
    Issuer::answering(move |_| Reply::token(token, 3600)).await
}

async fn scene(issuer: &Issuer, upstream: &Upstream, placement: &str) -> Scene {
    let setup = Setup::new().token("api", issuer, &format!("placement = {placement}"));
    setup.route("api", upstream, r#"token = "api""#).start().await
}

/// What the upstream sees of a request with this query and these fields.
async fn sent(scene: &Scene, upstream: &Upstream, query: &str, fields: &str) -> Seen {
    let request = format!("GET /api/x{query} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    assert_eq!(scene.exchange(request).await.status, 200, "{query} {fields}");
    upstream.last()
}

async fn shadows(scene: &Scene) -> f64 {
    scene.metric("countersign_shadow_credentials_total", &[("route", "api")]).await
}

async fn label(scene: &Scene) -> String {
    let scrape = scene.scrape().await;
    let places = ["bearer", "header", "basic", "query", "cookie"];
    let labelled = |place: &&&str| scrape.value("countersign_token_info", &[("placement", place)]) == 1.0;
    places.iter().filter(labelled).copied().collect()
}

#[tokio::test]
async fn a_token_is_the_password_of_a_user() {
    let expected = format!("Basic {}", STANDARD.encode(format!("x-token:{TOKEN}")));
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let issuer = issuer(TOKEN).await;
        let scene = scene(&issuer, &upstream, r#"{ basic = "x-token" }"#).await;
        let own =
            ["", "Authorization: Basic bWluZTptaW5l\r\n", "Connection: authorization\r\nauthorization_: mine\r\n"];
        for fields in own {
            let seen = sent(&scene, &upstream, "", fields).await;
            assert_eq!(seen.all("authorization"), [expected.as_str()], "{fields}");
            assert!(seen.headers.iter().all(|(_, value)| !value.contains("mine")), "{:?}", seen.headers);
        }
        assert_eq!((shadows(&scene).await, label(&scene).await.as_str()), (2.0, "basic"));
        scene.finish().await;
    }
}

#[tokio::test]
async fn of_all_parameters_of_its_name_only_the_tokens_is_in_the_query() {
    let tricks = [
        ("", ""),
        ("?", ""),
        ("?a=1", "a=1&"),
        ("?a=%41+b&&=c&d", "a=%41+b&&=c&d&"),
        ("?key=mine", ""),
        ("?KEY=mine&a=1&key=mine", "a=1&"),
        ("?%6bey=mine", ""),
        ("?%256bey=mine&a=1", "a=1&"),
        ("?a=1;key=mine", "a=1&"),
        ("?a=1;key=mine&b=2;c=3", "a=1&b=2;c=3&"),
        ("?+key=mine", ""),
        ("?key+=mine", ""),
        ("?key[]=mine&key%5B0%5D=mine", ""),
        ("?key%00=mine", ""),
        ("?key", ""),
        ("?=mine&key==mine", "=mine&"),
        ("?keys=1&monkey=2", "keys=1&monkey=2&"),
        ("?access_token=mine&a=1", "a=1&"),
    ];
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let issuer = issuer(TOKEN).await;
        let scene = scene(&issuer, &upstream, r#"{ query = "key" }"#).await;
        for (query, others) in tricks {
            let seen = sent(&scene, &upstream, query, "").await;
            assert_eq!(seen.target, format!("/x?{others}key={ENCODED}"), "{query}");
        }
        // Headers are no way round it.
        let own = "Authorization: Bearer mine\r\nX-Api-Key: mine\r\n";
        let seen = sent(&scene, &upstream, "", own).await;
        assert_eq!((seen.all("authorization"), seen.all("x-api-key")), (vec![], vec![]));
        assert_eq!((shadows(&scene).await, label(&scene).await.as_str()), (14.0, "query"));
        scene.finish().await;
    }
}

#[tokio::test]
async fn a_token_in_a_query_is_written_down_nowhere() {
    let (issuer, upstream) = (issuer(TOKEN).await, Upstream::http1().await);
    let scene = scene(&issuer, &upstream, r#"{ query = "key" }"#).await;
    for query in ["", "?a=1", "?key=mine"] {
        sent(&scene, &upstream, query, "").await;
    }
    upstream.answers(|_| crate::support::upstream::Reply::new(500));
    assert_eq!(scene.get("/api/x?b=2").await.status, 500);
    let metrics = scene.ask("/metrics").await.text().to_owned();
    let records = format!("{:?}", scene.finish().await);
    for (place, text) in [("log", log::text()), ("metrics", metrics), ("trail", records)] {
        assert!(!text.contains(TOKEN) && !text.contains(ENCODED), "the token is in the {place}");
    }
}

#[tokio::test]
async fn of_all_cookies_of_its_name_only_the_tokens_is_sent_and_the_others_are_kept() {
    let tricks = [
        ("", ""),
        ("Cookie: a=1; b=2\r\n", "; a=1; b=2"),
        ("Cookie: a=1\r\nCookie: b=\"x y\"\r\n", "; a=1; b=\"x y\""),
        ("Cookie: session=mine\r\n", ""),
        ("Cookie: a=1; SESSION=mine;session=mine ; b=2\r\n", "; a=1; b=2"),
        ("Cookie: a=1\r\nCookie: Session=mine\r\n", "; a=1"),
        ("Cookie: \"session\"=mine; sess%69on=mine; session\r\n", ""),
        ("Cookie: $Version=1; session=\"mine\"; $Path=/; a=1\r\n", "; a=1"),
        ("Cookie: a=x,session=mine; b=2\r\n", "; b=2"),
        ("Cookie: a=\"open; b=2\r\n", "; a=\"open; b=2"),
        ("Cookie_: session=mine\r\n", ""),
        ("Connection: cookie\r\nCookie: session=mine\r\n", ""),
        ("Cookie: sessions=1; my-session=2\r\n", "; sessions=1; my-session=2"),
    ];
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        let issuer = issuer(TOKEN).await;
        let scene = scene(&issuer, &upstream, r#"{ cookie = "session" }"#).await;
        for (fields, others) in tricks {
            let seen = sent(&scene, &upstream, "", fields).await;
            assert_eq!(seen.all("cookie"), [format!("session={TOKEN}{others}")], "{fields}");
            assert!(seen.headers.iter().all(|(_, value)| !value.contains("mine")), "{:?}", seen.headers);
        }
        assert_eq!((shadows(&scene).await, label(&scene).await.as_str()), (7.0, "cookie"));
        scene.finish().await;
    }
}

#[tokio::test]
async fn a_cookie_passes_where_no_token_goes_into_it() {
    let (issuer, upstream) = (issuer(TOKEN).await, Upstream::http1().await);
    let scene = scene(&issuer, &upstream, r#""bearer""#).await;
    let seen = sent(&scene, &upstream, "", "Cookie: a=1;session=mine\r\nCookie: $Version=1\r\n").await;
    assert_eq!(seen.all("cookie"), ["a=1;session=mine; $Version=1"]);
    assert_eq!((shadows(&scene).await, label(&scene).await.as_str()), (0.0, "bearer"));
    scene.finish().await;
}

#[tokio::test]
async fn an_access_token_in_the_query_is_removed_where_a_token_goes_anywhere() {
    let (issuer, upstream, open) = (issuer(TOKEN).await, Upstream::http1().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).route("open", &open, "").start().await;
    for (query, left) in [
        ("?access_token=mine", "/x"),
        ("?a=1&Access%5Ftoken=mine&b=%2F", "/x?a=1&b=%2F"),
        ("?a=access_token", "/x?a=access_token"),
        ("?key=1;api_key=2", "/x?key=1;api_key=2"),
    ] {
        let seen = sent(&scene, &upstream, query, "").await;
        assert_eq!((seen.target.as_str(), seen.all("authorization").len()), (left, 1), "{query}");
    }
    assert_eq!(shadows(&scene).await, 2.0);
    assert_eq!(scene.get("/open/x?access_token=mine").await.status, 200);
    assert_eq!(open.last().target, "/x?access_token=mine", "without a token it is the app's own business");
    let labels = [("route", "open"), ("client", "local")];
    assert_eq!(scene.metric("countersign_shadow_credentials_total", &labels).await, 1.0);
    scene.finish().await;
}

#[tokio::test]
async fn a_token_that_cannot_be_a_cookie_is_refused_when_it_comes() {
    let (issuer, upstream) = (issuer("one-good").await, Upstream::http1().await);
    let scene = scene(&issuer, &upstream, r#"{ cookie = "session" }"#).await;
    scene.ready().await;
    for bad in ["two;three", "two,three", "two\\three", "two\"three"] {
        issuer.next(Reply::token(bad, 3600));
        let error = scene.rotate("api").await.expect_err("no cookie").to_string();
        assert!(error.contains("token_charset"), "{error}");
        assert_eq!(sent(&scene, &upstream, "", "").await.all("cookie"), ["session=one-good"]);
    }
    let records = scene.finish().await;
    let failures = trail::of(&records, "token_failed");
    assert!(failures.iter().all(|record| record["detail"].as_str().is_some_and(|text| text.contains("cookie"))));
    assert_eq!(failures.len(), 4);
}

#[tokio::test]
async fn a_request_that_is_sent_again_carries_one_token() {
    for (placement, expected) in [
        (r#"{ query = "key" }"#, "GET /x?a=1&key=tok-1 HTTP/1.1"),
        (r#"{ cookie = "session" }"#, "cookie: session=tok-1; a=1"),
    ] {
        let (issuer, upstream) = (Issuer::start().await, RawUpstream::start().await);
        let setup = Setup::new().token("api", &issuer, &format!("placement = {placement}"));
        let scene = setup.workers(1).route("api", &upstream, r#"token = "api""#).start().await;
        let mut client = scene.client().await;
        let request = "GET /api/x?a=1 HTTP/1.1\r\nHost: localhost\r\nCookie: a=1\r\n\r\n";
        client.send(request).await;
        let mut first = upstream.accept().await;
        first.head().await;
        first.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.answer().await.expect("an answer").status, 200);
        // The connection is closed in the face of the next request.
        drop(first);
        client.send(request).await;
        let mut second = upstream.accept().await;
        let head = second.head().await;
        assert!(head.contains(expected) && head.matches("tok-1").count() == 1, "{head}");
        second.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.answer().await.expect("an answer").status, 200);
        scene.finish().await;
    }
}
