//! What rests: the live generation of each token, sealed on the disk, so that a process that starts again asks no issuer for
//! what is still good.
//!
//! ```text
//!  live ─▶ put ─▶ sealed, by a thread that may wait for the disk ─▶ a restart ─▶ same origin? still good? ─▶ live again
//!  void, rejected, run out ─▶ scrub                                                   └── no ─▶ its issuer is told, and it is scrubbed
//! ```
//!
//! Invariants: of each token the disk has the last word in the end, in whatever order it was slow; what is not there when a
//! [`Resting::scrub`] has returned does not come back; no request and no issuer waits for any of this.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntGaugeVec;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::timeout;
use zeroize::{Zeroize as _, Zeroizing};

use crate::clock::Moment;
use crate::dpop::{Key, NotAKey};
use crate::metrics::{Error as MetricsError, Metrics as Registry};
use crate::name::TokenName;
use crate::seal::Label;
use crate::secret::Secret;
use crate::store::{Refused, Store, StoreError};
use crate::tasks::{Tasks, Unfinished};

/// What the records of this are called in the store.
const KIND: &str = "generation";

/// Names this start of the machine: only within it the boot clock goes on.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How long anybody waits for a scrub.
const SCRUBBED_WITHIN: Duration = Duration::from_secs(1);

/// The resting generations of all tokens.
pub struct Resting {
    store: Arc<Store>,
    tasks: Tasks,
    degraded: IntGaugeVec,
    is_on: bool,
    boot: Option<String>,
    owners: AtomicU64,
    work: Mutex<Work>,
}

#[derive(Default)]
struct Work {
    /// Who has put there what the disk has, or is to have, and speaks for it.
    owners: BTreeMap<TokenName, u64>,
    /// The last word on each token, as long as the disk does not have it.
    waiting: BTreeMap<TokenName, Word>,
    is_under_way: bool,
}

/// What the disk is to have of a token.
struct Word {
    number: u64,
    /// `None`: nothing.
    content: Option<Zeroizing<Vec<u8>>>,
    /// Who waits until it has.
    done: Vec<oneshot::Sender<bool>>,
    _unfinished: Unfinished,
}

/// The place of one token's generations.
#[derive(Clone)]
pub struct Rest {
    resting: Arc<Resting>,
    token: TokenName,
    owner: u64,
    origin: Origin,
}

/// By what a generation was had: it is for nothing else.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// What the config says of the source, hashed.
    pub source: String,
    /// The terms of the grant that it lives by.
    pub terms: String,
}

/// A generation that is to rest.
pub(super) struct Laid<'a> {
    pub number: u64,
    pub secret: &'a Secret,
    pub void_by: &'a Secret,
    pub issued: Moment,
    pub expires: Moment,
    /// At its issuer.
    pub good_until: Moment,
    pub granted: Option<&'a [String]>,
    /// Whether its issuer can be told that it is void.
    pub revokes: bool,
    /// What it is bound to, if it is.
    pub key: Option<&'a Key>,
}

/// A generation of a former run.
pub struct Rested {
    pub token: TokenName,
    pub number: u64,
    written: Written,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Time {
    /// In milliseconds, as both clocks have it.
    boot: u64,
    wall: u64,
}

#[derive(Serialize, Deserialize)]
struct Written {
    origin: Origin,
    /// Wiped with this, as `void_by` is.
    value: String,
    void_by: String,
    issued: Time,
    expires: Time,
    good_until: Time,
    boot_id: Option<String>,
    granted: Option<Vec<String>>,
    revokes: bool,
    /// What it is bound to: see [`Key::kept`]. Wiped, too.
    #[serde(default)]
    key: Option<String>,
}

impl Drop for Written {
    fn drop(&mut self) {
        self.value.zeroize();
        self.void_by.zeroize();
        self.key.zeroize();
    }
}

impl From<Moment> for Time {
    fn from(moment: Moment) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self { boot: millis(moment.boot), wall: millis(moment.wall) }
    }
}

impl From<Time> for Moment {
    fn from(time: Time) -> Self {
        Self { boot: Duration::from_millis(time.boot), wall: Duration::from_millis(time.wall) }
    }
}

/// The disk has not confirmed that it has a generation no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the disk does not confirm that the sealed generation is gone")]
pub struct NotScrubbed;

