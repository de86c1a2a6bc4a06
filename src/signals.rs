//! The signals that end the process: the first drains, the second ends at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end the process.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Resolves at the first signal, with its name. The next one ends the process at once.
    pub async fn asked(mut self) -> &'static str {
        let name = self.next().await;
        std::thread::Builder::new()
            .name("last signal".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                if let Ok(runtime) = runtime {
                    runtime.block_on(self.next());
                    eprintln!("countersign: a second signal: ending at once");
                    std::process::exit(1);
                }
            })
            .map_or_else(|error| tracing::warn!(%error, "a second signal will not be noticed"), drop);
        name
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
