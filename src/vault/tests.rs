use std::path::Path;

use super::*;
use crate::clock::ManualClock;
use crate::fetch::scripted::{Scripted, fetcher};
use crate::secret::{Deposits, Reference};

/// A vault that says what a test scripts, and who asks it.
struct Scene {
    server: Scripted,
    vault: Arc<Vault>,
    clock: Arc<ManualClock>,
    folder: tempfile::TempDir,
}

async fn scene(auth: impl FnOnce(&Path) -> Auth) -> Scene {
    let (server, folder) = (Scripted::start().await, tempfile::tempdir().expect("a folder"));
    let url = Endpoint::parse(server.endpoint().to_string().trim_end_matches("/token")).expect("well-formed");
    let auth = auth(folder.path());
    let settings = Settings { url, namespace: Some("team/ci".to_owned()), auth, tls: tls::Settings::default() };
    let clock = Arc::new(ManualClock::default());
    let vault = Arc::new(Vault::new(&settings, fetcher(), clock.clone()).expect("well-formed"));
    Scene { server, vault, clock, folder }
}

fn approle(folder: &Path) -> Auth {
    let file = |name: &str, content: &str| {
        std::fs::write(folder.join(name), content).expect("written");
        Reference::File(folder.join(name))
    };
    Auth::AppRole {
        mount: "approle".to_owned(),
        role_id: file("role", "the-role"),
        secret_id: Some(file("secret", "the-\"secret\"")),
    }
}

/// What comes of asking, and of what the vault does meanwhile.
async fn with<T, S>(
    ask: impl Future<Output = Result<T, Error>>,
    script: impl Future<Output = S>,
) -> (Result<T, Error>, S) {
    match tokio::join!(ask, tokio::time::timeout(SOON, script)) {
        (outcome, Ok(seen)) => (outcome, seen),
        (outcome, Err(_)) => panic!("the vault was not asked so often: {:?}", outcome.err()),
    }
}

async fn in_time<S>(script: impl Future<Output = S>) -> S {
    tokio::time::timeout(SOON, script).await.expect("the vault is asked")
}

const SOON: Duration = Duration::from_secs(30);

