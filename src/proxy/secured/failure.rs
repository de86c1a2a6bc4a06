//! Handshakes that failed: each is counted, and of those of one kind one is told, with how many there were.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use prometheus::IntCounterVec;

use crate::metrics::{Error as MetricsError, Metrics as Registry};

/// Why there is no connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Failed {
    /// The client has no certificate, and needs one.
    NoCertificate,
    /// It has one that nobody vouches for, or that is not good any more.
    Certificate,
    /// It ended the handshake with an alert: often because it does not trust our certificate.
    Alert,
    /// It went away.
    Gone,
    /// It spoke no TLS, or none that we speak.
    Protocol,
    Timeout,
    /// Too many were under way.
    Crowded,
}

impl Failed {
    const ALL: [Self; 7] =
        [Self::NoCertificate, Self::Certificate, Self::Alert, Self::Gone, Self::Protocol, Self::Timeout, Self::Crowded];

    /// Why this came of a handshake.
    pub fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::NoCertificatesPresented) => Self::NoCertificate,
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidCertRevocationList(_)) => {
                Self::Certificate
            }
            Some(rustls::Error::AlertReceived(_)) => Self::Alert,
            Some(_) => Self::Protocol,
            None => Self::Gone,
        }
    }

    /// As the metric calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Certificate => "certificate",
            Self::Alert => "alert",
            Self::Gone => "gone",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Crowded => "crowded",
        }
    }
}

/// Those of one kind.
pub struct Sum {
    pub failed: Failed,
    pub count: u64,
    /// Where one of them came from, and what was wrong with it.
    pub from: Option<IpAddr>,
    pub what: String,
}

/// Those that nobody has been told of yet. There are as many sums as there are kinds.
pub struct Failures {
    counts: IntCounterVec,
    waiting: Mutex<BTreeMap<Failed, Sum>>,
}

impl Failures {
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        let counts = registry.counters(
            "tls_handshakes_failed_total",
            "Connections of clients that came to nothing: no_certificate, certificate, alert, gone, protocol, timeout, crowded.",
            &["why"],
        )?;
        // Whoever watches sees the first one, too.
        Failed::ALL.iter().for_each(|failed| drop(counts.with_label_values(&[failed.as_str()])));
        Ok(Self { counts, waiting: Mutex::default() })
    }

    pub fn count(&self, failed: Failed, from: Option<IpAddr>, what: impl FnOnce() -> String) {
        self.counts.with_label_values(&[failed.as_str()]).inc();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.entry(failed).or_insert_with(|| Sum { failed, count: 0, from, what: what() }).count += 1;
    }

    pub fn take(&self) -> Vec<Sum> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *waiting).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_one_kind_are_told_as_one() {
        let failures = Failures::register(&Registry::new().expect("metrics")).expect("metrics");
        let error = |inner| io::Error::new(io::ErrorKind::InvalidData, inner);
        let (none, expired) = (
            error(rustls::Error::NoCertificatesPresented),
            error(rustls::Error::InvalidCertificate(rustls::CertificateError::Expired)),
        );
        for error in [&none, &expired, &none, &none, &io::Error::from(io::ErrorKind::UnexpectedEof)] {
            failures.count(Failed::of(error), None, || error.to_string());
        }
        let told = failures.take();
        let told: Vec<(&str, u64, &str)> =
            told.iter().map(|sum| (sum.failed.as_str(), sum.count, sum.what.as_str())).collect();
        assert_eq!(
            told,
            [
                ("no_certificate", 3, "peer sent no certificates"),
                ("certificate", 1, "invalid peer certificate: Expired"),
                ("gone", 1, "unexpected end of file"),
            ]
        );
        assert!(failures.take().is_empty());
        assert_eq!(failures.counts.with_label_values(&["no_certificate"]).get(), 3);
    }
}
