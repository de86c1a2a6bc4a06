//! HTTP client for our own calls: to issuers, and to whoever is told of an alert.
//!
//! ```text
//! Call → dial (judged, verified) → one HTTP/1.1 exchange on a fresh connection → Answer
//! ```
//!
//! Invariant: a call ends. Its time, its head and its body are bounded, nothing is retried and no redirect is followed;
//! the connection is driven inside of the call, so that dropping the call leaves nothing running behind.

use std::convert::Infallible;
use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::AlertDescription;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::announced::{self, Announcements, Party};
use crate::authority::Endpoint;
use crate::clock::Moment;
use crate::dial::{DialError, Dialer, Stream, Target};
use crate::tls::{self, Alpn, Security};

/// Makes calls. It keeps no connection and belongs to no runtime.
pub struct Fetcher {
    dialer: Arc<Dialer>,
    announcements: Arc<Announcements>,
}

/// Whom to call: a URL, and how a connection to it is protected.
#[derive(Debug)]
pub struct Remote {
    endpoint: Endpoint,
    tls: tls::Settings,
    /// As the files of `tls` were when they were read last.
    security: Arc<Mutex<Option<(tls::Content, Security)>>>,
    host: HeaderValue,
    target: Uri,
    way: Way,
}

/// How a remote is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// As whatever is dialled: metadata services are closed.
    Judged,
    /// It may be a metadata service.
    Metadata,
}

/// One request.
pub struct Call<'a> {
    pub method: Method,
    pub remote: &'a Remote,
    pub headers: HeaderMap,
    pub body: Zeroizing<Vec<u8>>,
}

/// What came back, whatever its status.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Zeroizing<Vec<u8>>,
}

/// The head of what came back.
pub struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
}

/// How long `Retry-After` asks to wait, in either of its forms (RFC 9110, section 10.2.3), within reason.
pub fn retry_after(value: &[u8], now: Moment) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let asked = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
        Duration::from_secs(u64::try_from(date.as_second()).unwrap_or(0)).saturating_sub(now.wall)
    };
    Some(asked.min(LONGEST_WAIT))
}

/// Why an endpoint cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error("{0} cannot be written into a request")]
    NotRequestable(Endpoint),
}

/// Why there is no answer. No text holds bytes of one.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error("{}", tls::describe(*.0))]
    Alert(AlertDescription),
    #[error("no complete answer within {} s", TOTAL.as_secs())]
    Timeout,
    #[error("the head of the answer is larger than {} KiB", MAX_HEAD / 1024)]
    HeadTooLarge,
    #[error("the body of the answer is larger than {} KiB", MAX_BODY / 1024)]
    BodyTooLarge,
    #[error("the query cannot be written into a request")]
    Unwritable,
    #[error("the connection ended before the answer did")]
    CutOff,
    #[error("the answer is not sound HTTP/1.1: {0}")]
    NotHttp(hyper::Error),
}

impl FetchError {
    /// Whether the other side may have got the call.
    pub fn may_have_arrived(&self) -> bool {
        match self {
            Self::Dial(_) | Self::Tls(_) | Self::Alert(_) | Self::Unwritable => false,
            Self::Timeout | Self::HeadTooLarge | Self::BodyTooLarge | Self::CutOff | Self::NotHttp(_) => true,
        }
    }
}

impl Remote {
    /// # Errors
    /// When the roots for `https` cannot be read. Secrets are read when they are used.
    pub fn new(endpoint: Endpoint, tls: &tls::Settings) -> Result<Self, RemoteError> {
        let host = endpoint.authority.to_header(endpoint.scheme);
        let (Ok(host), Ok(target)) = (HeaderValue::from_str(&host), Uri::try_from(&endpoint.path)) else {
            return Err(RemoteError::NotRequestable(endpoint));
        };
        Security::new(endpoint.scheme, &tls.without_identity(), ALPN)?;
        Ok(Self { endpoint, tls: tls.clone(), security: Arc::default(), host, target, way: Way::Judged })
    }

