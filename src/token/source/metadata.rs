//! The metadata service of the cloud that this machine is in: it knows the machine, and asks for no secret.
//!
//! Google: "Get an access token" and "Get an ID token" (cloud.google.com/compute/docs/access). Azure: "How to use managed
//! identities on an Azure VM to acquire an access token" (learn.microsoft.com).
//!
//! Invariant: its address is open to these calls only. The services keep a token and give it again until it nearly ends.

use std::sync::Arc;

use form_urlencoded::Serializer;
use http::{HeaderMap, HeaderValue, Method};
use zeroize::Zeroizing;

use super::answer::{self, Asked, Reply};
use super::{BuildError, Failure, Issued, Obtaining, Reason, Source, found};
use crate::authority::Endpoint;
use crate::clock::Clock;
use crate::fetch::{Answer, Call, Fetcher, Remote};
use crate::secret::Secret;
use crate::tls;

/// `source = { kind = "gcp_metadata" }`, or `"azure_metadata"`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Where the service is, if not where the cloud has it.
    pub url: Endpoint,
    pub wish: Wish,
}

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wish {
    /// An access token of a Google service account.
    Google { account: String, scope: Vec<String> },
    /// A JWT that says who the service account is, for this audience.
    GoogleIdentity { account: String, audience: String },
    /// An access token of a managed identity; `client`: of which, where the machine has several.
    Azure { resource: String, client: Option<String> },
}

pub struct Metadata {
    settings: Settings,
    remote: Remote,
    fetcher: Arc<Fetcher>,
    clock: Arc<dyn Clock>,
}

impl Wish {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Google { .. } | Self::GoogleIdentity { .. } => "gcp_metadata",
            Self::Azure { .. } => "azure_metadata",
        }
    }

    fn path(&self) -> String {
        const ACCOUNTS: &str = "/computeMetadata/v1/instance/service-accounts";
        match self {
            Self::Google { account, .. } => format!("{ACCOUNTS}/{account}/token"),
            Self::GoogleIdentity { account, .. } => format!("{ACCOUNTS}/{account}/identity"),
            Self::Azure { .. } => "/metadata/identity/oauth2/token".to_owned(),
        }
    }

    fn query(&self) -> String {
        let mut query = Serializer::new(String::new());
        match self {
            Self::Google { scope, .. } if scope.is_empty() => {}
            Self::Google { scope, .. } => drop(query.append_pair("scopes", &scope.join(","))),
            Self::GoogleIdentity { audience, .. } => {
                query.append_pair("audience", audience).append_pair("format", "full");
            }
            Self::Azure { resource, client } => {
                query.append_pair("api-version", "2018-02-01").append_pair("resource", resource);
                query.extend_pairs(client.iter().map(|id| ("client_id", id)));
            }
        }
        query.finish()
    }

    /// What shows the service that no browser was tricked into asking.
    fn header(&self) -> (&'static str, &'static str) {
        match self {
            Self::Google { .. } | Self::GoogleIdentity { .. } => (FLAVOR, GOOGLE),
            Self::Azure { .. } => ("metadata", "true"),
        }
    }
}

impl Metadata {
    /// # Errors
    /// When what is asked for cannot be written into a request.
    pub fn new(settings: Settings, fetcher: Arc<Fetcher>, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        let endpoint = settings.url.below(&settings.wish.path());
        let remote = Remote::new(endpoint, &tls::Settings::default())?.asking(&settings.wish.query())?.of_metadata();
        Ok(Self { settings, remote, fetcher, clock })
    }

    async fn ask(&self) -> Result<Issued, Failure> {
        let (name, value) = self.settings.wish.header();
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        let asked_at = self.clock.now();
        let call = Call { method: Method::GET, remote: &self.remote, headers, body: Zeroizing::default() };
        let answer = self.fetcher.send(call).await?;
        // The scopes are not sent back: who may do what is settled in the cloud.
        let asked = Asked { scopes: &[], at: asked_at, now: self.clock.now(), secrets: &[] };
        match &self.settings.wish {
            Wish::Azure { .. } => answer::judge(&Reply::from(&answer), &asked),
            Wish::Google { .. } => {
                by_google(&answer)?;
                answer::judge(&Reply::from(&answer), &asked)
            }
            Wish::GoogleIdentity { .. } => {
                by_google(&answer)?;
                if !answer.status.is_success() {
                    return answer::judge(&Reply::from(&answer), &asked);
                }
                let issued = found(Secret::new(answer.body.trim_ascii()), asked.now)?;
                if issued.expires.is_none() {
                    return Err(Failure::transient(Reason::Malformed, "the service's answer is no JWT with an end"));
                }
                Ok(issued)
            }
        }
    }
}

impl Source for Metadata {
    fn obtain(&self) -> Obtaining<'_> {
        Box::pin(self.ask())
    }

    fn kind(&self) -> &'static str {
        self.settings.wish.kind()
    }

    fn mints(&self) -> bool {
        false
    }
}

/// Google's service says who it is, so that something else at its address is told apart.
fn by_google(answer: &Answer) -> Result<(), Failure> {
    match answer.headers.get(FLAVOR) {
        Some(flavor) if flavor == GOOGLE => Ok(()),
        _ => Err(Failure::transient(Reason::Malformed, "whoever answered is not Google's metadata service")),
    }
}

const FLAVOR: &str = "metadata-flavor";

const GOOGLE: &str = "Google";

#[cfg(test)]
mod tests;
