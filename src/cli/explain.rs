//! `explain`: what would become of a request, and which part of the config says so. Nothing is sent to an upstream or an
//! issuer; of the running proxy only its metrics are asked, for the generation and for what is held back from the client.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode, Uri, Version};
use serde_json::{Value, json};

use super::telemetry::Scrape;
use super::{CONFIG, USAGE, runtime, say, telemetry, with_causes};
use crate::announced::Announcements;
use crate::app;
use crate::app::environment::Entrance;
use crate::authority::{Authority, Host};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config, Filled};
use crate::dial::Dialer;
use crate::identity::{ClientIndex, Clients};
use crate::metrics::Metrics;
use crate::name::{ClientName, RouteName, TokenName};
use crate::policy::hold::{self, Hold};
use crate::policy::rule::Ruling;
use crate::proxy::{self, Explanation, Fields, Head, Refusal};
use crate::route::{self, Ingredients, RouteToken, Table};
use crate::token::{self, Absent, Restraint, SlotReader};
use crate::usage;

const HOW_URLS_BEGIN: &str = "a URL begins with http:// or https://, or with a slash for a path at the proxy itself";

const BLOCK: &str = "block";

/// What is asked.
pub struct Question {
    pub method: Method,
    pub url: String,
    pub client: Option<ClientName>,
}

pub fn explain(path: &Path, config: &Config, question: &Question, json: bool) -> ExitCode {
    let table = match table(config) {
        Ok(table) => table,
        Err(error) => {
            eprintln!("countersign: {}", with_causes(&error));
            return ExitCode::from(CONFIG);
        }
    };
    match judge(path, config, &table, question) {
        Ok(verdict) => {
            say(&if json { format!("{:#}", verdict.to_json(question)) } else { verdict.to_text(question) });
            if verdict.refusal.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("countersign: {error:#}");
            ExitCode::from(USAGE)
        }
    }
}

/// All that there is to tell.
struct Verdict {
    client: ClientName,
    way: &'static str,
    /// The route's name, and the URL that its upstream would get or the upstream itself.
    route: Option<(String, String)>,
    rule: Option<Rule>,
    /// Of the client's own lists.
    client_rule: Option<Rule>,
    token: Option<Live>,
    held: Option<Held>,
    /// What presets have filled in of the route and the token.
    filled: Vec<Filled>,
    refusal: Option<Refused>,
}

/// Why it is refused, as the answer would say it.
struct Refused {
    reason: &'static str,
    status: StatusCode,
    detail: String,
}

/// What the running proxy holds back from the client while its use is unusual.
struct Held {
    what: &'static str,
    released: String,
    refused: Option<Refused>,
}

struct Rule {
    text: String,
    place: Option<String>,
}

/// A token, as the running proxy has it.
struct Live {
    name: TokenName,
    placement: String,
    /// The generation and the state, or why they are not known.
    running: Result<(Option<u64>, String), String>,
}

