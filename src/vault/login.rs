//! Who we are to the vault: a token that a login gives, renewed ahead of its end.
//!
//! ```text
//!  none, void, or renewing helps no more ─▶ log in ─▶ token ── two thirds of its life ──▶ renew ─┐
//!        ▲                                             ▲                                         │
//!        └──── its life is not prolonged any more ─────┴─────────────────────────────────────────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use zeroize::Zeroizing;

use super::answer::{Answer, Error, Granted};
use super::{Ask, Vault};
use crate::backoff::Backoff;
use crate::clock::{Moment, believed};
use crate::secret::{Reference, Secret};

/// `auth = { kind = ... }`
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Auth {
    /// A token that somebody else looks after.
    Token(Reference),
    AppRole {
        mount: String,
        role_id: Reference,
        secret_id: Option<Reference>,
    },
    /// A JWT that somebody else signs: of any issuer, or of a Kubernetes cluster.
    Jwt {
        mount: String,
        role: String,
        jwt: Reference,
    },
}

/// How it stands with the login.
#[derive(Default)]
pub struct Login {
    token: Option<Token>,
    serial: u64,
    failures: u32,
    /// Nobody is asked before, and whoever asks is told of the last failure.
    not_before: Option<(Moment, Error)>,
}

/// What a login gave.
#[derive(Clone)]
pub struct Token {
    pub secret: Arc<Secret>,
    pub serial: u64,
    /// When it was obtained.
    since: Moment,
    /// `None`: never, as of a root token.
    expires: Option<Moment>,
    /// When it is to be renewed, or another one had.
    due: Option<Moment>,
    /// How long it lived at first.
    life: Duration,
    renewable: bool,
}

impl Token {
    /// Whether it has been there for a while: one that has only just come is not doubted.
    pub(super) fn is_settled(&self, now: Moment) -> bool {
        now.boot.saturating_sub(self.since.boot) > DOUBTED_AFTER
    }

    fn is_due(&self, now: Moment) -> bool {
        self.due.is_some_and(|due| due.reached(now))
    }

    fn is_over(&self, now: Moment) -> bool {
        self.expires.is_some_and(|expires| expires.reached(now))
    }
}

impl Vault {
    /// The token that calls are made with. One caller at a time sees to it; the others wait.
    pub(super) async fn token(&self) -> Result<Token, Error> {
        self.token_but(None).await
    }

    /// Another token than one that is void; `None`: the login gives the same one.
    pub(super) async fn token_after(&self, void: &Token) -> Result<Option<Token>, Error> {
        let token = self.token_but(Some(void)).await?;
        Ok((!token.secret.same_as(&void.secret)).then_some(token))
    }

    async fn token_but(&self, void: Option<&Token>) -> Result<Token, Error> {
        let mut login = self.login.lock().await;
        if let Some(void) = void
            && login.token.as_ref().is_some_and(|token| token.secret.same_as(&void.secret))
        {
            login.token = None;
        }
        let now = self.clock.now();
        login.token = login.token.take().filter(|token| !token.is_over(now));
        if let Some(token) = login.token.as_ref().filter(|token| !token.is_due(now)) {
            return Ok(token.clone());
        }
        if let Some((until, error)) = &login.not_before
            && !until.reached(now)
        {
            // One that is due is still good.
            return login.token.clone().ok_or_else(|| error.clone());
        }
        let error = match self.follow(login.token.clone(), login.serial).await {
            Ok(token) => {
                login.serial = token.serial;
                (login.failures, login.not_before) = (0, None);
                login.token = Some(token.clone());
                self.logins.send_if_modified(|serial| std::mem::replace(serial, token.serial) != token.serial);
                return Ok(token);
            }
            Err(error) => error,
        };
        login.failures = login.failures.saturating_add(1);
        let backoff = if error.is_refusal() { REFUSED } else { UNREACHED };
        let delay = backoff.delay(login.failures, fastrand::f64());
        let delay = error.retry_after().map_or(delay, |told| told.max(delay));
        tracing::warn!(detail = %error, attempt = login.failures, retry_seconds = delay.as_secs_f64(), "no login to the vault");
        login.not_before = Some((self.clock.now().after(delay), error.clone()));
        login.token.clone().ok_or(error)
    }

