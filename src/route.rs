//! The table of routes: which route a request takes, and all that the request needs to know from then on.
//!
//! Invariant: a table does not change. A request loads one and keeps to it; a reload swaps in another.

mod offer;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use http::HeaderValue;
use http::header::InvalidHeaderValue;

use crate::announced::{Announcements, Party, Voice};
use crate::authority::{Authority, Endpoint, Host, Scheme};
use crate::clock::Clock;
use crate::dial::Dialer;
use crate::identity::job::Jobs;
use crate::identity::{ClientIndex, Clients};
use crate::interception::Interception;
use crate::name::{ClientName, RouteName, TokenName};
use crate::path::{Canonical, PathError};
use crate::policy::hold::{Held, Hold};
use crate::policy::limit::{Limits, Rate, RateLimit};
use crate::policy::rule::{Allow, Rule, Rules, Ruling};
use crate::policy::{ClientPolicy, ClientTerms, Denied, Mode, Permit, Terms};
use crate::tls::{self, Alpn, Security};
use crate::token::{Placement, SlotReader};
use crate::usage;

pub use offer::Offer;

/// `[[route]]`
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    pub name: RouteName,
    pub upstream: Endpoint,
    pub token: Option<TokenName>,
    /// `None`: all.
    pub clients: Option<Vec<ClientName>>,
    pub rules: Rules,
    pub mode: Mode,
    /// Of each client.
    pub rate: Option<Rate>,
    pub limits: Limits,
    pub timeouts: Timeouts,
    /// Whether the token is looked for in the bodies of answers, too.
    pub scrub: bool,
    /// Whether cookies that answers set reach the client: a session is a credential, too.
    pub keeps_cookies: bool,
    pub tls: tls::Settings,
    /// Whether requests may change to WebSocket.
    pub websocket: bool,
    /// Whether tunnels to the upstream's authority are looked into.
    pub intercept: bool,
}

/// There is no total timeout: streams may last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    pub connect: Duration,
    /// To the first byte of the answer.
    pub response: Duration,
    /// Without progress of either body.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let patience = Duration::from_secs(300);
        Self { connect: Duration::from_secs(5), response: patience, idle: patience }
    }
}

/// Where a route's requests go, and how we know that it is the right place. Kept over reloads that do not touch it, so that
/// its connections are kept too.
pub struct Upstream {
    /// Unique in this process: the pools' key.
    pub id: u64,
    pub endpoint: Endpoint,
    /// The `Host` header that the upstream gets.
    pub host: HeaderValue,
    pub security: Security,
    made_of: (tls::Settings, tls::Content),
}

/// Why an upstream cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error("the upstream's name cannot stand in a header")]
    Host(#[from] InvalidHeaderValue),
}

static NEXT_UPSTREAM: AtomicU64 = AtomicU64::new(0);

impl Upstream {
    pub fn new(endpoint: &Endpoint, tls: &tls::Settings) -> Result<Self, UpstreamError> {
        // Looked at first: what is replaced while it is read is read again at the next reload.
        let content = tls.content();
        Ok(Self {
            id: NEXT_UPSTREAM.fetch_add(1, Ordering::Relaxed),
            host: HeaderValue::from_str(&endpoint.authority.to_header(endpoint.scheme))?,
            security: Security::new(endpoint.scheme, tls, Alpn::Http2OrHttp1)?,
            endpoint: endpoint.clone(),
            made_of: (tls.clone(), content),
        })
    }

    /// Whether a route with these settings may go on with this upstream: not when a file of its `tls` has changed.
    fn fits(&self, endpoint: &Endpoint, tls: &tls::Settings) -> bool {
        let (settings, content) = &self.made_of;
        self.endpoint == *endpoint && settings == tls && *content == tls.content()
    }
}

/// A token as a route sees it.
#[derive(Clone)]
pub struct RouteToken {
    pub name: TokenName,
    pub placement: Placement,
    pub reader: SlotReader,
    /// Where scopes can be asked for that it does not have.
    pub offer: Option<Arc<Offer>>,
}

