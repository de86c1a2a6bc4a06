//! Versions: what clients are, and what routes are for.
//!
//! Versions stand in the config, so that a range on a route says, before anything runs, which clients the route is for. Nothing
//! is left of it for requests to be judged by but the list of these clients, which may be empty.

use semver::{Version, VersionReq};
use toml::Spanned;

use super::Context;
use super::route::Route;
use super::token::Token;
use crate::identity;
use crate::name::ClientName;

/// `version = "2.3.1"`
pub fn version(text: &str) -> Result<Version, String> {
    Version::parse(text).map_err(|error| format!("{error}: a version is like \"2.3.1\""))
}

/// `version = ">=2, <3"`
pub fn range(text: &str) -> Result<VersionReq, String> {
    VersionReq::parse(text).map_err(|error| format!("{error}: a range is like \">=2, <3\""))
}

/// Leaves of each route that has a range the clients whose version lies in it.
pub fn narrow(routes: &mut [Route], clients: &[identity::Settings], context: &Context<'_>) {
    for route in routes {
        let Some(range) = &route.version else { continue };
        let named = |client: &&identity::Settings| {
            let names = route.clients.as_ref();
            names.is_none_or(|names| names.iter().any(|name| *name.get_ref() == client.name))
        };
        let fits = |client: &&identity::Settings| {
            client.version.as_ref().is_some_and(|version| range.get_ref().matches(version))
        };
        say_who_has_none(route, clients, context);
        let fitting: Vec<ClientName> =
            clients.iter().filter(named).filter(fits).map(|client| client.name.clone()).collect();
        if fitting.is_empty() {
            let message = format!("no client has a version in {}: the route is for nobody", range.get_ref());
            context.report.warning(range.span(), message, "remove the route when nobody needs it any more");
        }
        let at = route.clients.as_ref().and_then(|names| names.first()).map_or(range.span(), Spanned::span);
        route.clients = Some(fitting.iter().map(|name| Spanned::new(at.clone(), name.clone())).collect());
        if let Some(settings) = &mut route.settings {
            settings.clients = Some(fitting);
        }
    }
}

/// Whoever names a client for a range means it to have a version.
fn say_who_has_none(route: &Route, clients: &[identity::Settings], context: &Context<'_>) {
    for name in route.clients.iter().flatten() {
        let client = clients.iter().find(|client| client.name == *name.get_ref());
        if client.is_some_and(|client| client.version.is_none()) {
            let message = format!("client `{}` has no `version`, and the route is for a range of them", name.get_ref());
            context.report.error(name.span(), message, "add `version = \"1.0.0\"` to the client");
        }
    }
}

/// A token goes with a version only if no route carries it for clients of any version.
pub fn tokens_that_go(tokens: &[Token], routes: &[Route], context: &Context<'_>) {
    for token in tokens.iter().filter(|token| token.retires_with_version) {
        let Some(name) = &token.name else { continue };
        let of_it = |route: &&Route| route.token.as_ref().is_some_and(|token| token.get_ref() == name.get_ref());
        if routes.iter().filter(of_it).any(|route| route.version.is_none()) {
            let message =
                format!("token `{0}` has a `retire_after`, and a route carries it for every version", name.get_ref());
            context.report.error(name.span(), message, "give each of its routes a `version`, as in \">=2, <3\"");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use crate::config::{Config, Environment};

    /// 2026-11-22T00:00:00Z
    const NOW: Duration = Duration::from_secs(1_795_305_600);

    const GOOD: &str = include_str!("tests/good.toml");

    fn read(text: &str) -> Result<Config, String> {
        let environment =
            Environment { uid: 900, home: Some("/home/proxy".into()), now: NOW, ..Environment::default() };
        Config::parse(text, "f.toml", Path::new("/"), &environment).map_err(|problems| problems.to_string())
    }

    /// Two clients, and two routes of one upstream.
    fn text(versions: [&str; 2], routes: [&str; 2]) -> String {
        let client = |(name, version): (&str, &str)| format!("[[client]]\nname = \"{name}\"\n{version}\n");
        let [one, other] = versions;
        let clients = client(("old", &format!("uid = 5\n{one}"))) + &client(("new", &format!("uid = 6\n{other}")));
        let route = |name: &str, lines: &str| {
            format!("[[route]]\nname = \"{name}\"\nupstream = \"https://two.example\"\nallow = \"any\"\n{lines}\n")
        };
        format!("{GOOD}\n{clients}{}{}", route("v1", routes[0]), route("v2", routes[1]))
    }

    fn names(config: &Config, route: &str) -> Option<Vec<String>> {
        let route = config.routes.iter().find(|known| known.name.as_str() == route).expect("a route");
        route.clients.as_ref().map(|names| names.iter().map(ToString::to_string).collect())
    }

    const VERSIONS: [&str; 2] = ["version = \"1.9.0\"", "version = \"2.3.1\""];

    #[test]
    fn two_routes_of_one_upstream_are_told_apart_by_their_versions() {
        let config = read(&text(VERSIONS, ["version = \"<2\"", "version = \">=2, <3\""])).expect("a good config");
        assert_eq!(names(&config, "v1"), Some(vec!["old".to_owned()]));
        assert_eq!(names(&config, "v2"), Some(vec!["new".to_owned()]));
        assert_eq!(names(&config, "github"), None, "a route without a range is for all");
    }

    #[test]
    fn what_two_ranges_share_is_told() {
        let both = read(&text(VERSIONS, ["version = \">=1\"", "version = \">=2, <3\""])).expect_err("an overlap");
        assert!(both.contains("each needs clients that the other has not"), "{both}");
        // No client that there is lies in both.
        read(&text(VERSIONS, ["version = \"<2\"", "version = \"<1.5\""])).expect("a good config");
    }

    #[test]
    fn a_range_is_for_those_who_have_a_version() {
        let config = read(&text(["", VERSIONS[1]], ["version = \"<2\"", "version = \"2\""])).expect("a good config");
        assert_eq!(names(&config, "v1"), Some(Vec::new()), "nobody is left");
        let without = read(&text(["", VERSIONS[1]], ["version = \"<2\"\nclients = [\"old\"]", "clients = [\"new\"]"]));
        assert!(without.expect_err("no version").contains("client `old` has no `version`"));
        let narrowed = ["version = \">=1\"\nclients = [\"new\"]", "clients = [\"old\"]"];
        let config = read(&text(VERSIONS, narrowed)).expect("a good config");
        assert_eq!(names(&config, "v1"), Some(vec!["new".to_owned()]), "both hold");
        let before = ["version = \"2.0.0-rc.1\"", VERSIONS[1]];
        let config = read(&text(before, ["version = \"<2\"", "version = \">=2\""])).expect("a good config");
        assert_eq!(names(&config, "v1"), Some(Vec::new()), "a candidate is in the ranges that name one");
    }

    #[test]
    fn what_is_no_version_or_no_range_is_refused() {
        for bad in ["version = \"2.3\"", "version = \"v2.3.1\"", "version = 2", "version = \"\""] {
            let said = read(&text([bad, ""], ["clients = [\"old\"]", "clients = [\"new\"]"])).expect_err(bad);
            assert!(said.contains("`version`"), "{said}");
        }
        for bad in ["version = \"newer\"", "version = \">=2 <3\"", "version = \"\""] {
            let said = read(&text(VERSIONS, [bad, "clients = [\"new\"]"])).expect_err(bad);
            assert!(said.contains("`version`"), "{said}");
        }
    }
}