    /// The same token for longer, or the next one.
    async fn follow(&self, token: Option<Token>, serial: u64) -> Result<Token, Error> {
        let token = match token {
            Some(token) if token.renewable => match self.renew(&token).await {
                Ok(Some(renewed)) => return Ok(renewed),
                // It is at its bound.
                Ok(None) => Some(token),
                Err(error) if error.is_refusal() => {
                    tracing::warn!(detail = %error, "the vault does not renew the login: another one takes its place");
                    Some(token)
                }
                Err(error) => return Err(error),
            },
            token => token,
        };
        match &self.auth {
            Auth::Token(reference) => self.adopt(reference, token.as_ref(), serial).await,
            Auth::AppRole { .. } | Auth::Jwt { .. } => self.log_in(serial).await,
        }
    }

    /// `None`: nothing is left of it.
    async fn renew(&self, token: &Token) -> Result<Option<Token>, Error> {
        let path = "auth/token/renew-self";
        let asked_at = self.clock.now();
        let answer = self.send(Ask::post(path, b"{}"), Some(token), &[]).await?;
        let granted = answer.auth.ok_or_else(|| Error::Malformed(path.to_owned()))?;
        let left = believed(granted.lease_duration);
        if left.is_zero() {
            return Ok(None);
        }
        // What becomes shorter nears its bound.
        let renewable = granted.renewable && left > token.life / 2;
        let renewed = Token { renewable, ..token.clone() }.lasting(left, asked_at);
        tracing::debug!(seconds = left.as_secs(), "renewed the login to the vault");
        Ok(Some(renewed))
    }

    async fn log_in(&self, serial: u64) -> Result<Token, Error> {
        let (path, proof) = self.auth.proof().await?;
        let body = object(&proof);
        let asked_at = self.clock.now();
        let shown: Vec<&str> = proof.iter().map(|(_, shown)| shown.as_str()).collect();
        let answered = self.send(Ask::post(&path, &body), None, &shown).await;
        let Granted { client_token, renewable, lease_duration, .. } = match answered {
            Ok(Answer { auth: Some(granted), .. }) => granted,
            Ok(_) => return Err(Error::Malformed(path)),
            Err(error) => return Err(of_login(error)),
        };
        let life = believed(lease_duration);
        tracing::info!(path, seconds = lease_duration, renewable, "logged in to the vault");
        let secret = Arc::new(client_token);
        let token = Token { secret, serial: serial + 1, since: asked_at, expires: None, due: None, life, renewable };
        Ok(token.lasting(life, asked_at))
    }

    /// A token that stands somewhere: it says itself how long it lives. The same as before is no other login.
    async fn adopt(&self, reference: &Reference, before: Option<&Token>, serial: u64) -> Result<Token, Error> {
        let secret = Arc::new(reference.obtain().await.map_err(|error| Error::Proof(Arc::new(error)))?);
        let same = before.is_some_and(|before| before.secret.same_as(&secret));
        let serial = if same { serial } else { serial + 1 };
        let asked_at = self.clock.now();
        let (expires, due, life) = (None, None, Duration::ZERO);
        let token = Token { secret, serial, since: asked_at, expires, due, life, renewable: false };
        let path = "auth/token/lookup-self";
        let answer = self.send(Ask::get(path), Some(&token), &[]).await.map_err(of_login)?;
        let left = believed(answer.data["ttl"].as_u64().unwrap_or(0));
        let renewable = answer.data["renewable"].as_bool().unwrap_or(false);
        let life = believed(answer.data["creation_ttl"].as_u64().unwrap_or(0)).max(left);
        // One that was renewed to no avail is not tried again before it is another.
        let renewable = renewable && !same && !left.is_zero();
        Ok(Token { life, renewable, ..token }.lasting(left, asked_at))
    }

