//! What is done about unusual use besides taking the token from everybody: clients are throttled, have to be approved, are
//! blocked; the token is replaced.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::alerts::{brief, receiver, webhook};
use crate::support::client::Answer;
use crate::support::issuer::Reply;
use crate::support::operator::{approver, json_of, own, release, release_client};
use crate::support::{Issuer, SOON, Scene, Upstream, trail, wait_for, wait_until};
use crate::unusual::{BETWEEN, Place, attack_until_refused, heard, learn};

/// In mode respond, with this done about everything.
fn always(response: &str) -> String {
    format!("mode = \"respond\"\n[[detect.rule]]\nrespond = \"{response}\"")
}

/// The request that decides what is held back.
async fn request_of(scene: &Scene) -> String {
    held(scene).await[0]["request"].as_str().expect("an id").to_owned()
}

async fn approve(scene: &Scene, id: &str) {
    wait_until("it is approved", SOON, async || {
        let asked = approver(scene, &format!("GET /v1/requests/{id}"), json!({})).await;
        if asked.status != 200 {
            return false;
        }
        let body = json!({ "digest": json_of(&asked)["digest"], "reason": "it is a migration" });
        approver(scene, &format!("POST /v1/requests/{id}/approve"), body).await.status == 200
    })
    .await;
}

/// What is held back from the one client.
async fn held(scene: &Scene) -> Vec<Value> {
    let clients = json_of(&own(scene, "GET /v1/clients", "").await);
    clients["clients"][0]["held"].as_array().expect("a list").clone()
}

async fn delete(scene: &Scene) -> Answer {
    scene.exchange("DELETE /api/usual HTTP/1.1\r\nHost: localhost\r\n\r\n").await
}

#[tokio::test]
async fn a_throttled_client_goes_on_as_usual_until_it_asks_for_no_more() {
    let place = Place::new().await;
    let setup = place.setup().detect(&always("throttle"));
    let scene = place.usual(&setup).await;
    let refused = attack_until_refused(&scene).await;
    assert_eq!(refused.refusal(), (429, "throttled".to_owned()));
    let wait: u64 = refused.header("retry-after").and_then(|wait| wait.parse().ok()).expect("seconds");
    assert!((1..=300).contains(&wait), "12 an hour at least: {wait}");
    let told = scene.recorded("client_held", 1).await.remove(0);
    assert_eq!((&told["hold"], &told["token"], &told["client"]), (&json!("throttle"), &json!("api"), &json!("local")));
    assert!(told["since"].as_str() <= told["time"].as_str(), "{told}");
    scene.reaches("countersign_client_held", &[("client", "local"), ("token", "api"), ("hold", "throttle")], 1.0).await;
    scene.reaches("countersign_refused_total", &[("reason", "throttled")], 1.0).await;
    scene.reaches("countersign_time_to_detect_seconds_count", &[], 1.0).await;

    // Whoever goes on asking for too much gets no more than before, however long.
    let mut client = scene.client().await;
    for _ in 0..8 {
        scene.clock.advance(Duration::from_secs(1800));
        let answers: Vec<u16> = {
            let mut answers = Vec::new();
            for number in 0..20 {
                answers.push(client.get(&format!("/api/admin/{number}")).await.status);
            }
            answers
        };
        assert!(answers.iter().filter(|status| **status == 429).count() >= 16, "{answers:?}");
    }
    scene.finish().await;
    let scene = place.start(&setup).await;
    assert_eq!(held(&scene).await[0]["hold"], "throttle", "over a restart");
    scene.clock.advance(BETWEEN * 122);
    wait_until("it is over", SOON, async || {
        scene.clock.advance(Duration::from_secs(1200));
        assert_eq!(scene.get("/api/usual").await.status, 200, "what is usual passes");
        held(&scene).await.is_empty()
    })
    .await;
    let released = scene.recorded("client_released", 1).await.remove(0);
    assert_eq!((&released["by"], &released["token"]), (&json!("detection"), &json!("api")));
    wait_until("nothing is held", SOON, async || scene.metric("countersign_client_held", &[]).await == 0.0).await;
    // What comes back is answered again, however soon.
    assert_eq!(attack_until_refused(&scene).await.refusal(), (429, "throttled".to_owned()));
}

