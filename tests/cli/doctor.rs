//! `doctor`

use std::fs::Permissions;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::mpsc;

use serde_json::Value;

use crate::support::{Ended, Place};

/// The findings with this severity, each as one text.
fn found(ended: &Ended, severity: &str) -> Vec<String> {
    let all: Value = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {}", ended.err));
    let all = all.as_array().expect("a list").clone();
    let wanted = all.iter().filter(|finding| finding["severity"] == severity);
    wanted.map(|finding| format!("{} -> {}", finding["what"], finding["fix"])).collect()
}

fn assert_found(ended: &Ended, severity: &str, words: &[&str]) {
    let found = found(ended, severity);
    let fits = |finding: &String| words.iter().all(|word| finding.contains(word));
    assert!(found.iter().any(fits), "no {severity} has {words:?}: {}{}", ended.out, ended.err);
}

/// A client that is neither the proxy's user nor root.
fn with_client(more: &str) -> Place {
    Place::new(&format!("[[client]]\nname = \"app\"\nuid = 4321\n{more}")).without_root()
}

fn doctor(place: &Place) -> Ended {
    place.run(&["doctor", "--json"])
}

/// Answers whatever it is asked with these bytes, and tells what that was.
fn server(answer: &'static str) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    (address, serve(listener, answer))
}

fn serve(listener: TcpListener, answer: &'static str) -> mpsc::Receiver<String> {
    let (asked, requests) = mpsc::sync_channel(1024);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                head.extend(byte);
            }
            // Whoever asked may have gone.
            let _ = stream.write_all(answer.as_bytes());
            let told = asked.send(String::from_utf8_lossy(&head).into_owned());
            if told.is_err() {
                return;
            }
        }
    });
    requests
}

#[test]
fn a_sound_set_up_has_nothing_worse_than_a_note() {
    let place = with_client("");
    place.write("token", "the-token");
    let _proxy = place.start();
    place.run(&["wait"]).ok();
    let ended = doctor(&place);
    assert_eq!(ended.code, 0, "{}{}", ended.out, ended.err);
    for expected in ["host_unknown", "browser_refused", "host_mismatch", "framing", "who is no client"] {
        assert_found(&ended, "ok", &["refuses", expected]);
    }
    for expected in ["token api is active", "the proxy is ready", "may open", "MiB are free", "is its owner's alone"] {
        assert_found(&ended, "ok", &[expected]);
    }
    assert_found(&ended, "ok", &["route api: upstream", &place.upstream.to_string(), "is reached"]);
    let shown = place.run(&["doctor"]).ok();
    // That checkpoints of the trail go nowhere.
    assert!(shown.ends_with("problems 0, warnings 0, notes 1\n"), "{shown}");
}

#[test]
fn a_secret_that_others_can_read_is_a_problem_and_is_not_shown() {
    let place = with_client("");
    place.write("token", "the-token");
    std::fs::set_permissions(place.path("token"), Permissions::from_mode(0o644)).expect("chmod");
    let ended = doctor(&place);
    assert_eq!(ended.code, 1);
    assert_found(&ended, "problem", &["token api: source.path", "every user", "0644", "chmod o= "]);
    assert!(!ended.out.contains("the-token") && !ended.err.contains("the-token"));
}

#[test]
fn what_is_missing_is_said() {
    let place = with_client("");
    let ended = doctor(&place);
    assert_found(&ended, "problem", &["token api: source.path: cannot read", "No such file"]);
    assert_found(&ended, "warning", &["nobody listens", &place.proxy.to_string(), "countersign run"]);
    assert_found(&ended, "warning", &["telemetry does not answer"]);
    let _proxy = place.start();
    let ended = doctor(&place);
    assert_found(&ended, "warning", &["the proxy is not ready: token api not yet"]);
    assert_found(&ended, "warning", &["token api is provisioning"]);
}

