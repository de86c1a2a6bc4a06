//! A token is moved to its `next_source`: verified before the old one is left, and left again when upstreams refuse it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::issuer::Reply as Issued;
use crate::support::operator::{json_of, own};
use crate::support::upstream::{Reply, Seen};
use crate::support::{Issuer, SOON, Scene, Setup, Upstream, trail, wait_until};

const PROBE: &str = "/health";

/// Longer than what is refused may be left again.
const STOOD: Duration = Duration::from_secs(31);

/// A token between two issuers.
struct Place {
    old: Issuer,
    new: Issuer,
    upstream: Upstream,
    folder: Arc<TempDir>,
}

impl Place {
    async fn new() -> Self {
        let folder = Arc::new(TempDir::new().expect("a temporary folder"));
        std::fs::write(folder.path().join("client-secret"), "secret").expect("written");
        let (old, new) = (Issuer::named("old", 3600).await, Issuer::named("new", 3600).await);
        Self { old, new, upstream: Upstream::http1().await, folder }
    }

    fn setup(&self) -> Setup {
        self.between(&source(&self.old), &format!("next_source = {}", source(&self.new)))
    }

    fn between(&self, own: &str, next: &str) -> Setup {
        let rotation = format!("rotation = {{ probe = \"https://{}{PROBE}\" }}", self.upstream.address);
        Setup::new()
            .workers(1)
            .token_from("api", own, &format!("{rotation}\n{next}"))
            .route("api", &self.upstream, "token = \"api\"")
            .operators("admin")
    }

    async fn start(&self) -> Scene {
        self.start_with(&self.setup()).await
    }

    async fn start_with(&self, setup: &Setup) -> Scene {
        let scene = Scene::start_in(self.folder.clone(), setup).await;
        scene.ready().await;
        scene
    }

    /// Moved, and nobody has refused it.
    async fn moved(&self) -> Scene {
        let scene = self.start().await;
        used(&scene, 20).await;
        assert_eq!(scene.rotate("api").await.expect("a generation"), 2);
        scene.clock.advance(STOOD);
        scene.recorded("token_moved", 1).await;
        scene
    }

    async fn carried(&self, scene: &Scene) -> String {
        assert_eq!(scene.get("/api/x").await.status, 200);
        self.upstream.last().all("authorization").concat()
    }
}

/// How often it was asked for a token. It numbers all calls, and those that tell it what is void may come in between.
fn asked(issuer: &Issuer) -> usize {
    issuer.calls().iter().filter(|call| call.head.starts_with("POST /token")).count()
}

/// Where it is told which of its tokens are void.
fn source(issuer: &Issuer) -> String {
    let (token, revoke) = (issuer.url(), issuer.url().replace("/token", "/revoke"));
    format!(
        r#"{{ kind = "client_credentials", token_url = "{token}", revocation_url = "{revoke}", client_id = "api", client_secret = "file:client-secret" }}"#
    )
}

fn void(issuer: &Issuer) -> Vec<String> {
    let calls = issuer.calls().into_iter().filter(|call| call.head.starts_with("POST /revoke"));
    calls.map(|call| call.fields["token"].clone()).collect()
}

async fn used(scene: &Scene, times: usize) {
    let mut client = scene.client().await;
    for _ in 0..times {
        assert_eq!(client.get("/api/x").await.status, 200);
    }
}

/// As operators are told of it.
async fn next_source(scene: &Scene) -> Value {
    json_of(&own(scene, "GET /v1/tokens/api", "").await)["next_source"].clone()
}

/// How far it is.
async fn step(scene: &Scene) -> Value {
    next_source(scene).await["state"].clone()
}

