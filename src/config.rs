//! The config file: TOML in, the settings of every part out, or all that is wrong with it.
//!
//! ```text
//! file ─► load (whose is it?) ─► TOML ─► variables ─► sections ─► cross checks ─► Config
//!                                  └─────────┴───────────┴─────────────┴────────► Problems, each with its place and its fix
//! ```
//!
//! Reading is pure but for the file itself: what defaults need stands in [`Environment`]. No secret is read here, and none
//! may stand in the file: where one does, it is refused without being shown.
//!
//! Invariant: nothing in the file is ignored. A key that is unknown, or that only a later version has, is an error.

mod admin;
mod alert;
mod approval;
mod client;
mod cross;
mod detect;
mod environment;
mod job;
mod later;
mod load;
mod operator;
mod placement;
mod preset;
mod problem;
mod proxy;
mod reader;
mod record;
mod route;
mod shown;
mod source;
mod survey;
mod tls;
mod token;
mod upstream_proxy;
mod value;
mod variables;
mod vault;
mod version;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use toml::Spanned;
use toml::de::DeTable;

use crate::authority::{Endpoint, Host, Scheme};
use crate::name::{ClientName, TokenName};
use crate::policy::ClientPolicy;
use crate::secret::Reference;
use crate::{access, audit, dial, identity, telemetry};

pub use environment::{Environment, ProxyVariable};
pub use load::{LoadError, NotFound, Text, find, place_of_rule};
pub use preset::{Filled, phantom};
pub use problem::{Problem, Problems, Severity};
pub use survey::{Remote, Survey, survey};
pub use vault::Vault;

use problem::Report;
use reader::Section;

/// A config that can be built: every value is in range, and what refers to another exists.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    pub proxy: crate::proxy::Settings,
    pub destinations: dial::Destinations,
    /// Through which upstreams and issuers are reached, if not directly.
    pub upstream_proxy: Option<dial::tunnel::Settings>,
    pub telemetry: telemetry::Settings,
    /// Where metrics and health are served.
    pub scrape: SocketAddr,
    pub state_dir: PathBuf,
    /// What seals the state; `None`: a key of our own beside it.
    pub state_key: Option<Reference>,
    /// Whether live generations are sealed there, for a restart to go on with.
    pub keep_generations: bool,
    /// What `vault:` references lead to, and tokens come from.
    pub vault: Option<Vault>,
    pub audit: audit::Settings,
    pub review: crate::review::Settings,
    /// Who is told of alerts.
    pub alerts: Vec<crate::alert::Settings>,
    pub detect: crate::detect::response::Settings,
    /// Whether the file takes effect when it changes, or only when it is asked for.
    pub watch: bool,
    /// Empty: the one implicit client.
    pub clients: Vec<identity::Settings>,
    /// Of those clients that may less than their routes let pass.
    pub client_policies: BTreeMap<ClientName, ClientPolicy>,
    pub admin: crate::admin::Settings,
    /// Empty: our own user is the one operator.
    pub operators: Vec<crate::operator::Settings>,
    pub approval: access::Settings,
    pub tokens: Vec<crate::token::Settings>,
    /// What each token's request says besides.
    pub terms: BTreeMap<TokenName, access::Terms>,
    pub routes: Vec<crate::route::Settings>,
    /// The variables of our own environment that secrets are in, or that a program gets to obtain one.
    pub secret_variables: Vec<String>,
    /// The file with its variables, as operators may see it.
    pub shown: serde_json::Value,
    /// What presets have filled in.
    pub filled: Vec<Filled>,
    /// SHA-256 of the file's bytes, in hex.
    pub digest: String,
    /// What is taken, but should be looked at.
    pub warnings: Problems,
    written: Written,
}

/// What a config was made of.
#[derive(Clone, PartialEq, Debug, Default)]
struct Written {
    text: Arc<str>,
    base: PathBuf,
    environment: Environment,
}

impl Config {
    /// Reads a file. Relative paths in it start from the folder that `path` names it in.
    ///
    /// # Errors
    /// When the file cannot be read or could have been written by others, and with all the problems in it.
    pub fn load(path: &Path, environment: &Environment) -> Result<Self, LoadError> {
        Self::understand(&Text::read(path, environment.uid)?, environment)
    }