/// One route, ready to be taken.
pub struct Route {
    pub name: RouteName,
    pub upstream: Arc<Upstream>,
    pub token: Option<RouteToken>,
    pub timeouts: Timeouts,
    pub limits: Limits,
    /// Whether the token is looked for in the bodies of answers, too.
    pub scrub: bool,
    /// Whether cookies that answers set reach the client.
    pub keeps_cookies: bool,
    pub websocket: bool,
    pub intercept: bool,
    /// Where the upstream announces its end.
    voice: Option<Arc<Voice>>,
    rules: Rules,
    mode: Mode,
    clients: Option<Vec<ClientIndex>>,
    /// By client.
    accounts: Vec<Account>,
}

/// What a route keeps of each client.
struct Account {
    cell: Arc<usage::Cell>,
    rate: Option<Arc<RateLimit>>,
    hold: Arc<Hold>,
    /// What the client may on any route, where that is less than all.
    of_client: Option<Arc<ClientTerms>>,
    /// Lines of the log about requests that would be refused.
    lines: RateLimit,
}

impl Route {
    /// Judges a request on this route. `rest` is the request's path without the route's prefix, as received.
    ///
    /// # Errors
    /// When the path can be read in more than one way, or policy says no.
    pub fn admit<'a>(
        &self,
        client: ClientIndex,
        method: &http::Method,
        rest: &'a str,
    ) -> Result<Permit<'a>, NotAdmitted> {
        let path = self.canonical(rest)?;
        let Account { cell, rate, of_client, lines, hold: _ } = &self.accounts[client.as_usize()];
        let clients = self.clients.as_deref();
        let of_client = of_client.as_deref();
        let terms = Terms { clients, rules: &self.rules, rate: rate.as_deref(), mode: self.mode, of_client };
        let observed = |denied: Denied, path: &Canonical<'_>| {
            cell.observed(denied.reason());
            if lines.take().is_ok() {
                let (route, client, reason) = (&cell.route, &cell.client, denied.reason());
                let method = usage::known_method(method);
                tracing::warn!(%route, %client, reason, method, path = path.as_str(), "observed: it would be refused");
            }
        };
        Ok(terms.admit(client, method, path, observed)?)
    }

    /// Whether nothing is held back from the client here.
    ///
    /// # Errors
    /// When the request is.
    pub fn holds_back(&self, client: ClientIndex) -> Result<(), Held> {
        self.accounts[client.as_usize()].hold.judge()
    }

    /// Whether a request that is under way may go on: one that has been let in before counts for no rate.
    ///
    /// # Errors
    /// When it may not.
    pub fn bars(&self, client: ClientIndex) -> Result<(), Held> {
        self.accounts[client.as_usize()].hold.bars()
    }

    /// The rule that decides such a request, for people to read; `None` where its path can be read in more than one way.
    pub fn ruling(&self, method: &http::Method, rest: &str) -> Option<Ruling<'_>> {
        Some(self.rules.ruling(method, &self.canonical(rest).ok()?))
    }

    /// The same of the client's own lists; `None` where it has none.
    pub fn ruling_of_client(&self, client: ClientIndex, method: &http::Method, rest: &str) -> Option<Ruling<'_>> {
        let terms = self.accounts[client.as_usize()].of_client.as_ref()?;
        let rules = Some(&terms.rules).filter(|rules| !rules.pass_everything())?;
        Some(rules.ruling(method, &self.canonical(rest).ok()?))
    }

    /// The rule that would let such requests pass, and no others, where there is one.
    pub fn missing(&self, method: &http::Method, rest: &str) -> Option<Rule> {
        self.rules.missing(method, &self.canonical(rest).ok()?)
    }

    /// What it lets pass, if no deny rule covers it.
    pub fn allow(&self) -> &Allow {
        &self.rules.allow
    }

    /// The path that the upstream would get.
    fn canonical<'a>(&self, rest: &'a str) -> Result<Canonical<'a>, PathError> {
        let base = self.upstream.endpoint.path.trim_end_matches('/');
        if base.is_empty() {
            self.rules.form.canonical(rest)
        } else {
            Ok(self.rules.form.canonical(&format!("{base}{rest}"))?.into_owned())
        }
    }

    pub fn cell(&self, client: ClientIndex) -> &Arc<usage::Cell> {
        &self.accounts[client.as_usize()].cell
    }

    pub fn is_for(&self, client: ClientIndex) -> bool {
        self.clients.as_ref().is_none_or(|clients| clients.contains(&client))
    }

    /// Where its upstream announces its end; `None` where there are too many that could.
    pub fn voice(&self) -> Option<&Voice> {
        self.voice.as_deref()
    }

    /// Whether no client has a version that it is for.
    pub fn is_for_nobody(&self) -> bool {
        self.clients.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether there is nothing that its rules refuse.
    pub fn passes_everything(&self) -> bool {
        self.rules.pass_everything()
    }
}