#[tokio::test]
async fn one_command_ends_a_throttle() {
    let place = Place::new().await;
    let scene = place.usual(&place.setup().detect(&always("throttle"))).await;
    assert_eq!(attack_until_refused(&scene).await.status, 429);
    wait_until("it has used up what is usual", SOON, async || scene.get("/api/usual").await.status == 429).await;
    assert_eq!(release(&scene, "api").await.status, 200);
    assert_eq!(scene.get("/api/usual").await.status, 200);
    assert!(held(&scene).await.is_empty());
    assert_eq!(release(&scene, "api").await.status, 409, "there is nothing more to release");
    assert!(!trail::of(&scene.finish().await, "token_released").is_empty());
}

#[tokio::test]
async fn a_use_that_needs_approval_goes_on_when_it_is_approved() {
    let place = Place::new().await;
    let setup = place.setup().detect(&always("approval"));
    let scene = place.usual(&setup).await;
    let refused = attack_until_refused(&scene).await;
    assert_eq!(refused.refusal(), (403, "approval_pending".to_owned()));
    let id = request_of(&scene).await;
    assert!(refused.text().contains(&format!("countersign requests approve {id}")), "{}", refused.text());
    let asked = wait_for("it is asked", SOON, async || {
        let answer = approver(&scene, &format!("GET /v1/requests/{id}"), json!({})).await;
        (answer.status == 200).then(|| json_of(&answer))
    })
    .await;
    assert_eq!(asked["state"], "pending");
    assert!(asked.to_string().contains("unusual use by local"), "{asked}");
    let body = json!({ "digest": asked["digest"], "reason": "it is a migration" });
    let approved = approver(&scene, &format!("POST /v1/requests/{id}/approve"), body).await;
    assert_eq!(approved.status, 200, "{}", approved.text());
    wait_until("it goes on", SOON, async || scene.get("/api/usual").await.status == 200).await;
    let released = scene.recorded("client_released", 1).await.remove(0);
    assert_eq!((&released["by"], &released["client"]), (&json!("approver"), &json!("local")));
    // Nothing else came of it: the token is the same.
    assert_eq!(trail::of(&scene.finish().await, "token_issued").len(), 1);
}

#[tokio::test]
async fn what_is_approved_is_not_asked_about_again_and_what_is_new_is() {
    let place = Place::new().await;
    let scene = place.usual(&place.setup().detect(&always("approval"))).await;
    assert_eq!(attack_until_refused(&scene).await.status, 403);
    approve(&scene, &request_of(&scene).await).await;
    wait_until("it goes on", SOON, async || scene.get("/api/usual").await.status == 200).await;
    // The same is done on and on, and stronger than when it was asked about.
    let mut client = scene.client().await;
    for number in 0..400 {
        assert_eq!(client.get(&format!("/api/admin/{number}")).await.status, 404, "{number}");
    }
    scene.reaches("countersign_token_uses_total", &[("token", "api"), ("outcome", "client_error")], 400.0).await;
    assert_eq!(held(&scene).await, [json!(null); 0]);
    assert_eq!(delete(&scene).await.status, 200);
    wait_until("that was not approved", SOON, async || scene.get("/api/usual").await.status == 403).await;
    let reason = held(&scene).await[0]["reason"].as_str().expect("a text").to_owned();
    assert!(reason.contains("first DELETE") && !reason.contains("requests in a minute"), "{reason}");
}

#[tokio::test]
async fn a_use_whose_request_is_lost_is_asked_about_by_another() {
    let place = Place::new().await;
    let setup = place.setup().detect(&always("approval"));
    let scene = place.usual(&setup).await;
    assert_eq!(attack_until_refused(&scene).await.status, 403);
    let lost = request_of(&scene).await;
    let record = scene.folder().join(format!("state/sealed/request-{lost}.sealed"));
    wait_until("it is asked", SOON, async || record.exists()).await;
    scene.finish().await;
    std::fs::remove_file(&record).expect("removed");
    let scene = place.start(&setup).await;
    wait_until("another asks", SOON, async || request_of(&scene).await != lost).await;
    approve(&scene, &request_of(&scene).await).await;
    wait_until("it goes on", SOON, async || scene.get("/api/usual").await.status == 200).await;
}

