//! Who reads the stream of uses, on the control runtime.

use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Clock;
use crate::tasks::{Task, Tasks};
use crate::usage::{Reader, Stream};

/// The readers. Each sees every batch, in the order in which they were taken.
pub(super) struct Reading {
    stream: Arc<Stream>,
    clock: Arc<dyn Clock>,
    readers: Mutex<Vec<Box<dyn Reader>>>,
}

impl Reading {
    pub fn new(stream: &Arc<Stream>, clock: &Arc<dyn Clock>, readers: Vec<Box<dyn Reader>>) -> Arc<Self> {
        Arc::new(Self { stream: stream.clone(), clock: clock.clone(), readers: Mutex::new(readers) })
    }

    pub fn look_after(self: &Arc<Self>, tasks: &Tasks) -> Task {
        let reading = self.clone();
        tasks.essential("uses", async move {
            loop {
                reading.stream.arrived().await;
                reading.read();
            }
        })
    }

    /// Reads what is there. To be called once more when the workers have ended.
    pub fn read(&self) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        self.stream.read(&*self.clock, &mut readers);
    }
}
