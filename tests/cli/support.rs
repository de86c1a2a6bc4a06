//! A folder with a config, the program run in it, and the proxy as a process of its own.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::Instant;

/// Whatever should happen at once has happened by then, on a busy machine too.
const SOON: Duration = Duration::from_secs(20);

/// A folder, its config, and two addresses that were free.
pub struct Place {
    folder: TempDir,
    pub proxy: SocketAddr,
    pub telemetry: SocketAddr,
}

/// How a command ended.
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Place {
    /// With one route `api` to a token from the file `token`, which is not there yet; `more` is added to the config.
    pub fn new(more: &str) -> Self {
        let place = Self::empty();
        let Self { proxy, telemetry, .. } = &place;
        place.write_config(&format!(
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
[[token]]
name = "api"
owner = "team@example.com"
reason = "the tests need it"
scopes = ["read"]
expires = "2099-01-01"
hosts = ["127.0.0.1"]
source = {{ kind = "file", path = "token" }}
[[route]]
name = "api"
upstream = "http://127.0.0.1:1"
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
        let [one, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let [proxy, telemetry] = [one, other].map(|listener| listener.local_addr().expect("an address"));
        Self { folder: TempDir::new().expect("a temporary folder"), proxy, telemetry }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write_config(&self, text: &str) {
        self.write("countersign.toml", text);
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
    }

    /// Runs the program on the config of this place, and waits for its end.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(self.command(arguments).output().expect("the program runs"))
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(self.folder.path());
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
pub fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command.env_clear().env("HOME", folder).current_dir(folder).stdin(Stdio::null());
    command
}

impl Ended {
    fn of(output: Output) -> Self {
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