#[tokio::test]
async fn what_the_disk_does_not_take_is_held_back_all_the_same_and_kept_as_soon_as_it_does() {
    let place = Place::new().await;
    let setup = place.setup().detect("mode = \"respond\"\nrespond = { new_method = \"block\" }");
    let scene = place.usual(&setup).await;
    let (sealed, away) = (scene.folder().join("state/sealed"), scene.folder().join("away"));
    std::fs::rename(&sealed, &away).expect("moved");
    assert_eq!(delete(&scene).await.status, 200);
    wait_until("it is blocked", SOON, async || scene.get("/api/usual").await.status == 403).await;
    let refused = wait_for("the disk's word", SOON, async || {
        let answer = approver(&scene, "POST /v1/clients/local/release", json!({ "reason": "us" })).await;
        answer.text().contains("not_kept").then_some(answer)
    })
    .await;
    assert!(refused.text().contains("nothing is let in"), "{}", refused.text());
    assert_eq!(scene.get("/api/usual").await.status, 403);
    std::fs::rename(&away, &sealed).expect("moved back");
    wait_until("it is kept", SOON, async || sealed.join("hold-local.sealed").exists()).await;
    scene.finish().await;
    let scene = place.start(&setup).await;
    assert_eq!(scene.get("/api/usual").await.status, 403, "over a restart");
    assert_eq!(release_client(&scene, "local").await.status, 200);
    assert_eq!(scene.get("/api/usual").await.status, 200);
}

#[tokio::test]
async fn the_alert_about_a_client_is_over_when_it_is_released() {
    let (place, hook) = (Place::new().await, receiver().await);
    let respond = "mode = \"respond\"\nrespond = { new_method = \"block\" }";
    let scene = place.usual(&place.setup().detect(respond).alert(&webhook(&hook))).await;
    assert_eq!(delete(&scene).await.status, 200);
    let last = async |what: &str| heard(&hook).last().is_some_and(|call| brief(call).starts_with(what));
    wait_until("it is told", SOON, async || last("alert.firing").await).await;
    assert_eq!(release_client(&scene, "local").await.status, 200);
    wait_until("it is over", SOON, async || last("alert.resolved").await).await;
}

#[tokio::test]
async fn a_use_that_is_denied_stays_out_over_a_restart_until_it_is_released() {
    let place = Place::new().await;
    let setup = place.setup().detect(&always("approval"));
    let scene = place.usual(&setup).await;
    assert_eq!(attack_until_refused(&scene).await.status, 403);
    let id = request_of(&scene).await;
    let path = format!("POST /v1/requests/{id}/deny");
    wait_until("it is denied", SOON, async || {
        approver(&scene, &path, json!({ "reason": "nobody knows of it" })).await.status == 200
    })
    .await;
    let denied = (403, "approval_denied".to_owned());
    wait_until("it is told", SOON, async || scene.get("/api/usual").await.refusal() == denied).await;
    wait_until("it is kept", SOON, async || held(&scene).await[0]["hold"] == "denied").await;
    scene.finish().await;
    let scene = place.start(&setup).await;
    assert_eq!(scene.get("/api/usual").await.refusal(), denied);
    assert_eq!(release(&scene, "api").await.status, 200);
    assert_eq!(scene.get("/api/usual").await.status, 200);
}

#[tokio::test]
async fn a_blocked_client_gets_nothing_anywhere_until_one_command_releases_it() {
    let place = Place::new().await;
    let respond = "mode = \"respond\"\nrespond = { new_method = \"block\" }";
    let other = Upstream::http1().await;
    let plain = place.setup().route("plain", &other, "");
    let setup = plain.clone().detect(respond);
    let scene = place.usual(&setup).await;
    assert_eq!(delete(&scene).await.status, 200);
    let blocked = (403, "client_unknown".to_owned());
    wait_until("it is blocked", SOON, async || scene.get("/api/usual").await.status != 200).await;
    let reached = place.upstream.count();
    assert_eq!(scene.get("/api/usual").await.refusal(), blocked);
    assert_eq!(scene.get("/plain/usual").await.refusal(), blocked, "nor without a token");
    let tunnel = format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", other.address);
    assert_eq!(scene.exchange(&tunnel).await.refusal(), blocked, "nor through a tunnel");
    assert_eq!((place.upstream.count(), other.count()), (reached, 0), "nothing leaves");
    let told = scene.recorded("client_held", 1).await.remove(0);
    assert_eq!((&told["hold"], &told["by"], told.get("token")), (&json!("block"), &json!("detection"), None));
    scene.reaches("countersign_anomalies_total", &[("response", "block")], 1.0).await;
    scene.finish().await;

    let scene = place.start(&setup).await;
    assert_eq!(scene.get("/plain/usual").await.refusal(), blocked, "over a restart");
    scene.reload(&plain).await.expect("taken");
    assert_eq!(scene.get("/api/usual").await.refusal(), blocked, "whatever the config says by now");
    assert_eq!(release_client(&scene, "nobody").await.status, 404);
    let body = json!({ "reason": "us" }).to_string();
    assert_eq!(own(&scene, "POST /v1/clients/local/release", &body).await.status, 403, "a responder lets nobody in");
    let released = release_client(&scene, "local").await;
    assert_eq!(json_of(&released), json!({ "name": "local", "held": [] }));
    assert_eq!(scene.get("/plain/usual").await.status, 200);
    assert_eq!(scene.get("/api/usual").await.status, 200);
    assert_eq!(release_client(&scene, "local").await.status, 409);
    assert!(!trail::of(&scene.finish().await, "client_released").is_empty());
}

