//! Sources: our code that asks an issuer.
//!
//! ```text
//! obtain → (environment | file | program | signed JWT | an issuer's endpoint → answer judged) → Issued | Failure
//! ```
//!
//! Invariant: a source keeps nothing of a secret between two calls. What it proves itself with is read anew for each, so
//! that a secret that was rotated in place is seen; and a [`Failure`] shows neither that secret nor a token.

pub mod answer;
pub mod aws;
pub mod environment;
pub mod exec;
pub mod failure;
pub mod file;
pub mod github_app;
pub mod key_endpoint;
pub mod kubernetes;
pub mod lifetime;
pub mod metadata;
pub mod oauth;
mod private_key;
pub mod refresh_token;
pub mod signed_jwt;
pub mod vault;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use self::failure::{Class, Failure, Reason};
pub use self::refresh_token::{Keep, Keeping};
use crate::clock::{Clock, Moment};
use crate::dpop::Key;
use crate::fetch::{Fetcher, RemoteError};
use crate::secret::Secret;
use crate::vault::Vault;

/// `source = { kind = ... }`
#[derive(Clone, PartialEq, Debug)]
pub enum Settings {
    Aws(Box<aws::Settings>),
    /// `{ kind = "env", name = "VARIABLE" }`
    Env {
        name: String,
    },
    Exec(exec::Settings),
    /// `{ kind = "file", path = "/run/secrets/token" }`
    File {
        path: PathBuf,
    },
    GithubApp(Box<github_app::Settings>),
    KeyEndpoint(Box<key_endpoint::Settings>),
    Kubernetes(Box<kubernetes::Settings>),
    Metadata(metadata::Settings),
    OAuth(Box<oauth::Settings>),
    RefreshToken(Box<refresh_token::Settings>),
    SignedJwt(signed_jwt::Settings),
    VaultDynamic(Box<vault::dynamic::Settings>),
    VaultKv(Box<vault::kv::Settings>),
}

impl Settings {
    /// As the config names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Aws(settings) => settings.kind(),
            Self::Env { .. } => "env",
            Self::Exec(_) => "exec",
            Self::File { .. } => "file",
            Self::GithubApp(_) => "github_app",
            Self::KeyEndpoint(_) => "key_endpoint",
            Self::Kubernetes(_) => "kubernetes",
            Self::Metadata(settings) => settings.wish.kind(),
            Self::OAuth(settings) => settings.kind,
            Self::RefreshToken(settings) => settings.oauth.kind,
            Self::SignedJwt(_) => "signed_jwt",
            Self::VaultDynamic(_) => "vault_dynamic",
            Self::VaultKv(_) => "vault_kv",
        }
    }

    /// Whether it gives a value that was put there once, by somebody else.
    pub fn is_static(&self) -> bool {
        match self {
            Self::Env { .. } | Self::File { .. } | Self::VaultKv(_) => true,
            Self::Aws(settings) => settings.is_static(),
            Self::Exec(_)
            | Self::GithubApp(_)
            | Self::KeyEndpoint(_)
            | Self::Kubernetes(_)
            | Self::Metadata(_)
            | Self::OAuth(_)
            | Self::RefreshToken(_)
            | Self::SignedJwt(_)
            | Self::VaultDynamic(_) => false,
        }
    }

    /// Whether what it gives are keys that sign requests to AWS.
    pub fn gives_keys_of_aws(&self) -> bool {
        match self {
            Self::Aws(_) => true,
            Self::Exec(settings) => settings.format == exec::Format::Aws,
            _ => false,
        }
    }

    /// Whether what it gives is bound to a key that has to be proved with each request.
    pub fn is_bound(&self) -> bool {
        match self {
            Self::OAuth(settings) => settings.dpop.is_some(),
            Self::RefreshToken(settings) => settings.oauth.dpop.is_some(),
            _ => false,
        }
    }

    /// The scopes that it asks its issuer for by name.
    pub fn asked_scopes(&mut self) -> Option<&mut Vec<String>> {
        match self {
            Self::GithubApp(settings) => Some(&mut settings.permissions),
            Self::OAuth(settings) => Some(&mut settings.scope),
            Self::RefreshToken(settings) => Some(&mut settings.oauth.scope),
            Self::Metadata(metadata::Settings { wish: metadata::Wish::Google { scope, .. }, .. }) => Some(scope),
            Self::Aws(_)
            | Self::Metadata(_)
            | Self::Env { .. }
            | Self::Exec(_)
            | Self::File { .. }
            | Self::KeyEndpoint(_)
            | Self::Kubernetes(_)
            | Self::SignedJwt(_)
            | Self::VaultDynamic(_)
            | Self::VaultKv(_) => None,
        }
    }
}

