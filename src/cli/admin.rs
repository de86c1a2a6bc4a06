//! The admin API of the running proxy, called from the command line.
//!
//! ```text
//! --admin, $COUNTERSIGN_ADMIN, the config ─▶ Address ─▶ one request ─▶ JSON | Failed, which knows its exit code
//! ```

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::shown::Shown;
use super::{CONFIG, ConfigOption, NOT_ALLOWED, UNREACHABLE, USAGE, runtime, say};
use crate::authority::{Endpoint, Scheme};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config, Environment};
use crate::proxy::Address;
use crate::secret::Reference;
use crate::tls::{Alpn, Identity, Settings as TlsSettings};

/// The largest answer that is read.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// For a call and its whole answer. The proxy may ask an issuer meanwhile.
const PATIENCE: Duration = Duration::from_secs(90);

/// The variables that stand for the options.
const ADMIN_VARIABLE: &str = "COUNTERSIGN_ADMIN";
const KEY_VARIABLE: &str = "COUNTERSIGN_OPERATOR_KEY";

/// Where the running proxy is called, and as whom.
#[derive(Args)]
pub struct AdminOption {
    #[command(flatten)]
    config: ConfigOption,
    /// Where operators come in: a socket's path, `127.0.0.1:PORT`, or `https://NAME:PORT` [default: $COUNTERSIGN_ADMIN, then
    /// `listen` in [admin] of the config]
    #[arg(long, value_name = "ADDRESS", value_parser = Place::parse)]
    admin: Option<Place>,
    /// The file of the operator's key [default: $COUNTERSIGN_OPERATOR_KEY is the key, else the user says who calls]
    #[arg(long, value_name = "FILE")]
    operator_key: Option<PathBuf>,
    /// The operator's client certificate, with its chain, for `https://`
    #[arg(long, value_name = "FILE", requires = "certificate_key")]
    certificate: Option<PathBuf>,
    /// The private key of that certificate
    #[arg(long, value_name = "FILE", requires = "certificate")]
    certificate_key: Option<PathBuf>,
    /// Whose certificate to trust, for `https://` [default: the system's roots]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print what the proxy answers, as JSON
    #[arg(long)]
    pub json: bool,
}

/// Why a call brought no answer.
#[derive(Debug)]
pub enum Failed {
    /// There is no address to call.
    Nowhere(String),
    /// A variable that stands for an option is no such thing.
    Variable(String),
    Unreachable(String, anyhow::Error),
    /// What we would prove ourselves with cannot be read.
    Proof(anyhow::Error),
    /// The proxy's own words.
    Refused(StatusCode, Value),
}

impl Failed {
    /// Says it on standard error, and as what exit code.
    pub fn tell(self, json: bool) -> ExitCode {
        match self {
            Self::Nowhere(why) => {
                eprintln!("countersign: {why}");
                ExitCode::from(CONFIG)
            }
            Self::Variable(why) => {
                eprintln!("countersign: {why}");
                ExitCode::from(USAGE)
            }
            Self::Unreachable(place, error) => {
                eprintln!("countersign: the proxy cannot be reached at {place}: {error:#}");
                ExitCode::from(UNREACHABLE)
            }
            Self::Proof(error) => {
                eprintln!("countersign: {error:#}");
                ExitCode::from(NOT_ALLOWED)
            }
            Self::Refused(status, problem) => {
                let text = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
                if json {
                    say(&format!("{problem:#}"));
                }
                eprintln!("countersign: {} ({})", text("detail"), text("reason"));
                for problem in problem["problems"].as_array().into_iter().flatten() {
                    let words = |key: &str| problem[key].as_str().unwrap_or_default();
                    eprintln!("{}:{}: {}: {}", words("file"), problem["line"], words("severity"), words("message"));
                }
                let barred = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
                if barred { ExitCode::from(NOT_ALLOWED) } else { ExitCode::FAILURE }
            }
        }
    }
}