#[tokio::test]
async fn the_first_request_of_the_second_after_the_one_that_crosses_is_refused() {
    let place = Place::new().await;
    let scene = place.usual(&place.setup().detect("mode = \"respond\"\nrespond = { new_method = \"block\" }")).await;
    let mut took = Vec::new();
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let crossing = format!("{method} /api/usual HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(scene.exchange(crossing).await.status, 200, "{method}");
        let crossed = Instant::now();
        let mut client = scene.client().await;
        wait_until("it is blocked", SOON, async || client.get("/api/usual").await.status == 403).await;
        took.push(crossed.elapsed());
        assert_eq!(release_client(&scene, "local").await.status, 200);
        assert_eq!(scene.get("/api/usual").await.status, 200);
    }
    println!("from a crossing request to the first that is refused: {took:?}");
    // A machine that is busy with other things may take longer at times, and not each time.
    assert!(took.iter().any(|took| *took <= Duration::from_secs(1)), "{took:?}");
    assert_eq!(trail::of(&scene.finish().await, "client_held").len(), 4);
}

#[tokio::test]
async fn a_record_of_a_hold_that_was_edited_blocks_its_client() {
    let place = Place::new().await;
    let setup = place.setup().detect("mode = \"respond\"\nrespond = { new_method = \"throttle\" }");
    let scene = place.usual(&setup).await;
    assert_eq!(delete(&scene).await.status, 200);
    scene.recorded("client_held", 1).await;
    let record = scene.folder().join("state/sealed/hold-local.sealed");
    wait_until("it is kept", SOON, async || record.exists()).await;
    scene.finish().await;
    let mut sealed = std::fs::read(&record).expect("it is there");
    *sealed.last_mut().expect("some bytes") ^= 1;
    std::fs::write(&record, &sealed).expect("written");
    let scene = place.start(&setup).await;
    assert_eq!(scene.get("/api/usual").await.refusal(), (403, "client_unknown".to_owned()));
    assert_eq!(release_client(&scene, "local").await.status, 200);
    assert_eq!(scene.get("/api/usual").await.status, 200);
    assert_eq!(trail::of(&scene.finish().await, "state_rejected").len(), 1);
}

#[tokio::test]
async fn a_replaced_token_is_void_at_its_issuer_and_requests_go_on_with_the_next() {
    let told = Issuer::answering(|_| Reply::json(200, "")).await;
    let issuer = Issuer::start().await;
    let place = Place::new().await;
    let setup = place
        .setup()
        .without("token", "api")
        .token_revoked_at("api", &issuer, &told.url(), "rotation = { overlap = \"1h\" }")
        .detect("mode = \"respond\"\nrespond = { new_method = \"replace\" }");
    place.keep("client-secret", "first-client-secret");
    let scene = place.start(&setup).await;
    learn(&scene).await;
    assert_eq!(delete(&scene).await.status, 200);
    let done = scene.recorded("replacement_finished", 1).await.remove(0);
    assert_eq!((&done["complete"], &done["token"]), (&json!(true), &json!("api")));
    let started = scene.recorded("replacement_started", 1).await.remove(0);
    assert_eq!((&started["generation"], &started["by"]), (&done["replaced"], &json!("detection")));
    let void = scene.recorded("generation_revoked", 1).await;
    assert!(void.iter().any(|void| void["generation"] == started["generation"]), "{void:?}");
    scene.reaches("countersign_time_to_replace_seconds_count", &[], 1.0).await;
    scene.reaches("countersign_time_to_detect_seconds_count", &[], 1.0).await;
    assert_eq!(scene.get("/api/usual").await.status, 200);
    let last = place.upstream.last();
    assert_eq!(last.header("authorization"), Some(&*format!("Bearer tok-{}", done["generation"])));
}

