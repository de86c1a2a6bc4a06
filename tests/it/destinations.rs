//! Where requests may go: what a name leads to is judged whenever it is resolved, and nothing else is dialled.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Issuer, Scene, Setup, Upstream};

/// A route to `api.test`, which each resolution leads to the next of these, and to the last one from then on.
async fn flipping(upstream: &Upstream, answers: &'static [&'static [&'static str]]) -> (Scene, Arc<AtomicUsize>) {
    let issuer = Issuer::start().await;
    let questions = Arc::new(AtomicUsize::new(0));
    let asked = questions.clone();
    let lines = format!(
        "token = \"api\"\nupstream = \"https://api.test:{}\"\ntls = {{ ca = \"file:{}\" }}",
        upstream.address.port(),
        upstream.certificate.ca().display()
    );
    let setup = Setup::new().workers(1).token("api", &issuer, "hosts = [\"api.test\"]").route("api", upstream, &lines);
    let scene = setup.resolver(move |_| {
        let at = asked.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
        Ok(answers[at].iter().map(|ip| ip.parse::<IpAddr>().expect("an address")).collect())
    });
    let scene = scene.start().await;
    scene.ready().await;
    (scene, questions)
}

async fn upstream() -> Upstream {
    Upstream::with("127.0.0.1", crate::support::certificate::Certificate::new(&["api.test"], &["http/1.1"])).await
}

#[tokio::test]
async fn a_name_that_flips_to_another_address_is_judged_anew() {
    let upstream = upstream().await;
    let (scene, questions) = flipping(&upstream, &[&["127.0.0.1"], &["169.254.169.254"]]).await;
    for _ in 0..3 {
        assert_eq!(scene.get("/api/x").await.status, 200);
    }
    assert_eq!(questions.load(Ordering::SeqCst), 1, "a connection keeps the address that was judged");
    upstream.close_connections().await;
    let answer = scene.get("/api/x").await;
    assert_eq!(answer.refusal(), (403, "destination_prohibited".to_owned()));
    assert!(answer.header("proxy-status").is_some_and(|status| status.contains("destination_ip_prohibited")));
    assert_eq!((upstream.count(), upstream.connections()), (3, 1));
    scene.finish().await;
}

#[tokio::test]
async fn one_address_that_is_prohibited_spoils_all_the_others() {
    let upstream = upstream().await;
    for answers in [
        &["127.0.0.1", "10.0.0.1"][..],
        &["fd00:ec2::254", "127.0.0.1"],
        &["127.0.0.1", "8.8.8.8", "::ffff:192.168.0.1"],
        &["64:ff9b:1::10.0.0.1", "127.0.0.1"],
    ] {
        let (scene, _) = flipping(&upstream, Box::leak(Box::new([answers]))).await;
        assert_eq!(scene.get("/api/x").await.refusal(), (403, "destination_prohibited".to_owned()), "{answers:?}");
        scene.finish().await;
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_route_that_leads_back_to_us_is_refused() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let setup = Setup::api(&issuer, &upstream);
    let scene = setup.start().await;
    for own in [scene.proxy, scene.telemetry] {
        let looped = format!("upstream = \"https://127.0.0.1:{}\"", own.port());
        let again = setup.clone().route("own", &upstream, &looped);
        scene.reload(&again).await.expect("a good config");
        let answer = scene.get("/own/x").await;
        assert_eq!(answer.refusal(), (403, "destination_prohibited".to_owned()));
        assert!(answer.text().contains("our own listener"), "{}", answer.text());
    }
    scene.finish().await;
}
