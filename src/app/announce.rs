//! How the app is, and the service manager that is told of it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::proxy::Pulses;
use crate::readiness::Readiness;
use crate::systemd::Manager;

/// Until it is ready, whoever waits wants to know at once.
const BEFORE_READY: Duration = Duration::from_millis(50);

const AFTERWARDS: Duration = Duration::from_secs(1);

/// A worker that beats each second has stopped after so long, on a busy machine too.
const STANDSTILL: Duration = Duration::from_secs(5);

/// How the running app is.
#[derive(Clone)]
pub struct Vitals {
    pub(super) readiness: Arc<Readiness>,
    pub(super) pulses: Arc<Pulses>,
}

impl Vitals {
    pub fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// What readiness waits for: `token github`.
    pub fn missing(&self) -> String {
        self.readiness.missing()
    }

    /// Whether every worker works.
    fn are_alive(&self, within: Duration) -> bool {
        self.pulses.are_felt(within.max(STANDSTILL))
    }

    fn status(&self, ready: bool) -> String {
        match ready {
            true => "serving".to_owned(),
            false => format!("not ready: {}", self.missing()),
        }
    }
}

/// Tells the service manager when the app is ready, when that changes, and that it is alive.
pub async fn announce(manager: Arc<Manager>, vitals: Vitals) -> Infallible {
    if !manager.is_there() {
        std::future::pending::<()>().await;
    }
    let (mut announced, mut said, mut told_alive) = (false, String::new(), None::<Instant>);
    loop {
        let ready = vitals.is_ready();
        let status = vitals.status(ready);
        if ready && !announced {
            announced = true;
            manager.ready(&status);
        } else if status != said {
            manager.status(&status);
        }
        said = status;
        let mut pause = if announced { AFTERWARDS } else { BEFORE_READY };
        if let Some(every) = manager.watchdog() {
            pause = pause.min(every);
            // Less by a pause, so that none is late.
            let due = told_alive.is_none_or(|last| last.elapsed() + pause > every);
            if due && vitals.are_alive(every) {
                manager.alive();
                told_alive = Some(Instant::now());
            }
        }
        tokio::time::sleep(pause).await;
    }
}
