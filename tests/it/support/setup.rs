//! The config of a test, put together from what matters to it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use countersign::clock::{Clock, SystemClock};
use countersign::config::{Config, Environment};
use countersign::dial::Answers;

use super::certificate::Certificate;
use super::{Issuer, RawUpstream, Scene, Upstream, operator};

/// A config file that is being written. Each call adds to it.
#[derive(Clone)]
pub struct Setup {
    listen: String,
    workers: usize,
    drain: String,
    proxy: String,
    limits: String,
    allow: String,
    state: String,
    audit: String,
    review: String,
    detect: String,
    admin: String,
    approval: String,
    blocks: Vec<Block>,
    pub(super) resolve: Option<Arc<Answers>>,
}

/// A `[[token]]` or `[[route]]`, known by its kind and name.
#[derive(Clone)]
struct Block {
    kind: &'static str,
    name: String,
    text: String,
}

/// Where a route leads: an address and the CA that vouches for it.
pub trait Place {
    fn address(&self) -> SocketAddr;
    fn certificate(&self) -> &Certificate;
}

impl Place for Upstream {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn certificate(&self) -> &Certificate {
        &self.certificate
    }
}

impl Place for RawUpstream {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn certificate(&self) -> &Certificate {
        &self.certificate
    }
}

impl Setup {
    pub fn new() -> Self {
        Self {
            listen: r#"["127.0.0.1:0", "unix:proxy.sock"]"#.to_owned(),
            workers: 2,
            drain: "5s".to_owned(),
            proxy: String::new(),
            limits: String::new(),
            allow: r#"["127.0.0.0/8"]"#.to_owned(),
            state: String::new(),
            audit: String::new(),
            review: String::new(),
            detect: String::new(),
            admin: String::new(),
            approval: String::new(),
            blocks: Vec::new(),
            resolve: None,
        }
    }

