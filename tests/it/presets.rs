//! What a preset fills in holds for requests: where the token goes, what is refused since its answer would be a credential, and
//! that no session reaches the app.

use crate::support::upstream::Reply;
use crate::support::{Issuer, Scene, Setup, Upstream};

/// A token and its route, with this preset and a server of our own in the place of the provider's.
async fn scene(preset: &str, upstream: &Upstream, route: &str) -> (Issuer, Scene) {
    let issuer = Issuer::start().await;
    let setup = Setup::new().token("api", &issuer, &format!("preset = \"{preset}\""));
    let scene = setup.route("api", upstream, &format!("token = \"api\"\n{route}")).start().await;
    scene.ready().await;
    (issuer, scene)
}

/// Refused, and not a byte of it sent.
async fn assert_mints(scene: &Scene, upstream: &Upstream, method: &str, path: &str) {
    let before = upstream.seen().len();
    let request = format!("{method} /api{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{{}}");
    let answer = scene.exchange(request).await;
    assert_eq!(answer.refusal(), (403, "derived_credential".to_owned()), "{path}");
    assert_eq!(upstream.seen().len(), before, "{path}");
}

#[tokio::test]
async fn github_mints_nothing_for_the_app() {
    let upstream = Upstream::http1().await;
    let (_issuer, scene) = scene("github", &upstream, "").await;
    for (method, path) in [
        ("POST", "/app/installations/1/access_tokens"),
        ("POST", "/App/Installations/1/Access_Tokens"),
        ("POST", "/app/installations/1/access%5Ftokens"),
        ("POST", "/repos/a/b/actions/runners/registration-token"),
        ("POST", "/repos/a/b/keys"),
    ] {
        assert_mints(&scene, &upstream, method, path).await;
    }
    assert_eq!(scene.metric("countersign_refused_total", &[("reason", "derived_credential")]).await, 5.0);
    let answer = scene.get("/api/repos/a/b/keys").await;
    assert_eq!((answer.status, upstream.last().all("authorization")), (200, vec!["Bearer tok-1"]));
    scene.finish().await;
}

#[tokio::test]
async fn anthropic_gets_its_key_in_a_header_of_its_own() {
    let upstream = Upstream::http2().await;
    let (_issuer, scene) = scene("anthropic", &upstream, "").await;
    let request =
        "GET /api/v1/models HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: sk-mine\r\nAnthropic-Version: 2023-06-01\r\n\r\n";
    assert_eq!(scene.exchange(request.to_owned()).await.status, 200);
    let seen = upstream.last();
    assert_eq!((seen.all("x-api-key"), seen.all("authorization")), (vec!["tok-1"], vec![]));
    assert_eq!(seen.header("anthropic-version"), Some("2023-06-01"));
    assert_mints(&scene, &upstream, "POST", "/v1/oauth/token").await;
    scene.finish().await;
}

#[tokio::test]
async fn what_mints_is_refused_where_rules_are_only_observed_too() {
    let upstream = Upstream::http1().await;
    let (_issuer, scene) = scene("stripe", &upstream, "mode = \"observe\"").await;
    assert_mints(&scene, &upstream, "POST", "/v1/ephemeral_keys").await;
    scene.finish().await;
}

#[tokio::test]
async fn a_session_reaches_the_app_only_where_the_route_says_so() {
    for upstream in [Upstream::http1().await, Upstream::http2().await] {
        upstream.answers(|_| Reply::ok("ok").header("set-cookie", "session=1; Path=/").header("x-other", "stays"));
        for (route, expected) in [("", None), ("set_cookie = \"pass\"", Some("session=1; Path=/"))] {
            let (_issuer, scene) = scene("github", &upstream, route).await;
            let answer = scene.get("/api/x").await;
            assert_eq!((answer.header("set-cookie"), answer.header("x-other")), (expected, Some("stays")), "{route}");
            scene.finish().await;
        }
    }
    let upstream = Upstream::http1().await;
    upstream.answers(|_| Reply::ok("ok").header("set-cookie", "session=1"));
    let scene = Setup::new().route("api", &upstream, "").start().await;
    assert_eq!(scene.get("/api/x").await.header("set-cookie"), Some("session=1"), "the route has no token");
    scene.finish().await;
}

#[tokio::test]
async fn a_list_of_the_files_own_takes_the_place_of_the_presets() {
    let upstream = Upstream::http1().await;
    let (_issuer, scene) = scene("github", &upstream, "minting = [\"POST /sessions\"]").await;
    assert_mints(&scene, &upstream, "POST", "/sessions").await;
    let request = "POST /api/repos/a/b/keys HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(scene.exchange(request.to_owned()).await.status, 200);
    scene.finish().await;
}
