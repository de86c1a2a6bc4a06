//! Programs that we run: directly, without a shell, in a group of their own, with an environment of a few names.
//!
//! ```text
//!  whose file is it? ─▶ started ─▶ output, up to 64 KiB ─▶ ended, reaped ─▶ Output
//!                          └─ too long, too much, not wanted any more ─▶ the whole group is killed
//! ```
//!
//! Invariant: a run ends at its timeout, and takes with it all that it started and that stayed in its group.

use std::fs::metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use zeroize::Zeroizing;

/// The most that is read of either stream, in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// For the kernel to end what was killed; longer only for a process that hangs in it.
const REAPING: Duration = Duration::from_secs(1);

/// What a program gets of our environment without being asked.
const INHERITED: [&str; 3] = ["PATH", "HOME", "LANG"];

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// Absolute.
    pub path: PathBuf,
    pub arguments: Vec<String>,
    /// Variables that it gets beyond `PATH`, `HOME` and `LANG`, as far as they are set.
    pub variables: Vec<String>,
    pub timeout: Duration,
}

/// What a program that ended by itself has said.
pub struct Output {
    pub status: ExitStatus,
    pub stdout: Zeroizing<Vec<u8>>,
    pub stderr: Zeroizing<Vec<u8>>,
}

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("cannot run {}: {error}", .path.display())]
    Start { path: PathBuf, error: io::Error },
    #[error("{} is not a file", .0.display())]
    NotAFile(PathBuf),
    #[error("{path} is not run: others than its owner can write it (mode {mode:04o}); chmod go-w {path}", path = .path.display())]
    Writable { path: PathBuf, mode: u32 },
    #[error("{} is not run: it belongs to user {owner}, who is neither root nor the proxy's own user", .path.display())]
    Owner { path: PathBuf, owner: u32 },
    #[error("{} was killed: it had not ended, or its output had not, after {limit:?}", .path.display())]
    Timeout { path: PathBuf, limit: Duration },
    #[error("{} was killed: it wrote more than 64 KiB", .0.display())]
    TooLarge(PathBuf),
    #[error("cannot read what {} writes: {error}", .path.display())]
    Read { path: PathBuf, error: io::Error },
}

impl Program {
    /// Runs it once. Dropping the future kills it.
    ///
    /// # Errors
    /// When others could have written its file, or it cannot be started, takes too long or says too much.
    pub async fn run(&self) -> Result<Output, ProgramError> {
        self.judge()?;
        let mut running = self.start()?;
        let output = match timeout(self.timeout, self.output(&mut running.0)).await {
            Ok(output) => output,
            Err(_) => Err(ProgramError::Timeout { path: self.path.clone(), limit: self.timeout }),
        };
        if output.is_err() {
            running.kill().await;
        }
        output
    }

    /// Who can write the program decides what it does with what we let it see.
    fn judge(&self) -> Result<(), ProgramError> {
        let path = self.path.clone();
        let found = match metadata(&path) {
            Ok(found) => found,
            Err(error) => return Err(ProgramError::Start { path, error }),
        };
        let (mode, owner) = (found.mode() & 0o7777, found.uid());
        match () {
            () if !found.is_file() => Err(ProgramError::NotAFile(path)),
            () if mode & 0o022 != 0 => Err(ProgramError::Writable { path, mode }),
            () if owner != 0 && owner != geteuid().as_raw() => Err(ProgramError::Owner { path, owner }),
            () => Ok(()),
        }
    }

    fn start(&self) -> Result<Running, ProgramError> {
        let names = INHERITED.into_iter().chain(self.variables.iter().map(String::as_str));
        let child = Command::new(&self.path)
            .args(&self.arguments)
            .env_clear()
            .envs(names.filter_map(|name| Some((name, std::env::var_os(name)?))))
            .current_dir("/")
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        child.map(Running).map_err(|error| ProgramError::Start { path: self.path.clone(), error })
    }

    async fn output(&self, child: &mut Child) -> Result<Output, ProgramError> {
        let (stdout, stderr) = tokio::try_join!(self.read(child.stdout.take()), self.read(child.stderr.take()))?;
        // Last: as long as it is not reaped, no other group can get its number.
        let status = child.wait().await.map_err(|error| self.unreadable(error))?;
        Ok(Output { status, stdout, stderr })
    }

    async fn read(&self, stream: Option<impl AsyncRead + Unpin>) -> Result<Zeroizing<Vec<u8>>, ProgramError> {
        // In one piece from the start, with more room than is used: growing would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 * MAX_BYTES));
        let Some(stream) = stream else { return Ok(bytes) };
        stream.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).await.map_err(|error| self.unreadable(error))?;
        if bytes.len() > MAX_BYTES {
            return Err(ProgramError::TooLarge(self.path.clone()));
        }
        Ok(bytes)
    }

    fn unreadable(&self, error: io::Error) -> ProgramError {
        ProgramError::Read { path: self.path.clone(), error }
    }
}

/// How a program ended, for humans.
pub fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

/// A program whose group is killed when this is dropped before it has been reaped.
struct Running(Child);

impl Running {
    async fn kill(&mut self) {
        self.kill_group();
        // What cannot be reaped in time is reaped by the runtime later.
        let _ = timeout(REAPING, self.0.wait()).await;
    }

