//! What takes too long or is too much ends, and what merely takes its time does not.

use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::support::certificate::Certificate;
use crate::support::upstream::{Reply, as_the_path_says};
use crate::support::{Gate, Issuer, RawUpstream, SOON, Scene, Setup, Upstream, soon, wait_until};

const REQUEST: &str = "GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n";

async fn limited(limits: &str) -> (Issuer, Upstream, Scene) {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).limits(limits).start().await;
    (issuer, upstream, scene)
}

async fn refused(scene: &Scene, reason: &str) -> f64 {
    scene.metric("countersign_refused_total", &[("reason", reason)]).await
}

#[tokio::test]
async fn connections_beyond_the_limit_are_turned_away_with_an_answer() {
    let (_issuer, upstream, scene) = limited("connections = 2").await;
    let gate = Gate::closed();
    let held = gate.clone();
    upstream.answers(move |seen| as_the_path_says(seen).behind(&held));
    let (mut one, mut two) = (scene.client().await, scene.client().await);
    one.send(REQUEST).await;
    two.send(REQUEST).await;
    wait_until("both are under way", SOON, async || upstream.count() == 2).await;
    let mut three = scene.client().await;
    let answer = three.answer().await.expect("an answer to no request");
    assert_eq!((answer.refusal(), answer.header("retry-after")), ((503, "overloaded".to_owned()), Some("1")));
    assert!(three.is_closed().await);
    assert_eq!(refused(&scene, "overloaded").await, 1.0);
    gate.open();
    assert_eq!(one.answer().await.expect("an answer").status, 200, "those within are served");
    assert_eq!(two.answer().await.expect("an answer").status, 200);
    assert_eq!(upstream.count(), 2);
    scene.finish().await;
}

#[tokio::test]
async fn one_user_leaves_room_for_the_others() {
    let (_issuer, upstream, scene) = limited("connections = 10\nconnections_per_client = 1").await;
    let gate = Gate::closed();
    let held = gate.clone();
    upstream.answers(move |seen| as_the_path_says(seen).behind(&held));
    let mut one = scene.client().await;
    one.send(REQUEST).await;
    wait_until("it is under way", SOON, async || upstream.count() == 1).await;
    let answer = scene.client().await.answer().await.expect("an answer to no request");
    assert_eq!(answer.refusal(), (503, "overloaded".to_owned()));
    gate.open();
    assert_eq!(one.answer().await.expect("an answer").status, 200);
    scene.finish().await;
}

#[tokio::test]
async fn who_has_rested_longest_makes_room() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).workers(1).limits("connections = 2").start().await;
    let (mut one, mut two) = (scene.client().await, scene.client().await);
    two.send("GET /api/x HTTP/1.1\r\nHo").await;
    scene.reaches("countersign_connections", &[], 2.0).await;
    assert_eq!(scene.get("/api/x").await.status, 200, "a third comes in");
    assert!(one.is_closed().await, "the first had not said a word");
    let (mut three, mut four) = (scene.client().await, scene.client().await);
    assert_eq!(three.get("/api/x").await.status, 200);
    assert_eq!(four.get("/api/x").await.status, 200);
    assert!(two.is_closed().await, "nor does half a head keep a place");
    scene.reaches("countersign_connections_closed_total", &[("why", "evicted")], 2.0).await;
    assert_eq!(refused(&scene, "overloaded").await, 0.0);
    scene.finish().await;
}

#[tokio::test]
async fn who_is_being_refused_hears_it_before_another_gets_its_room() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).workers(1).limits("connections = 2").start().await;
    let mut resting = scene.client().await;
    assert_eq!(resting.get("/api/x").await.status, 200);
    let mut wrong = scene.client().await;
    wrong.send("GET /api/x HTTP/1.1\nHost: localhost\n\n").await;
    assert_eq!(wrong.answer().await.expect("an answer").status, 400);
    assert_eq!(scene.get("/api/x").await.status, 200, "a third comes in");
    assert!(resting.is_closed().await, "in the place of who has nothing to hear");
    scene.finish().await;
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_is_given_up() {
    let (_issuer, upstream, scene) = limited("header_timeout = \"500ms\"").await;
    let (mut silent, mut slow) = (scene.client().await, scene.client().await);
    silent.send("GET /api/x HTTP/1.1\r\nHo").await;
    let began = Instant::now();
    let mut pace = interval(Duration::from_millis(50));
    // A byte now and then does not help.
    let dribble = async {
        loop {
            slow.send("G").await;
            pace.tick().await;
        }
    };
    let late = (408, "request_timeout".to_owned());
    tokio::select! {
        never = dribble => never,
        answer = silent.answer() => assert_eq!(answer.expect("an answer").refusal(), late),
    }
    assert!((Duration::from_millis(500)..Duration::from_secs(5)).contains(&began.elapsed()));
    assert!(silent.is_closed().await);
    assert_eq!(slow.answer().await.expect("an answer").refusal(), late);
    assert!(slow.is_closed().await);
    scene.reaches("countersign_refused_total", &[("reason", "request_timeout")], 2.0).await;
    assert_eq!(upstream.connections(), 0);
    scene.finish().await;
}

