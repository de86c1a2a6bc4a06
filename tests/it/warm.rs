//! What is still good is used again after a restart: a process that starts again and again asks its issuer once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::issuer::Reply;
use crate::support::operator::{APPROVER, act};
use crate::support::upstream::Reply as Answered;
use crate::support::{Issuer, SOON, Scene, Setup, Upstream, trail, wait_until};

struct Place {
    issuer: Issuer,
    /// Where the issuer is told what is void.
    told: Issuer,
    upstream: Upstream,
    folder: Arc<TempDir>,
}

impl Place {
    async fn new() -> Self {
        Self::with(Issuer::start().await).await
    }

    async fn with(issuer: Issuer) -> Self {
        let told = Issuer::answering(|_| Reply::json(200, "")).await;
        let folder = Arc::new(TempDir::new().expect("a temporary folder"));
        std::fs::write(folder.path().join("client-secret"), "secret").expect("written");
        Self { issuer, told, upstream: Upstream::http1().await, folder }
    }

    fn setup(&self, more: &str) -> Setup {
        Setup::new()
            .workers(1)
            .token_revoked_at("api", &self.issuer, &self.told.url(), more)
            .route("api", &self.upstream, "token = \"api\"")
            .operators("admin")
    }

    /// As whoever has edited the source.
    fn edited(&self) -> Setup {
        let setup = Setup::new().token_revoked_at("other-client", &self.issuer, &self.told.url(), "");
        let text = setup.text();
        let source = text.lines().find(|line| line.starts_with("source = ")).expect("a source");
        self.setup(source)
    }

    async fn start(&self, setup: &Setup) -> Scene {
        let scene = Scene::start_in(self.folder.clone(), setup).await;
        scene.ready().await;
        scene
    }

    /// A run in which the upstream has seen one request with the token.
    async fn run(&self, setup: &Setup) -> String {
        let scene = self.start(setup).await;
        assert_eq!(scene.get("/api/x").await.status, 200);
        scene.finish().await;
        self.upstream.last().header("authorization").expect("a token").to_owned()
    }

    fn record(&self) -> PathBuf {
        self.folder.path().join("state/sealed/generation-api.sealed")
    }

    /// The tokens that the issuer was told are void.
    fn void(&self) -> Vec<String> {
        self.told.calls().iter().filter_map(|call| call.fields.get("token").cloned()).collect()
    }
}

