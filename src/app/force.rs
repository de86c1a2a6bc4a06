//! What of a configuration is in force: as much as its requests are granted.
//!
//! ```text
//!  Config ─► Request of each token ─► Register ─► Entitlement ─┐
//!     └────────────────────────────────────────────────────────┴─► tokens and routes as they run
//! ```
//!
//! - Granted as it stands: as it stands.
//! - Edited since, and not decided: as it was granted before. What the edit takes away is taken away at once.
//! - Never granted: its gate is closed, and its routes say which request waits.
//! - Grants on top: the newest says which scopes; what they allow is added.
//!
//! Invariant: nothing is in force that no granted request holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::access::Terms;
use crate::access::approval::{Case, Ending, State};
use crate::access::register::{Entitlement, Register};
use crate::access::request::{Allow, Digest, Reach, Request, RequestId, Requester, Source, Until};
use crate::access::submission::Definition;
use crate::authority::Host;
use crate::config::Config;
use crate::name::{ClientName, RouteName, TokenName};
use crate::path::Form;
use crate::policy::Mode;
use crate::policy::rule::{self, Rule};
use crate::route::{self, Offer};
use crate::token::{self, Gate, NEVER, source};

/// A configuration as it runs.
#[derive(Clone, PartialEq)]
pub struct InForce {
    pub config: Config,
    pub gates: BTreeMap<TokenName, Gate>,
    /// Routes that the token's grant does not cover.
    pub barred: BTreeMap<RouteName, Gate>,
    /// The grants that each token and its routes rest on.
    pub grounds: BTreeMap<TokenName, Vec<Digest>>,
    /// The [terms](Request::terms) of the grant that a token lives by, whether it can be used or not: of its standing one, else of
    /// the newest.
    pub grants: BTreeMap<TokenName, Digest>,
}

impl InForce {
    /// This, with some tokens and their routes as they are in another one of the same config.
    #[must_use]
    pub fn but_for(mut self, held: &BTreeSet<TokenName>, before: &Self) -> Self {
        for name in held {
            let old = before.config.tokens.iter().find(|token| token.name == *name);
            let new = self.config.tokens.iter_mut().find(|token| token.name == *name);
            if let (Some(old), Some(new)) = (old, new) {
                new.clone_from(old);
            }
            replace(&mut self.config.terms, &before.config.terms, name);
            replace(&mut self.gates, &before.gates, name);
            replace(&mut self.grounds, &before.grounds, name);
            replace(&mut self.grants, &before.grants, name);
            for route in self.config.routes.iter_mut().filter(|route| route.token.as_ref() == Some(name)) {
                if let Some(old) = before.config.routes.iter().find(|old| old.name == route.name) {
                    route.clone_from(old);
                }
                replace(&mut self.barred, &before.barred, &route.name);
            }
        }
        self
    }

    /// Whether what a token runs on is granted still. What an edit has taken the place of is until its own place is taken.
    pub fn is_granted(&self, token: &TokenName, register: &Register) -> bool {
        let counts = |digest: &Digest| {
            register.case(digest.id()).is_some_and(|case| match case.state {
                State::Granted { .. } | State::Ended { cause: Ending::Superseded, .. } => case.digest == *digest,
                State::Pending | State::Denied { .. } | State::Ended { .. } => false,
            })
        };
        self.grounds.get(token).is_some_and(|grounds| grounds.iter().all(counts))
    }

    pub fn is_open(&self, token: &TokenName) -> bool {
        self.gates.get(token) == Some(&Gate::Open)
    }
}

fn replace<K: Ord + Clone, V: Clone>(all: &mut BTreeMap<K, V>, before: &BTreeMap<K, V>, key: &K) {
    match before.get(key) {
        Some(old) => drop(all.insert(key.clone(), old.clone())),
        None => drop(all.remove(key)),
    }
}

/// Sources by the hash that requests know them by: an old grant may need its old source.
pub type Sources = BTreeMap<String, KnownSource>;

