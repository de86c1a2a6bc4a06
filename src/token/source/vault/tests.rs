use std::sync::Arc;
use std::time::Duration;

use super::dynamic::Dynamic;
use super::kv::Kv;
use super::*;
use crate::authority::Endpoint;
use crate::clock::ManualClock;
use crate::fetch::scripted::{Scripted, fetcher};
use crate::secret::Reference;
use crate::token::source::{Ghost, Issued, Source};
use crate::vault::{Auth, Settings, Vault};

/// A vault that says what a test scripts, and a login to it that has no end.
struct Scene {
    server: Scripted,
    vault: Arc<Vault>,
    clock: Arc<ManualClock>,
    token: tempfile::NamedTempFile,
}

async fn scene() -> Scene {
    let (server, token) = (Scripted::start().await, tempfile::NamedTempFile::new().expect("a file"));
    std::fs::write(token.path(), "root").expect("written");
    let url = Endpoint::parse(server.endpoint().to_string().trim_end_matches("/token")).expect("well-formed");
    let auth = Auth::Token(Reference::File(token.path().to_owned()));
    let settings = Settings { url, namespace: None, auth, tls: crate::tls::Settings::default() };
    let clock = Arc::new(ManualClock::default());
    let vault = Arc::new(Vault::new(&settings, fetcher(), clock.clone()).expect("well-formed"));
    let login = json(r#"{"data":{"ttl":0,"renewable":false}}"#);
    let (login, _) = tokio::join!(vault.login(), server.answer(login));
    assert_eq!(login.unwrap_or_else(|error| panic!("{error}")), 1);
    Scene { server, vault, clock, token }
}

fn json(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn no(status: &str, said: &str) -> String {
    let body = format!(r#"{{"errors":["{said}"]}}"#);
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn kept(lease: &str) -> Secret {
    Secret::new(format!("lease:{lease}"))
}

fn made(template: &str, base64: bool) -> Made {
    Made { template: template.parse().expect("well-formed"), base64 }
}

impl Scene {
    fn kv(&self) -> Kv {
        let (path, made) = ("secret/ci".to_owned(), made("{token}", false));
        let engine = Some(crate::vault::Engine::Versioned);
        let settings = kv::Settings { path, made, engine, version: None, every: Duration::from_secs(5) };
        Kv::new(settings, self.vault.clone(), self.clock.clone())
    }

    fn dynamic(&self, made: Made, parameters: Option<&[(&str, &str)]>) -> Dynamic {
        let parameters = parameters.map(|all| all.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect());
        let (path, max_life) = ("db/creds/reader".to_owned(), Duration::from_secs(300));
        let settings = dynamic::Settings { path, made, parameters, max_life, list: true };
        Dynamic::new(settings, self.vault.clone(), self.clock.clone())
    }

    fn left(&self, issued: &Issued) -> Duration {
        issued.expires.expect("an end").remaining(crate::clock::Clock::now(&*self.clock))
    }

    /// Obtains a generation under this lease.
    async fn lease(&self, source: &Dynamic, id: &str, seconds: u64) -> Issued {
        let answer = format!(
            r#"{{"lease_id":"{id}","lease_duration":{seconds},"renewable":true,"data":{{"username":"u","password":"p"}}}}"#
        );
        let (issued, _) = tokio::join!(source.obtain(), self.server.answer(json(&answer)));
        issued.unwrap_or_else(|failure| panic!("{failure}"))
    }
}

#[tokio::test]
async fn what_lies_in_the_vault_is_a_token_with_its_version_and_its_deletion() {
    let scene = scene().await;
    let source = scene.kv();
    let answer = r#"{"data":{"data":{"token":"abc"},"metadata":{"version":3,"deletion_time":""}}}"#;
    let (issued, asked) = tokio::join!(source.obtain(), scene.server.answer(json(answer)));
    let issued = issued.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(issued.secret.same_as(&Secret::new("abc")));
    assert_eq!((issued.version, issued.expires, source.mints()), (Some(3), None, false));
    assert!(asked.starts_with("GET /v1/secret/data/ci "), "{asked}");
    assert_eq!(source.pace().recheck, Duration::from_secs(5));

    let later = jiff::Timestamp::now() + Duration::from_secs(3600);
    let answer =
        format!(r#"{{"data":{{"data":{{"token":"abc"}},"metadata":{{"version":4,"deletion_time":"{later}"}}}}}}"#);
    let (issued, _) = tokio::join!(source.obtain(), scene.server.answer(json(&answer)));
    let left = scene.left(&issued.unwrap_or_else(|failure| panic!("{failure}")));
    assert!(left > Duration::from_secs(3500) && left <= Duration::from_secs(3600), "{left:?}");

    for (answer, reason) in [
        (no("404 Not Found", ""), Reason::Status),
        (json(r#"{"data":{"data":{"key":"abc"},"metadata":{}}}"#), Reason::TokenMissing),
        (json(r#"{"data":{"data":{"token":"a\nb"},"metadata":{}}}"#), Reason::TokenCharset),
        (no("503 Service Unavailable", "Vault is sealed"), Reason::Status),
    ] {
        let (issued, _) = tokio::join!(source.obtain(), scene.server.answer(answer));
        assert_eq!(issued.err().map(|failure| failure.reason), Some(reason));
    }
}

#[tokio::test]
async fn credentials_are_put_together_and_known_by_their_lease() {
    let scene = scene().await;
    let source = scene.dynamic(made("{username}:{password}", true), None);
    let issued = scene.lease(&source, "db/creds/reader/1", 60).await;
    assert!(issued.secret.same_as(&Secret::new("dTpw")));
    assert!(issued.void_by.as_ref().expect("something to void it by").same_as(&Secret::new("lease:db/creds/reader/1")));
    let left = scene.left(&issued);
    assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60), "{left:?}");

    let told = Secret::new("lease:db/creds/reader/1");
    let (done, asked) = tokio::join!(source.revoke(&told), scene.server.answer("HTTP/1.1 204 No Content\r\n\r\n"));
    done.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(asked.starts_with("POST /v1/sys/leases/revoke "), "{asked}");
    assert!(asked.ends_with(r#"{"lease_id":"db/creds/reader/1","sync":"true"}"#), "{asked}");
    let (done, _) = tokio::join!(source.revoke(&told), scene.server.answer(no("400 Bad Request", "lease not found")));
    assert!(done.is_ok(), "what is not there is void");
    let (done, _) = tokio::join!(source.revoke(&told), scene.server.answer(no("500 Internal Server Error", "no")));
    assert!(matches!(done.err().map(|failure| failure.class), Some(Class::Transient { .. })));
    let without = source.revoke(&Secret::new("nothing:")).await.err().map(|failure| failure.class);
    assert_eq!(without, Some(Class::Refused), "there is nothing to tell it by");
}

#[tokio::test]
async fn a_lease_is_renewed_until_the_longest_life_and_then_followed_by_another() {
    let scene = scene().await;
    let source = scene.dynamic(made("{password}", false), None);
    scene.lease(&source, "db/1", 100).await;
    for expected in [100, 100, 100] {
        scene.clock.advance(Duration::from_secs(70));
        let answer = json(r#"{"lease_id":"db/1","lease_duration":100,"renewable":true}"#);
        let lease = kept("db/1");
        let (given, asked) = tokio::join!(source.prolong(&lease), scene.server.answer(answer));
        assert!(asked.starts_with("POST /v1/sys/leases/renew "), "{asked}");
        assert!(asked.ends_with(r#"{"lease_id":"db/1"}"#), "{asked}");
        let Ok(Some(until)) = given else { panic!("the same for longer") };
        let left = until.remaining(crate::clock::Clock::now(&*scene.clock)).as_secs();
        // Three hundred seconds in all.
        assert!(left <= expected && left >= 85, "{left}");
    }
    scene.clock.advance(Duration::from_secs(70));
    assert!(matches!(source.prolong(&kept("db/1")).await, Ok(None)), "and the vault is not even asked");
}

#[tokio::test]
async fn a_lease_that_the_vault_does_not_renew_is_to_be_followed_and_an_outage_is_waited_out() {
    let scene = scene().await;
    let source = scene.dynamic(made("{password}", false), None);
    scene.lease(&source, "db/1", 100).await;
    scene.clock.advance(Duration::from_secs(70));
    let sealed = no("503 Service Unavailable", "Vault is sealed");
    let lease = kept("db/1");
    let (given, _) = tokio::join!(source.prolong(&lease), scene.server.answer(sealed));
    assert!(matches!(given.err().map(|failure| failure.class), Some(Class::Transient { .. })));
    let ended = scene.server.answer(no("400 Bad Request", "lease not found"));
    assert!(matches!(tokio::join!(source.prolong(&lease), ended).0, Ok(None)));
    let denied = async {
        scene.server.answer(no("403 Forbidden", "permission denied")).await;
        // It is not for the login.
        scene.server.answer(json("{}")).await
    };
    let (given, looked) = tokio::join!(source.prolong(&lease), denied);
    assert!(matches!(given, Ok(None)) && looked.contains("lookup-self"), "{looked}");
    let answer = json(r#"{"lease_id":"db/2","lease_duration":100,"data":{"password":"q"}}"#);
    let (issued, _) = tokio::join!(source.obtain(), scene.server.answer(answer));
    assert!(
        issued
            .unwrap_or_else(|failure| panic!("{failure}"))
            .void_by
            .expect("something to void it by")
            .same_as(&kept("db/2"))
    );
    assert!(matches!(source.prolong(&kept("db/2")).await, Ok(None)), "that one cannot be renewed");
    scene.lease(&source, "db/3", 100).await;
    assert!(matches!(source.prolong(&kept("db/2")).await, Ok(None)), "and that is not the last one any more");
}

#[tokio::test]
async fn a_lease_of_what_is_of_no_use_is_given_back() {
    let scene = scene().await;
    let source = scene.dynamic(made("{secret}", false), None);
    let script = async {
        scene.server.answer(json(r#"{"lease_id":"db/1","lease_duration":100,"data":{"password":"p"}}"#)).await;
        scene.server.answer("HTTP/1.1 204 No Content\r\n\r\n").await
    };
    let (issued, asked) = tokio::join!(source.obtain(), script);
    assert_eq!(issued.err().map(|failure| failure.reason), Some(Reason::TokenMissing));
    assert!(asked.starts_with("POST /v1/sys/leases/revoke ") && asked.contains("db/1"), "{asked}");
}

#[tokio::test]
async fn what_comes_without_a_lease_lasts_as_long_as_it_lies_there() {
    let scene = scene().await;
    let source = scene.dynamic(made("{password}", false), None);
    let answer = r#"{"lease_id":"","lease_duration":0,"renewable":false,"data":{"password":"p","ttl":86400,"rotation_period":86400}}"#;
    let (issued, _) = tokio::join!(source.obtain(), scene.server.answer(json(answer)));
    let issued = issued.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(issued.expires.is_none() && !issued.assumed);
    assert!(matches!(source.prolong(&issued.void_by.expect("something to void it by")).await, Ok(None)));
}

#[tokio::test]
async fn a_lease_of_ages_is_believed_for_some_years() {
    let scene = scene().await;
    let source = scene.dynamic(made("{password}", false), None);
    let issued = scene.lease(&source, "db/1", u64::MAX).await;
    assert!(scene.left(&issued) <= crate::clock::MAX_LIFE);
}

#[tokio::test]
async fn only_the_vaults_own_words_confirm_that_a_lease_is_void() {
    let scene = scene().await;
    let source = scene.dynamic(made("{password}", false), None);
    for (status, said, is_void) in [
        ("404 Not Found", "", false),
        ("404 Not Found", "route entry not found", false),
        ("400 Bad Request", "namespace not found", false),
        ("503 Service Unavailable", "lease not found", false),
        ("400 Bad Request", "lease not found", true),
        ("400 Bad Request", "invalid lease", true),
        ("403 Forbidden", "1 error occurred: * invalid accessor", true),
    ] {
        let lease = kept("db/1");
        let (done, _) = tokio::join!(source.revoke(&lease), scene.server.answer(no(status, said)));
        assert_eq!(done.is_ok(), is_void, "{status} {said}");
        assert!(!matches!(done.err().map(|failure| failure.class), Some(Class::Refused)), "it is told again");
    }
}

#[tokio::test]
async fn a_token_of_the_vault_itself_is_known_by_its_accessor() {
    let scene = scene().await;
    let source = scene.dynamic(made("{token}", false), Some(&[("ttl", "60s")]));
    let auth = r#"{"auth":{"client_token":"s.one","accessor":"acc","lease_duration":60,"renewable":true}}"#;
    let (issued, asked) = tokio::join!(source.obtain(), scene.server.answer(json(auth)));
    let issued = issued.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(asked.starts_with("POST /v1/db/creds/reader ") && asked.ends_with(r#"{"ttl":"60s"}"#), "{asked}");
    assert!(issued.secret.same_as(&Secret::new("s.one")));
    assert!(issued.void_by.as_ref().expect("something to void it by").same_as(&Secret::new("accessor:acc")));
    scene.clock.advance(Duration::from_secs(40));
    let told = Secret::new("accessor:acc");
    let (given, asked) = tokio::join!(source.prolong(&told), scene.server.answer(json(auth)));
    assert!(asked.starts_with("POST /v1/auth/token/renew-accessor "), "{asked}");
    assert!(matches!(given, Ok(Some(_))));
    let (done, asked) = tokio::join!(source.revoke(&told), scene.server.answer(json("{}")));
    assert!(done.is_ok() && asked.starts_with("POST /v1/auth/token/revoke-accessor "), "{asked}");
}

#[tokio::test]
async fn what_another_login_took_out_is_told_as_a_change_once() {
    let scene = scene().await;
    let source = scene.dynamic(made("{password}", false), None);
    scene.lease(&source, "db/1", 100).await;
    scene.clock.advance(Duration::from_secs(60));
    std::fs::write(scene.token.path(), "another").expect("written");
    let script = async {
        let denied = || no("403 Forbidden", "permission denied");
        scene.server.answer(denied()).await;
        scene.server.answer(denied()).await;
        scene.server.answer(json(r#"{"data":{"ttl":0}}"#)).await;
        scene.server.answer(json("{}")).await
    };
    let (_, asked) = tokio::join!(scene.vault.ask(crate::vault::Ask::get("x")), script);
    assert!(asked.contains("x-vault-token: another"), "{asked}");
    source.changed().await;
    let again = tokio::time::timeout(Duration::from_millis(50), source.changed()).await;
    assert!(again.is_err(), "it was told");
    assert!(
        matches!(source.prolong(&kept("db/1")).await, Ok(None)),
        "the lease of a login that is gone is not renewed"
    );
}

#[tokio::test]
async fn leases_of_the_role_that_are_not_ours_are_ghosts() {
    let scene = scene().await;
    let source = scene.dynamic(made("{password}", false), None);
    let ours = |void_by: &Secret| void_by.same_as(&Secret::new("lease:db/creds/reader/ours"));
    let answers = async {
        let keys = r#"{"data":{"keys":["ours","old","gone","secret","below/"]}}"#;
        let listed = scene.server.answer(json(keys)).await;
        assert!(listed.starts_with("GET /v1/sys/leases/lookup/db/creds/reader?list=true "), "{listed}");
        let times = r#"{"data":{"issue_time":"2026-11-22T10:00:00.5Z","expire_time":"2026-11-22T11:00:00Z"}}"#;
        let told = scene.server.answer(json(times)).await;
        assert!(told.starts_with("POST /v1/sys/leases/lookup ") && told.contains("db/creds/reader/old"), "{told}");
        scene.server.answer(no("400 Bad Request", "invalid lease")).await;
        scene.server.answer(no("403 Forbidden", "permission denied")).await;
    };
    let (ghosts, ()) = tokio::join!(source.list(&ours), answers);
    let ghosts = ghosts.unwrap_or_else(|failure| panic!("{failure}"));
    let seconds =
        |text: &str| Some(Duration::from_secs(text.parse::<jiff::Timestamp>().expect("a time").as_second() as u64));
    assert_eq!(ghosts.count, 2);
    let (issued, expires) = (seconds("2026-11-22T10:00:00Z"), seconds("2026-11-22T11:00:00Z"));
    assert_eq!(
        ghosts.told,
        [
            Ghost { id: "db/creds/reader/old".into(), issued, expires },
            Ghost { id: "db/creds/reader/secret".into(), issued: None, expires: None },
        ]
    );
    let nothing = "HTTP/1.1 404 Not Found\r\nContent-Length: 13\r\n\r\n{\"errors\":[]}";
    let (none, _) = tokio::join!(source.list(&ours), scene.server.answer(nothing));
    assert_eq!(none.unwrap_or_else(|failure| panic!("{failure}")).count, 0);
    let denied = no("403 Forbidden", "permission denied");
    let (denied, _) = tokio::join!(source.list(&ours), scene.server.answer(denied));
    assert_eq!(denied.err().map(|failure| failure.reason), Some(Reason::AccessDenied));
}

#[tokio::test]
async fn what_comes_without_a_lease_lives_for_as_long_as_it_says_itself() {
    for (data, life) in [
        (r#"{"password":"p","token_ttl":3599}"#, Some(3599)),
        (r#"{"password":"p","ttl":60}"#, Some(60)),
        (r#"{"password":"p","ttl":0}"#, None),
        (r#"{"password":"p"}"#, None),
        // It is replaced in its place.
        (r#"{"password":"p","ttl":60,"rotation_period":3600}"#, None),
    ] {
        let scene = scene().await;
        let source = scene.dynamic(made("{password}", false), None);
        let answer = json(&format!(r#"{{"lease_id":"","lease_duration":0,"renewable":false,"data":{data}}}"#));
        let (issued, _) = tokio::join!(source.obtain(), scene.server.answer(answer));
        let issued = issued.unwrap_or_else(|failure| panic!("{failure}"));
        let left = issued.expires.map(|_| scene.left(&issued).as_secs() + 1);
        assert_eq!(left, life, "{data}");
    }
}

#[tokio::test]
async fn a_path_that_the_vault_denies_is_named_as_a_policy_has_it() {
    let scene = scene().await;
    let source = scene.dynamic(made("{password}", false), None);
    let (listed, _) =
        tokio::join!(source.list(&|_| false), scene.server.answer(no("403 Forbidden", "permission denied")));
    let detail = listed.err().expect("a failure").detail;
    assert!(detail.contains("denies sys/leases/lookup/db/creds/reader (403"), "{detail}");
}
