//! `run -- APP`: the app as a child of the proxy. It is started when its calls would be served, gets the signals that we
//! get, and its end is ours.
//!
//! ```text
//!  ready ─▶ start: own user, own variables, no secrets ─▶ signals passed on ─▶ ended ─▶ drain ─▶ its exit code
//! ```
//!
//! Invariant: the app does not outlive the proxy. The kernel kills it when we die; that must be asked for by the app's own
//! process after it has become its user, so that we are started once more in between: the leash, which asks, and turns
//! into the app.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

use rustix::process::{
    Pid, Resource, Rlimit, Signal, getpid, getppid, getrlimit, kill_process, set_parent_process_death_signal, setrlimit,
};
use rustix::termios::tcgetpgrp;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::user::User;
use crate::app::Vitals;
use crate::systemd;

/// The name under which we are started as the leash.
const LEASH: &str = "countersign-leash";

/// How often to ask whether the proxy is ready.
const LOOK: Duration = Duration::from_millis(20);

/// What a shell says of a program that is there but cannot be run, or is not there.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Of a process that a signal ended.
const SIGNALLED: i32 = 128;

/// An app that is to be run.
pub struct Launch {
    pub app: Vec<OsString>,
    pub user: Option<User>,
    /// The longest to wait until its calls would be served.
    pub wait_timeout: Duration,
}

/// What the app is given and what it is kept from.
pub struct Surroundings {
    /// How it finds the proxy.
    pub variables: Vec<(String, String)>,
    /// The names of variables that hold secrets.
    pub secrets: Vec<String>,
    /// The most descriptors that it may have without asking for more.
    pub files: Option<u64>,
}

/// How it went.
pub enum Ended {
    App(ExitStatus),
    /// A signal came before it was started.
    NotStarted(i32),
    /// The proxy did not become ready: what it waited for.
    NotReady(String),
    CannotRun(io::Error),
}

/// The signals that are the app's. SIGHUP is not among them: it reloads the proxy.
pub struct Forwarded([(Signals, Signal); 6]);

impl Forwarded {
    pub fn listen() -> io::Result<Self> {
        let listen = |named: Signal| Ok((signal(SignalKind::from_raw(named.as_raw()))?, named));
        let [term, int, quit] = [Signal::TERM, Signal::INT, Signal::QUIT].map(listen);
        let [usr1, usr2, winch] = [Signal::USR1, Signal::USR2, Signal::WINCH].map(listen);
        let all: [io::Result<_>; 6] = [term, int, quit, usr1, usr2, winch];
        let [term, int, quit, usr1, usr2, winch] = all;
        Ok(Self([term?, int?, quit?, usr1?, usr2?, winch?]))
    }

    async fn next(&mut self) -> Signal {
        let [(term, _), (int, _), (quit, _), (usr1, _), (usr2, _), (winch, _)] = &mut self.0;
        tokio::select! {
            Some(()) = term.recv() => Signal::TERM,
            Some(()) = int.recv() => Signal::INT,
            Some(()) = quit.recv() => Signal::QUIT,
            Some(()) = usr1.recv() => Signal::USR1,
            Some(()) = usr2.recv() => Signal::USR2,
            Some(()) = winch.recv() => Signal::WINCH,
        }
    }
}

impl Launch {
    /// Runs the app to its end. If this is dropped before, the app is killed.
    pub async fn run(&self, vitals: &Vitals, given: Surroundings, mut signals: Forwarded) -> Ended {
        if let Err(ended) = self.wait(vitals, &mut signals).await {
            return ended;
        }
        let mut command = tokio::process::Command::from(self.command(given));
        let mut child = match command.kill_on_drop(true).spawn() {
            Ok(child) => child,
            Err(error) => return Ended::CannotRun(error),
        };
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        tracing::info!(app = %self.app[0].display(), pid = child.id(), "the app is started");
        loop {
            tokio::select! {
                ended = child.wait() => return ended.map_or_else(Ended::CannotRun, Ended::App),
                signal = signals.next() => if let Some(pid) = pid.filter(|_| !has_been_told(signal)) {
                    // It may have ended this very moment.
                    let _ = kill_process(pid, signal);
                },
            }
        }
    }

