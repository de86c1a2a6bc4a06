//! `env`: the variables that an app needs, as lines that a shell takes, with what no variable can do in comments.

use std::process::ExitCode;

use clap::ValueEnum;
use serde_json::json;

use super::{CONFIG, USAGE, say};
use crate::app::environment::{Entrance, variable};
use crate::authority::Host;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, Environment};
use crate::name::RouteName;
use crate::proxy::Address;
use crate::route;

/// What the app is written in, or which tool it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Platform {
    Node,
    Python,
    Go,
    Java,
    /// The SDKs and the command line of AWS
    Aws,
    Curl,
}

pub fn env(config: &Config, platform: Option<Platform>, route: Option<&RouteName>, json: bool) -> ExitCode {
    let routes: Vec<route::Settings> =
        config.routes.iter().filter(|known| route.is_none_or(|wanted| known.name == *wanted)).cloned().collect();
    if let Some(wanted) = route.filter(|_| routes.is_empty()) {
        let known = config.routes.iter().map(|route| route.name.as_str()).collect::<Vec<_>>().join(", ");
        eprintln!("countersign: there is no route {wanted}\n  help: the routes are: {known}");
        return ExitCode::from(USAGE);
    }
    let Some(entrance) = Entrance::of(&config.proxy.listen) else {
        show(&Lines { variables: Vec::new(), notes: by_socket(&config.proxy.listen, &routes) }, json);
        return ExitCode::SUCCESS;
    };
    if entrance.address().port() == 0 {
        eprintln!("countersign: `listen` in [proxy] is port 0, so that only the running proxy knows its port");
        eprintln!("  help: give it a port, or start the app with `countersign run -- APP`");
        return ExitCode::from(CONFIG);
    }
    let no_proxy = Environment::of_this_process(SystemClock.now()).no_proxy;
    show(&lines(entrance, &routes, config.proxy.tunnels, platform, &no_proxy), json);
    ExitCode::SUCCESS
}

#[derive(Default)]
struct Lines {
    variables: Vec<(String, String)>,
    notes: Vec<String>,
}

fn lines(
    entrance: Entrance,
    routes: &[route::Settings],
    tunnels: bool,
    platform: Option<Platform>,
    no_proxy: &str,
) -> Lines {
    let mut lines = Lines { variables: entrance.variables(routes, tunnels, no_proxy), notes: Vec::new() };
    for route in routes {
        let (name, base_url) = (variable(&route.name), entrance.base_url(&route.name));
        let taken = lines.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
        if taken.is_some_and(|taken| !taken.starts_with(&base_url)) {
            lines
                .notes
                .push(format!("route {}: {name} is another route's already; its base URL is {base_url}", route.name));
        }
    }
    let note = if routes.iter().any(|route| route.intercept) {
        "https:// URLs are looked into on the routes that intercept, by apps that trust us: write \
         `countersign ca export --bundle` to a file, and name it in SSL_CERT_FILE, REQUESTS_CA_BUNDLE, NODE_EXTRA_CA_CERTS"
    } else if tunnels {
        "https:// URLs pass in tunnels without a token: no route has `intercept = true`"
    } else {
        "HTTPS_PROXY is not set: no route has `intercept = true`, so https:// URLs reach their hosts directly, without a token"
    };
    lines.notes.push(note.to_owned());
    if let Some(platform) = platform {
        obeyed_by(platform, entrance, routes, &mut lines);
    }
    lines
}

/// What this platform obeys besides, and what it does not.
fn obeyed_by(platform: Platform, entrance: Entrance, routes: &[route::Settings], lines: &mut Lines) {
    let mut note = |text: &str| lines.notes.push(text.to_owned());
    match platform {
        Platform::Node => {
            note("Node obeys HTTP_PROXY from version 24 on, with this variable; before that, use the base URLs");
            lines.variables.push(("NODE_USE_ENV_PROXY".to_owned(), "1".to_owned()));
        }
        Platform::Python => {
            note("requests, httpx, urllib and boto3 obey HTTP_PROXY; aiohttp does with trust_env=True alone");
        }
        Platform::Go => note("net/http obeys HTTP_PROXY, but not in a process that has REQUEST_METHOD set (CGI)"),
        Platform::Java => {
            note("Java reads no HTTP_PROXY, but properties");
            let (host, port) = (entrance.address().ip(), entrance.address().port());
            let mut properties = format!("-Dhttp.proxyHost={host} -Dhttp.proxyPort={port}");
            if lines.variables.iter().any(|(name, _)| name == "HTTPS_PROXY") {
                lines.notes.push(
                    "whom Java trusts is in its store: `keytool -importcert -cacerts` takes what `countersign ca export` prints"
                        .to_owned(),
                );
                properties.push_str(&format!(" -Dhttps.proxyHost={host} -Dhttps.proxyPort={port}"));
            }
            properties.push_str(" -Dhttp.nonProxyHosts=localhost|127.*|[::1]");
            lines.variables.push(("JAVA_TOOL_OPTIONS".to_owned(), properties));
        }
        Platform::Aws => aws(entrance, routes, lines),
        Platform::Curl => {
            if let Some(route) = routes.first() {
                note(&format!("as in: curl \"${}/...\"", variable(&route.name)));
            }
            note("curl obeys http_proxy in lower case alone");
        }
    }
}

