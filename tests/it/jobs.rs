//! Jobs of continuous integration, which prove themselves by what their issuer has signed.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use countersign::clock::{Clock, SystemClock};
use jsonwebtoken::{EncodingKey, Header};
use rustix::process::geteuid;
use serde_json::json;

use crate::support::client::Answer;
use crate::support::{Ci, CiKey, Client, Issuer, SOON, Scene, Setup, Upstream, log, operator, wait_until};

const MAIN: &str = "repo:org/app:ref:refs/heads/main";

/// A client `ci`: the jobs of one repository. Its token goes to `api`.
fn setup(ci: &Ci, issuer: &Issuer, upstream: &Upstream) -> Setup {
    Setup::api(issuer, upstream).client("ci", &ci.jwt("repo:org/app:*"))
}

/// `GET /api/x` with these fields, which are whole lines.
async fn get(scene: &Scene, fields: &str) -> Answer {
    scene.exchange(format!("GET /api/x HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")).await
}

async fn show(scene: &Scene, token: &str) -> Answer {
    get(scene, &format!("Proxy-Authorization: Bearer {token}\r\n")).await
}

fn unknown() -> (u16, String) {
    (403, "client_unknown".to_owned())
}

#[tokio::test]
async fn a_job_is_known_by_its_token_wherever_it_shows_it_and_the_token_goes_no_further() {
    let (ci, issuer, upstream) = (Ci::start().await, Issuer::start().await, Upstream::http1().await);
    let open = Upstream::http1().await;
    let setup = setup(&ci, &issuer, &upstream).route("open", &open, "");
    let scene = setup.start().await;
    let token = ci.token(MAIN);
    let (pair, user) = (STANDARD.encode(format!("job:{token}")), STANDARD.encode(&token));
    for fields in [
        format!("Proxy-Authorization: Bearer {token}\r\n"),
        format!("Proxy-Authorization: Basic {pair}\r\n"),
        format!("Proxy-Authorization: Basic {user}\r\n"),
        format!("Authorization: Bearer {token}\r\n"),
        format!("Authorization: Basic {pair}\r\n"),
        format!("X-Api-Key: {token}\r\n"),
        format!("X-Api-Key: {token}\r\nProxy-Authorization: Bearer {token}\r\n"),
    ] {
        assert_eq!(get(&scene, &fields).await.status, 200, "{fields}");
        let seen = upstream.last();
        assert_eq!(seen.all("authorization"), ["Bearer tok-1"], "{fields}");
        let answer = scene.exchange(format!("GET /open/x HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")).await;
        assert_eq!(answer.status, 200, "{fields}");
        for name in ["authorization", "proxy-authorization", "x-api-key"] {
            assert!(open.last().all(name).is_empty(), "{name} of {fields}");
        }
    }
    scene.reaches("countersign_requests_total", &[("route", "api"), ("client", "ci")], 7.0).await;
    assert_eq!(scene.metric("countersign_client_tokens_total", &[("outcome", "verified")]).await, 1.0);
    assert_eq!(scene.metric("countersign_shadow_credentials_total", &[]).await, 0.0);
    assert_eq!(ci.asked_for_keys(), 1);
    let trail = scene.finish().await;
    let said = format!("{trail:?}\n{}", log::text());
    assert!(!said.contains(&token) && !said.contains(&pair), "the token is in the trail or the log");
}

#[tokio::test]
async fn a_phantom_key_that_looks_like_a_token_is_a_phantom_key() {
    const KEY: &str = "header0123456789.claims0123456789.signature0123456789";
    let (ci, issuer, upstream) = (Ci::start().await, Issuer::start().await, Upstream::http1().await);
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("app.key");
    std::fs::write(&key, KEY).expect("written");
    let setup = setup(&ci, &issuer, &upstream).client("app", &format!("key = \"file:{}\"", key.display()));
    let scene = setup.start().await;
    assert_eq!(show(&scene, KEY).await.status, 200);
    assert_eq!(show(&scene, &KEY.replace("claims", "others")).await.refusal(), unknown());
    assert_eq!(show(&scene, &ci.token(MAIN)).await.status, 200);
    scene.finish().await;
}

