//! Whose request it is decides whose token it gets.

use crate::support::{Crowd, Issuer, Setup, Upstream};
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
