//! Bodies that a test sends in pieces of its own choosing, and digests to compare them by.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// An answer's body.
pub enum Payload {
    /// Of a length that is told ahead, or not.
    Pieces { pieces: VecDeque<Bytes>, told: bool },
    /// What the test feeds, until it drops its end; an error breaks the body off.
    Fed(mpsc::Receiver<io::Result<Bytes>>),
    /// A text, and trailers behind it.
    Trailed { text: Option<Bytes>, trailers: Option<HeaderMap> },
}

impl Payload {
    pub fn of(text: impl Into<Bytes>) -> Self {
        Self::Pieces { pieces: cut(text.into()), told: true }
    }

    /// Without a length: chunked, in HTTP/1.1.
    pub fn chunked(text: impl Into<Bytes>) -> Self {
        Self::Pieces { pieces: cut(text.into()), told: false }
    }

    pub fn trailed(text: impl Into<Bytes>, trailers: &[(&'static str, &'static str)]) -> Self {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        Self::Trailed { text: Some(text.into()), trailers: Some(trailers.iter().map(field).collect()) }
    }
}

fn cut(mut bytes: Bytes) -> VecDeque<Bytes> {
    let mut pieces = VecDeque::new();
    while !bytes.is_empty() {
        pieces.push_back(bytes.split_to(bytes.len().min(PIECE)));
    }
    pieces
}

const PIECE: usize = 64 * 1024;

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Pieces { pieces, .. } => Poll::Ready(pieces.pop_front().map(|piece| Ok(Frame::data(piece)))),
            Self::Trailed { text, trailers } => {
                let data = text.take().map(|text| Ok(Frame::data(text)));
                Poll::Ready(data.or_else(|| trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))))
            }
            Self::Fed(pieces) => pieces.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Pieces { pieces, told: true } if pieces.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Pieces { pieces, told: true } => {
                SizeHint::with_exact(pieces.iter().map(|piece| piece.len() as u64).sum())
            }
            _ => SizeHint::default(),
        }
    }
}

/// As many bytes as are wanted, in no order that would hide one that is lost or doubled.
pub fn noise(length: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(7);
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes.into()
}

/// SHA-256, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
