//! What operators do to tokens: taken out of use, let in again, ended; and what apps, upstreams and issuers see of it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::support::issuer::Reply;
use crate::support::operator::{APPROVER, act, json_of, key, own};
use crate::support::{Issuer, SOON, Scene, Setup, Upstream, trail, wait_until};

struct Place {
    issuer: Issuer,
    /// Where the issuer is told what is void.
    told: Issuer,
    upstream: Upstream,
}

impl Place {
    async fn new() -> Self {
        let told = Issuer::answering(|_| Reply::json(200, "")).await;
        Self { issuer: Issuer::start().await, told, upstream: Upstream::http1().await }
    }

    /// The token `api`; our own user takes away, and another operator lets in.
    fn setup(&self, rotation: &str) -> Setup {
        self.setup_telling(&self.told, rotation)
    }

    fn setup_telling(&self, told: &Issuer, rotation: &str) -> Setup {
        Setup::new()
            .token_revoked_at("api", &self.issuer, &told.url(), rotation)
            .route("api", &self.upstream, "token = \"api\"")
            .operators("admin")
    }

    async fn start(&self, rotation: &str) -> Scene {
        let scene = self.setup(rotation).start().await;
        scene.ready().await;
        scene
    }

    /// The tokens that the issuer was told are void.
    fn void(&self) -> Vec<String> {
        self.told.calls().iter().filter_map(|call| call.fields.get("token").cloned()).collect()
    }

    async fn told(&self, tokens: &[&str]) {
        wait_until("the issuer is told", SOON, async || self.void() == tokens).await;
    }
}

async fn state(scene: &Scene, state: &str) -> f64 {
    scene.metric("countersign_token_state", &[("token", "api"), ("state", state)]).await
}

#[tokio::test]
async fn a_quarantined_token_is_not_attached_until_it_is_released() {
    let place = Place::new().await;
    let scene = place.start("").await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    let answer = act(&scene, "api", "quarantine", None).await;
    assert_eq!((answer.status, &json_of(&answer)["state"]), (200, &json!("quarantined")));
    let before = place.upstream.count();
    assert_eq!(scene.get("/api/x").await.refusal(), (403, "token_quarantined".to_owned()));
    assert_eq!(place.upstream.count(), before, "nothing was sent");
    assert_eq!(act(&scene, "api", "rotate", None).await.refusal(), (409, "not_rotated".to_owned()));
    assert_eq!((state(&scene, "quarantined").await, state(&scene, "active").await), (1.0, 0.0));
    assert_eq!(scene.ask("/readyz").await.status, 200, "that was somebody's will");

    let released = act(&scene, "api", "release", APPROVER).await;
    assert_eq!((released.status, &json_of(&released)["generation"]["number"]), (200, &json!(1)));
    assert_eq!(scene.get("/api/x").await.status, 200);
    assert_eq!(place.upstream.last().header("authorization"), Some("Bearer tok-1"));
    assert_eq!((place.issuer.count(), place.told.count()), (1, 0), "the issuer has nothing to do with it");
    assert_eq!(act(&scene, "api", "release", APPROVER).await.refusal(), (409, "not_done".to_owned()));
    let records = scene.finish().await;
    let taken = trail::of(&records, "token_quarantined");
    assert_eq!((&taken[0]["by"], &taken[0]["reason"]), (&json!("guard"), &json!("the test wants it")));
    assert_eq!(trail::of(&records, "token_released")[0]["by"], "approver");
}

#[tokio::test]
async fn a_revoked_token_is_void_at_its_issuer_and_comes_back_as_another() {
    let place = Place::new().await;
    let scene = place.start("").await;
    place.told.next(Reply::json(503, "{}"));
    let answer = act(&scene, "api", "revoke", None).await;
    assert_eq!((answer.status, &json_of(&answer)["state"]), (200, &json!("revoked")));
    assert_eq!(scene.get("/api/x").await.refusal(), (403, "token_revoked".to_owned()));
    place.told(&["tok-1"]).await;
    scene.clock.advance(Duration::from_secs(2));
    place.told(&["tok-1", "tok-1"]).await;
    let revocations = |outcome| [("token", "api"), ("cause", "revoked"), ("outcome", outcome)];
    scene.reaches("countersign_revocations_total", &revocations("success"), 1.0).await;
    assert_eq!(scene.metric("countersign_revocations_total", &revocations("failure")).await, 1.0);

    assert_eq!(act(&scene, "api", "release", APPROVER).await.status, 200);
    assert_eq!(scene.get("/api/x").await.status, 200);
    assert_eq!(place.upstream.last().header("authorization"), Some("Bearer tok-2"));
    let records = scene.finish().await;
    let told = trail::of(&records, "generation_revoked");
    assert_eq!((&told[0]["outcome"], &told[0]["attempts"]), (&json!("success"), &json!(2)));
    assert_eq!(trail::of(&records, "token_revoked")[0]["by"], "guard");
}

