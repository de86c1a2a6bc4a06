//! Processes that end with the test that started them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{tool, wait_until};

/// How much of its output is shown when a test fails.
const SHOWN_LINES: usize = 40;

/// A process whose output goes to a file. It is killed when this is dropped, and by the kernel should the test die before that.
pub struct Process {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints is added to `NAME.out` in `folder`.
    pub fn start(name: &str, command: &Command, folder: &Path) -> Self {
        let output = folder.join(format!("{name}.out"));
        let file = File::options().create(true).append(true).open(&output).expect("a file for output");
        let mut tethered = Command::new(tool("setpriv"));
        tethered.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => tethered.env(name, value),
                None => tethered.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            tethered.current_dir(folder);
        }
        tethered.stdin(Stdio::null()).stdout(file.try_clone().expect("a second handle")).stderr(file);
        let child = tethered.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.to_owned(), child, output }
    }

    /// What it has printed until now.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// # Panics
    /// When it has ended.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
            panic!("{} has ended ({status}):\n{}", self.name, self.output());
        }
    }

    /// Asks it to end and waits until it has.
    pub async fn terminate(&mut self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("the process is there");
        let child = &mut self.child;
        wait_until(&format!("{} ends after SIGTERM", self.name), Duration::from_secs(10), async || {
            child.try_wait().expect("a child can be waited for")
        })
        .await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let last = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            eprintln!("---- the last lines of {} ----\n{}", self.name, last.join("\n"));
        }
    }
}
