//! A folder with a config, the program run in it, and the proxy as a process of its own.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::Instant;

/// Whatever should happen at once has happened by then, on a busy machine too.
const SOON: Duration = Duration::from_secs(20);

/// A user without any right.
const NOBODY: u32 = 65_534;

/// A folder, its config, two addresses that were free, and an upstream that takes connections.
pub struct Place {
    folder: TempDir,
    pub proxy: SocketAddr,
    pub telemetry: SocketAddr,
    pub upstream: SocketAddr,
    _upstream: TcpListener,
    /// Who runs the program, if not whoever runs the tests.
    user: Option<u32>,
}

/// How a command ended.
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Place {
    /// As [`Place::new`], with the token there and the proxy ready.
    pub fn running(more: &str) -> (Self, Running) {
        let place = Self::new(more);
        place.write("token", "the-token");
        let proxy = place.start();
        place.run(&["wait"]).ok();
        (place, proxy)
    }

    /// With one route `api` to a token from the file `token`, which is not there yet; `more` is added to the config.
    pub fn new(more: &str) -> Self {
        let place = Self::empty();
        let Self { proxy, telemetry, upstream, .. } = &place;
        let expires = jiff::Timestamp::now() + Duration::from_secs(30 * 24 * 3600);
        place.write_config(&format!(
            r#"
[proxy]
listen = ["{proxy}"]
workers = 1
[proxy.limits]
connections = 100
[proxy.destinations]
allow = ["127.0.0.0/8"]
[telemetry]
listen = "{telemetry}"
[state]
dir = "state"
[[token]]
name = "api"
owner = "team@example.com"
reason = "the tests need it"
scopes = ["read"]
expires = "{expires}"
hosts = ["127.0.0.1"]
source = {{ kind = "file", path = "token" }}
[[route]]
name = "api"
upstream = "http://{upstream}"
token = "api"
allow = ["GET /things/**", "POST /things"]
deny = ["* /things/secret"]
{more}
"#
        ));
        place
    }

    /// Without a config.
    pub fn empty() -> Self {
        // Held together, so that they differ.
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let [proxy, telemetry, upstream] =
            listeners.each_ref().map(|listener| listener.local_addr().expect("an address"));
        let [.., kept] = listeners;
        let folder = TempDir::new().expect("a temporary folder");
        Self { folder, proxy, telemetry, upstream, _upstream: kept, user: None }
    }

    /// Gives the folder to a user who is not root, and runs the program as that one. Whoever is not root already stays.
    pub fn without_root(mut self) -> Self {
        if rustix::process::geteuid().is_root() {
            std::fs::copy(env!("CARGO_BIN_EXE_countersign"), self.path("countersign")).expect("a copy within reach");
            self.user = Some(NOBODY);
            self.give_away(self.folder.path());
            for entry in std::fs::read_dir(self.folder.path()).expect("the folder") {
                self.give_away(&entry.expect("an entry").path());
            }
        }
        self
    }

    fn give_away(&self, path: &Path) {
        std::os::unix::fs::chown(path, self.user, self.user).expect("given away");
    }

    /// Who runs the program.
    pub fn user(&self) -> u32 {
        self.user.unwrap_or(rustix::process::geteuid().as_raw())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write_config(&self, text: &str) {
        self.write("countersign.toml", text);
    }

    /// Writes a file that its owner alone can read.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path).expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        if self.user.is_some() {
            self.give_away(&path);
        }
    }

    /// Runs the program on the config of this place, and waits for its end.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(self.command(arguments).output().expect("the program runs"))
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match self.user {
            None => program(env!("CARGO_BIN_EXE_countersign"), self.folder.path()),
            Some(user) => {
                let mut command = program(self.path("countersign"), self.folder.path());
                command.uid(user).gid(user);
                command
            }
        };
        command.args(arguments).env("COUNTERSIGN_CONFIG", self.path("countersign.toml"));
        command
    }

    /// Starts the proxy, and waits until its telemetry listener is there.
    pub fn start(&self) -> Running {
        let mut running = self.spawn(&mut self.command(&["run"]));
        until("the proxy listens", || {
            running.assert_runs();
            std::net::TcpStream::connect(self.telemetry).is_ok().then_some(())
        });
        running
    }

    /// Starts a command that logs to this place's `log`.
    pub fn spawn(&self, command: &mut Command) -> Running {
        let log = File::create(self.path("log")).expect("a file for the log");
        let child = command.stderr(log).stdout(Stdio::null()).spawn().expect("the program runs");
        Running { child, log: self.path("log") }
    }
}

/// The program, without what the variables of the test's own environment would change.
fn program(program: impl AsRef<OsStr>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("HOME", folder).current_dir(folder).stdin(Stdio::null());
    command
}

impl Ended {
    pub fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code().expect("no signal"), out: text(output.stdout), err: text(output.stderr) }
    }

    /// What it printed, if all went well.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// What it said on standard error, if it ended with this code.
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        self.err
    }

    pub fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }
}

/// The proxy. It ends with this value.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged until now.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has ended.
    pub fn ended(&mut self) -> ExitStatus {
        until("it ends", || self.child.try_wait().expect("a child can be waited for"))
    }

    fn assert_runs(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
            panic!("the proxy has ended ({status}):\n{}", self.log());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks again and again until there is something to see.
///
/// # Panics
/// When there is nothing for too long.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(start.elapsed() < SOON, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
