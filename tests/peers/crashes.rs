//! A proxy that is killed again and again, between an issuer whose refresh tokens are good once and an operator who rotates,
//! revokes and releases: what was acknowledged is not lost, no refresh token is shown twice, and each start is soon of use.
//!
//! `COUNTERSIGN_CRASHES` says how often it is killed at random moments (25), and `COUNTERSIGN_CRASHES_SEED` plays the same again.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::once::Once;
use crate::support::operators::key_line;
use crate::support::process::Process;
use crate::support::proxy::{binary, in_a_month};
use crate::support::{free_port, http, in_turn, tool, wait_until};

const KEY: &str = "the-key-of-an-operator-who-takes-away-and-lets-in";

/// The longest that a start may take until it is of use, on a busy machine and with a debug build.
const OF_USE_WITHIN: Duration = Duration::from_secs(10);

/// What reads and changes files: persisting is made of these.
const FILES: &str = "%file,fsync,fdatasync,ftruncate";

/// No thread makes more of them for what an operator does here.
const MOST_CALLS: u32 = 100;

/// What an operator does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    Rotate,
    Revoke,
    Release,
}

impl Act {
    fn as_str(self) -> &'static str {
        match self {
            Self::Rotate => "rotate",
            Self::Revoke => "revoke",
            Self::Release => "release",
        }
    }
}

/// How requests find a start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    /// They get the token.
    Usable,
    Revoked,
    /// The answer with the refresh token was lost: somebody has to sign in.
    WantsLogin,
}

/// One installation, over many lives.
struct Installation {
    folder: TempDir,
    proxy: SocketAddr,
    telemetry: SocketAddr,
    admin: SocketAddr,
    issuer: Once,
    /// Whether the token is revoked, by what was acknowledged; `None`: that was not answered.
    revoked: Option<bool>,
    /// Whether a refresh token may have been on its way when it was killed.
    asking: bool,
    lost: u32,
    slowest: Duration,
}

impl Installation {
    fn new() -> Self {
        let address = || ([127, 0, 0, 1], free_port()).into();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (proxy, telemetry, admin, issuer) = (address(), address(), address(), Once::start());
        let new = Self {
            folder,
            proxy,
            telemetry,
            admin,
            issuer,
            revoked: Some(false),
            asking: false,
            lost: 0,
            slowest: Duration::ZERO,
        };
        new.sign_in();
        std::fs::write(new.folder.path().join("countersign.toml"), new.config()).expect("written");
        new
    }

    fn sign_in(&self) {
        std::fs::write(self.folder.path().join("signed-in"), self.issuer.sign_in()).expect("written");
    }

    fn config(&self) -> String {
        let key = key_line(KEY);
        let Self { proxy, telemetry, admin, issuer, .. } = self;
        let (token_url, expires) = (format!("http://{}/token", issuer.address), in_a_month());
        format!(
            r#"
[proxy]
listen = ["{proxy}"]
workers = 1
[proxy.destinations]
allow = ["127.0.0.0/8"]
[telemetry]
listen = "{telemetry}"
[state]
dir = "state"
[admin]
listen = "{admin}"
[[operator]]
name = "alice"
{key}
roles = ["viewer", "approver", "responder", "admin"]
[[token]]
name = "api"
owner = "team-peers@example.com"
reason = "to be killed"
scopes = ["api:read"]
expires = "{expires}"
hosts = ["127.0.0.1"]
source = {{ kind = "refresh_token", token_url = "{token_url}", client_id = "app", refresh_token = "file:signed-in", single_instance = true }}
[[route]]
name = "api"
upstream = "https://127.0.0.1:{}"
token = "api"
allow = ["GET /**"]
"#,
            free_port()
        )
    }

    /// Starts it and finds out how it is. What it says must fit what was acknowledged.
    async fn start(&mut self) -> Process {
        let mut command = Command::new(binary());
        command.args(["run", "--config"]).arg(self.folder.path().join("countersign.toml"));
        let began = Instant::now();
        let mut process = Process::start("countersign", &command, self.folder.path());
        let found = wait_until("the start is of use", OF_USE_WITHIN, async || {
            process.assert_running();
            self.find().await
        })
        .await;
        self.slowest = self.slowest.max(began.elapsed());
        assert_eq!(self.issuer.shown_again(), Vec::<String>::new(), "a refresh token was shown twice");
        match (found, self.revoked) {
            (Found::Revoked, Some(false)) => panic!("it was let in, and is out of use"),
            (Found::Usable | Found::WantsLogin, Some(true)) => panic!("a revocation that was acknowledged is lost"),
            _ => {}
        }
        self.revoked = Some(found == Found::Revoked);
        if found == Found::WantsLogin {
            assert!(self.asking, "what the issuer gave is lost, and nobody was killed meanwhile");
            self.lost += 1;
            self.sign_in();
            wait_until("the sign-in is seen", OF_USE_WITHIN, async || {
                self.find().await.filter(|found| *found == Found::Usable)
            })
            .await;
        }
        self.asking = false;
        process
    }