/// A source as the config of its time had it.
#[derive(Clone)]
pub struct KnownSource {
    settings: source::Settings,
    /// Those of its token, which it asks for if it has none of its own. They are not in its hash.
    scopes: Vec<String>,
}

impl KnownSource {
    /// Those that a token has, by what requests know them by.
    pub fn all_of(token: &token::Settings, terms: &Terms) -> impl Iterator<Item = (String, Self)> {
        let known = |settings: &source::Settings| Self { settings: settings.clone(), scopes: token.scopes.clone() };
        let next = terms.next_source.clone().zip(token.next_source.as_ref().map(known));
        std::iter::once((terms.source.clone(), known(&token.source))).chain(next)
    }

    /// As it would be had a token these scopes.
    fn asking_for(&self, scopes: &[String]) -> source::Settings {
        let mut settings = self.settings.clone();
        follow(&mut settings, &self.scopes, scopes);
        settings
    }
}

/// The requests that a configuration makes, one for each token.
pub fn requests(config: &Config) -> impl Iterator<Item = Request> + '_ {
    config.tokens.iter().map(|token| request(config, token))
}

fn request(config: &Config, token: &token::Settings) -> Request {
    let terms = config.terms.get(&token.name).cloned().unwrap_or_default();
    let routes = config.routes.iter().filter(|route| route.token.as_ref() == Some(&token.name));
    Request {
        hosts: token.hosts.iter().map(ToString::to_string).collect(),
        next_source: token.next_source.as_ref().zip(terms.next_source).map(|(next, hash)| reference(next, hash)),
        nonce: None,
        owner: token.owner.clone(),
        reason: token.reason.clone(),
        requester: Requester::ConfigFile,
        routes: routes.map(|route| (route.name.clone(), reach(route))).collect(),
        scopes: token.scopes.iter().cloned().collect(),
        source: reference(&token.source, terms.source),
        token: token.name.clone(),
        until: if token.grant_ends == NEVER { Until::Permanent } else { Until::At(token.grant_ends) },
    }
}

fn reference(source: &source::Settings, settings: String) -> Source {
    Source { kind: source.kind().to_owned(), settings, is_static: source.is_static() }
}

fn reach(route: &route::Settings) -> Reach {
    let texts = |rules: &[Rule]| rules.iter().map(ToString::to_string).collect();
    Reach {
        allow: match &route.rules.allow {
            rule::Allow::Any => Allow::Any,
            rule::Allow::These(rules) => Allow::These(texts(rules)),
        },
        clients: route.clients.as_ref().map(|clients| clients.iter().map(ToString::to_string).collect()),
        deny: texts(&route.rules.deny),
        keeps_cookies: route.keeps_cookies,
        minting: texts(&route.rules.minting),
        observe: route.mode == Mode::Observe,
        opaque: route.rules.form == Form::Opaque,
        upstream: route.upstream.to_string(),
    }
}

/// What can be submitted for a token; `None` if the config has no such token.
pub fn definition(config: &Config, name: &TokenName) -> Option<Definition> {
    let token = config.tokens.iter().find(|token| token.name == *name)?;
    let (further_scopes, scopes_can_differ) = (further_scopes(config, name), scopes_can_differ(token));
    Some(Definition { standing: request(config, token), further_scopes, scopes_can_differ })
}

/// What can be asked for on top of the scopes that a token has as it is in force.
pub fn offer(config: &Config, token: &token::Settings) -> Option<Offer> {
    let granted = token.scopes.iter().cloned().collect();
    scopes_can_differ(token).then(|| Offer::new(granted, further_scopes(config, &token.name))).flatten()
}

fn further_scopes(config: &Config, token: &TokenName) -> BTreeSet<String> {
    config.terms.get(token).map(|terms| terms.further_scopes.clone()).unwrap_or_default()
}