    /// With this query, which is encoded already.
    ///
    /// # Errors
    /// When it cannot be written into a request.
    pub fn asking(self, query: &str) -> Result<Self, RemoteError> {
        match Uri::try_from(format!("{}?{query}", self.endpoint.path)) {
            Ok(target) => Ok(Self { target, ..self }),
            Err(_) => Err(RemoteError::NotRequestable(self.endpoint)),
        }
    }

    /// What lies under it, of the same party; `path` starts with a slash, and may have a query.
    ///
    /// # Errors
    /// When it cannot be written into a request.
    pub fn below(&self, path: &str) -> Result<Self, RemoteError> {
        let endpoint = self.endpoint.below(path);
        let (tls, security, host) = (self.tls.clone(), self.security.clone(), self.host.clone());
        match Uri::try_from(&endpoint.path) {
            Ok(target) => Ok(Self { endpoint, tls, security, host, target, way: self.way }),
            Err(_) => Err(RemoteError::NotRequestable(endpoint)),
        }
    }

    /// The metadata service of the machine's cloud, which nothing else may call.
    #[must_use]
    pub fn of_metadata(self) -> Self {
        Self { way: Way::Metadata, ..self }
    }

    /// Files that were replaced are read anew, as a secret is: roots and certificates have short lives too.
    fn security(&self) -> Result<Security, tls::Error> {
        let content = self.tls.content();
        let mut last = self.security.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((same, security)) if *same == content => Ok(security.clone()),
            _ => {
                let security = Security::new(self.endpoint.scheme, &self.tls, ALPN)?;
                *last = Some((content, security.clone()));
                Ok(security)
            }
        }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Fetcher {
    pub fn new(dialer: Arc<Dialer>) -> Self {
        Self { dialer, announcements: Arc::default() }
    }

    /// Whoever takes these is told what is called and announces its end.
    #[must_use]
    pub fn telling(self, announcements: Arc<Announcements>) -> Self {
        Self { announcements, ..self }
    }

    /// Makes the call and takes its answer, redirects included, within ten seconds.
    ///
    /// # Errors
    /// When there is no connection, or no sound and complete answer of a bounded size in time.
    pub async fn send(&self, call: Call<'_>) -> Result<Answer, FetchError> {
        self.send_asking(call, None).await
    }

    /// As [`Fetcher::send`], with this query, which is encoded and may be a secret.
    ///
    /// # Errors
    /// As [`Fetcher::send`].
    pub async fn send_asking(&self, call: Call<'_>, query: Option<&HeaderValue>) -> Result<Answer, FetchError> {
        let remote = call.remote;
        let exchange = self.exchange(remote, written(call, query)?, async |head: Head, body| {
            Ok(Answer { status: head.status, headers: head.headers, body: read(body).await? })
        });
        timeout(TOTAL, exchange).await.map_err(|_| FetchError::Timeout)?
    }

    /// As [`Fetcher::send`], with this query, which is encoded and may be a secret; only the head of the answer is taken.
    ///
    /// # Errors
    /// When there is no connection, or no sound head of an answer in time.
    pub async fn look(&self, call: Call<'_>, query: Option<&HeaderValue>) -> Result<Head, FetchError> {
        let remote = call.remote;
        let exchange = self.exchange(remote, written(call, query)?, async |head, _| Ok(head));
        timeout(TOTAL, exchange).await.map_err(|_| FetchError::Timeout)?
    }

    async fn exchange<T>(
        &self,
        remote: &Remote,
        request: Request<Full<Bytes>>,
        take: impl AsyncFnOnce(Head, Incoming) -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        let security = remote.security()?;
        let target = Target { authority: &remote.endpoint.authority, security: &security, timeout: TO_CONNECT };
        let connection = match remote.way {
            Way::Judged => self.dialer.connect(&target).await?,
            Way::Metadata => self.dialer.connect_to_metadata(&target).await?,
        };
        let (mut sender, driver) = http1::Builder::new()
            .max_header_size(MAX_HEAD)
            .handshake::<TokioIo<Stream>, Full<Bytes>>(TokioIo::new(connection.io))
            .await
            .map_err(failure)?;

        let answer = async {
            let response = sender.send_request(request).await.map_err(failure)?;
            let (head, body) = response.into_parts();
            self.announced(remote, &head.headers);
            take(Head { status: head.status, headers: head.headers }, body).await
        };
        let driving = async {
            // What goes wrong with the connection is told to the exchange, which may also still have bytes to take.
            let _ = driver.await;
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            answer = answer => answer,
            never = driving => match never {},
        }
    }
}

impl Fetcher {
    /// Without the links of the answer: whoever is called to prove who we are is told secrets, and may repeat them.
    fn announced(&self, remote: &Remote, headers: &HeaderMap) {
        let (deprecation, sunset) = (headers.get(announced::DEPRECATION), headers.get(announced::SUNSET));
        if deprecation.is_some() || sunset.is_some() {
            let party = Party::Issuer(remote.endpoint.to_string());
            if let Some(voice) = self.announcements.voice(&party) {
                voice.says(deprecation, sunset, std::iter::empty());
            }
        }
    }
}

fn written(call: Call<'_>, query: Option<&HeaderValue>) -> Result<Request<Full<Bytes>>, FetchError> {
    let target = query.map(|query| asking(&call.remote.endpoint, query)).transpose()?;
    let mut request = request(call);
    if let Some(target) = target {
        *request.uri_mut() = target;
    }
    Ok(request)
}

fn request(call: Call<'_>) -> Request<Full<Bytes>> {
    // The buffer is wiped when the last of its readers is done with it.
    let mut request = Request::new(Full::new(Bytes::from_owner(call.body)));
    *request.method_mut() = call.method;
    *request.uri_mut() = call.remote.target.clone();
    let mut headers = call.headers;
    for framing in [CONTENT_LENGTH, TRANSFER_ENCODING] {
        headers.remove(framing);
    }
    headers.insert(HOST, call.remote.host.clone());
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(NAME_AND_VERSION));
    *request.headers_mut() = headers;
    request
}

