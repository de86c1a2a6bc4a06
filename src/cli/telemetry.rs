//! The telemetry listener of the running proxy, asked over its own protocol: plain HTTP, to an address that the config or
//! the caller names. Nothing there changes anything, and nothing secret is told.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::app::environment::reachable;
use crate::config::Config;
use crate::name::TokenName;

/// A scrape of the largest config is smaller.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// For a question and its whole answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the proxy of this config tells how it is.
pub fn address(config: &Config) -> SocketAddr {
    SocketAddr::new(reachable(config.scrape.ip()), config.scrape.port())
}

pub struct Answer {
    pub status: StatusCode,
    pub text: String,
}

/// What `/metrics` told.
pub struct Scrape(String);

impl Scrape {
    /// # Errors
    /// When the proxy cannot be reached.
    pub async fn of(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self(get(address, "/metrics").await?.text))
    }

    /// The samples of a family: their labels, and their values as written. Values of labels come from the config, whose
    /// names have neither commas nor quotation marks.
    pub fn samples<'s>(&'s self, family: &'s str) -> impl Iterator<Item = (&'s str, &'s str)> {
        let samples = self.0.lines().filter_map(move |line| line.strip_prefix(family));
        samples.filter_map(|rest| match rest.strip_prefix('{') {
            Some(labelled) => labelled.split_once("} "),
            None => Some(("", rest.strip_prefix(' ')?)),
        })
    }

    /// The value of the sample with this label.
    pub fn value(&self, family: &str, label: &str) -> Option<f64> {
        let mut samples = self.samples(family).filter(|(labels, _)| labels.split(',').any(|known| known == label));
        samples.next()?.1.parse().ok()
    }

    /// The state that a token is in.
    pub fn state_of(&self, token: &TokenName) -> Option<&str> {
        let own = format!("token=\"{token}\"");
        let mut states = self.samples("countersign_token_state");
        let (labels, _) =
            states.find(|(labels, value)| *value == "1" && labels.split(',').any(|label| label == own))?;
        labels.split(',').find_map(|label| label.strip_prefix("state=\"")?.strip_suffix('"'))
    }
}

/// `GET`, on a connection of its own.
///
/// # Errors
/// When nobody listens there, or what is there does not answer HTTP in time.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let answer = tokio::time::timeout(PATIENCE, exchange(address, path)).await;
    answer.with_context(|| format!("no answer within {} s", PATIENCE.as_secs()))?
}

async fn exchange(address: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(HOST, HeaderValue::from_str(&address.to_string())?)
        .header(CONNECTION, HeaderValue::from_static("close"))
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(anyhow::Error::from_boxed)?;
        Ok(Answer { status, text: String::from_utf8_lossy(&body.to_bytes()).into_owned() })
    };
    let driving = async {
        // What goes wrong with the connection is told to the exchange.
        let _ = connection.await;
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        answer = answer => answer,
        never = driving => match never {},
    }
}