#[tokio::test]
async fn a_credential_of_the_apps_own_is_not_taken_for_a_jobs() {
    let (ci, issuer, upstream) = (Ci::start().await, Issuer::start().await, Upstream::http1().await);
    let own = format!("uid = {}", geteuid().as_raw());
    let open = Upstream::http1().await;
    let setup = setup(&ci, &issuer, &upstream).route("open", &open, "").client("app", &own);
    let scene = setup.start().await;
    let elsewhere = ci.sign(&ci.claims_with(MAIN, json!({ "aud": "vault" })));
    for credential in [elsewhere.as_str(), "sk-123", "a.b", "a.b.c.d.e"] {
        let asked = format!("GET /open/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {credential}\r\n\r\n");
        assert_eq!(scene.exchange(asked).await.status, 200, "{credential}");
        assert_eq!(open.last().all("authorization"), [format!("Bearer {credential}")]);
    }
    let both = |client| [("client", client)];
    scene.reaches("countersign_requests_total", &both("app"), 4.0).await;
    assert_eq!(show(&scene, &ci.token(MAIN)).await.status, 200, "the same process, as a job");
    scene.reaches("countersign_requests_total", &both("ci"), 1.0).await;
    assert_eq!(show(&scene, &elsewhere).await.refusal(), unknown(), "what is shown to us has to be good");
    scene.finish().await;
}

#[tokio::test]
async fn whoever_shows_nothing_is_told_to_and_whoever_shows_too_much_is_nobody() {
    let (ci, issuer, upstream) = (Ci::start().await, Issuer::start().await, Upstream::http1().await);
    let scene = setup(&ci, &issuer, &upstream).start().await;
    for fields in ["", "Authorization: Bearer sk-123\r\n", "Proxy-Authorization: Basic YTpi\r\n"] {
        let answer = get(&scene, fields).await;
        assert_eq!(answer.refusal(), (407, "client_auth_required".to_owned()), "{fields}");
        assert_eq!(answer.header("proxy-authenticate"), Some("Basic realm=\"countersign\""));
    }
    let (one, other) = (ci.token(MAIN), ci.token("repo:org/app:ref:refs/heads/other"));
    let two = format!("Proxy-Authorization: Bearer {one}\r\nAuthorization: Bearer {other}\r\n");
    assert_eq!(get(&scene, &two).await.refusal(), unknown());
    assert_eq!(upstream.count(), 0);
    scene.finish().await;
}

#[tokio::test]
async fn a_token_that_is_not_good_in_every_part_proves_nothing() {
    let (ci, issuer, upstream) = (Ci::start().await, Issuer::start().await, Upstream::http1().await);
    let scene = setup(&ci, &issuer, &upstream).start().await;
    let now = SystemClock.now().wall.as_secs();
    let with = |others| ci.sign(&ci.claims_with(MAIN, others));
    let encoded = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let none = format!("{}.{}.", encoded(&json!({ "alg": "none" })), encoded(&ci.claims(MAIN)));
    let shared = Header { kid: Some("first".to_owned()), ..Header::default() };
    let public = ci.key().published().to_string();
    let confused = jsonwebtoken::encode(&shared, &ci.claims(MAIN), &EncodingKey::from_secret(public.as_bytes()));
    let forged = CiKey::new("first").sign(&ci.claims(MAIN));
    for (token, why) in [
        (with(json!({ "aud": "other" })), "stranger"),
        (with(json!({ "aud": ["countersign", "other"] })), "stranger"),
        (with(json!({ "iss": "https://evil.example" })), "stranger"),
        (with(json!({ "iss": format!("{}/", ci.name()) })), "stranger"),
        (with(json!({ "exp": now - 5 })), "expired"),
        (with(json!({ "nbf": now + 120 })), "not_yet"),
        (with(json!({ "iat": now + 120 })), "not_yet"),
        (with(json!({ "exp": null })), "malformed"),
        (none, "algorithm"),
        (confused.expect("signed"), "algorithm"),
        (forged, "signature"),
        ("a.b.c".to_owned(), "malformed"),
        (ci.token("repo:org/app-evil:ref:refs/heads/main"), "subject"),
        (ci.token("repo:org/app"), "subject"),
        (ci.token("repo:evil/app:repo:org/app:x"), "subject"),
    ] {
        let outcome = [("outcome", why)];
        let before = scene.metric("countersign_client_tokens_total", &outcome).await;
        let answer = show(&scene, &token).await;
        assert_eq!(answer.refusal(), unknown(), "{why}: {token}");
        assert!(!answer.text().contains(&token));
        assert_eq!(scene.metric("countersign_client_tokens_total", &outcome).await, before + 1.0, "{token}");
    }
    assert_eq!(upstream.count(), 0);
    assert_eq!(ci.asked_for_keys(), 1);
    assert_eq!(show(&scene, &ci.token(MAIN)).await.status, 200);
    let told = "a token that should prove a job was refused";
    wait_until(told, SOON, async || log::text().contains(told)).await;
    scene.finish().await;
}

