//! A sink's task: takes from the board what the sink is to be told, and tries until it has it.
//!
//! ```text
//! first on the board ─▶ call ─▶ 2xx: told
//!                        ├─ 410: never again
//!                        ├─ another 4xx: five times, then dropped
//!                        └─ anything else: for a day, with growing delays and no sooner than Retry-After says
//! ```

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use zeroize::Zeroizing;

use super::alertmanager::{self, AGAIN};
use super::board::Telling;
use super::sink::{Place, Settings};
use super::webhook::{self, SignError};
use super::{Alert, DELIVERED, DROPPED, FAILED, Shared};
use crate::backoff::Backoff;
use crate::clock::Moment;
use crate::fetch::{Answer, Call, FetchError, Fetcher, Remote, retry_after};
use crate::tasks::{Task, Tasks};

/// Between attempts.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(300) };

/// How long is tried to tell one thing.
const WORTH_TELLING: Duration = Duration::from_secs(24 * 3600);

/// How often is tried what the sink refuses.
const REFUSALS: u32 = 5;

/// How often is looked whether something is to be told again.
const LOOK: Duration = Duration::from_secs(1);

/// Why a sink does not know what it was to be told.
#[derive(Debug, thiserror::Error)]
enum Untold {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error("the answer is {0}")]
    Later(StatusCode, Option<Duration>),
    #[error("the answer is {0}")]
    Refused(StatusCode),
    #[error("the answer is 410 Gone: it is not told any more until its entry changes or a restart")]
    Gone,
}

pub(super) fn start(
    shared: &Arc<Shared>,
    settings: &Settings,
    place: Place,
    fetcher: &Arc<Fetcher>,
    tasks: &Tasks,
) -> Task {
    let instance = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let (shared, settings, fetcher) = (shared.clone(), settings.clone(), fetcher.clone());
    let name = format!("alerts to {}", settings.name);
    let messenger = Messenger { shared, settings, place, fetcher, instance, resent: None };
    tasks.essential(&name, async move { match messenger.work().await {} })
}

struct Messenger {
    shared: Arc<Shared>,
    settings: Settings,
    place: Place,
    fetcher: Arc<Fetcher>,
    /// This machine.
    instance: String,
    /// When all that is open was told last.
    resent: Option<Moment>,
}