fn judge(path: &Path, config: &Config, table: &Table, question: &Question) -> anyhow::Result<Verdict> {
    let (request, way) = Request::of(question, config)?;
    let client = client(&table.clients, question.client.as_ref())?;
    let Request { head, headers, port } = &request;
    let is_ours = |host: &Host| is_under_tls(host, config);
    let Explanation { route, ruling, ruling_of_client, outcome } =
        proxy::explain(table, &config.proxy.limits, client, head, headers, *port, is_ours);
    let token = route.and_then(|route| route.token.as_ref());
    let token = token.and_then(|wanted| config.tokens.iter().find(|token| token.name == wanted.name));
    let name = table.clients.name(client).clone();
    let address = telemetry::address(config);
    let scrape = runtime().and_then(|runtime| runtime.block_on(Scrape::of(address)));
    let scrape = scrape.map_err(|error| format!("the proxy is not running ({address}: {error:#})"));
    let live = token.map(|token| Live::of(token, scrape.as_ref().map_err(Clone::clone), address));
    let mut held = scrape.ok().and_then(|scrape| Held::of(&name, token.map(|token| &token.name), &scrape));
    let upstream = route.map(|route| {
        let upstream = &route.upstream.endpoint;
        let url = match &outcome {
            Ok(target) => {
                format!("{}://{}{target}", upstream.scheme, upstream.authority.to_header(upstream.scheme))
            }
            Err(_) => upstream.to_string(),
        };
        (route.name.to_string(), url)
    });
    let mut refusal = outcome.err().map(Refused::from);
    // A client that is blocked is not told what else there is.
    if refusal.is_none() || held.as_ref().is_some_and(|held| held.what == BLOCK) {
        refusal = held.as_mut().and_then(|held| held.refused.take()).or(refusal);
    }
    let refusal = refusal.or_else(|| refusal_of(token?, live.as_ref()?, config).map(Refused::from));
    let rule = route.zip(ruling).map(|(route, ruling)| Rule::of(ruling, path, "route", route.name.as_str()));
    let client_rule = ruling_of_client.map(|ruling| Rule::of(ruling, path, "client", name.as_str()));
    let is_taken = |filled: &&Filled| match filled.section {
        "route" => route.is_some_and(|route| *filled.name == *route.name.as_str()),
        _ => token.is_some_and(|token| *filled.name == *token.name.as_str()),
    };
    let filled = config.filled.iter().filter(is_taken).cloned().collect();
    Ok(Verdict { filled, client: name, way, route: upstream, rule, client_rule, token: live, held, refusal })
}

/// A request as it would come in.
struct Request {
    head: Head,
    headers: Fields,
    port: Option<u16>,
}

impl Request {
    /// The request that an app makes for this URL, and how it comes to us.
    fn of(question: &Question, config: &Config) -> anyhow::Result<(Self, &'static str)> {
        let Question { method, url, .. } = question;
        let entrance = Entrance::of(&config.proxy.listen).map(Entrance::address);
        let uri: Uri =
            url.parse().with_context(|| format!("this is not a URL that can be requested ({HOW_URLS_BEGIN})"))?;
        let own_host = entrance.map_or_else(|| "localhost".to_owned(), |address| address.to_string());
        let named = uri.authority().map(ToString::to_string);
        let host = named.clone().unwrap_or(own_host);
        // User info stays with the client that reads the URL.
        let host = host.rsplit('@').next().unwrap_or_default();
        let mut headers = Fields::new();
        headers.append(HOST, HeaderValue::from_str(host)?);
        let means_us = uri.scheme_str() == Some("https") && is_at_tls(host, config);
        let port = port_of(host, config).or(entrance.map(|address| address.port()));
        let (uri, way) = if *method == Method::CONNECT {
            anyhow::ensure!(
                uri.scheme().is_none() && named.is_some(),
                "CONNECT has a host and a port, as in api.example.com:443"
            );
            (uri, "a tunnel (HTTPS_PROXY)")
        } else if named.is_some() && uri.scheme().is_none() {
            anyhow::bail!(HOW_URLS_BEGIN);
        } else if named.is_none() || means_us || is_ours(host, port) {
            let target = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
            (Uri::from(target), "a base URL")
        } else if uri.scheme_str() == Some("https") {
            (uri, "the upstream's own URL, which an app asks for with http:// (HTTP_PROXY)")
        } else {
            (uri, "a URL as it is (HTTP_PROXY)")
        };
        Ok((Self { head: Head { method: method.clone(), uri, version: Version::HTTP_11 }, headers, port }, way))
    }
}

/// The port that a URL of our own names.
fn port_of(host: &str, config: &Config) -> Option<u16> {
    let port = Authority::parse(host, 80).ok()?.port;
    let listens = |address: &SocketAddr| address.port() == port;
    let listen = config.proxy.listen.iter().filter_map(|address| match address {
        proxy::Address::Tcp(address) => Some(address),
        proxy::Address::Tls(_) | proxy::Address::Unix(_) => None,
    });
    listen.into_iter().any(listens).then_some(port)
}

