//! The clients: how each is started, and what its user writes.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::plan::{GIT, GRPC, HTTP, Step, WEB_SOCKET};
use crate::support::relay::Spoken;
use crate::support::{package, tool};

pub struct Client {
    pub name: &'static str,
    pub protocol: Protocol,
    pub program: Program,
    /// The version of HTTP that it must speak where it matters.
    pub speaks: Option<Spoken>,
    /// What its user writes for a base URL.
    pub base: &'static str,
    /// What its user writes for `HTTP_PROXY` to be obeyed.
    pub environment: &'static str,
    /// What its user writes where that is of no use.
    pub setting: Option<&'static str>,
    /// What its user writes for `https://` URLs.
    pub tunnel: By,
    /// The variable by which it is told whom to trust.
    pub roots: Option<&'static str>,
}

/// What a client is told by that it is to ask for tunnels.
pub enum By {
    /// `HTTPS_PROXY`, and what makes it obey that.
    Variable(&'static str),
    /// Something else, where that is of no use.
    Setting(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Http,
    Grpc,
    WebSocket,
    Git,
}

pub enum Program {
    /// A file of `tests/clients`, and its arguments.
    Python(&'static str, &'static [&'static str]),
    /// The machine's own.
    Node(&'static str),
    Node24(&'static str),
    Go(&'static [&'static str]),
    Java,
}

/// What clients trust in tunnels: PEM, and as Java has it.
pub const ROOTS: &str = "roots.pem";
pub const TRUST_STORE: &str = "roots.p12";

/// What Java's own store has.
pub const TRUST_STORE_PASSWORD: &str = "changeit";

/// How a client comes to the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// `http://127.0.0.1:8080/api`
    Prefix,
    /// `http://api.localhost:8080`
    Label,
    /// `127.0.0.1:8080`, with the authority `api.localhost`
    Authority,
    /// `HTTP_PROXY`
    Environment,
    /// A proxy that is set in the client.
    Setting,
    /// `HTTPS_PROXY`, for `https://` URLs
    Tunnel,
    /// A proxy that is set in the client, for `https://` URLs.
    TunnelSetting,
}

const VARIABLE: &str = "`HTTP_PROXY=http://127.0.0.1:8080`";
const TUNNEL: &str = "`HTTPS_PROXY=http://127.0.0.1:8080`";
const NONE: &str = "none: it would ask for a tunnel";
const DISPATCHER: &str =
    "`setGlobalDispatcher(new ProxyAgent({ uri: \"http://127.0.0.1:8080\", proxyTunnel: false }))` of undici 7";
const FETCH: &str = "`fetch(\"http://127.0.0.1:8080/api/...\")`";

pub const CLIENTS: &[Client] = &[
    Client {
        name: "curl, HTTP/1.0",
        protocol: Protocol::Http,
        program: Program::Python("with_curl.py", &["--http1.0"]),
        speaks: Some(Spoken::Http10),
        base: "`curl --http1.0 http://127.0.0.1:8080/api/...`",
        environment: "`http_proxy=http://127.0.0.1:8080`, in lower case",
        setting: None,
        tunnel: By::Variable(TUNNEL),
        roots: Some("CURL_CA_BUNDLE"),
    },
    Client {
        name: "curl, HTTP/1.1",
        protocol: Protocol::Http,
        program: Program::Python("with_curl.py", &["--http1.1"]),
        speaks: Some(Spoken::Http11),
        base: "`curl http://127.0.0.1:8080/api/...`",
        environment: "`http_proxy=http://127.0.0.1:8080`, in lower case",
        setting: None,
        tunnel: By::Variable(TUNNEL),
        roots: Some("CURL_CA_BUNDLE"),
    },
    Client {
        name: "curl, HTTP/2",
        protocol: Protocol::Http,
        program: Program::Python("with_curl.py", &["--http2-prior-knowledge"]),
        speaks: Some(Spoken::Http2),
        base: "`curl --http2-prior-knowledge http://127.0.0.1:8080/api/...`",
        environment: "`http_proxy=http://127.0.0.1:8080`, in lower case",
        setting: None,
        tunnel: By::Variable(TUNNEL),
        roots: Some("CURL_CA_BUNDLE"),
    },
    Client {
        name: "Python requests",
        protocol: Protocol::Http,
        program: Program::Python("with_requests.py", &[]),
        speaks: None,
        base: "`requests.get(\"http://127.0.0.1:8080/api/...\")`",
        environment: VARIABLE,
        setting: None,
        tunnel: By::Variable(TUNNEL),
        roots: Some("REQUESTS_CA_BUNDLE"),
    },
    Client {
        name: "Python urllib3",
        protocol: Protocol::Http,
        program: Program::Python("with_urllib3.py", &[]),
        speaks: None,
        base: "`PoolManager().request(\"GET\", \"http://127.0.0.1:8080/api/...\")`",
        environment: VARIABLE,
        setting: Some("`ProxyManager(\"http://127.0.0.1:8080\")`"),
        tunnel: By::Setting("`ProxyManager(\"http://127.0.0.1:8080\")`"),
        roots: Some("SSL_CERT_FILE"),
    },
    Client {
        name: "Python httpx, HTTP/1.1",
        protocol: Protocol::Http,
        program: Program::Python("with_httpx.py", &[]),
        speaks: Some(Spoken::Http11),
        base: "`httpx.Client(base_url=\"http://127.0.0.1:8080/api\")`",
        environment: VARIABLE,
        setting: None,
        tunnel: By::Variable(TUNNEL),
        roots: Some("SSL_CERT_FILE"),
    },
    Client {
        name: "Python httpx, HTTP/2",
        protocol: Protocol::Http,
        program: Program::Python("with_httpx.py", &["2"]),
        speaks: Some(Spoken::Http2),
        base: "`httpx.Client(base_url=\"http://127.0.0.1:8080/api\", http1=False, http2=True)`",
        environment: VARIABLE,
        setting: None,
        tunnel: By::Variable(TUNNEL),
        roots: Some("SSL_CERT_FILE"),
    },
    Client {
        name: "Python aiohttp",
        protocol: Protocol::Http,
        program: Program::Python("with_aiohttp.py", &[]),
        speaks: None,
        base: "`ClientSession(base_url=\"http://127.0.0.1:8080/api/\")`",
        environment: "`HTTP_PROXY=http://127.0.0.1:8080` and `ClientSession(trust_env=True)`",
        setting: None,
        tunnel: By::Variable("`HTTPS_PROXY=http://127.0.0.1:8080` and `ClientSession(trust_env=True)`"),
        roots: Some("SSL_CERT_FILE"),
    },
    Client {
        name: "Node.js 20 fetch",
        protocol: Protocol::Http,
        program: Program::Node("with_fetch.mjs"),
        speaks: None,
        base: FETCH,
        environment: VARIABLE,
        setting: Some(DISPATCHER),
        tunnel: By::Setting("`setGlobalDispatcher(new ProxyAgent(\"http://127.0.0.1:8080\"))` of undici 7"),
        roots: Some("NODE_EXTRA_CA_CERTS"),
    },
    Client {
        name: "Node.js 24 fetch",
        protocol: Protocol::Http,
        program: Program::Node24("with_fetch.mjs"),
        speaks: None,
        base: FETCH,
        environment: "`HTTP_PROXY=http://127.0.0.1:8080` and `NODE_USE_ENV_PROXY=1`",
        setting: Some(DISPATCHER),
        tunnel: By::Variable("`HTTPS_PROXY=http://127.0.0.1:8080`, `NODE_USE_ENV_PROXY=1`"),
        roots: Some("NODE_EXTRA_CA_CERTS"),
    },
    Client {
        name: "undici",
        protocol: Protocol::Http,
        program: Program::Node24("with_undici.mjs"),
        speaks: None,
        base: "`request(\"http://127.0.0.1:8080/api/...\")`",
        environment: "`HTTP_PROXY=http://127.0.0.1:8080` and `new EnvHttpProxyAgent()`",
        setting: Some(DISPATCHER),
        tunnel: By::Variable("`HTTPS_PROXY=http://127.0.0.1:8080`, `new EnvHttpProxyAgent()`"),
        roots: Some("NODE_EXTRA_CA_CERTS"),
    },
    Client {
        name: "got",
        protocol: Protocol::Http,
        program: Program::Node24("with_got.mjs"),
        speaks: None,
        base: "`got.extend({ prefixUrl: \"http://127.0.0.1:8080/api\" })`",
        environment: "`HTTP_PROXY=http://127.0.0.1:8080` and, from Node.js 24 on, `NODE_USE_ENV_PROXY=1`",
        setting: None,
        tunnel: By::Variable("`HTTPS_PROXY=http://127.0.0.1:8080`, `NODE_USE_ENV_PROXY=1`"),
        roots: Some("NODE_EXTRA_CA_CERTS"),
    },
    Client {
        name: "axios",
        protocol: Protocol::Http,
        program: Program::Node24("with_axios.mjs"),
        speaks: None,
        base: "`axios.create({ baseURL: \"http://127.0.0.1:8080/api\" })`",
        environment: VARIABLE,
        setting: None,
        tunnel: By::Variable(TUNNEL),
        roots: Some("NODE_EXTRA_CA_CERTS"),
    },
    Client {
        name: "octokit",
        protocol: Protocol::Http,
        program: Program::Node24("with_octokit.mjs"),
        speaks: None,
        base: "`new Octokit({ baseUrl: \"http://127.0.0.1:8080/api\" })`",
        environment: "`baseUrl: \"http://api.github.com\"`, and as for Node.js 24 fetch",
        setting: None,
        tunnel: By::Variable("`HTTPS_PROXY=http://127.0.0.1:8080`, `NODE_USE_ENV_PROXY=1`"),
        roots: Some("NODE_EXTRA_CA_CERTS"),
    },
    Client {
        name: "Go net/http, HTTP/1.1",
        protocol: Protocol::Http,
        program: Program::Go(&[]),
        speaks: Some(Spoken::Http11),
        base: "`http.Get(\"http://127.0.0.1:8080/api/...\")`",
        environment: "`HTTP_PROXY=http://127.0.0.1:8080`; not for URLs of this machine, which Go never proxies",
        setting: None,
        tunnel: By::Variable(TUNNEL),
        roots: Some("SSL_CERT_FILE"),
    },
    Client {
        name: "Go net/http, HTTP/2",
        protocol: Protocol::Http,
        program: Program::Go(&["2"]),
        speaks: Some(Spoken::Http2),
        base: "`transport.Protocols.SetUnencryptedHTTP2(true)`",
        environment: VARIABLE,
        setting: None,
        tunnel: By::Variable(TUNNEL),
        roots: Some("SSL_CERT_FILE"),
    },
    Client {
        name: "Java HttpClient",
        protocol: Protocol::Http,
        program: Program::Java,
        speaks: None,
        base: "`URI.create(\"http://127.0.0.1:8080/api/...\")`",
        environment: VARIABLE,
        setting: Some("`java -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=8080`"),
        tunnel: By::Setting(
            "`java -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=8080 -Djavax.net.ssl.trustStore=roots.p12 -Djavax.net.ssl.trustStorePassword=changeit`",
        ),
        roots: None,
    },
    Client {
        name: "openai (Python)",
        protocol: Protocol::Http,
        program: Program::Python("with_openai.py", &[]),
        speaks: None,
        base: "`OPENAI_BASE_URL=http://127.0.0.1:8080/api`, `OPENAI_API_KEY=none`",
        environment: "`OPENAI_BASE_URL=http://api.openai.com/v1` and `HTTP_PROXY=http://127.0.0.1:8080`",
        setting: None,
        tunnel: By::Variable(TUNNEL),
        roots: Some("SSL_CERT_FILE"),
    },
    Client {
        name: "boto3, S3",
        protocol: Protocol::Http,
        program: Program::Python("with_boto3.py", &[]),
        speaks: None,
        base: "`AWS_ENDPOINT_URL=http://127.0.0.1:8080/api`",
        environment: "`AWS_ENDPOINT_URL=http://...` and `HTTP_PROXY=http://127.0.0.1:8080`",
        setting: None,
        tunnel: By::Variable(TUNNEL),
        roots: Some("AWS_CA_BUNDLE"),
    },
    Client {
        name: "grpcio (Python)",
        protocol: Protocol::Grpc,
        program: Program::Python("with_grpcio.py", &[]),
        speaks: Some(Spoken::Http2),
        base: "`grpc.insecure_channel(\"127.0.0.1:8080\", [(\"grpc.default_authority\", \"api.localhost\")])`",
        environment: NONE,
        setting: None,
        tunnel: By::Variable(TUNNEL),
        roots: Some("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"),
    },
    Client {
        name: "websockets (Python)",
        protocol: Protocol::WebSocket,
        program: Program::Python("with_websockets.py", &[]),
        speaks: Some(Spoken::Http11),
        base: "`connect(\"ws://127.0.0.1:8080/api/...\")`",
        environment: NONE,
        setting: None,
        tunnel: By::Variable(TUNNEL),
        roots: Some("SSL_CERT_FILE"),
    },
    Client {
        name: "git",
        protocol: Protocol::Git,
        program: Program::Python("with_git.py", &[]),
        speaks: None,
        base: "`git clone http://127.0.0.1:8080/api/...`",
        environment: "`http_proxy=http://127.0.0.1:8080`, in lower case",
        setting: None,
        tunnel: By::Variable(TUNNEL),
        roots: Some("GIT_SSL_CAINFO"),
    },
];

impl Protocol {
    pub fn steps(self) -> &'static [Step] {
        match self {
            Self::Http => HTTP,
            Self::Grpc => GRPC,
            Self::WebSocket => WEB_SOCKET,
            Self::Git => GIT,
        }
    }

    /// The upstream that speaks it, by the name that the proxy knows.
    pub fn host(self) -> &'static str {
        match self {
            Self::Http => "api.peers.test",
            Self::Grpc => "grpc.peers.test",
            Self::WebSocket => "ws.peers.test",
            Self::Git => "git.peers.test",
        }
    }

    /// The route to it.
    pub fn route(self) -> &'static str {
        match self {
            Self::Http => "api",
            Self::Grpc => "grpc",
            Self::WebSocket => "ws",
            Self::Git => "git",
        }
    }
}

impl Client {
    /// The ways that are measured: another than the variable only where there is one.
    pub fn ways(&self) -> Vec<Way> {
        let mut ways = match self.protocol {
            // A channel has no path.
            Protocol::Grpc => vec![Way::Authority, Way::Label, Way::Environment],
            Protocol::Http | Protocol::WebSocket | Protocol::Git => vec![Way::Prefix, Way::Label, Way::Environment],
        };
        ways.extend(self.setting.map(|_| Way::Setting));
        ways.push(Way::Tunnel);
        ways.extend(matches!(self.tunnel, By::Setting(_)).then_some(Way::TunnelSetting));
        ways
    }

