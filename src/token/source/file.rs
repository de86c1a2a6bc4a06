//! A token in a small local file that something else keeps fresh: an agent, or Kubernetes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::{Changing, Failure, Issued, Obtaining, Pace, Reason, Source, found};
use crate::clock::Clock;
use crate::secret::Reference;
use crate::watched::WatchedFile;

pub struct File {
    file: Reference,
    watched: Mutex<WatchedFile>,
    clock: Arc<dyn Clock>,
}

impl File {
    pub fn new(path: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self { file: Reference::File(path.clone()), watched: Mutex::new(WatchedFile::new(path)), clock }
    }

    async fn read(&self) -> Result<Issued, Failure> {
        // What happens from here on is news.
        self.watched.lock().await.attend();
        let secret = self.file.resolve().map_err(|error| Failure::transient(Reason::Secret, error.to_string()))?;
        found(secret, self.clock.now())
    }
}

impl Source for File {
    fn obtain(&self) -> Obtaining<'_> {
        Box::pin(self.read())
    }

    fn kind(&self) -> &'static str {
        "file"
    }

    /// A small local read. Where the folder cannot be watched, a file that was replaced is seen within two seconds.
    fn pace(&self) -> Pace {
        Pace { between_calls: Duration::from_millis(200), recheck: Duration::from_secs(2) }
    }

    fn mints(&self) -> bool {
        false
    }

    fn changed(&self) -> Changing<'_> {
        Box::pin(async { self.watched.lock().await.changed().await })
    }
}
