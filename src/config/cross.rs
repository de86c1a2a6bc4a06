//! What no section can judge alone: names that must differ, names that must exist, hosts that must agree.

use std::collections::{HashMap, HashSet};

use toml::Spanned;

use super::Context;
use super::problem::did_you_mean;
use super::route::Route;
use super::token::Token;
use crate::authority::Authority;
use crate::name::{ClientName, TokenName};

/// Reports each name that was given before.
pub fn unique<'n, N: AsName + 'n>(
    what: &str,
    names: impl IntoIterator<Item = Option<&'n Spanned<N>>>,
    context: &Context<'_>,
) {
    let mut seen: HashMap<&str, &Spanned<N>> = HashMap::new();
    for name in names.into_iter().flatten() {
        if let Some(first) = seen.get(name.get_ref().as_name()) {
            let message = format!("two {what}s are named `{}`", name.get_ref().as_name());
            let help = format!("the other is on line {}: rename one", context.report.line(&first.span()));
            context.report.error(name.span(), message, help);
        } else {
            seen.insert(name.get_ref().as_name(), name);
        }
    }
}

/// What has a name: the names themselves, and settings that hold one.
pub trait AsName {
    fn as_name(&self) -> &str;
}

impl AsName for TokenName {
    fn as_name(&self) -> &str {
        self.as_str()
    }
}

impl AsName for crate::name::RouteName {
    fn as_name(&self) -> &str {
        self.as_str()
    }
}

impl AsName for crate::alert::Settings {
    fn as_name(&self) -> &str {
        self.name.as_str()
    }
}

impl AsName for crate::identity::Settings {
    fn as_name(&self) -> &str {
        self.name.as_str()
    }
}

impl AsName for crate::operator::Settings {
    fn as_name(&self) -> &str {
        self.name.as_str()
    }
}

/// A route's token exists, and may be sent to the route's upstream.
pub fn tokens_of_routes(routes: &[Route], tokens: &[Token], context: &Context<'_>) {
    let by_name: HashMap<&str, &Token> =
        tokens.iter().filter_map(|token| Some((token.name.as_ref()?.get_ref().as_str(), token))).collect();
    for route in routes {
        let Some(name) = &route.token else { continue };
        match by_name.get(name.get_ref().as_str()) {
            Some(token) => {
                hosts_agree(route, name.get_ref(), token, context);
                scope_is_known(route, name.get_ref(), token, context);
            }
            // One whose own name is wrong may be the one that is meant.
            None if tokens.iter().any(|token| token.name.is_none()) => {}
            None => {
                let near = did_you_mean(name.get_ref().as_str(), by_name.keys().copied());
                if near.is_none() {
                    // A token itself may have been pasted here.
                    context.report.conceal(name.span());
                }
                let help = near.unwrap_or("write the `name` of a [[token]]".to_owned());
                context.report.error(name.span(), "there is no token of this name", help);
            }
        }
    }
}

fn hosts_agree(route: &Route, name: &TokenName, token: &Token, context: &Context<'_>) {
    let (Some(upstream), Some(hosts)) = (&route.upstream, &token.hosts) else { return };
    let host = &upstream.get_ref().authority.host;
    if !hosts.contains(host) {
        let message = format!("token `{name}` may not be sent to {host}");
        let help = format!("if it is meant for that host, add \"{host}\" to the token's `hosts`");
        context.report.error(upstream.span(), message, help);
    }
}

/// A probe is protected as the route of its token is that leads to the same upstream.
pub fn tls_of_probes(tokens: &mut [Token], routes: &[Route]) {
    for settings in tokens.iter_mut().filter_map(|token| token.settings.as_mut()) {
        let Some(probe) = &mut settings.probe else { continue };
        let leads_there = |route: &&crate::route::Settings| {
            route.token.as_ref() == Some(&settings.name) && route.upstream.authority == probe.url.authority
        };
        if let Some(route) = routes.iter().filter_map(|route| route.settings.as_ref()).find(leads_there) {
            probe.tls = route.tls.clone();
        }
    }
}

/// A token that signs has to know for which region and service: the upstream's host says it, or the token does.
fn scope_is_known(route: &Route, name: &TokenName, token: &Token, context: &Context<'_>) {
    let (Some(upstream), Some(place)) = (&route.upstream, &token.signs) else { return };
    let host = &upstream.get_ref().authority.host;
    if place.scope(host).is_none() {
        let message = format!("{host} does not say for which region and service of AWS token `{name}` signs");
        let help = "write it in the token: placement = { sigv4 = { region = \"eu-west-1\", service = \"s3\" } }";
        context.report.error(upstream.span(), message, help);
    }
}

/// A route's clients exist. Without a client in the file there is the implicit one.
pub fn clients_of_routes(routes: &[Route], clients: &[ClientName], context: &Context<'_>) {
    for name in routes.iter().filter_map(|route| route.clients.as_ref()).flatten() {
        if !clients.contains(name.get_ref()) {
            let help = did_you_mean(name.get_ref().as_str(), clients.iter().map(ClientName::as_str));
            let help = help.unwrap_or("write the `name` of a [[client]]".to_owned());
            context.report.error(name.span(), format!("there is no client `{}`", name.get_ref()), help);
        }
    }
}

/// Where two routes have one authority, only the client tells which of them a request means.
pub fn routes_of_one_authority(routes: &[Route], context: &Context<'_>) {
    let mut earlier: HashMap<&Authority, Vec<&Route>> = HashMap::new();
    for route in routes {
        let Some(upstream) = &route.upstream else { continue };
        let authority = &upstream.get_ref().authority;
        let others = earlier.entry(authority).or_default();
        if let Some(other) = others.iter().find(|other| !disjoint(route, other)) {
            let named =
                other.name.as_ref().map_or("another route".to_owned(), |name| format!("route `{}`", name.get_ref()));
            let message =
                format!("{named} has the upstream {authority} too: each needs clients that the other has not");
            context.report.error(
                upstream.span(),
                message,
                "give both a list of `clients`, without a client in common, or a `version` range each",
            );
        }
        others.push(route);
    }
}

fn disjoint(one: &Route, other: &Route) -> bool {
    let (Some(own), Some(others)) = (&one.clients, &other.clients) else { return false };
    own.iter().all(|client| others.iter().all(|other| client.get_ref() != other.get_ref()))
}

/// A token that nothing uses should not be provisioned. Where a route names one that is not there, it may be the one meant.
pub fn unused_tokens(routes: &[Route], tokens: &[Token], context: &Context<'_>) {
    let names = || tokens.iter().filter_map(|token| token.name.as_ref());
    let known: HashSet<&TokenName> = names().map(Spanned::get_ref).collect();
    let used: HashSet<&TokenName> =
        routes.iter().filter_map(|route| route.token.as_ref().map(Spanned::get_ref)).collect();
    if !used.is_subset(&known) {
        return;
    }
    for name in names().filter(|name| !used.contains(name.get_ref())) {
        let message = format!("no route uses token `{}`", name.get_ref());
        context.report.warning(name.span(), message, "remove it, or name it in a route");
    }
}
