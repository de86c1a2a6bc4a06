//! Upstreams refuse what has just gone live: the generation before takes its place again.

use crate::support::upstream::{Reply, Seen};
use crate::support::{Issuer, SOON, Scene, Setup, Upstream, wait_until};

/// A token whose issuer is told what is void, with lines of its own.
fn setup(issuer: &Issuer, upstream: &Upstream, rotation: &str) -> Setup {
    Setup::new().token_revoked_at("api", issuer, &issuer.url().replace("/token", "/revoke"), rotation).route(
        "api",
        upstream,
        r#"token = "api""#,
    )
}

fn refuses(token: &'static str) -> impl Fn(&Seen) -> Reply + Send + Sync + 'static {
    move |seen| if seen.all("authorization") == [token] { Reply::new(403) } else { Reply::ok("ok") }
}

/// What issuers were told of.
fn told(issuer: &Issuer) -> Vec<String> {
    let calls = issuer.calls().into_iter().filter(|call| call.head.starts_with("POST /revoke"));
    calls.map(|call| call.fields["token"].clone()).collect()
}

/// Uses the first generation without trouble, and rotates.
async fn rotated(scene: &Scene) {
    scene.ready().await;
    let mut client = scene.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/api/x").await.status, 200);
    }
    assert_eq!(scene.rotate("api").await.expect("a generation"), 2);
}

#[tokio::test]
async fn a_generation_that_upstreams_refuse_gives_way_to_the_one_before_and_is_voided() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    upstream.answers(refuses("Bearer tok-2"));
    let scene = setup(&issuer, &upstream, "").start().await;
    rotated(&scene).await;
    let mut client = scene.client().await;
    let taken = async || client.get("/api/x").await.status == 200;
    wait_until("requests are taken again", SOON, taken).await;
    assert_eq!(upstream.last().all("authorization"), ["Bearer tok-1"]);
    let record = scene.recorded("token_rolled_back", 1).await.remove(0);
    let numbers = ["generation", "replaces", "restores"].map(|field| record[field].as_u64());
    assert_eq!(numbers, [Some(3), Some(2), Some(1)]);
    let voided = scene.recorded("generation_revoked", 1).await.remove(0);
    assert_eq!((&voided["generation"], &voided["cause"]), (&2.into(), &"rolled_back".into()));
    assert_eq!(told(&issuer), ["tok-2"], "and not the one that is in use again");
    let rolled_back = [("token", "api"), ("outcome", "rolled_back")];
    assert_eq!(scene.metric("countersign_rotations_total", &rolled_back).await, 1.0);
    assert_eq!(scene.metric("countersign_token_generation", &[("token", "api")]).await, 3.0);
    // The next rotation is as any other.
    assert_eq!(scene.rotate("api").await.expect("a generation"), 4);
    assert_eq!(client.get("/api/x").await.status, 200);
    scene.finish().await;
}

#[tokio::test]
async fn a_host_that_refuses_everybody_is_no_reason_to_go_back() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let public = Upstream::http1().await;
    let (other_issuer, other) = (Issuer::start().await, Upstream::http1().await);
    // One worker tells of uses in their order.
    let setup = setup(&issuer, &upstream, "").route("public", &public, "").workers(1);
    let setup = setup.token("other", &other_issuer, "").route("other", &other, "token = \"other\"");
    let scene = setup.start().await;
    rotated(&scene).await;
    let mut client = scene.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/other/x").await.status, 200);
    }
    assert_eq!(scene.rotate("other").await.expect("a generation"), 2);
    for upstream in [&upstream, &public, &other] {
        upstream.answers(|_| Reply::new(403));
    }
    for _ in 0..20 {
        assert_eq!(client.get("/public/x").await.status, 403);
        assert_eq!(client.get("/api/x").await.status, 403);
    }
    // What refuses one token alone, and later than that, is answered.
    for _ in 0..20 {
        assert_eq!(client.get("/other/x").await.status, 403);
    }
    let rolled_back = scene.recorded("token_rolled_back", 1).await;
    assert!(rolled_back.iter().all(|record| record["token"] == "other"), "{rolled_back:?}");
    assert_eq!(scene.rotate("api").await.expect("a generation"), 3, "no number was taken by a roll-back");
    let records = scene.finish().await;
    assert_eq!(crate::support::trail::of(&records, "token_rolled_back").len(), 1);
}

#[tokio::test]
async fn an_issuer_is_not_told_of_a_generation_that_requests_still_carry() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let gate = crate::support::Gate::closed();
    let held = gate.clone();
    upstream.answers(move |seen| match seen.target.as_str() {
        "/slow" => Reply::ok("late").behind(&held),
        _ => Reply::ok("ok"),
    });
    let scene = setup(&issuer, &upstream, "rotation = { overlap = \"0s\" }").start().await;
    scene.ready().await;
    let mut slow = scene.client().await;
    slow.send("GET /api/slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    wait_until("it is at the upstream", SOON, async || upstream.count() == 1).await;
    assert_eq!(scene.rotate("api").await.expect("a generation"), 2);
    assert_eq!(scene.rotate("api").await.expect("a generation"), 3);
    // The second one was carried by nobody.
    wait_until("the second is voided", SOON, async || told(&issuer) == ["tok-2"]).await;
    gate.open();
    assert_eq!(slow.answer().await.expect("an answer").text(), "late");
    wait_until("the first is voided", SOON, async || told(&issuer) == ["tok-2", "tok-1"]).await;
    scene.finish().await;
}
