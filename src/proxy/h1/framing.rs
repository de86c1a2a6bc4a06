//! Where a body ends (RFC 9112, sections 6 and 7): a state machine over bytes.
//!
//! ```text
//!  Length(n) ─▶ … ─▶ Length(0)
//!  Chunked: size ─▶ data ─▶ size ─▶ … ─▶ 0 ─▶ trailers ─▶ Length(0)
//!  UntilClose ─▶ …                                                    answers only
//! ```
//!
//! Invariant: what comes of it does not depend on how the bytes were split. The extensions of chunks end here.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::head;
use super::lines::Lines;

/// A line that tells the size of a chunk, with its extensions.
const SIZE_LINE: usize = 1024;

/// The extensions of a whole body.
const EXTENSIONS: usize = 16 * 1024;

/// The trailers of a body.
const TRAILERS: usize = 16 * 1024;

/// How much of a body is still to come, and in what form.
#[derive(Debug)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    Chunked(Chunks),
    /// Whatever comes until the connection ends.
    UntilClose,
}

/// What comes next of a chunked body.
#[derive(Default, Debug)]
pub struct Chunks {
    next: Next,
    /// Bytes of extensions that have come.
    extensions: usize,
}

#[derive(Default, Debug)]
enum Next {
    #[default]
    Size,
    /// So many bytes of a chunk.
    Data(u64),
    /// The line end after a chunk.
    End,
    Trailers(Lines),
}

/// What the bytes have brought.
#[derive(PartialEq, Debug)]
pub enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body is over.
    End,
    /// More bytes are needed.
    Nothing,
}

/// The bytes are no body of this framing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the body's chunks are malformed")]
pub struct Malformed;

impl Framing {
    pub const NONE: Self = Self::Length(0);

    pub fn chunked() -> Self {
        Self::Chunked(Chunks::default())
    }

    /// Whether nothing more is to come.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Length(0))
    }

    /// The bytes that are still to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// Takes the next piece of the body out of what has come.
    ///
    /// # Errors
    /// When the bytes are not what the framing demands.
    pub fn take(&mut self, bytes: &mut BytesMut) -> Result<Piece, Malformed> {
        let piece = match self {
            Self::Length(0) => return Ok(Piece::End),
            Self::Length(left) => data(bytes, left),
            Self::Chunked(chunks) => chunks.take(bytes)?,
            Self::UntilClose => {
                let mut endless = u64::MAX;
                data(bytes, &mut endless)
            }
        };
        if matches!(piece, Piece::End | Piece::Trailers(_)) {
            *self = Self::NONE;
        }
        Ok(piece)
    }

    /// Goes past what is no data, as far as it has come: so is seen at once that a piece was the last one. Trailers stay for
    /// whoever asks next.
    ///
    /// # Errors
    /// As [`Framing::take`].
    pub fn look_ahead(&mut self, bytes: &mut BytesMut) -> Result<(), Malformed> {
        let Self::Chunked(chunks) = self else { return Ok(()) };
        if matches!(chunks.next, Next::End) && !chunks.end(bytes)? {
            return Ok(());
        }
        if matches!(chunks.next, Next::Size) && bytes.starts_with(b"0\r\n\r\n") {
            let _ = bytes.split_to(5);
            *self = Self::NONE;
        }
        Ok(())
    }
}

fn data(bytes: &mut BytesMut, left: &mut u64) -> Piece {
    if bytes.is_empty() {
        return Piece::Nothing;
    }
    let length = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
    *left -= length as u64;
    Piece::Data(bytes.split_to(length).freeze())
}

impl Chunks {
    fn take(&mut self, bytes: &mut BytesMut) -> Result<Piece, Malformed> {
        loop {
            match &mut self.next {
                Next::Size => {
                    let Some(size) = self.size(bytes)? else { return Ok(Piece::Nothing) };
                    self.next = if size == 0 { Next::Trailers(Lines::default()) } else { Next::Data(size) };
                }
                Next::Data(left) => {
                    let piece = data(bytes, left);
                    if *left == 0 {
                        self.next = Next::End;
                    }
                    return Ok(piece);
                }
                Next::End => {
                    if !self.end(bytes)? {
                        return Ok(Piece::Nothing);
                    }
                }
                Next::Trailers(lines) => return trailers(lines, bytes),
            }
        }
    }

    /// The line end after a chunk. `false`: it has not come.
    fn end(&mut self, bytes: &mut BytesMut) -> Result<bool, Malformed> {
        match bytes[..] {
            [b'\r', b'\n', ..] => {
                let _ = bytes.split_to(2);
                self.next = Next::Size;
                Ok(true)
            }
            [] | [b'\r'] => Ok(false),
            _ => Err(Malformed),
        }
    }

    /// The line that tells a chunk's size.
    fn size(&mut self, bytes: &mut BytesMut) -> Result<Option<u64>, Malformed> {
        let mut size = 0_u64;
        let digits = bytes.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        // More digits than a number has, or none where one has to be.
        if digits > 16 || (digits == 0 && !bytes.is_empty()) {
            return Err(Malformed);
        }
        for digit in &bytes[..digits] {
            size = size << 4 | u64::from((*digit as char).to_digit(16).ok_or(Malformed)?);
        }
        // Many count with a sign.
        if i64::try_from(size).is_err() {
            return Err(Malformed);
        }
        let rest = &bytes[digits..];
        let extension = match rest {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] => 0,
            [b';', ..] => {
                let end = rest.iter().position(|byte| byte.is_ascii_control() && *byte != b'\t');
                match end.map(|end| (end, &rest[end..])) {
                    Some((end, [b'\r', b'\n', ..])) => end,
                    None | Some((_, [b'\r'])) if rest.len() < SIZE_LINE => return Ok(None),
                    _ => return Err(Malformed),
                }
            }
            _ => return Err(Malformed),
        };
        self.extensions += extension;
        if extension > SIZE_LINE || self.extensions > EXTENSIONS {
            return Err(Malformed);
        }
        let _ = bytes.split_to(digits + extension + 2);
        Ok(Some(size))
    }
}

