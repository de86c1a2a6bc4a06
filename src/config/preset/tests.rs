use std::path::Path;
use std::time::Duration;

use http::Method;

use super::*;
use crate::config::{Config, Environment, Problems};
use crate::policy::rule::Denied;
use crate::route;
use crate::token::{self, Placement};

fn parse(text: &str) -> Result<Config, Problems> {
    let now = Duration::from_secs(1_795_305_600);
    Config::parse(
        text,
        "f.toml",
        Path::new("/etc/countersign"),
        &Environment { now, home: Some("/home/a".into()), ..Environment::default() },
    )
}

/// A config in which token and route say no more than they must; with these lines besides.
fn config(preset: &str, token: &str, route: &str) -> Config {
    let signs = preset == "aws";
    let source = if signs {
        r#"{ kind = "aws_metadata" }"#
    } else {
        r#"{ kind = "client_credentials", token_url = "https://issuer.example/token", client_id = "a", client_secret = "env:S" }"#
    };
    let text = format!(
        "[[token]]\nname = \"t\"\nowner = \"o\"\nreason = \"r\"\nscopes = [\"s\"]\nexpires = \"2027-01-01\"\nsource = {source}\n\
         preset = \"{preset}\"\n{token}\n[[route]]\nname = \"r\"\ntoken = \"t\"\nallow = \"any\"\n{route}\n"
    );
    parse(&text).unwrap_or_else(|problems| panic!("{preset}: {problems}"))
}

/// Where the preset names no host, since each service has its own.
fn usual(preset: &str) -> Config {
    let (hosts, upstream) = match preset {
        "aws" => ("s3.eu-west-1.amazonaws.com", "https://s3.eu-west-1.amazonaws.com"),
        "gcp" => ("storage.googleapis.com", "https://storage.googleapis.com"),
        _ => return config(preset, "", ""),
    };
    config(preset, &format!("hosts = [\"{hosts}\"]"), &format!("upstream = \"{upstream}\""))
}

fn parts(config: &Config) -> (&token::Settings, &route::Settings) {
    (config.tokens.first().expect("a token"), config.routes.first().expect("a route"))
}

fn mints(route: &route::Settings, request: &str) -> bool {
    let (method, path) = request.split_once(' ').expect("a method and a path");
    let method: Method = method.parse().expect("a method");
    route.rules.judge(&method, &route.rules.form.canonical(path).expect(request)) == Err(Denied::Minting)
}

#[test]
fn each_preset_is_known_by_its_name() {
    let presets = all();
    let known: Vec<&str> = NAMES.iter().map(|(name, ())| *name).collect();
    let mut there: Vec<&str> = presets.keys().map(|name| &**name.get_ref()).collect();
    there.sort_by_key(|name| known.iter().position(|other| other == name));
    assert_eq!(there, known);
    for name in known {
        let (token, route) = (usual(name).tokens.len(), usual(name).routes.len());
        assert_eq!((token, route), (1, 1), "{name}");
    }
}

#[test]
fn each_preset_fills_in_hosts_placement_path_form_cookies_and_probe() {
    let key =
        Placement::Header { name: "x-api-key".parse().expect("a name"), before: String::new(), after: String::new() };
    let bearer = Placement::bearer();
    for (preset, upstream, placement, opaque, probe) in [
        ("github", "https://api.github.com/", &bearer, false, Some("https://api.github.com/rate_limit")),
        ("gitlab", "https://gitlab.com/", &bearer, true, Some("https://gitlab.com/api/v4/user")),
        ("openai", "https://api.openai.com/", &bearer, false, Some("https://api.openai.com/v1/models")),
        ("anthropic", "https://api.anthropic.com/", &key, false, Some("https://api.anthropic.com/v1/models")),
        ("stripe", "https://api.stripe.com/", &bearer, false, Some("https://api.stripe.com/v1/balance")),
        ("slack", "https://slack.com/", &bearer, false, Some("https://slack.com/api/auth.test")),
        ("gcp", "https://storage.googleapis.com/", &bearer, true, None),
        ("azure", "https://management.azure.com/", &bearer, false, None),
    ] {
        let config = usual(preset);
        let (token, route) = parts(&config);
        assert_eq!(route.upstream.to_string(), upstream, "{preset}");
        assert_eq!(token.hosts.first(), Some(&route.upstream.authority.host), "{preset}");
        assert_eq!(&token.placement, placement, "{preset}");
        assert_eq!((route.rules.form == crate::path::Form::Opaque, route.keeps_cookies), (opaque, false), "{preset}");
        assert_eq!(token.probe.as_ref().map(|probe| probe.url.to_string()).as_deref(), probe, "{preset}");
    }
    assert_eq!(parts(&usual("aws")).0.placement.label(), "sigv4");
    let (slack, anthropic) = (usual("slack"), usual("anthropic"));
    let probe = |config: &Config| parts(config).0.probe.clone().expect("a probe");
    assert_eq!(probe(&slack).ok.as_deref(), Some("/ok"), "it answers 200 whatever the token is");
    assert_eq!(probe(&anthropic).headers[0].0, "anthropic-version", "it answers 400 without one");
}