    /// `None`: it is not there yet, or waits for its issuer.
    async fn find(&self) -> Option<Found> {
        let answer = http::get(self.proxy, "/api/x").await?;
        match answer.reason()?.as_str() {
            // Nobody listens there, and it would have been sent.
            "upstream_connect" => Some(Found::Usable),
            "token_revoked" => Some(Found::Revoked),
            "reauth_required" => Some(Found::WantsLogin),
            _ => None,
        }
    }

    /// What an operator does, one after the other. Returns whether all of it was answered.
    async fn act(&mut self, acts: &[Act]) -> bool {
        for act in acts {
            self.asking |= *act != Act::Revoke;
            let before = self.revoked.take();
            let path = format!("/v1/tokens/api/{}", act.as_str());
            let body = json!({ "reason": "the test wants it" });
            let answer = http::post(self.admin, &path, &[("authorization", &format!("Bearer {KEY}"))], &body).await;
            let Some(answer) = answer else { return false };
            let done = answer.status == 200;
            self.revoked = match act {
                Act::Revoke if done => Some(true),
                Act::Release if done => Some(false),
                // What says no has changed nothing.
                Act::Rotate | Act::Revoke | Act::Release => before,
            };
            if *act == Act::Rotate && done {
                let token: Value = serde_json::from_slice(&answer.body).expect("JSON");
                assert!(token["generation"]["number"].is_u64(), "{token}");
                self.asking = false;
            }
        }
        true
    }
}

fn seed() -> u64 {
    let seed = std::env::var("COUNTERSIGN_CRASHES_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("play it again with COUNTERSIGN_CRASHES_SEED={seed}");
    seed
}

fn count() -> u32 {
    std::env::var("COUNTERSIGN_CRASHES").ok().map_or(25, |count| count.parse().expect("a number"))
}

#[test]
fn killed_at_any_moment_it_loses_nothing_that_was_acknowledged() {
    in_turn(async {
        let (mut rng, mut installation) = (Rng::with_seed(seed()), Installation::new());
        let crashes = count();
        for _ in 0..crashes {
            let process = installation.start().await;
            let acts: Vec<Act> = (0..20).map(|_| [Act::Rotate, Act::Revoke, Act::Release][rng.usize(..3)]).collect();
            let life = Duration::from_millis(rng.u64(..1500));
            // When that time is over it is killed, whatever it does.
            let _ = tokio::time::timeout(life, installation.act(&acts)).await;
            drop(process);
        }
        drop(installation.start().await);
        let Installation { lost, slowest, issuer, .. } = &installation;
        println!(
            "{crashes} crashes, {} generations, {lost} answers lost, the slowest start {slowest:?}",
            issuer.issued()
        );
        verified(&installation);
    });
}

#[test]
fn killed_at_each_call_of_the_file_system_it_loses_nothing_that_was_acknowledged() {
    in_turn(async {
        let (mut installation, mut killed) = (Installation::new(), 0);
        for place in 1..=MOST_CALLS {
            let mut process = installation.start().await;
            let inject = format!("inject={FILES}:signal=SIGKILL:when={place}");
            let mut command = Command::new(tool("strace"));
            command.args(["-f", "-qq", "-e", &format!("trace={FILES}"), "-e", &inject, "-o"]);
            command.arg(installation.folder.path().join("strace")).args(["-p", &process.id().to_string()]);
            let tracing = Process::start("strace", &command, installation.folder.path());
            attached(&process).await;
            let survived = installation.act(&[Act::Rotate, Act::Revoke, Act::Release, Act::Rotate]).await;
            drop(tracing);
            if survived {
                break;
            }
            wait_until("it has ended", OF_USE_WITHIN, async || process.has_ended().then_some(())).await;
            killed += 1;
        }
        drop(installation.start().await);
        assert!((10..MOST_CALLS).contains(&killed), "killed at {killed} places");
        let Installation { lost, slowest, .. } = &installation;
        println!("killed at {killed} places, {lost} answers lost, the slowest start {slowest:?}");
        verified(&installation);
    });
}

/// Waits until a process is traced.
async fn attached(process: &Process) {
    let status = format!("/proc/{}/status", process.id());
    wait_until("it is traced", OF_USE_WITHIN, async || {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_some_and(|tracer| tracer.trim() != "0").then_some(())
    })
    .await;
}

/// The trail of all those lives is whole.
fn verified(installation: &Installation) {
    let trail = installation.folder.path().join("state/audit");
    let ran = Command::new(binary()).args(["audit", "verify", "--dir"]).arg(trail).output().expect("it runs");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
}
