//! Why an upstream's connection gave no answer, and what may be concluded from that.

use std::error::Error as _;
use std::io::{self, ErrorKind};

use crate::proxy::error::Refusal;
use crate::proxy::h1;
use crate::tls;

/// Why a request that was sent has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error(transparent)]
    Http1(#[from] h1::Lost),
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

impl Lost {
    /// Whether the connection ended before the answer's head was whole.
    pub fn was_closed(&self) -> bool {
        const RESET: [ErrorKind; 4] = [
            ErrorKind::ConnectionReset,
            ErrorKind::BrokenPipe,
            ErrorKind::ConnectionAborted,
            // Under TLS, without a goodbye.
            ErrorKind::UnexpectedEof,
        ];
        match self {
            Self::Http1(h1::Lost::Closed) => true,
            Self::Http1(h1::Lost::Socket(error)) => RESET.contains(&error.kind()),
            Self::Http1(h1::Lost::Fault(_) | h1::Lost::Body(_)) => false,
            Self::Http2(error) => {
                let io = error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
                error.is_incomplete_message() || io.is_some_and(|kind| RESET.contains(&kind))
            }
        }
    }

    /// Whether the upstream says itself that it did not process the request (RFC 9113, section 8.7).
    pub fn was_not_processed(&self) -> bool {
        let Self::Http2(error) = self else { return false };
        let Some(error) = error.source().and_then(|source| source.downcast_ref::<h2::Error>()) else { return false };
        match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) => error.is_reset() && error.is_remote(),
            // Streams that it did process are not ended by this.
            Some(h2::Reason::NO_ERROR) => error.is_go_away() && error.is_remote(),
            _ => false,
        }
    }
}

impl From<Lost> for Refusal {
    fn from(lost: Lost) -> Self {
        match &lost {
            Lost::Http1(h1::Lost::Fault(fault)) => Self::UpstreamAnswer(*fault),
            other => tls::alert(other).map_or(Self::UpstreamProtocol, Self::from),
        }
    }
}