/// Whether its issuer is asked for them by name.
fn scopes_can_differ(token: &token::Settings) -> bool {
    let sources = std::iter::once(&token.source).chain(&token.next_source);
    sources.cloned().all(|mut source| source.asked_scopes().is_some_and(|asked| *asked == token.scopes))
}

/// What is wrong with a rule that is to be added to a route.
///
/// # Errors
/// When it is no rule, or one that the route denies whatever is allowed.
pub fn judge_rule(config: &Config, route: &RouteName, text: &str) -> Result<(), String> {
    let Some(route) = config.routes.iter().find(|settings| settings.name == *route) else {
        return Err("there is no such route".to_owned());
    };
    Rule::parse(text, route.rules.form).map_err(|error| error.to_string())?;
    match route.rules.deny.iter().find(|deny| deny.to_string() == text) {
        Some(deny) => Err(format!("`deny` of the route has {deny}, which always wins")),
        None => Ok(()),
    }
}

/// What is in force of `config`, by what is granted.
pub fn in_force(config: &Config, register: &Register, sources: &Sources, on_top: &BTreeSet<RequestId>) -> InForce {
    let mut force = InForce {
        config: config.clone(),
        gates: BTreeMap::new(),
        barred: BTreeMap::new(),
        grounds: BTreeMap::new(),
        grants: BTreeMap::new(),
    };
    for (at, token) in config.tokens.iter().enumerate() {
        let mut entitlement = register.entitlement(&token.name);
        if let Some(grant) = entitlement.standing.or(entitlement.submitted.last().copied()) {
            force.grants.insert(token.name.clone(), grant.request.terms());
        }
        entitlement.submitted.retain(|case| on_top.contains(&case.digest.id()));
        let basis = Basis::of(&mut entitlement, config, token, sources);
        let grounds = basis.granted.into_iter().chain(entitlement.submitted.iter().copied());
        force.grounds.insert(token.name.clone(), grounds.map(|case| case.digest).collect());
        let settings = &mut force.config.tokens[at];
        basis.shape(settings, sources);
        if let (Some(old), Some(terms)) = (basis.held_to(), force.config.terms.get_mut(&token.name)) {
            terms.source.clone_from(&old.source.settings);
            terms.next_source = old.next_source.as_ref().map(|next| next.settings.clone());
        }
        let shut = barrier(&entitlement, || request(config, token).digest().id());
        let has_ended = basis.has_ended();
        // What has ended is retired by its date.
        let gate = if basis.granted.is_some() || has_ended { Gate::Open } else { shut };
        let gate = match entitlement.submitted.last() {
            Some(newest) => {
                put_on_top(settings, newest, basis.granted);
                Gate::Open
            }
            None => gate,
        };
        force.gates.insert(token.name.clone(), gate);
        let as_it_stands = has_ended || (basis.granted.is_some() && basis.edited().is_none());
        if as_it_stands && entitlement.submitted.is_empty() {
            continue;
        }
        for route in force.config.routes.iter_mut().filter(|route| route.token.as_ref() == Some(&token.name)) {
            let granted = basis.granted.and_then(|granted| covered(granted.request.routes.get(&route.name), route));
            let more = entitlement.submitted.iter().filter_map(|case| case.request.routes.get(&route.name));
            let more: Vec<&Reach> = more.filter(|reach| fits(reach, route)).collect();
            let old = basis.edited().and_then(|old| old.routes.get(&route.name));
            let old = if basis.granted.is_some() { old.as_slice() } else { &more[..] };
            match allow(granted.as_ref(), &more, route.rules.form) {
                Some(rules) => restrict(route, rules, old, config),
                None => {
                    force.barred.insert(route.name.clone(), shut);
                }
            }
        }
    }
    force
}

/// What a token runs on: its standing grant, or without one the newest grant on top.
struct Basis<'r> {
    granted: Option<&'r Case>,
    newest: Option<&'r Case>,
    asked: Option<&'r Case>,
}

