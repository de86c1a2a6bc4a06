//! Bytes in both directions, once client and upstream have agreed to speak something other than HTTP.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use prometheus::IntCounterVec;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional};

use super::h1::Upgraded;
use super::pool::Lease;
use super::progress::while_there_is_progress;
use super::rounds::Rounds;
use crate::metrics::{Error as MetricsError, Metrics as Registry};
use crate::usage::UsageGuard;

/// What a tunnel that nobody looks into may carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunnelLimits {
    /// In both directions together.
    pub bytes: u64,
    pub time: Duration,
}

impl TunnelLimits {
    const NONE: Self = Self { bytes: u64::MAX, time: Duration::MAX };
}

/// `countersign_tunnels_total{outcome}`, `countersign_tunnel_bytes_total{direction}`: of those that nobody looks into.
#[derive(Clone)]
pub struct Metrics {
    tunnels: IntCounterVec,
    bytes: IntCounterVec,
}

impl Metrics {
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        let help =
            "Tunnels that nobody looked into, by how they ended: ended, broken, idle, too_large, too_long, cut_off.";
        let bytes =
            "Bytes in tunnels that nobody looked into: request towards the upstream, response towards the client.";
        Ok(Self {
            tunnels: registry.counters("tunnels_total", help, &["outcome"])?,
            bytes: registry.counters("tunnel_bytes_total", bytes, &["direction"])?,
        })
    }

    fn ended(&self, outcome: &str) {
        self.tunnels.with_label_values(&[outcome]).inc();
    }

    fn carried(&self, sent: u64, received: u64) {
        self.bytes.with_label_values(&["request"]).inc_by(sent);
        self.bytes.with_label_values(&["response"]).inc_by(received);
    }
}

/// An upstream's half of a tunnel, which waits for the client's.
pub struct Tunnel {
    upstream: Upgraded,
    usage: UsageGuard,
    /// The longest that neither side may say anything.
    idle: Duration,
    /// The upstream's connection counts as in use, if it is a route's.
    _lease: Option<Lease>,
    /// Of one that nobody looks into.
    limits: Option<(TunnelLimits, Metrics)>,
}

impl Tunnel {
    pub fn new(upstream: Upgraded, usage: UsageGuard, idle: Duration, lease: Lease) -> Self {
        Self { upstream, usage, idle, _lease: Some(lease), limits: None }
    }

    /// One that nobody looks into.
    pub fn blind(
        upstream: Upgraded,
        usage: UsageGuard,
        idle: Duration,
        limits: TunnelLimits,
        metrics: Metrics,
    ) -> Self {
        Self { upstream, usage, idle, _lease: None, limits: Some((limits, metrics)) }
    }

    /// Carries bytes until both sides have ended, or neither says anything for too long. `early` is what the client said
    /// before it heard that the protocol had changed.
    pub async fn run(self, rounds: &Rounds, client: impl AsyncRead + AsyncWrite + Unpin, early: Bytes) {
        let Self { upstream, usage, idle, limits, _lease } = self;
        let Upgraded { io: upstream, ahead, place: _place } = upstream;
        let TunnelLimits { bytes: most, time: longest } =
            limits.as_ref().map_or(TunnelLimits::NONE, |(limits, _)| *limits);
        let metrics = limits.map(|(_, metrics)| metrics);
        let count = Rc::new(Count {
            read: [Cell::new(early.len() as u64), Cell::new(ahead.len() as u64)],
            usage: RefCell::new(usage),
            metrics,
            outcome: Cell::new("cut_off"),
        });
        let mut client = Counted { inner: client, way: SENT, count: count.clone(), most };
        let mut upstream = Counted { inner: upstream, way: RECEIVED, count: count.clone(), most };
        let carried = pin!(async {
            upstream.write_all(&early).await?;
            upstream.flush().await?;
            client.write_all(&ahead).await?;
            client.flush().await?;
            copy_bidirectional(&mut client, &mut upstream).await.map(drop)
        });
        let moving = while_there_is_progress(rounds, carried, idle, || count.bytes());
        let ended = tokio::time::timeout(longest, moving).await;
        count.outcome.set(match ended {
            Ok(Some(Ok(()))) => {
                count.usage.borrow_mut().complete();
                "ended"
            }
            Ok(Some(Err(_))) if count.bytes() > most => "too_large",
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "a tunnel broke");
                "broken"
            }
            Ok(None) => "idle",
            Err(_) => "too_long",
        });
    }
}

/// What a tunnel has carried, which is told when it is over, however that comes, and of one that lasts meanwhile.
struct Count {
    /// From the client, and from the upstream.
    read: [Cell<u64>; 2],
    usage: RefCell<UsageGuard>,
    /// Of one that nobody looks into.
    metrics: Option<Metrics>,
    outcome: Cell<&'static str>,
}

const SENT: usize = 0;
const RECEIVED: usize = 1;

impl Count {
    fn add(&self, way: usize, bytes: usize) {
        self.read[way].set(self.read[way].get() + bytes as u64);
        self.usage.borrow_mut().carried(self.read[SENT].get(), self.read[RECEIVED].get());
    }

    fn bytes(&self) -> u64 {
        self.read.iter().fold(0, |sum, read| sum.saturating_add(read.get()))
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        let [sent, received] = self.read.each_ref().map(Cell::get);
        // What was said early is all that some have carried.
        self.usage.borrow_mut().carried(sent, received);
        let outcome = self.outcome.get();
        tracing::debug!(outcome, sent, received, "a tunnel is over");
        if let Some(metrics) = &self.metrics {
            metrics.carried(sent, received);
            metrics.ended(outcome);
        }
    }
}

/// A stream whose bytes are counted as they are read.
struct Counted<S> {
    inner: S,
    way: usize,
    count: Rc<Count>,
    /// By both ways together.
    most: u64,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        self.count.add(self.way, buffer.filled().len() - before);
        if self.count.bytes() > self.most {
            return Poll::Ready(Err(io::Error::other("the tunnel has carried as much as it may")));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