fn json(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn granted(token: &str, seconds: u64, renewable: bool) -> String {
    let auth = format!(
        r#"{{"client_token":"{token}","accessor":"a","lease_duration":{seconds},"renewable":{renewable},"policies":["x"]}}"#
    );
    json("200 OK", &format!(r#"{{"request_id":"1","data":null,"auth":{auth}}}"#))
}

const VERSIONED: &str = r#"{"data":{"path":"secret/","type":"kv","options":{"version":"2"}}}"#;
const PASSWORD: &str =
    r#"{"data":{"data":{"password":"hunter2","port":5432,"list":[]},"metadata":{"version":7,"deletion_time":""}}}"#;
const DENIED: &str = r#"{"errors":["permission denied"]}"#;

#[tokio::test]
async fn a_secret_is_read_after_a_login_as_the_vault_wants_it() {
    let Scene { server, vault, folder: _folder, .. } = scene(approle).await;
    let script = async {
        let login = server.answer(granted("hvs.one", 3600, true)).await;
        let mount = server.answer(json("200 OK", VERSIONED)).await;
        let read = server.answer(json("200 OK", PASSWORD)).await;
        (login, mount, read)
    };
    let (read, (login, mount, asked)) = with(vault.read("secret/ci", None, None), script).await;
    let read = read.expect("read");
    assert_eq!(read.field("password").expect("a field").as_str(), "hunter2");
    assert_eq!(read.field("port").expect("a field").as_str(), "5432");
    assert_eq!(read.version(), Some(7));
    let missing = read.field("user").expect_err("a failure").to_string();
    assert!(missing.contains("secret/ci has no field \"user\": it has list, password, port"), "{missing}");
    assert!(matches!(read.field("list"), Err(Error::Value { .. })));

    assert!(login.starts_with("POST /v1/auth/approle/login HTTP/1.1\r\n"), "{login}");
    assert!(login.ends_with(r#"{"role_id":"the-role","secret_id":"the-\"secret\""}"#), "{login}");
    assert!(mount.starts_with("GET /v1/sys/internal/ui/mounts/secret/ci HTTP/1.1\r\n"), "{mount}");
    assert!(asked.starts_with("GET /v1/secret/data/ci HTTP/1.1\r\n"), "{asked}");
    for request in [&login, &mount, &asked] {
        assert!(request.contains("\r\nx-vault-request: true\r\n"), "{request}");
        assert!(request.contains("\r\nx-vault-namespace: team/ci\r\n"), "{request}");
    }
    assert!(!login.contains("x-vault-token"), "{login}");
    assert!(asked.contains("\r\nx-vault-token: hvs.one\r\n"), "{asked}");

    // The mount is known, and so is the API's own spelling.
    let again = async { server.answer(json("200 OK", PASSWORD)).await };
    let (read, asked) = with(vault.read("secret/data/ci", None, Some(3)), again).await;
    read.expect("read");
    assert!(asked.starts_with("GET /v1/secret/data/ci?version=3 HTTP/1.1\r\n"), "{asked}");
}

#[tokio::test]
async fn many_who_ask_at_once_make_one_login() {
    let Scene { server, vault, folder: _folder, .. } = scene(approle).await;
    let asked = async { tokio::join!(vault.ask(Ask::get("a")), vault.ask(Ask::get("b")), vault.ask(Ask::get("c"))) };
    let script = async {
        let login = server.answer(granted("hvs.one", 3600, true)).await;
        let mut others = Vec::new();
        for _ in 0..3 {
            others.push(server.answer(json("200 OK", "{}")).await);
        }
        (login, others)
    };
    let (answers, (login, others)) = tokio::join!(asked, in_time(script));
    assert!(answers.0.is_ok() && answers.1.is_ok() && answers.2.is_ok());
    assert!(login.contains("/login"));
    assert!(others.iter().all(|request| !request.contains("/login")));
}

#[tokio::test]
async fn a_login_is_renewed_ahead_of_its_end_and_followed_by_another_when_that_helps_no_more() {
    let Scene { server, vault, clock, folder: _folder } = scene(approle).await;
    let (token, _) = with(vault.token(), server.answer(granted("hvs.one", 600, true))).await;
    assert_eq!(token.expect("a token").serial, 1);
    clock.advance(Duration::from_secs(401));
    let (token, renewed) = with(vault.token(), server.answer(granted("hvs.one", 600, true))).await;
    assert!(renewed.starts_with("POST /v1/auth/token/renew-self "), "{renewed}");
    assert!(renewed.contains("x-vault-token: hvs.one"), "{renewed}");
    assert_eq!(token.expect("a token").serial, 1, "it is the same login");
    // The vault gives what is left until the role's bound.
    clock.advance(Duration::from_secs(401));
    let (token, _) = with(vault.token(), server.answer(granted("hvs.one", 200, true))).await;
    assert_eq!(token.expect("a token").serial, 1);
    clock.advance(Duration::from_secs(134));
    let since = vault.clone();
    let script = async { tokio::join!(server.answer(granted("hvs.two", 600, true)), since.logged_in_since(1)).0 };
    let (token, login) = with(vault.token(), script).await;
    assert!(login.contains("/login"), "{login}");
    assert_eq!((token.expect("a token").serial, vault.serial()), (2, 2));
}

#[tokio::test]
async fn a_void_login_is_made_anew_once_and_a_narrow_policy_is_told() {
    let Scene { server, vault, clock, folder: _folder } = scene(approle).await;
    let (token, _) = with(vault.token(), server.answer(granted("hvs.one", 3600, true))).await;
    token.expect("a token");
    clock.advance(Duration::from_secs(60));
    let script = async {
        server.answer(json("403 Forbidden", DENIED)).await;
        let looked = server.answer(json("403 Forbidden", DENIED)).await;
        server.answer(granted("hvs.two", 3600, true)).await;
        (looked, server.answer(json("200 OK", "{}")).await)
    };
    let (answer, (looked, again)) = with(vault.ask(Ask::get("sys/x")), script).await;
    answer.unwrap_or_else(|error| panic!("{error}"));
    assert!(looked.starts_with("GET /v1/auth/token/lookup-self "), "{looked}");
    assert!(again.contains("x-vault-token: hvs.two"), "{again}");

    clock.advance(Duration::from_secs(60));
    let script = async {
        server.answer(json("403 Forbidden", DENIED)).await;
        server.answer(json("200 OK", "{}")).await
    };
    let (answer, _) = with(vault.ask(Ask::get("sys/x")), script).await;
    let error = answer.err().expect("a failure");
    assert!(error.is_refusal());
    assert!(error.to_string().starts_with("the vault denies sys/x (403: permission denied)"), "{error}");
}

#[tokio::test]
async fn a_refused_login_is_told_without_its_proof_and_not_repeated_at_once() {
    let Scene { server, vault, clock, folder } = scene(approle).await;
    std::fs::write(folder.path().join("secret"), "canary-secret").expect("written");
    let no = json("400 Bad Request", r#"{"errors":["invalid secret id \"canary-secret\" of the-role"]}"#);
    let (answer, _) = with(vault.ask(Ask::get("a")), server.answer(no)).await;
    let error = answer.err().expect("a failure").to_string();
    assert!(error.contains("refuses the login at auth/approle/login (400"), "{error}");
    assert!(error.contains("`auth` of [vault]"), "{error}");
    assert!(!error.contains("canary-secret") && !error.contains("the-role"), "{error}");
    // Nobody listens: whoever asks now is told what was said before.
    let again = vault.ask(Ask::get("a")).await.err().expect("a failure").to_string();
    assert_eq!(again, error);
    clock.advance(Duration::from_secs(3));
    let (answer, login) = with(vault.token(), server.answer(granted("hvs.one", 60, false))).await;
    answer.unwrap_or_else(|error| panic!("{error}"));
    assert!(login.contains("canary-secret"));
}

#[tokio::test]
async fn no_answer_of_the_vault_brings_half_of_a_secret_into_an_error() {
    let Scene { server, vault, clock, folder } = scene(approle).await;
    std::fs::write(folder.path().join("secret"), "canary-secret").expect("written");
    for status in ["400 Bad Request", "403 Forbidden", "500 Oh"] {
        let no = json(status, &format!(r#"{{"errors":["{}canary-secret"]}}"#, "x".repeat(290)));
        let (answer, _) = with(vault.token(), server.answer(no)).await;
        let error = answer.err().expect("a failure").to_string();
        assert!(error.contains("xxx") && !error.contains("canary"), "{error}");
        clock.advance(Duration::from_secs(120));
    }
    let (token, _) = with(vault.token(), server.answer(granted("canary-token", 36_000, true))).await;
    token.expect("a token");
    for status in ["400 Bad Request", "403 Forbidden", "500 Oh"] {
        let no = json(status, &format!(r#"{{"errors":["{}canary-token"]}}"#, "x".repeat(290)));
        let (answer, _) = with(vault.ask(Ask::get("a")), server.answer(no)).await;
        let error = answer.err().expect("a failure").to_string();
        assert!(error.contains("xxx") && !error.contains("canary"), "{error}");
    }
}

#[tokio::test]
async fn a_login_for_ages_is_believed_for_some_years() {
    let Scene { server, vault, folder: _folder, .. } = scene(approle).await;
    let (token, _) = with(vault.token(), server.answer(granted("hvs.one", u64::MAX, true))).await;
    assert_eq!(token.expect("a token").serial, 1);
}

#[tokio::test]
async fn a_token_of_somebody_elses_is_looked_at_and_never_voided() {
    let of_file = |folder: &Path| {
        std::fs::write(folder.join("token"), "hvs.root\n").expect("written");
        Auth::Token(Reference::File(folder.join("token")))
    };
    let Scene { server, vault, clock, folder } = scene(of_file).await;
    let forever = json("200 OK", r#"{"data":{"ttl":0,"renewable":false,"creation_ttl":0}}"#);
    let script = async { (server.answer(forever).await, server.answer(json("200 OK", "{}")).await) };
    let (answer, (looked, asked)) = with(vault.ask(Ask::get("a")), script).await;
    answer.unwrap_or_else(|error| panic!("{error}"));
    assert!(looked.starts_with("GET /v1/auth/token/lookup-self "), "{looked}");
    assert!(asked.contains("x-vault-token: hvs.root\r\n"), "{asked}");
    clock.advance(Duration::from_secs(1_000_000));
    let (answer, _) = with(vault.ask(Ask::get("a")), server.answer(json("200 OK", "{}"))).await;
    answer.unwrap_or_else(|error| panic!("{error}"));
    // Nobody listens for a revocation.
    vault.leave().await;

    std::fs::write(folder.path().join("token"), "bad token").expect("written");
    let error = vault.ask(Ask::get("a")).await.err().expect("a failure");
    assert!(matches!(error, Error::Token), "{error}");
}

#[tokio::test]
async fn what_a_login_gave_is_voided_when_it_is_left() {
    let Scene { server, vault, folder: _folder, .. } = scene(approle).await;
    vault.leave().await;
    let (token, _) = with(vault.token(), server.answer(granted("hvs.one", 600, true))).await;
    token.expect("a token");
    let ((), left) = tokio::join!(vault.leave(), in_time(server.answer("HTTP/1.1 204 No Content\r\n\r\n")));
    assert!(left.starts_with("POST /v1/auth/token/revoke-self "), "{left}");
    assert!(left.contains("x-vault-token: hvs.one"), "{left}");
}

#[tokio::test]
async fn what_is_not_there_is_said_by_its_path() {
    let Scene { server, vault, folder: _folder, .. } = scene(approle).await;
    let (token, _) = with(vault.token(), server.answer(granted("hvs.one", 36_000, true))).await;
    token.expect("a token");
    for (answer, expected) in [
        (json("404 Not Found", r#"{"errors":[]}"#), "the vault has nothing at secret/data/ci"),
        (json("200 OK", r#"{"data":{"data":null,"metadata":{}}}"#), "the vault has nothing at secret/ci"),
        (
            json("503 Service Unavailable", r#"{"errors":["Vault is sealed"]}"#),
            "answered 503 to secret/data/ci: Vault is sealed",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno".to_owned(), "has not the form"),
        ("HTTP/1.1 302 Found\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n".to_owned(), "answered 302"),
    ] {
        let (read, _) = with(vault.read("secret/ci", Some(Engine::Versioned), None), server.answer(answer)).await;
        let error = read.err().expect("a failure");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.is_refusal(), "{error}");
    }
    let told = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n";
    let (answer, _) = with(vault.ask(Ask::get("a")), server.answer(told)).await;
    assert_eq!(answer.err().expect("a failure").retry_after(), Some(Duration::from_secs(7)));
    let told = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 86400\r\nContent-Length: 0\r\n\r\n";
    let (answer, _) = with(vault.ask(Ask::get("a")), server.answer(told)).await;
    assert_eq!(answer.err().expect("a failure").retry_after(), Some(Duration::from_secs(600)), "within reason");
}

#[tokio::test]
async fn a_reference_is_read_through_the_vault() {
    let Scene { server, vault, folder: _folder, .. } = scene(approle).await;
    let script = async {
        server.answer(granted("hvs.one", 3600, true)).await;
        server.answer(json("200 OK", r#"{"data":{"path":"old/","type":"kv","options":{}}}"#)).await;
        server.answer(json("200 OK", r#"{"data":{"key":"value"},"lease_duration":2764800}"#)).await
    };
    let (secret, asked) = tokio::join!(Deposits::read(&*vault, "old/ci", "key"), in_time(script));
    assert!(secret.expect("no failure").same_as(&crate::secret::Secret::new("value")));
    assert!(asked.starts_with("GET /v1/old/ci HTTP/1.1\r\n"), "{asked}");
}