#[tokio::test]
async fn a_job_is_let_in_until_its_token_ends_and_no_longer() {
    let (ci, issuer, upstream) = (Ci::start().await, Issuer::start().await, Upstream::http1().await);
    let scene = setup(&ci, &issuer, &upstream).start().await;
    let token = ci.token(MAIN);
    assert_eq!(show(&scene, &token).await.status, 200);
    scene.clock.advance(Duration::from_secs(290));
    assert_eq!(show(&scene, &token).await.status, 200);
    scene.clock.advance(Duration::from_secs(11));
    assert_eq!(show(&scene, &token).await.refusal(), unknown());
    scene.finish().await;
}

#[tokio::test]
async fn a_flood_of_unknown_keys_asks_the_issuer_once_and_a_new_key_is_found() {
    let (ci, issuer, upstream) = (Ci::start().await, Issuer::start().await, Upstream::http1().await);
    let scene = setup(&ci, &issuer, &upstream).start().await;
    assert_eq!(show(&scene, &ci.token(MAIN)).await.status, 200);
    for number in 0..50 {
        let stranger = CiKey::new(&format!("stranger-{number}")).sign(&ci.claims(MAIN));
        assert_eq!(show(&scene, &stranger).await.refusal(), unknown());
    }
    assert_eq!(ci.asked_for_keys(), 1, "an answer counts for ten seconds");
    scene.clock.advance(Duration::from_secs(11));
    for number in 0..50 {
        let stranger = CiKey::new(&format!("stranger-{number}")).sign(&ci.claims(MAIN));
        assert_eq!(show(&scene, &stranger).await.refusal(), unknown());
    }
    assert_eq!(ci.asked_for_keys(), 2);
    // Another key beside the first: both are good.
    let (old, new) = (ci.key(), CiKey::new("second"));
    let before = ci.token(MAIN);
    ci.publish(vec![old, new]);
    scene.clock.advance(Duration::from_secs(11));
    assert_eq!(show(&scene, &ci.token(MAIN)).await.status, 200);
    assert_eq!(show(&scene, &before).await.status, 200);
    assert_eq!(ci.asked_for_keys(), 3);
    scene.finish().await;
}

#[tokio::test]
async fn a_key_that_is_taken_back_takes_back_whom_it_let_in() {
    let (ci, issuer, upstream) = (Ci::start().await, Issuer::start().await, Upstream::http1().await);
    let scene = setup(&ci, &issuer, &upstream).start().await;
    let claims = ci.claims_with(MAIN, json!({ "exp": SystemClock.now().wall.as_secs() + 7200 }));
    let stolen = ci.sign(&claims);
    assert_eq!(show(&scene, &stolen).await.status, 200);
    // The same name, another key.
    ci.publish(vec![CiKey::new("first")]);
    scene.clock.advance(Duration::from_secs(301));
    // The first that comes has the keys asked for, and does not wait.
    wait_until("the stolen token is nobody's", SOON, async || show(&scene, &stolen).await.status == 403).await;
    assert_eq!(show(&scene, &ci.sign(&claims)).await.status, 200);
    scene.finish().await;
}

#[tokio::test]
async fn while_the_issuer_is_away_known_jobs_go_on_and_new_ones_wait() {
    let (ci, issuer, upstream) = (Ci::start().await, Issuer::start().await, Upstream::http1().await);
    ci.is_down(true);
    let scene = setup(&ci, &issuer, &upstream).start().await;
    let claims = ci.claims_with(MAIN, json!({ "exp": SystemClock.now().wall.as_secs() + 7200 }));
    let known = ci.sign(&claims);
    let answer = show(&scene, &known).await;
    assert_eq!(answer.refusal(), (503, "client_unverified".to_owned()));
    assert_eq!(answer.header("retry-after"), Some("1"));
    let asked = ci.asked();
    for _ in 0..20 {
        assert_eq!(show(&scene, &known).await.status, 503);
    }
    assert_eq!(ci.asked(), asked, "it is left alone for a while");
    ci.is_down(false);
    scene.clock.advance(Duration::from_secs(3));
    assert_eq!(show(&scene, &known).await.status, 200);
    ci.is_down(true);
    scene.clock.advance(Duration::from_secs(700));
    assert_eq!(show(&scene, &known).await.status, 200, "until it ends");
    let new = ci.sign(&ci.claims_with("repo:org/app:x", json!({ "exp": claims["exp"] })));
    assert_eq!(show(&scene, &new).await.status, 503);
    assert_eq!(upstream.count(), 2);
    scene.finish().await;
}