#[tokio::test]
async fn nobody_lets_in_what_is_its_own() {
    let place = Place::new().await;
    let setup = place.setup("").operator(
        "owner",
        &format!("groups = [\"team@example.com\"]\n{}\nroles = [\"approver\"]", key("the owner's key")),
    );
    let scene = setup.start().await;
    scene.ready().await;
    assert_eq!(act(&scene, "api", "quarantine", None).await.status, 200);
    for (key, why) in [(None, "it has not the role"), (Some("the owner's key"), "it is its group's")] {
        assert_eq!(act(&scene, "api", "release", key).await.refusal(), (403, "not_allowed".to_owned()), "{why}");
    }
    assert_eq!(scene.get("/api/x").await.status, 403);
    assert_eq!(act(&scene, "api", "quarantine", APPROVER).await.refusal().0, 403, "nor does an approver take away");
}

#[tokio::test]
async fn a_reason_is_asked_for_where_something_is_taken_away_or_let_in() {
    let place = Place::new().await;
    let scene = place.start("").await;
    for what in ["quarantine", "revoke", "retire"] {
        for body in ["{}", r#"{"reason":""}"#, r#"{"reason":" "}"#, r#"{"reason":"two\nlines"}"#, r#"{"reason":7}"#] {
            let answer = own(&scene, &format!("POST /v1/tokens/api/{what}"), body).await;
            assert_eq!(answer.refusal(), (422, "invalid".to_owned()), "{what} {body}");
        }
        assert_eq!(act(&scene, "none", what, None).await.refusal(), (404, "no_token".to_owned()));
    }
    assert_eq!(scene.get("/api/x").await.status, 200);
}

#[tokio::test]
async fn a_retired_token_is_over_here_and_at_its_issuer() {
    let place = Place::new().await;
    let scene = place.start("").await;
    let answer = act(&scene, "api", "retire", None).await;
    assert_eq!((answer.status, &json_of(&answer)["state"]), (200, &json!("retired")));
    assert_eq!(scene.get("/api/x").await.refusal(), (403, "approval_denied".to_owned()));
    place.told(&["tok-1"]).await;
    for what in ["rotate", "quarantine", "revoke"] {
        assert_eq!(act(&scene, "api", what, None).await.status, 409, "{what}");
    }
    assert_eq!(place.issuer.count(), 1);
}

#[tokio::test]
async fn what_was_taken_out_of_use_stays_so_in_another_config() {
    let place = Place::new().await;
    let scene = place.start("").await;
    assert_eq!(act(&scene, "api", "quarantine", None).await.status, 200);
    scene.reload(&place.setup("placement = { header = \"x-api-key\" }")).await.expect("taken");
    assert_eq!(scene.get("/api/x").await.refusal(), (403, "token_quarantined".to_owned()));
    scene.reload(&place.setup("").without("route", "api").without("token", "api")).await.expect("taken");
    scene.reload(&place.setup("")).await.expect("taken");
    assert_eq!(scene.get("/api/x").await.refusal(), (403, "token_quarantined".to_owned()));
    assert_eq!(act(&scene, "api", "release", APPROVER).await.status, 200);
    assert_eq!(scene.get("/api/x").await.status, 200);
}