#[test]
fn each_preset_refuses_what_mints_and_nothing_else() {
    for (preset, minting, other) in [
        (
            "github",
            &[
                "POST /app/installations/1/access_tokens",
                "POST /applications/x/token/scoped",
                "POST /repos/a/b/keys",
                "POST /orgs/o/actions/runners/registration-token",
                "POST /repos/a/b/actions/runners/generate-jitconfig",
            ][..],
            &["GET /app/installations", "POST /repos/a/b/issues", "GET /repos/a/b/keys", "GET /rate_limit"][..],
        ),
        (
            "gitlab",
            &[
                "POST /oauth/token",
                "POST /api/v4/projects/a%2Fb/access_tokens",
                "POST /api/v4/users/1/personal_access_tokens",
                "POST /api/v4/groups/1/deploy_tokens",
                "POST /api/v4/personal_access_tokens/self/rotate",
            ],
            &["GET /api/v4/projects/a%2Fb/access_tokens", "POST /api/v4/projects/a%2Fb/issues"],
        ),
        (
            "openai",
            &[
                "POST /v1/realtime/client_secrets",
                "POST /v1/organization/admin_api_keys",
                "POST /v1/organization/projects/p/service_accounts",
                "POST /v1/organization/projects/p/service_accounts/a/api_keys",
            ],
            &["POST /v1/chat/completions", "POST /v1/responses", "GET /v1/models"],
        ),
        ("anthropic", &["POST /v1/oauth/token"], &["POST /v1/messages", "GET /v1/models"]),
        (
            "stripe",
            &["POST /v1/ephemeral_keys", "POST /v1/terminal/connection_tokens", "POST /v1/accounts/a/login_links"],
            &["POST /v1/charges", "GET /v1/balance"],
        ),
        (
            "slack",
            &["POST /api/oauth.v2.access", "GET /api/tooling.tokens.rotate", "POST /api/OAuth.Access"],
            &["POST /api/chat.postMessage", "POST /api/auth.test"],
        ),
        (
            "aws",
            &["GET /federation/credentials", "POST /v1/authorization-token"],
            &["GET /bucket/a%2Fb", "PUT /bucket/x"],
        ),
        (
            "gcp",
            &[
                "POST /v1/projects/-/serviceAccounts/a@b:generateAccessToken",
                "POST /v1/projects/p/serviceAccounts/a@b/keys",
                "POST /v1/projects/-/serviceAccounts/a@b:signBlob",
                "POST /storage/v1/projects/p/hmacKeys",
                "POST /token",
            ],
            &["GET /storage/v1/b/bucket/o/a%2Fb", "GET /v1/projects/p/serviceAccounts/a@b/keys"],
        ),
        (
            "azure",
            &[
                "POST /subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/a/listKeys",
                "POST /subscriptions/s/RESOURCEGROUPS/g/providers/Microsoft.Storage/storageAccounts/a/LISTKEYS",
                "POST /tenant/oauth2/v2.0/token",
            ],
            &["GET /subscriptions", "PUT /subscriptions/s/resourceGroups/g"],
        ),
    ] {
        let config = usual(preset);
        let route = parts(&config).1;
        for request in minting {
            assert!(mints(route, request), "{preset}: {request}");
        }
        for request in other {
            assert!(!mints(route, request), "{preset}: {request}");
        }
    }
}