    /// An issuer's token `api`, and a route `api` that carries it to the upstream and lets everything pass.
    pub fn api(issuer: &Issuer, upstream: &impl Place) -> Self {
        Self::new().token("api", issuer, "").route("api", upstream, r#"token = "api""#)
    }

    /// `listen`, as TOML says it.
    pub fn listen(self, listen: &str) -> Self {
        Self { listen: listen.to_owned(), ..self }
    }

    pub fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    pub fn drain(self, drain: &str) -> Self {
        Self { drain: drain.to_owned(), ..self }
    }

    /// Lines of `[proxy]`.
    pub fn proxy(mut self, lines: &str) -> Self {
        self.proxy.push_str(&format!("{lines}\n"));
        self
    }

    /// Lines of `[proxy.limits]`.
    pub fn limits(mut self, lines: &str) -> Self {
        self.limits.push_str(&format!("{lines}\n"));
        self
    }

    /// `allow` of `[proxy.destinations]`.
    pub fn destinations(self, allow: &str) -> Self {
        Self { allow: allow.to_owned(), ..self }
    }

    /// Which addresses names have, instead of what the system says.
    pub fn resolver(self, answer: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self { resolve: Some(Arc::new(answer)), ..self }
    }

    /// Lines of `[state]`.
    pub fn state(mut self, lines: &str) -> Self {
        self.state.push_str(&format!("{lines}\n"));
        self
    }

    /// Lines of `[audit]`.
    pub fn audit(mut self, lines: &str) -> Self {
        self.audit.push_str(&format!("{lines}\n"));
        self
    }

    /// Lines of `[review]`.
    pub fn review(mut self, lines: &str) -> Self {
        self.review.push_str(&format!("{lines}\n"));
        self
    }

    /// Lines of `[detect]`.
    pub fn detect(mut self, lines: &str) -> Self {
        self.detect.push_str(&format!("{lines}\n"));
        self
    }

    /// Lines of `[admin]`.
    pub fn admin(mut self, lines: &str) -> Self {
        self.admin.push_str(&format!("{lines}\n"));
        self
    }

    /// `[approval]`, as TOML says it.
    pub fn approval(mut self, lines: &str) -> Self {
        self.approval.push_str(&format!("{lines}\n"));
        self
    }

    /// An operator of the config, as TOML says it.
    pub fn operator(self, name: &str, lines: &str) -> Self {
        self.block("operator", name, format!("name = \"{name}\"\n{lines}"))
    }

    /// Our own user with a role, and an approver with [`operator::APPROVER`] for its key.
    pub fn operators(self, role: &str) -> Self {
        let own = rustix::process::getuid().as_raw();
        let key = operator::key(operator::APPROVER.expect("it has a key"));
        let setup = self.operator("guard", &format!("uid = {own}\nroles = [\"{role}\"]"));
        setup.operator("approver", &format!("{key}\nroles = [\"approver\"]"))
    }

    /// A sink of alerts, as TOML says it.
    pub fn alert(self, lines: &str) -> Self {
        self.block("alert", "", lines.to_owned())
    }

    /// A client of the config, as TOML says it.
    pub fn client(self, name: &str, lines: &str) -> Self {
        self.block("client", name, format!("name = \"{name}\"\n{lines}"))
    }

    /// A token from an issuer; `more` are lines that take the place of what is usual.
    pub fn token(self, name: &str, issuer: &Issuer, more: &str) -> Self {
        let source = format!(
            r#"{{ kind = "client_credentials", token_url = "{}", client_id = "{name}", client_secret = "file:client-secret" }}"#,
            issuer.url()
        );
        self.token_from(name, &source, more)
    }

    /// As [`Setup::token`], of an issuer that is `told` somewhere else which generations are void.
    pub fn token_revoked_at(self, name: &str, issuer: &Issuer, told: &str, more: &str) -> Self {
        let source = format!(
            r#"{{ kind = "client_credentials", token_url = "{}", revocation_url = "{told}", client_id = "{name}", client_secret = "file:client-secret" }}"#,
            issuer.url()
        );
        self.token_from(name, &source, more)
    }

    /// A token from any source.
    pub fn token_from(self, name: &str, source: &str, more: &str) -> Self {
        let usual = [
            ("owner", r#""team@example.com""#),
            ("reason", r#""the tests need it""#),
            ("scopes", r#"["read"]"#),
            ("expires", r#""2099-01-01""#),
            ("hosts", r#"["127.0.0.1", "127.0.0.2", "127.0.0.3"]"#),
            ("source", source),
        ];
        self.block("token", name, format!("name = \"{name}\"\n{}{more}", lines(&usual, more)))
    }

    pub fn route(self, name: &str, place: &impl Place, more: &str) -> Self {
        let upstream = format!("\"https://{}\"", place.address());
        let tls = format!(r#"{{ ca = "file:{}" }}"#, place.certificate().ca().display());
        let usual = [("upstream", upstream.as_str()), ("tls", tls.as_str()), ("allow", r#""any""#)];
        self.block("route", name, format!("name = \"{name}\"\n{}{more}", lines(&usual, more)))
    }

    /// Without this token or route.
    pub fn without(mut self, kind: &str, name: &str) -> Self {
        let before = self.blocks.len();
        self.blocks.retain(|block| block.kind != kind || block.name != name);
        assert!(self.blocks.len() < before, "there was a {kind} {name}");
        self
    }

    fn block(mut self, kind: &'static str, name: &str, text: String) -> Self {
        self.blocks.push(Block { kind, name: name.to_owned(), text });
        self
    }

    /// The whole file.
    pub fn text(&self) -> String {
        let Self {
            listen,
            workers,
            drain,
            proxy,
            limits,
            allow,
            state,
            audit,
            review,
            detect,
            admin,
            approval,
            blocks,
            resolve: _,
        } = self;
        let mut text = format!(
            r#"[proxy]
listen = {listen}
workers = {workers}
drain = "{drain}"
{proxy}
[proxy.limits]
{limits}
[proxy.destinations]
allow = {allow}
[telemetry]
listen = "127.0.0.1:0"
[state]
dir = "state"
{state}
[audit]
{audit}
[review]
{review}
[detect]
{detect}
[admin]
{admin}
"#
        );
        if !approval.is_empty() {
            text.push_str(&format!("[approval]\n{approval}"));
        }
        for Block { kind, text: block, .. } in blocks {
            text.push_str(&format!("[[{kind}]]\n{block}\n"));
        }
        text
    }

    /// As the app reads it, in this folder.
    pub fn config(&self, folder: &Path) -> Config {
        let text = self.text();
        Config::parse(&text, "it.toml", folder, &environment()).unwrap_or_else(|problems| panic!("{text}\n{problems}"))
    }

    pub async fn start(&self) -> Scene {
        Scene::start(self).await
    }
}

/// What the app's defaults are taken from.
pub fn environment() -> Environment {
    Environment {
        uid: rustix::process::geteuid().as_raw(),
        cores: 2,
        now: SystemClock.now().wall,
        ..Environment::default()
    }
}

/// The usual lines, but for those that are written otherwise.
fn lines(usual: &[(&str, &str)], more: &str) -> String {
    let written = |key: &str| {
        let replaced = key == "expires" && more.contains("permanent = true");
        replaced
            || more
                .lines()
                .any(|line| line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('=')))
    };
    usual.iter().filter(|(key, _)| !written(key)).map(|(key, value)| format!("{key} = {value}\n")).collect()
}