#[tokio::test]
async fn a_phantom_key_where_it_cannot_be_blocks_the_client_that_it_came_from() {
    const KEY: &str = "sk-0phantom0K3yOfTheApp0123456789abcdefghijklmnopqr";
    let place = Place::new().await;
    place.keep("app.key", KEY);
    let own = rustix::process::geteuid().as_raw();
    let setup = place.setup().client("app", &format!("uid = {own}\nkey = \"file:app.key\""));
    let get = |target: &str, key: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n")
    };
    for (mode, status) in [("alert", 200), ("respond", 403)] {
        let scene = place.start(&setup.clone().detect(&format!("mode = \"{mode}\""))).await;
        assert_eq!(scene.exchange(get("/api/usual", KEY)).await.status, 200);
        assert_eq!(scene.exchange(get(&format!("/api/usual?q={KEY}"), KEY)).await.status, 403);
        let done = if mode == "respond" { "block" } else { "alert" };
        let told = wait_for("it is told", SOON, async || {
            scene.trail().into_iter().find(|record| record["signal"] == "tripwire" && record["response"] == done)
        })
        .await;
        assert_eq!((&told["client"], &told["severity"]), (&json!("app"), &json!("critical")));
        if mode == "respond" {
            wait_until("it is blocked", SOON, async || !held(&scene).await.is_empty()).await;
        }
        let answer = scene.exchange(get("/api/usual", KEY)).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        scene.reaches("countersign_anomalies_total", &[("signal", "tripwire"), ("response", done)], 1.0).await;
        if mode == "respond" {
            assert_eq!(answer.refusal().1, "client_unknown");
            assert_eq!(release_client(&scene, "app").await.status, 200);
            assert_eq!(scene.exchange(get("/api/usual", KEY)).await.status, 200);
            // Whoever lets it in again has not said that it may do that again.
            assert_eq!(scene.exchange(get(&format!("/api/usual?q={KEY}"), KEY)).await.status, 403);
            wait_until("it is blocked again", SOON, async || !held(&scene).await.is_empty()).await;
        }
        scene.finish().await;
    }
}

#[tokio::test]
async fn credentials_of_the_apps_own_are_told_once_for_each_client_with_and_without_a_token() {
    let place = Place::new().await;
    let plain = Upstream::http1().await;
    let scene = place.start(&place.setup().route("plain", &plain, "")).await;
    for _ in 0..3 {
        for path in ["/api/usual", "/plain/usual"] {
            let own = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer mine\r\n\r\n");
            assert_eq!(scene.exchange(own).await.status, 200);
        }
        scene.clock.advance(BETWEEN);
    }
    scene.recorded("anomaly", 2).await;
    let records = scene.finish().await;
    let told = trail::of(&records, "anomaly");
    let brief: Vec<_> = told.iter().map(|told| (told["signal"].as_str(), told["token"].as_str())).collect();
    assert_eq!(brief, [(Some("shadow"), Some("api")), (Some("shadow"), None)], "{told:?}");
    assert!(told[1]["said"].as_str().is_some_and(|said| said.contains("127.0.0.1")), "{}", told[1]);
}

#[tokio::test]
async fn other_scopes_and_an_issuer_that_refuses_what_it_granted_are_told() {
    let place = Place::new().await;
    let granting = |scopes: &'static str| {
        move |number| {
            let token = json!({
                "access_token": format!("tok-{number}"), "token_type": "Bearer", "expires_in": 3600, "scope": scopes,
            });
            Reply::json(200, &token.to_string())
        }
    };
    let issuer = Issuer::answering(granting("read")).await;
    place.keep("client-secret", "first-client-secret");
    let setup = place.setup().without("token", "api").token("api", &issuer, "");
    let scene = place.start(&setup).await;
    wait_until("it is looked at", SOON, async || scene.rotate("api").await.is_ok()).await;
    issuer.answers(granting("read write"));
    let told = wait_for("it is told", SOON, async || {
        scene.rotate("api").await.expect("a new one");
        issuer.answers(granting(if issuer.count() % 2 == 0 { "read" } else { "read write" }));
        trail::of(&scene.trail(), "anomaly").first().map(|told| (*told).clone())
    })
    .await;
    assert_eq!((&told["signal"], &told["token"]), (&json!("issuer_change"), &json!("api")));
    assert!(told["said"].as_str().is_some_and(|said| said.contains("other scopes")), "{told}");

    // What was granted for days is refused, again and again.
    for _ in 0..40 {
        scene.clock.advance(BETWEEN);
        scene.rotate("api").await.expect("a new one");
    }
    issuer.answers(|_| Reply::json(400, r#"{"error":"unauthorized_client"}"#));
    wait_until("it is told", SOON, async || {
        // Refused, or asked too soon.
        let _ = scene.rotate("api").await;
        scene.clock.advance(Duration::from_secs(60));
        let said = |told: &Value| told["said"].as_str().is_some_and(|said| said.contains("what was granted before"));
        trail::of(&scene.trail(), "anomaly").into_iter().any(said)
    })
    .await;
}
