//! `[[alert]]`: a place that is told of alerts.

use super::{Alert, Severity};
use crate::authority::Endpoint;
use crate::fetch::{Remote, RemoteError};
use crate::name::SinkName;
use crate::secret::Reference;
use crate::tls;

/// One of them, as the config has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// A label of metrics.
    pub name: SinkName,
    /// What is less grave is not told.
    pub severity: Severity,
    pub kind: Kind,
    /// The folder of the runbooks, if not `docs/runbooks`.
    pub runbooks: Option<Endpoint>,
}

/// How it is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A line of our own log.
    Log,
    /// By version 2 of its API; the endpoint is what lies above `/api/v2`.
    Alertmanager { endpoint: Endpoint, tls: tls::Settings },
    /// A POST of each, signed.
    Webhook { endpoint: Endpoint, tls: tls::Settings, secret: Reference },
}

/// A sink that can be told.
pub struct Prepared {
    pub(super) settings: Settings,
    /// None where nobody has to be asked.
    pub(super) place: Option<Place>,
}

/// Whom to call.
pub(super) enum Place {
    Alertmanager(Box<Remote>),
    Webhook(Box<Remote>, Reference),
}

/// A sink cannot be told.
#[derive(Debug, thiserror::Error)]
#[error("the alert sink {0}: {1}")]
pub struct PrepareError(SinkName, RemoteError);

/// Builds what can fail of sinks, and tells nobody anything.
///
/// # Errors
/// When one cannot be called.
pub fn prepare(sinks: &[Settings]) -> Result<Vec<Prepared>, PrepareError> {
    let one = |settings: &Settings| {
        let failed = |error| PrepareError(settings.name.clone(), error);
        let place = match &settings.kind {
            Kind::Log => None,
            Kind::Alertmanager { endpoint, tls } => {
                let remote = Remote::new(endpoint.below(ALERTS), tls).map_err(failed)?;
                Some(Place::Alertmanager(Box::new(remote)))
            }
            Kind::Webhook { endpoint, tls, secret } => {
                let remote = Remote::new(endpoint.clone(), tls).map_err(failed)?;
                Some(Place::Webhook(Box::new(remote), secret.clone()))
            }
        };
        Ok(Prepared { settings: settings.clone(), place })
    };
    sinks.iter().map(one).collect()
}

impl Settings {
    pub(super) fn wants(&self, alert: &Alert) -> bool {
        alert.severity >= self.severity
    }
}

/// Where Alertmanager takes alerts.
const ALERTS: &str = "/api/v2/alerts";