#[tokio::test]
async fn a_retired_token_stays_so_in_routes_that_let_other_things_pass() {
    let place = Place::new().await;
    let folder = Arc::new(tempfile::TempDir::new().expect("a temporary folder"));
    std::fs::write(folder.path().join("client-secret"), "secret").expect("written");
    let scene = Scene::start_in(folder.clone(), &place.setup("")).await;
    scene.ready().await;
    assert_eq!(act(&scene, "api", "retire", None).await.status, 200);
    let edited = place.setup("").without("route", "api").route(
        "api",
        &place.upstream,
        "token = \"api\"\nallow = [\"GET /x/**\"]",
    );
    scene.reload(&edited).await.expect("taken");
    assert_eq!(scene.get("/api/x/1").await.refusal(), (403, "approval_denied".to_owned()));
    scene.finish().await;
    let asked = place.issuer.count();
    let scene = Scene::start_in(folder.clone(), &edited).await;
    assert_eq!(scene.get("/api/x/1").await.refusal(), (403, "approval_denied".to_owned()), "after a restart");
    assert_eq!(place.issuer.count(), asked, "nothing is asked for that nobody may use");
    let another = edited.clone().without("token", "api").without("route", "api");
    let another = another.token("api", &place.issuer, "reason = \"another one\"");
    let another = another.route("api", &place.upstream, "token = \"api\"\nallow = [\"GET /x/**\"]");
    scene.reload(&another).await.expect("another grant");
    assert_eq!(scene.get("/api/x/1").await.status, 200);
    scene.finish().await;
    let scene = Scene::start_in(folder.clone(), &another).await;
    assert_eq!(scene.get("/api/x/1").await.status, 200, "another grant lives on after a restart");
    scene.reload(&edited).await.expect("the ended one once more");
    assert_eq!(scene.get("/api/x/1").await.refusal(), (403, "approval_denied".to_owned()), "it has ended for good");
    scene.finish().await;
    let scene = Scene::start_in(folder, &edited).await;
    assert_eq!(scene.get("/api/x/1").await.refusal(), (403, "approval_denied".to_owned()), "and after a restart");
    scene.finish().await;
}

#[tokio::test]
async fn the_end_of_a_grant_releases_nothing() {
    let place = Place::new().await;
    let scene = place.start("").await;
    for what in ["revoke", "retire"] {
        assert_eq!(act(&scene, "api", what, None).await.status, 200, "{what}");
    }
    let another = place.setup("expires = \"2098-01-01\"");
    scene.reload(&place.setup("").without("token", "api").without("route", "api")).await.expect("taken");
    scene.reload(&another).await.expect("another grant");
    assert_eq!(scene.get("/api/x").await.refusal(), (403, "token_revoked".to_owned()));
    assert_eq!(act(&scene, "api", "release", APPROVER).await.status, 200);
    assert_eq!(scene.get("/api/x").await.status, 200);
}

#[tokio::test]
async fn a_replaced_generation_is_void_at_its_issuer_when_its_time_is_over() {
    let place = Place::new().await;
    let scene = place.start("rotation = { overlap = \"1h\" }").await;
    assert_eq!(act(&scene, "api", "rotate", None).await.status, 200);
    assert_eq!(place.void(), [""; 0]);
    scene.clock.advance(Duration::from_secs(3599));
    assert_eq!(act(&scene, "api", "rotate", None).await.status, 200);
    scene.clock.advance(Duration::from_secs(2));
    // What has run out by itself needs no telling; the second one lives.
    scene.reaches("countersign_revocations_total", &[("cause", "replaced")], 1.0).await;
    assert_eq!(scene.get("/api/x").await.status, 200);
}