#[test]
fn a_proxy_on_the_way_out_is_no_issuer() {
    let (way_out, asked) = server("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
    let place = with_client("");
    let config = std::fs::read_to_string(place.path("countersign.toml")).expect("the config");
    let with_proxy = format!("[proxy]\nupstream_proxy = {{ url = \"http://{way_out}\" }}");
    place.write_config(&config.replacen("[proxy]", &with_proxy, 1));
    let ended = doctor(&place);
    assert!(!ended.out.contains("upstream_proxy"), "{}", ended.out);
    assert_eq!(asked.try_iter().count(), 0, "it is asked for nothing of its own");
}

#[test]
fn what_is_wrong_with_the_tls_of_a_route_is_not_laid_on_its_roots() {
    let place = with_client(
        "[[route]]\nname = \"proven\"\nupstream = \"https://127.0.0.1:1\"\nallow = \"any\"\n\
         tls = { cert = \"file:no.pem\", key = \"file:no.key\" }",
    );
    assert_found(&doctor(&place), "problem", &["route proven: upstream: cannot read", "no.pem", "correct its `tls`"]);
}

#[test]
fn a_program_that_prints_a_secret_is_looked_at_and_not_run() {
    let token = |name: &str, program: &str| {
        format!(
            "[[token]]\nname = \"{name}\"\nowner = \"a\"\nreason = \"b\"\nscopes = [\"c\"]\nexpires = 2099-01-01\n\
             hosts = [\"{name}.test\"]\n[token.source]\nkind = \"client_credentials\"\n\
             token_url = \"https://127.0.0.1:1/token\"\nclient_id = \"ci\"\nclient_secret = \"exec:{program} canary\"\n"
        )
    };
    let folder = tempfile::tempdir().expect("a folder");
    // The proxy's user can look into it.
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("changed");
    let open = folder.path().join("open");
    let ran = folder.path().join("ran");
    std::fs::write(&open, format!("#!/bin/sh\ntouch {}\n", ran.display())).expect("written");
    std::fs::set_permissions(&open, Permissions::from_mode(0o757)).expect("changed");
    let place = with_client(&[token("sound", "/bin/cat"), token("open", &open.to_string_lossy())].concat());
    let ended = doctor(&place);
    assert_found(&ended, "ok", &["token sound: source.client_secret", "/bin/cat is there", "was not run"]);
    assert_found(
        &ended,
        "problem",
        &["token open: source.client_secret", "others than its owner can write", "chmod go-w"],
    );
    assert!(!ran.exists() && !ended.out.contains("canary"), "{}", ended.out);
}

#[test]
fn an_app_that_is_the_proxys_own_user_is_not_kept_apart() {
    let place = Place::new("");
    let ended = doctor(&place);
    assert_found(&ended, "warning", &["any process of the proxy's own user", "run the app as another user"]);
    let place = place.without_root();
    let config = std::fs::read_to_string(place.path("countersign.toml")).expect("the config");
    place.write_config(&format!("{config}[[client]]\nname = \"app\"\nuid = {}\n", place.user()));
    assert_found(&doctor(&place), "problem", &["client app runs as the proxy's own user", "another user"]);
}

#[test]
fn a_listener_that_refuses_nothing_is_a_problem() {
    let place = with_client("");
    let listener = TcpListener::bind(place.proxy).expect("the proxy's address");
    let asked = serve(listener, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let ended = doctor(&place);
    for attack in ["DNS rebinding", "a web page of another site", "differ", "told twice"] {
        assert_found(&ended, "problem", &[attack, "does not refuse", "200 OK"]);
    }
    assert_found(&ended, "problem", &["takes user", "for a client"]);
    drop(asked);
}

#[test]
fn the_clock_is_compared_with_an_issuers_that_is_sent_no_credential() {
    let date = "HTTP/1.1 405 Method Not Allowed\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-length: 0\r\n\r\n";
    let (issuer, asked) = server(date);
    let place = with_client(&format!(
        r#"
[[token]]
name = "issued"
owner = "team@example.com"
reason = "the tests need it"
scopes = ["read"]
expires = "{}"
hosts = ["127.0.0.1"]
source = {{ kind = "client_credentials", token_url = "http://{issuer}/token", client_id = "ci", client_secret = "env:NO_SUCH" }}
[[route]]
name = "closed"
upstream = "https://{issuer}"
token = "issued"
allow = "any"
"#,
        jiff::Timestamp::now() + std::time::Duration::from_secs(24 * 3600)
    ));
    let ended = doctor(&place);
    assert_found(&ended, "problem", &["token issued: source.token_url", "s apart", "NTP"]);
    assert_found(&ended, "note", &["token issued: source.client_secret", "NO_SUCH is not set"]);
    assert_found(&ended, "problem", &["route closed: upstream", "TLS handshake"]);
    let heads: Vec<String> = asked.try_iter().filter(|head| head.ends_with("\r\n\r\n")).collect();
    let head = heads.iter().find(|head| head.starts_with("HEAD /token HTTP/1.1\r\n")).expect("a HEAD request");
    assert!(!head.to_ascii_lowercase().contains("authorization"), "{head}");
}
