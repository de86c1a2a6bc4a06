//! What a refusal has its cause in: each error of the parts below, and the refusal that it becomes. No table has a catch-all,
//! so that a new error cannot be refused as something else.

use rustls::AlertDescription;

use super::Refusal;
use crate::dial::{DialError, TlsKind};
use crate::policy::Denied;
use crate::policy::hold::Held;
use crate::policy::rule::Denied as RuleDenied;
use crate::proxy::pool::NoConnection;
use crate::route::NotAdmitted;
use crate::tls;
use crate::token::{Absent, Restraint};
use crate::usage::UploadFailure;

impl From<UploadFailure> for Refusal {
    fn from(failure: UploadFailure) -> Self {
        match failure {
            UploadFailure::Gone => Self::ClientGone,
            UploadFailure::Malformed => Self::BodyMalformed,
            UploadFailure::Idle => Self::BodyTimeout,
            UploadFailure::TooLarge => Self::BodyTooLarge,
        }
    }
}

impl From<NotAdmitted> for Refusal {
    fn from(not: NotAdmitted) -> Self {
        match not {
            NotAdmitted::Path(error) => error.into(),
            NotAdmitted::Denied(denied) => denied.into(),
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Client => Self::RouteDenied,
            Denied::Method => Self::MethodDenied,
            Denied::Path => Self::PathDenied,
            Denied::Minting | Denied::OfClient(RuleDenied::Minting) => Self::DerivedCredential,
            Denied::Rate(exceeded) => Self::RateLimited(exceeded),
            Denied::OfClient(RuleDenied::Method) => Self::MethodDeniedToClient,
            Denied::OfClient(RuleDenied::Path) => Self::PathDeniedToClient,
            Denied::RateOfClient(exceeded) => Self::RateOfClient(exceeded),
        }
    }
}

impl From<Held> for Refusal {
    fn from(held: Held) -> Self {
        match held {
            Held::Blocked => Self::ClientBlocked,
            Held::Awaiting(request) => Self::UseAwaiting(request),
            Held::Denied(request) => Self::UseDenied(request),
            Held::Throttled(exceeded) => Self::Throttled(exceeded),
        }
    }
}

impl From<Absent> for Refusal {
    fn from(absent: Absent) -> Self {
        match absent {
            Absent::Pending => Self::TokenPending,
            Absent::Expired { retry_after } => Self::TokenExpired { retry_after },
            Absent::Held => Self::TokenHeld,
            Absent::Unavailable { retry_after } => Self::TokenUnavailable { retry_after },
            Absent::Reauthenticate => Self::ReauthRequired,
            Absent::Retired => Self::GrantEnded,
            Absent::Unapproved(request) => Self::ApprovalPending(request),
            Absent::Denied(request) => Self::ApprovalDenied(request),
            Absent::Restrained(Restraint::Quarantined) => Self::TokenQuarantined,
            Absent::Restrained(Restraint::Revoked) => Self::TokenRevoked,
        }
    }
}

impl From<AlertDescription> for Refusal {
    fn from(alert: AlertDescription) -> Self {
        Self::UpstreamAlert(tls::describe(alert))
    }
}

impl From<&DialError> for Refusal {
    fn from(error: &DialError) -> Self {
        let detail = error.to_string();
        match error {
            DialError::Prohibited(_) | DialError::Metadata(_) => Self::DestinationProhibited(detail),
            DialError::Proxy { error, .. } => match **error {
                DialError::Prohibited(_) | DialError::Metadata(_) => Self::DestinationProhibited(detail),
                DialError::Timeout(_) => Self::ConnectTimeout(detail),
                DialError::Clear(_)
                | DialError::Resolve(..)
                | DialError::Refused(_)
                | DialError::Connect(..)
                | DialError::Proxy { .. }
                | DialError::Tunnel { .. }
                | DialError::Tls { .. } => Self::UpstreamConnect(detail),
            },
            DialError::Tunnel { .. } => Self::UpstreamConnect(detail),
            DialError::Clear(_) => Self::PlaintextUpstream,
            DialError::Resolve(..) | DialError::Refused(_) | DialError::Connect(..) => Self::UpstreamConnect(detail),
            DialError::Timeout(_) => Self::ConnectTimeout(detail),
            DialError::Tls { kind: TlsKind::Certificate, .. } => Self::UpstreamCertificate(detail),
            DialError::Tls { kind: TlsKind::Alert, .. } => Self::UpstreamAlert(detail),
            DialError::Tls { kind: TlsKind::Protocol, .. } => Self::UpstreamTls(detail),
        }
    }
}

impl From<&NoConnection> for Refusal {
    fn from(error: &NoConnection) -> Self {
        match error {
            NoConnection::Dial(error) => error.into(),
            NoConnection::NoRoom => Self::Overloaded,
        }
    }
}