impl<'r> Basis<'r> {
    /// An old grant counts as long as its source is known.
    fn of(entitlement: &mut Entitlement<'r>, config: &Config, token: &token::Settings, sources: &Sources) -> Self {
        let own = config.terms.get(&token.name);
        let is_known = |case: &&Case| {
            case.request.sources().all(|Source { settings, .. }| {
                let is_own = |own: &Terms| own.source == *settings || own.next_source.as_ref() == Some(settings);
                own.is_some_and(is_own) || sources.contains_key(settings)
            })
        };
        let granted = entitlement.standing.filter(is_known);
        if granted.is_none() {
            entitlement.submitted.retain(is_known);
        }
        Self { granted, newest: entitlement.submitted.last().copied(), asked: entitlement.asked }
    }

    /// The grant, where it is of another request than the config makes now.
    fn edited(&self) -> Option<&'r Request> {
        let granted = self.granted?;
        let same = self.asked.is_some_and(|asked| asked.digest == granted.digest);
        (!same).then_some(&granted.request)
    }

    /// What was granted, where the config may say something else now.
    fn held_to(&self) -> Option<&'r Request> {
        match self.granted {
            Some(_) => self.edited(),
            None => self.newest.map(|newest| &newest.request),
        }
    }

    /// Nothing is granted any more of what the config asks for.
    fn has_ended(&self) -> bool {
        self.granted.is_none() && self.asked.is_some_and(|asked| matches!(asked.state, State::Ended { .. }))
    }

    /// The token as it was granted.
    fn shape(&self, settings: &mut token::Settings, sources: &Sources) {
        if let Some(old) = self.held_to() {
            settings.owner.clone_from(&old.owner);
            settings.reason.clone_from(&old.reason);
            let hosts = settings.hosts.iter().filter(|host| old.hosts.contains(&host.to_string())).cloned();
            let kept: Vec<Host> = hosts.collect();
            settings.hosts = kept;
            if let Some(KnownSource { settings: source, scopes }) = sources.get(&old.source.settings) {
                settings.source.clone_from(source);
                settings.scopes.clone_from(scopes);
            }
            let next = old.next_source.as_ref().and_then(|next| sources.get(&next.settings));
            settings.next_source = next.map(|next| next.asking_for(&settings.scopes));
            set_scopes(settings, &old.scopes);
        }
        if let Some(granted) = self.granted {
            settings.grant_ends = granted.ends_at().unwrap_or(NEVER);
        } else if let Some(State::Ended { at, .. }) = self.asked.map(|asked| &asked.state) {
            // What has ended does not begin again because the config says a later date than its grant.
            settings.grant_ends = settings.grant_ends.min(*at);
        }
    }
}

/// How requests are told that something is not granted. `id` is of what the config asks for.
fn barrier(entitlement: &Entitlement<'_>, id: impl FnOnce() -> RequestId) -> Gate {
    match entitlement.asked.map(|asked| &asked.state) {
        Some(State::Denied { .. } | State::Ended { .. }) => Gate::Denied(id()),
        Some(State::Pending | State::Granted { .. }) | None => Gate::Pending(id()),
    }
}

/// The token with the newest grant on top of it.
fn put_on_top(settings: &mut token::Settings, newest: &Case, standing: Option<&Case>) {
    let wanted = &newest.request.scopes;
    let own: BTreeSet<String> = settings.scopes.iter().cloned().collect();
    if standing.is_some() && own == *wanted {
        return;
    }
    set_scopes(settings, wanted);
    settings.grant_ends = newest.ends_at().unwrap_or(Duration::ZERO);
}

fn set_scopes(settings: &mut token::Settings, scopes: &BTreeSet<String>) {
    let own: BTreeSet<String> = settings.scopes.iter().cloned().collect();
    if own == *scopes {
        return;
    }
    let scopes: Vec<String> = scopes.iter().cloned().collect();
    for source in std::iter::once(&mut settings.source).chain(&mut settings.next_source) {
        follow(source, &settings.scopes, &scopes);
    }
    settings.scopes = scopes;
}