#[test]
fn where_paths_say_nothing_the_host_says_that_a_service_mints() {
    for host in
        ["sts.eu-west-1.amazonaws.com", "sts.amazonaws.com", "sts-fips.us-east-1.amazonaws.com", "iam.amazonaws.com"]
    {
        let sigv4 = r#"placement = { sigv4 = { region = "eu-west-1", service = "sts" } }"#;
        let token = format!("hosts = [\"{host}\"]\n{sigv4}");
        let config = config("aws", &token, &format!("upstream = \"https://{host}\""));
        assert!(mints(parts(&config).1, "POST /"), "{host}");
    }
}

#[test]
fn a_server_of_ones_own_is_held_to_the_same_below_its_base_path() {
    let token = "hosts = [\"git.corp.example\"]";
    let config = config("github", token, "upstream = \"https://git.corp.example/api/v3\"");
    let (token, route) = parts(&config);
    assert!(mints(route, "POST /api/v3/app/installations/1/access_tokens"));
    assert_eq!(token.probe, None, "the preset's would send the token elsewhere");
}

#[test]
fn what_the_file_writes_wins_and_what_is_filled_in_is_told() {
    let token = "placement = { header = \"private-token\" }\nrotation = { probe = \"none\", at = 0.5 }";
    let own = config("gitlab", token, "minting = []\nset_cookie = \"pass\"\npath = \"strict\"");
    let (token, route) = parts(&own);
    assert_eq!((token.placement.label(), &token.probe, token.rotation.at), ("header", &None, 0.5));
    assert!(route.keeps_cookies && route.rules.minting.is_empty() && !mints(route, "POST /oauth/token"));
    let told = |config: &Config| config.filled.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(told(&own), ["token t: preset gitlab fills in hosts", "route r: preset gitlab fills in upstream"]);
    assert_eq!(
        told(&usual("gitlab")),
        [
            "token t: preset gitlab fills in hosts, placement, rotation.probe",
            "route r: preset gitlab fills in minting, path, set_cookie, upstream",
        ]
    );
}

#[test]
fn a_route_may_name_a_preset_of_its_own_and_a_token_that_is_exclusive_has_no_probe() {
    let own = config(
        "openai",
        "rotation = { mode = \"exclusive\", single_instance = true }",
        "preset = \"stripe\"\nupstream = \"https://api.openai.com\"",
    );
    let (token, route) = parts(&own);
    assert_eq!(token.probe, None);
    assert!(mints(route, "POST /v1/ephemeral_keys") && !mints(route, "POST /v1/realtime/client_secrets"));
}

#[test]
fn an_unknown_preset_is_told_with_the_nearest() {
    let text = "[[route]]\nname = \"r\"\nupstream = \"https://api.github.com\"\nallow = \"any\"\npreset = \"githib\"\n";
    let problems = parse(text).expect_err("no such preset");
    let problem = problems.iter().find(|problem| problem.message.contains("preset")).expect("a problem");
    assert_eq!((problem.line, problem.help.as_deref()), (5, Some("did you mean `github`?")));
}

#[test]
fn phantom_keys_have_the_form_that_the_presets_sdk_takes() {
    for (preset, begins) in [
        ("github", "ghp_"),
        ("gitlab", "glpat-"),
        ("openai", "sk-"),
        ("anthropic", "sk-ant-api03-"),
        ("stripe", "sk_test_"),
        ("slack", "xoxb-"),
        ("gcp", "ya29."),
        ("ghp", "ghp_"),
        ("key-{}", "key-"),
    ] {
        let key = phantom(preset).expect(preset).mint();
        assert!(key.starts_with(begins), "{preset}");
    }
    for none in ["aws", "azure", "nonsense"] {
        assert!(phantom(none).is_err(), "{none}");
    }
}