    /// Has the vault void what the login gave, and all that it was given for. What somebody else looks after stays.
    pub async fn leave(&self) {
        let token = self.login.lock().await.token.take();
        let (Some(token), Auth::AppRole { .. } | Auth::Jwt { .. }) = (token, &self.auth) else { return };
        match self.send(Ask::post("auth/token/revoke-self", b"{}"), Some(&token), &[]).await {
            Ok(_) => tracing::info!("logged out of the vault"),
            Err(error) => tracing::warn!(detail = %error, "the vault did not confirm that the login is void"),
        }
    }
}

impl Token {
    /// From when it was asked for; nothing left stands for no end.
    fn lasting(self, left: Duration, asked_at: Moment) -> Self {
        if left.is_zero() {
            return Self { expires: None, due: None, ..self };
        }
        // In time for another attempt or two.
        let due = (left * 2 / 3).max(Duration::from_secs(1));
        Self { expires: Some(asked_at.after(left)), due: Some(asked_at.after(due)), ..self }
    }
}

/// What proves us, by the names that the vault has for it.
type Proof = Vec<(&'static str, Zeroizing<String>)>;

impl Auth {
    /// Where the login is, and what it is shown: read anew for each.
    async fn proof(&self) -> Result<(String, Proof), Error> {
        let (mount, proof) = match self {
            Self::Token(_) => return Err(Error::Malformed("auth/token".to_owned())),
            Self::AppRole { mount, role_id, secret_id } => {
                let mut proof = vec![("role_id", text(role_id, "`role_id`").await?)];
                if let Some(secret_id) = secret_id {
                    proof.push(("secret_id", text(secret_id, "`secret_id`").await?));
                }
                (mount, proof)
            }
            Self::Jwt { mount, role, jwt } => {
                (mount, vec![("role", Zeroizing::new(role.clone())), ("jwt", text(jwt, "`jwt`").await?)])
            }
        };
        Ok((format!("auth/{mount}/login"), proof))
    }
}

async fn text(reference: &Reference, what: &'static str) -> Result<Zeroizing<String>, Error> {
    let secret = reference.obtain().await.map_err(|error| Error::Proof(Arc::new(error)))?;
    let text = secret.expose_to_issuer().map_err(|_| Error::NotText(what))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// A JSON object of texts, in one piece from the start: growing would leave copies behind.
pub fn object<N: AsRef<str>, T: AsRef<str>>(members: &[(N, T)]) -> Zeroizing<Vec<u8>> {
    // A byte of a text is at most six of JSON.
    let room =
        members.iter().map(|(name, value)| 6 * (name.as_ref().len() + value.as_ref().len()) + 6).sum::<usize>() + 2;
    let mut json = Zeroizing::new(Vec::with_capacity(room));
    json.push(b'{');
    for (at, (name, value)) in members.iter().enumerate() {
        if at > 0 {
            json.push(b',');
        }
        // A vector takes all that is written to it, and a text is always JSON.
        let _ = serde_json::to_writer(&mut *json, name.as_ref());
        json.push(b':');
        let _ = serde_json::to_writer(&mut *json, value.as_ref());
    }
    json.push(b'}');
    json
}

/// What the vault says to a login.
fn of_login(error: Error) -> Error {
    match error {
        Error::Denied { path, said } => Error::Login { path, status: StatusCode::FORBIDDEN, said },
        Error::Answered { path, status, said, retry_after: None } if status.is_client_error() => {
            Error::Login { path, status, said }
        }
        other => other,
    }
}

/// A policy that denies something, and does not even let a token be looked at, is no reason to log in each time.
const DOUBTED_AFTER: Duration = Duration::from_secs(10);

/// A vault locks out who is refused too often.
const REFUSED: Backoff = Backoff { first: Duration::from_secs(2), most: Duration::from_secs(60) };

const UNREACHED: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(5) };