    async fn wait(&self, vitals: &Vitals, signals: &mut Forwarded) -> Result<(), Ended> {
        let began = Instant::now();
        while !vitals.is_ready() {
            if began.elapsed() >= self.wait_timeout {
                return Err(Ended::NotReady(vitals.missing()));
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                signal = signals.next() => match signal {
                    Signal::TERM | Signal::INT | Signal::QUIT => return Err(Ended::NotStarted(signal.as_raw())),
                    _ => {}
                },
            }
        }
        Ok(())
    }

    fn command(&self, given: Surroundings) -> Command {
        let Surroundings { variables, secrets, files } = given;
        // By this name it is found even where the app's user may not look.
        let mut command = Command::new("/proc/self/exe");
        let files = files.map_or_else(|| "unlimited".to_owned(), |files| files.to_string());
        command.arg0(LEASH).args([getpid().as_raw_nonzero().to_string(), files]).args(&self.app);
        for (name, _) in std::env::vars_os() {
            let ours = name.to_str().is_some_and(|name| name.starts_with("COUNTERSIGN_"));
            let secret = secrets.iter().any(|secret| name == **secret);
            if ours || secret || name == "CREDENTIALS_DIRECTORY" || systemd::OURS_ALONE.iter().any(|own| name == *own) {
                command.env_remove(&name);
            }
        }
        command.envs(variables);
        if let Some(user) = &self.user {
            // Groups beyond the user's own are dropped with it.
            command.uid(user.uid).gid(user.gid).envs(user.variables());
        }
        command
    }
}

impl Ended {
    /// What it means as our own exit code; what there is to say is said.
    pub fn code(&self, app: &OsString) -> ExitCode {
        match self {
            Self::App(status) => {
                let signalled = || status.signal().map(|signal| SIGNALLED + signal);
                ExitCode::from(status.code().or_else(signalled).and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
            }
            Self::NotStarted(signal) => ExitCode::from(u8::try_from(SIGNALLED + signal).unwrap_or(1)),
            Self::NotReady(missing) => {
                eprintln!("countersign: {} is not started: the proxy is not ready: {missing}", app.display());
                eprintln!("  help: the log says why; --wait-timeout waits longer");
                ExitCode::from(super::UNREACHABLE)
            }
            Self::CannotRun(error) => {
                eprintln!("countersign: cannot run {}: {error}", app.display());
                ExitCode::from(CANNOT_RUN)
            }
        }
    }
}

/// What a terminal sends, it sends to the app as well: it is in the same group.
fn has_been_told(signal: Signal) -> bool {
    let of_terminals = [Signal::INT, Signal::QUIT, Signal::WINCH].contains(&signal);
    of_terminals && tcgetpgrp(io::stdin()).is_ok_and(|foreground| foreground == rustix::process::getpgrp())
}

/// If we were started as the leash: becomes the app, and returns only if that fails.
pub fn leash(arguments: &[OsString]) -> Option<ExitCode> {
    let [name, parent, files, app, rest @ ..] = arguments else { return None };
    if name != LEASH {
        return None;
    }
    let parent = parent.to_str().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        eprintln!("countersign: the app would outlive the proxy: {error}");
        return Some(ExitCode::from(CANNOT_RUN));
    }
    if getppid() != parent {
        // It died before it was asked for.
        return Some(ExitCode::FAILURE);
    }
    if let Some(soft) = files.to_str().and_then(|files| files.parse().ok()) {
        let maximum = getrlimit(Resource::Nofile).maximum;
        // An app that counts on few descriptors gets as many as it would have had.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum });
    }
    let error = Command::new(app).args(rest).exec();
    // In one piece: the proxy writes to the same place.
    let said = format!("countersign: cannot run {}: {error}\n", app.display());
    let _ = io::stderr().write_all(said.as_bytes());
    Some(ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN }))
}