#[tokio::test]
async fn connections_that_rest_are_closed_and_those_that_wait_for_an_answer_are_not() {
    let (_issuer, upstream, scene) = limited("idle_timeout = \"500ms\"\nheader_timeout = \"500ms\"").await;
    let gate = Gate::closed();
    let held = gate.clone();
    upstream.answers(move |seen| {
        let reply = as_the_path_says(seen);
        if seen.target == "/held" { reply.behind(&held) } else { reply }
    });
    let (mut fresh, mut used, mut busy) = (scene.client().await, scene.client().await, scene.client().await);
    busy.send("GET /api/held HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(used.get("/api/x").await.status, 200);
    assert!(fresh.is_closed().await);
    assert!(used.is_closed().await);
    gate.open();
    assert_eq!(busy.answer().await.expect("an answer").status, 200);
    assert_eq!(refused(&scene, "request_timeout").await, 0.0, "resting is no fault");
    scene.finish().await;
}

#[tokio::test]
async fn an_upload_of_known_length_that_rests_is_refused_and_a_stream_is_not() {
    let (_issuer, upstream, scene) = limited("body_timeout = \"400ms\"").await;
    let mut client = scene.client().await;
    client.send("POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf").await;
    let answer = client.answer().await.expect("an answer");
    assert_eq!(answer.refusal(), (408, "request_timeout".to_owned()));
    assert!(client.is_closed().await);
    wait_until("the upstream sees it break", SOON, async || upstream.last().body.failed).await;
    assert_eq!(refused(&scene, "request_timeout").await, 1.0);

    let mut client = scene.client().await;
    client.send("POST /api/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    let began = Instant::now();
    wait_until("a while has passed", SOON, async || began.elapsed() > Duration::from_secs(1)).await;
    client.send("0\r\n\r\n").await;
    assert_eq!(client.answer().await.expect("an answer").status, 200);
    scene.finish().await;
}

#[tokio::test]
async fn an_upload_of_known_length_that_drips_is_refused_and_a_stream_is_not() {
    let (_issuer, _upstream, scene) = limited("body_timeout = \"500ms\"").await;
    let (mut known, mut stream) = (scene.client().await, scene.client().await);
    known.send("POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000\r\n\r\n").await;
    stream.send("POST /api/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut pace = interval(Duration::from_millis(50));
    let dribble = async {
        loop {
            known.send("x").await;
            stream.send("1\r\nx\r\n").await;
            pace.tick().await;
            if refused(&scene, "request_timeout").await > 0.0 {
                return;
            }
        }
    };
    soon("the one of known length is refused", dribble).await;
    assert_eq!(known.answer().await.expect("an answer").refusal(), (408, "request_timeout".to_owned()));
    stream.send("0\r\n\r\n").await;
    assert_eq!(stream.answer().await.expect("an answer").status, 200);
    scene.finish().await;
}

#[tokio::test]
async fn an_upstream_that_says_nothing_is_given_up_and_one_that_is_being_sent_to_is_not() {
    let (issuer, upstream, gate) = (Issuer::start().await, Upstream::http1().await, Gate::closed());
    let held = gate.clone();
    upstream.answers(move |seen| if seen.method == "GET" { Reply::ok("late").behind(&held) } else { Reply::ok("ok") });
    let route = "token = \"api\"\ntimeouts = { response = \"500ms\" }";
    let scene = Setup::new().token("api", &issuer, "").route("api", &upstream, route).start().await;
    let began = Instant::now();
    assert_eq!(scene.exchange(REQUEST).await.refusal(), (504, "upstream_timeout".to_owned()));
    assert!((Duration::from_millis(500)..Duration::from_secs(5)).contains(&began.elapsed()));

    let mut client = scene.client().await;
    client.send("POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 12\r\n\r\n").await;
    let mut pace = interval(Duration::from_millis(150));
    for _ in 0..12 {
        pace.tick().await;
        client.send("x").await;
    }
    assert_eq!(client.answer().await.expect("an answer").status, 200);
    assert_eq!(upstream.last().connection, 2, "the connection of the silence is not used again");
    scene.finish().await;
}

#[tokio::test]
async fn an_answer_that_is_not_taken_is_cut_off_and_never_looks_whole() {
    let (issuer, upstream) = (Issuer::start().await, RawUpstream::start().await);
    let setup = Setup::new().token("api", &issuer, "").route("api", &upstream, "token = \"api\"");
    let scene = setup.limits("body_timeout = \"500ms\"").start().await;
    // An old client knows the end by that of the connection.
    let mut client = scene.client().await;
    client.send("GET /api/x HTTP/1.0\r\nHost: localhost\r\n\r\n").await;
    let mut connection = upstream.accept().await;
    connection.head().await;
    connection.write("HTTP/1.1 200 OK\r\n\r\n").await;
    connection.flood("aaaaaaaaaaaaaaaa").await;
    scene.reaches("countersign_connections_closed_total", &[("why", "stalled")], 1.0).await;
    let (_, end) = client.rest().await;
    assert!(end.is_err(), "it ended in order");
    scene.finish().await;
}

#[tokio::test]
async fn an_answer_that_rests_half_way_is_cut_off() {
    let (issuer, upstream) = (Issuer::start().await, RawUpstream::start().await);
    let route = "token = \"api\"\ntimeouts = { idle = \"500ms\" }";
    let scene = Setup::new().token("api", &issuer, "").route("api", &upstream, route).start().await;
    let mut client = scene.client().await;
    client.send(REQUEST).await;
    let mut connection = upstream.accept().await;
    connection.head().await;
    connection.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
    assert_eq!(client.head().await.expect("the head").status, 200);
    let (rest, _) = client.rest().await;
    assert_eq!(rest, b"half");
    scene.reaches("countersign_requests_total", &[("status_class", "aborted")], 1.0).await;
    scene.finish().await;
}

#[tokio::test]
async fn an_upstream_that_is_not_whom_it_should_be_gets_nothing() {
    let issuer = Issuer::start().await;
    let named = Upstream::with("127.0.0.1", Certificate::new(&["wrong.test", "127.0.0.9"], &["http/1.1"])).await;
    let (unknown, stranger) = (Upstream::http1().await, Certificate::new(&["127.0.0.1"], &[]));
    let foreign = format!("token = \"api\"\ntls = {{ ca = \"file:{}\" }}", stranger.ca().display());
    let setup = Setup::new().token("api", &issuer, "").route("named", &named, r#"token = "api""#);
    let scene = setup.route("unknown", &unknown, &foreign).start().await;
    for (path, upstream) in [("/named/x", &named), ("/unknown/x", &unknown)] {
        let answer = scene.get(path).await;
        assert_eq!(answer.refusal(), (502, "upstream_tls".to_owned()), "{path}");
        let said = "countersign; error=tls_certificate_error; details=upstream_tls";
        assert_eq!(answer.header("proxy-status"), Some(said));
        assert_eq!(upstream.count(), 0);
        assert!(upstream.connections() > 0);
    }
    assert_eq!(scene.metric("countersign_token_uses_total", &[]).await, 0.0, "the token was attached to nothing");
    scene.finish().await;
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_named_for_what_it_is() {
    let issuer = Issuer::start().await;
    // Nobody accepts on the one, and nobody shakes hands on the other.
    let (gone, mute) = (Upstream::http1().await, RawUpstream::start().await);
    let setup = Setup::new().token("api", &issuer, "").route("gone", &gone, r#"token = "api""#);
    let setup = setup.route("mute", &mute, "token = \"api\"\ntimeouts = { connect = \"500ms\" }");
    let scene = setup.start().await;
    gone.stop().await;
    assert_eq!(scene.get("/gone/x").await.refusal(), (502, "upstream_connect".to_owned()));
    let late = scene.get("/mute/x").await;
    assert_eq!(late.refusal(), (504, "upstream_timeout".to_owned()));
    assert_eq!(late.header("proxy-status"), Some("countersign; error=connection_timeout; details=upstream_timeout"));
    scene.finish().await;
}

#[tokio::test]
async fn addresses_that_are_not_allowed_are_not_dialled() {
    let upstream = Upstream::http1().await;
    let closed = Setup::new().destinations("[]").route("api", &upstream, "");
    let scene = closed.start().await;
    assert_eq!(scene.exchange(REQUEST).await.refusal(), (403, "destination_prohibited".to_owned()));
    assert_eq!(upstream.connections(), 0);

    // Ourselves are never allowed, whatever the config says; nor is whoever hands out a machine's credentials.
    let ourselves = format!("upstream = \"https://{}\"", scene.proxy);
    let metadata = r#"upstream = "https://169.254.169.254""#;
    let open = Setup::new().destinations(r#"["127.0.0.0/8", "169.254.0.0/16"]"#).route("own", &upstream, &ourselves);
    scene
        .reload(&open.route("metadata", &upstream, metadata).route("api", &upstream, ""))
        .await
        .expect("a good config");
    for path in ["/own/x", "/metadata/x"] {
        assert_eq!(scene.get(path).await.refusal(), (403, "destination_prohibited".to_owned()), "{path}");
    }
    assert_eq!(scene.exchange(REQUEST).await.status, 200);
    scene.finish().await;
}
