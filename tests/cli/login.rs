//! `login`, against an issuer that says what the test tells it to.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::{Ended, Place, until};

/// An issuer that answers its calls in turn.
struct Issuer {
    address: SocketAddr,
    calls: Arc<Mutex<Vec<Call>>>,
}

struct Call {
    path: String,
    fields: BTreeMap<String, String>,
}

impl Issuer {
    fn answering(answers: impl IntoIterator<Item = (u16, Value)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (calls, mut answers) = (Arc::default(), answers.into_iter().collect::<VecDeque<_>>());
        let written: Arc<Mutex<Vec<Call>>> = Arc::clone(&calls);
        std::thread::spawn(move || {
            while let Ok((tcp, _)) = listener.accept() {
                let call = Call::read(&tcp);
                let (status, body) = answers.pop_front().unwrap_or((500, json!({})));
                let body = body.to_string().replace("ISSUER", &format!("http://{address}"));
                written.lock().expect("nobody has panicked").push(call);
                let head = format!("HTTP/1.1 {status} So\r\nContent-Type: application/json\r\nConnection: close\r\n");
                // Whoever asked may have gone.
                let _ = write!(&tcp, "{head}Content-Length: {}\r\n\r\n{body}", body.len());
            }
        });
        Self { address, calls }
    }

    fn paths(&self) -> Vec<String> {
        self.calls.lock().expect("nobody has panicked").iter().map(|call| call.path.clone()).collect()
    }

    fn fields(&self, number: usize) -> BTreeMap<String, String> {
        self.calls.lock().expect("nobody has panicked")[number].fields.clone()
    }

