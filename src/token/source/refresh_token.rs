//! A refresh token, which somebody's sign-in gave, buys access tokens (RFC 6749, section 6). Many issuers give another refresh
//! token with each answer, and take the one before for stolen if it is seen again (RFC 9700, section 4.14).
//!
//! ```text
//! lock ─▶ record: which one? ─▶ intent, on the disk ─▶ issuer ─▶ the new one, on the disk ─▶ Issued
//! ```
//!
//! Invariants: what has begun goes to its end, whatever becomes of whoever asked; no issuer is called before the disk has taken the intent, and no access token is given out before the disk
//! has taken the refresh token that came with it. A refresh token whose answer was lost is not shown again, unless the issuer is
//! known to allow that: then once more, and not at once. One that the issuer calls invalid is never. A sign-in, which is another
//! value of the reference in the config, begins anew.

mod kept;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use http::StatusCode;
use zeroize::Zeroizing;

use self::kept::{Held, Kept};
use super::answer::{self, Reply};
use super::oauth::grant::Shown;
use super::oauth::{self, OAuth, Posted, Unanswered};
use super::{BuildError, Changing, Class, Failure, Issued, IssuerChange, Obtaining, Reason, Revoking, Source};
use crate::clock::{Clock, Moment};
use crate::dpop::Key;
use crate::fetch::Fetcher;
use crate::secret::{Reference, Secret};
use crate::text::hex;
use crate::watched::WatchedFile;

pub use self::kept::{Keep, Keeping};

/// `source = { kind = "refresh_token", ... }`
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// What the token endpoint is told besides. Its grant shows nothing: what is shown is found here.
    pub oauth: oauth::Settings,
    /// What the sign-in gave.
    pub refresh_token: Reference,
    /// Where somebody signs in, so that there is one.
    pub sign_in: oauth::sign_in::Settings,
    /// Whether the issuer may give another one with each answer.
    pub rotating: bool,
    /// Whether the issuer is known to take one that rotates once more, after its answer was lost.
    pub reuse_after_loss: bool,
}

/// An issuer that has lost its way, or the network to it, has found it again by then.
const BEFORE_REUSE: Duration = Duration::from_secs(60);

pub struct RefreshToken {
    exchange: Arc<Exchange>,
    refresh_token: Reference,
    keep: Option<Keep>,
    watched: Option<tokio::sync::Mutex<WatchedFile>>,
    /// The sign-in that was found last, if one was.
    found: Mutex<Option<String>>,
}

/// What one call to the issuer takes.
struct Exchange {
    oauth: OAuth,
    clock: Arc<dyn Clock>,
    rotating: bool,
    reuse_after_loss: bool,
}

impl RefreshToken {
    /// Without `keep` it can be built, and obtains nothing.
    ///
    /// # Errors
    /// As [`OAuth::new`].
    pub fn new(
        settings: Settings,
        fetcher: Arc<Fetcher>,
        clock: Arc<dyn Clock>,
        keep: Option<Keep>,
    ) -> Result<Self, BuildError> {
        let Settings { oauth, refresh_token, sign_in: _, rotating, reuse_after_loss } = settings;
        let oauth = OAuth::new(oauth, fetcher, clock.clone())?;
        let watched = match &refresh_token {
            Reference::File(path) => Some(tokio::sync::Mutex::new(WatchedFile::new(path.clone()))),
            Reference::Env(_) | Reference::Credential(_) | Reference::Exec(_) | Reference::Vault(_) => None,
        };
        let exchange = Arc::new(Exchange { oauth, clock, rotating, reuse_after_loss });
        Ok(Self { exchange, refresh_token, keep, watched, found: Mutex::default() })
    }

    async fn ask(&self) -> Result<Issued, Failure> {
        if let Some(watched) = &self.watched {
            // What happens from here on is news.
            watched.lock().await.attend();
        }
        let signed_in = oauth::text_of(&self.refresh_token).await;
        *self.found() = signed_in.as_ref().ok().map(|signed_in| seed(signed_in));
        let (signed_in, exchange) = (signed_in?, self.exchange.clone());
        let keep = self.keep.clone().ok_or_else(|| state("there is no state folder"))?;
        let name = format!("refresh token of {}", keep.token);
        let tasks = keep.tasks().clone();
        let asking = tasks.to_the_end(&name, async move { exchange.run(&keep, &signed_in).await });
        asking.await.unwrap_or_else(|| Err(state("showing the refresh token to its issuer ended without a result")))
    }

    /// Whether somebody has signed in since the last call. What cannot be read is no sign-in.
    async fn is_another(&self) -> bool {
        let signed_in = oauth::text_of(&self.refresh_token).await;
        signed_in.is_ok_and(|signed_in| *self.found() != Some(seed(&signed_in)))
    }