/// Wiped when the last holder of the URI lets go.
fn asking(endpoint: &Endpoint, query: &HeaderValue) -> Result<Uri, FetchError> {
    let target = [endpoint.path.as_bytes(), b"?", query.as_bytes()].concat();
    Uri::from_maybe_shared(Bytes::from_owner(Zeroizing::new(target))).map_err(|_| FetchError::Unwritable)
}

/// The whole body, into one buffer that never moves: a buffer that grows leaves copies behind that nobody wipes.
async fn read(mut body: Incoming) -> Result<Zeroizing<Vec<u8>>, FetchError> {
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(FetchError::BodyTooLarge);
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BODY));
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(failure)?.into_data() else { continue };
        if data.len() > MAX_BODY - bytes.len() {
            return Err(FetchError::BodyTooLarge);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn failure(error: hyper::Error) -> FetchError {
    let io = matches!(error.source(), Some(source) if source.is::<io::Error>());
    if let Some(alert) = tls::alert(&error) {
        FetchError::Alert(alert)
    } else if error.is_parse_too_large() {
        FetchError::HeadTooLarge
    } else if io || error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        FetchError::CutOff
    } else {
        FetchError::NotHttp(error)
    }
}

/// HTTP/1.1 alone: one exchange gains nothing from HTTP/2, and no issuer is without it.
const ALPN: Alpn = Alpn::Http1;

/// For a call from its first question to the resolver to the last byte of its answer.
const TOTAL: Duration = Duration::from_secs(10);

/// Whoever asks for more would have us wait for ever.
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 60);

/// For the first half of it: resolve, connect, handshake.
const TO_CONNECT: Duration = Duration::from_secs(5);

const MAX_HEAD: usize = 32 * 1024;

const MAX_BODY: usize = 64 * 1024;

const NAME_AND_VERSION: &str = concat!("countersign/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
pub mod scripted;

#[cfg(test)]
mod tests;
