//! The issuer is down, or the clocks jump: an expired token is never sent, and all is well again by itself.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::client::Answer;
use crate::support::issuer::Reply;
use crate::support::{Gate, Issuer, SOON, Scene, Setup, Upstream, trail, wait_for, wait_until};

const TOKEN: &[(&str, &str)] = &[("token", "api")];

fn down(_: usize) -> Reply {
    Reply::raw("")
}

fn retry_after(answer: &Answer) -> u64 {
    answer.header("retry-after").expect("waiting helps").parse().expect("seconds")
}

async fn in_state(scene: &Scene, state: &str) -> bool {
    scene.metric("countersign_token_state", &[("token", "api"), ("state", state)]).await == 1.0
}

#[tokio::test]
async fn past_expiry_nothing_is_forwarded_and_the_issuers_return_is_enough() {
    let (issuer, upstream) = (Issuer::named("tok", 2).await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    scene.ready().await;
    let issued = Instant::now();
    issuer.answers(down);
    let refused = wait_for("the token expires", SOON, async || {
        let answer = scene.get("/api/x").await;
        (answer.status != 200).then_some(answer)
    });
    let refused = refused.await;
    assert_eq!(refused.refusal(), (503, "token_expired".to_owned()));
    assert!((1..=5).contains(&retry_after(&refused)), "{}", refused.head);
    assert!(issued.elapsed() < Duration::from_secs(3));
    let sent = upstream.count();
    assert!(sent > 0);
    for _ in 0..50 {
        assert_eq!(scene.get("/api/x").await.refusal(), (503, "token_expired".to_owned()));
    }
    assert_eq!(upstream.count(), sent, "nothing is forwarded without its token");
    assert!(in_state(&scene, "expired").await);
    assert_eq!((scene.ask("/readyz").await.status, scene.ask("/startupz").await.status), (503, 200));
    let failed = [("token", "api"), ("reason", "cut_off")];
    assert!(scene.metric("countersign_rotation_failures_total", &failed).await >= 1.0);

    issuer.answers(|_| Reply::token("tok-back", 3600));
    let back = Instant::now();
    let deadline = Duration::from_secs(6);
    wait_until("requests pass again", deadline, async || scene.get("/api/x").await.status == 200).await;
    assert!(back.elapsed() < deadline);
    assert_eq!(upstream.last().all("authorization"), ["Bearer tok-back"]);
    assert!(in_state(&scene, "active").await);
    let calls: Vec<Instant> = issuer.calls().iter().map(|call| call.at).collect();
    let apart = calls.windows(2).all(|pair| pair[1] - pair[0] > Duration::from_millis(900));
    assert!(apart, "however many ask, the issuer is called at most once a second");

    let records = scene.finish().await;
    let refused: u64 =
        trail::of(&records, "token_refused").iter().map(|record| record["count"].as_u64().expect("a number")).sum();
    assert!(refused >= 51, "{refused}");
    let names = trail::events(&records);
    let place = |event: &str| names.iter().position(|name| *name == event).expect(event);
    assert!(place("token_issued") < place("token_failed") && place("token_failed") < place("token_expired"));
    assert!(place("token_expired") < place("token_rotated"));
}

#[tokio::test]
async fn two_lives_without_an_issuer_cost_quick_refusals_and_nothing_stale() {
    const LIFE: Duration = Duration::from_secs(3);
    let (issuer, upstream) = (Issuer::named("tok", LIFE.as_secs()).await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    scene.ready().await;
    issuer.answers(down);
    let issued = issuer.calls().last().expect("a call").at;
    let (began, mut served, mut refusals) = (Instant::now(), 0, Vec::new());
    while began.elapsed() < 2 * LIFE {
        let asked = Instant::now();
        let answer = scene.get("/api/x").await;
        if answer.status == 200 {
            assert!(asked.duration_since(issued) < LIFE, "sent after its end");
            served += 1;
        } else {
            assert_eq!(answer.refusal(), (503, "token_expired".to_owned()));
            refusals.push(asked.elapsed());
        }
    }
    assert!(served > 0 && refusals.len() > 50, "{served} served, {} refused", refusals.len());
    assert_eq!(upstream.count(), served, "nothing went out but what was served");
    refusals.sort_unstable();
    // A test shares its machine with others: one in twenty may wait for them.
    let quick = refusals[refusals.len() * 95 / 100];
    assert!(quick < Duration::from_millis(50), "{quick:?}");

    issuer.answers(|_| Reply::token("tok-back", 3600));
    let back = Instant::now();
    let returned = || async { scene.get("/api/x").await.status == 200 };
    wait_until("requests pass again", SOON, async || returned().await).await;
    assert!(back.elapsed() < Duration::from_millis(5500), "{:?}", back.elapsed());
    assert_eq!(upstream.last().all("authorization"), ["Bearer tok-back"]);
    scene.finish().await;
}

#[tokio::test]
async fn a_token_that_the_wall_clock_has_overtaken_is_replaced_before_the_next_request() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    scene.clock.advance_wall(Duration::from_secs(3601));
    let jumped = Instant::now();
    assert_eq!(scene.get("/api/x").await.status, 200);
    assert!(jumped.elapsed() < Duration::from_secs(3), "the first request shows it");
    assert_eq!(upstream.last().all("authorization"), ["Bearer tok-2"]);

    scene.clock.advance_wall(Duration::from_secs(3601));
    issuer.answers(down);
    assert_eq!(scene.get("/api/x").await.refusal(), (503, "token_expired".to_owned()));
    assert_eq!(upstream.count(), 2);
    scene.finish().await;
}

#[tokio::test]
async fn a_machine_that_was_suspended_sends_no_old_token() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    scene.clock.advance(Duration::from_secs(12 * 3600));
    let woken = Instant::now();
    assert_eq!(scene.get("/api/x").await.status, 200);
    assert!(woken.elapsed() < Duration::from_secs(3), "the first request shows it");
    assert_eq!(upstream.last().all("authorization"), ["Bearer tok-2"]);
    scene.finish().await;
}