    fn found(&self) -> MutexGuard<'_, Option<String>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exchange {
    /// Once begun it goes to its end: between the intent and what settles it, the only good refresh token is in here.
    async fn run(&self, keep: &Keep, signed_in: &Zeroizing<String>) -> Result<Issued, Failure> {
        let record = keep.lock().await?;
        let seed = seed(signed_in);
        let known = record.read().await?.filter(|kept| kept.seed == seed);
        let before = known.unwrap_or_else(|| Kept::signed_in(seed, signed_in.clone()));
        let now = self.clock.now();
        self.may_be_shown(&before, now)?;
        // The disk is known to take what follows before the issuer is asked for it.
        if let Err(failure) = record.write(before.intent(self.rotating, now)).await {
            // It may have it all the same.
            record.remember(before);
            return Err(failure);
        }
        let posted = match self.oauth.post(&Shown::refresh_token(&before.token)).await {
            Ok(posted) => posted,
            Err(Unanswered::Unsent(failure)) => {
                record.settle(before).await;
                return Err(failure);
            }
            // The intent stays.
            Err(Unanswered::Lost(failure)) => return Err(failure),
        };
        self.answered(&record, before, &posted).await
    }

    /// Whether the issuer would not take it for stolen.
    fn may_be_shown(&self, kept: &Kept, now: Moment) -> Result<(), Failure> {
        if kept.void {
            return Err(sign_in_again(
                "the issuer has refused the refresh token, and there has been no other sign-in since",
            ));
        }
        if !self.rotating || kept.lost == 0 {
            return Ok(());
        }
        if !self.reuse_after_loss {
            return Err(sign_in_again("an answer with a new refresh token was lost: the old one is not shown again"));
        }
        if kept.lost > 1 {
            return Err(sign_in_again(
                "two answers with a new refresh token were lost: the old one is not shown again",
            ));
        }
        let wait = BEFORE_REUSE.saturating_sub(kept.shown_ago(now));
        if wait.is_zero() {
            return Ok(());
        }
        let class = Class::Transient { retry_after: Some(wait) };
        let detail = "an answer with a new refresh token was lost: the old one is shown once more in a minute";
        Err(Failure { reason: Reason::CutOff, class, detail: detail.to_owned() })
    }

    /// The issuer's answer: the refresh token in it is on the disk before anything else is made of it.
    async fn answered(&self, record: &Held, before: Kept, posted: &Posted) -> Result<Issued, Failure> {
        let reply = Reply::from(&posted.answer);
        let judged = self.oauth.judged(posted);
        match (&judged, answer::refresh_token(&reply)) {
            (_, Some(new)) => record.settle(before.followed_by(new)).await,
            (Ok(_), None) => record.settle(before.kept_on()).await,
            (Err(failure), None) if failure.reason == Reason::InvalidGrant => {
                record.settle(before.voided()).await;
                return Err(Failure { class: Class::Reauthenticate, ..failure.clone() });
            }
            (Err(_), None) if is_a_no(reply.status) => record.settle(before).await,
            // Whoever stands before the issuer may have answered in its place: the intent stays.
            (Err(_), None) => {}
        }
        judged
    }
}

impl Source for RefreshToken {
    fn obtain(&self) -> Obtaining<'_> {
        Box::pin(self.ask())
    }

    fn kind(&self) -> &'static str {
        self.exchange.oauth.kind()
    }

    /// Only by another sign-in: whatever else happens in the file's folder is no reason to call the issuer.
    fn changed(&self) -> Changing<'_> {
        let Some(watched) = &self.watched else { return Box::pin(std::future::pending()) };
        Box::pin(async {
            let mut watched = watched.lock().await;
            loop {
                watched.changed().await;
                if self.is_another().await {
                    return;
                }
            }
        })
    }

    fn revokes(&self) -> bool {
        self.exchange.oauth.revokes()
    }

    fn revoke<'a>(&'a self, value: &'a Secret) -> Revoking<'a> {
        self.exchange.oauth.revoke(value)
    }

    fn outlives_us(&self) -> bool {
        self.exchange.oauth.outlives_us()
    }

    fn proof_key(&self) -> Option<Arc<Key>> {
        self.exchange.oauth.proof_key()
    }

    fn go_on_with(&self, key: Arc<Key>) {
        self.exchange.oauth.go_on_with(key);
    }

    fn issuer_changes(&self) -> Vec<IssuerChange> {
        self.exchange.oauth.issuer_changes()
    }
}

/// Tells one sign-in from another, and nothing of it.
fn seed(signed_in: &str) -> String {
    hex(digest(&SHA256, signed_in.as_bytes()).as_ref())
}

/// The issuer itself says that it has given nothing; a gateway before it only says that it knows of no answer.
fn is_a_no(status: StatusCode) -> bool {
    const LOST: [StatusCode; 3] = [StatusCode::REQUEST_TIMEOUT, StatusCode::BAD_GATEWAY, StatusCode::GATEWAY_TIMEOUT];
    !status.is_success() && !LOST.contains(&status)
}

fn sign_in_again(detail: &str) -> Failure {
    Failure { reason: Reason::InvalidGrant, class: Class::Reauthenticate, detail: format!("{detail}: sign in again") }
}

fn state(detail: impl Into<String>) -> Failure {
    Failure::transient(Reason::State, detail)
}

#[cfg(test)]
mod tests;
