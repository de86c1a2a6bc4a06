//! The user that the app is run as.

use std::fs;

use rustix::process::geteuid;

/// Where users are looked up. Those of a directory service are named by number.
const USERS: &str = "/etc/passwd";

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Its name and its home, if it has an entry.
    entry: Option<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("there is no user `{0}` in {USERS}\n  help: name another, or write its numbers, as in 1000:1000")]
    Unknown(String),
    #[error(
        "only root may run the app as another user: this is user {0}\n  help: run countersign as root, or leave --user out"
    )]
    NotRoot(u32),
}

impl User {
    /// By name, by number, or as `uid:gid`.
    pub fn find(named: &str) -> Result<Self, UserError> {
        let users = fs::read_to_string(USERS).unwrap_or_default();
        let user = Self::of(named, &users).ok_or_else(|| UserError::Unknown(named.to_owned()))?;
        let own = geteuid();
        if own.is_root() || own.as_raw() == user.uid { Ok(user) } else { Err(UserError::NotRoot(own.as_raw())) }
    }

    /// What a program expects to know of its user.
    pub fn variables(&self) -> Vec<(&'static str, &str)> {
        let entry = self.entry.as_ref();
        entry.map(|(name, home)| vec![("USER", &**name), ("LOGNAME", &**name), ("HOME", &**home)]).unwrap_or_default()
    }

    fn of(named: &str, users: &str) -> Option<Self> {
        let entries = users.lines().filter_map(|line| {
            let [name, _, uid, gid, _, home, ..] = line.split(':').collect::<Vec<_>>()[..] else { return None };
            let entry = Some((name.to_owned(), home.to_owned()));
            Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()?, entry })
        });
        let (uid, gid) = match named.split_once(':') {
            Some((uid, gid)) => (uid.parse::<u32>().ok(), gid.parse::<u32>().ok()),
            None => (named.parse().ok(), None),
        };
        let is_it = |user: &Self| match uid {
            Some(uid) => user.uid == uid,
            None => user.entry.as_ref().is_some_and(|(name, _)| name == named),
        };
        let found = entries.into_iter().find(is_it);
        match (found, uid, gid) {
            (Some(user), _, Some(gid)) => Some(Self { gid, ..user }),
            (Some(user), _, None) => Some(user),
            (None, Some(uid), Some(gid)) => Some(Self { uid, gid, entry: None }),
            (None, _, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:An app:/home/app:/bin/sh\nbroken\n";

    #[test]
    fn a_user_is_found_by_name_by_number_or_by_both_of_its_numbers() {
        let app = User::of("app", USERS).expect("found");
        assert_eq!((app.uid, app.gid), (1000, 1001));
        assert_eq!(app.variables(), [("USER", "app"), ("LOGNAME", "app"), ("HOME", "/home/app")]);
        assert_eq!(User::of("1000", USERS), Some(app.clone()));
        assert_eq!(User::of("1000:50", USERS), Some(User { gid: 50, ..app }));
        let unnamed = User::of("7:8", USERS).expect("two numbers are a user");
        assert_eq!((unnamed.uid, unnamed.gid, unnamed.variables()), (7, 8, Vec::new()));
        for unknown in ["nobody-at-all", "7", "app:50", "", "-1"] {
            assert_eq!(User::of(unknown, USERS), None, "{unknown}");
        }
    }
}
