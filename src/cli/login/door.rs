//! Where a browser of this machine comes back to after a sign-in (RFC 8252, section 7.3): a loopback port, open until it has.
//!
//! Whoever else comes there, and cannot know the `state` of the sign-in, is sent away, and changes nothing.

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::token::source::oauth::sign_in::{Returned, Visit};
use crate::token::source::{Failure, Reason};

const PATH: &str = "/callback";

/// Nobody needs longer to sign in.
const PATIENCE: Duration = Duration::from_secs(600);

/// For one connection, and connections at a time: a browser needs one, and perhaps some for nothing.
const EACH: Duration = Duration::from_secs(10);
const MOST: usize = 16;

pub struct Door {
    listener: TcpListener,
    pub url: String,
}

impl Door {
    /// # Errors
    /// When the port is taken.
    pub async fn open(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let url = format!("http://{}{PATH}", listener.local_addr()?);
        Ok(Self { listener, url })
    }

    /// The code that the browser brings.
    ///
    /// # Errors
    /// When it brings none, or does not come.
    pub async fn code(self, visit: &Visit) -> Result<Zeroizing<String>, Failure> {
        let waiting = timeout(PATIENCE, self.serve(visit)).await;
        waiting.unwrap_or_else(|_| Err(Failure::refused(Reason::InvalidGrant, "nobody has signed in in time")))
    }

    async fn serve(self, visit: &Visit) -> Result<Zeroizing<String>, Failure> {
        let (bringing, mut brought) = mpsc::channel(1);
        let mut connections: JoinSet<()> = JoinSet::new();
        let outcome = loop {
            tokio::select! {
                Some(outcome) = brought.recv() => break outcome,
                Some(_) = connections.join_next() => {}
                Ok((tcp, _)) = self.listener.accept(), if connections.len() < MOST => {
                    let (visit, bringing) = (visit.clone(), bringing.clone());
                    connections.spawn(async move {
                        let _ = timeout(EACH, answer(tcp, &visit, &bringing)).await;
                    });
                }
            }
        };
        // The browser still reads what it is told.
        let _ = timeout(EACH, connections.join_next()).await;
        outcome
    }
}

type Bringing = mpsc::Sender<Result<Zeroizing<String>, Failure>>;

async fn answer(tcp: TcpStream, visit: &Visit, bringing: &Bringing) {
    let service = service_fn(async |request: Request<Incoming>| {
        let query = request.uri().query().unwrap_or_default();
        let returned = if request.uri().path() == PATH { visit.returned(query) } else { Returned::Stranger };
        let (status, said, outcome) = match returned {
            Returned::Stranger => (StatusCode::BAD_REQUEST, "This is not the sign-in that is waited for.\n", None),
            Returned::Code(code) => (StatusCode::OK, "Signed in: this window can be closed.\n", Some(Ok(code))),
            Returned::Failed(failure) => {
                (StatusCode::BAD_REQUEST, "Not signed in: the terminal says why.\n", Some(Err(failure)))
            }
        };
        if let Some(outcome) = outcome {
            // The first one counts.
            let _ = bringing.try_send(outcome);
        }
        Ok::<_, Infallible>(page(status, said))
    });
    // A browser that goes away has seen enough.
    let _ = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(tcp), service).await;
}

fn page(status: StatusCode, said: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(said.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
