//! Control groups: which service or container a process belongs to, as the kernel has it (cgroups(7), version 2).
//!
//! ```text
//!  unix socket ─SO_PEERPIDFD─▶ the process itself ─▶ its number ─▶ /proc/NUMBER/cgroup ─▶ still its number? ─▶ its group
//! ```
//!
//! Invariant: a number is another process's once the first is gone, so that what was read of a number counts only if the
//! process that was asked about has it afterwards. Where the kernel does not tell the process itself (before Linux 6.5), nobody
//! has a group.

use std::fmt;
use std::fs::read_to_string;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::str::FromStr;
use std::sync::{Arc, Once};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt::PeerPidfd};

/// A group that a client is known by: whatever runs in it, or in one below it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cgroup(Box<str>);

/// What is no group that a client can be known by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoCgroup {
    #[error(
        "a cgroup is written as in /proc/PID/cgroup, without what stands before its first slash: \"/system.slice/app.service\""
    )]
    NotAsTheKernelSays,
    #[error("every process is in the cgroup \"/\" or below it")]
    Everybody,
}

impl Cgroup {
    /// Whether a process of this group is in it.
    pub fn holds(&self, group: &str) -> bool {
        group.strip_prefix(&*self.0).is_some_and(|below| below.is_empty() || below.starts_with('/'))
    }

    /// Whether some process can be in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.holds(&other.0) || other.holds(&self.0)
    }
}

impl FromStr for Cgroup {
    type Err = NoCgroup;

    fn from_str(text: &str) -> Result<Self, NoCgroup> {
        if text == "/" {
            return Err(NoCgroup::Everybody);
        }
        let names = text.strip_prefix('/').ok_or(NoCgroup::NotAsTheKernelSays)?;
        let is_name = |name: &str| !matches!(name, "" | "." | "..") && !name.contains(char::is_control);
        if names.split('/').all(is_name) { Ok(Self(text.into())) } else { Err(NoCgroup::NotAsTheKernelSays) }
    }
}

impl fmt::Display for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// That the kernel is too old has been said.
static TOLD: Once = Once::new();

/// The group of the process that made the connection at the other end of this socket; `None` when that cannot be proved.
pub fn of_peer(stream: &impl AsFd) -> Option<Arc<str>> {
    let process = match getsockopt(stream, PeerPidfd) {
        Ok(process) => process,
        Err(Errno::ENOPROTOOPT) => {
            // For each connection it would drown the rest of the log.
            TOLD.call_once(|| {
                tracing::warn!(
                    "no client has a `cgroup`: the kernel tells no socket's process (SO_PEERPIDFD, from Linux 6.5 on)"
                );
            });
            return None;
        }
        // It has ended.
        Err(_) => return None,
    };
    let number = number_of(&process)?;
    let groups = read_to_string(format!("/proc/{number}/cgroup")).ok()?;
    let group = unified(&groups)?;
    (number_of(&process) == Some(number)).then(|| group.into())
}

/// The number of a process, while it has one that we can see.
fn number_of(process: &OwnedFd) -> Option<u32> {
    let told = read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).ok()?;
    let number = told.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    // -1 of one that is gone, 0 of one that is not in our namespace.
    number.trim().parse().ok().filter(|number| *number != 0)
}

/// Of the hierarchies that a process has a place in, the one of version 2.
fn unified(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn cgroup(text: &str) -> Cgroup {
        text.parse().expect("a cgroup")
    }

    #[test]
    fn a_group_holds_itself_and_what_is_below_it() {
        let app = cgroup("/system.slice/app.service");
        for (group, held) in [
            ("/system.slice/app.service", true),
            ("/system.slice/app.service/worker", true),
            ("/system.slice/app.service2", false),
            ("/system.slice/app.service (deleted)", false),
            ("/system.slice", false),
            ("/", false),
            ("/../system.slice/app.service", false),
        ] {
            assert_eq!(app.holds(group), held, "{group}");
        }
        assert!(app.overlaps(&cgroup("/system.slice")) && cgroup("/system.slice").overlaps(&app));
        assert!(!app.overlaps(&cgroup("/system.slice/app")));
    }

    #[test]
    fn a_group_is_written_as_the_kernel_says_it() {
        for text in ["", "app.service", "0::/app", "/app/", "//app", "/a/../b", "/a/./b", "/a\nb"] {
            assert_eq!(text.parse::<Cgroup>(), Err(NoCgroup::NotAsTheKernelSays), "{text:?}");
        }
        assert_eq!("/".parse::<Cgroup>(), Err(NoCgroup::Everybody));
        assert_eq!(cgroup("/a b/c").to_string(), "/a b/c");
    }

    #[test]
    fn of_all_hierarchies_the_unified_one_counts() {
        let groups = "12:pids:/docker/x\n1:name=systemd:/forged\n0::/system.slice/app.service\n";
        assert_eq!(unified(groups), Some("/system.slice/app.service"));
        assert_eq!(unified("1:name=systemd:/system.slice/app.service\n"), None);
    }

    #[test]
    fn the_kernel_tells_the_group_of_the_other_end() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair of sockets");
        let groups = read_to_string("/proc/self/cgroup").expect("our own groups");
        assert_eq!(of_peer(&ours).as_deref(), unified(&groups), "we are at both ends");
    }
}
