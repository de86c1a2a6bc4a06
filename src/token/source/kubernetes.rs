//! Kubernetes: the cluster signs a JWT for a service account, when it is asked for one ("TokenRequest", authentication.k8s.io/v1).
//!
//! What asks is a service account too, by the token that is mounted into its pod. Who may ask for whom is a rule of the cluster:
//! `create` on `serviceaccounts/token`.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::answer::members::Member;
use super::answer::{self, Asked, Reply};
use super::{BuildError, Failure, Issued, Obtaining, Reason, Source};
use crate::authority::Endpoint;
use crate::clock::Clock;
use crate::fetch::{Call, Fetcher, Remote};
use crate::secret::Reference;
use crate::tls;

/// `source = { kind = "kubernetes", ... }`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The API server.
    pub url: Endpoint,
    pub namespace: String,
    pub service_account: String,
    /// What proves ourselves to the API server.
    pub own_token: Reference,
    /// Who is to accept the JWT; empty: the API server itself.
    pub audience: Vec<String>,
    pub lifetime: Duration,
    pub tls: tls::Settings,
}

pub struct Kubernetes {
    settings: Settings,
    remote: Remote,
    fetcher: Arc<Fetcher>,
    clock: Arc<dyn Clock>,
}

#[derive(serde::Deserialize)]
struct Answer {
    #[serde(default)]
    status: Status,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    token: Member,
    expiration_timestamp: Member,
}

impl Kubernetes {
    /// # Errors
    /// When the TLS roots cannot be read.
    pub fn new(settings: Settings, fetcher: Arc<Fetcher>, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        let Settings { namespace, service_account, .. } = &settings;
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token");
        let remote = Remote::new(settings.url.below(&path), &settings.tls)?;
        Ok(Self { settings, remote, fetcher, clock })
    }

    async fn ask(&self) -> Result<Issued, Failure> {
        let unusable = |detail| Failure::transient(Reason::Secret, detail);
        let own = self.settings.own_token.obtain().await.map_err(|error| unusable(error.to_string()))?;
        let bearer = own.header_value("Bearer ", "").map_err(|error| unusable(error.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(AUTHORIZATION, bearer);
        let body = Zeroizing::new(self.wish().to_string().into_bytes());
        let asked_at = self.clock.now();
        let answer = self.fetcher.send(Call { method: Method::POST, remote: &self.remote, headers, body }).await?;
        let shown = [own.expose_to_issuer().map_err(|error| unusable(error.to_string()))?];
        let asked = Asked { scopes: &[], at: asked_at, now: self.clock.now(), secrets: &shown };
        let Answer { status } = answer::judge_form(&Reply::from(&answer), &asked)?;
        let issued = answer::judge_found(status.token, &status.expiration_timestamp, Vec::new(), &asked)?;
        Ok(Issued { granted: None, ..issued })
    }

    fn wish(&self) -> Value {
        let mut spec = json!({ "expirationSeconds": self.settings.lifetime.as_secs() });
        if !self.settings.audience.is_empty() {
            spec["audiences"] = json!(self.settings.audience);
        }
        json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec })
    }
}

impl Source for Kubernetes {
    fn obtain(&self) -> Obtaining<'_> {
        Box::pin(self.ask())
    }

    fn kind(&self) -> &'static str {
        "kubernetes"
    }
}

#[cfg(test)]
mod tests;
