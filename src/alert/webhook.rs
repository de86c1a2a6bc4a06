//! What a webhook is told: a POST for each thing, signed as Standard Webhooks has it (<https://www.standardwebhooks.com>).

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;
use zeroize::Zeroizing;

use super::board::Telling;
use crate::audit::time_text;
use crate::authority::Endpoint;
use crate::secret::{Reference, ResolveError, Secret};

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// How a secret begins, by convention.
const PREFIX: &[u8] = b"whsec_";

/// Some leave the padding away.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why nothing can be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error(transparent)]
    Secret(#[from] ResolveError),
    #[error("the webhook's secret is not `whsec_` and 24 to 64 bytes in base64")]
    NotASecret,
}

/// What is sent: the same for each attempt.
pub fn body(telling: &Telling, instance: &str, runbooks: Option<&Endpoint>) -> Vec<u8> {
    let Telling { alert, ended, .. } = telling;
    let (kind, at) = match ended {
        None => ("alert.firing", alert.started),
        Some(ended) => ("alert.resolved", *ended),
    };
    let body = json!({
        "type": kind,
        "timestamp": time_text(at),
        "data": {
            "key": alert.key,
            "name": alert.name,
            "severity": alert.severity,
            "instance": instance,
            "token": alert.token,
            "route": alert.route,
            "client": alert.client,
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": alert.runbook(runbooks),
            "started": time_text(alert.started),
            "ended": ended.map(time_text),
        },
    });
    body.to_string().into_bytes()
}

/// The headers of one attempt. The secret is read anew: somebody may have rotated it.
pub async fn headers(
    telling: &Telling,
    body: &[u8],
    secret: &Reference,
    now: Duration,
) -> Result<HeaderMap, SignError> {
    let id = format!("msg_{}", telling.id);
    let signature = signature(&secret.obtain().await?, &id, now.as_secs(), body)?;
    let text = |text: String| HeaderValue::try_from(text).expect("digits, letters and base64 fit in a header");
    Ok(HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (ID, text(id)),
        (TIMESTAMP, text(now.as_secs().to_string())),
        (SIGNATURE, text(signature)),
    ]))
}

/// What proves to whoever has the secret that this comes from somebody who has it too.
pub fn signature(secret: &Secret, id: &str, timestamp: u64, body: &[u8]) -> Result<String, SignError> {
    let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
    Ok(format!("v1,{}", STANDARD.encode(hmac::sign(&key(secret)?, &signed))))
}

fn key(secret: &Secret) -> Result<hmac::Key, SignError> {
    let text = secret.expose_to_signer();
    let encoded = text.strip_prefix(PREFIX).unwrap_or(text);
    let key = Zeroizing::new(LENIENT.decode(encoded).map_err(|_| SignError::NotASecret)?);
    // As the specification has it.
    if !(24..=64).contains(&key.len()) {
        return Err(SignError::NotASecret);
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &key))
}