/// The lines after the last chunk, and the empty one at the end.
fn trailers(lines: &mut Lines, bytes: &mut BytesMut) -> Result<Piece, Malformed> {
    match bytes[..] {
        [b'\r', b'\n', ..] => {
            let _ = bytes.split_to(2);
            return Ok(Piece::End);
        }
        [] | [b'\r'] => return Ok(Piece::Nothing),
        _ => {}
    }
    let Some(end) = lines.end(bytes, TRAILERS).map_err(|_| Malformed)? else { return Ok(Piece::Nothing) };
    let fields = head::trailers(&bytes.split_to(end).freeze()).ok_or(Malformed)?;
    Ok(Piece::Trailers(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body's data, the number of its trailers, and what follows it.
    type Whole = (Vec<u8>, usize, Vec<u8>);

    /// What comes of a body whose bytes arrive in pieces of one size.
    fn read(framing: &mut Framing, bytes: &[u8], size: usize) -> Result<Option<Whole>, Malformed> {
        let (mut come, mut data, mut trailers) = (BytesMut::new(), Vec::new(), 0);
        for piece in bytes.chunks(size) {
            come.extend_from_slice(piece);
            loop {
                match framing.take(&mut come)? {
                    Piece::Data(piece) => data.extend_from_slice(&piece),
                    Piece::Trailers(fields) => trailers = fields.len(),
                    Piece::Nothing => break,
                    Piece::End if framing.is_over() => break,
                    Piece::End => {}
                }
                framing.look_ahead(&mut come)?;
            }
        }
        Ok(framing.is_over().then(|| (data, trailers, come.to_vec())))
    }

    /// In pieces of every size the same.
    #[track_caller]
    fn chunked(bytes: &str, expected: &Result<Option<(&str, usize, &str)>, Malformed>) {
        for size in 1..=bytes.len() {
            let found = read(&mut Framing::chunked(), bytes.as_bytes(), size);
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
            let found = found.map(|found| found.map(|(data, trailers, rest)| (text(data), trailers, text(rest))));
            let expected = expected
                .map(|expected| expected.map(|(data, trailers, rest)| (data.to_owned(), trailers, rest.to_owned())));
            assert_eq!(found, expected, "in pieces of {size}: {bytes:?}");
        }
    }

    #[test]
    fn chunks_are_put_together_and_what_follows_them_stays() {
        chunked("5\r\nhello\r\n1\r\n!\r\n0\r\n\r\nnext", &Ok(Some(("hello!", 0, "next"))));
        chunked("0\r\n\r\n", &Ok(Some(("", 0, ""))));
        chunked("00000A;a=b;c=\"d\"\r\n0123456789\r\n0\r\n\r\n", &Ok(Some(("0123456789", 0, ""))));
        chunked("1\r\na\r\n0\r\nA: b\r\nC: d\r\n\r\nnext", &Ok(Some(("a", 2, "next"))));
        chunked("5\r\nhel", &Ok(None));
        chunked("1\r\na\r\n0\r\n", &Ok(None));
    }

    #[test]
    fn chunks_that_two_readers_could_read_differently_are_none() {
        for bytes in [
            "5\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "5;a\nb\r\nhello\r\n0\r\n\r\n",
            "5;a\rb\r\nhello\r\n0\r\n\r\n",
            "5;a\0\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "\r\n",
            "10000000000000000\r\n",
            "8000000000000000\r\n",
            "1\r\na\r\n0\r\nA: b\nC: d\r\n\r\n",
            "1\r\na\r\n0\r\nA : b\r\n\r\n",
            "1\r\na\r\n0\r\n A: b\r\n\r\n",
        ] {
            chunked(bytes, &Err(Malformed));
        }
    }

    #[test]
    fn extensions_and_trailers_have_an_end() {
        let extension = |bytes| format!("1;{}\r\na\r\n", "e".repeat(bytes));
        let whole = |bytes: &str| read(&mut Framing::chunked(), format!("{bytes}0\r\n\r\n").as_bytes(), 4096);
        assert!(whole(&extension(1000)).is_ok_and(|read| read.is_some()));
        assert_eq!(whole(&extension(1100)), Err(Malformed));
        assert_eq!(whole(&extension(1000).repeat(20)), Err(Malformed));
        let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(4000));
        assert_eq!(read(&mut Framing::chunked(), trailers.as_bytes(), 4096), Err(Malformed));
    }

    #[test]
    fn a_length_ends_where_it_says_and_the_rest_stays() {
        for size in 1..12 {
            let read = read(&mut Framing::Length(5), b"hellonext", size);
            assert_eq!(read, Ok(Some((b"hello".to_vec(), 0, b"next".to_vec()))));
        }
        let mut endless = Framing::UntilClose;
        assert_eq!(read(&mut endless, b"hello", 2), Ok(None));
        assert!(endless.left().is_none());
    }

    #[test]
    fn the_last_piece_is_known_to_be_the_last() {
        let mut bytes = BytesMut::from(&b"1\r\na\r\n0\r\n\r\n"[..]);
        let mut framing = Framing::chunked();
        assert_eq!(framing.take(&mut bytes), Ok(Piece::Data(Bytes::from_static(b"a"))));
        assert!(!framing.is_over());
        framing.look_ahead(&mut bytes).expect("well-formed");
        assert!(framing.is_over() && bytes.is_empty());
    }
}
