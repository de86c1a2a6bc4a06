//! What a token endpoint is shown in return for a token, besides who asks.

use zeroize::Zeroizing;

use super::{Settings, service_account, text_of};
use crate::clock::Moment;
use crate::secret::Reference;
use crate::token::source::{Failure, Reason, private_key, signed_jwt};

#[derive(Clone, PartialEq, Debug)]
pub enum Grant {
    /// Nothing: the client's own proof is enough (RFC 6749, section 4.4).
    ClientCredentials,
    /// A JWT that says for whom (RFC 7523, section 2.1).
    JwtBearer(Assertion),
    /// Another token (RFC 8693).
    TokenExchange(Exchange),
    /// A refresh token (RFC 6749, section 6), which the source itself keeps.
    RefreshToken,
}

/// Where the JWT of [`Grant::JwtBearer`] comes from.
#[derive(Clone, PartialEq, Debug)]
pub enum Assertion {
    /// Somebody else signed it, and keeps it fresh.
    Ready(Reference),
    Signed(Box<signed_jwt::Settings>),
    /// The key file of a Google service account signs it.
    ServiceAccount {
        key: Reference,
        subject: Option<String>,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exchange {
    pub subject: Presented,
    /// Who acts for the subject.
    pub actor: Option<Presented>,
    /// The type of token that is wanted, as a URN.
    pub requested_type: Option<String>,
}

/// A token that is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Presented {
    pub token: Reference,
    /// Its type, as a URN.
    pub kind: String,
}

/// A grant, in the form's fields.
pub struct Shown {
    pub fields: Vec<(&'static str, Zeroizing<String>)>,
    /// What the issuer may not make us repeat.
    pub secrets: Vec<Zeroizing<String>>,
    /// Whether the scopes stand in what is shown, so that no field of their own names them.
    pub names_scope: bool,
}

impl Grant {
    /// As the secrets behind it are now.
    pub(super) async fn show(&self, settings: &Settings, now: Moment) -> Result<Shown, Failure> {
        match self {
            Self::ClientCredentials => Ok(Shown::new("client_credentials")),
            Self::JwtBearer(assertion) => {
                let (jwt, names_scope) = match assertion {
                    Assertion::Ready(reference) => (text_of(reference).await?, false),
                    Assertion::Signed(signed) => (sign(signed, now).await?, false),
                    Assertion::ServiceAccount { key, subject } => {
                        (service_account::sign(key, subject.as_deref(), settings, now).await?, true)
                    }
                };
                let mut shown = Shown::new(JWT_BEARER);
                shown.secret("assertion", jwt);
                Ok(Shown { names_scope, ..shown })
            }
            Self::TokenExchange(exchange) => exchange.show().await,
            // What is shown of it is not found here.
            Self::RefreshToken => Err(Failure::refused(Reason::Secret, "the refresh token is kept elsewhere")),
        }
    }
}

impl Exchange {
    async fn show(&self) -> Result<Shown, Failure> {
        let mut shown = Shown::new(TOKEN_EXCHANGE);
        shown.secret("subject_token", text_of(&self.subject.token).await?);
        shown.plain("subject_token_type", &self.subject.kind);
        if let Some(actor) = &self.actor {
            shown.secret("actor_token", text_of(&actor.token).await?);
            shown.plain("actor_token_type", &actor.kind);
        }
        if let Some(requested) = &self.requested_type {
            shown.plain("requested_token_type", requested);
        }
        Ok(shown)
    }
}

impl Shown {
    pub fn refresh_token(token: &Zeroizing<String>) -> Self {
        let mut shown = Self::new("refresh_token");
        shown.secret("refresh_token", token.clone());
        shown
    }

    /// Who asks, and for these scopes, is enough.
    pub(super) fn scope(scope: &str) -> Self {
        let mut shown = Self { fields: Vec::new(), secrets: Vec::new(), names_scope: true };
        if !scope.is_empty() {
            shown.plain("scope", scope);
        }
        shown
    }

    /// What stands for a code that somebody types (RFC 8628, section 3.4). The scopes were named with it.
    pub(super) fn device_code(code: &Zeroizing<String>) -> Self {
        let mut shown = Self::new("urn:ietf:params:oauth:grant-type:device_code");
        shown.secret("device_code", code.clone());
        Self { names_scope: true, ..shown }
    }

    /// What a browser came back with (RFC 6749, section 4.1.3), and the verifier that makes it ours (RFC 7636).
    pub(super) fn authorization_code(code: &Zeroizing<String>, verifier: &Zeroizing<String>, redirect: &str) -> Self {
        let mut shown = Self::new("authorization_code");
        shown.secret("code", code.clone());
        shown.secret("code_verifier", verifier.clone());
        shown.plain("redirect_uri", redirect);
        Self { names_scope: true, ..shown }
    }

    fn new(grant_type: &str) -> Self {
        let fields = vec![("grant_type", Zeroizing::new(grant_type.to_owned()))];
        Self { fields, secrets: Vec::new(), names_scope: false }
    }

    fn plain(&mut self, name: &'static str, value: &str) {
        self.fields.push((name, Zeroizing::new(value.to_owned())));
    }

    fn secret(&mut self, name: &'static str, value: Zeroizing<String>) {
        self.secrets.push(value.clone());
        self.fields.push((name, value));
    }
}

async fn sign(settings: &signed_jwt::Settings, now: Moment) -> Result<Zeroizing<String>, Failure> {
    let issued_at = now.wall.as_secs();
    let ends = issued_at.saturating_add(settings.lifetime.as_secs());
    let claims = settings.claims_at(issued_at, ends)?;
    let (signed, _) = private_key::sign(&settings.key, settings.algorithm, settings.key_id.as_deref(), &claims).await?;
    Ok(signed)
}

/// RFC 7523, section 2.1.
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// RFC 8693, section 2.1.
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

#[cfg(test)]
mod tests;
