//! What the tests stand on: the app in this process, an issuer and upstreams that write down what they get, a client that
//! sends exactly what it is told to.

pub mod body;
pub mod certificate;
pub mod ci;
pub mod client;
pub mod corporate;
pub mod crowd;
pub mod doubtful;
pub mod http2;
pub mod issuer;
pub mod log;
pub mod operator;
pub mod raw;
pub mod scene;
pub mod scrape;
pub mod setup;
pub mod sigv4;
pub mod trail;
pub mod upstream;

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

pub use ci::{Ci, CiKey};
pub use client::Client;
pub use crowd::Crowd;
pub use http2::Http2Client;
pub use issuer::Issuer;
pub use raw::RawUpstream;
pub use scene::Scene;
pub use setup::Setup;
pub use upstream::Upstream;

/// Whatever should happen at once has happened by then, on a busy machine too.
pub const SOON: Duration = Duration::from_secs(20);

/// Looks again and again until there is something to see.
///
/// # Panics
/// When there is nothing for longer than `deadline`.
pub async fn wait_for<T>(what: &str, deadline: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(deadline, looking).await.unwrap_or_else(|_| panic!("not within {deadline:?}: {what}"))
}

/// Looks again and again until something is so.
///
/// # Panics
/// When it is not for longer than `deadline`.
pub async fn wait_until(what: &str, deadline: Duration, mut look: impl AsyncFnMut() -> bool) {
    wait_for(what, deadline, async || look().await.then_some(())).await;
}

/// What must not take long.
///
/// # Panics
/// When it does.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.unwrap_or_else(|_| panic!("not within {SOON:?}: {what}"))
}

/// Holds whoever passes until it is opened.
#[derive(Clone)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    pub fn closed() -> Self {
        Self(watch::Sender::new(false))
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub async fn passed(&self) {
        // The sender is held by ourselves.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}
