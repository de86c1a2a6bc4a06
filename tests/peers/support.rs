//! What the tests stand on: servers, the proxy, a load, and the reading of what was recorded.

pub mod caddy;
pub mod certificates;
pub mod echo;
pub mod generator;
pub mod github;
pub mod http;
pub mod issuer;
pub mod kubernetes;
pub mod moto;
pub mod nginx;
pub mod once;
pub mod openbao;
pub mod operators;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod relay;
pub mod squid;
pub mod trail;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{sleep, timeout};

/// Runs a test when its turn has come: one at a time, with the machine for itself.
pub fn in_turn(test: impl Future<Output = ()>) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test);
}

/// Looks again and again until there is something to see.
///
/// # Panics
/// When there is nothing for longer than `deadline`.
pub async fn wait_until<T>(what: &str, deadline: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(deadline, looking).await.unwrap_or_else(|_| panic!("not within {deadline:?}: {what}"))
}

/// How long the load lasts.
pub fn seconds() -> u64 {
    std::env::var("COUNTERSIGN_PEERS_SECONDS")
        .map_or(60, |text| text.parse().expect("COUNTERSIGN_PEERS_SECONDS is a number of seconds"))
}

/// A number that no two calls share, below the range that the kernel takes ports for outgoing connections from: a server that
/// was stopped finds its port free when it comes back.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + u16::try_from(std::process::id() % 1_000).expect("below 1000") * 10;
    (0..1_000)
        .map(|_| start + NEXT.fetch_add(1, Ordering::Relaxed))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// Bytes without a pattern, the same in every run.
pub fn noise(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(1);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

/// A command that `scripts/tools.sh` installs.
///
/// # Panics
/// When it is not there.
pub fn tool(name: &str) -> PathBuf {
    let own = package().join(".tools/venv/bin").join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).map(|folder| folder.join(name));
    std::iter::once(own)
        .chain(on_path)
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: `make test` installs it"))
}

/// The package's folder.
pub fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
