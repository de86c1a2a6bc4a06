//! What is kept of a request's body to send it again, if it is small.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http_body::Body as _;

use super::body::RequestBody;
use crate::usage::UsageGuard;

/// The largest body that is kept, in bytes.
const MOST: usize = 64 * 1024;

/// The body of a request that may be sent again.
pub struct Spare(
    /// `None`: there is none.
    Option<Rc<RefCell<Kept>>>,
);

/// What a piece costs beside its bytes.
const PIECE: usize = 64;

/// A body as it goes by. Its pieces are shared with those that are sent, not copied.
#[derive(Default)]
pub struct Kept {
    pieces: Vec<Bytes>,
    bytes: usize,
    whole: bool,
}

impl Kept {
    pub fn piece(&mut self, piece: &Bytes) {
        if piece.is_empty() {
            return;
        }
        self.bytes += piece.len() + PIECE;
        if self.bytes <= MOST {
            self.pieces.push(piece.clone());
        } else {
            self.pieces.clear();
        }
    }

    pub fn whole(&mut self) {
        self.whole = true;
    }
}

impl Spare {
    /// Keeps a body from now on. One that says itself that it is too large is not begun with.
    pub fn of(body: &mut RequestBody) -> Option<Self> {
        match body.is_end_stream() {
            true => Some(Self(None)),
            false if body.size_hint().lower() > MOST as u64 => None,
            false => Some(Self(Some(body.keep()))),
        }
    }

    /// The body once more; `None` when not all of it is there.
    pub fn body(self, usage: &UsageGuard) -> Option<RequestBody> {
        let pieces = match self.0 {
            None => Vec::new(),
            Some(kept) => {
                let kept = kept.take();
                if !kept.whole || kept.bytes > MOST {
                    return None;
                }
                kept.pieces
            }
        };
        Some(RequestBody::again(pieces, usage.upload().clone()))
    }
}
