//! One place that takes checkpoints.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use rustix::fs::OFlags;
use tokio::net::{UdpSocket, UnixDatagram};
use zeroize::Zeroizing;

use super::super::note::Note;
use super::{Target, syslog};
use crate::clock::Clock;
use crate::fetch::{Call, FetchError, Fetcher, Remote, RemoteError};
use crate::tls;

/// See the module.
pub enum Sink {
    Https { remote: Box<Remote>, fetcher: Arc<Fetcher> },
    SyslogSocket { path: PathBuf, clock: Arc<dyn Clock> },
    SyslogUdp { address: std::net::SocketAddr, clock: Arc<dyn Clock> },
    File(PathBuf),
}

impl Sink {
    /// # Errors
    /// When the roots for `https` cannot be read.
    pub fn new(target: &Target, fetcher: Arc<Fetcher>, clock: Arc<dyn Clock>) -> Result<Self, RemoteError> {
        Ok(match target {
            Target::Https(endpoint) => {
                let remote = Box::new(Remote::new(endpoint.clone(), &tls::Settings::default())?);
                Self::Https { remote, fetcher }
            }
            Target::SyslogSocket(path) => Self::SyslogSocket { path: path.clone(), clock },
            Target::SyslogUdp(address) => Self::SyslogUdp { address: *address, clock },
            Target::File(path) => Self::File(path.clone()),
        })
    }

    /// # Errors
    /// When it did not take the checkpoint, as far as it says.
    pub async fn send(&self, note: &Note) -> Result<(), SinkError> {
        let in_time = |sending| tokio::time::timeout(PATIENCE, sending);
        match self {
            Self::Https { remote, fetcher } => post(remote, fetcher, note).await,
            Self::SyslogSocket { path, clock } => {
                let message = syslog::message(note, clock.now());
                let socket = UnixDatagram::unbound()?;
                let sending = async { socket.send_to(&message, path).await };
                in_time(Box::pin(sending) as Sending<'_>).await.map_err(|_| SinkError::Slow)??;
                Ok(())
            }
            Self::SyslogUdp { address, clock } => {
                let message = syslog::message(note, clock.now());
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).await?;
                let sending = async { socket.send_to(&message, address).await };
                in_time(Box::pin(sending) as Sending<'_>).await.map_err(|_| SinkError::Slow)??;
                Ok(())
            }
            Self::File(path) => {
                let (path, text) = (path.clone(), note.to_string());
                // A mount that does not answer is waited for by one thread, and by nothing else.
                let writing = tokio::task::spawn_blocking(move || append(&path, &text));
                writing.await.map_err(io::Error::other)?.map_err(SinkError::Io)
            }
        }
    }
}

type Sending<'a> = std::pin::Pin<Box<dyn Future<Output = io::Result<usize>> + Send + 'a>>;

async fn post(remote: &Remote, fetcher: &Fetcher, note: &Note) -> Result<(), SinkError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    let body = Zeroizing::new(note.to_string().into_bytes());
    let answer = fetcher.send(Call { method: Method::POST, remote, headers, body }).await?;
    if answer.status.is_success() { Ok(()) } else { Err(SinkError::Status(answer.status)) }
}

/// Opens the file each time: somebody may have moved it away to begin a new one.
fn append(path: &Path, text: &str) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut file =
        File::options().append(true).create(true).mode(0o600).custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file"));
    }
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

/// Why a checkpoint was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("nobody took it within {} s", PATIENCE.as_secs())]
    Slow,
}

const PATIENCE: Duration = Duration::from_secs(5);