#[tokio::test]
async fn without_a_first_token_requests_wait_for_a_while_and_are_told_why() {
    let (issuer, upstream, gate) = (Issuer::start().await, Upstream::http1().await, Gate::closed());
    issuer.next(Reply::token("tok-late", 3600).behind(&gate));
    let scene = Setup::api(&issuer, &upstream).proxy("acquire_timeout = \"300ms\"").start().await;
    let asked = Instant::now();
    let answer = scene.get("/api/x").await;
    assert_eq!((answer.refusal(), retry_after(&answer)), ((503, "token_pending".to_owned()), 1));
    assert!(asked.elapsed() >= Duration::from_millis(300));
    assert_eq!(upstream.connections(), 0, "nothing is dialled for a token that is not there");
    gate.open();
    wait_until("the token is there", SOON, async || scene.get("/api/x").await.status == 200).await;
    assert_eq!((issuer.count(), upstream.last().all("authorization")), (1, vec!["Bearer tok-late"]));
    scene.finish().await;
}

#[tokio::test]
async fn an_issuer_that_gives_no_first_token_is_asked_once_a_second_at_most() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    issuer.answers(down);
    let scene = Setup::api(&issuer, &upstream).start().await;
    scene.reaches("countersign_rotation_failures_total", TOKEN, 1.0).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let answer = scene.get("/api/x").await;
        assert_eq!(answer.refusal(), (503, "token_unavailable".to_owned()));
        assert!((1..=5).contains(&retry_after(&answer)));
    }
    let calls: Vec<Instant> = issuer.calls().iter().map(|call| call.at).collect();
    assert!((2..=5).contains(&calls.len()), "{calls:?}");
    assert!(calls.windows(2).all(|pair| pair[1] - pair[0] > Duration::from_millis(900)), "{calls:?}");
    assert_eq!(upstream.connections(), 0);
    issuer.answers(|_| Reply::token("tok-first", 3600));
    let deadline = Duration::from_secs(6);
    wait_until("requests pass", deadline, async || scene.get("/api/x").await.status == 200).await;
    scene.finish().await;
}

#[tokio::test]
async fn an_issuers_retry_after_is_kept_to_whoever_asks() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    issuer.next(Reply::with(429, "Retry-After: 3\r\n", ""));
    let scene = Setup::api(&issuer, &upstream).start().await;
    scene.reaches("countersign_rotation_failures_total", &[("reason", "rate_limited")], 1.0).await;
    let answer = scene.get("/api/x").await;
    assert_eq!(answer.refusal(), (503, "token_unavailable".to_owned()));
    assert!((1..=3).contains(&retry_after(&answer)));
    wait_until("requests pass", SOON, async || scene.get("/api/x").await.status == 200).await;
    let calls = issuer.calls();
    assert_eq!(calls.len(), 2);
    assert!(calls[1].at - calls[0].at >= Duration::from_millis(2900));
    scene.finish().await;
}