impl AdminOption {
    /// Calls, and shows what comes of it.
    pub fn show(&self, method: Method, path: &str, body: &Value, shown: &Shown) -> ExitCode {
        match self.call(method, path, body) {
            Err(failed) => failed.tell(self.json),
            Ok(answer) => {
                say(&if self.json { format!("{answer:#}") } else { shown.of(&answer) });
                ExitCode::SUCCESS
            }
        }
    }

    /// Calls the running proxy.
    ///
    /// # Errors
    /// When there is none, or it refuses.
    pub fn call(&self, method: Method, path: &str, body: &Value) -> Result<Value, Failed> {
        let place = self.place()?;
        let key = self.key().map_err(Failed::Proof)?;
        let mut request = Request::builder().method(&method).uri(path).header(ACCEPT, "application/json");
        let body = if method == Method::GET { Bytes::new() } else { Bytes::from(body.to_string()) };
        if method != Method::GET {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(key) = key {
            request = request.header(AUTHORIZATION, key);
        }
        let request = request.header(HOST, place.host()).body(Full::new(body));
        let exchange = async {
            let request = request.context("a bad request")?;
            let answering = tokio::time::timeout(PATIENCE, place.exchange(request, self));
            answering.await.with_context(|| format!("no answer within {} s", PATIENCE.as_secs()))?
        };
        let answer = runtime().and_then(|runtime| runtime.block_on(exchange));
        let (status, body) = answer.map_err(|error| Failed::Unreachable(place.to_string(), error))?;
        match serde_json::from_slice(&body) {
            Ok(answer) if status.is_success() => Ok(answer),
            Ok(problem) => Err(Failed::Refused(status, problem)),
            Err(_) => {
                let error = anyhow::anyhow!("it answers {status}, and not in JSON: is it countersign's [admin]?");
                Err(Failed::Unreachable(place.to_string(), error))
            }
        }
    }

    fn place(&self) -> Result<Place, Failed> {
        if let Some(place) = &self.admin {
            return Ok(place.clone());
        }
        if let Some(written) = std::env::var(ADMIN_VARIABLE).ok().filter(|text| !text.is_empty()) {
            return Place::parse(&written).map_err(|why| Failed::Variable(format!("${ADMIN_VARIABLE}: {why}")));
        }
        let environment = Environment::of_this_process(SystemClock.now());
        let path = config::find(self.config.config.as_deref(), &environment);
        let path = path.map_err(|error| Failed::Nowhere(format!("{error}\n  help: say where it is with --admin")))?;
        let config = Config::load(&path, &environment).map_err(|error| Failed::Nowhere(error.to_string()))?;
        Ok(Place::of(&config))
    }

    fn key(&self) -> anyhow::Result<Option<HeaderValue>> {
        let reference = match &self.operator_key {
            Some(file) => Reference::File(std::path::absolute(file)?),
            None if std::env::var_os(KEY_VARIABLE).is_some_and(|key| !key.is_empty()) => {
                Reference::Env(KEY_VARIABLE.to_owned())
            }
            None => return Ok(None),
        };
        let key = reference.resolve().with_context(|| format!("cannot read the operator's key from {reference}"))?;
        Ok(Some(key.header_value("Bearer ", "").context("the operator's key")?))
    }

    fn tls(&self) -> anyhow::Result<TlsSettings> {
        let identity = match (&self.certificate, &self.certificate_key) {
            (Some(certificate), Some(key)) => {
                Some(Identity { certificate: certificate.clone(), key: Reference::File(std::path::absolute(key)?) })
            }
            _ => None,
        };
        Ok(TlsSettings { ca: self.ca.clone(), identity, pins: Vec::new() })
    }
}

/// Where the admin API is.
#[derive(Clone, Debug)]
enum Place {
    /// The first of these that is there.
    Unix(Vec<PathBuf>),
    Plain(SocketAddr),
    /// A name and a port.
    Tls(String, u16),
}

impl Place {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(path) = text.strip_prefix("unix:").or(text.starts_with(['/', '.']).then_some(text)) {
            return Ok(Self::Unix(vec![PathBuf::from(path)]));
        }
        if let Ok(address) = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/').parse::<SocketAddr>() {
            return if address.ip().is_loopback() { Ok(Self::Plain(address)) } else { Err(SHAPE) };
        }
        match Endpoint::parse(text) {
            Ok(endpoint) if endpoint.scheme == Scheme::Https => {
                let host = endpoint.authority.host.to_string();
                Ok(Self::Tls(host.trim_matches(['[', ']']).to_owned(), endpoint.authority.port))
            }
            Ok(_) | Err(_) => Err(SHAPE),
        }
    }

    fn of(config: &Config) -> Self {
        match &config.admin.listen {
            Address::Unix(path) => Self::Unix([path].into_iter().chain(&config.admin.elsewhere).cloned().collect()),
            Address::Tcp(address) | Address::Tls(address) => {
                let ip = crate::app::environment::reachable(address.ip());
                match config.admin.tls {
                    Some(_) => Self::Tls(ip.to_string(), address.port()),
                    None => Self::Plain(SocketAddr::new(ip, address.port())),
                }
            }
        }
    }

    fn host(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Plain(address) => address.to_string(),
            Self::Tls(name, port) if name.contains(':') => format!("[{name}]:{port}"),
            Self::Tls(name, port) => format!("{name}:{port}"),
        }
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        option: &AdminOption,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        match self {
            Self::Unix(paths) => send(unix(paths).await?, request).await,
            Self::Plain(address) => send(TcpStream::connect(address).await?, request).await,
            Self::Tls(name, port) => {
                let connector = TlsConnector::from(option.tls()?.client_config(Alpn::Http1)?);
                let stream = TcpStream::connect((name.as_str(), *port)).await?;
                let name = rustls_pki_types::ServerName::try_from(name.clone())?;
                let secured = connector.connect(name, stream).await;
                send(secured.map_err(|error| anyhow::anyhow!(crate::tls::explain(&error)))?, request).await
            }
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(paths) => {
                let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
                f.write_str(&paths.join(" or "))
            }
            Self::Plain(address) => write!(f, "{address}"),
            Self::Tls(..) => write!(f, "https://{}", self.host()),
        }
    }
}

