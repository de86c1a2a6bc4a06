use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use http::{HeaderMap, Method};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::*;
use crate::clock::ManualClock;
use crate::fetch::scripted::{Scripted, fetcher};
use crate::store::Store;
use crate::tasks::Tasks;
use crate::token::source::oauth::{Auth, Client, Grant};

/// An issuer that takes each refresh token once, and gives `rt-2` for `rt-1`, and so on.
struct Single {
    server: Scripted,
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

#[derive(Clone, Copy, PartialEq)]
enum Gives {
    TheSame,
    Another,
    /// And takes the one before once more.
    AnotherForgiving,
}

impl Single {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("signed-in"), "rt-1\n").expect("written");
        Self { server: Scripted::start().await, folder, clock: Arc::default() }
    }

    fn state(&self) -> &Path {
        self.folder.path()
    }

    /// A process that starts: what it knows is on the disk.
    fn process(&self) -> Arc<Keeping> {
        Arc::new(Keeping::new(Arc::new(Store::open(self.state(), None).expect("written")), Tasks::new()))
    }

    /// The source of a process of its own.
    fn started(&self, gives: Gives) -> RefreshToken {
        self.source(&self.process(), gives)
    }

    fn source(&self, process: &Arc<Keeping>, gives: Gives) -> RefreshToken {
        let oauth = oauth::Settings {
            kind: "refresh_token",
            grant: Grant::RefreshToken,
            issuer: oauth::Issuer::At(self.server.endpoint()),
            revocation_url: None,
            dpop: None,
            client: Some(Client { id: "app".to_owned(), auth: Auth::Nothing }),
            scope: vec!["read".to_owned()],
            audience: Vec::new(),
            resource: Vec::new(),
            extra: Vec::new(),
            headers: Vec::new(),
            tls: crate::tls::Settings::default(),
        };
        let refresh_token = Reference::File(self.folder.path().join("signed-in"));
        let keep = Keep { keeping: process.clone(), token: "api".parse().expect("well-formed") };
        let settings = Settings {
            oauth,
            refresh_token,
            sign_in: oauth::sign_in::Settings::default(),
            rotating: gives != Gives::TheSame,
            reuse_after_loss: gives == Gives::AnotherForgiving,
        };
        RefreshToken::new(settings, fetcher(), self.clock.clone(), Some(keep)).expect("no failure")
    }

    /// What comes of asking, and the refresh token that the issuer was shown.
    async fn exchange(&self, source: &RefreshToken, status: &str, body: &str) -> (Result<Issued, Failure>, String) {
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
        let (issued, request) = tokio::join!(source.obtain(), self.server.answer(format!("{head}{body}")));
        (issued, shown(&request))
    }

    async fn good(&self, source: &RefreshToken, next: &str) -> String {
        let body = format!(
            r#"{{"access_token":"at","token_type":"bearer","expires_in":60,"scope":"read","refresh_token":"{next}"}}"#
        );
        let (issued, shown) = self.exchange(source, "200 OK", &body).await;
        assert!(issued.unwrap_or_else(|failure| panic!("{failure}")).secret.same_as(&Secret::new("at")));
        shown
    }

    /// The process dies when its call has arrived, and before there is an answer.
    async fn dies_waiting(&self, source: RefreshToken) -> String {
        let signed_in = oauth::text_of(&source.refresh_token).await.expect("no failure");
        tokio::select! {
            _ = source.exchange.run(source.keep.as_ref().expect("no failure"), &signed_in) => unreachable!("there is no answer"),
            (request, _open) = self.server.request() => shown(&request),
        }
    }

    /// Nobody waits any more for what comes of a call that has arrived, as when a reload replaces the source.
    async fn is_given_up(&self, source: &RefreshToken) -> (String, TcpStream) {
        tokio::select! {
            _ = source.obtain() => unreachable!("there is no answer yet"),
            (request, open) = self.server.request() => (shown(&request), open),
        }
    }

    fn record(&self) -> PathBuf {
        self.state().join("sealed/refresh-api.sealed")
    }

    /// The disk takes nothing, or takes again.
    fn disk(&self, works: bool) {
        let (folder, aside) = (self.state().join("sealed"), self.state().join("aside"));
        let (from, to) = if works { (aside, folder) } else { (folder, aside) };
        std::fs::rename(from, to).expect("changed");
    }
}