    /// A place with a token that somebody has to sign in for, here.
    fn place(&self, more: &str) -> Place {
        let place = Place::new("");
        let config = std::fs::read_to_string(place.path("countersign.toml")).expect("a config");
        let source = format!(
            r#"source = {{ kind = "refresh_token", client_id = "app", refresh_token = "file:signed-in", single_instance = true, {more} }}"#
        );
        let source = source.replace("ISSUER", &format!("http://{}", self.address));
        place.write_config(&config.replace(r#"source = { kind = "file", path = "token" }"#, &source));
        place
    }
}

impl Call {
    fn read(mut tcp: &TcpStream) -> Self {
        let mut text = String::new();
        loop {
            let mut piece = [0; 4096];
            let length = tcp.read(&mut piece).expect("a request");
            text.push_str(std::str::from_utf8(&piece[..length]).expect("text"));
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let announced = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= announced.map_or(0, |digits| digits.parse().expect("a length")) || length == 0 {
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                return Self { path, fields: form_urlencoded::parse(body.as_bytes()).into_owned().collect() };
            }
        }
    }
}

const DEVICE: &str = r#"token_url = "ISSUER/token", device_authorization_url = "ISSUER/device""#;

fn device() -> (u16, Value) {
    let told = json!({ "device_code": "canary-dc", "user_code": "ABCD-EFGH", "verification_uri": "https://a.example/d",
        "expires_in": 600, "interval": 1 });
    (200, told)
}

fn no(error: &str) -> (u16, Value) {
    (400, json!({ "error": error }))
}

fn signed_in() -> (u16, Value) {
    let token = json!({ "access_token": "canary-at", "token_type": "Bearer", "expires_in": 3600, "refresh_token": "canary-rt" });
    (200, token)
}

#[test]
fn a_code_is_typed_somewhere_and_the_refresh_token_lies_where_the_config_says() {
    let issuer = Issuer::answering([device(), no("authorization_pending"), (503, json!({})), signed_in()]);
    let place = issuer.place(DEVICE);
    place.write("signed-in", "an older one\n");
    let ended = place.run(&["login", "api"]);
    assert!(ended.err.contains("https://a.example/d") && ended.err.contains("ABCD-EFGH"), "{}", ended.err);
    assert!(!format!("{}{}", ended.out, ended.err).contains("canary"), "{}{}", ended.out, ended.err);
    assert!(ended.ok().contains("api: signed in"));
    assert_eq!(std::fs::read_to_string(place.path("signed-in")).expect("a file"), "canary-rt\n");
    assert_eq!(place.path("signed-in").metadata().expect("a file").mode() & 0o777, 0o600);
    assert_eq!(issuer.paths(), ["/device", "/token", "/token", "/token"]);
    let asked = issuer.fields(1);
    assert_eq!(asked["grant_type"], "urn:ietf:params:oauth:grant-type:device_code");
    assert_eq!((&*asked["device_code"], &*asked["client_id"]), ("canary-dc", "app"));
}

#[test]
fn a_sign_in_that_fails_leaves_what_was_there_and_says_why() {
    for (answers, code, said) in [
        (vec![device(), no("access_denied")], 77, "access_denied"),
        (vec![device(), no("slow_down"), no("expired_token")], 1, "expired_token"),
        (vec![no("unauthorized_client")], 1, "unauthorized_client"),
        (
            vec![device(), (200, json!({ "access_token": "at", "token_type": "Bearer", "expires_in": 9 }))],
            1,
            "no refresh token",
        ),
    ] {
        let issuer = Issuer::answering(answers);
        let place = issuer.place(DEVICE);
        place.write("signed-in", "an older one\n");
        let told = place.run(&["login", "api"]).failed(code);
        assert!(told.contains(said) && !told.contains("canary"), "{told}");
        assert_eq!(std::fs::read_to_string(place.path("signed-in")).expect("a file"), "an older one\n");
    }
}

#[test]
fn what_stands_in_the_way_is_said_before_anybody_signs_in() {
    let issuer = Issuer::answering([]);
    let place = issuer.place(DEVICE);
    assert!(place.run(&["login", "other"]).failed(64).contains("there is no token other"));
    symlink("/etc/hostname", place.path("signed-in")).expect("a link");
    assert!(place.run(&["login", "api"]).failed(1).contains("is no file"));
    assert!(Place::new("").run(&["login", "api"]).failed(78).contains("`file`"));
    let nowhere = issuer.place(r#"token_url = "ISSUER/token""#);
    assert!(nowhere.run(&["login", "api"]).failed(78).contains("does not say where to sign in"));
    let unreachable = Issuer { address: ([127, 0, 0, 1], 1).into(), calls: Arc::default() };
    unreachable.place(DEVICE).run(&["login", "api"]).failed(69);
    assert_eq!(issuer.paths(), [""; 0]);
}

/// Opens a URL as a browser does, and what it is told.
fn open(url: &str) -> String {
    let rest = url.strip_prefix("http://").expect("http");
    let (authority, path) = rest.split_once('/').expect("a path");
    let mut tcp = TcpStream::connect(authority).expect("somebody listens");
    write!(tcp, "GET /{path} HTTP/1.1\r\nHost: {authority}\r\n\r\n").expect("sent");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn a_browser_that_comes_back_with_the_right_state_signs_in_and_no_other_does() {
    let metadata = json!({ "issuer": "ISSUER", "token_endpoint": "ISSUER/token",
        "authorization_endpoint": "ISSUER/authorize", "authorization_response_iss_parameter_supported": true });
    let issuer = Issuer::answering([(200, metadata), signed_in()]);
    let place = issuer.place(r#"issuer = "ISSUER""#);
    let mut command = place.command(&["login", "api", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    let told: Value = serde_json::from_str(&line).expect("JSON");
    let (url, query) = told["authorization_url"].as_str().and_then(|url| url.split_once('?')).expect("a URL");
    assert_eq!(url, format!("http://{}/authorize", issuer.address));
    let asked: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let (redirect, state) = (&asked["redirect_uri"], &asked["state"]);
    let own = format!("iss=http%3A%2F%2F{}", issuer.address);
    assert!(open(&format!("{redirect}?code=evil&state=guessed&{own}")).starts_with("HTTP/1.1 400 "));
    assert!(open(&redirect.replace("/callback", "/favicon.ico")).starts_with("HTTP/1.1 400 "));
    let told = open(&format!("{redirect}?code=the-code&state={state}&{own}"));
    assert!(told.starts_with("HTTP/1.1 200 ") && told.contains("Signed in"), "{told}");

    out.read_to_string(&mut line).expect("its end");
    let ended = Ended::of(child.wait_with_output().expect("it ends"));
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(line.contains(r#""signed_in":true"#) && !line.contains("canary"), "{line}");
    assert_eq!(std::fs::read_to_string(place.path("signed-in")).expect("a file"), "canary-rt\n");
    let shown = issuer.fields(1);
    assert_eq!((&*shown["code"], &shown["redirect_uri"]), ("the-code", redirect));
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, shown["code_verifier"].as_bytes()));
    assert_eq!(challenge, asked["code_challenge"]);
}

#[test]
fn a_token_that_waits_for_a_sign_in_works_after_one_without_a_restart() {
    let used = json!({ "access_token": "used", "token_type": "Bearer", "expires_in": 3600, "refresh_token": "next" });
    let issuer = Issuer::answering([no("invalid_grant"), device(), signed_in(), (200, used)]);
    let place = issuer.place(DEVICE);
    place.write("signed-in", "an older one\n");
    let _proxy = place.start();
    let state = |wanted: &str| {
        let shown = place.run(&["tokens", "show", "api", "--json"]);
        (shown.code == 0 && shown.out.contains(wanted)).then_some(())
    };
    until("the issuer has refused", || (issuer.paths().len() == 1).then_some(()));
    place.run(&["login", "api"]).ok();
    until("the token is in use", || state("\"active\""));
    assert_eq!(issuer.fields(3)["refresh_token"], "canary-rt");
}
