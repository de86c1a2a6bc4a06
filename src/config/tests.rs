use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::detect::anomaly::{Severity, Signal};
use crate::detect::response::{Mode as Watch, Response};
use crate::policy::Mode;
use crate::policy::limit::Limits;
use crate::policy::rule::Allow;
use crate::proxy::Address;
use crate::secret::Reference;
use crate::token::Placement;
use crate::token::source::Settings as Source;
use crate::token::source::exec::Format;
use crate::token::source::oauth::{Auth, Client};

mod files;
mod moves;
mod vault;

const GOOD: &str = include_str!("tests/good.toml");
const FULL: &str = include_str!("tests/full.toml");

/// 2026-11-22T00:00:00Z
const NOW: Duration = Duration::from_secs(1_795_305_600);

fn environment() -> Environment {
    Environment { home: Some("/home/proxy".into()), uid: 900, cores: 2, now: NOW, ..Environment::default() }
}

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(text, "f.toml", Path::new("/etc/countersign"), &environment())
}

fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn problems(outcome: &Result<Config, Problems>) -> &Problems {
    outcome.as_ref().map_or_else(|problems| problems, |config| &config.warnings)
}

/// A problem a line, without file, excerpt and help; warnings too.
fn brief(outcome: &Result<Config, Problems>) -> Vec<String> {
    let line = |p: &Problem| format!("{}:{}: {}: {}", p.line, p.column, p.severity.as_str(), p.message);
    problems(outcome).iter().map(line).collect()
}

/// Changes [`GOOD`] as the lines of a case say that start with `- ` and `+ `; the rest of them is what is expected then.
fn change(case: &str) -> (String, Vec<&str>) {
    let mut text = GOOD.to_owned();
    let mut lines = case.trim_end().lines().skip(1).peekable();
    let mut block = |mark: &str| -> String {
        std::iter::from_fn(|| lines.next_if(|line| line.starts_with(mark)))
            .map(|line| format!("{}\n", &line[2..]))
            .collect()
    };
    loop {
        let (removed, added) = (block("- "), block("+ "));
        if removed.is_empty() {
            break;
        }
        let at = text.rfind(&removed).unwrap_or_else(|| panic!("good.toml has no {removed}"));
        text.replace_range(at..at + removed.len(), &added);
    }
    (text, lines.collect())
}

