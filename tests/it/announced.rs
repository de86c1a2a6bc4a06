//! Services that announce their own end are told of, once, with the date and the link.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::alerts::{SECRET, brief, json as told_of, receiver, webhook};
use crate::support::upstream::Reply;
use crate::support::{Issuer, SOON, Scene, Setup, Upstream, issuer, trail, wait_until};

const SUNSET: &str = "Sun, 30 Jun 2030 23:59:59 GMT";
const LINK: &str = r#"<https://api.example.com/v1/end?k=v>; rel="deprecation"; type="text/html""#;

fn ending(sunset: &'static str) -> impl Fn(&crate::support::upstream::Seen) -> Reply + Send + Sync + 'static {
    move |seen| match seen.target.as_str() {
        "/old" => Reply::ok("ok").header("deprecation", "@1767225600").header("sunset", sunset).header("link", LINK),
        _ => Reply::ok("ok"),
    }
}

#[tokio::test]
async fn an_upstream_that_announces_its_end_is_told_of_once_for_each_date() {
    let (issuer, upstream, hook) = (Issuer::start().await, Upstream::http1().await, receiver().await);
    let folder = Arc::new(TempDir::new().expect("a temporary folder"));
    for (name, text) in [("client-secret", "secret"), ("webhook-secret", SECRET)] {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    let setup = Setup::api(&issuer, &upstream).alert(&webhook(&hook));
    upstream.answers(ending(SUNSET));
    let scene = Scene::start_in(folder.clone(), &setup).await;
    scene.ready().await;
    assert_eq!(scene.get("/api/new").await.status, 200);
    for _ in 0..3 {
        let answer = scene.get("/api/old").await;
        assert_eq!((answer.status, answer.header("sunset")), (200, Some(SUNSET)), "the app is told too");
    }
    let told = scene.recorded("upstream_change", 2).await;
    let brief_of =
        |record: &serde_json::Value| json!([record["route"], record["change"], record["at"], record["link"]]);
    let link = "https://api.example.com/v1/end";
    assert_eq!(brief_of(&told[0]), json!(["api", "deprecation", "2026-01-01T00:00:00.000Z", link]));
    assert_eq!(brief_of(&told[1]), json!(["api", "sunset", "2030-06-30T23:59:59.000Z", link]));
    let labels = [("route", "api"), ("issuer", ""), ("change", "sunset")];
    assert_eq!(scene.metric("countersign_service_change_timestamp_seconds", &labels).await, 1_909_094_399.0);
    let is_told = || {
        let calls = hook.calls();
        let alert = calls.iter().rev().find(|call| brief(call).contains("CountersignServiceEnding"))?;
        Some(told_of(alert)["data"].clone())
    };
    wait_until("somebody is told", SOON, async || is_told().is_some()).await;
    let alert = is_told().expect("it is told");
    assert_eq!((&alert["severity"], &alert["route"]), (&json!("medium"), &json!("api")));
    assert!(alert["description"].as_str().is_some_and(|text| text.contains(link)), "{alert}");
    scene.finish().await;

    // Neither a restart nor the same words are news; another date is, an hour later.
    let scene = Scene::start_in(folder, &setup).await;
    scene.ready().await;
    assert_eq!(scene.metric("countersign_service_change_timestamp_seconds", &labels).await, 1_909_094_399.0);
    assert_eq!(scene.get("/api/old").await.status, 200);
    scene.clock.advance(Duration::from_secs(3601));
    upstream.answers(ending("Mon, 01 Jul 2030 23:59:59 GMT"));
    assert_eq!(scene.get("/api/old").await.status, 200);
    let told = scene.recorded("upstream_change", 4).await;
    assert_eq!(told[3]["at"], "2030-07-01T23:59:59.000Z");
    // A route that is gone announces nothing.
    scene
        .reload(&Setup::new().token("api", &issuer, "").route("other", &upstream, "token = \"api\""))
        .await
        .expect("taken");
    wait_until("it is forgotten", SOON * 2, async || {
        scene.scrape().await.find("countersign_service_change_timestamp_seconds", &labels).is_none()
    })
    .await;
    assert_eq!(trail::of(&scene.finish().await, "upstream_change").len(), 4);
}

#[tokio::test]
async fn an_issuer_that_announces_its_end_is_told_of_by_its_url() {
    let upstream = Upstream::http1().await;
    let issuer = Issuer::answering(|number| {
        let token = json!({ "access_token": format!("tok-{number}"), "token_type": "Bearer", "expires_in": 3600 });
        issuer::Reply::with(200, "Deprecation: true\r\nContent-Type: application/json\r\n", &token.to_string())
    })
    .await;
    let scene = Setup::api(&issuer, &upstream).start().await;
    scene.ready().await;
    assert_eq!(scene.rotate("api").await.expect("a generation"), 2);
    let told = scene.recorded("issuer_change", 1).await;
    assert_eq!((&told[0]["change"], told[0].get("at")), (&json!("deprecation"), None));
    assert_eq!(told[0]["issuer"], issuer.url());
    let labels = [("issuer", &*issuer.url()), ("change", "deprecation")];
    scene.reaches("countersign_alerts_open", &[], 1.0).await;
    assert_eq!(scene.scrape().await.find("countersign_service_change_timestamp_seconds", &labels), Some(0.0));
    assert_eq!(trail::of(&scene.finish().await, "issuer_change").len(), 1, "once");
}
