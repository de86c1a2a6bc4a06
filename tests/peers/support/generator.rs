//! A load that does not wait: requests leave by a fixed schedule, whether or not earlier ones have been answered, over
//! connections that are kept alive. Latency counts from the moment a request was due, so a stall is seen in full.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// How many failures are described in words.
const DESCRIBED: usize = 5;

pub struct Load {
    pub address: SocketAddr,
    /// The path of request number n is `PATH?n=N`.
    pub path: String,
    /// Requests a second, over all connections.
    pub rate: u32,
    pub connections: u32,
    pub duration: Duration,
    /// Whether all connections send at the same moment, or spread over time.
    pub together: bool,
}

#[derive(Default)]
pub struct Outcome {
    pub sent: u64,
    pub statuses: BTreeMap<u16, u64>,
    /// Without an answer.
    pub broken: u64,
    /// The first failures, in words.
    pub failures: Vec<String>,
    latencies: Vec<Duration>,
}

impl Load {
    pub async fn run(&self) -> Outcome {
        let start = Instant::now() + Duration::from_millis(100);
        let mut connections = JoinSet::new();
        for number in 0..self.connections {
            connections.spawn(self.connection(number, start).run());
        }
        let mut all = Outcome::default();
        while let Some(one) = connections.join_next().await {
            all.add(one.expect("a connection's task does not panic"));
        }
        all.latencies.sort_unstable();
        all
    }

    /// How many it sends in all.
    fn requests(&self) -> u32 {
        u32::try_from(self.duration.as_millis() * u128::from(self.rate) / 1_000).expect("a load that ends")
    }

    fn connection(&self, number: u32, start: Instant) -> Connection {
        let interval = Duration::from_secs(1) * self.connections / self.rate;
        let offset = if self.together { Duration::ZERO } else { interval * number / self.connections };
        Connection {
            address: self.address,
            path: self.path.clone(),
            first: number.into(),
            step: self.connections.into(),
            start: start + offset,
            interval,
            requests: (self.requests() - number).div_ceil(self.connections),
        }
    }
}

/// One connection's part of the load: requests `first`, `first + step`, and so on.
struct Connection {
    address: SocketAddr,
    path: String,
    first: u64,
    step: u64,
    start: Instant,
    interval: Duration,
    requests: u32,
}

impl Connection {
    async fn run(self) -> Outcome {
        let mut outcome = Outcome::default();
        let mut running = JoinSet::new();
        let mut open: Option<SendRequest<Empty<Bytes>>> = None;
        for nth in 0..self.requests {
            let due = self.start + self.interval * nth;
            sleep_until(due).await;
            outcome.sent += 1;
            let number = self.first + self.step * u64::from(nth);
            match self.send(number, &mut open, &mut running).await {
                Ok((status, body)) => {
                    outcome.latencies.push(due.elapsed());
                    *outcome.statuses.entry(status.as_u16()).or_default() += 1;
                    if status != StatusCode::OK {
                        outcome.describe(|| format!("request {number}: {status}: {}", String::from_utf8_lossy(&body)));
                    }
                }
                Err(error) => {
                    open = None;
                    outcome.broken += 1;
                    outcome.describe(|| format!("request {number}: {error}"));
                }
            }
        }
        outcome
    }

    /// On the open connection, or on a new one when its other end has closed it.
    async fn send(
        &self,
        number: u64,
        open: &mut Option<SendRequest<Empty<Bytes>>>,
        running: &mut JoinSet<()>,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let mut sender = match open.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => {
                let stream = TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                running.spawn(async {
                    // Its error is also the request's.
                    let _ = connection.await;
                });
                sender
            }
        };
        sender.ready().await?;
        let request = Request::get(format!("{}?n={number}", self.path))
            .header("host", self.address.to_string())
            .body(Empty::new())
            .expect("a request");
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        *open = Some(sender);
        Ok((status, body))
    }
}

impl Outcome {
    pub fn answered(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    /// # Panics
    /// When a request got anything but 200.
    pub fn assert_none_failed(&self) {
        assert_eq!(self.answered(200), self.sent, "{self}\n{}", self.failures.join("\n"));
    }

    /// The latency that `share` of the answered requests did not exceed.
    pub fn latency(&self, share: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let at = (last as f64 * share).round() as usize;
        self.latencies.get(at).copied().unwrap_or_default()
    }

    fn describe(&mut self, failure: impl FnOnce() -> String) {
        if self.failures.len() < DESCRIBED {
            self.failures.push(failure());
        }
    }

    fn add(&mut self, other: Outcome) {
        self.sent += other.sent;
        self.broken += other.broken;
        for (status, times) in other.statuses {
            *self.statuses.entry(status).or_default() += times;
        }
        self.latencies.extend(other.latencies);
        let room = DESCRIBED - self.failures.len();
        self.failures.extend(other.failures.into_iter().take(room));
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent, answered {:?}, {} without an answer", self.sent, self.statuses, self.broken)?;
        let [half, most, all] = [0.5, 0.99, 1.0].map(|share| self.latency(share));
        write!(f, "; latency p50 {half:.1?}, p99 {most:.1?}, highest {all:.1?}")
    }
}
