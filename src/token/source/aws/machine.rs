//! The keys of the machine: of an instance of EC2, by the second version of its metadata service (IMDSv2), and of a container of
//! ECS or EKS, by the address that its variables name.
//!
//! Invariant: the addresses of these services are open to these calls only. They keep the keys and give them again until
//! they nearly end.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use zeroize::Zeroizing;

use super::{Printed, unusable};
use crate::authority::Endpoint;
use crate::clock::Clock;
use crate::fetch::{Answer, Call, Fetcher, Remote, RemoteError};
use crate::secret::{Reference, Secret};
use crate::tls;
use crate::token::source::{BuildError, Failure, Issued, Obtaining, Reason, Source};

/// `source = { kind = "aws_metadata", ... }`
#[derive(Clone, PartialEq, Debug)]
pub enum Settings {
    /// `role`: `None`: the one that the instance has.
    Instance { url: Endpoint, role: Option<String> },
    /// `None`: as the variables of the container say.
    Container { url: Option<Endpoint>, authorization: Option<Reference> },
}

pub struct Machine {
    service: Service,
    fetcher: Arc<Fetcher>,
    clock: Arc<dyn Clock>,
}

/// [`Settings`], and how it is called.
enum Service {
    Instance { base: Remote, role: Option<String> },
    Container { remote: Option<Remote>, authorization: Option<Reference> },
}

impl Machine {
    /// # Errors
    /// When its address cannot be written into a request.
    pub fn new(settings: Settings, fetcher: Arc<Fetcher>, clock: Arc<dyn Clock>) -> Result<Self, BuildError> {
        let service = match settings {
            Settings::Instance { url, role } => Service::Instance { base: metadata(url)?, role },
            Settings::Container { url, authorization } => {
                Service::Container { remote: url.map(metadata).transpose()?, authorization }
            }
        };
        Ok(Self { service, fetcher, clock })
    }

    /// The keys as they are now.
    ///
    /// # Errors
    /// When the service does not give them.
    pub async fn ask(&self) -> Result<Issued, Failure> {
        let asked_at = self.clock.now();
        let answer = match &self.service {
            Service::Instance { base, role } => self.instance(base, role.as_deref()).await?,
            Service::Container { remote: Some(remote), authorization } => {
                self.container(remote, authorization.as_ref()).await?
            }
            Service::Container { remote: None, authorization } => {
                let remote = metadata(of_variables()?).map_err(|error| unusable(&error))?;
                self.container(&remote, authorization.as_ref()).await?
            }
        };
        Printed::parse(&answer.body)?.issued(asked_at, self.clock.now())
    }

    async fn instance(&self, base: &Remote, role: Option<&str>) -> Result<Answer, Failure> {
        const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
        let lifetime = HeaderMap::from_iter([(TOKEN_LIFETIME, HeaderValue::from_static("300"))]);
        let below = |path: &str| base.below(path).map_err(|error| unusable(&error));
        let token = self.call(Method::PUT, &below("/latest/api/token")?, lifetime).await?;
        let token = Secret::new(token.body.trim_ascii());
        let token = token.header_value("", "").map_err(|error| unusable(&error))?;
        let shown = || HeaderMap::from_iter([(TOKEN, token.clone())]);
        let role = match role {
            Some(role) => role.to_owned(),
            None => {
                let roles = self.call(Method::GET, &below(ROLES)?, shown()).await?;
                first_role(&roles.body)?
            }
        };
        self.call(Method::GET, &below(&format!("{ROLES}{role}"))?, shown()).await
    }

    async fn container(&self, remote: &Remote, authorization: Option<&Reference>) -> Result<Answer, Failure> {
        let shown = match authorization {
            Some(reference) => Some(reference.obtain().await.map_err(|error| unusable(&error))?),
            None => of_container()?,
        };
        let shown = shown.map(|secret| secret.header_value("", "")).transpose().map_err(|error| unusable(&error))?;
        let headers = HeaderMap::from_iter(shown.map(|value| (AUTHORIZATION, value)));
        self.call(Method::GET, remote, headers).await
    }

    async fn call(&self, method: Method, remote: &Remote, headers: HeaderMap) -> Result<Answer, Failure> {
        let call = Call { method, remote, headers, body: Zeroizing::default() };
        let answer = self.fetcher.send(call).await?;
        match answer.status {
            StatusCode::OK => Ok(answer),
            status => {
                let detail = format!("{} answered {}", remote.endpoint(), status.as_u16());
                Err(Failure::transient(Reason::Status, detail))
            }
        }
    }
}

impl Source for Machine {
    fn obtain(&self) -> Obtaining<'_> {
        Box::pin(self.ask())
    }

    fn kind(&self) -> &'static str {
        "aws_metadata"
    }

    fn mints(&self) -> bool {
        false
    }
}

fn metadata(url: Endpoint) -> Result<Remote, RemoteError> {
    Ok(Remote::new(url, &tls::Settings::default())?.of_metadata())
}

fn first_role(body: &[u8]) -> Result<String, Failure> {
    let line = body.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
    let fits = |b: &u8| b.is_ascii_alphanumeric() || b"+=,.@-_".contains(b);
    match std::str::from_utf8(line) {
        Ok(role) if !role.is_empty() && line.iter().all(fits) => Ok(role.to_owned()),
        _ => Err(Failure::transient(Reason::Malformed, "the instance has no role, or none with a sound name")),
    }
}

/// Where the agent of ECS or EKS is, as it tells the container.
fn of_variables() -> Result<Endpoint, Failure> {
    let url = match (std::env::var(RELATIVE), std::env::var(FULL)) {
        (Ok(path), _) if path.starts_with('/') => format!("http://169.254.170.2{path}"),
        (_, Ok(url)) => url,
        _ => return Err(unusable(&format!("neither ${RELATIVE} nor ${FULL} says where the container's keys are"))),
    };
    Endpoint::parse(&url).map_err(|error| unusable(&format!("${RELATIVE} or ${FULL}: {error}")))
}

/// What the container shows the agent.
fn of_container() -> Result<Option<Secret>, Failure> {
    let reference = match (std::env::var_os(AUTHORIZATION_FILE), std::env::var_os(AUTHORIZATION_TOKEN)) {
        (Some(path), _) => Reference::File(path.into()),
        (None, Some(_)) => Reference::Env(AUTHORIZATION_TOKEN.to_owned()),
        (None, None) => return Ok(None),
    };
    reference.resolve().map(Some).map_err(|error| unusable(&error))
}

const RELATIVE: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
const FULL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const AUTHORIZATION_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
const AUTHORIZATION_TOKEN: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN";

const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const TOKEN_LIFETIME: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");

#[cfg(test)]
mod tests;
