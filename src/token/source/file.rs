//! A token in a small local file that something else keeps fresh: an agent, or Kubernetes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Failure, Issued, Obtaining, Pace, Reason, Source, found};
use crate::clock::Clock;
use crate::secret::Reference;

pub struct File {
    file: Reference,
    clock: Arc<dyn Clock>,
}

impl File {
    pub fn new(path: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self { file: Reference::File(path), clock }
    }

    fn read(&self) -> Result<Issued, Failure> {
        let secret = self.file.resolve().map_err(|error| Failure::transient(Reason::Secret, error.to_string()))?;
        found(secret, self.clock.now())
    }
}

impl Source for File {
    fn obtain(&self) -> Obtaining<'_> {
        Box::pin(std::future::ready(self.read()))
    }

    fn kind(&self) -> &'static str {
        "file"
    }

    /// A small local read: a file that was replaced is seen within two seconds.
    fn mints(&self) -> bool {
        false
    }

    fn pace(&self) -> Pace {
        Pace { between_calls: Duration::from_millis(200), recheck: Duration::from_secs(2) }
    }
}
