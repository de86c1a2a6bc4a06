//! A token that the vault makes for us alone, and takes back: the credentials of a role, under a lease.
//!
//! ```text
//!  obtain ─▶ lease ── most of its life ──▶ prolong ─▶ renewed, as far as the vault and `max_life` let it
//!              │                              └─────▶ no more ─▶ obtain
//!              └── void ─▶ revoke, by the lease
//! ```
//!
//! Invariant: a lease that another login of ours took out is not relied on: the vault ends it with that login. So another login
//! is another generation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Made, leases};
use crate::clock::{Clock, Moment, believed};
use crate::secret::Secret;
use crate::token::source::lifetime::ASSUMED_LIFE;
use crate::token::source::{
    Changing, Class, Failure, IsOurs, Issued, Listing, Obtaining, Prolonging, Reason, Revoking, Source, found,
};
use crate::vault::{Answer, Ask, Data, Error, Vault, field, object};

/// `source = { kind = "vault_dynamic", path = "database/creds/reader", field = "password" }`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub path: String,
    pub made: Made,
    /// What is written to the path; `None`: it is read.
    pub parameters: Option<Vec<(String, String)>>,
    /// The longest that a lease is renewed for.
    pub max_life: Duration,
    /// Whether the leases of the path are listed, to find those that nobody here has.
    pub list: bool,
}

pub struct Dynamic {
    settings: Settings,
    vault: Arc<Vault>,
    clock: Arc<dyn Clock>,
    held: Mutex<Option<Held>>,
    /// The last login that has been told of as a change.
    told: AtomicU64,
}

/// The lease of the last generation.
#[derive(Clone)]
struct Held {
    lease: Lease,
    /// The login that took it out.
    login: u64,
    since: Moment,
    expires: Moment,
    life: Duration,
    renewable: bool,
}

/// What the vault knows it by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Lease {
    Id(String),
    /// Of a token of the vault itself.
    Accessor(String),
    /// It ends by itself.
    Nothing,
}

impl Lease {
    fn of(answer: &Answer) -> Self {
        match &answer.auth {
            Some(granted) if !granted.accessor.is_empty() => Self::Accessor(granted.accessor.clone()),
            _ if !answer.lease_id.is_empty() => Self::Id(answer.lease_id.clone()),
            _ => Self::Nothing,
        }
    }

    /// As it is kept until the vault has confirmed that it is void.
    pub(super) fn kept(&self) -> Secret {
        Secret::new(match self {
            Self::Id(id) => format!("lease:{id}"),
            Self::Accessor(accessor) => format!("accessor:{accessor}"),
            Self::Nothing => "nothing:".to_owned(),
        })
    }

    fn parse(kept: &str) -> Self {
        match kept.split_once(':') {
            Some(("lease", id)) => Self::Id(id.to_owned()),
            Some(("accessor", accessor)) => Self::Accessor(accessor.to_owned()),
            _ => Self::Nothing,
        }
    }
}

impl Dynamic {
    pub fn new(settings: Settings, vault: Arc<Vault>, clock: Arc<dyn Clock>) -> Self {
        Self { settings, vault, clock, held: Mutex::default(), told: AtomicU64::new(0) }
    }

    async fn ask(&self) -> Result<Issued, Failure> {
        let Settings { path, parameters, .. } = &self.settings;
        let body = parameters.as_deref().map(object::<String, String>);
        let ask = body.as_ref().map_or(Ask::get(path), |body| Ask::post(path, body));
        // There may be another login before there is an answer: that is told as a change then.
        let login = self.vault.login().await?;
        let asked_at = self.clock.now();
        let answer = self.vault.ask(ask).await?;
        match self.issued(&answer, login, asked_at) {
            Ok((issued, held)) => {
                *self.held() = Some(held);
                Ok(issued)
            }
            Err(failure) => {
                self.give_back(&Lease::of(&answer)).await;
                Err(failure)
            }
        }
    }

    fn issued(&self, answer: &Answer, login: u64, asked_at: Moment) -> Result<(Issued, Held), Failure> {
        let path = &self.settings.path;
        let secret = self.settings.made.of(|name| match (&answer.auth, name) {
            (Some(granted), "token") => {
                let token = granted.client_token.expose_to_issuer();
                let token = token.map_err(|_| Error::Malformed(path.clone()))?;
                Ok(zeroize::Zeroizing::new(token.to_owned()))
            }
            _ => field(&answer.data, path, name),
        })?;
        let now = self.clock.now();
        let issued = found(secret, now)?;
        let (seconds, renewable) = match &answer.auth {
            Some(granted) => (granted.lease_duration, granted.renewable),
            None => (answer.lease_duration, answer.renewable),
        };
        let lease = Lease::of(answer);
        let seconds = if lease == Lease::Nothing && seconds == 0 { life_told(&answer.data) } else { seconds };
        let void_by = Some(lease.kept());
        let life = believed(seconds);
        let end = asked_at.after(life);
        let (expires, assumed) = match (life.is_zero(), issued.expires) {
            (true, Some(own)) => (Some(own), false),
            // As anything that was put somewhere: it is looked at again, and may be the same.
            (true, None) if lease == Lease::Nothing => (None, false),
            (true, None) => (Some(asked_at.after(ASSUMED_LIFE)), true),
            (false, None) => (Some(end), false),
            (false, Some(own)) => (Some(own.earlier(end)), false),
        };
        let renewable = renewable && !life.is_zero();
        let held = Held { lease, login, since: asked_at, expires: expires.unwrap_or(end), life, renewable };
        Ok((Issued { expires, assumed, void_by, ..issued }, held))
    }