    /// As [`Config::load`], of a file whose text was read already.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn understand(text: &Text, environment: &Environment) -> Result<Self, LoadError> {
        let path = text.path();
        let absolute =
            std::path::absolute(path).map_err(|error| LoadError::Unreadable { path: path.to_owned(), error })?;
        let base = absolute.parent().unwrap_or(Path::new("/"));
        Self::parse(text.as_str(), &path.display().to_string(), base, environment).map_err(LoadError::Problems)
    }

    /// Reads a text. `file` names it in problems; relative paths in it start from `base`.
    ///
    /// # Errors
    /// With all the problems, if one of them is an error.
    pub fn parse(text: &str, file: &str, base: &Path, environment: &Environment) -> Result<Self, Problems> {
        let report = Report::new(text);
        let (mut table, errors) = DeTable::parse_recoverable(text);
        let config = if errors.is_empty() {
            variables::apply(table.get_mut(), &environment.scalars, &report);
            let filled = preset::apply(table.get_mut());
            sections(&report, table.get_ref(), base, environment).map(|config| Self { filled, ..config })
        } else {
            report_syntax(&report, text, &errors);
            None
        };
        let refused = report.has_errors();
        let problems = report.finish(file);
        match config {
            Some(config) if !refused => {
                let written = Written { text: text.into(), base: base.to_owned(), environment: environment.clone() };
                Ok(Self { digest: sha256(text), warnings: problems, written, ..config })
            }
            _ => Err(problems),
        }
    }

    /// The text of the file. It refers to secrets, and has none.
    pub fn text(&self) -> &str {
        &self.written.text
    }

    /// Another text, read as this one was: from the same place, in the same environment.
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub fn read_again(&self, text: &str) -> Result<Self, Problems> {
        let Written { base, environment, .. } = &self.written;
        Self::parse(text, "a config of before", base, environment)
    }
}

/// What sections need beyond themselves.
struct Context<'a> {
    report: &'a Report<'a>,
    base: &'a Path,
    environment: &'a Environment,
    destinations: dial::Destinations,
}

/// Reads section by section, in the order of the file that documents them. `None` only with an error reported.
fn sections<'a>(
    report: &'a Report<'a>,
    table: &'a DeTable<'a>,
    base: &'a Path,
    environment: &'a Environment,
) -> Option<Config> {
    let mut root = Section::new(report, later::ROOT, 0..0, Some(table));
    let mut context = Context { report, base, environment, destinations: dial::Destinations::default() };

    let proxy = proxy::read(root.table("proxy", "[proxy]"), &context);
    context.destinations = proxy.destinations;
    let context = &context;
    let vault = vault::read(root.table("vault", "[vault]"), context);
    let (scrape, telemetry) = record::telemetry(root.table("telemetry", "[telemetry]"));
    record::keep_apart(&scrape, &proxy.listen, context);
    let state = root.table("state", "[state]");
    let state_is_written = state.has("dir");
    let (state_dir, state_key, keep_generations) = record::state(state, context);
    let audit = record::audit(root.table("audit", "[audit]"), &state_dir, context);
    let review = record::review(root.table("review", "[review]"));
    let (mut detect, of_exemptions) = detect::read(root.table("detect", "[detect]"), context);
    let mut client_policies = BTreeMap::new();
    let clients = root.tables("client", "[[client]]");
    let clients =
        clients.and_then(|each| clients_of(each, &proxy.listen, &proxy.settings, &mut client_policies, context));
    let admin = admin::read(root.table("admin", "[admin]"), &state_dir, state_is_written, context);
    let operators = root.tables("operator", "[[operator]]");
    let operators = operators.and_then(|each| operators_of(each, &admin, clients.as_deref(), context));
    let approval = approval::read(root.table("approval", "[approval]"), operators.as_deref(), context);
    let tokens = root.tables("token", "[[token]]");
    let mut tokens: Vec<_> = tokens.into_iter().flatten().map(|each| token::read(each, context)).collect();
    let mut routes = root.tables("route", "[[route]]").map(|each| routes(each, context)).unwrap_or_default();
    let alerts = alert::read(root.tables("alert", "[[alert]]").unwrap_or_default(), context);
    root.finish();
    record::keep_admin_apart(&admin, &scrape, &proxy.listen, context);
    cross_check(clients.as_deref(), &tokens, &mut routes, context);
    detect::tokens_of_exemptions(&of_exemptions, &tokens, context);
    cross::tls_of_probes(&mut tokens, &routes);
    let own = |token: &token::Token| Some((token.name.as_ref()?.get_ref().clone(), token.detect.clone()?));
    detect.of_tokens = tokens.iter().filter_map(own).collect();

    Some(Config {
        proxy: proxy.settings,
        destinations: context.destinations.clone(),
        upstream_proxy: proxy.upstream_proxy,
        telemetry,
        scrape: scrape.into_inner(),
        state_dir,
        state_key,
        keep_generations,
        vault,
        audit,
        review,
        alerts,
        detect,
        watch: proxy.watch,
        clients: clients?,
        client_policies,
        admin: admin.into_inner(),
        operators: operators?,
        approval,
        terms: tokens
            .iter()
            .filter_map(|token| Some((token.settings.as_ref()?.name.clone(), token.terms.clone())))
            .collect(),
        tokens: tokens.into_iter().map(|token| token.settings).collect::<Option<_>>()?,
        routes: routes.into_iter().map(|route| route.settings).collect::<Option<_>>()?,
        secret_variables: report.secret_variables(),
        shown: shown::shown(table),
        filled: Vec::new(),
        digest: String::new(),
        warnings: Problems::default(),
        written: Written::default(),
    })
}

