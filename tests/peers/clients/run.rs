//! A client in one of its ways: the steps, one after the other, and what came of them.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::House;
use super::catalogue::{Client, Protocol, Way};
use super::page::{Cell, Measured};
use super::plan::{Observed, Said, Step};
use super::program::Program;
use crate::support::echo::Seen;
use crate::support::relay::{Relay, Spoken};
use crate::support::trail;

/// What clients bring along, and no upstream may see.
const OWN: &str = "own-credential-8dJ2mQz7LkX4vB1n";

pub struct Run<'h> {
    house: &'h House,
    client: &'static Client,
    way: Way,
    number: u32,
    relay: Relay,
    program: Program,
    version: String,
    /// What it says that it spoke inside of a tunnel.
    inside: Vec<Spoken>,
    /// What the program writes of its errors.
    errors: PathBuf,
}

impl<'h> Run<'h> {
    /// Starts the client's program, and tells it where to call. `door` is a listener of the proxy's for this run alone.
    pub async fn start(house: &'h House, client: &'static Client, way: Way, number: u32, door: SocketAddr) -> Self {
        let relay = Relay::start(door).await;
        let command = client.command(way, relay.address, house.folder.path());
        let errors = house.folder.path().join(format!("{number}.errors"));
        let program = Program::start(&command, &errors);
        let mut run =
            Self { house, client, way, number, relay, program, version: String::new(), inside: Vec::new(), errors };
        let hello = run.program.ask(&run.place()).await;
        let version = hello.as_ref().and_then(|hello| hello["version"].as_str());
        run.version = version.unwrap_or_else(|| panic!("{} does not start:\n{}", client.name, run.errors())).to_owned();
        run
    }

    /// Where to call, and what to bring along.
    fn place(&self) -> Value {
        let (protocol, port) = (self.client.protocol, self.relay.address.port());
        let route = protocol.route();
        let folder = if protocol == Protocol::Grpc { String::new() } else { format!("/r{}", self.number) };
        let base = match self.way {
            Way::Prefix => format!("http://127.0.0.1:{port}/{route}{folder}"),
            Way::Label => format!("http://{route}.localhost:{port}{folder}"),
            Way::Authority => format!("http://127.0.0.1:{port}"),
            Way::Environment | Way::Setting => format!("http://{}{folder}", protocol.host()),
            Way::Tunnel | Way::TunnelSetting => {
                format!("https://{}:{}{folder}", protocol.host(), self.house.port(protocol))
            }
        };
        let authority = (self.way == Way::Authority).then(|| format!("{route}.localhost"));
        let is_set = matches!(self.way, Way::Setting | Way::TunnelSetting);
        let proxy = is_set.then(|| format!("http://{}", self.relay.address));
        json!({ "run": self.number, "base": base, "authority": authority, "proxy": proxy, "own": OWN })
    }

    /// Takes every step; where the first one shows that none can succeed, that one.
    pub async fn measure(mut self) -> Measured {
        let cell = self.cell().await;
        for seen in self.seen() {
            self.assert_carries_the_token_alone(&seen);
        }
        if !matches!(cell, Cell::All) {
            println!("{}, {:?}: {cell:?}\n{}", self.client.name, self.way, self.errors());
        }
        Measured { client: self.client, way: self.way, version: self.version, cell }
    }

    async fn cell(&mut self) -> Cell {
        let mut failed = Vec::new();
        for (number, step) in self.client.protocol.steps().iter().enumerate() {
            let Err(reason) = self.step(*step).await else { continue };
            if number == 0
                && let Some(whole) = self.why_not_at_all()
            {
                return Cell::No(whole.to_owned());
            }
            failed.push((step.title().to_owned(), reason));
        }
        let opened = self.relay.opened();
        if self.way.is_tunnel() && opened.iter().any(|spoken| ![Spoken::Tunnel, Spoken::Nothing].contains(spoken)) {
            failed.push(("tunnel".to_owned(), "sends the proxy `https://` URLs as they are, without TLS".to_owned()));
        }
        let spoken = if self.way.is_tunnel() { &self.inside } else { &opened };
        if let Some(speaks) = self.client.speaks
            && let Some(other) = spoken.iter().find(|spoken| ![speaks, Spoken::Nothing].contains(spoken))
        {
            failed.push((speaks.to_string(), format!("speaks {other}")));
        }
        if failed.is_empty() { Cell::All } else { Cell::Most(failed) }
    }

    async fn step(&mut self, step: Step) -> Result<(), String> {
        let house = self.house;
        // Who counts refusals has them for itself.
        let alone = if step == Step::Denied { Some(house.refusals.lock().await) } else { None };
        let refused = if alone.is_some() { house.refused().await } else { 0 };
        let (seen, opened) = (self.seen().len(), self.relay.opened().len());
        let said = self.program.ask(&step.line()).await.ok_or("gives no answer")?;
        let said: Said =
            serde_json::from_value(said.clone()).unwrap_or_else(|error| panic!("{}: {error}: {said}", step.name()));
        // It knows the answer's, which is HTTP/1.1 to HTTP/1.0 too (RFC 9110, section 2.5).
        let is_old = self.client.speaks == Some(Spoken::Http10);
        self.inside.extend(said.http.as_deref().map(Spoken::named).filter(|_| !is_old));
        let observed = Observed {
            seen: self.seen().split_off(seen),
            connections: self.relay.opened().len() - opened,
            refused: if alone.is_some() { house.refused().await - refused } else { 0 },
            late: house.was_late(self.client.protocol, self.number),
            large: &house.large,
        };
        step.judge(&said, &observed)
    }

    fn why_not_at_all(&self) -> Option<&'static str> {
        let opened = self.relay.opened();
        match self.way {
            Way::Tunnel | Way::TunnelSetting if !opened.is_empty() => None,
            _ if opened.contains(&Spoken::Tunnel) => {
                Some("asks for a tunnel (`CONNECT`), although the URL is not `https://`")
            }
            _ if !opened.is_empty() => None,
            Way::Prefix | Way::Authority | Way::Setting | Way::TunnelSetting => None,
            Way::Label => Some("does not resolve `api.localhost`"),
            Way::Environment | Way::Tunnel => Some("does not obey the variable"),
        }
    }

    fn seen(&self) -> Vec<Seen> {
        self.house.seen(self.client.protocol, self.number)
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap_or_default()
    }

    fn assert_carries_the_token_alone(&self, seen: &Seen) {
        let what = format!("{}, {:?}, {} {}", self.client.name, self.way, seen.method, seen.target);
        let authorization: Vec<_> = seen.headers.get_all("authorization").iter().collect();
        let [one] = authorization[..] else { panic!("{what}: {} credentials", authorization.len()) };
        let token = one.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
        let genuine = token.is_some_and(|token| trail::expiry(token, &self.house.keys).is_some());
        assert!(genuine, "{what}: not the issuer's token");
        let holds_own = |text: &[u8]| text.windows(OWN.len()).any(|window| window == OWN.as_bytes());
        assert!(!holds_own(seen.target.as_bytes()), "{what}: the client's credential in the target");
        for (name, value) in &seen.headers {
            assert!(!holds_own(value.as_bytes()), "{what}: the client's credential in {name}");
        }
    }
}
