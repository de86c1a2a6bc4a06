//! What defaults are taken from: the variables, user and machine that a config is read on. Plain, so that reading is pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::variables::{PREFIX, SEPARATOR};
use crate::clock::Moment;

/// A folder of ours inside those that the XDG base directory specification names.
const OURS: &str = "countersign";

/// The folder of sockets of what runs for the whole machine.
const OF_THE_MACHINE: &str = "/run/countersign";

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Environment {
    /// `$COUNTERSIGN_CONFIG`
    pub config: Option<PathBuf>,
    /// `$STATE_DIRECTORY`, from systemd: one folder or several, separated by colons
    pub state_directory: Option<PathBuf>,
    /// `$RUNTIME_DIRECTORY`, from systemd: one folder or several, separated by colons
    pub runtime_directory: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`
    pub xdg_runtime_dir: Option<PathBuf>,
    /// `$XDG_STATE_HOME`
    pub xdg_state_home: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`
    pub xdg_config_home: Option<PathBuf>,
    /// `$HOME`
    pub home: Option<PathBuf>,
    /// `$COUNTERSIGN_SECTION__KEY`, which take the place of scalars of the file.
    pub scalars: BTreeMap<String, String>,
    /// `$HTTPS_PROXY`, or else `$ALL_PROXY`
    pub https_proxy: ProxyVariable,
    /// `$NO_PROXY`
    pub no_proxy: String,
    /// The user that the proxy runs as.
    pub uid: u32,
    /// How many cores the proxy may use.
    pub cores: usize,
    /// The wall clock, since the Unix epoch.
    pub now: Duration,
}

/// A variable that names a proxy. One with a password in it is not kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ProxyVariable {
    #[default]
    Unset,
    Url(String),
    HoldsSecret,
}

impl ProxyVariable {
    fn of(value: Option<String>) -> Self {
        match value {
            None => Self::Unset,
            Some(value) if value.contains('@') => Self::HoldsSecret,
            Some(value) => Self::Url(value),
        }
    }
}

impl Environment {
    /// That of this process. A variable that is set to nothing counts as absent.
    pub fn of_this_process(now: Moment) -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // Upper case goes first, as with curl.
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let either = |name: &str| set(name).or_else(|| set(&name.to_ascii_lowercase()));
        let ours = |name: &str| name.strip_prefix(PREFIX).is_some_and(|key| key.contains(SEPARATOR));
        let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
        let all = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
        Self {
            scalars: all.filter(|(name, _)| ours(name)).collect(),
            config: variable("COUNTERSIGN_CONFIG"),
            state_directory: variable("STATE_DIRECTORY"),
            runtime_directory: variable("RUNTIME_DIRECTORY"),
            xdg_runtime_dir: variable("XDG_RUNTIME_DIR"),
            xdg_state_home: variable("XDG_STATE_HOME"),
            xdg_config_home: variable("XDG_CONFIG_HOME"),
            home: variable("HOME"),
            https_proxy: ProxyVariable::of(either("HTTPS_PROXY").or_else(|| either("ALL_PROXY"))),
            no_proxy: either("NO_PROXY").unwrap_or_default(),
            uid: rustix::process::geteuid().as_raw(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            now: now.wall,
        }
    }

    /// Where state is kept unless the config says where.
    pub(super) fn state_dir(&self) -> Option<PathBuf> {
        let first = |list: &PathBuf| std::env::split_paths(list).next();
        let systemd = self.state_directory.as_ref().and_then(first);
        systemd.or_else(|| Some(self.xdg(&self.xdg_state_home, ".local/state")?.join(OURS)))
    }

    /// Where the admin socket of this name is, unless the config says where: the first is where we listen, and whoever runs
    /// in other surroundings than the proxy looks at the others as well.
    pub(super) fn admin_sockets(&self, state_dir: &Path, state_is_written: bool, name: &str) -> Vec<PathBuf> {
        let first = |list: &PathBuf| std::env::split_paths(list).next();
        let systemd = self.runtime_directory.as_ref().and_then(first);
        let user = self.xdg_runtime_dir.as_ref().filter(|folder| folder.is_absolute()).map(|folder| folder.join(OURS));
        let (state, machine) = (Some(state_dir.to_owned()), Some(PathBuf::from(OF_THE_MACHINE)));
        // Proxies that have a folder of state each have a socket each.
        let [third, fourth] = if state_is_written || self.uid != 0 { [state, machine] } else { [machine, state] };
        [systemd, user, third, fourth].into_iter().flatten().map(|folder| folder.join(name)).collect()
    }

    /// The user's own config file, if the user has a home.
    pub(super) fn user_config(&self) -> Option<PathBuf> {
        Some(self.xdg(&self.xdg_config_home, ".config")?.join(OURS).join("countersign.toml"))
    }

    /// The specification has relative folders ignored.
    fn xdg(&self, folder: &Option<PathBuf>, default: &str) -> Option<PathBuf> {
        let set = folder.clone().filter(|folder| folder.is_absolute());
        set.or_else(|| Some(self.home.as_ref().filter(|home| home.is_absolute())?.join(default)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_with_a_password_is_not_kept() {
        let of = |value: &str| ProxyVariable::of(Some(value.to_owned()));
        assert_eq!(of("http://user:hunter2@proxy.corp:3128"), ProxyVariable::HoldsSecret);
        assert_eq!(of("proxy.corp:3128"), ProxyVariable::Url("proxy.corp:3128".to_owned()));
        assert_eq!(ProxyVariable::of(None), ProxyVariable::Unset);
    }

    #[test]
    fn the_admin_socket_goes_where_sockets_of_such_a_process_go() {
        let first = |environment: &Environment, written| {
            let places = environment.admin_sockets(Path::new("/state"), written, "s");
            places[0].display().to_string()
        };
        let root = Environment::default();
        assert_eq!(first(&root, false), "/run/countersign/s");
        assert_eq!(first(&root, true), "/state/s", "it has a folder of its own");
        let user = Environment { uid: 1000, ..root };
        assert_eq!(first(&user, false), "/state/s");
        let session = Environment { xdg_runtime_dir: Some("/run/user/1000".into()), ..user };
        assert_eq!(first(&session, true), "/run/user/1000/countersign/s");
        let service = Environment { runtime_directory: Some("/run/countersign:/run/other".into()), ..session };
        assert_eq!(first(&service, true), "/run/countersign/s");
    }

    #[test]
    fn systemd_says_first_where_state_goes_then_xdg_then_the_home() {
        let mut environment = Environment {
            state_directory: Some("/var/lib/a:/var/lib/b".into()),
            xdg_state_home: Some("/x".into()),
            home: Some("/home/u".into()),
            ..Environment::default()
        };
        assert_eq!(environment.state_dir(), Some("/var/lib/a".into()));
        environment.state_directory = None;
        assert_eq!(environment.state_dir(), Some("/x/countersign".into()));
        environment.xdg_state_home = Some("relative".into());
        assert_eq!(environment.state_dir(), Some("/home/u/.local/state/countersign".into()));
        environment.home = None;
        assert_eq!(environment.state_dir(), None);
    }
}