/// Where generations of a token come from.
pub trait Source: Send + Sync {
    /// Asks for a generation. Dropping the future ends the attempt.
    fn obtain(&self) -> Obtaining<'_>;

    /// Asks for a longer life of a generation that it gave: `value`, or what [`Issued::void_by`] had in its place. `None`: there
    /// is none to be had, and another generation has to take its place.
    fn prolong<'a>(&'a self, _value: &'a Secret) -> Prolonging<'a> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// As the config names it.
    fn kind(&self) -> &'static str;

    /// How often it may be asked.
    fn pace(&self) -> Pace {
        Pace { between_calls: Duration::from_secs(1), recheck: Duration::from_secs(60) }
    }

    /// Whether each call makes a value of its own, as an issuer does; else a value is found that somebody else replaces.
    fn mints(&self) -> bool {
        true
    }

    /// Whether what it gives is as good after a restart of this process, so that it is worth keeping.
    fn outlives_us(&self) -> bool {
        self.mints()
    }

    /// Resolves when the source notices by itself that a call would give something else, where it can. Nothing is lost when
    /// the future is dropped.
    fn changed(&self) -> Changing<'_> {
        Box::pin(std::future::pending())
    }

    /// Whether the issuer can be told that a generation is void.
    fn revokes(&self) -> bool {
        false
    }

    /// Whether a generation is good at its issuer until that is told otherwise, however long it is used here.
    fn lasts(&self) -> bool {
        false
    }

    /// Tells the issuer that a generation is void: `value`, or what [`Issued::void_by`] had in its place. It has confirmed
    /// that when this succeeds.
    fn revoke<'a>(&'a self, _value: &'a Secret) -> Revoking<'a> {
        Box::pin(async { Err(nobody_to_tell()) })
    }

    /// What the generation that it gave last is bound to, if it is (RFC 9449).
    fn proof_key(&self) -> Option<Arc<Key>> {
        None
    }

    /// What it gave before a restart is bound to this key, and what it gives next will be.
    fn go_on_with(&self, _key: Arc<Key>) {}

    /// What its issuer has come to tell otherwise of itself, since this was last asked.
    fn issuer_changes(&self) -> Vec<IssuerChange> {
        Vec::new()
    }

    /// Whether the issuer can be asked for all that it has issued, to whomever.
    fn lists(&self) -> bool {
        false
    }

    /// Asks for that, less what is ours.
    fn list<'a>(&'a self, _is_ours: &'a IsOurs) -> Listing<'a> {
        Box::pin(async { Err(nobody_to_tell()) })
    }

    /// The public keys (RFC 7517) that tokens of this source are verified with, if it signs them itself.
    fn public_keys(&self) -> Vec<serde_json::Value> {
        Vec::new()
    }
}

/// An attempt that is under way.
pub type Obtaining<'a> = Pin<Box<dyn Future<Output = Result<Issued, Failure>> + Send + 'a>>;

/// An attempt at a longer life: until when it lasts now.
pub type Prolonging<'a> = Pin<Box<dyn Future<Output = Result<Option<Moment>, Failure>> + Send + 'a>>;

/// An attempt to have a generation voided.
pub type Revoking<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

/// An attempt to have listed what was issued.
pub type Listing<'a> = Pin<Box<dyn Future<Output = Result<Ghosts, Failure>> + Send + 'a>>;

/// Whether a generation of ours is voided by this.
pub type IsOurs = dyn Fn(&Secret) -> bool + Send + Sync;

/// What a source that notices changes is waited for with.
pub type Changing<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// How often a source may be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// The least time between the starts of two calls.
    pub between_calls: Duration,
    /// How often a source whose token has no end is asked whether it has changed.
    pub recheck: Duration,
}

/// What a source obtained.
pub struct Issued {
    pub secret: Secret,
    /// `None`: nobody says that it ends.
    pub expires: Option<Moment>,
    /// Whether `expires` is our own guess: the issuer did not say.
    pub assumed: bool,
    /// The scopes that the issuer says it granted.
    pub granted: Option<Vec<String>>,
    /// What the issuer is told when it is void, where that is not the token itself.
    pub void_by: Option<Secret>,
    /// Its number where it was found, if it has one there.
    pub version: Option<u64>,
}

