//! Who the proxy is, and who its clients are.

use std::os::unix::fs::MetadataExt;

use super::Findings;
use crate::config::Config;

/// Users by their ids.
pub struct People {
    /// Whom the proxy runs as: the owner of its state, or else whoever asks.
    pub proxy: u32,
    /// Whom the kernel would call us.
    pub own: u32,
    /// The clients' users, as far as the config names any.
    pub clients: Vec<u32>,
}

pub fn look(config: &Config, found: &mut Findings) -> People {
    let own = rustix::process::geteuid().as_raw();
    let owner = std::fs::metadata(&config.state_dir).map(|metadata| metadata.uid());
    let people = People {
        proxy: owner.unwrap_or(own),
        own,
        clients: config.clients.iter().filter_map(|client| client.uid).collect(),
    };
    if people.proxy == 0 {
        found.warning(
            "the proxy runs as root, as the owner of its state shows",
            "run it as a user of its own: deploy/countersign.service does",
        );
    }
    for client in &config.clients {
        let name = &client.name;
        match client.uid {
            Some(0) => found.warning(
                format!("client {name} is root, who can read the proxy's memory and secrets"),
                "run the app as a user of its own",
            ),
            Some(uid) if uid == people.proxy => found.problem(
                format!("client {name} runs as the proxy's own user {uid}: it can read the proxy's secrets"),
                "run the app as another user, and write that one's `uid`",
            ),
            Some(uid) => {
                found.ok(format!("client {name} (user {uid}) is kept apart from the proxy (user {})", people.proxy));
            }
            None => {}
        }
        if let Some(named) = &client.certificate {
            found.ok(format!("client {name} is known by its certificate: {named}"));
        }
    }
    people
}