/// Why a route does not take a request.
#[derive(Debug, thiserror::Error)]
pub enum NotAdmitted {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("policy says no")]
    Denied(Denied),
}

impl From<Denied> for NotAdmitted {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

/// All routes of a configuration, and what a request needs besides.
pub struct Table {
    pub clients: Clients,
    /// What jobs prove themselves with; `None` where no client is one.
    pub jobs: Option<Arc<Jobs>>,
    pub dialer: Arc<Dialer>,
    /// The longest that a request waits for a generation.
    pub acquire_timeout: Duration,
    /// Whether a trail that cannot be written stops the use of tokens.
    pub refuse_without_trail: bool,
    /// For tunnels to routes that intercept; `None` where there is none.
    pub interception: Option<Arc<Interception>>,
    /// Whether tunnels lead to hosts without a route, too.
    pub tunnels: bool,
    /// What is held back from each client, whatever it asks for.
    holds: Vec<Arc<Hold>>,
    /// By client.
    client_terms: Vec<Option<Arc<ClientTerms>>>,
    routes: Vec<Arc<Route>>,
    names: HashMap<RouteName, usize, RandomState>,
    authorities: HashMap<Authority, Vec<usize>>,
}

/// What a table is made of, besides the routes' own settings.
pub struct Ingredients<'a> {
    pub clients: Clients,
    /// What jobs prove themselves with; `None` where no client is one.
    pub jobs: Option<Arc<Jobs>>,
    /// Of those clients that may less than their routes let pass.
    pub client_policies: &'a BTreeMap<ClientName, ClientPolicy>,
    pub dialer: Arc<Dialer>,
    pub acquire_timeout: Duration,
    pub refuse_without_trail: bool,
    pub interception: Option<Arc<Interception>>,
    /// Whether tunnels lead to hosts without a route, too.
    pub tunnels: bool,
    pub metrics: &'a usage::Metrics,
    pub clock: &'a Arc<dyn Clock>,
    /// Who is told where an upstream announces its end.
    pub announcements: &'a Announcements,
    /// As the route with this name may have it.
    pub token: &'a dyn Fn(&RouteName, &TokenName) -> Option<RouteToken>,
    /// What is held back from a client, of this token or without one.
    pub hold: &'a dyn Fn(&ClientName, Option<&TokenName>) -> Arc<Hold>,
    /// The table that this one follows: sums not yet taken are taken over from it.
    pub before: Option<&'a Table>,
    /// Whether upstreams that did not change are taken over with their connections: not when other destinations are allowed.
    pub keep_upstreams: bool,
}

/// Why a table cannot be had. The config has checked its names; what is left is outside of it.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("route {0}: {1}")]
    Upstream(RouteName, UpstreamError),
    #[error("route {0}: there is no token {1}")]
    Token(RouteName, TokenName),
    #[error("route {0}: there is no client {1}")]
    Client(RouteName, ClientName),
}