fn shown(request: &str) -> String {
    let (_, body) = request.split_once("\r\n\r\n").expect("changed");
    let fields: std::collections::BTreeMap<_, _> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    assert_eq!((&*fields["grant_type"], &*fields["client_id"], &*fields["scope"]), ("refresh_token", "app", "read"));
    fields["refresh_token"].clone()
}

async fn gives_rt_2(mut tcp: TcpStream) {
    let body = r#"{"access_token":"at","expires_in":60,"refresh_token":"rt-2"}"#;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
    tcp.write_all(format!("{head}{body}").as_bytes()).await.expect("writes");
}

/// A source that asks nobody: a call would hang, for nobody answers.
async fn asks_nobody(source: &RefreshToken) -> Failure {
    source.obtain().await.err().expect("a failure")
}

async fn asks_for_a_sign_in(source: &RefreshToken) {
    let failure = asks_nobody(source).await;
    assert_eq!((failure.reason, failure.class), (Reason::InvalidGrant, Class::Reauthenticate), "{failure}");
}

#[tokio::test]
async fn each_answers_refresh_token_is_the_next_ones_also_after_a_restart() {
    let issuer = Single::start().await;
    let source = issuer.started(Gives::Another);
    assert_eq!(issuer.good(&source, "rt-2").await, "rt-1");
    assert_eq!(issuer.good(&source, "rt-3").await, "rt-2");
    drop(source);
    assert_eq!(issuer.good(&issuer.started(Gives::Another), "rt-4").await, "rt-3");
    let plain = ["rt-1", "rt-2", "rt-3", "rt-4"];
    for file in std::fs::read_dir(issuer.state().join("sealed")).expect("read") {
        let content = std::fs::read(file.expect("listed").path()).expect("read");
        let holds = |text: &str| content.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(!plain.iter().any(|text| holds(text)), "it lies on the disk sealed");
    }
}

#[tokio::test]
async fn one_that_stays_the_same_is_shown_again_and_again() {
    let issuer = Single::start().await;
    let source = issuer.started(Gives::TheSame);
    let body = r#"{"access_token":"at","token_type":"bearer","expires_in":60}"#;
    for _ in 0..3 {
        let (issued, shown) = issuer.exchange(&source, "200 OK", body).await;
        assert_eq!((issued.is_ok(), shown.as_str()), (true, "rt-1"));
    }
    for _ in 0..3 {
        assert_eq!(issuer.dies_waiting(issuer.started(Gives::TheSame)).await, "rt-1", "a lost answer has lost nothing");
    }
}

#[tokio::test]
async fn whenever_the_process_dies_what_is_shown_next_is_right() {
    let issuer = Single::start().await;
    // Before anything was written: nothing has happened.
    drop(issuer.started(Gives::Another));
    assert_eq!(issuer.good(&issuer.started(Gives::Another), "rt-2").await, "rt-1");
    // After the new one was written, and before it was used.
    assert_eq!(issuer.good(&issuer.started(Gives::Another), "rt-3").await, "rt-2");
    // Between the intent and the answer: the old one is not shown again, by whoever starts.
    assert_eq!(issuer.dies_waiting(issuer.started(Gives::Another)).await, "rt-3");
    issuer.clock.advance(BEFORE_REUSE);
    for _ in 0..2 {
        asks_for_a_sign_in(&issuer.started(Gives::Another)).await;
    }
}

