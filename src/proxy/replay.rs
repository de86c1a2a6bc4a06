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
pub enum Spare {
    None,
    /// It lies in memory anyway.
    Held(Vec<Bytes>),
    Kept(Rc<RefCell<Kept>>),
}

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
            true => Some(Self::None),
            false => match body.held() {
                Some(pieces) => Some(Self::Held(pieces)),
                None if body.size_hint().lower() > MOST as u64 => None,
                None => Some(Self::Kept(body.keep())),
            },
        }
    }

    /// The body once more; `None` when not all of it is there.
    pub fn body(self, usage: &UsageGuard) -> Option<RequestBody> {
        let pieces = match self {
            Self::None => Vec::new(),
            Self::Held(pieces) => pieces,
            Self::Kept(kept) => {
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

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::usage::Upload;

    #[tokio::test]
    async fn a_body_that_lies_here_anyway_is_sent_again_whatever_its_size() {
        let upload = Rc::<Upload>::default();
        let large = Bytes::from(vec![7; 2 * MOST]);
        let mut body = RequestBody::again(vec![large.clone()], upload);
        let Some(Spare::Held(pieces)) = Spare::of(&mut body) else { panic!("it is there") };
        assert_eq!(pieces, [large]);
    }
}