fn holds(path: &Path, text: &str) -> bool {
    std::fs::read(path).expect("readable").windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn fifty_starts_in_a_row_ask_the_issuer_once() {
    let place = Place::new().await;
    let setup = place.setup("");
    for _ in 0..50 {
        assert_eq!(place.run(&setup).await, "Bearer tok-1");
    }
    assert_eq!((place.issuer.count(), place.void()), (1, Vec::new()));
    assert!(!holds(&place.record(), "tok-1"), "it is sealed");
    let records = trail::read(&place.folder.path().join("state/audit"));
    let resumed = trail::of(&records, "token_resumed");
    assert_eq!((trail::of(&records, "token_issued").len(), resumed.len()), (1, 49));
    assert_eq!(
        (&resumed[48]["generation"], resumed[0]["fingerprint"] == resumed[48]["fingerprint"]),
        (&1.into(), true)
    );
}

#[tokio::test]
async fn it_is_replaced_in_its_time_and_numbers_go_on() {
    let place = Place::new().await;
    let setup = place.setup("rotation = { overlap = \"1s\" }");
    place.run(&setup).await;
    let scene = place.start(&setup).await;
    scene.clock.advance(Duration::from_secs(3000));
    wait_until("another one", SOON, async || {
        scene.get("/api/x").await;
        place.upstream.last().header("authorization") == Some("Bearer tok-2")
    })
    .await;
    assert_eq!(scene.metric("countersign_token_generation", &[("token", "api")]).await, 2.0);
    scene.clock.advance(Duration::from_secs(10));
    wait_until("the one before is void", SOON, async || place.void() == ["tok-1"]).await;
    let records = scene.finish().await;
    assert_eq!((trail::of(&records, "token_rotated")[0]["replaces"].as_u64(), place.issuer.count()), (Some(1), 2));
}

#[tokio::test]
async fn what_was_revoked_or_ended_rests_no_more_when_that_is_answered() {
    for (what, reason) in [("revoke", "token_revoked"), ("retire", "approval_denied")] {
        let place = Place::new().await;
        let setup = place.setup("");
        let scene = place.start(&setup).await;
        wait_until("it rests", SOON, async || place.record().exists()).await;
        assert_eq!(act(&scene, "api", what, None).await.status, 200);
        assert!(!place.record().exists(), "{what}");
        scene.finish().await;
        assert!(!place.record().exists(), "{what}");
        let scene = place.start(&setup).await;
        assert_eq!(scene.get("/api/x").await.refusal(), (403, reason.to_owned()));
        assert_eq!(place.issuer.count(), 1);
        scene.finish().await;
    }
}

#[tokio::test]
async fn what_was_quarantined_is_void_after_a_restart_and_followed_by_another() {
    let place = Place::new().await;
    let setup = place.setup("");
    let scene = place.start(&setup).await;
    assert_eq!(act(&scene, "api", "quarantine", None).await.status, 200);
    scene.finish().await;
    let scene = place.start(&setup).await;
    assert_eq!(scene.get("/api/x").await.refusal(), (403, "token_quarantined".to_owned()));
    wait_until("nobody will use it", SOON, async || place.void() == ["tok-1"]).await;
    assert_eq!(act(&scene, "api", "release", APPROVER).await.status, 200);
    assert_eq!(scene.get("/api/x").await.status, 200);
    assert_eq!(place.upstream.last().header("authorization"), Some("Bearer tok-2"));
    scene.finish().await;
}

#[tokio::test]
async fn an_edited_source_or_grant_takes_up_nothing_and_what_it_leaves_is_void() {
    let place = Place::new().await;
    assert_eq!(place.run(&place.setup("")).await, "Bearer tok-1");
    assert_eq!(place.run(&place.edited()).await, "Bearer tok-2", "of another client");
    assert_eq!(place.void(), Vec::<String>::new(), "nobody else may hear of it");
    let granted = place.setup("reason = \"another\"");
    assert_eq!(place.run(&granted).await, "Bearer tok-3");
    wait_until("its own issuer hears of it", SOON, async || place.void() == ["tok-1"]).await;
    assert_eq!(place.run(&place.setup("")).await, "Bearer tok-4", "of another grant");
    wait_until("the same source", SOON, async || place.void().contains(&"tok-3".to_owned())).await;
    assert_eq!(place.issuer.count(), 4);
}

#[tokio::test]
async fn what_has_run_out_is_not_taken_up() {
    let place = Place::with(Issuer::named("tok", 2).await).await;
    let setup = place.setup("");
    place.run(&setup).await;
    let issued = Instant::now();
    wait_until("it has run out", SOON, async || issued.elapsed() > Duration::from_secs(2)).await;
    let before = place.issuer.count();
    assert_ne!(place.run(&setup).await, "Bearer tok-1");
    assert!(place.issuer.count() > before);
    assert!(!place.void().contains(&"tok-1".to_owned()), "that needs no telling");
}

#[tokio::test]
async fn what_upstreams_rejected_is_not_taken_up() {
    let place = Place::new().await;
    let setup = place.setup("");
    let scene = place.start(&setup).await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    place.issuer.answers(|_| Reply::json(503, "{}"));
    place.upstream.answers(|_| Answered::new(401));
    assert_eq!(scene.get("/api/x").await.status, 401);
    scene.finish().await;
    place.issuer.answers(|_| Reply::token("tok-new", 3600));
    place.upstream.answers(|_| Answered::ok("ok"));
    assert_eq!(place.run(&setup).await, "Bearer tok-new");
}

#[tokio::test]
async fn a_record_that_cannot_be_opened_is_named_and_stays_and_another_generation_comes() {
    let place = Place::new().await;
    let setup = place.setup("");
    place.run(&setup).await;
    let mut bytes = std::fs::read(place.record()).expect("it rests");
    *bytes.last_mut().expect("bytes") ^= 1;
    std::fs::write(place.record(), &bytes).expect("written");
    assert_eq!(place.run(&setup).await, "Bearer tok-2");
    let records = trail::read(&place.folder.path().join("state/audit"));
    let rejected = &trail::of(&records, "state_rejected")[0];
    assert!(rejected["file"].as_str().is_some_and(|file| file.ends_with("generation-api.sealed")), "{rejected}");
    assert_eq!(std::fs::read(place.record().with_extension("refused-1")).ok(), Some(bytes), "moved aside, not deleted");
    assert_eq!(place.run(&setup).await, "Bearer tok-2", "and what came then rests");
}

#[tokio::test]
async fn without_keeping_nothing_rests_and_what_did_is_void() {
    let place = Place::new().await;
    place.run(&place.setup("")).await;
    let setup = place.setup("").state("keep_generations = false");
    assert_eq!(place.run(&setup).await, "Bearer tok-2");
    wait_until("it is void", SOON, async || place.void() == ["tok-1"]).await;
    assert!(!place.record().exists());
    assert_eq!(place.run(&setup).await, "Bearer tok-3");
}
