//! Another config takes the place of the running one: whole, or not at all, and no request fails of it.

use countersign::app::ReloadError;
use tokio::task::JoinSet;

use crate::support::issuer::Reply;
use crate::support::{Issuer, SOON, Scene, Setup, Upstream, trail, wait_until};

struct Place {
    issuer: Issuer,
    upstream: Upstream,
    other: Upstream,
}

impl Place {
    async fn new() -> Self {
        Self { issuer: Issuer::start().await, upstream: Upstream::http1().await, other: Upstream::http1().await }
    }

    /// `api`, with its token, which stays.
    fn setup(&self) -> Setup {
        Setup::api(&self.issuer, &self.upstream)
    }
}

/// Clients that call `api` until they are stopped; a request that fails ends one of them.
async fn load(scene: &Scene) -> JoinSet<()> {
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let mut client = scene.client().await;
        load.spawn(async move {
            loop {
                let answer = client.get("/api/x").await;
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        });
    }
    load
}

async fn is_shown(scene: &Scene, generation: f64) {
    let token = ("token", "api");
    let scrape = scene.scrape().await;
    assert_eq!(scrape.find("countersign_token_info", &[token]), Some(1.0));
    assert_eq!(scrape.find("countersign_token_state", &[token, ("state", "active")]), Some(1.0));
    assert_eq!(scrape.find("countersign_token_state", &[token]), Some(1.0), "one state at a time");
    assert_eq!(scrape.find("countersign_token_generation", &[token]), Some(generation));
    assert!(scrape.find("countersign_token_expiry_timestamp_seconds", &[token]).is_some_and(|expiry| expiry > 0.0));
    assert!(scrape.find("countersign_token_grant_expiry_timestamp_seconds", &[token]).is_some());
}

#[tokio::test]
async fn routes_come_and_go_under_load() {
    let place = Place::new().await;
    let scene = place.setup().route("old", &place.other, "").start().await;
    scene.ready().await;
    assert_eq!(scene.get("/old/x").await.status, 200);
    let mut load = load(&scene).await;
    for _ in 0..10 {
        scene.reload(&place.setup().route("new", &place.other, "")).await.expect("a good config");
        assert_eq!(scene.get("/new/x").await.status, 200);
        assert_eq!(scene.get("/old/x").await.refusal(), (404, "no_route".to_owned()));
        scene.reload(&place.setup().route("old", &place.other, "")).await.expect("a good config");
        assert_eq!(scene.get("/new/x").await.refusal(), (404, "no_route".to_owned()));
        assert_eq!(scene.get("/old/x").await.status, 200);
    }
    assert!(load.try_join_next().is_none(), "a client of a route that stayed failed");
    load.shutdown().await;
    assert_eq!(place.issuer.count(), 1, "a token that did not change lives on");
    assert!(place.upstream.connections() <= 4, "and so do the connections of a route that did not");
    assert_eq!(scene.metric("countersign_config_reload_success", &[]).await, 1.0);
    assert!(scene.metric("countersign_config_reload_timestamp_seconds", &[]).await > 1.7e9);
    is_shown(&scene, 1.0).await;
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "reload").len(), 20);
    assert_eq!(trail::of(&records, "token_requested").len(), 1);
    let digests: Vec<_> = trail::of(&records, "reload").iter().map(|record| record["config_digest"].clone()).collect();
    assert!(digests[0] != digests[1] && digests[0] == digests[2]);
}

#[tokio::test]
async fn an_edited_token_is_asked_for_anew() {
    let place = Place::new().await;
    let scene = place.setup().start().await;
    scene.ready().await;
    let mut load = load(&scene).await;
    let edited = Setup::new().token("api", &place.issuer, "owner = \"others@example.com\"");
    let edited = edited.route("api", &place.upstream, r#"token = "api""#);
    scene.reload(&edited).await.expect("a good config");
    wait_until("the new token is used", SOON, async || {
        scene.get("/api/x").await;
        place.upstream.last().all("authorization") == ["Bearer tok-2"]
    })
    .await;
    assert!(load.try_join_next().is_none(), "requests wait for the new token, and none fails");
    load.shutdown().await;
    let info = [("token", "api"), ("owner", "others@example.com")];
    assert_eq!(scene.metric("countersign_token_info", &info).await, 1.0);
    is_shown(&scene, 2.0).await;
    assert_eq!(place.issuer.count(), 2);
    let records = scene.finish().await;
    let requested = trail::of(&records, "token_requested");
    assert_eq!((requested.len(), &requested[1]["owner"]), (2, &"others@example.com".into()));
    let rotated = trail::of(&records, "token_rotated");
    assert_eq!((&rotated[0]["generation"], &rotated[0]["replaces"]), (&2.into(), &1.into()), "numbers only rise");
    assert_eq!(trail::of(&records, "token_retired").len(), 0, "its grant goes on, with other words");
    let names = trail::events(&records);
    let place = |event: &str| names.iter().rposition(|name| *name == event).expect(event);
    assert!(place("token_requested") < place("reload"), "it is recorded before it is in force");
}

#[tokio::test]
async fn an_edited_token_that_its_issuer_does_not_give_takes_nothing_away() {
    let place = Place::new().await;
    let scene = place.setup().start().await;
    scene.ready().await;
    place.issuer.answers(|_| Reply::raw(""));
    let edited = Setup::new().token("api", &place.issuer, "owner = \"others@example.com\"");
    let edited = edited.route("api", &place.upstream, r#"token = "api""#).route("new", &place.other, "");
    let error = scene.reload(&edited).await.expect_err("no token");
    assert!(matches!(error, ReloadError::NotReady(_)), "{error}");
    assert_eq!(scene.get("/api/x").await.status, 200);
    assert_eq!(place.upstream.last().all("authorization"), ["Bearer tok-1"]);
    assert_eq!(scene.get("/new/x").await.status, 404);
    assert_eq!(scene.metric("countersign_config_reload_success", &[]).await, 0.0);
    wait_until("the old token is shown again", SOON, async || {
        let state = [("token", "api"), ("state", "active")];
        scene.metric("countersign_token_state", &state).await == 1.0
    })
    .await;
    is_shown(&scene, 1.0).await;
    let info = [("token", "api"), ("owner", "others@example.com")];
    assert_eq!(scene.scrape().await.find("countersign_token_info", &info), None);
    scene.finish().await;
}

#[tokio::test]
async fn a_token_that_is_gone_leaves_no_series_that_looks_alive() {
    let place = Place::new().await;
    let scene = place.setup().route("open", &place.other, "").start().await;
    scene.ready().await;
    scene.reload(&Setup::new().route("open", &place.other, "")).await.expect("a good config");
    wait_until("its series are gone", SOON, async || {
        let scrape = scene.scrape().await;
        let families = ["info", "state", "generation", "expiry_timestamp_seconds", "grant_expiry_timestamp_seconds"];
        let gone = |family: &&str| scrape.find(&format!("countersign_token_{family}"), &[("token", "api")]).is_none();
        families.iter().all(gone)
    })
    .await;
    assert_eq!(scene.get("/api/x").await.refusal(), (404, "no_route".to_owned()));
    assert_eq!(scene.ask("/readyz").await.status, 200);
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "token_retired").len(), 1);
}

