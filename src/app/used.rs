//! What tokens were used for, on its way into the trail: sums of each minute, or each request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::audit::{self, Recorder};
use crate::clock::Clock;
use crate::tasks::{Task, Tasks};
use crate::usage::{Each, Metrics, RollUps};

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
    Each(Arc<Each>),
}

impl Used {
    /// As `settings` say. What `metrics` counts is told from now on.
    pub fn new(settings: &audit::Settings, recorder: Recorder, clock: Arc<dyn Clock>, metrics: &mut Metrics) -> Self {
        let told = match settings.usage {
            audit::Usage::RollUp => Told::RollUps(Mutex::new(RollUps::new(metrics.ledger().clone(), clock.now().wall))),
            audit::Usage::Each => {
                let each = Arc::new(Each::new(recorder.clone(), clock.clone()));
                metrics.tell_each(each.clone());
                Told::Each(each)
            }
        };
        Self { recorder, clock, told }
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
            Told::Each(each) => each.flush(),
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
            Told::Each(each) => each.flush(),
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

fn lock(rollups: &Mutex<RollUps>) -> MutexGuard<'_, RollUps> {
    rollups.lock().unwrap_or_else(PoisonError::into_inner)
}