fn refuses_new(place: &'static str) -> impl Fn(&Seen) -> Reply + Send + Sync + 'static {
    move |seen| {
        let is_new = seen.all("authorization").concat().starts_with("Bearer new-");
        if is_new && seen.target.starts_with(place) { Reply::new(403) } else { Reply::ok("ok") }
    }
}

#[tokio::test]
async fn a_rotation_moves_a_token_to_its_next_source_and_the_old_one_is_told() {
    let place = Place::new().await;
    let scene = place.start().await;
    assert_eq!(place.carried(&scene).await, "Bearer old-1");
    assert_eq!((step(&scene).await, place.new.count()), ("waiting".into(), 0));
    used(&scene, 20).await;
    assert_eq!(scene.rotate("api").await.expect("a generation"), 2);
    assert_eq!(place.carried(&scene).await, "Bearer new-1");
    assert_eq!((step(&scene).await, void(&place.old)), ("standing".into(), Vec::new()));
    assert_eq!(scene.recorded("token_rotated", 1).await[0]["source"], "client_credentials");
    scene.clock.advance(STOOD);
    let record = scene.recorded("token_moved", 1).await.remove(0);
    assert_eq!((&record["generation"], &record["from"]), (&2.into(), &"client_credentials".into()));
    wait_until("the old generation is void", SOON, async || void(&place.old) == ["old-1"]).await;
    assert_eq!(step(&scene).await, "moved");
    assert_eq!(scene.rotate("api").await.expect("a generation"), 3);
    assert_eq!(place.carried(&scene).await, "Bearer new-2", "and so it goes on");
    assert_eq!(asked(&place.old), 1);
    let success = [("token", "api"), ("outcome", "success")];
    assert_eq!(scene.metric("countersign_source_moves_total", &success).await, 1.0);
    scene.finish().await;
    assert!(void(&place.new).iter().all(|token| token.starts_with("new-")), "neither hears of the other's");
}

#[tokio::test]
async fn what_the_api_refuses_is_not_moved_to() {
    let place = Place::new().await;
    place.upstream.answers(refuses_new(PROBE));
    let scene = place.start().await;
    let error = scene.rotate("api").await.expect_err("refused").to_string();
    assert!(error.contains("probe"), "{error}");
    assert_eq!((place.carried(&scene).await.as_str(), step(&scene).await), ("Bearer old-1", "waiting".into()));
    let record = scene.recorded("token_move_failed", 1).await.remove(0);
    assert_eq!((&record["reason"], &record["attempt"]), (&"probe".into(), &1.into()));
    wait_until("it is void", SOON, async || void(&place.new) == ["new-1"]).await;
    let failure = [("token", "api"), ("outcome", "failure")];
    assert_eq!(scene.metric("countersign_source_moves_total", &failure).await, 1.0);
    let carried = place.upstream.seen().into_iter().filter(|seen| seen.target != PROBE);
    assert!(carried.into_iter().all(|seen| seen.all("authorization") == ["Bearer old-1"]));
    scene.finish().await;
}

#[tokio::test]
async fn a_next_issuer_that_gives_nothing_keeps_no_rotation_back() {
    let place = Place::new().await;
    place.new.answers(|_| Issued::json(503, "{}"));
    let scene = place.start().await;
    scene.clock.advance(Duration::from_secs(3000));
    wait_until("the old source goes on", SOON, async || place.carried(&scene).await == "Bearer old-2").await;
    scene.recorded("token_move_failed", 1).await;
    scene.finish().await;
}

#[tokio::test]
async fn upstreams_that_refuse_it_bring_the_old_source_back() {
    let place = Place::new().await;
    place.upstream.answers(refuses_new("/x"));
    let scene = place.start().await;
    used(&scene, 20).await;
    assert_eq!(scene.rotate("api").await.expect("a generation"), 2);
    let mut client = scene.client().await;
    wait_until("requests are taken again", SOON, async || client.get("/api/x").await.status == 200).await;
    assert_eq!(place.upstream.last().all("authorization"), ["Bearer old-1"]);
    let record = scene.recorded("token_move_failed", 1).await.remove(0);
    assert_eq!(record["reason"], "rolled_back");
    assert_eq!(scene.recorded("token_rolled_back", 1).await[0]["restores"], 1);
    wait_until("the refused one is void", SOON, async || void(&place.new) == ["new-1"]).await;
    assert_eq!((step(&scene).await, void(&place.old)), ("waiting".into(), Vec::new()));
    scene.clock.advance(STOOD);
    let records = scene.finish().await;
    assert!(trail::of(&records, "token_moved").is_empty());
}

#[tokio::test]
async fn a_restart_before_the_move_has_the_old_source_and_one_after_it_the_new() {
    let place = Place::new().await;
    let scene = place.start().await;
    assert_eq!(place.carried(&scene).await, "Bearer old-1");
    scene.finish().await;
    place.moved().await.finish().await;
    let scene = place.start().await;
    assert_eq!((place.carried(&scene).await.as_str(), step(&scene).await), ("Bearer new-1", "moved".into()));
    assert_eq!(scene.rotate("api").await.expect("a generation"), 3);
    assert_eq!(place.carried(&scene).await, "Bearer new-2");
    scene.finish().await;
    assert_eq!((asked(&place.old), asked(&place.new)), (1, 2), "no restart asked anybody");
}

#[tokio::test]
async fn a_restart_before_it_has_stood_goes_back_and_the_old_issuer_still_hears_of_its_own() {
    let place = Place::new().await;
    let scene = place.start().await;
    used(&scene, 20).await;
    assert_eq!(place.carried(&scene).await, "Bearer old-1");
    scene.rotate("api").await.expect("a generation");
    assert_eq!(place.carried(&scene).await, "Bearer new-1");
    scene.finish().await;
    let scene = place.start().await;
    let carried = place.carried(&scene).await;
    assert!(carried.starts_with("Bearer old-") && carried != "Bearer old-1", "{carried}");
    assert_eq!((asked(&place.old), asked(&place.new), step(&scene).await), (2, 1, "waiting".into()));
    wait_until("each is told of its own", SOON, async || {
        (void(&place.old), void(&place.new)) == (vec!["old-1".to_owned()], vec!["new-1".to_owned()])
    })
    .await;
    scene.finish().await;
}

#[tokio::test]
async fn a_move_is_of_two_sources_and_another_one_begins_anew() {
    let place = Place::new().await;
    place.moved().await.finish().await;
    let other = Issuer::named("other", 3600).await;
    let again = place.between(&source(&place.old), &format!("next_source = {}", source(&other)));
    let scene = place.start_with(&again).await;
    assert!(place.carried(&scene).await.starts_with("Bearer old-"));
    scene.finish().await;
    let scene = place.start().await;
    assert_eq!(step(&scene).await, "waiting", "it has been asked for anew");
    scene.finish().await;
    // What was moved to is written as the source, and nothing is left to do.
    let settled = place.between(&source(&place.new), "");
    let scene = place.start_with(&settled).await;
    assert!(place.carried(&scene).await.starts_with("Bearer new-"));
    assert_eq!(next_source(&scene).await, Value::Null);
    scene.finish().await;
}