#[tokio::test]
async fn a_refused_reload_changes_nothing_and_says_so() {
    let place = Place::new().await;
    let scene = place.setup().start().await;
    scene.ready().await;
    let edited = "reason = \"another\"";
    let tls = r#"tls = { ca = "file:/nowhere/ca.pem" }"#;
    let bad_ca = Setup::new().token("api", &place.issuer, edited).route("api", &place.upstream, r#"token = "api""#);
    let refused = [
        (place.setup().workers(1).route("new", &place.other, ""), "`proxy.workers`"),
        (place.setup().drain("1s"), "`proxy.drain`"),
        (place.setup().limits("connections = 7"), "`proxy.limits`"),
        (place.setup().audit("dir = \"elsewhere\""), "`audit.dir`"),
        (bad_ca.route("new", &place.other, tls), "/nowhere/ca.pem"),
    ];
    let count = refused.len();
    for (number, (setup, named)) in refused.into_iter().enumerate() {
        let error: ReloadError = scene.reload(&setup).await.expect_err(named);
        assert!(error.to_string().contains(named), "{error}");
        assert_eq!(scene.metric("countersign_config_reload_success", &[]).await, 0.0);
        assert_eq!(scene.get("/new/x").await.refusal(), (404, "no_route".to_owned()));
        assert_eq!(scene.get("/api/x").await.status, 200);
        assert_eq!(place.upstream.last().all("authorization"), ["Bearer tok-1"]);
        scene.recorded("reload_refused", number + 1).await;
    }
    is_shown(&scene, 1.0).await;
    assert_eq!(place.issuer.count(), 1, "nobody was asked for a token that was not let in");
    scene.reload(&place.setup()).await.expect("a good config");
    assert_eq!(scene.metric("countersign_config_reload_success", &[]).await, 1.0);
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "reload_refused").len(), count);
    assert_eq!(trail::of(&records, "token_requested").len(), 1);
}

#[tokio::test]
async fn requests_keep_to_the_config_that_they_began_with() {
    let place = Place::new().await;
    let gate = crate::support::Gate::closed();
    let held = gate.clone();
    place.upstream.answers(move |_| crate::support::upstream::Reply::ok("late").behind(&held));
    let scene = place.setup().start().await;
    let mut client = scene.client().await;
    client.send("GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    wait_until("it is at the upstream", SOON, async || place.upstream.count() == 1).await;
    scene.reload(&Setup::new().route("other", &place.other, "")).await.expect("a good config");
    assert_eq!(scene.get("/api/x").await.status, 404);
    gate.open();
    assert_eq!(client.answer().await.expect("an answer").text(), "late");
    scene.finish().await;
}

#[tokio::test]
async fn a_storm_of_reloads_half_of_them_broken_fails_no_request() {
    const RELOADS: usize = 300;
    let place = Place::new().await;
    let scene = place.setup().start().await;
    scene.ready().await;
    let mut load = load(&scene).await;
    let tls = r#"tls = { ca = "file:/nowhere/ca.pem" }"#;
    for number in 0..RELOADS {
        let outcome = match number % 4 {
            0 => scene.reload(&place.setup().route("other", &place.other, "")).await,
            2 => scene.reload(&place.setup()).await,
            _ => scene.reload(&place.setup().route("other", &place.other, tls)).await,
        };
        assert_eq!(outcome.is_ok(), number % 2 == 0, "reload {number}: {outcome:?}");
    }
    assert!(load.try_join_next().is_none(), "no request failed");
    assert_eq!(scene.get("/other/x").await.status, 404, "the last good one is in force");
    assert_eq!(place.issuer.count(), 1, "the token lives on");
    load.shutdown().await;
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "reload").len(), RELOADS / 2);
    assert_eq!(trail::of(&records, "reload_refused").len(), RELOADS / 2);
}
