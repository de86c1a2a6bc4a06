//! The key file of a Google service account, and the JWT that it signs for an access token ("Using OAuth 2.0 for Server to
//! Server Applications", developers.google.com/identity/protocols/oauth2/service-account).

use jsonwebtoken::{Algorithm, Header};
use serde_json::{Map, json};
use zeroize::Zeroizing;

use super::Settings;
use crate::clock::Moment;
use crate::secret::Reference;
use crate::token::source::answer::members::Member;
use crate::token::source::{Failure, Reason, private_key};

/// What is used of the file. It names a token endpoint too, which is not asked: the config says who is.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct KeyFile {
    client_email: Member,
    private_key: Member,
    private_key_id: Member,
}

/// `subject`: the user whom the account stands in for, where the domain lets it.
pub(super) async fn sign(
    key: &Reference,
    subject: Option<&str>,
    settings: &Settings,
    now: Moment,
) -> Result<Zeroizing<String>, Failure> {
    let unfit = || {
        let detail = format!("{key} is no key file of a service account: JSON with `client_email` and `private_key`");
        Failure::transient(Reason::Key, detail)
    };
    let content = key.obtain_document().await.map_err(|error| Failure::transient(Reason::Key, error.to_string()))?;
    let file: KeyFile = serde_json::from_slice(content.expose_to_signer()).map_err(|_| unfit())?;
    let (Some(email), Some(pem)) = (file.client_email.text(), file.private_key.text()) else { return Err(unfit()) };
    let issued_at = now.wall.as_secs();
    let mut claims = Map::new();
    claims.insert("iss".to_owned(), json!(email));
    claims.insert("scope".to_owned(), json!(settings.scope.join(" ")));
    claims.insert("aud".to_owned(), json!(settings.issuer.audience()));
    claims.insert("iat".to_owned(), json!(issued_at));
    claims.insert("exp".to_owned(), json!(issued_at + LIFE_SECONDS));
    if let Some(subject) = subject {
        claims.insert("sub".to_owned(), json!(subject));
    }
    let mut header = Header::new(Algorithm::RS256);
    header.kid = file.private_key_id.text().map(str::to_owned);
    private_key::sign_with(&header, pem.as_bytes(), &claims).ok_or_else(unfit)
}

/// Enough for one call, with clocks that differ a little. Google takes up to an hour.
const LIFE_SECONDS: u64 = 300;
