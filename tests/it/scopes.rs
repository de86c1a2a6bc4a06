//! What an API says that a token lacks becomes the command that asks for it.

use serde_json::json;

use crate::support::client::Answer;
use crate::support::upstream::Reply;
use crate::support::{Client, Issuer, Scene, Setup, Upstream, log, operator};

const LACKING: &str = r#"Bearer realm="the API", error="insufficient_scope", scope="write""#;

/// A token that can be given `write`; jane asks for it, and bob approves.
fn setup(issuer: &Issuer, upstream: &Upstream) -> Setup {
    Setup::new()
        .token("api", issuer, "scopes_on_request = [\"write\", \"delete\"]")
        .route("api", upstream, "token = \"api\"")
        .operator("jane", &format!("{}\nroles = [\"requester\"]", operator::key("jane's key")))
        .operator("bob", &format!("{}\nroles = [\"approver\"]", operator::key("bob's key")))
}

async fn post(scene: &Scene, key: &str, path: &str, body: &serde_json::Value) -> Answer {
    let bearer = format!("Bearer {key}");
    let fields = [operator::JSON, ("Authorization", &*bearer)];
    let text = operator::call(&format!("POST {path}"), "localhost", &fields, &body.to_string());
    operator::sent(Client::unix(&operator::socket(scene)).await, &text).await
}

/// The id that the command of an answer names.
fn id_in_command(answer: &Answer) -> String {
    let command = answer.header("countersign-request").expect("a command");
    let words: Vec<&str> = command.split(' ').collect();
    let ["countersign", "requests", "submit", "api", "--for", "30m", "--refused", id, "--reason", "TEXT"] = words[..]
    else {
        panic!("{command}")
    };
    id.to_owned()
}

#[tokio::test]
async fn a_scope_that_the_api_misses_is_asked_for_by_the_id_in_its_answer() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    upstream.answers(|seen| match seen.header("authorization") {
        Some("Bearer tok-1") => Reply::new(403).header("www-authenticate", LACKING),
        _ => Reply::ok("written"),
    });
    let scene = setup(&issuer, &upstream).start().await;
    scene.ready().await;
    let answer = scene.get("/api/x").await;
    assert_eq!((answer.status, answer.header("www-authenticate")), (403, Some(LACKING)), "the API's own word");
    let id = id_in_command(&answer);
    assert!(log::text().contains(&id), "the log has the id");

    let wish = json!({ "token": "api", "for": "30m", "refused": id, "reason": "a hotfix" });
    let submitted = post(&scene, "jane's key", "/v1/requests", &wish).await;
    assert_eq!(submitted.status, 201, "{}", submitted.text());
    let submitted = operator::json_of(&submitted);
    assert_eq!((&submitted["scopes"], &submitted["routes"]), (&json!(["read", "write"]), &json!({})));
    assert_eq!((&submitted["state"], issuer.count()), (&json!("pending"), 1), "nobody has approved it");
    let wider = json!({ "token": "api", "for": "30m", "refused": id, "reason": "more", "scopes": ["delete"] });
    let wider = operator::json_of(&post(&scene, "jane's key", "/v1/requests", &wider).await);
    assert_eq!(wider["scopes"], json!(["delete", "read", "write"]), "in addition to what is named");

    let approval = json!({ "reason": "seen", "digest": submitted["digest"] });
    let path = format!("/v1/requests/{}/approve", submitted["id"].as_str().expect("an id"));
    assert_eq!(post(&scene, "bob's key", &path, &approval).await.status, 200);
    assert_eq!(issuer.calls().last().expect("a call").fields["scope"], "read write");
    let answer = scene.get("/api/x").await;
    assert_eq!((answer.status, answer.text(), answer.header("countersign-request")), (200, "written", None));
    scene.finish().await;
}

#[tokio::test]
async fn an_answer_that_names_nothing_to_ask_for_goes_on_as_it_came() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let scene = setup(&issuer, &upstream).start().await;
    scene.ready().await;
    for (status, challenge) in [
        (200, LACKING),
        (403, r#"Bearer error="insufficient_scope""#),
        (403, r#"Bearer error="insufficient_scope", scope="read""#),
        (403, r#"Bearer error="insufficient_scope", scope="write admin""#),
        (403, r#"Bearer error="invalid_token", scope="write""#),
        (403, r#"DPoP error="insufficient_scope", scope="write""#),
        (403, r#"Bearer error="insufficient_scope", scope="write"#),
    ] {
        let sent = challenge.to_owned();
        upstream.answers(move |_| {
            // No API says what is run here.
            Reply::new(status).header("www-authenticate", &sent).header("countersign-request", "rm -rf /")
        });
        let answer = scene.get("/api/x").await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (status, Some(challenge)));
        assert_eq!(answer.header("countersign-request"), None, "{status} {challenge}");
    }
    let other = Setup::api(&issuer, &upstream).start().await;
    upstream.answers(|_| Reply::new(403).header("www-authenticate", LACKING));
    assert_eq!(other.get("/api/x").await.header("countersign-request"), None, "its config offers no scopes");
    other.finish().await;
    scene.finish().await;
}

#[tokio::test]
async fn an_api_that_answers_401_for_want_of_a_scope_is_understood_too() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http2().await);
    upstream.answers(|_| Reply::new(401).header("www-authenticate", LACKING));
    let scene = setup(&issuer, &upstream).start().await;
    scene.ready().await;
    let answer = scene.get("/api/x").await;
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some(LACKING)));
    id_in_command(&answer);
    scene.finish().await;
}
