//! Whose request it is decides whose token it gets.

use crate::support::{Client, Crowd, Issuer, Setup, Upstream};
use tokio::task::JoinSet;

#[tokio::test]
async fn tokens_never_cross_over_between_routes() {
    let (blue, green) = (Issuer::named("blue", 3600).await, Issuer::named("green", 3600).await);
    let (left, right) = (Upstream::http1().await, Upstream::http2().await);
    let setup = Setup::new().token("blue", &blue, "").token("green", &green, "");
    let setup = setup.route("left", &left, r#"token = "blue""#).route("right", &right, r#"token = "green""#);
    let scene = setup.start().await;
    let mut clients = JoinSet::new();
    for number in 0..8 {
        let mut client = scene.client().await;
        clients.spawn(async move {
            for request in 0..100 {
                let route = if (number + request) % 2 == 0 { "left" } else { "right" };
                assert_eq!(client.get(&format!("/{route}/{number}")).await.status, 200);
            }
        });
    }
    clients.join_all().await;
    assert_eq!((left.count(), right.count()), (400, 400));
    assert!(left.seen().iter().all(|seen| seen.all("authorization") == ["Bearer blue-1"]));
    assert!(right.seen().iter().all(|seen| seen.all("authorization") == ["Bearer green-1"]));
    for (token, route) in [("blue", "left"), ("green", "right")] {
        let labels = [("token", token), ("route", route), ("client", "local"), ("outcome", "ok")];
        scene.reaches("countersign_token_uses_total", &labels, 400.0).await;
        assert_eq!(scene.metric("countersign_token_uses_total", &[("token", token)]).await, 400.0);
    }
    scene.finish().await;
}

/// Needs root, for a process of another user.
#[tokio::test]
async fn two_users_of_one_upstream_get_a_token_each() {
    const OTHER: u32 = 4242;
    let own = rustix::process::geteuid();
    assert!(own.is_root(), "a process of another user can only be started by root: run the tests as root");
    let (blue, green) = (Issuer::named("blue", 3600).await, Issuer::named("green", 3600).await);
    let upstream = Upstream::http1().await;
    let setup = Setup::new().token("blue", &blue, "").token("green", &green, "");
    let setup = setup.client("me", &format!("uid = {}", own.as_raw())).client("other", &format!("uid = {OTHER}"));
    let setup = setup.route("mine", &upstream, "token = \"blue\"\nclients = [\"me\"]");
    let setup = setup.route("theirs", &upstream, "token = \"green\"\nclients = [\"other\"]");
    let scene = setup.start().await;
    let by_authority = format!("http://{}/x", upstream.address);
    let request = format!("GET {by_authority} HTTP/1.1\r\nHost: {}\r\n\r\n", upstream.address);
    for _ in 0..5 {
        assert_eq!(scene.exchange(&request).await.status, 200);
        assert_eq!(upstream.last().all("authorization"), ["Bearer blue-1"]);
        let mut crowd = Crowd::connected(scene.proxy, 1, "/theirs/x", Some(OTHER)).await;
        crowd.go().await;
        assert_eq!(crowd.answered().await, "200=1");
        assert_eq!(upstream.last().all("authorization"), ["Bearer green-1"]);
    }
    let connections = |token: &str| -> Vec<usize> {
        let with = |seen: &&crate::support::upstream::Seen| seen.all("authorization") == [token];
        upstream.seen().iter().filter(with).map(|seen| seen.connection).collect()
    };
    let (mine, theirs) = (connections("Bearer blue-1"), connections("Bearer green-1"));
    assert!(mine.iter().all(|number| !theirs.contains(number)), "connections are not shared between clients");
    let mut crowd = Crowd::connected(scene.proxy, 1, "/mine/x", Some(OTHER)).await;
    crowd.go().await;
    assert_eq!(crowd.answered().await, "403=1");
    scene.finish().await;
}

/// Needs root, for a connection of another user.
#[tokio::test]
async fn a_clients_own_rules_go_on_top_of_its_routes() {
    const OTHER: u32 = 4242;
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let route = "token = \"api\"\nallow = [\"GET /**\", \"POST /a/**\"]\ndeny = [\"GET /b/**\"]";
    let lists = "allow = [\"* /a/**\", \"GET /b/**\"]\ndeny = [\"GET /a/secret\"]";
    let setup = Setup::new().token("api", &issuer, "").route("api", &upstream, route);
    let setup = setup.route(
        "observing",
        &upstream,
        "token = \"api\"\nmode = \"observe\"\nallow = [\"GET /x\"]\nclients = [\"me\"]",
    );
    let setup = setup.without("route", "api").route("api", &upstream, &format!("{route}\nclients = [\"other\"]"));
    let own = rustix::process::geteuid().as_raw();
    let setup =
        setup.client("other", &format!("uid = {OTHER}\n{lists}")).client("me", &format!("uid = {own}\n{lists}"));
    let scene = setup.start().await;
    scene.ready().await;
    let mut other = Client::of_user(OTHER, scene.proxy).await;
    for (method, path, outcome) in [
        ("GET", "/a/x", "passes"),
        ("POST", "/a/x", "passes"),
        ("DELETE", "/a/x", "method_denied"),
        ("GET", "/a/secret", "path_denied"),
        ("GET", "/b/x", "path_denied"),
        ("GET", "/c", "path_denied"),
        ("GET", "/A/x", "path_denied"),
    ] {
        other.send(format!("{method} /api{path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        let answer = other.answer().await.expect("an answer");
        let reason = if answer.status == 200 { "passes".to_owned() } else { answer.refusal().1 };
        assert_eq!(reason, outcome, "{method} {path}");
    }
    other.send("GET /api/c HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let problem = other.answer().await.expect("an answer").problem();
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("[[client]]")), "{problem}");
    assert!(problem["request"].is_null(), "nothing that can be asked for would help: {problem}");
    // A route that observes is no way round them.
    assert_eq!(scene.get("/observing/a/x").await.status, 200);
    assert_eq!(scene.get("/observing/a/secret").await.refusal(), (403, "path_denied".to_owned()));
    assert_eq!(scene.get("/observing/c").await.refusal(), (403, "path_denied".to_owned()));
    assert_eq!(upstream.count(), 3);
    scene.finish().await;
}

#[tokio::test]
async fn a_clients_rate_is_over_all_routes_and_outlives_a_reload() {
    let (one, other) = (Upstream::http1().await, Upstream::http1().await);
    let own = rustix::process::geteuid().as_raw();
    let setup = |more: &str| {
        let setup = Setup::new().route("one", &one, more).route("other", &other, "");
        setup.client("me", &format!("uid = {own}\nrate = \"1/h burst 4\""))
    };
    let scene = setup("").start().await;
    for path in ["/one/x", "/other/x", "/one/x"] {
        assert_eq!(scene.get(path).await.status, 200, "{path}");
    }
    scene.reload(&setup("scrub = false")).await.expect("taken");
    assert_eq!(scene.get("/other/x").await.status, 200);
    for path in ["/one/x", "/other/x"] {
        let answer = scene.get(path).await;
        assert_eq!(answer.refusal(), (429, "rate_limited".to_owned()), "{path}");
        let wait: u64 = answer.header("retry-after").expect("a time").parse().expect("seconds");
        assert!((3500..=3600).contains(&wait), "{wait}");
        assert!(answer.text().contains("over all routes"), "{}", answer.text());
    }
    assert_eq!(one.count() + other.count(), 4);
    scene.finish().await;
}

#[tokio::test]
async fn a_client_with_rules_of_its_own_gets_no_tunnel_that_nobody_looks_into() {
    let upstream = Upstream::http1().await;
    let own = rustix::process::geteuid().as_raw();
    let authority = upstream.address;
    let connect = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let elsewhere = "CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n";
    let scene = Setup::new()
        .proxy("unrouted = \"tunnel\"")
        .route("open", &upstream, "")
        .client("me", &format!("uid = {own}\ndeny = [\"DELETE /**\"]"))
        .start()
        .await;
    for request in [connect.as_str(), elsewhere] {
        let answer = scene.exchange(request).await;
        assert_eq!(answer.refusal(), (403, "tunnel_denied".to_owned()), "{request}");
        assert!(answer.text().contains("lists or a rate of its own"), "{}", answer.text());
    }
    scene.finish().await;
}
