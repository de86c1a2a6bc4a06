//! Tokens that belong to a version of an app, and go with it.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::geteuid;

use crate::support::{Issuer, SOON, Scene, Setup, Upstream, trail, wait_until};

const DAY: Duration = Duration::from_secs(86_400);

const RETIREMENT: &str = "countersign_token_outdated_retirement_timestamp_seconds";

struct Api {
    old: Issuer,
    new: Issuer,
    upstream: Upstream,
}

impl Api {
    async fn start() -> Self {
        let (old, new) = (Issuer::named("old", 3600).await, Issuer::named("new", 3600).await);
        Self { old, new, upstream: Upstream::http1().await }
    }

    /// An app of this version, and a token for each of two.
    fn setup(&self, version: &str) -> Setup {
        let app = format!("uid = {}\nversion = \"{version}\"", geteuid().as_raw());
        let setup = Setup::new().client("app", &app);
        let setup = setup.token("old", &self.old, "retire_after = \"7d\"").token("new", &self.new, "");
        let setup = setup.route("v1", &self.upstream, "token = \"old\"\nversion = \"<2\"");
        setup.route("v2", &self.upstream, "token = \"new\"\nversion = \">=2, <3\"")
    }

    /// The token that a request to the API's own name gets.
    async fn token(&self, scene: &Scene) -> String {
        let request = format!("GET http://{0}/x HTTP/1.1\r\nHost: {0}\r\n\r\n", self.upstream.address);
        assert_eq!(scene.exchange(request).await.status, 200);
        self.upstream.last().all("authorization").concat()
    }
}

async fn retirement(scene: &Scene) -> Option<f64> {
    scene.scrape().await.find(RETIREMENT, &[("token", "old")])
}

#[tokio::test]
async fn an_upgrade_takes_the_token_of_the_new_version_and_the_old_one_goes_after_a_while() {
    let api = Api::start().await;
    let scene = api.setup("1.9.0").start().await;
    scene.ready().await;
    assert_eq!(api.token(&scene).await, "Bearer old-1");
    assert_eq!(scene.get("/v2/x").await.refusal(), (403, "route_denied".to_owned()));
    scene.clock.advance(30 * DAY);
    wait_until("it works", SOON, async || scene.get("/v1/x").await.status == 200).await;

    scene.reload(&api.setup("2.0.0")).await.expect("taken");
    assert!(api.token(&scene).await.starts_with("Bearer new-"));
    assert_eq!(scene.get("/v1/x").await.refusal(), (403, "route_denied".to_owned()));
    wait_until("the end is in sight", SOON, async || retirement(&scene).await.is_some()).await;
    scene.clock.advance(6 * DAY);
    // The way back is open.
    scene.reload(&api.setup("1.9.1")).await.expect("taken");
    wait_until("it works", SOON, async || scene.get("/v1/x").await.status == 200).await;
    let before = retirement(&scene).await.expect("it is shown");
    scene.clock.advance(6 * DAY);
    wait_until("it begins anew", SOON, async || retirement(&scene).await.is_some_and(|end| end > before)).await;
    assert!(trail::of(&scene.trail(), "token_outdated").is_empty());

    scene.reload(&api.setup("2.1.0")).await.expect("taken");
    let shown = retirement(&scene).await.expect("it is shown");
    // Where it was not looked at since the reload, its time begins only now.
    scene.clock.advance(8 * DAY);
    wait_until("it is looked at", SOON, async || retirement(&scene).await.is_none_or(|end| end > shown + 86_400.0))
        .await;
    scene.clock.advance(8 * DAY);
    let records = scene.recorded("token_outdated", 1).await;
    assert_eq!(records[0]["token"], "old");
    assert_eq!(scene.metric("countersign_token_state", &[("token", "old"), ("state", "retired")]).await, 1.0);
    assert_eq!(retirement(&scene).await, None, "there is nothing left to retire");
    wait_until("the new one works", SOON, async || scene.get("/v2/x").await.status == 200).await;
    scene.finish().await;
}

#[tokio::test]
async fn a_way_back_that_waits_for_an_approval_is_one() {
    let api = Api::start().await;
    let scene = api.setup("2.0.0").start().await;
    scene.ready().await;
    wait_until("the end is in sight", SOON, async || retirement(&scene).await.is_some()).await;
    scene.clock.advance(6 * DAY);
    let before = retirement(&scene).await.expect("it is shown");
    scene.reload(&api.setup("1.9.0").approval("default = \"ask\"")).await.expect("taken");
    scene.reaches("countersign_access_requests_pending", &[], 1.0).await;
    scene.clock.advance(2 * DAY);
    wait_until("it begins anew", SOON, async || retirement(&scene).await.is_some_and(|end| end > before)).await;
    assert!(trail::of(&scene.finish().await, "token_outdated").is_empty());
}

#[tokio::test]
async fn a_restart_does_not_forget_since_when_a_version_has_gone() {
    let api = Api::start().await;
    let folder = Arc::new(tempfile::TempDir::new().expect("a temporary folder"));
    std::fs::write(folder.path().join("client-secret"), "secret").expect("written");
    let scene = Scene::start_in(folder.clone(), &api.setup("2.0.0")).await;
    wait_until("it is looked at", SOON, async || retirement(&scene).await.is_some()).await;
    let before = retirement(&scene).await.expect("it is shown");
    scene.clock.advance(6 * DAY);
    scene.ready().await;
    scene.finish().await;
    let scene = Scene::start_in(folder.clone(), &api.setup("2.0.0")).await;
    wait_until("it is looked at", SOON, async || retirement(&scene).await.is_some()).await;
    let left = retirement(&scene).await.expect("it is shown") - before;
    assert!(left < -5.0 * 86_400.0, "a day is left, of seven: {left}");
    scene.clock.advance(DAY + Duration::from_secs(3600));
    scene.recorded("token_outdated", 1).await;
    scene.finish().await;
    let scene = Scene::start_in(folder, &api.setup("1.9.0")).await;
    assert_eq!(scene.get("/v1/x").await.refusal(), (403, "approval_denied".to_owned()), "it stays retired");
    scene.finish().await;
}