#[tokio::test]
async fn an_issuer_that_allows_it_is_shown_the_old_one_once_more_and_not_at_once() {
    let issuer = Single::start().await;
    let start = || issuer.started(Gives::AnotherForgiving);
    assert_eq!(issuer.dies_waiting(start()).await, "rt-1");
    let failure = asks_nobody(&start()).await;
    let Class::Transient { retry_after: Some(wait) } = failure.class else { panic!("{failure}") };
    assert!((55..=60).contains(&wait.as_secs()), "{wait:?}");
    issuer.clock.advance(BEFORE_REUSE);
    assert_eq!(issuer.good(&start(), "rt-2").await, "rt-1");
    // A new one may be lost once, too.
    for _ in 0..2 {
        assert_eq!(issuer.dies_waiting(start()).await, "rt-2");
        issuer.clock.advance(BEFORE_REUSE);
    }
    asks_for_a_sign_in(&start()).await;
}

#[tokio::test]
async fn a_plain_no_after_a_lost_answer_makes_nobody_forget_that_it_was_lost() {
    let issuer = Single::start().await;
    let start = || issuer.started(Gives::AnotherForgiving);
    assert_eq!(issuer.dies_waiting(start()).await, "rt-1");
    issuer.clock.advance(BEFORE_REUSE);
    let (issued, shown) = issuer.exchange(&start(), "429 Too Many Requests", "{}").await;
    assert_eq!((issued.is_err(), shown.as_str()), (true, "rt-1"));
    assert_eq!(issuer.dies_waiting(start()).await, "rt-1");
    issuer.clock.advance(BEFORE_REUSE);
    asks_for_a_sign_in(&start()).await;
}

#[tokio::test]
async fn an_invalid_one_is_never_shown_again_and_another_sign_in_begins_anew() {
    let issuer = Single::start().await;
    let source = issuer.started(Gives::Another);
    assert_eq!(issuer.good(&source, "rt-2").await, "rt-1");
    let refused = r#"{"error":"invalid_grant","error_description":"reuse of rt-2"}"#;
    let (issued, shown) = issuer.exchange(&source, "400 Bad Request", refused).await;
    let failure = issued.err().expect("a failure");
    assert_eq!((shown.as_str(), failure.class), ("rt-2", Class::Reauthenticate));
    assert!(!failure.detail.contains("rt-2"), "{failure}");
    assert_eq!(asks_nobody(&source).await.class, Class::Reauthenticate);
    assert_eq!(asks_nobody(&issuer.started(Gives::Another)).await.class, Class::Reauthenticate);

    std::fs::write(issuer.folder.path().join("signed-in"), "new-1").expect("written");
    assert_eq!(issuer.good(&source, "new-2").await, "new-1");
    assert_eq!(issuer.good(&issuer.started(Gives::Another), "new-3").await, "new-2");
}

