//! The config file, again: when it is asked for, and of its own accord when the text has changed and rests.
//!
//! ```text
//!  SIGHUP ───────────────────────────────────┐
//!  each second: text ─▶ is it new? at rest? ─┴▶ Config ─▶ Handle::reload ─▶ in force, whole
//!                                                 └────────────┴──────────▶ log, metric, trail: the old one goes on
//! ```
//!
//! The text itself is read and compared; the kernel is not asked for events. A write in place, a rename and the swap of a
//! symbolic link anywhere in the path look the same then, on any file system, and there are no watches to run out of.
//!
//! Invariant: a text is judged once. What was refused is judged again only if it may be taken without being changed, when
//! an issuer answers again or a file that it names appears, and then with growing delays.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use super::{Handle, ReloadError};
use crate::admin::{NotReloaded, Reloaded};
use crate::audit::Exposed;
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::config::{Config, Environment, LoadError, Problem, Severity, Text};
use crate::systemd::Manager;

/// How often the text is looked at. It is taken when it has not changed between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// A text that never rests is judged after so many looks all the same.
const RESTLESS: u32 = 10;

/// How soon a text is tried again that was refused for what is outside it.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(5), most: Duration::from_secs(300) };

/// Operators who wait for the outcome of a reload. More than one at a time are more than anybody needs.
const WAITING: usize = 4;

type Ask = oneshot::Sender<Result<Reloaded, NotReloaded>>;

/// How operators ask for a reload, and learn what came of it.
pub(super) struct Asks {
    sender: mpsc::Sender<Ask>,
    receiver: Mutex<mpsc::Receiver<Ask>>,
}

impl Default for Asks {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self { sender, receiver: Mutex::new(receiver) }
    }
}

impl Asks {
    pub(super) async fn ask(&self) -> Result<Reloaded, NotReloaded> {
        if self.receiver.try_lock().is_ok() {
            return Err(NotReloaded::NoFile);
        }
        let (done, outcome) = oneshot::channel();
        let busy = || NotReloaded::NotNow("others wait for a reload already: try again".to_owned());
        self.sender.try_send(done).map_err(|_| busy())?;
        outcome.await.unwrap_or_else(|_| Err(busy()))
    }
}

/// Loads the config file again and again.
pub struct Reloads {
    handle: Handle,
    path: PathBuf,
    clock: Arc<dyn Clock>,
    /// As it was at the start, but for the time: what defaults are taken from does not change under a running process.
    environment: Environment,
    watch: bool,
    look: Duration,
    manager: Arc<Manager>,
    memory: Memory,
    again: Option<Again>,
}

/// A text that is to be tried once more.
struct Again {
    at: Instant,
    failures: u32,
}

/// Why the file's text was not taken.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("{}: error: the file is empty: an empty one is taken at SIGHUP only", .0.display())]
    Empty(PathBuf),
    #[error(transparent)]
    Reload(#[from] ReloadError),
}

impl Reloads {
    /// Of the file that the running `config` was loaded from.
    pub fn new(
        handle: Handle,
        path: PathBuf,
        config: &Config,
        environment: Environment,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let memory = Memory::new(config.digest.clone());
        let (watch, manager) = (config.watch, Arc::new(Manager::none()));
        Self { handle, path, clock, environment, watch, look: LOOK, manager, memory, again: None }
    }

    /// Tells the service manager of each reload.
    #[must_use]
    pub fn telling(self, manager: Arc<Manager>) -> Self {
        Self { manager, ..self }
    }

    /// Looks at the file that often.
    #[must_use]
    pub fn each(self, look: Duration) -> Self {
        Self { look, ..self }
    }

    /// Loads the file whenever `asked` is told to, and when its text has changed.
    pub async fn run(mut self, asked: Arc<Notify>) -> Infallible {
        let handle = self.handle.clone();
        let mut operators = handle.asks().receiver.lock().await;
        let mut look = tokio::time::interval(self.look);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (asked, operator) = tokio::select! {
                () = asked.notified() => (true, None),
                Some(operator) = operators.recv() => (true, Some(operator)),
                _ = look.tick(), if self.watch => (false, None),
            };
            let text = self.read().await;
            let is_new = self.memory.look(match &text {
                Ok(text) => text.digest(),
                Err(error) => error.to_string(),
            });
            let again = self.again.as_ref().is_some_and(|again| again.at <= Instant::now()) && !self.memory.is_new();
            if asked || is_new || again {
                let outcome = self.judge(text, asked).await;
                // An operator who has gone does not want to know any more.
                let _ = operator.map(|operator| operator.send(outcome));
            }
        }
    }

    /// A folder on a network may keep whoever reads it waiting, and this thread has tokens to rotate.
    async fn read(&self) -> Result<Text, LoadError> {
        let (path, uid) = (self.path.clone(), self.environment.uid);
        let reading = tokio::task::spawn_blocking(move || Text::read(&path, uid));
        reading.await.unwrap_or_else(|error| {
            Err(LoadError::Unreadable { path: self.path.clone(), error: std::io::Error::other(error) })
        })
    }

    async fn judge(&mut self, text: Result<Text, LoadError>, asked: bool) -> Result<Reloaded, NotReloaded> {
        let failures = self.again.take().filter(|_| !self.memory.is_new()).map_or(0, |again| again.failures);
        self.memory.judged();
        self.manager.reloading();
        let taken = self.take(text, asked).await;
        self.manager.reloaded();
        taken.map(|digest| Reloaded { digest }).map_err(|refused| {
            self.say(&refused);
            let failures = failures + 1;
            let at = Instant::now() + AGAIN.delay(failures, fastrand::f64());
            self.again = refused.may_pass().then_some(Again { at, failures });
            refused.told()
        })
    }

    async fn take(&mut self, text: Result<Text, LoadError>, asked: bool) -> Result<String, Refused> {
        let text = text?;
        if text.is_blank() && !asked {
            // Somebody is writing it, or the disk was full: nobody means to take every route away like that.
            return Err(Refused::Empty(self.path.clone()));
        }
        self.environment.now = self.clock.now().wall;
        let config = Config::understand(&text, &self.environment)?;
        self.handle.reload(&config).await?;
        self.watch = config.watch;
        warn_of(&self.path, &config);
        Ok(config.digest)
    }

    fn say(&self, refused: &Refused) {
        let file = self.path.display();
        match refused {
            Refused::Reload(error) => {
                tracing::error!(%file, %error, "the new config is not taken: the old one goes on");
            }
            Refused::Load(_) | Refused::Empty(_) => {
                let problems = refused.problems();
                self.handle.refused(problems);
                tracing::error!(%file, problems, "the new config is not taken: the old one goes on");
                for line in refused.to_string().lines() {
                    tracing::error!("{line}");
                }
            }
        }
    }
}