    /// Of what cannot be used nobody else knows.
    async fn give_back(&self, lease: &Lease) {
        if *lease != Lease::Nothing
            && let Err(failure) = self.void(lease).await
        {
            tracing::warn!(detail = failure.detail, "a lease that is of no use is not given back: it ends by itself");
        }
    }

    async fn prolonged(&self, kept: &Secret) -> Result<Option<Moment>, Failure> {
        let lease = Lease::parse(told(kept)?);
        let held = self.held().clone();
        let Some(held) = held.filter(|held| held.lease == lease && self.is_worth_renewing(held)) else {
            return Ok(None);
        };
        let asked_at = self.clock.now();
        let answered = match &held.lease {
            Lease::Id(id) => self.vault.ask(Ask::post("sys/leases/renew", &object(&[("lease_id", id)]))).await,
            Lease::Accessor(accessor) => {
                let body = object(&[("accessor", accessor)]);
                self.vault.ask(Ask::post("auth/token/renew-accessor", &body)).await
            }
            Lease::Nothing => return Ok(None),
        };
        let answer = match answered {
            Ok(answer) => answer,
            // It has ended.
            Err(error) if error.is_ended() => return Ok(None),
            Err(error) if error.is_refusal() => {
                tracing::warn!(detail = %error, "the vault does not renew the lease: another one is asked for");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let seconds = answer.auth.as_ref().map_or(answer.lease_duration, |granted| granted.lease_duration);
        let life = believed(seconds);
        let until = asked_at.after(life).earlier(held.since.after(self.settings.max_life));
        let now = self.clock.now();
        if until.remaining(now) <= held.expires.remaining(now) {
            return Ok(None);
        }
        // What becomes shorter nears its bound.
        let renewable = life > held.life / 2;
        if let Some(current) = self.held().as_mut().filter(|current| current.lease == held.lease) {
            (current.expires, current.renewable) = (until, renewable);
        }
        Ok(Some(until))
    }

    /// Whether it can be had for longer, and by more than what it has left.
    fn is_worth_renewing(&self, held: &Held) -> bool {
        let most = held.since.after(self.settings.max_life);
        held.renewable && held.login == self.vault.serial() && most.remaining(held.expires) > held.life / 4
    }

    async fn void(&self, lease: &Lease) -> Result<(), Failure> {
        // The live generation may be one before it by now, whose lease nobody renews.
        self.held().take_if(|held| held.lease == *lease);
        let answered = match lease {
            // Its answer then says that it is done, and not that it will be.
            Lease::Id(id) => {
                let body = object(&[("lease_id", id.as_str()), ("sync", "true")]);
                self.vault.ask(Ask::post("sys/leases/revoke", &body)).await
            }
            Lease::Accessor(accessor) => {
                let body = object(&[("accessor", accessor.as_str())]);
                self.vault.ask(Ask::post("auth/token/revoke-accessor", &body)).await
            }
            Lease::Nothing => {
                let detail = "the vault gave it without a lease: it ends by itself";
                return Err(Failure::refused(Reason::InvalidTarget, detail));
            }
        };
        match answered {
            Ok(_) => Ok(()),
            Err(error) if error.is_ended() => Ok(()),
            // A policy can be put right.
            Err(error) => Err(Failure { class: Class::Transient { retry_after: error.retry_after() }, ..error.into() }),
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Dynamic {
    fn obtain(&self) -> Obtaining<'_> {
        Box::pin(self.ask())
    }

    fn prolong<'a>(&'a self, value: &'a Secret) -> Prolonging<'a> {
        Box::pin(self.prolonged(value))
    }

    fn kind(&self) -> &'static str {
        "vault_dynamic"
    }

    fn changed(&self) -> Changing<'_> {
        Box::pin(async {
            let Some(login) = self.held().as_ref().map(|held| held.login) else {
                return std::future::pending().await;
            };
            self.vault.logged_in_since(login.max(self.told.load(Ordering::Relaxed))).await;
            // It is told once, whatever comes of it.
            self.told.store(self.vault.serial(), Ordering::Relaxed);
        })
    }

    fn lists(&self) -> bool {
        self.settings.list
    }

    fn list<'a>(&'a self, is_ours: &'a IsOurs) -> Listing<'a> {
        Box::pin(leases::ghosts(&self.vault, &self.settings.path, is_ours))
    }

    /// A lease ends with the login that took it out, and that one is in memory alone.
    fn outlives_us(&self) -> bool {
        false
    }

    fn revokes(&self) -> bool {
        true
    }

    fn revoke<'a>(&'a self, value: &'a Secret) -> Revoking<'a> {
        Box::pin(async { self.void(&Lease::parse(told(value)?)).await })
    }
}

/// For how many seconds what comes without a lease is good, where it says so itself, as access tokens of clouds do: asking again
/// makes another. What the vault replaces in its place says only when it does that next.
fn life_told(data: &Data) -> u64 {
    if ["rotation_period", "rotation_schedule", "last_vault_rotation"].iter().any(|name| !data[*name].is_null()) {
        return 0;
    }
    ["token_ttl", "ttl"].iter().find_map(|name| data[*name].as_u64()).unwrap_or(0)
}

/// What stands for a generation where its issuer is told of it.
fn told(kept: &Secret) -> Result<&str, Failure> {
    kept.expose_to_issuer().map_err(|error| Failure::refused(Reason::Secret, error.to_string()))
}