impl Resting {
    /// With `is_on` or not: without, nothing is put there, and what is there is not used.
    ///
    /// # Errors
    /// When its metric is there already.
    pub fn new(store: Arc<Store>, tasks: Tasks, registry: &Registry, is_on: bool) -> Result<Arc<Self>, MetricsError> {
        let help = "1 where the live generation could not be sealed in the state folder: after a restart the issuer is asked for another.";
        let degraded = registry.gauges("state_degraded", help, &["token"])?;
        let boot = std::fs::read_to_string(BOOT_ID).ok().map(|id| id.trim().to_owned());
        let (owners, work) = (AtomicU64::new(1), Mutex::default());
        Ok(Arc::new(Self { store, tasks, degraded, is_on, boot, owners, work }))
    }

    /// What rests since a former run, and what looks like it but cannot be trusted. Blocks.
    ///
    /// # Errors
    /// When the folder of the records cannot be read.
    pub fn open(&self) -> Result<(Vec<Rested>, Vec<Refused>), StoreError> {
        let (records, mut refused) = self.store.read(KIND)?;
        let mut rested = Vec::new();
        for record in records {
            match (record.name.parse::<TokenName>(), serde_json::from_slice::<Written>(&record.content)) {
                (Ok(token), Ok(written)) => rested.push(Rested { token, number: record.generation, written }),
                (Ok(_), Err(_)) | (Err(_), _) => {
                    refused.push(self.store.refuse(Label { kind: KIND, name: &record.name }));
                }
            }
        }
        Ok((rested, refused))
    }

    /// The place of a token's generations, as long as they are of this origin.
    pub fn of(self: &Arc<Self>, token: &TokenName, origin: Origin) -> Rest {
        let owner = self.owners.fetch_add(1, Ordering::Relaxed);
        Rest { resting: self.clone(), token: token.clone(), owner, origin }
    }

