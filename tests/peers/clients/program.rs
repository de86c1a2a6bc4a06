//! A program of `tests/clients`: a line of JSON in, a line of JSON out.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use crate::support::tool;

/// For a step, and for a start.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Program {
    child: Child,
    input: pipe::Sender,
    output: BufReader<pipe::Receiver>,
}

impl Program {
    /// Starts `command` in an environment that has nothing but what the command names; what goes wrong is written to `errors`.
    pub fn start(command: &Command, errors: &Path) -> Self {
        let mut tethered = Command::new(tool("setpriv"));
        tethered.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args()).env_clear();
        let own = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        tethered.envs(own).env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LANG", "C.UTF-8");
        let errors = File::create(errors).expect("a file for errors");
        let mut child = tethered
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let input = OwnedFd::from(child.stdin.take().expect("a pipe"));
        let output = OwnedFd::from(child.stdout.take().expect("a pipe"));
        Self {
            child,
            input: pipe::Sender::from_owned_fd(input).expect("a pipe"),
            output: BufReader::new(pipe::Receiver::from_owned_fd(output).expect("a pipe")),
        }
    }

    /// Says a line and hears one. `None`: the program ended, or is silent.
    pub async fn ask(&mut self, line: &Value) -> Option<Value> {
        let asking = async {
            self.input.write_all(format!("{line}\n").as_bytes()).await.ok()?;
            let mut answer = String::new();
            self.output.read_line(&mut answer).await.ok()?;
            serde_json::from_str(&answer).ok()
        };
        timeout(PATIENCE, asking).await.ok().flatten()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