impl Refused {
    fn problems(&self) -> usize {
        match self {
            Self::Load(LoadError::Problems(problems)) => {
                problems.iter().filter(|problem| problem.severity == Severity::Error).count()
            }
            Self::Load(_) | Self::Empty(_) | Self::Reload(_) => 1,
        }
    }

    /// As operators learn it.
    fn told(&self) -> NotReloaded {
        match self {
            Self::Load(error) => NotReloaded::Problems(error.to_json()),
            Self::Empty(_) => NotReloaded::NotNow(self.to_string()),
            Self::Reload(error @ ReloadError::NeedsRestart(_)) => NotReloaded::NeedsRestart(error.to_string()),
            Self::Reload(
                error @ (ReloadError::Draft(_)
                | ReloadError::NotReady(_)
                | ReloadError::Trail(_)
                | ReloadError::Kept(_)),
            ) => NotReloaded::NotNow(error.to_string()),
        }
    }

    /// Whether the same text may be taken later.
    fn may_pass(&self) -> bool {
        match self {
            // A file that comes back or is made readable is seen as a new text.
            Self::Load(_) | Self::Empty(_) | Self::Reload(ReloadError::NeedsRestart(_)) => false,
            Self::Reload(
                ReloadError::Draft(_) | ReloadError::NotReady(_) | ReloadError::Trail(_) | ReloadError::Kept(_),
            ) => true,
        }
    }
}

/// Says what is taken, but should be looked at.
pub fn warn_of(file: &Path, config: &Config) {
    for Problem { line, message, help, .. } in &config.warnings {
        tracing::warn!(file = %file.display(), line, help = help.as_deref().unwrap_or(""), "{message}");
    }
}

/// Says at the start what would let an older trail be put back unseen.
pub fn warn_of_the_trail(config: &Config) {
    for exposed in Exposed::of(&config.audit) {
        tracing::warn!(help = exposed.fix(), "{exposed}");
    }
}

/// What was seen of the file, to know when it has changed and rests: the digest of a text, or the words of an error.
struct Memory {
    judged: String,
    last: String,
    restless: u32,
}

impl Memory {
    fn new(running: String) -> Self {
        Self { judged: running.clone(), last: running, restless: 0 }
    }

    /// Whether what is there now is to be judged.
    fn look(&mut self, now: String) -> bool {
        let rests = now == self.last;
        self.last = now;
        self.restless = if self.is_new() { self.restless + 1 } else { 0 };
        self.is_new() && (rests || self.restless >= RESTLESS)
    }

    fn is_new(&self) -> bool {
        self.last != self.judged
    }

    fn judged(&mut self) {
        self.judged.clone_from(&self.last);
        self.restless = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The looks, from 1, at which a text is judged.
    fn judged(running: &str, looks: &[&str]) -> Vec<usize> {
        let mut memory = Memory::new(running.to_owned());
        let mut judged = Vec::new();
        for (number, text) in looks.iter().enumerate() {
            if memory.look((*text).to_owned()) {
                memory.judged();
                judged.push(number + 1);
            }
        }
        judged
    }

    #[test]
    fn a_text_is_judged_once_when_it_has_changed_and_rests() {
        assert_eq!(judged("a", &["a", "a", "b", "b", "b", "b"]), [4]);
        assert_eq!(judged("a", &["b", "c", "d", "d", "d"]), [4], "what is being written is left alone");
        assert_eq!(judged("a", &["b", "a", "a", "a"]), [] as [usize; 0], "what runs already is left alone");
        assert_eq!(judged("a", &["b", "b", "a", "a"]), [2, 4], "after a refusal the old text is taken again");
    }

    #[test]
    fn a_text_that_never_rests_is_judged_all_the_same() {
        let texts: Vec<String> = (0..25).map(|number| number.to_string()).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!(judged("a", &texts), [10, 20]);
    }
}