    /// Nothing of a token rests any more when this succeeds.
    ///
    /// # Errors
    /// When the disk does not do it in time. It may do it later.
    pub async fn scrub(self: &Arc<Self>, token: &TokenName) -> Result<(), NotScrubbed> {
        let (done, is_done) = oneshot::channel();
        {
            let mut work = self.work();
            if !work.owners.contains_key(token) {
                return Ok(());
            }
            self.say(&mut work, token, 0, None, Some(done));
        }
        match timeout(SCRUBBED_WITHIN, is_done).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false) | Err(_)) | Err(_) => Err(NotScrubbed),
        }
    }

    /// As [`Resting::scrub`], of what a former run left. Blocks.
    ///
    /// # Errors
    /// When it is still there.
    pub fn scrub_left(&self, token: &TokenName) -> Result<(), StoreError> {
        self.store.remove(Label { kind: KIND, name: token.as_str() })
    }

    /// Takes the place of what was said before and the disk does not have yet.
    fn say(
        self: &Arc<Self>,
        work: &mut Work,
        token: &TokenName,
        number: u64,
        content: Option<Zeroizing<Vec<u8>>>,
        done: Option<oneshot::Sender<bool>>,
    ) {
        let mut waiting = work.waiting.remove(token).map(|before| before.done).unwrap_or_default();
        waiting.extend(done);
        let word = Word { number, content, done: waiting, _unfinished: self.tasks.unfinished() };
        work.waiting.insert(token.clone(), word);
        if !std::mem::replace(&mut work.is_under_way, true) {
            let resting = self.clone();
            // It ends by itself, and the end of the process waits for it.
            drop(tokio::task::spawn_blocking(move || resting.have_it_written()));
        }
    }

    /// Until the disk has all that was said.
    fn have_it_written(&self) {
        loop {
            let (token, word) = {
                let mut work = self.work();
                let Some(next) = work.waiting.pop_first() else {
                    work.is_under_way = false;
                    return;
                };
                next
            };
            let is_done = self.write(&token, &word);
            for waiting in word.done {
                // Whoever waited may have gone.
                let _ = waiting.send(is_done);
            }
        }
    }

    fn write(&self, token: &TokenName, word: &Word) -> bool {
        let label = Label { kind: KIND, name: token.as_str() };
        let degraded = self.degraded.with_label_values(&[token.as_str()]);
        let Some(content) = &word.content else {
            let removed = self.store.remove(label);
            if let Err(error) = &removed {
                tracing::error!(%token, %error, "a generation that is of no use any more still rests on the disk");
            }
            return removed.is_ok();
        };
        let Err(error) = self.store.write(label, word.number, content) else {
            degraded.set(0);
            return true;
        };
        degraded.set(1);
        tracing::error!(%token, %error, "the live generation is not sealed: after a restart its issuer is asked for another");
        // What is there is of a generation before it. A full disk still takes things away.
        self.store.remove(label).is_ok()
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rest {
    /// Has a generation rest, in place of the one before it.
    pub(super) fn put(&self, laid: &Laid<'_>) {
        let (Ok(value), Ok(void_by)) = (laid.secret.expose_to_issuer(), laid.void_by.expose_to_issuer()) else {
            return self.scrub();
        };
        let key = match laid.key.map(|key| key.kept().map(Secret::expose_to_issuer)) {
            None => None,
            Some(Some(Ok(key))) => Some(key.to_owned()),
            // Without its key it is worth nothing.
            Some(Some(Err(_)) | None) => return self.scrub(),
        };
        let of_key = key.as_ref().map_or(0, String::len);
        let written = Written {
            origin: self.origin.clone(),
            value: value.to_owned(),
            void_by: void_by.to_owned(),
            issued: laid.issued.into(),
            expires: laid.expires.into(),
            good_until: laid.good_until.into(),
            boot_id: self.resting.boot.clone(),
            granted: laid.granted.map(<[String]>::to_vec),
            revokes: laid.revokes,
            key,
        };
        let scopes: usize = laid.granted.unwrap_or_default().iter().map(|scope| 2 * scope.len() + 4).sum();
        // In one piece from the start: growing would leave copies behind.
        let mut content =
            Zeroizing::new(Vec::with_capacity(2 * (value.len() + void_by.len() + of_key) + scopes + 1024));
        if serde_json::to_writer(&mut *content, &written).is_err() {
            return self.scrub();
        }
        let mut work = self.resting.work();
        work.owners.insert(self.token.clone(), self.owner);
        self.resting.say(&mut work, &self.token, laid.number, Some(content), None);
    }

    /// What this has put there rests no more; another's does.
    pub(super) fn scrub(&self) {
        let mut work = self.resting.work();
        if work.owners.get(&self.token) == Some(&self.owner) {
            self.resting.say(&mut work, &self.token, 0, None, None);
        }
    }

    /// Whether anything is to rest at all.
    pub(super) fn is_on(&self) -> bool {
        self.resting.is_on
    }

    /// What rests there is this one's from now on, if it is of the same origin.
    pub(super) fn take_over(&self, rested: &Rested) -> bool {
        let is_own = self.resting.is_on && rested.token == self.token && rested.written.origin == self.origin;
        if is_own {
            self.resting.work().owners.insert(self.token.clone(), self.owner);
        }
        is_own
    }

    /// When a generation was issued, and when it ends, by the clocks of this run; `None` where they cannot tell, or it has ended.
    pub(super) fn times(&self, rested: &Rested, now: Moment) -> Option<(Moment, Moment)> {
        let (issued, expires) = (Moment::from(rested.written.issued), Moment::from(rested.written.expires));
        if now.wall < issued.wall || expires.wall <= now.wall {
            return None;
        }
        let same_boot = self.resting.boot.is_some() && rested.written.boot_id == self.resting.boot;
        let times = match same_boot && issued.boot <= now.boot {
            true => (issued, expires),
            false => (now.before(now.wall - issued.wall), now.after(expires.wall - now.wall)),
        };
        (!times.1.reached(now)).then_some(times)
    }
}

impl Rested {
    pub(super) fn secret(&self) -> Secret {
        Secret::new(self.written.value.as_bytes())
    }

    /// What its issuer is told when it is void.
    pub(super) fn void_by(&self) -> Secret {
        Secret::new(self.written.void_by.as_bytes())
    }

    /// What it is bound to, if it is.
    pub(super) fn key(&self) -> Result<Option<Arc<Key>>, NotAKey> {
        let key = self.written.key.as_deref().map(Key::made_before).transpose()?;
        Ok(key.map(Arc::new))
    }

    pub(super) fn granted(&self) -> Option<&[String]> {
        self.written.granted.as_deref()
    }

    pub(super) fn source(&self) -> &str {
        &self.written.origin.source
    }

    /// Until when it is good at its issuer, by the wall clock, since the Unix epoch.
    pub(super) fn good_until(&self) -> Duration {
        Moment::from(self.written.good_until).wall
    }

    /// Whether its issuer can be told that it is void.
    pub(super) fn revokes(&self) -> bool {
        self.written.revokes
    }
}

#[cfg(test)]
mod tests;
