//! Drills: a compromise rehearsed under load. What clients, the upstream, the issuer and the trail see of it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::issuer::Reply;
use crate::support::operator::{act, json_of, key, own};
use crate::support::{Gate, Issuer, SOON, Scene, Setup, Upstream, trail, upstream, wait_until};

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

    async fn start(&self) -> Scene {
        let own = rustix::process::getuid().as_raw();
        let scene = Setup::new()
            .token_revoked_at("api", &self.issuer, &self.told.url(), "rotation = { overlap = \"1h\" }")
            .route("api", &self.upstream, "token = \"api\"")
            .operator("guard", &format!("uid = {own}\nroles = [\"responder\"]"))
            .operator("viewer", &format!("{}\nroles = [\"viewer\"]", key("the viewer's key")))
            .start()
            .await;
        scene.ready().await;
        scene
    }

    /// The tokens that the issuer was told are void.
    fn void(&self) -> Vec<String> {
        self.told.calls().iter().filter_map(|call| call.fields.get("token").cloned()).collect()
    }
}

fn step<'a>(drill: &'a Value, name: &str) -> &'a Value {
    let steps = drill["steps"].as_array().expect("steps");
    steps.iter().find(|step| step["step"] == name).expect("the step")
}

#[tokio::test]
async fn a_drill_under_load_replaces_the_token_and_no_request_fails() {
    let place = Place::new().await;
    let scene = place.start().await;
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let mut client = scene.client().await;
        load.spawn(async move {
            loop {
                assert_eq!(client.get("/api/x").await.status, 200);
            }
        });
    }
    wait_until("there is load", SOON, async || place.upstream.count() > 50).await;
    let answer = act(&scene, "api", "drill", None).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let drill = json_of(&answer);
    assert_eq!((&drill["complete"], &drill["replaced"], &drill["generation"]), (&json!(true), &json!(1), &json!(2)));
    for name in ["replace", "quarantine", "revoke"] {
        assert_eq!((&step(&drill, name)["done"], &step(&drill, name)["note"]), (&json!(true), &Value::Null), "{name}");
    }
    // It does not wait until the overlap of a rotation is over.
    assert_eq!(place.void(), ["tok-1"]);
    let at_its_end = place.upstream.count();
    wait_until("the load goes on", SOON, async || place.upstream.count() > at_its_end + 50).await;
    assert!(load.try_join_next().is_none(), "a request failed");
    load.shutdown().await;
    assert_eq!(place.upstream.last().header("authorization"), Some("Bearer tok-2"));
    scene.reaches("countersign_time_to_replace_seconds_count", &[], 1.0).await;
    let records = scene.finish().await;
    let (started, finished) = (trail::of(&records, "drill_started"), trail::of(&records, "drill_finished"));
    assert_eq!((&started[0]["by"], &started[0]["generation"]), (&json!("guard"), &json!(1)));
    assert_eq!((&finished[0]["complete"], &finished[0]["generation"]), (&json!(true), &json!(2)));
    assert!(finished[0]["revoke_ms"].is_u64(), "{}", finished[0]);
}

#[tokio::test]
async fn the_old_generation_is_not_voided_while_a_request_with_it_waits_for_its_answer() {
    let place = Place::new().await;
    let scene = place.start().await;
    let gate = Gate::closed();
    let held = gate.clone();
    place.upstream.answers(move |_| upstream::Reply::ok("late").behind(&held));
    let mut client = scene.client().await;
    client.send("GET /api/slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    wait_until("the upstream has it", SOON, async || place.upstream.count() == 1).await;
    let drilling = act(&scene, "api", "drill", None);
    let watching = async {
        wait_until("the new generation is live", SOON, async || {
            scene.metric("countersign_token_generation", &[("token", "api")]).await == 2.0
        })
        .await;
        assert_eq!(place.void(), [""; 0], "somebody waits with the old one");
        gate.open();
        client.answer().await.expect("an answer")
    };
    let (drill, answer) = tokio::join!(drilling, watching);
    assert_eq!((drill.status, answer.status), (200, 200));
    assert_eq!((&json_of(&drill)["complete"], place.void()), (&json!(true), vec!["tok-1".to_owned()]));
}

#[tokio::test]
async fn a_token_has_one_drill_at_a_time() {
    let place = Place::new().await;
    let scene = place.start().await;
    let gate = Gate::closed();
    place.issuer.next(Reply::token("late", 3600).behind(&gate));
    let second = async {
        wait_until("the issuer is asked", SOON, async || place.issuer.count() == 2).await;
        let second = act(&scene, "api", "drill", None).await;
        gate.open();
        second.refusal()
    };
    let (first, second) = tokio::join!(act(&scene, "api", "drill", None), second);
    assert_eq!(second, (409, "not_done".to_owned()));
    assert_eq!((first.status, &json_of(&first)["complete"]), (200, &json!(true)));
    scene.clock.advance(Duration::from_secs(120));
    assert_eq!(act(&scene, "api", "drill", None).await.status, 200, "the first one is over");
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "drill_started").len(), 2);
}

#[tokio::test]
async fn a_drill_says_what_it_could_not_do() {
    let place = Place::new().await;
    let scene = place.start().await;
    assert_eq!(own(&scene, "POST /v1/tokens/api/drill", "{}").await.refusal(), (422, "invalid".to_owned()));
    let viewer = act(&scene, "api", "drill", Some("the viewer's key")).await;
    assert_eq!(viewer.refusal(), (403, "not_allowed".to_owned()));
    assert_eq!(act(&scene, "none", "drill", None).await.refusal(), (404, "no_token".to_owned()));
    place.issuer.next(Reply::json(503, "{}"));
    assert_eq!(act(&scene, "api", "drill", None).await.refusal(), (502, "not_rotated".to_owned()));
    assert_eq!(scene.get("/api/x").await.status, 200, "the live generation stays");
    place.told.next(Reply::json(400, r#"{"error":"unsupported_token_type"}"#));
    scene.clock.advance(Duration::from_secs(120));
    let drill = json_of(&act(&scene, "api", "drill", None).await);
    assert_eq!((&drill["complete"], &step(&drill, "replace")["done"]), (&json!(false), &json!(true)));
    assert!(step(&drill, "revoke")["note"].as_str().is_some_and(|note| note.contains("refuses")), "{drill}");
    assert_eq!(act(&scene, "api", "quarantine", None).await.status, 200);
    assert_eq!(act(&scene, "api", "drill", None).await.refusal(), (409, "not_rotated".to_owned()));
    let records = scene.finish().await;
    let finished = trail::of(&records, "drill_finished");
    let complete: Vec<&Value> = finished.iter().map(|record| &record["complete"]).collect();
    assert_eq!(complete, [&json!(false), &json!(false)]);
}