/// Whether a client that obeys no proxy variable would bring this request to us.
fn is_ours(host: &str, port: Option<u16>) -> bool {
    let Ok(named) = Authority::parse(host, 80) else { return false };
    let local = named.host.is_loopback_name() || named.host.label_of_localhost().is_some();
    local && (port.is_none() || Some(named.port) == port)
}

/// Whether an https URL of this host leads to a listener of ours.
fn is_at_tls(host: &str, config: &Config) -> bool {
    let Ok(named) = Authority::parse(host, 443) else { return false };
    let listens = |address: &proxy::Address| matches!(address, proxy::Address::Tls(own) if own.port() == named.port);
    let is_local = named.host.is_loopback_name() || named.host.label_of_localhost().is_some();
    config.proxy.listen.iter().any(listens) && (is_local || is_under_tls(&named.host, config))
}

/// Whether this host is a name of the certificate that our listeners under TLS have.
fn is_under_tls(host: &Host, config: &Config) -> bool {
    let name = match host {
        Host::Name(name) => name.to_string(),
        Host::Ip(ip) => ip.to_string(),
    };
    config.proxy.tls.as_ref().is_some_and(|tls| tls.is_for(&name))
}

/// Nothing is sent, so nobody has to be proved anything.
fn without_secrets(route: &route::Settings) -> route::Settings {
    route::Settings { tls: route.tls.without_identity(), ..route.clone() }
}

/// The table that `run` would have, but for its tokens' generations.
fn table(config: &Config) -> anyhow::Result<Table> {
    let find = |_: &RouteName, name: &TokenName| {
        let token = config.tokens.iter().find(|token| token.name == *name)?;
        let (placement, reader) = (token.placement.clone(), SlotReader::of_nothing());
        Some(RouteToken { name: name.clone(), placement, reader, offer: None })
    };
    let ingredients = Ingredients {
        clients: Clients::new(config.clients.clone(), rustix::process::geteuid().as_raw()),
        jobs: None,
        client_policies: &config.client_policies,
        dialer: Arc::new(Dialer::new(config.destinations.clone(), Vec::new())),
        acquire_timeout: config.proxy.acquire_timeout,
        refuse_without_trail: false,
        interception: None,
        tunnels: config.proxy.tunnels,
        metrics: &usage::Metrics::register(&Metrics::new()?)?,
        clock: &(Arc::new(SystemClock) as Arc<dyn Clock>),
        announcements: &Announcements::default(),
        token: &find,
        hold: &|_, _| Arc::new(Hold::new(Arc::new(SystemClock), hold::Terms::default())),
        before: None,
        keep_upstreams: false,
    };
    let routes: Vec<_> = config.routes.iter().map(without_secrets).collect();
    Ok(Table::new(&routes, ingredients)?)
}

/// The client that is named, or the only one.
fn client(clients: &Clients, named: Option<&ClientName>) -> anyhow::Result<ClientIndex> {
    let mut names = clients.names();
    let known = || clients.names().map(ClientName::as_str).collect::<Vec<_>>().join(", ");
    let name = match (named, names.next(), names.next()) {
        (Some(named), ..) => named,
        (None, Some(only), None) => only,
        _ => anyhow::bail!("there is more than one client: name it with --client; there are {}", known()),
    };
    clients.find(name).with_context(|| format!("there is no client {name}; there are: {}", known()))
}