const SHAPE: &str = "it is a socket's path, a loopback address with a port, or an https:// URL";

/// The first that can be connected to. What the error says is of the first that is there at all.
async fn unix(paths: &[PathBuf]) -> anyhow::Result<UnixStream> {
    let mut failed = None;
    for path in paths {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                let absent = error.kind() == std::io::ErrorKind::NotFound;
                if failed.is_none() || !absent {
                    failed = Some(error);
                }
            }
        }
    }
    Err(failed.map_or_else(|| anyhow::anyhow!("nobody says where"), anyhow::Error::from))
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(anyhow::Error::from_boxed)?;
        Ok((status, body.to_bytes()))
    };
    let driving = async {
        // What goes wrong with the connection is told to the exchange.
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        answer = answer => answer,
        never = driving => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_path_a_loopback_address_or_an_https_url() {
        for (text, expected) in [
            ("/run/a.sock", "/run/a.sock"),
            ("unix:/run/a.sock", "/run/a.sock"),
            ("./a.sock", "./a.sock"),
            ("127.0.0.1:9190", "127.0.0.1:9190"),
            ("http://127.0.0.1:9190/", "127.0.0.1:9190"),
            ("[::1]:9190", "[::1]:9190"),
            ("https://proxy.example", "https://proxy.example:443"),
            ("https://[2001:db8::1]:9190", "https://[2001:db8::1]:9190"),
        ] {
            assert_eq!(Place::parse(text).map(|place| place.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for bad in ["", "localhost", "10.0.0.1:9190", "http://proxy.example:9190", "https://", "ftp://a"] {
            assert!(Place::parse(bad).is_err(), "{bad}: a key would cross the network in the clear, or reach nobody");
        }
    }
}
