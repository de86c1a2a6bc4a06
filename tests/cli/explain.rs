//! `explain`

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};

use crate::support::{Ended, Place, until};

/// The example with a route whose upstream has names, and two clients.
fn place() -> Place {
    Place::new(
        r#"
[[route]]
name = "hub"
upstream = "https://api.example.com"
allow = "any"
clients = ["app"]
[[client]]
name = "app"
uid = 1000
[[client]]
name = "batch"
uid = 1001
"#,
    )
}

fn explain(place: &Place, question: &str) -> Ended {
    let arguments = ["explain", "--client", "app", "--json"].into_iter().chain(question.split(' '));
    place.run(&arguments.collect::<Vec<_>>())
}

fn reason(answer: &Value) -> &str {
    answer["refusal"]["reason"].as_str().unwrap_or("none")
}

#[test]
fn each_way_in_leads_to_its_route() {
    let place = place();
    let port = place.proxy.port();
    for (question, route, upstream) in [
        ("GET http://127.0.0.1:PORT/api/things/1?x=y", "api", "http://UPSTREAM/things/1?x=y"),
        ("GET http://localhost:PORT/api/things/1", "api", "http://UPSTREAM/things/1"),
        ("GET http://api.localhost:PORT/things/1", "api", "http://UPSTREAM/things/1"),
        ("GET /api/things/1", "api", "http://UPSTREAM/things/1"),
        ("POST http://api.example.com/x", "hub", "https://api.example.com/x"),
        ("GET https://api.example.com/x", "hub", "https://api.example.com/x"),
    ] {
        let ended = explain(&place, &question.replace("PORT", &port.to_string()));
        assert_eq!(ended.code, 0, "{question}: {}{}", ended.out, ended.err);
        let answer = ended.json();
        let upstream = upstream.replace("UPSTREAM", &place.upstream.to_string());
        assert_eq!((&answer["route"], &answer["upstream"]), (&json!(route), &json!(upstream)), "{question}");
        assert_eq!((&answer["passes"], &answer["client"]), (&json!(true), &json!("app")), "{question}");
    }
}

#[test]
fn a_refusal_has_the_words_that_the_proxy_has() {
    let place = Place::new("");
    let _proxy = place.start();
    for (question, host, expected) in [
        ("GET /none/x", "localhost", "no_route"),
        ("GET /api/other", "localhost", "path_denied"),
        ("PUT /api/things", "localhost", "method_denied"),
        ("GET /api/things/secret", "localhost", "path_denied"),
        ("GET /api/things/%2e%2e/x", "localhost", "path_ambiguous"),
        ("TRACE /api/things", "localhost", "method_refused"),
        ("GET http://elsewhere.example/things", "elsewhere.example", "no_route"),
        ("GET http://elsewhere.example:080/things", "elsewhere.example:080", "host_mismatch"),
        ("CONNECT api.example.com:443", "api.example.com:443", "tunnel_denied"),
    ] {
        let arguments = ["explain", "--json"].into_iter().chain(question.split(' '));
        let ended = place.run(&arguments.collect::<Vec<_>>());
        assert_eq!(ended.code, 1, "{question}: {}{}", ended.out, ended.err);
        let told = ended.json()["refusal"].clone();
        let answer = ask(&place, &format!("{question} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"));
        for word in ["reason", "status", "detail"] {
            assert_eq!(told[word], answer[word], "{question}: {told} {answer}");
        }
        assert_eq!(told["reason"], expected, "{question}");
    }
}

#[test]
fn a_token_that_waits_for_people_is_refused_with_the_id_of_its_request() {
    let place = Place::new("[approval]\ndefault = \"ask\"\n");
    let _proxy = place.start();
    let told = place.run(&["explain", "--json", "GET", "/api/things"]).json()["refusal"].clone();
    let answer = ask(&place, "GET /api/things HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    for word in ["reason", "status", "detail"] {
        assert_eq!(told[word], answer[word], "{told} {answer}");
    }
    assert_eq!(told["reason"], "approval_pending");
}

#[test]
fn a_route_is_not_for_every_client() {
    let other = place().run(&["explain", "GET", "/hub/x", "--client", "batch", "--json"]);
    assert_eq!(other.code, 1);
    let told = other.json();
    assert_eq!(reason(&told), "route_denied");
    assert_eq!((&told["rule"], &told["route"]), (&Value::Null, &json!("hub")));
}