    /// What starts it. `folder` holds what was built.
    pub fn command(&self, way: Way, proxy: SocketAddr, folder: &Path) -> Command {
        let sources = package().join("tests/clients");
        let installed = package().join(".tools/clients-venv/bin");
        let program = |program: OsString, arguments: Vec<OsString>| {
            let mut command = Command::new(program);
            command.args(arguments);
            command
        };
        let mut command = match &self.program {
            Program::Python(file, arguments) => {
                let words = std::iter::once(sources.join(file).into()).chain(arguments.iter().map(OsString::from));
                program(installed.join("python").into(), words.collect())
            }
            // Node.js looks for packages beside the program and above it.
            Program::Node(file) => program(tool("node").into(), vec![folder.join(file).into()]),
            Program::Node24(file) => program(node24(&installed), vec![folder.join(file).into()]),
            Program::Go(arguments) => program(folder.join("go").into(), arguments.iter().map(OsString::from).collect()),
            Program::Java => {
                let mut words =
                    vec!["-XX:TieredStopAtLevel=1".to_owned(), "-cp".to_owned(), folder.display().to_string()];
                words.extend(properties(way, proxy, folder));
                words.push("WithHttpClient".to_owned());
                program(tool("java").into(), words.into_iter().map(OsString::from).collect())
            }
        };
        command.env("HOME", folder).env("PYTHONDONTWRITEBYTECODE", "1");
        let proxy = format!("http://{proxy}");
        match way {
            Way::Environment => {
                command.envs([("HTTP_PROXY", &proxy), ("http_proxy", &proxy)]).env("NODE_USE_ENV_PROXY", "1");
            }
            Way::Tunnel => {
                command.envs([("HTTPS_PROXY", &proxy), ("https_proxy", &proxy)]).env("NODE_USE_ENV_PROXY", "1");
            }
            Way::Prefix | Way::Label | Way::Authority | Way::Setting | Way::TunnelSetting => {}
        }
        if way.is_tunnel() {
            command.envs(self.roots.map(|name| (name, folder.join(ROOTS))));
        }
        command
    }
}

/// The properties by which Java is told of a proxy, and whom to trust.
fn properties(way: Way, proxy: SocketAddr, folder: &Path) -> Vec<String> {
    let (host, port) = (proxy.ip(), proxy.port());
    match way {
        Way::Setting => vec![format!("-Dhttp.proxyHost={host}"), format!("-Dhttp.proxyPort={port}")],
        Way::TunnelSetting => vec![
            format!("-Dhttps.proxyHost={host}"),
            format!("-Dhttps.proxyPort={port}"),
            format!("-Djavax.net.ssl.trustStore={}", folder.join(TRUST_STORE).display()),
            format!("-Djavax.net.ssl.trustStorePassword={TRUST_STORE_PASSWORD}"),
        ],
        Way::Prefix | Way::Label | Way::Authority | Way::Environment | Way::Tunnel => Vec::new(),
    }
}

impl Way {
    pub fn is_tunnel(self) -> bool {
        matches!(self, Self::Tunnel | Self::TunnelSetting)
    }
}

fn node24(installed: &Path) -> OsString {
    let found = installed.join("node24");
    assert!(found.is_file(), "{} is not there: `make test` installs it", found.display());
    found.into()
}