/// Services of AWS by the first label of their hosts, with what SDKs call them in their variables.
const AWS_SERVICES: [(&str, &str); 16] = [
    ("bedrock-runtime", "BEDROCK_RUNTIME"),
    ("dynamodb", "DYNAMODB"),
    ("ec2", "EC2"),
    ("events", "EVENTBRIDGE"),
    ("kinesis", "KINESIS"),
    ("kms", "KMS"),
    ("lambda", "LAMBDA"),
    ("logs", "CLOUDWATCH_LOGS"),
    ("monitoring", "CLOUDWATCH"),
    ("s3", "S3"),
    ("secretsmanager", "SECRETS_MANAGER"),
    ("sns", "SNS"),
    ("sqs", "SQS"),
    ("ssm", "SSM"),
    ("states", "SFN"),
    ("sts", "STS"),
];

fn aws(entrance: Entrance, routes: &[route::Settings], lines: &mut Lines) {
    let mut of_aws = routes.iter().filter(|route| is_of_aws(route)).peekable();
    if of_aws.peek().is_none() {
        lines.notes.push("no route leads to a host of AWS (amazonaws.com)".to_owned());
        return;
    }
    for route in of_aws {
        let (name, base_url) = (&route.name, entrance.base_url(&route.name));
        match aws_service(route).map(|service| format!("AWS_ENDPOINT_URL_{service}")) {
            None => lines.notes.push(format!(
                "route {name}: its service is not known here; set AWS_ENDPOINT_URL_<SERVICE> to {base_url}"
            )),
            Some(variable) if lines.variables.iter().any(|(taken, _)| *taken == variable) => {
                lines
                    .notes
                    .push(format!("route {name}: {variable} is another route's; its own base URL is {base_url}"));
            }
            Some(variable) => lines.variables.push((variable, base_url)),
        }
    }
    let signing = "an SDK signs for the host that it calls, so what it signs itself is refused by AWS: a route's token must be \
                   one that the service takes as it is placed (Bedrock takes an API key as a bearer)";
    lines.notes.push(signing.to_owned());
}

fn is_of_aws(route: &route::Settings) -> bool {
    let Host::Name(host) = &route.upstream.authority.host else { return false };
    host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn")
}

fn aws_service(route: &route::Settings) -> Option<&'static str> {
    let Host::Name(host) = &route.upstream.authority.host else { return None };
    let first = host.split('.').next()?;
    AWS_SERVICES.iter().find(|(label, _)| *label == first).map(|(_, service)| *service)
}

/// What an app does that can come in by a unix socket, or under TLS, only.
fn by_socket(listen: &[Address], routes: &[route::Settings]) -> Vec<String> {
    let mut notes = vec![
        "the proxy has no plain listener on TCP, and no variable says all that an app needs for the others".to_owned(),
    ];
    for address in listen {
        let way = match address {
            Address::Unix(path) => {
                format!("curl --unix-socket {} http://localhost", quoted(&path.display().to_string()))
            }
            // Which of our certificate's names leads here, only the network knows.
            Address::Tls(address) => {
                format!("curl --cert app.pem --key app.key https://NAME-OF-ITS-CERTIFICATE:{}", address.port())
            }
            Address::Tcp(_) => continue,
        };
        notes.extend(routes.iter().map(|route| format!("{way}/{}/...", route.name)));
    }
    notes.push("or add \"127.0.0.1:8080\" to `listen` in [proxy]".to_owned());
    notes
}

fn show(lines: &Lines, json: bool) {
    let Lines { variables, notes } = lines;
    if json {
        let variables: serde_json::Map<_, _> =
            variables.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        say(&format!("{:#}", json!({ "variables": variables, "notes": notes })));
        return;
    }
    let exports = variables.iter().map(|(name, value)| format!("export {name}={}", quoted(value)));
    let comments = notes.iter().map(|note| format!("# {note}"));
    say(&exports.chain(comments).collect::<Vec<_>>().join("\n"));
}

/// A text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
