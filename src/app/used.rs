//! What tokens were used for, on its way into the trail: sums of each minute, or each request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::audit::{self, Event, Recorder};
use crate::clock::Clock;
use crate::tasks::{Task, Tasks};
use crate::usage::{Ledger, News, Reader, RollUps, Use};

/// Twice a second, so that with what it takes to write, a crash loses at most a second.
const LOOK: Duration = Duration::from_millis(500);

/// Tells the trail.
pub struct Used {
    recorder: Recorder,
    clock: Arc<dyn Clock>,
    told: Told,
}

enum Told {
    RollUps(Mutex<RollUps>),
    /// By a reader of the stream.
    Each,
}

impl Used {
    /// As `settings` say.
    pub fn new(settings: &audit::Settings, recorder: Recorder, clock: Arc<dyn Clock>, ledger: &Ledger) -> Self {
        let told = match settings.usage {
            audit::Usage::RollUp => Told::RollUps(Mutex::new(RollUps::new(ledger.clone(), clock.now().wall))),
            audit::Usage::Each => Told::Each,
        };
        Self { recorder, clock, told }
    }

    /// Who tells each request, where that is wanted.
    pub fn reader(&self) -> Option<Box<dyn Reader>> {
        match self.told {
            Told::Each => Some(Box::new(Each(self.recorder.clone()))),
            Told::RollUps(_) => None,
        }
    }

    pub fn look_after(self: &Arc<Self>, tasks: &Tasks) -> Task {
        let used = self.clone();
        tasks.essential("use", async move {
            let mut look = tokio::time::interval(LOOK);
            loop {
                look.tick().await;
                used.look();
            }
        })
    }

    fn look(&self) {
        match &self.told {
            Told::Each => {}
            Told::RollUps(rollups) => {
                let (mut rollups, now) = (lock(rollups), self.clock.now().wall);
                let over = rollups.tick(now);
                if let Err(sums) = self.recorder.roll_up(over, now) {
                    rollups.put_back(sums);
                }
                if let Some(sums) = rollups.news(now) {
                    self.recorder.keep(sums);
                }
            }
        }
    }

    /// Requests have ended: tells the rest.
    pub fn finish(&self) {
        match &self.told {
            Told::Each => {}
            Told::RollUps(rollups) => {
                let (mut rollups, now) = (lock(rollups), self.clock.now().wall);
                let left = rollups.finish(now);
                // Where there is no room, the next start finds them in the journal.
                let left = self.recorder.roll_up(left, now).err().unwrap_or_default();
                self.recorder.keep(left);
            }
        }
    }
}

/// Tells each request as a record. What finds no room is counted, and the trail tells how many those were.
struct Each(Recorder);

impl Reader for Each {
    fn read(&mut self, news: &News<'_>) {
        self.0.hand_over(news.uses().map(|used| (used.at, Event::Request(record(used)))).collect());
    }

    fn lost(&mut self, count: u64) {
        self.0.lost(count);
    }
}

fn record(used: &Use<'_>) -> audit::Request {
    audit::Request {
        token: used.token.map(ToString::to_string),
        route_token: used.denied_token().map(ToString::to_string),
        client: used.client.to_string(),
        route: used.route.to_string(),
        host: used.host.to_owned(),
        method: used.method,
        path: used.path.to_owned(),
        status: used.status,
        reason: used.reason,
        generation: used.generation,
        request_bytes: used.request_bytes,
        response_bytes: used.response_bytes,
        duration_ms: u64::try_from(used.duration.as_millis()).unwrap_or(u64::MAX),
        complete: used.complete,
    }
}

fn lock(rollups: &Mutex<RollUps>) -> MutexGuard<'_, RollUps> {
    rollups.lock().unwrap_or_else(PoisonError::into_inner)
}
