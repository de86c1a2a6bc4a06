//! Each request as a record, where the config wants that. Requests are handed to the trail in batches, without waiting: what finds no room is
//! counted, and the trail tells how many those were.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::audit::{Event, Recorder, Request};
use crate::clock::Clock;

/// See the module.
pub struct Each {
    recorder: Recorder,
    clock: Arc<dyn Clock>,
    batch: Mutex<Vec<(Duration, Event)>>,
}

impl Each {
    pub fn new(recorder: Recorder, clock: Arc<dyn Clock>) -> Self {
        Self { recorder, clock, batch: Mutex::default() }
    }

    pub fn tell(&self, request: Request) {
        let time = self.clock.now().wall;
        let mut batch = self.lock();
        batch.push((time, Event::Request(request)));
        if batch.len() >= BATCH {
            self.recorder.hand_over(std::mem::take(&mut batch));
        }
    }

    /// Hands over what waits. To be called now and then: a batch that does not fill up would wait for ever.
    pub fn flush(&self) {
        let batch = std::mem::take(&mut *self.lock());
        self.recorder.hand_over(batch);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Duration, Event)>> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const BATCH: usize = 128;