#[tokio::test]
async fn who_is_another_issuer_or_keeps_its_keys_in_the_open_vouches_for_nobody() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    for (told, why) in [
        (json!({ "issuer": "https://evil.example", "jwks_uri": "https://evil.example/keys" }), "another issuer"),
        (json!({ "jwks_uri": "https://evil.example/keys" }), "does not tell"),
        (json!({ "issuer": 1 }), "does not tell"),
    ] {
        let ci = Ci::start().await;
        ci.tells(told);
        let scene = setup(&ci, &issuer, &upstream).start().await;
        assert_eq!(show(&scene, &ci.token(MAIN)).await.status, 503, "{why}");
        wait_until(why, SOON, async || log::text().contains(why)).await;
        scene.finish().await;
    }
    // Plain http is for the issuer's own place alone, and addresses are judged as everybody's are.
    for (keys, why) in [("http://127.0.0.1:1/keys", "plain http"), ("https://169.254.169.254/keys", "169.254.169.254")]
    {
        let ci = Ci::start().await;
        ci.tells(json!({ "issuer": ci.name(), "jwks_uri": keys }));
        let scene = setup(&ci, &issuer, &upstream).start().await;
        assert_eq!(show(&scene, &ci.token(MAIN)).await.status, 503, "{why}");
        wait_until(why, SOON, async || log::text().contains(why)).await;
        scene.finish().await;
    }
}

/// With the tunnel to the upstream that this token opens.
async fn with_tunnel(ci: &Ci, issuer: &Issuer, upstream: &Upstream, token: &str) -> (Scene, Client) {
    let setup = Setup::new().token("api", issuer, "").client("ci", &ci.jwt("repo:org/app:*"));
    let scene = setup.route("api", upstream, "token = \"api\"\nintercept = true").start().await;
    let connect = |fields: &str| format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n{fields}\r\n", upstream.address);
    assert_eq!(scene.exchange(connect("")).await.refusal(), (407, "client_auth_required".to_owned()));
    let mut client = scene.client().await;
    client.send(connect(&format!("Proxy-Authorization: Bearer {token}\r\n"))).await;
    assert_eq!(client.answer_to_head().await.expect("an answer").status, 200);
    let inside = client.over_tls("127.0.0.1", crate::tunnels::told(&scene, &["http/1.1"])).await.expect("TLS");
    (scene, inside)
}

#[tokio::test]
async fn a_key_that_is_taken_back_takes_back_the_tunnels_that_it_opened() {
    let (ci, issuer, upstream) = (Ci::start().await, Issuer::start().await, Upstream::http1().await);
    let claims = ci.claims_with(MAIN, json!({ "exp": SystemClock.now().wall.as_secs() + 7200 }));
    let (scene, mut inside) = with_tunnel(&ci, &issuer, &upstream, &ci.sign(&claims)).await;
    let request = format!("GET /x HTTP/1.1\r\nHost: {}\r\n\r\n", upstream.address);
    ci.publish(vec![CiKey::new("first")]);
    scene.clock.advance(Duration::from_secs(301));
    // Nobody but who is in the tunnel asks for anything.
    wait_until("the tunnel is nobody's", SOON, async || {
        inside.send(&request).await;
        inside.answer().await.expect("an answer").status == 403
    })
    .await;
    scene.finish().await;
}

#[tokio::test]
async fn a_tunnel_belongs_to_the_job_that_has_opened_it() {
    let (ci, issuer, upstream) = (Ci::start().await, Issuer::start().await, Upstream::http1().await);
    let (scene, mut inside) = with_tunnel(&ci, &issuer, &upstream, &ci.token(MAIN)).await;
    let request = format!("GET /x HTTP/1.1\r\nHost: {}\r\n\r\n", upstream.address);
    inside.send(&request).await;
    assert_eq!(inside.answer().await.expect("an answer").status, 200);
    assert_eq!(upstream.last().all("authorization"), ["Bearer tok-1"]);
    scene.clock.advance(Duration::from_secs(301));
    inside.send(&request).await;
    assert_eq!(inside.answer().await.expect("an answer").refusal(), unknown(), "the job has ended");
    scene.finish().await;
}