impl Table {
    pub fn new(settings: &[Settings], ingredients: Ingredients<'_>) -> Result<Self, TableError> {
        let client_terms = client_terms(&ingredients);
        let build = |settings| build(settings, &ingredients, &client_terms).map(Arc::new);
        let routes: Vec<Arc<Route>> = settings.iter().map(build).collect::<Result<_, _>>()?;
        let mut authorities: HashMap<Authority, Vec<usize>> = HashMap::new();
        for (at, route) in routes.iter().enumerate() {
            authorities.entry(route.upstream.endpoint.authority.clone()).or_default().push(at);
        }
        Ok(Self {
            names: routes.iter().enumerate().map(|(at, route)| (route.name.clone(), at)).collect(),
            authorities,
            routes,
            holds: ingredients.clients.names().map(|client| (ingredients.hold)(client, None)).collect(),
            client_terms,
            clients: ingredients.clients,
            jobs: ingredients.jobs,
            dialer: ingredients.dialer,
            acquire_timeout: ingredients.acquire_timeout,
            refuse_without_trail: ingredients.refuse_without_trail,
            interception: ingredients.interception,
            tunnels: ingredients.tunnels,
        })
    }

    /// Whether nothing is held back from the client wherever it goes.
    ///
    /// # Errors
    /// When everything is.
    pub fn holds_back(&self, client: ClientIndex) -> Result<(), Held> {
        self.holds[client.as_usize()].judge()
    }

    /// The same of what is under way.
    ///
    /// # Errors
    /// When it may not go on.
    pub fn bars(&self, client: ClientIndex) -> Result<(), Held> {
        self.holds[client.as_usize()].bars()
    }

    /// By prefix or by host label.
    pub fn named(&self, name: &str) -> Option<&Arc<Route>> {
        self.names.get(name).map(|at| &self.routes[*at])
    }

    /// By authority, of the scheme that the request names: port 80 of a plain request stands for the upstream's own port.
    /// Several routes of one authority are for different clients.
    pub fn authority(&self, scheme: Scheme, authority: &Authority, client: ClientIndex) -> Option<&Arc<Route>> {
        let exact = self.authorities.get(authority);
        let found = match (exact, scheme, authority.port) {
            (Some(found), ..) => Some(found),
            (None, Scheme::Http, 80) => {
                let secure = Authority { host: authority.host.clone(), port: 443 };
                self.authorities.get(&secure).or_else(|| self.only_port(authority))
            }
            _ => None,
        }?;
        let routes = found.iter().map(|at| &self.routes[*at]);
        routes.clone().find(|route| route.is_for(client)).or_else(|| routes.clone().next())
    }

    /// Whether a route leads to exactly this authority.
    pub fn is_upstream(&self, authority: &Authority) -> bool {
        self.authorities.contains_key(authority)
    }

    /// Whether a route leads to this host, on whichever port.
    pub fn is_host(&self, host: &Host) -> bool {
        self.authorities.keys().any(|authority| authority.host == *host)
    }

    /// Whether a client has lists of its own: what nobody looks into cannot be judged by them.
    pub fn has_rules(&self, client: ClientIndex) -> bool {
        let terms = self.client_terms[client.as_usize()].as_ref();
        terms.is_some_and(|terms| !terms.rules.pass_everything())
    }

    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Every cell of use, to take sums from.
    pub fn cells(&self) -> impl Iterator<Item = &Arc<usage::Cell>> {
        self.routes.iter().flat_map(|route| &route.accounts).map(|account| &account.cell)
    }

    /// The routes of a host that has routes on one port only.
    fn only_port(&self, authority: &Authority) -> Option<&Vec<usize>> {
        let mut ports = self.authorities.iter().filter(|(known, _)| known.host == authority.host);
        let only = ports.next()?;
        ports.next().is_none().then_some(only.1)
    }
}

fn client_terms(ingredients: &Ingredients<'_>) -> Vec<Option<Arc<ClientTerms>>> {
    let terms = |client| {
        let ClientPolicy { rules, rate } = ingredients.client_policies.get(client)?;
        let kept = |rate| ingredients.before.and_then(|before| before.kept_rate_of_client(client, rate));
        let rate = rate.map(|rate| kept(rate).unwrap_or_else(|| Arc::new(RateLimit::new(rate, ingredients.clock))));
        Some(Arc::new(ClientTerms { rules: rules.clone(), rate }))
    };
    ingredients.clients.names().map(terms).collect()
}