#[test]
fn each_bad_config_is_refused_for_what_is_wrong_with_it_where_it_is_wrong() {
    let cases: Vec<&str> = include_str!("tests/bad.txt").split("\n# ").skip(1).collect();
    assert!(cases.len() >= 40);
    let mut wrong = String::new();
    for case in cases {
        let (text, expected) = change(case);
        let found = brief(&parse(&text));
        if found != expected {
            wrong.push_str(&format!("# {}\n{}\n\n", case.lines().next().unwrap_or_default(), found.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "these are reported instead:\n{wrong}");
}

#[test]
fn a_good_config_has_no_problems() {
    for text in [GOOD, FULL] {
        assert_eq!(good(text).warnings.to_string(), "");
    }
}

#[test]
fn the_shipped_file_needs_nothing_but_a_client_of_another_user() {
    let shipped = good(include_str!("../../config/countersign.toml"));
    assert_eq!(shipped.warnings.len(), 1, "{}", shipped.warnings);
    assert_eq!(shipped.tokens.len(), 1);
}

#[test]
fn all_of_ten_problems_are_told_at_once() {
    let found = parse(include_str!("tests/ten.toml")).expect_err("problems");
    assert_eq!(found.len(), 10);
    assert_eq!(found.to_string(), include_str!("tests/ten.txt"));
    let json = found.to_json();
    assert_eq!(
        json[1],
        serde_json::json!({
            "file": "f.toml", "line": 3, "column": 1, "severity": "error",
            "message": "unknown key `wokers` in [proxy]", "help": "did you mean `workers`?",
        })
    );
}

#[test]
fn what_is_not_written_has_safe_defaults() {
    let config = good(GOOD);
    let seconds = Duration::from_secs;
    assert_eq!(config.proxy.listen, [Address::Tcp((Ipv4Addr::LOCALHOST, 8080).into())]);
    assert_eq!((config.proxy.workers, config.proxy.drain), (2, seconds(30)));
    assert_eq!((config.proxy.limits.header_bytes, config.proxy.limits.connections), (32768, 10_000));
    assert!(config.watch);
    assert_eq!(config.destinations.allow, []);
    assert_eq!(config.scrape, (Ipv4Addr::LOCALHOST, 9180).into());
    assert_eq!(config.audit.dir, Path::new("/home/proxy/.local/state/countersign/audit"));
    assert_eq!(config.audit.on_failure, audit::OnFailure::Continue);
    assert_eq!(config.admin.listen, Address::Unix("/home/proxy/.local/state/countersign/admin.sock".into()));
    assert_eq!(config.admin.elsewhere, [Path::new("/run/countersign/admin.sock")]);
    let token = &config.tokens[0];
    assert_eq!((token.rotation.at, token.rotation.jitter), (0.7, 0.1));
    assert_eq!((token.rotation.skew, token.rotation.max_life), (seconds(30), seconds(3600)));
    assert_eq!(token.placement, Placement::bearer());
    assert!(token.required);
    let Source::OAuth(source) = &token.source else { panic!("another source") };
    assert_eq!(source.scope, ["contents:read"], "what the token is granted is asked for");
    let timeouts = config.routes[0].timeouts;
    assert_eq!((timeouts.connect, timeouts.response, timeouts.idle), (seconds(5), seconds(300), seconds(300)));
    assert_eq!(config.routes[0].clients, None);
    assert_eq!((config.routes[0].rate, config.routes[0].limits), (None, Limits::default()));
    assert_eq!(config.routes[0].mode, Mode::Enforce);
}

#[test]
fn every_key_reaches_the_settings() {
    let config = good(FULL);
    assert_eq!(config.proxy.listen[2], Address::Unix("/etc/countersign/proxy.sock".into()));
    assert_eq!(config.proxy.limits.body_timeout, Duration::from_millis(250));
    assert!(!config.watch);
    assert_eq!(config.destinations.allow.len(), 2);
    let proxy = config.upstream_proxy.as_ref().expect("a proxy");
    assert_eq!(
        (proxy.proxy.to_string(), &*proxy.no_proxy),
        ("https://proxy.corp:3129/".into(), "corp.example,10.0.0.0/8")
    );
    let credentials = proxy.credentials.as_ref().expect("a credential");
    assert_eq!(credentials.password, Reference::File("/etc/countersign/proxy-password".into()));
    assert_eq!(proxy.tls.ca.as_deref(), Some(Path::new("/etc/countersign/corp.pem")));
    assert_eq!((config.telemetry.format, config.telemetry.access), (telemetry::Format::Json, false));
    assert_eq!(config.audit.dir, Path::new("/var/log/countersign"));
    assert_eq!(config.review.every, Some(Duration::from_secs(90 * 86_400)));
    let [manager, pager, log] = &config.alerts[..] else { panic!("three sinks") };
    assert_eq!(
        [&manager.name, &pager.name, &log.name].map(crate::name::SinkName::as_str),
        ["alertmanager-1", "pager", "log-3"]
    );
    assert_eq!([manager, pager, log].map(|sink| sink.severity.as_str()), ["medium", "high", "low"]);
    assert!(manager.runbooks.is_some() && log.kind == crate::alert::Kind::Log);
    let crate::alert::Kind::Webhook { secret, .. } = &pager.kind else { panic!("a webhook") };
    assert_eq!(*secret, Reference::Env("WEBHOOK_SECRET".to_owned()));
    assert_eq!((config.detect.policy.mode, config.detect.exempt[0].signals.len()), (Watch::Respond, 2));
    assert_eq!(config.detect.policy.respond.of_severities.get(&Severity::High), Some(&Response::Quarantine));
    let [rule] = &config.detect.policy.respond.rules[..] else { panic!("a rule") };
    assert_eq!((rule.signals.len(), rule.at, rule.respond), (2, Severity::High, Response::Throttle));
    let own = config.detect.of_tokens.values().next().expect("a token's own");
    assert_eq!((own.mode, own.respond.of_signals.get(&Signal::Errors)), (Some(Watch::Alert), Some(&Response::Observe)));
    assert_eq!((config.clients[1].uid, config.clients[1].gid), (Some(1001), Some(50)));
    assert_eq!(config.clients[1].key, Some(Reference::File("/etc/countersign/batch.key".into())));
    assert_eq!(config.proxy.listen[3], Address::Tls(([0, 0, 0, 0], 8443).into()));
    let tls = config.proxy.tls.as_ref().expect("TLS");
    assert_eq!(tls.identity.key, Reference::File("/etc/countersign/proxy.key".into()));
    assert_eq!(tls.client_ca.as_deref(), Some(Path::new("/etc/countersign/apps.pem")));
    let named = config.clients[3].certificate.as_ref().expect("names of a certificate");
    assert_eq!(named.to_string(), "spiffe://example.org/ns/prod/sa/elsewhere and elsewhere.apps.example");
    let [alice, bob] = &config.operators[..] else { panic!("two operators") };
    assert_eq!((&*alice.groups[0], alice.roles.len()), ("team@example.com", 5));
    assert_eq!(config.admin.listen, Address::Tcp(([0, 0, 0, 0], 9190).into()));
    let tls = config.admin.tls.as_ref().expect("TLS");
    assert_eq!(tls.identity.certificate, Path::new("/etc/countersign/admin.pem"));
    assert_eq!(tls.client_ca.as_deref(), Some(Path::new("/etc/countersign/operators.pem")));
    assert_eq!(bob.key, Some(crate::operator::KeyDigest::of(b"abc")));
    assert!(bob.certificate.is_some() && bob.roles.is_empty());
    let [issued, variable, file, printed, signed, ..] = &config.tokens[..] else { panic!("five tokens") };
    assert_eq!(issued.hosts[0].to_string(), "api.example.com");
    let placements: Vec<String> = config.tokens.iter().take(5).map(|token| token.placement.to_string()).collect();
    let [header, bearer] = ["x-api-key: Token TOKEN;", "authorization: Bearer TOKEN"];
    let basic = "authorization: Basic x-access-token:TOKEN (in base64)";
    assert_eq!(placements, [header, bearer, basic, "?api_key=TOKEN", "cookie: session=TOKEN"]);
    let Source::OAuth(source) = &issued.source else { panic!("another source") };
    let auth = Auth::Post(Reference::File("/etc/countersign/secret".into()));
    assert_eq!(source.client, Some(Client { id: "billing".to_owned(), auth }));
    assert_eq!(source.scope, ["read"]);
    let told = source.revocation_url.as_ref().map(ToString::to_string);
    assert_eq!(told.as_deref(), Some("https://127.0.0.1:9001/revoke"));
    assert_eq!((issued.rotation.overlap, issued.rotation.shorten), (Duration::from_secs(60), true));
    let probe = issued.probe.as_ref().expect("a probe");
    assert_eq!(probe.url.to_string(), "https://api.example.com/v1/status");
    assert_eq!(probe.every, Some(Duration::from_secs(3600)));
    assert_eq!(
        probe.tls.ca.as_deref(),
        Some(Path::new("/etc/ssl/upstream.pem")),
        "as the route that leads there has it"
    );
    assert_eq!((issued.retire_unused, variable.retire_unused), (Some(Duration::from_secs(30 * 86_400)), None));
    assert_eq!(source.extra, [("tenant".to_owned(), "one".to_owned())]);
    assert_eq!(source.tls.ca.as_deref(), Some(Path::new("/etc/countersign/ca.pem")));
    let identity = source.tls.identity.as_ref().expect("a client certificate");
    assert_eq!(identity.certificate, Path::new("/etc/countersign/client.pem"));
    assert_eq!(identity.key, Reference::Credential("client-key".to_owned()));
    assert_eq!(variable.source, Source::Env { name: "API_TOKEN".to_owned() });
    assert_eq!(variable.grant_ends, file.grant_ends, "a date and its text");
    assert_eq!(variable.grant_ends, issued.grant_ends + Duration::from_secs(86_400), "a date lasts until its end");
    assert_eq!(file.source, Source::File { path: "/etc/countersign/token".into() });
    let Source::Exec(source) = &printed.source else { panic!("another source") };
    let program = &source.program;
    assert_eq!((program.path.as_path(), &*program.arguments[0]), (Path::new("/usr/bin/helper"), "print token"));
    assert_eq!((&*program.variables[0], program.timeout), ("HELPER_HOME", Duration::from_secs(2)));
    assert_eq!((source.format, &*source.scopes), (Format::Json, &printed.scopes[..]));
    let Source::SignedJwt(source) = &signed.source else { panic!("another source") };
    assert_eq!(source.claims["level"], 16);
    assert_eq!((source.audience.len(), source.lifetime), (2, Duration::from_secs(120)));
    assert!(matches!(&config.routes[0].rules.allow, Allow::These(rules) if rules.len() == 2));
    let pins: Vec<String> = config.routes[0].tls.pins.iter().map(ToString::to_string).collect();
    assert_eq!(pins, ["sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="]);
    assert_eq!(config.routes[1].rules.allow, Allow::Any);
    assert_eq!(config.routes[7].token, None);
    let route = &config.routes[0];
    assert_eq!(route.rate.map(|rate| rate.to_string()).as_deref(), Some("50/s burst 100"));
    assert_eq!((route.limits.concurrency.map(u32::from), route.limits.body), (Some(100), Some(10 << 20)));
}

#[test]
fn one_user_may_be_two_clients_that_their_keys_tell_apart() {
    let two = GOOD.replace(
        "uid = 1000",
        "uid = 1000\nkey = \"file:a.key\"\n[[client]]\nname = \"b\"\nuid = 1000\nkey = \"file:b.key\"",
    );
    assert_eq!(good(&two).clients.len(), 2);
}

#[test]
fn without_clients_the_implicit_one_is_local() {
    let (routes, _) = GOOD.split_once("[[client]]").expect("a client");
    let config = good(&routes.replace("allow =", "clients = [\"local\"]\nallow ="));
    assert_eq!(config.routes[0].clients, Some(vec![ClientName::implicit()]));
    assert_eq!(brief(&Ok(config)).len(), 1, "the app is not kept apart from the proxy");
    assert!(parse(&GOOD.replace("allow =", "clients = [\"local\"]\nallow =")).is_err());
}

#[test]
fn a_rule_of_detection_that_never_counts_is_warned_of() {
    let told = |rules: &str| {
        let rules = rules.split_inclusive('\n').map(|rule| format!("[[detect.rule]]\n{}\n", rule.replace("; ", "\n")));
        brief(&parse(&format!("{GOOD}\n{}", rules.collect::<String>())))
    };
    let throttle = "respond = \"throttle\"";
    assert_eq!(
        told(&format!(
            "signals = [\"burst\"]; at = \"high\"; {throttle}\nsignals = [\"burst\"]; {throttle}\n{throttle}"
        )),
        [""; 0]
    );
    for hidden in [
        format!("signals = [\"burst\", \"hours\"]; {throttle}\nsignals = [\"burst\"]; at = \"high\"; {throttle}"),
        format!("{throttle}\nat = \"critical\"; {throttle}"),
    ] {
        let [warning] = &told(&hidden)[..] else { panic!("one warning") };
        assert!(warning.contains("a rule before this one says what is done about all of this"), "{warning}");
    }
    for (wrong, said) in [
        ("signals = []; respond = \"alert\"", "so that the rule is about nothing"),
        ("signals = [\"burst\"]", "the rule does not say what is done"),
        ("respond = \"revoke\"", "respond"),
        ("at = \"grave\"; respond = \"alert\"", "at"),
    ] {
        assert!(told(wrong).iter().any(|problem| problem.contains(said)), "{wrong}: {:?}", told(wrong));
    }
}

#[test]
fn of_very_many_problems_errors_are_told_first() {
    let unused: String = (0..1500).map(|n| format!("x{n} = 1\n")).collect();
    assert_eq!(parse(&format!("{unused}{GOOD}")).expect_err("unknown").len(), 1000);
}

#[test]
fn very_deep_nesting_is_refused_and_does_no_harm() {
    let deep = 100_000;
    let texts = [
        format!("x = {}", "[".repeat(deep)),
        format!("x = {}", "{a=".repeat(deep)),
        format!("{}x = 1", "a.".repeat(deep)),
        format!("[{}x]", "a.".repeat(deep)),
        "\u{feff}x = 1".to_owned(),
    ];
    for text in texts {
        assert!(parse(&text).is_err_and(|problems| problems.has_errors()));
    }
}

#[test]
fn the_proxy_of_the_environment_is_obeyed_only_where_that_is_written() {
    let written = format!("[proxy]\nupstream_proxy = \"environment\"\n{GOOD}");
    let read = |text: &str, https_proxy: ProxyVariable| {
        let environment = Environment { https_proxy, no_proxy: "corp.example".to_owned(), ..environment() };
        Config::parse(text, "f.toml", Path::new("/etc/countersign"), &environment)
    };
    let url = |url: &str| ProxyVariable::Url(url.to_owned());
    assert_eq!(read(GOOD, url("http://proxy.corp:3128")).expect("good").upstream_proxy, None);
    for variable in ["http://proxy.corp:3128", "proxy.corp:3128", "HTTP://proxy.corp:3128/"] {
        let proxy = read(&written, url(variable)).expect("good").upstream_proxy.expect(variable);
        assert_eq!((proxy.proxy.to_string(), &*proxy.no_proxy), ("http://proxy.corp:3128/".into(), "corp.example"));
    }
    let unset = read(&written, ProxyVariable::Unset);
    let warning = "2:18: warning: neither $HTTPS_PROXY nor $ALL_PROXY is set, so nothing goes through a proxy";
    assert_eq!(brief(&unset), [warning]);
    for bad in [ProxyVariable::HoldsSecret, url("socks5://proxy.corp:1080"), url("http://")] {
        assert!(read(&written, bad.clone()).is_err(), "{bad:?}");
    }
}

fn with_variables(text: &str, variables: &[(&str, &str)]) -> Result<Config, Problems> {
    let own = |(name, value): &(&str, &str)| (format!("COUNTERSIGN_{name}"), (*value).to_owned());
    let environment = Environment { scalars: variables.iter().map(own).collect(), ..environment() };
    Config::parse(text, "f.toml", Path::new("/etc/countersign"), &environment)
}

#[test]
fn a_variable_takes_the_place_of_a_scalar() {
    let variables = [
        ("PROXY__WORKERS", "7"),
        ("PROXY__LIMITS__IDLE_TIMEOUT", "3s"),
        ("TELEMETRY__LOG__ACCESS", "true"),
        ("STATE__DIR", "/s"),
    ];
    for text in [GOOD, FULL] {
        let config = with_variables(text, &variables).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!((config.proxy.workers, config.proxy.limits.idle_timeout), (7, Duration::from_secs(3)));
        assert_eq!((config.telemetry.access, &*config.state_dir), (true, Path::new("/s")));
    }
}

#[test]
fn a_variable_that_sets_nothing_or_nonsense_is_an_error_that_names_it() {
    let variables = [
        ("PROXY__DRAIN", "soon"),
        ("PROXY__LISTEN", "0.0.0.0:80"),
        ("PROXY__WOKERS", "2"),
        ("ROUTE__ALLOW", "any"),
        ("TELEMETRY__LISTEN", "127.0.0.1:8080"),
    ];
    let found = with_variables(GOOD, &variables);
    assert_eq!(
        brief(&found),
        [
            "1:1: error: $COUNTERSIGN_PROXY__DRAIN: `drain` must be a duration",
            "1:1: error: $COUNTERSIGN_PROXY__LISTEN: no variable of this name sets anything",
            "1:1: error: $COUNTERSIGN_PROXY__WOKERS: no variable of this name sets anything",
            "1:1: error: $COUNTERSIGN_ROUTE__ALLOW: no variable of this name sets anything",
            "1:1: error: $COUNTERSIGN_TELEMETRY__LISTEN: the telemetry listener and the proxy cannot both listen on \
             127.0.0.1:8080",
        ]
    );
    assert_eq!(problems(&found).to_json()[2]["help"], "did you mean `COUNTERSIGN_PROXY__WORKERS`?");
}

#[test]
fn the_digest_is_that_of_the_bytes() {
    assert_eq!(good("").digest, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

#[test]
fn a_secret_in_the_file_is_in_no_output() {
    const SECRET: &str = "hunter2canary";
    let source = |text: &str| {
        let line = GOOD.lines().find(|line| line.starts_with("source")).expect("a source");
        GOOD.replace(line, text)
    };
    let inline = r#"token_url = "https://issuer.example/token", client_id = "ci""#;
    let texts = [
        GOOD.replace("env:CI_SECRET", SECRET),
        GOOD.replace("env:CI_SECRET", &format!("env:{SECRET}-x")),
        GOOD.replace("client_id", "clientid").replace("env:CI_SECRET", SECRET),
        GOOD.replace("\"env:CI_SECRET\"", &format!("[\"{SECRET}\"]")),
        GOOD.replace("\"env:CI_SECRET\"", &format!("'''\n{SECRET}\n'''")),
        GOOD.replace("\"env:CI_SECRET\"", SECRET),
        GOOD.replace("\"env:CI_SECRET\"", &format!("\"{SECRET}")),
        GOOD.replace("client_secret", "secret").replace("env:CI_SECRET", SECRET),
        GOOD.replace("client_secret =", "client_secret").replace("env:CI_SECRET", SECRET),
        GOOD.replace("https://issuer", &format!("https://user:{SECRET}@issuer")),
        GOOD.replace("/token\"", &format!("/token?key={SECRET}\"")),
        GOOD.replace("https://api", &format!("https://{SECRET}@api")),
        GOOD.replace("token = \"github\"", &format!("token = \"{SECRET}\"")),
        GOOD.replace("name = \"app\"", &format!("name = \"{SECRET}!\"")),
        GOOD.replace("# end", &format!("password = \"{SECRET}\"")),
        GOOD.replace("# end", &format!("[vault]\nauth = {{ secret_id = \"{SECRET}\" }}")),
        GOOD.replace("# end", &format!("[client.key]\nvalue = \"{SECRET}\"")),
        source(&format!("source = \"{SECRET}\"")),
        source(&format!("source = {{ kind = \"aws_static\", secret_key = \"{SECRET}\" }}")),
        source(&format!("source = {{ kind = \"env\", name = \"{SECRET}-x\", value = \"{SECRET}\" }}")),
        source(&format!(
            "source = {{ kind = \"client_credentials\", {inline}, client_secret = \"env:X\", x = 1, \
             headers = {{ X-Key = \"{SECRET}\", Authorization = \"{SECRET}\" }}, extra = {{ password = \"{SECRET}\" }} }}"
        )),
        source(&format!("source = {{ kind = \"signed_jwt\", key = \"-----BEGIN {SECRET}\\n\", lifetme = 5 }}")),
        GOOD.replace("[[client]]", &format!("tls = {{ ca = \"{SECRET}\\n\" }}\n[[client]]")),
        GOOD.replace("[[client]]", &format!("tls = {{ cert = \"file:c\", key = \"{SECRET}\" }}\n[[client]]")),
        GOOD.replace("[[client]]", &format!("tls = {{ pin = [\"{SECRET}\"] }}\n[[client]]")),
        format!("[proxy]\nupstream_proxy = \"http://user:{SECRET}@proxy.corp:3128\"\n{GOOD}"),
        format!(
            "[proxy]\nupstream_proxy = {{ url = \"http://proxy\", username = \"a\", password = \"{SECRET}\" }}\n{GOOD}"
        ),
        GOOD.replace("hosts", &format!("placement = \"sk-{SECRET}-0123456789\"\nhosts")),
        GOOD.replace("hosts", &format!("placement = {{ header = \"a\", template = \"{SECRET}\" }}\nhosts")),
    ];
    for text in texts {
        assert!(text.contains(SECRET));
        let found = parse(&text).expect_err(&text);
        for output in [found.to_string(), found.to_json().to_string(), format!("{found:?}")] {
            assert!(!output.contains(SECRET), "{text}\n{output}");
        }
    }
}

/// A line of a file, the value of a key or a stretch of text, replaced by something else.
fn mutated(text: &str, line: usize, with: &str, whole: bool) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let line = line % lines.len();
    let changed = match lines[line].split_once(" = ") {
        Some((key, _)) if !whole => format!("{key} = {with}"),
        _ => with.to_owned(),
    };
    let before = lines[..line].iter().copied();
    before.chain([&*changed]).chain(lines[line + 1..].iter().copied()).collect::<Vec<_>>().join("\n")
}

const VALUES: [&str; 16] = [
    "",
    "\"\"",
    "5",
    "-1",
    "1.5",
    "true",
    "[]",
    "[5, \"a\"]",
    "{}",
    "[{}]",
    "{ kind = \"env\" }",
    "2027-06-30",
    "\"ä\\n\"",
    "\"5s\"",
    "\"any\"",
    "[[route]]",
];

proptest! {
    #[test]
    fn a_mutated_config_is_refused_with_an_error_or_taken_without_one(
        changes in prop::collection::vec((0usize..200, prop::sample::select(&VALUES[..]), any::<bool>()), 1..4),
        cut in prop::option::of((0usize..3000, 0usize..40, "\\PC{0,3}")),
        full in any::<bool>(),
    ) {
        let mut text = if full { FULL } else { GOOD }.to_owned();
        for (line, with, whole) in changes {
            text = mutated(&text, line, with, whole);
        }
        if let Some((at, length, with)) = cut {
            let start = text.floor_char_boundary(at.min(text.len()));
            let end = text.floor_char_boundary((at + length).clamp(start, text.len())).max(start);
            text.replace_range(start..end, &with);
        }
        let outcome = parse(&text);
        prop_assert_eq!(outcome.is_err(), problems(&outcome).has_errors());
        let lines = text.split('\n').count();
        for problem in problems(&outcome) {
            prop_assert!((1..=lines).contains(&problem.line) && problem.column >= 1);
        }
        problems(&outcome).to_string();
    }
}
