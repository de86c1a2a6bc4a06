//! All that the app logs, at its most talkative, kept in memory for the whole run.

use std::io;
use std::sync::{Mutex, Once, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

static TEXT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Begins to collect, if nobody has yet.
pub fn collect() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let builder = tracing_subscriber::fmt().with_ansi(false).with_writer(Collector);
        let subscriber = builder.with_env_filter(EnvFilter::new("warn,countersign=trace")).finish();
        tracing::subscriber::set_global_default(subscriber).expect("there is no other log in this process");
    });
}

/// What was logged so far, by every test of the run.
pub fn text() -> String {
    String::from_utf8_lossy(&TEXT.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
}

struct Collector;

impl<'a> MakeWriter<'a> for Collector {
    type Writer = Collector;

    fn make_writer(&'a self) -> Collector {
        Collector
    }
}

impl io::Write for Collector {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        TEXT.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