#[tokio::test]
async fn a_reload_that_names_other_jobs_lets_in_no_others() {
    let (ci, issuer, upstream) = (Ci::start().await, Issuer::start().await, Upstream::http1().await);
    let scene = setup(&ci, &issuer, &upstream).start().await;
    let token = ci.token(MAIN);
    assert_eq!(show(&scene, &token).await.status, 200);
    let other = Setup::api(&issuer, &upstream).client("ci", &ci.jwt("repo:org/lib:*"));
    scene.reload(&other).await.expect("taken");
    assert_eq!(show(&scene, &token).await.refusal(), unknown());
    assert_eq!(show(&scene, &ci.token("repo:org/lib:x")).await.status, 200);
    assert_eq!(ci.asked_for_keys(), 1, "the keys are kept");
    scene.finish().await;
}

/// Calls the admin API with a job's token, or another bearer's key.
async fn ask(scene: &Scene, bearer: &str, line: &str, body: &serde_json::Value) -> Answer {
    let bearer = format!("Bearer {bearer}");
    let fields = [operator::JSON, ("Authorization", &*bearer)];
    let fields = if line.starts_with("POST") { &fields[..] } else { &fields[1..] };
    let text = operator::call(line, "localhost", fields, &body.to_string());
    operator::sent(Client::unix(&operator::socket(scene)).await, &text).await
}

#[tokio::test]
async fn a_job_asks_for_access_and_what_it_is_granted_ends_when_the_job_does() {
    let (ci, issuer, upstream) = (Ci::start().await, Issuer::start().await, Upstream::http1().await);
    let bob = format!("{}\nroles = [\"approver\"]", operator::key("bob's key"));
    let setup = Setup::new().token("api", &issuer, "").client("ci", &ci.jwt("repo:org/app:*")).operator("bob", &bob);
    let rules = "token = \"api\"\nallow = [\"GET /**\"]";
    let scene = setup.route("api", &upstream, rules).start().await;
    let ends = SystemClock.now().wall.as_secs() + 300;
    let token = ci.sign(&ci.claims_with(MAIN, json!({ "exp": ends })));
    let wish = json!({ "token": "api", "for": "30m", "reason": "the release", "allow": ["POST /x"] });
    let submitted = ask(&scene, &token, "POST /v1/requests", &wish).await;
    assert_eq!(submitted.status, 201, "{}", submitted.text());
    let submitted = operator::json_of(&submitted);
    assert_eq!((&submitted["state"], &submitted["requester"]), (&json!("pending"), &json!(format!("ci ({MAIN})"))));

    let (id, reason) = (submitted["id"].as_str().expect("an id"), json!({ "reason": "the job wants it" }));
    let approval = json!({ "reason": "seen", "digest": submitted["digest"] });
    for (line, body) in [
        ("GET /v1/tokens", &reason),
        ("GET /v1/requests", &reason),
        ("GET /v1/audit/records", &reason),
        (&format!("POST /v1/requests/{id}/approve"), &approval),
        (&format!("POST /v1/requests/{id}/deny"), &reason),
        ("POST /v1/tokens/api/rotate", &reason),
        ("POST /v1/reload", &reason),
    ] {
        let answer = ask(&scene, &token, line, body).await;
        assert_eq!(answer.refusal(), (403, "not_allowed".to_owned()), "{line}");
    }
    let elsewhere = ci.sign(&ci.claims_with(MAIN, json!({ "aud": "other" })));
    for bad in [&ci.token("repo:org/lib:x"), &CiKey::new("first").sign(&ci.claims(MAIN)), &elsewhere] {
        assert_eq!(ask(&scene, bad, "POST /v1/requests", &wish).await.status, 401, "{bad}");
    }

    let granted = ask(&scene, "bob's key", &format!("POST /v1/requests/{id}/approve"), &approval).await;
    let granted = operator::json_of(&granted);
    let until: jiff::Timestamp = granted["grant_ends"].as_str().and_then(|end| end.parse().ok()).expect("a time");
    assert!(until.as_second() <= i64::try_from(ends).expect("a time"), "{granted}");
    let post = async |token: &str| {
        let fields = format!("Proxy-Authorization: Bearer {token}\r\nContent-Length: 0\r\n");
        scene.exchange(format!("POST /api/x HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")).await
    };
    assert_eq!(post(&token).await.status, 200);
    scene.clock.advance(Duration::from_secs(301));
    let later = ci.sign(&ci.claims_with(MAIN, json!({ "exp": ends + 3600 })));
    wait_until("the grant ends with the job", SOON, async || post(&later).await.status != 200).await;
    assert_eq!(post(&later).await.refusal(), (403, "method_denied".to_owned()));
    assert_eq!(show(&scene, &later).await.status, 200, "what the config grants goes on");
    let requested = scene.recorded("token_requested", 2).await;
    assert_eq!(requested[1]["requester"], format!("job ci ({MAIN})"));
    scene.finish().await;
}
