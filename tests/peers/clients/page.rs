//! The page: what was measured, as Markdown.

use std::fmt::Write as _;

use super::catalogue::{By, CLIENTS, Client, Protocol, ROOTS, Way};
use super::plan::{GIT, GRPC, HTTP, Step, WEB_SOCKET};

/// A client in one of its ways.
pub struct Measured {
    pub client: &'static Client,
    pub way: Way,
    pub version: String,
    pub cell: Cell,
}

/// What it can do.
#[derive(Debug)]
pub enum Cell {
    All,
    /// What it cannot, and why.
    Most(Vec<(String, String)>),
    /// Nothing, and why.
    No(String),
}

/// Reasons, numbered as they are met.
#[derive(Default)]
struct Notes(Vec<String>);

impl Measured {
    /// What such a client calls.
    fn address(&self) -> &'static str {
        match (self.client.protocol, self.way) {
            (Protocol::WebSocket, Way::Prefix) => "`ws://127.0.0.1:8080/api/...`",
            (Protocol::Git, Way::Prefix) => "`http://127.0.0.1:8080/api/...`",
            (Protocol::Git, Way::Label) => "`http://api.localhost:8080/...`",
            (Protocol::WebSocket, Way::Label) => "`ws://api.localhost:8080/...`",
            (_, Way::Prefix) => "`127.0.0.1:8080/api`",
            (_, Way::Label) => "`api.localhost:8080`",
            (_, Way::Authority) => "`127.0.0.1:8080`, authority `api.localhost`",
            (_, Way::Environment) => "`HTTP_PROXY`",
            (_, Way::Setting | Way::TunnelSetting) => "a proxy of its own setting",
            (_, Way::Tunnel) => "`HTTPS_PROXY`",
        }
    }
}

/// The page's text.
pub fn written(measured: &[Measured]) -> String {
    let mut notes = Notes::default();
    let (http, others): (Vec<_>, Vec<_>) = measured.iter().partition(|one| one.client.protocol == Protocol::Http);
    let clients = matrix(&http, &mut notes);
    let others = others.into_iter().fold(String::new(), |mut text, one| {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            one.client.name,
            one.version,
            one.address(),
            cell(&one.cell, &mut notes)
        );
        text
    });
    include_str!("page.md")
        .replace("{{clients}}\n", &clients)
        .replace("{{others}}\n", &others)
        .replace("{{notes}}\n", &notes.text())
        .replace("{{http}}\n", &steps(HTTP))
        .replace("{{grpc}}\n", &steps(GRPC))
        .replace("{{web_socket}}\n", &steps(WEB_SOCKET))
        .replace("{{git}}\n", &steps(GIT))
        .replace("{{setup}}\n", &setup())
}

fn steps(steps: &[Step]) -> String {
    steps.iter().map(|step| format!("- {}: {}\n", step.title(), step.meaning())).collect()
}

/// The lines of one that are not in the other.
pub fn difference(committed: &str, measured: &str) -> String {
    let only = |mark: char, these: &str, those: &str| -> String {
        these.lines().filter(|line| !those.lines().any(|other| other == *line)).fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{mark} {line}");
            text
        })
    };
    only('-', committed, measured) + &only('+', measured, committed)
}

fn matrix(measured: &[&Measured], notes: &mut Notes) -> String {
    let mut text = String::new();
    for one in measured.iter().filter(|one| one.way == Way::Prefix) {
        let ways = [Way::Prefix, Way::Label, Way::Environment, Way::Setting, Way::Tunnel, Way::TunnelSetting];
        let cells = ways.map(|way| {
            let same = measured.iter().find(|other| other.client.name == one.client.name && other.way == way);
            same.map_or_else(String::new, |one| cell(&one.cell, notes))
        });
        let _ = writeln!(text, "| {} | {} | {} |", one.client.name, one.version, cells.join(" | "));
    }
    text
}

fn cell(cell: &Cell, notes: &mut Notes) -> String {
    match cell {
        Cell::All => "all".to_owned(),
        Cell::No(reason) => format!("no ({})", notes.number(reason)),
        Cell::Most(failed) => {
            let but: Vec<_> = failed.iter().map(|(title, why)| format!("{title} ({})", notes.number(why))).collect();
            format!("all but {}", but.join(", "))
        }
    }
}

fn setup() -> String {
    CLIENTS.iter().fold(String::new(), |mut text, client| {
        let proxy = client.setting.unwrap_or(client.environment);
        let (By::Variable(tunnel) | By::Setting(tunnel)) = client.tunnel;
        let roots = client.roots.map_or_else(String::new, |name| format!(", `{name}={ROOTS}`"));
        let _ = writeln!(text, "| {} | {} | {proxy} | {tunnel}{roots} |", client.name, client.base);
        text
    })
}

impl Notes {
    fn number(&mut self, reason: &str) -> usize {
        let known = self.0.iter().position(|known| known == reason);
        known.unwrap_or_else(|| {
            self.0.push(reason.to_owned());
            self.0.len() - 1
        }) + 1
    }

    fn text(&self) -> String {
        self.0.iter().enumerate().fold(String::new(), |mut text, (number, reason)| {
            let _ = writeln!(text, "{}. {reason}", number + 1);
            text
        })
    }
}