fn build(
    settings: &Settings,
    ingredients: &Ingredients<'_>,
    client_terms: &[Option<Arc<ClientTerms>>],
) -> Result<Route, TableError> {
    let name = settings.name.clone();
    let before = ingredients.before.filter(|_| ingredients.keep_upstreams);
    let kept = before.and_then(|before| before.named(name.as_str())).map(|route| &route.upstream);
    let upstream = match kept.filter(|upstream| upstream.fits(&settings.upstream, &settings.tls)) {
        Some(kept) => kept.clone(),
        None => Arc::new(
            Upstream::new(&settings.upstream, &settings.tls)
                .map_err(|error| TableError::Upstream(name.clone(), error))?,
        ),
    };
    let token = match &settings.token {
        Some(token) => {
            Some((ingredients.token)(&name, token).ok_or_else(|| TableError::Token(name.clone(), token.clone()))?)
        }
        None => None,
    };
    let clients = match &settings.clients {
        None => None,
        Some(clients) => {
            let find = |client| {
                let found = ingredients.clients.find(client);
                found.ok_or_else(|| TableError::Client(name.clone(), client.clone()))
            };
            Some(clients.iter().map(find).collect::<Result<_, _>>()?)
        }
    };
    let token_name = settings.token.as_ref();
    let host = settings.upstream.authority.host.to_string();
    let limit = |rate| RateLimit::new(rate, ingredients.clock);
    let accounts = ingredients.clients.names().zip(client_terms).map(|(client, of_client)| {
        let before = ingredients.before;
        let cell = before.and_then(|before| before.kept_cell(&name, &host, client, token_name));
        let kept = |rate| before.and_then(|before| before.kept_rate(&name, client, rate));
        Account {
            cell: cell.unwrap_or_else(|| Arc::new(ingredients.metrics.cell(&name, &host, client, token_name))),
            rate: settings.rate.map(|rate| kept(rate).unwrap_or_else(|| Arc::new(limit(rate)))),
            hold: (ingredients.hold)(client, token_name),
            of_client: of_client.clone(),
            lines: limit(Rate::of_log_lines()),
        }
    });
    Ok(Route {
        accounts: accounts.collect(),
        upstream,
        token,
        timeouts: settings.timeouts,
        limits: settings.limits,
        scrub: settings.scrub,
        keeps_cookies: settings.keeps_cookies,
        websocket: settings.websocket,
        intercept: settings.intercept,
        voice: ingredients.announcements.voice(&Party::Route(name.clone())),
        rules: settings.rules.clone(),
        mode: settings.mode,
        clients,
        name,
    })
}

impl Table {
    /// The cell of the table before, so that sums not yet taken are not lost in a reload.
    fn kept_cell(
        &self,
        route: &RouteName,
        host: &str,
        client: &ClientName,
        token: Option<&TokenName>,
    ) -> Option<Arc<usage::Cell>> {
        let route = self.named(route.as_str())?;
        let cell = route.cell(self.clients.find(client)?);
        let same_token = route.token.as_ref().map(|token| &token.name) == token;
        (same_token && *cell.host == *host).then(|| cell.clone())
    }

    /// What a client has left of a rate that stays as it is: a reload gives nobody more.
    fn kept_rate(&self, route: &RouteName, client: &ClientName, rate: Rate) -> Option<Arc<RateLimit>> {
        let route = self.named(route.as_str())?;
        let account = &route.accounts[self.clients.find(client)?.as_usize()];
        account.rate.clone().filter(|kept| kept.rate() == rate)
    }

    /// As [`Table::kept_rate`], of what a client may on all routes together.
    fn kept_rate_of_client(&self, client: &ClientName, rate: Rate) -> Option<Arc<RateLimit>> {
        let terms = self.client_terms[self.clients.find(client)?.as_usize()].as_ref()?;
        terms.rate.clone().filter(|kept| kept.rate() == rate)
    }
}