/// A part of what an issuer tells of itself that is not what it was; nothing of it is secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IssuerChange {
    /// As it calls itself.
    pub issuer: String,
    /// By the name that it has in the document.
    pub what: String,
    pub before: Option<String>,
    pub after: Option<String>,
}

/// What an issuer has issued and nobody here has.
#[derive(Default)]
pub struct Ghosts {
    /// The first of them.
    pub told: Vec<Ghost>,
    pub count: usize,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ghost {
    /// What the issuer knows it by; no secret.
    pub id: String,
    /// Since the Unix epoch, as its issuer says.
    pub issued: Option<Duration>,
    pub expires: Option<Duration>,
}

/// Why no source can be made of its settings.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("`extra` may not set {0:?}: the source itself sends it")]
    ReservedField(String),
    #[error("`claims` may not set {0:?}: the source itself sets it")]
    ReservedClaim(String),
    #[error("{0:?} signs with a key that whoever verifies needs too: use ES256, EdDSA or RS256")]
    SharedKey(jsonwebtoken::Algorithm),
    #[error("there is no [vault] to ask")]
    NoVault,
}

/// Makes a source. TLS roots are read here; secrets are not, they are read when they are used. A source that has something to
/// keep obtains nothing without `keep`.
///
/// # Errors
/// When the settings contradict themselves, or the TLS roots cannot be read.
pub fn build(
    settings: &Settings,
    fetcher: &Arc<Fetcher>,
    vault: Option<&Arc<Vault>>,
    clock: Arc<dyn Clock>,
    keep: Option<Keep>,
) -> Result<Box<dyn Source>, BuildError> {
    Ok(match settings {
        Settings::Aws(settings) => aws::build(settings, fetcher, clock)?,
        Settings::Env { name } => Box::new(environment::Environment::new(name.clone(), clock)),
        Settings::Exec(settings) => Box::new(exec::Exec::new(settings.clone(), clock)),
        Settings::File { path } => Box::new(file::File::new(path.clone(), clock)),
        Settings::GithubApp(settings) => {
            Box::new(github_app::GithubApp::new((**settings).clone(), fetcher.clone(), clock)?)
        }
        Settings::KeyEndpoint(settings) => {
            Box::new(key_endpoint::KeyEndpoint::new((**settings).clone(), fetcher.clone(), clock)?)
        }
        Settings::Kubernetes(settings) => {
            Box::new(kubernetes::Kubernetes::new((**settings).clone(), fetcher.clone(), clock)?)
        }
        Settings::Metadata(settings) => Box::new(metadata::Metadata::new(settings.clone(), fetcher.clone(), clock)?),
        Settings::OAuth(settings) => Box::new(oauth::OAuth::new((**settings).clone(), fetcher.clone(), clock)?),
        Settings::RefreshToken(settings) => {
            Box::new(refresh_token::RefreshToken::new((**settings).clone(), fetcher.clone(), clock, keep)?)
        }
        Settings::SignedJwt(settings) => Box::new(signed_jwt::SignedJwt::new(settings.clone(), clock)?),
        Settings::VaultDynamic(settings) => {
            let vault = vault.ok_or(BuildError::NoVault)?.clone();
            Box::new(vault::dynamic::Dynamic::new((**settings).clone(), vault, clock))
        }
        Settings::VaultKv(settings) => {
            let vault = vault.ok_or(BuildError::NoVault)?.clone();
            Box::new(vault::kv::Kv::new((**settings).clone(), vault, clock))
        }
    })
}

fn nobody_to_tell() -> Failure {
    Failure::refused(Reason::InvalidTarget, "this source has nobody to tell or to ask")
}

/// A token as it was found, in a variable or a file: it says itself when it ends, or nobody does.
fn found(secret: Secret, now: Moment) -> Result<Issued, Failure> {
    if secret.is_empty() {
        return Err(Failure::transient(Reason::TokenMissing, "the token is empty"));
    }
    if secret.header_value("", "").is_err() {
        return Err(Failure::transient(Reason::TokenCharset, "the token holds something other than visible ASCII"));
    }
    let expires = lifetime::jwt_end(&secret, now)?;
    Ok(Issued { secret, expires, assumed: false, granted: None, void_by: None, version: None })
}

#[cfg(test)]
mod tests;