#[tokio::test]
async fn a_plain_no_or_an_issuer_that_is_not_there_uses_nothing_up() {
    let issuer = Single::start().await;
    let source = issuer.started(Gives::Another);
    for (status, body) in [
        ("401 Unauthorized", r#"{"error":"invalid_client"}"#),
        ("429 Too Many Requests", "{}"),
        ("400 Bad Request", r#"{"error":"invalid_scope"}"#),
        ("403 Forbidden", "{}"),
        ("503 Service Unavailable", "{}"),
        ("302 Found", "{}"),
    ] {
        let (issued, shown) = issuer.exchange(&source, status, body).await;
        assert_eq!((issued.is_err(), shown.as_str()), (true, "rt-1"), "{status}");
    }
    assert_eq!(issuer.good(&source, "rt-2").await, "rt-1");
}

#[tokio::test]
async fn an_answer_that_cannot_be_used_still_brings_the_next_refresh_token() {
    let issuer = Single::start().await;
    let source = issuer.started(Gives::Another);
    let narrower = r#"{"access_token":"at","expires_in":60,"scope":"other","refresh_token":"rt-2"}"#;
    let (issued, _) = issuer.exchange(&source, "200 OK", narrower).await;
    assert_eq!(issued.err().expect("a failure").reason, Reason::Scope);
    assert_eq!(issuer.good(&source, "rt-3").await, "rt-2");
    // What a gateway answers in the issuer's place leaves it open what happened.
    let (issued, shown) = issuer.exchange(&source, "502 Bad Gateway", "{}").await;
    assert_eq!((issued.is_err(), shown.as_str()), (true, "rt-3"));
    asks_for_a_sign_in(&source).await;
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_known_before_the_issuer_is_called() {
    let issuer = Single::start().await;
    let source = issuer.started(Gives::Another);
    assert_eq!(issuer.good(&source, "rt-2").await, "rt-1");
    issuer.disk(false);
    let failure = asks_nobody(&source).await;
    assert_eq!((failure.reason, failure.class), (Reason::State, Class::Transient { retry_after: None }));
    issuer.disk(true);
    assert_eq!(issuer.good(&source, "rt-3").await, "rt-2");
}

#[tokio::test]
async fn what_the_disk_did_not_take_is_kept_in_memory_and_written_before_the_next_call() {
    let issuer = Single::start().await;
    let source = issuer.started(Gives::Another);
    let answered = async {
        let (request, tcp) = issuer.server.request().await;
        issuer.disk(false);
        gives_rt_2(tcp).await;
        shown(&request)
    };
    let (issued, shown) = tokio::join!(source.obtain(), answered);
    assert!(issued.is_ok(), "the access token is good: requests go on");
    assert_eq!(shown, "rt-1");
    assert_eq!(asks_nobody(&source).await.reason, Reason::State);
    issuer.disk(true);
    assert_eq!(issuer.good(&source, "rt-3").await, "rt-2");
}

#[tokio::test]
async fn two_processes_do_not_show_one_refresh_token_at_a_time() {
    let issuer = Single::start().await;
    let (one, other) = (issuer.started(Gives::AnotherForgiving), issuer.started(Gives::AnotherForgiving));
    let waiting = async {
        let (request, tcp) = issuer.server.request().await;
        let failure = asks_nobody(&other).await;
        assert_eq!(failure.reason, Reason::State, "{failure}");
        drop(tcp);
        shown(&request)
    };
    let (issued, shown) = tokio::join!(one.obtain(), waiting);
    assert_eq!((issued.err().expect("a failure").reason, shown.as_str()), (Reason::CutOff, "rt-1"));
    issuer.clock.advance(BEFORE_REUSE);
    assert_eq!(issuer.good(&other, "rt-2").await, "rt-1", "its answer was lost: once more");
}

#[tokio::test]
async fn what_has_begun_goes_to_its_end_though_nobody_waits_for_it_any_more() {
    let issuer = Single::start().await;
    let process = issuer.process();
    let source = issuer.source(&process, Gives::Another);
    let (shown, tcp) = issuer.is_given_up(&source).await;
    assert_eq!(shown, "rt-1");
    drop(source);
    let other = issuer.source(&process, Gives::Another);
    assert_eq!(asks_nobody(&other).await.reason, Reason::State, "the first one still holds it");
    gives_rt_2(tcp).await;
    source_at_rest(&other).await;
    assert_eq!(issuer.good(&other, "rt-3").await, "rt-2");
}

#[tokio::test]
async fn what_the_disk_did_not_take_outlives_the_source_that_got_it() {
    let issuer = Single::start().await;
    let process = issuer.process();
    let source = issuer.source(&process, Gives::Another);
    let (_, tcp) = issuer.is_given_up(&source).await;
    issuer.disk(false);
    gives_rt_2(tcp).await;
    source_at_rest(&source).await;
    drop(source);
    issuer.disk(true);
    let reloaded = issuer.source(&process, Gives::Another);
    assert_eq!(issuer.good(&reloaded, "rt-3").await, "rt-2");
}

#[tokio::test]
async fn a_record_that_cannot_be_trusted_is_named_and_left_and_nothing_is_shown_in_its_place() {
    let issuer = Single::start().await;
    assert_eq!(issuer.good(&issuer.started(Gives::Another), "rt-2").await, "rt-1");
    let good = std::fs::read(issuer.record()).expect("read");
    let mut edited = good.clone();
    edited[100] ^= 1;
    for (content, mode) in [(&good, 0o640), (&edited, 0o600), (&Vec::new(), 0o600)] {
        std::fs::write(issuer.record(), content).expect("written");
        std::fs::set_permissions(issuer.record(), Permissions::from_mode(mode)).expect("written");
        for source in [issuer.started(Gives::Another), issuer.started(Gives::Another)] {
            let failure = asks_nobody(&source).await;
            assert_eq!((failure.reason, failure.class), (Reason::State, Class::Transient { retry_after: None }));
            assert!(failure.detail.contains("refresh-api.sealed"), "{failure}");
            assert!(failure.detail.contains("put the file right, or move it away and sign in again"), "{failure}");
        }
        assert_eq!(std::fs::read(issuer.record()).expect("read"), *content);
    }
    std::fs::write(issuer.record(), good).expect("written");
    assert_eq!(issuer.good(&issuer.started(Gives::Another), "rt-3").await, "rt-2");

    let store = Store::open(issuer.state(), None).expect("written");
    store.write(crate::seal::Label { kind: "refresh", name: "api" }, 1, b"{}").expect("written");
    let failure = asks_nobody(&issuer.started(Gives::Another)).await;
    assert!(failure.detail.contains("refresh-api.sealed is not used"), "{failure}");
}

#[tokio::test]
async fn only_another_sign_in_is_a_change() {
    let issuer = Single::start().await;
    let source = issuer.started(Gives::Another);
    let inside = |name: &str| issuer.folder.path().join(name);
    assert_eq!(issuer.good(&source, "rt-2").await, "rt-1");
    let (mut changed, mut folder) = (source.changed(), WatchedFile::new(inside("signed-in")));
    folder.attend();
    for (file, content) in [("beside", "rt-7"), ("signed-in", "rt-1"), ("beside", "rt-8"), ("beside", "rt-9")] {
        std::fs::write(inside(file), content).expect("written");
        tokio::select! {
            biased;
            () = &mut changed => panic!("{file} is no other sign-in"),
            () = folder.changed() => {}
        }
    }
    std::fs::write(inside("signed-in"), "new-1").expect("written");
    tokio::time::timeout(Duration::from_secs(30), changed).await.expect("a sign-in");
    assert_eq!(issuer.good(&source, "new-2").await, "new-1");

    // One that was not there to be read is news, too.
    std::fs::rename(inside("signed-in"), inside("aside")).expect("written");
    assert_eq!(asks_nobody(&source).await.reason, Reason::Secret);
    std::fs::rename(inside("aside"), inside("signed-in")).expect("changed");
    tokio::time::timeout(Duration::from_secs(30), source.changed()).await.expect("it is back");
}

async fn source_at_rest(source: &RefreshToken) {
    source.keep.as_ref().expect("changed").tasks().at_rest().await;
}

#[test]
fn what_may_have_arrived_is_told_from_what_has_not() {
    use crate::fetch::FetchError;
    assert!(FetchError::CutOff.may_have_arrived() && FetchError::Timeout.may_have_arrived());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("no failure");
    let refused = runtime.block_on(async {
        let remote = {
            let server = Scripted::start().await;
            server.remote()
        };
        let call = crate::fetch::Call {
            method: Method::POST,
            remote: &remote,
            headers: HeaderMap::new(),
            body: Zeroizing::default(),
        };
        fetcher().send(call).await.err().expect("a failure")
    });
    assert!(!refused.may_have_arrived(), "{refused}");
}
