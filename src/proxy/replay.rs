//! What is kept of a request to send it again: its head, and its body if that is small.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use hyper::body::Body as _;

use super::body::RequestBody;
use crate::usage::UsageGuard;

/// The largest body that is kept, in bytes.
const MOST: usize = 64 * 1024;

/// A request that may be sent again.
pub struct Spare {
    pub method: Method,
    headers: HeaderMap,
    /// `None`: there is none.
    body: Option<Rc<RefCell<Kept>>>,
}

/// A body as it goes by. Its pieces are shared with those that are sent, not copied.
#[derive(Default)]
pub struct Kept {
    pieces: Vec<Bytes>,
    bytes: usize,
    whole: bool,
}

impl Kept {
    pub fn piece(&mut self, piece: &Bytes) {
        self.bytes += piece.len();
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
    /// Keeps a request from now on. A body that says itself that it is too large is not begun with.
    pub fn of(request: &mut Request<RequestBody>) -> Option<Self> {
        let body = match request.body().is_end_stream() {
            true => None,
            false if request.body().size_hint().lower() > MOST as u64 => return None,
            false => Some(request.body_mut().keep()),
        };
        Some(Self { method: request.method().clone(), headers: request.headers().clone(), body })
    }

    /// The request once more; `None` when not all of its body is there.
    pub fn request(self, usage: &UsageGuard) -> Option<Request<RequestBody>> {
        let pieces = match self.body {
            None => Vec::new(),
            Some(kept) => {
                let kept = kept.take();
                if !kept.whole || kept.bytes > MOST {
                    return None;
                }
                kept.pieces
            }
        };
        let mut request = Request::new(RequestBody::again(pieces, usage.upload().clone()));
        *request.method_mut() = self.method;
        *request.headers_mut() = self.headers;
        Some(request)
    }
}