/// The clients; `None` if one of them could not be named.
fn clients_of(
    sections: Vec<Section<'_>>,
    listen: &[Spanned<crate::proxy::Address>],
    proxy: &crate::proxy::Settings,
    policies: &mut BTreeMap<ClientName, ClientPolicy>,
    context: &Context<'_>,
) -> Option<Vec<identity::Settings>> {
    if sections.is_empty() {
        client::warn_of_the_implicit_one(context);
    }
    let read: Vec<_> = sections.into_iter().map(|section| client::read(section, context)).collect();
    let named: Vec<_> = read.iter().flatten().map(|(settings, _)| settings.clone()).collect();
    let less = read.iter().flatten().filter(|(_, policy)| !policy.is_empty());
    policies.extend(less.map(|(settings, policy)| (settings.get_ref().name.clone(), policy.clone())));
    cross::unique("client", named.iter().map(Some), context);
    client::keep_apart(&named, context);
    client::check_groups(&named, listen, context);
    client::check_certificates(&named, listen, proxy.tls.as_ref(), context);
    (named.len() == read.len()).then(|| named.into_iter().map(Spanned::into_inner).collect())
}

/// The operators; `None` if one of them could not be named.
fn operators_of(
    sections: Vec<Section<'_>>,
    admin: &Spanned<crate::admin::Settings>,
    clients: Option<&[identity::Settings]>,
    context: &Context<'_>,
) -> Option<Vec<crate::operator::Settings>> {
    let read: Vec<_> = sections.into_iter().map(operator::read).collect();
    let named: Vec<_> = read.iter().flatten().cloned().collect();
    cross::unique("operator", named.iter().map(Some), context);
    operator::keep_apart(&named, clients, context);
    admin::check_operators(admin, &named, context);
    (named.len() == read.len()).then(|| named.into_iter().map(Spanned::into_inner).collect())
}

fn routes(sections: Vec<Section<'_>>, context: &Context<'_>) -> Vec<route::Route> {
    if sections.is_empty() {
        let help = "add a [[route]] with `name`, `upstream`, `token` and `allow`";
        context.report.warning(0..0, "the file has no route, so every request is refused", help);
    }
    sections.into_iter().map(|section| route::read(section, context)).collect()
}

fn cross_check(
    clients: Option<&[identity::Settings]>,
    tokens: &[token::Token],
    routes: &mut [route::Route],
    context: &Context<'_>,
) {
    cross::unique("token", tokens.iter().map(|token| token.name.as_ref()), context);
    cross::unique("route", routes.iter().map(|route| route.name.as_ref()), context);
    cross::tokens_of_routes(routes, tokens, context);
    match clients {
        Some([]) => {
            cross::clients_of_routes(routes, &[ClientName::implicit()], context);
            version::narrow(routes, &[], context);
        }
        Some(clients) => {
            let names: Vec<_> = clients.iter().map(|client| client.name.clone()).collect();
            cross::clients_of_routes(routes, &names, context);
            version::narrow(routes, clients, context);
        }
        None => {}
    }
    version::tokens_that_go(tokens, routes, context);
    cross::routes_of_one_authority(routes, context);
    cross::unused_tokens(routes, tokens, context);
}

impl Context<'_> {
    /// Plain text may go to this very machine only, and only where the guard of destinations lets it.
    fn judge_endpoint(&self, key: &str, url: &Spanned<Endpoint>) {
        let Endpoint { scheme: Scheme::Http, authority, .. } = url.get_ref() else { return };
        if !authority.host.is_loopback_name() {
            let message = format!("`{key}` must be https: plain http is for loopback addresses");
            self.report.error(url.span(), message, "write https://");
            return;
        }
        let loopback = match &authority.host {
            Host::Ip(address) => vec![*address],
            Host::Name(_) => vec![std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()],
        };
        if !loopback.iter().any(|address| self.destinations.allow.iter().any(|net| net.contains(address))) {
            let message = format!("`{key}` is plain http, towards a loopback address that is not allowed");
            let help = format!("use https, or add `allow = [\"{}\"]` to [proxy.destinations]", loopback[0]);
            self.report.error(url.span(), message, help);
        }
    }
}

/// The name of an issuer, which is a URL, as it is written in the config.
fn issuer_url(
    section: &Section<'_>,
    written: &Spanned<&str>,
    help: &'static str,
    context: &Context<'_>,
) -> Option<Spanned<Endpoint>> {
    match Endpoint::parse(written.get_ref()) {
        Ok(endpoint) => {
            let endpoint = Spanned::new(written.span(), endpoint);
            context.judge_endpoint("issuer", &endpoint);
            Some(endpoint)
        }
        Err(error) => {
            section.report.conceal(written.span());
            section.report.error(written.span(), format!("`issuer`: {error}"), help);
            None
        }
    }
}

/// A file that is not TOML is not read further. Its lines are not shown: where strings end is not known, so that a secret
/// could stand anywhere.
fn report_syntax(report: &Report<'_>, text: &str, errors: &[toml::de::Error]) {
    report.conceal(0..text.len() + 1);
    for error in errors {
        let at = error.span().unwrap_or(0..0);
        report.error(at, format!("this is not TOML: {}", error.message()), None);
    }
}

/// SHA-256, in hex.
fn sha256(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    crate::text::hex(digest.as_ref())
}

/// What editors check a config by: JSON Schema, 2020-12. The tests compare it with what the reader asks for.
pub const SCHEMA: &str = include_str!("../config/countersign.schema.json");

#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod tests;