impl Messenger {
    async fn work(mut self) -> Infallible {
        let mut changes = self.shared.changes.subscribe();
        let mut failures = 0;
        loop {
            let (tellings, again) = self.next();
            if tellings.is_empty() && again.is_empty() {
                tokio::select! {
                    // The sender is held right here.
                    _ = changes.changed() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
                continue;
            }
            match self.tell(&tellings, &again).await {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!(sink = %self.settings.name, "alerts are delivered again");
                    }
                    failures = 0;
                    tellings.iter().for_each(|telling| self.told(telling, DELIVERED));
                }
                Err(Untold::Gone) => match self.leave().await {},
                Err(error) => {
                    failures += 1;
                    self.failed(&tellings, &error, failures);
                    let least = if let Untold::Later(_, Some(least)) = error { least } else { Duration::ZERO };
                    tokio::time::sleep(BACKOFF.delay(failures, fastrand::f64()).max(least)).await;
                }
            }
        }
    }

    /// What to tell next, and what to tell again. Nothing that is too old.
    fn next(&self) -> (Vec<Telling>, Vec<Alert>) {
        let (name, now) = (&self.settings.name, self.shared.clock.now());
        let (old, tellings): (Vec<Telling>, Vec<Telling>) = {
            let board = self.shared.board();
            let next = board.next(name).into_iter().cloned();
            next.partition(|telling| telling.since.saturating_add(WORTH_TELLING) <= now.wall)
        };
        for telling in old {
            tracing::error!(sink = %name, alert = telling.alert.name, "an alert could not be delivered for a day: it is dropped");
            self.told(&telling, DROPPED);
        }
        let most = match self.place {
            Place::Webhook(..) => 1,
            Place::Alertmanager(_) => alertmanager::MOST,
        };
        (tellings.into_iter().take(most).collect(), self.again(now))
    }

    /// Of what is open, Alertmanager is told again and again.
    fn again(&self, now: Moment) -> Vec<Alert> {
        match self.place {
            Place::Alertmanager(_) if self.is_due(now) => {
                self.shared.board().known(&self.settings.name).cloned().collect()
            }
            Place::Alertmanager(_) | Place::Webhook(..) => Vec::new(),
        }
    }

    fn is_due(&self, now: Moment) -> bool {
        self.resent.is_none_or(|resent| resent.after(AGAIN).reached(now))
    }

    async fn tell(&mut self, tellings: &[Telling], again: &[Alert]) -> Result<(), Untold> {
        let (now, runbooks) = (self.shared.clock.now(), self.settings.runbooks.as_ref());
        match &self.place {
            Place::Webhook(remote, secret) => {
                for telling in tellings {
                    let body = webhook::body(telling, &self.instance, runbooks);
                    let headers = webhook::headers(telling, &body, secret, now.wall).await?;
                    self.post(remote, headers, body).await?;
                }
            }
            Place::Alertmanager(remote) => {
                let json = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
                if !tellings.is_empty() {
                    let body = alertmanager::body(tellings, [], &self.instance, runbooks, now.wall);
                    self.post(remote, json.clone(), body).await?;
                }
                for some in again.chunks(alertmanager::MOST) {
                    let body = alertmanager::body([], some, &self.instance, runbooks, now.wall);
                    self.post(remote, json.clone(), body).await?;
                }
                if self.is_due(now) {
                    self.resent = Some(now);
                }
            }
        }
        Ok(())
    }

    async fn post(&self, remote: &Remote, headers: HeaderMap, body: Vec<u8>) -> Result<(), Untold> {
        let call = Call { method: Method::POST, remote, headers, body: Zeroizing::new(body) };
        let answer = self.fetcher.send(call).await?;
        match answer.status {
            status if status.is_success() => Ok(()),
            StatusCode::GONE if matches!(self.place, Place::Webhook(..)) => Err(Untold::Gone),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Err(Untold::Later(answer.status, wait(&answer, self.shared.clock.now())))
            }
            status if status.is_client_error() => Err(Untold::Refused(status)),
            status => Err(Untold::Later(status, wait(&answer, self.shared.clock.now()))),
        }
    }

    fn told(&self, telling: &Telling, outcome: &str) {
        self.shared.board().told(&self.settings.name, telling);
        self.shared.figures.count(&self.settings.name, outcome);
        self.shared.changed();
    }

    fn failed(&self, tellings: &[Telling], error: &Untold, failures: u32) {
        let name = &self.settings.name;
        self.shared.figures.count(name, FAILED);
        if failures == 1 {
            tracing::warn!(sink = %name, %error, "an alert cannot be delivered: it is tried again");
        } else {
            tracing::debug!(sink = %name, %error, failures, "an alert still cannot be delivered");
        }
        for telling in tellings {
            let attempts = self.shared.board().tried(name, telling);
            if matches!(error, Untold::Refused(_)) && attempts >= REFUSALS {
                let alert = &telling.alert.name;
                tracing::error!(sink = %name, alert, %error, "an alert is refused again and again: it is dropped");
                self.told(telling, DROPPED);
            }
        }
    }

    /// Tells this sink nothing any more.
    async fn leave(&self) -> Infallible {
        let name = &self.settings.name;
        let left_out = self.shared.board().leave(name);
        self.shared.figures.of(name, DROPPED).inc_by(left_out);
        tracing::error!(sink = %name, left_out, error = %Untold::Gone, "alerts are not delivered");
        self.shared.changed();
        std::future::pending().await
    }
}

/// How long the sink asks us to wait.
fn wait(answer: &Answer, now: Moment) -> Option<Duration> {
    retry_after(answer.headers.get(RETRY_AFTER)?.as_bytes(), now)
}