impl Rule {
    /// `section` and `name` say whose rules it is one of.
    fn of(ruling: Ruling<'_>, path: &Path, section: &str, name: &str) -> Self {
        let place = |list: &str, index| {
            let text = std::fs::read_to_string(path).ok()?;
            let (line, column) = config::place_of_rule(&text, section, name, list, index)?;
            Some(format!("{}:{line}:{column}", path.display()))
        };
        match ruling {
            Ruling::AllowedByAny => Self { text: "allow \"any\"".to_owned(), place: None },
            Ruling::Allowed(at, rule) => Self { text: format!("allow \"{rule}\""), place: place("allow", at) },
            Ruling::Minting(at, rule) => Self { text: format!("minting \"{rule}\""), place: place("minting", at) },
            Ruling::Denied(at, rule) => Self { text: format!("deny \"{rule}\""), place: place("deny", at) },
            Ruling::NotAllowed(others) if others.is_empty() => {
                Self { text: "no rule of `allow` covers the path".to_owned(), place: None }
            }
            Ruling::NotAllowed(others) => {
                let others: Vec<String> = others.iter().map(|rule| format!("\"{rule}\"")).collect();
                let text =
                    format!("no rule of `allow` covers the method; the path is allowed by {}", others.join(", "));
                Self { text, place: None }
            }
        }
    }
}

impl Rule {
    fn to_json(&self) -> Value {
        json!({ "text": self.text, "place": self.place })
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { reason: refusal.reason(), status: refusal.status(), detail: refusal.to_string() }
    }
}

impl Held {
    /// What a scrape says of it, the gravest first.
    fn of(client: &ClientName, token: Option<&TokenName>, scrape: &Scrape) -> Option<Self> {
        let all: Vec<&str> = scrape.samples("countersign_client_held").map(|(labels, _)| labels).collect();
        let is_held = |hold: &str, token: &str| {
            let wanted = [("client", client.as_str()), ("hold", hold), ("token", token)];
            let wanted = wanted.map(|(label, value)| format!("{label}=\"{value}\""));
            all.iter().any(|labels| wanted.iter().all(|label| labels.split(',').any(|known| known == label)))
        };
        if is_held(BLOCK, "") {
            let released = format!("countersign clients release {client}");
            return Some(Self { what: BLOCK, released, refused: Some(Refusal::ClientBlocked.into()) });
        }
        let token = token?;
        let released = format!("countersign tokens release {token}");
        let refused =
            |reason, detail: &str| Some(Refused { reason, status: StatusCode::FORBIDDEN, detail: detail.to_owned() });
        let each = [
            ("denied", refused("approval_denied", "nobody approves of what the client uses the token for")),
            ("approval", refused("approval_pending", "somebody has to approve of what the client uses the token for")),
            ("throttle", None),
        ];
        let (what, refused) = each.into_iter().find(|(what, _)| is_held(what, token.as_str()))?;
        Some(Self { what, released, refused })
    }

    fn to_text(&self) -> String {
        match self.what {
            "throttle" => format!("throttle: 429 beyond what is usual, until this is over or {}", self.released),
            what => format!("{what}: until {}", self.released),
        }
    }
}

impl Live {
    fn of(token: &token::Settings, scrape: Result<&Scrape, String>, address: SocketAddr) -> Self {
        let running = scrape.and_then(|scrape| {
            let state = Self::state(&token.name, scrape);
            state.ok_or_else(|| format!("the proxy at {address} does not have this token: does it run on this config?"))
        });
        Self { name: token.name.clone(), placement: token.placement.to_string(), running }
    }

    /// What a scrape says of a token.
    fn state(name: &TokenName, scrape: &Scrape) -> Option<(Option<u64>, String)> {
        let state = scrape.state_of(name)?.to_owned();
        let generation = scrape.value("countersign_token_generation", &format!("token=\"{name}\""));
        // Numbers of generations are small, and whole.
        Some((generation.map(|number| number as u64), state))
    }
}