/// The body of what the proxy answers.
fn ask(place: &Place, request: &str) -> Value {
    let mut stream = std::net::TcpStream::connect(place.proxy).expect("the proxy listens");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

#[test]
fn the_rule_is_shown_with_its_place() {
    let place = place();
    let config = place.path("countersign.toml").display().to_string();
    let shown = place.run(&["explain", "POST", "/api/things", "--client", "app"]).ok();
    let text = std::fs::read_to_string(&config).expect("the config");
    let line = 1 + text.lines().position(|line| line.starts_with("allow = [\"GET /things")).expect("the rule's line");
    let column = 1 + "allow = [\"GET /things/**\", ".len();
    let rule = format!("  rule        allow \"POST /things\" ({config}:{line}:{column})\n");
    assert!(shown.contains(&rule), "{rule}{shown}");

    let denied = explain(&place, "GET /api/things/secret").json();
    assert_eq!(denied["rule"]["text"], "deny \"* /things/secret\"");
    assert_eq!(denied["rule"]["place"], format!("{config}:{}:9", line + 1));
    let others = explain(&place, "PUT /api/things").json();
    let expected = "no rule of `allow` covers the method; the path is allowed by \"GET /things/**\", \"POST /things\"";
    assert_eq!(others["rule"]["text"], expected);
    assert_eq!(explain(&place, "GET /none/x").json()["rule"], Value::Null);
}

#[test]
fn the_generation_is_the_running_proxys() {
    let place = place();
    let offline = explain(&place, "GET /api/things/1").json();
    assert_eq!(offline["passes"], true);
    let why = offline["token"]["not_known"].as_str().expect("a reason");
    assert!(why.starts_with("the proxy is not running"), "{why}");

    let _proxy = place.start();
    let waiting = explain(&place, "GET /api/things/1");
    assert_eq!((waiting.code, reason(&waiting.json())), (1, "token_pending"));
    place.write("token", "the-token");
    place.run(&["wait"]).ok();
    let live = explain(&place, "GET /api/things/1").json();
    assert_eq!((&live["token"]["generation"], &live["token"]["state"]), (&json!(1), &json!("active")));
    assert_eq!(live["token"]["placement"], "authorization: Bearer TOKEN");
}

#[test]
fn what_is_held_back_from_the_client_is_told_with_what_releases_it() {
    const KEY: &str = "sk-0phantom0K3yOfTheApp0123456789abcdefghijklmnopqr";
    let place = Place::new(&format!(
        "[detect]\nmode = \"respond\"\n[[client]]\nname = \"app\"\nuid = {}\nkey = \"file:app.key\"\n",
        rustix::process::geteuid().as_raw(),
    ));
    place.write("app.key", KEY);
    place.write("token", "the-token");
    let _proxy = place.start();
    place.run(&["wait"]).ok();
    let before = explain(&place, "GET /api/things/1").json();
    assert_eq!((&before["passes"], &before["held"]), (&json!(true), &Value::Null));
    // A phantom key where it cannot be: its client is blocked.
    let mut client = std::net::TcpStream::connect(place.proxy).expect("the proxy listens");
    let request = format!(
        "GET /api/things/1?q={KEY} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
    );
    client.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let held = until("it is blocked", || {
        let answer = explain(&place, "GET /api/things/1");
        (answer.code == 1).then(|| answer.json())
    });
    assert_eq!(reason(&held), "client_unknown");
    assert_eq!(held["held"], json!({ "hold": "block", "released": "countersign clients release app" }));
    let text = place.run(&["explain", "GET", "/api/things/1", "--client", "app"]);
    assert!(text.out.contains("held back   block: until countersign clients release app"), "{}", text.out);
}

#[test]
fn a_question_that_cannot_be_asked_is_a_usage_error() {
    let place = place();
    for (arguments, expected) in [
        (&["explain", "GET", "/api/things"][..], "name it with --client; there are app, batch"),
        (&["explain", "GET", "/api/things", "--client", "none"], "there is no client none; there are: app, batch"),
        (&["explain", "GET", "api.example.com", "--client", "app"], "a URL begins with"),
        (&["explain", "GET", "api/things", "--client", "app"], "a URL begins with"),
        (&["explain", "GET", "http://a b/", "--client", "app"], "not a URL"),
        (&["explain", "CONNECT", "https://a.example/", "--client", "app"], "CONNECT has a host and a port"),
    ] {
        let said = place.run(arguments).failed(64);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn the_rule_of_the_client_is_told_besides_that_of_the_route() {
    let place = Place::new(
        r#"
[[client]]
name = "app"
uid = 1000
allow = ["GET /things/**"]
deny = ["GET /things/secret"]
[[client]]
name = "batch"
uid = 1001
"#,
    );
    let passes = explain(&place, "GET /api/things/1").json();
    assert_eq!((&passes["passes"], &passes["client_rule"]["text"]), (&json!(true), &json!("allow \"GET /things/**\"")));
    for (question, rule) in [
        ("GET /api/things/secret", "deny \"GET /things/secret\""),
        ("GET /api/others", "no rule of `allow` covers the path"),
    ] {
        let refused = explain(&place, question).json();
        assert_eq!((reason(&refused), &refused["client_rule"]["text"]), ("path_denied", &json!(rule)), "{refused}");
    }
    let line = std::fs::read_to_string(place.path("countersign.toml")).expect("the config");
    let line = 1 + line.lines().position(|line| line.starts_with("deny = [\"GET /things/secret")).expect("a line");
    let refused = explain(&place, "GET /api/things/secret").json();
    let told = refused["client_rule"]["place"].as_str().expect("a place");
    assert!(told.ends_with(&format!(":{line}:9")), "{told}");
    let other = place.run(&["explain", "--client", "batch", "GET", "/api/things/secret"]);
    assert!(!other.out.contains("client rule"), "{}", other.out);
}

#[test]
fn what_a_preset_has_filled_in_is_told() {
    let place = Place::new(
        r#"
[[route]]
name = "hub"
preset = "github"
allow = "any"
"#,
    );
    let told = place.run(&["explain", "--json", "POST", "/hub/app/installations/1/access_tokens"]).json();
    assert_eq!(reason(&told), "derived_credential");
    assert_eq!(
        told["rule"],
        json!({ "text": "minting \"POST /**/app/installations/*/access_tokens\"", "place": null })
    );
    let keys = ["minting", "path", "set_cookie", "upstream"];
    assert_eq!(told["presets"], json!([{ "section": "route", "name": "hub", "preset": "github", "keys": keys }]));
    let filled = "route hub: preset github fills in minting, path, set_cookie, upstream";
    let shown = place.run(&["explain", "GET", "/hub/rate_limit"]).ok();
    assert!(shown.contains(&format!("  preset      {filled}\n")), "{shown}");
    let checked = place.run(&["check"]).ok();
    assert!(checked.lines().any(|line| line == filled), "{checked}");
}