/// Has a source that asks for its token's scopes ask for other ones.
fn follow(source: &mut source::Settings, before: &[String], scopes: &[String]) {
    if let Some(asked) = source.asked_scopes()
        && *asked == before
    {
        *asked = scopes.to_vec();
    }
}

/// What a grant says of a route, if it is about the route as it is now; no more than the config lets pass, where that is
/// less.
fn covered(granted: Option<&Reach>, route: &route::Settings) -> Option<Reach> {
    let granted = granted.filter(|reach| fits(reach, route))?;
    let written = reach(route);
    let is_less = match &written.allow {
        Allow::Any => false,
        Allow::These(rules) => !rules.iter().any(|rule| granted.adds(rule)),
    };
    Some(if is_less { Reach { allow: written.allow, ..granted.clone() } } else { granted.clone() })
}

/// A route that leads elsewhere, or reads its paths otherwise, is another one.
fn fits(reach: &Reach, route: &route::Settings) -> bool {
    reach.upstream == route.upstream.to_string() && reach.opaque == (route.rules.form == Form::Opaque)
}

/// All that is allowed; `None` if nothing is granted.
fn allow(granted: Option<&Reach>, more: &[&Reach], form: Form) -> Option<rule::Allow> {
    let mut all = granted.into_iter().chain(more.iter().copied());
    let first = all.next()?.clone();
    let whole = all.fold(first, |whole, reach| whole.with(Some(reach)));
    match &whole.allow {
        Allow::Any => Some(rule::Allow::Any),
        Allow::These(texts) => {
            // A text that was a rule when it was asked for is one still.
            Some(rule::Allow::These(texts.iter().filter_map(|text| Rule::parse(text, form).ok()).collect()))
        }
    }
}

/// The route with what is allowed, and no wider than any of its old grants in anything else.
fn restrict(route: &mut route::Settings, allow: rule::Allow, old: &[&Reach], config: &Config) {
    let form = route.rules.form;
    route.rules.allow = allow;
    for old in old {
        add_missing(&mut route.rules.deny, &old.deny, form);
        add_missing(&mut route.rules.minting, &old.minting, form);
        route.keeps_cookies &= old.keeps_cookies;
        if !old.observe {
            route.mode = Mode::Enforce;
        }
        if let Some(old) = &old.clients {
            let all = config.clients.iter().map(|client| client.name.clone());
            let all: Vec<ClientName> =
                if config.clients.is_empty() { vec![ClientName::implicit()] } else { all.collect() };
            let written = route.clients.take().unwrap_or(all);
            route.clients = Some(written.into_iter().filter(|client| old.contains(client.as_str())).collect());
        }
    }
}

fn add_missing(rules: &mut Vec<Rule>, old: &[String], form: Form) {
    let old = old.iter().filter_map(|text| Rule::parse(text, form).ok());
    let missing: Vec<Rule> = old.filter(|rule| !rules.contains(rule)).collect();
    rules.extend(missing);
}

/// The grants on top that count at this moment. Shortly before its end a grant is left in good time: what follows it is
/// fetched while it is still good.
pub fn on_top(register: &Register, now: Duration, aside: &BTreeSet<RequestId>) -> BTreeSet<RequestId> {
    let counts = |case: &Case| match case.state {
        State::Granted { at, until: Some(end), .. } => {
            now < end.saturating_sub((end.saturating_sub(at) / 10).min(LEAVE))
        }
        State::Granted { until: None, .. } => true,
        State::Pending | State::Denied { .. } | State::Ended { .. } => false,
    };
    let submitted = register.cases().filter(|(id, case)| case.request.is_submitted() && !aside.contains(id));
    submitted.filter(|(_, case)| counts(case)).map(|(id, _)| id).collect()
}

/// The most that a grant on top is left before its end.
const LEAVE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