/// What a token that has no live generation makes of a request that policy lets pass.
fn refusal_of(token: &token::Settings, live: &Live, config: &Config) -> Option<Refusal> {
    let now = SystemClock.now().wall;
    if token.grant_ends <= now {
        return Some(Absent::Retired.into());
    }
    // The same config asks for the same, under the same id.
    let request = || {
        let (register, _) = app::judge(config, now);
        register.cases().find(|(_, case)| case.request.token == token.name).map(|(id, _)| id)
    };
    let (_, state) = live.running.as_ref().ok()?;
    match state.as_str() {
        "pending" => request().map(|id| Absent::Unapproved(id).into()),
        "denied" => request().map(|id| Absent::Denied(id).into()),
        "provisioning" => Some(Absent::Pending.into()),
        "expired" => Some(Absent::Expired { retry_after: None }.into()),
        "retired" => Some(Absent::Retired.into()),
        "quarantined" => Some(Absent::Restrained(Restraint::Quarantined).into()),
        "revoked" => Some(Absent::Restrained(Restraint::Revoked).into()),
        _ => None,
    }
}

impl Verdict {
    fn to_text(&self, question: &Question) -> String {
        let Question { method, url, .. } = question;
        let outcome = if self.refusal.is_some() { "is refused" } else { "passes" };
        let mut lines = vec![format!("{method} {url} {outcome}")];
        let mut line = |what: &str, text: String| lines.push(format!("  {what:<12}{text}"));
        if let Some(refusal) = &self.refusal {
            line("reason", refusal.reason.to_owned());
            line("status", refusal.status.to_string());
            line("detail", refusal.detail.clone());
        }
        if let Some(held) = &self.held {
            line("held back", held.to_text());
        }
        line("by way of", self.way.to_owned());
        line("client", self.client.to_string());
        if let Some((name, upstream)) = &self.route {
            line("route", format!("{name} -> {upstream}"));
        }
        if let Some(Rule { text, place }) = &self.rule {
            line("rule", place.as_ref().map_or_else(|| text.clone(), |place| format!("{text} ({place})")));
        }
        if let Some(Rule { text, place }) = &self.client_rule {
            line("client rule", place.as_ref().map_or_else(|| text.clone(), |place| format!("{text} ({place})")));
        }
        match &self.token {
            None if self.route.is_some() => line("token", "none: the request passes without one".to_owned()),
            None => {}
            Some(Live { name, placement, running }) => {
                line("token", name.to_string());
                line("placement", placement.clone());
                line(
                    "generation",
                    match running {
                        Ok((Some(number), state)) => format!("{number}, {state}"),
                        Ok((None, state)) => format!("none, {state}"),
                        Err(why) => format!("not known: {why}"),
                    },
                );
            }
        }
        for filled in &self.filled {
            line("preset", filled.to_string());
        }
        lines.join("\n")
    }

    fn to_json(&self, question: &Question) -> Value {
        let refusal = self.refusal.as_ref().map(
            |refusal| json!({ "reason": refusal.reason, "status": refusal.status.as_u16(), "detail": refusal.detail }),
        );
        let held = self.held.as_ref().map(|held| json!({ "hold": held.what, "released": held.released }));
        let token = self.token.as_ref().map(|Live { name, placement, running }| {
            let (generation, state) = running.as_ref().map_or((None, None), |(number, state)| (*number, Some(state)));
            json!({
                "name": name, "placement": placement, "generation": generation, "state": state,
                "not_known": running.as_ref().err(),
            })
        });
        json!({
            "method": question.method.as_str(),
            "url": question.url,
            "passes": self.refusal.is_none(),
            "refusal": refusal,
            "held": held,
            "by_way_of": self.way,
            "client": self.client,
            "route": self.route.as_ref().map(|(name, _)| name),
            "upstream": self.route.as_ref().map(|(_, upstream)| upstream),
            "rule": self.rule.as_ref().map(Rule::to_json),
            "client_rule": self.client_rule.as_ref().map(Rule::to_json),
            "token": token,
            "presets": self.filled.iter().map(preset_to_json).collect::<Value>(),
        })
    }
}

fn preset_to_json(filled: &Filled) -> Value {
    let Filled { section, name, preset, keys } = filled;
    json!({ "section": section, "name": name, "preset": preset, "keys": keys })
}