    fn kill_group(&self) {
        let leader = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(leader) = leader {
            // It may have ended by itself.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_group();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, chown};
    use std::path::Path;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// What a shell makes of a script: the tests' programs are not files that are being written and run at once.
    fn shell(script: &str) -> Program {
        Program {
            path: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            variables: Vec::new(),
            timeout: SOON,
        }
    }

    async fn said(script: &str) -> String {
        let output = shell(script).run().await.expect("it runs");
        assert!(output.status.success());
        String::from_utf8(output.stdout.to_vec()).expect("text")
    }

    #[tokio::test]
    async fn what_it_writes_and_how_it_ends_is_told() {
        let output = shell("printf out; printf err >&2; exit 7").run().await.expect("it runs");
        assert_eq!((&**output.stdout, &**output.stderr), (&b"out"[..], &b"err"[..]));
        assert_eq!(ending(output.status), "ended with code 7");
        let output = shell("kill -TERM $$").run().await.expect("it runs");
        assert_eq!(ending(output.status), "was ended by signal 15");
    }

    #[tokio::test]
    async fn it_sees_nothing_of_our_environment_but_what_it_is_given() {
        // Cargo sets these for every test.
        let mut program = shell("env");
        program.variables = vec!["CARGO_PKG_NAME".to_owned(), "COUNTERSIGN_TEST_UNSET".to_owned()];
        let output = program.run().await.expect("it runs");
        let text = String::from_utf8(output.stdout.to_vec()).expect("text");
        let mut names: Vec<&str> = text.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        // The shell's own.
        names.retain(|name| !["PWD", "SHLVL", "_", "OLDPWD", "HOME", "LANG"].contains(name));
        names.sort_unstable();
        assert_eq!(names, ["CARGO_PKG_NAME", "PATH"]);
    }

    #[tokio::test]
    async fn it_reads_nothing_and_leads_a_group_of_its_own() {
        let said = said("cat; echo $$; ps -o pgid= -p $$ || cut -d' ' -f5 /proc/$$/stat; pwd").await;
        let lines: Vec<&str> = said.lines().map(str::trim).collect();
        assert_eq!(lines[0], lines[1]);
        assert_eq!(lines[2], "/");
    }

    #[tokio::test]
    async fn at_its_timeout_its_whole_group_is_killed() {
        let folder = tempfile::tempdir().expect("a folder");
        let pids = folder.path().join("pids");
        let script = format!("sleep 1000 & echo $! $$ > {0}.new; mv {0}.new {0}; wait", pids.display());
        let mut program = shell(&script);
        program.timeout = Duration::from_millis(500);
        assert!(matches!(program.run().await, Err(ProgramError::Timeout { .. })));
        let pids = fs::read_to_string(pids).expect("it came so far");
        all_end(&pids).await;
    }

    #[tokio::test]
    async fn a_run_that_is_not_wanted_any_more_is_killed_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let pids = folder.path().join("pids");
        let script = format!("sleep 1000 & echo $! $$ > {0}.new; mv {0}.new {0}; wait", pids.display());
        let program = shell(&script);
        tokio::select! {
            _ = program.run() => panic!("it waits"),
            () = appears(&pids) => {}
        }
        let pids = fs::read_to_string(pids).expect("it came so far");
        all_end(&pids).await;
    }

    async fn appears(path: &Path) {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until none of the processes is there, not even as a zombie of ours.
    async fn all_end(pids: &str) {
        let gone = async {
            for pid in pids.split_whitespace() {
                let ours = || {
                    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                    let after = stat.rsplit(") ").next().unwrap_or_default();
                    let parent = after.split(' ').nth(1).unwrap_or_default();
                    // A zombie of somebody else's is not ours to reap.
                    !after.is_empty() && (!after.starts_with('Z') || parent == std::process::id().to_string())
                };
                while ours() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        timeout(SOON, gone).await.expect("they end");
    }

    #[tokio::test]
    async fn one_that_never_stops_writing_is_killed() {
        for script in ["exec cat /dev/zero", "exec cat /dev/zero >&2"] {
            assert!(matches!(shell(script).run().await, Err(ProgramError::TooLarge(_))), "{script}");
        }
        assert_eq!(said("head -c 65536 /dev/zero").await.len(), 65536);
    }

    #[tokio::test]
    async fn a_file_that_somebody_else_could_have_written_is_not_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("program");
        fs::copy("/bin/true", &path).expect("copied");
        let program = Program { path: path.clone(), ..shell("") };
        for mode in [0o775, 0o757] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changed");
            assert!(matches!(program.run().await, Err(ProgramError::Writable { .. })), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("changed");
        chown(&path, Some(54321), None).expect("changed: the tests run as root");
        assert!(matches!(program.run().await, Err(ProgramError::Owner { owner: 54321, .. })));
        let folder = Program { path: folder.path().to_owned(), ..shell("") };
        assert!(matches!(folder.run().await, Err(ProgramError::NotAFile(_))));
        let missing = Program { path: path.with_extension("missing"), ..shell("") };
        assert!(matches!(missing.run().await, Err(ProgramError::Start { .. })));
    }
}
