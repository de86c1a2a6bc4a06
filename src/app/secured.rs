//! The listeners under TLS: files that were replaced are taken, and handshakes that failed are told.
//!
//! Invariant: however many handshakes fail, the log gets a line for each kind of failure in a while.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::house::House;
use crate::audit::Event;
use crate::config::Config;
use crate::identity;
use crate::metrics::Metrics;
use crate::proxy::{Failed, Secured, SecuredError};
use crate::tasks::{Task, Tasks};
use crate::tls::Shown;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How often failures are told at most.
const TELL: Duration = Duration::from_secs(10);

/// `None` where no listener is under TLS.
///
/// # Errors
/// When a file cannot be read or used.
pub(super) fn open(config: &Config, metrics: &Metrics) -> Result<Option<Arc<Secured>>, SecuredError> {
    let Some(settings) = &config.proxy.tls else { return Ok(None) };
    let may_lack_one = config.clients.iter().any(identity::Settings::may_lack_certificate);
    Secured::new(settings, shown(may_lack_one), metrics).map(|secured| Some(Arc::new(secured)))
}

pub(super) fn look_after(tasks: &Tasks, house: Arc<House>) -> Option<Task> {
    let secured = house.ground.secured.clone()?;
    Some(tasks.essential("listeners under TLS", async move {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tell = Instant::now();
        loop {
            tick.tick().await;
            house.follow(&secured).await;
            if tell <= Instant::now() && tell_failures(&secured) {
                tell = Instant::now() + TELL;
            }
        }
    }))
}

impl House {
    async fn follow(&self, secured: &Arc<Secured>) {
        let certificates = shown(self.table().clients.may_lack_certificate());
        let looking = secured.clone();
        // A folder on a network may keep whoever reads it waiting, and this thread has tokens to rotate.
        let looked = tokio::task::spawn_blocking(move || looking.look(certificates)).await;
        match looked.ok().flatten() {
            None => {}
            Some(Ok(())) => {
                tracing::info!("the certificates of the listeners under TLS were replaced");
                self.ground.recorder.note(Event::ListenerCertificatesReplaced);
            }
            Some(Err(error)) => {
                let help = "`tls` in [proxy] names the files: they are looked at again when they change";
                tracing::error!(%error, help, "new certificates of the listeners under TLS are not taken: the old ones go on");
                self.ground.recorder.note(Event::ListenerCertificatesRefused { detail: error.to_string() });
            }
        }
    }
}

/// A certificate is asked of everybody, unless somebody may come without.
fn shown(may_lack_one: bool) -> Shown {
    if may_lack_one { Shown::IfThereIsOne } else { Shown::Always }
}

/// Whether there was anything to tell.
fn tell_failures(secured: &Secured) -> bool {
    let sums = secured.failed();
    for sum in &sums {
        let (why, count, error) = (sum.failed.as_str(), sum.count, &sum.what);
        let from = sum.from.map(|from| from.to_string()).unwrap_or_default();
        match sum.failed {
            // Whoever looks whether the port is open does the same.
            Failed::Gone => tracing::debug!(why, count, from, error, "handshakes of clients failed"),
            Failed::NoCertificate
            | Failed::Certificate
            | Failed::Alert
            | Failed::Protocol
            | Failed::Timeout
            | Failed::Crowded => tracing::warn!(why, count, from, error, "handshakes of clients failed"),
        }
    }
    !sums.is_empty()
}