#[tokio::test]
async fn a_static_value_that_was_revoked_does_not_come_back() {
    let place = Place::new().await;
    let setup = Setup::new()
        .token_from("api", r#"{ kind = "file", path = "token" }"#, "")
        .route("api", &place.upstream, "token = \"api\"")
        .operators("admin");
    let folder = Arc::new(tempfile::TempDir::new().expect("a temporary folder"));
    std::fs::write(folder.path().join("token"), "one").expect("written");
    let scene = Scene::start_in(folder, &setup).await;
    scene.ready().await;
    assert_eq!(act(&scene, "api", "revoke", None).await.status, 200);
    assert_eq!(act(&scene, "api", "release", APPROVER).await.status, 200);
    scene.reaches("countersign_rotation_failures_total", &[("token", "api"), ("reason", "revoked")], 1.0).await;
    assert_ne!(scene.get("/api/x").await.status, 200);
    std::fs::write(scene.folder().join("token"), "two").expect("written");
    scene.clock.advance(Duration::from_secs(60));
    wait_until("another value is taken", SOON, async || scene.get("/api/x").await.status == 200).await;
    assert_eq!(place.upstream.last().header("authorization"), Some("Bearer two"));
}

#[tokio::test]
async fn what_was_taken_out_of_use_stays_so_after_a_restart() {
    let place = Place::new().await;
    for (what, reason) in
        [("quarantine", "token_quarantined"), ("revoke", "token_revoked"), ("retire", "approval_denied")]
    {
        let folder = Arc::new(tempfile::TempDir::new().expect("a temporary folder"));
        std::fs::write(folder.path().join("client-secret"), "secret").expect("written");
        let scene = Scene::start_in(folder.clone(), &place.setup("")).await;
        scene.ready().await;
        assert_eq!(act(&scene, "api", what, None).await.status, 200);
        scene.finish().await;
        let asked = place.issuer.count();
        let scene = Scene::start_in(folder.clone(), &place.setup("")).await;
        scene.ready().await;
        assert_eq!(scene.get("/api/x").await.refusal(), (403, reason.to_owned()));
        assert_eq!(place.issuer.count(), asked, "nothing is asked for that nobody may use");
        if what == "retire" {
            let renewed = place.setup("").without("token", "api").without("route", "api");
            scene.reload(&renewed).await.expect("taken");
            scene.reload(&place.setup("expires = \"2098-01-01\"")).await.expect("another grant");
        } else {
            assert_eq!(act(&scene, "api", "release", APPROVER).await.status, 200);
        }
        assert_eq!(scene.get("/api/x").await.status, 200, "{what}");
        scene.finish().await;
        let scene = Scene::start_in(folder, &place.setup("expires = \"2098-01-01\"")).await;
        assert_eq!(scene.get("/api/x").await.status, 200, "{what} does not come back");
    }
}

#[tokio::test]
async fn a_record_that_was_tampered_with_lets_nothing_in() {
    let place = Place::new().await;
    let folder = Arc::new(tempfile::TempDir::new().expect("a temporary folder"));
    std::fs::write(folder.path().join("client-secret"), "secret").expect("written");
    let scene = Scene::start_in(folder.clone(), &place.setup("")).await;
    scene.ready().await;
    assert_eq!(act(&scene, "api", "revoke", None).await.status, 200);
    scene.finish().await;
    let record = folder.path().join("state/sealed/restraint-api.sealed");
    let mut bytes = std::fs::read(&record).expect("it is kept");
    *bytes.last_mut().expect("bytes") ^= 1;
    std::fs::write(&record, bytes).expect("written");
    let scene = Scene::start_in(folder, &place.setup("")).await;
    assert_eq!(scene.get("/api/x").await.refusal(), (403, "token_quarantined".to_owned()));
    assert_eq!(act(&scene, "api", "release", APPROVER).await.status, 200);
    assert_eq!(scene.get("/api/x").await.status, 200);
}

/// A proxy that has ended before the issuer would hear that the token is void, and the folder that it left.
async fn revoked_in_vain() -> (Place, Arc<tempfile::TempDir>) {
    let place = Place::new().await;
    place.told.answers(|_| Reply::json(503, "{}"));
    let folder = Arc::new(tempfile::TempDir::new().expect("a temporary folder"));
    std::fs::write(folder.path().join("client-secret"), "secret").expect("written");
    let scene = Scene::start_in(folder.clone(), &place.setup("")).await;
    scene.ready().await;
    assert_eq!(act(&scene, "api", "revoke", None).await.status, 200);
    wait_until("the issuer is told, in vain", SOON, async || place.told.count() > 0).await;
    scene.finish().await;
    (place, folder)
}

#[tokio::test]
async fn an_issuer_that_has_not_confirmed_is_told_after_a_restart() {
    let (place, folder) = revoked_in_vain().await;
    let kept = || {
        let entries = std::fs::read_dir(folder.path().join("state/sealed")).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("revocation-")).collect::<Vec<_>>()
    };
    assert_eq!(kept().len(), 1);
    let content = std::fs::read(folder.path().join("state/sealed").join(&kept()[0])).expect("readable");
    assert!(!content.windows(5).any(|window| window == b"tok-1"), "sealed");
    let before = place.told.count();
    place.told.answers(|_| Reply::json(200, ""));
    let scene = Scene::start_in(folder.clone(), &place.setup("")).await;
    scene.recorded("generation_revoked", 1).await;
    assert!(place.told.count() > before && place.void().iter().all(|token| token == "tok-1"));
    wait_until("nothing is left to tell", SOON, async || kept().is_empty()).await;
}

#[tokio::test]
async fn nobody_is_told_of_a_void_generation_but_the_issuer_it_came_from() {
    let (place, folder) = revoked_in_vain().await;
    let stranger = Issuer::answering(|_| Reply::json(200, "")).await;
    let edited = place.setup_telling(&stranger, "").approval("default = \"ask\"");
    let scene = Scene::start_in(folder.clone(), &edited).await;
    assert_eq!(json_of(&own(&scene, "GET /v1/tokens/api", "").await)["state"], "revoked", "as it was granted");
    scene.finish().await;
    assert_eq!(stranger.count(), 0, "nobody has approved it");
    place.told.answers(|_| Reply::json(200, ""));
    let scene = Scene::start_in(folder, &place.setup("")).await;
    scene.recorded("generation_revoked", 1).await;
    assert_eq!(stranger.count(), 0);
}
