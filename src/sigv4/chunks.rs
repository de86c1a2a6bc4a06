//! Signs the chunks of a body again while they pass ("aws-chunked", docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html).
//!
//! ```text
//!  10000;chunk-signature=theirs⏎ 65536 bytes ⏎      ─▶  10000;chunk-signature=ours⏎ 65536 bytes ⏎
//!  0;chunk-signature=theirs⏎                        ─▶  0;chunk-signature=ours⏎
//!  x-amz-checksum-crc32c:...⏎                       ─▶  x-amz-checksum-crc32c:...⏎
//!  x-amz-trailer-signature:theirs⏎ ⏎                ─▶  x-amz-trailer-signature:ours⏎ ⏎
//! ```
//!
//! Invariant: nothing but signatures changes, so that the body is as long as was said. Of it one chunk is held at most:
//! its signature goes before it.

use aws_lc_rs::digest::{SHA256, digest};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use memchr::memmem;
use zeroize::Zeroizing;

use crate::text::hex;

/// The largest chunk, in bytes.
const LARGEST: usize = 1024 * 1024;

/// The longest line before a chunk.
const LONGEST_LINE: usize = 128;

/// All trailers together.
const LONGEST_TRAILERS: usize = 16 * 1024;

const LINE_END: &[u8] = b"\r\n";
const MARK: &[u8] = b";chunk-signature=";
const TRAILER_MARK: &[u8] = b"x-amz-trailer-signature:";

/// In hex digits.
const SIGNATURE: usize = 64;

/// Of one body, from its first byte to its last.
pub struct Chunks {
    key: Zeroizing<Vec<u8>>,
    date: String,
    scope: String,
    /// The signature of what went before: first that of the head.
    before: String,
    has_trailers: bool,
    stage: Stage,
    held: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Chunk,
    Trailers,
    Done,
}

/// The body is not what it says.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a chunk does not begin with its length and a signature")]
    Line,
    #[error("a chunk is larger than 1 MiB")]
    Large,
    #[error("a chunk is not as long as it says")]
    Length,
    #[error("its trailers are too long, or not signed")]
    Trailers,
    #[error("it goes on after its last chunk")]
    Surplus,
}

impl Chunks {
    pub(super) fn new(key: &[u8], date: String, scope: String, seed: String, has_trailers: bool) -> Self {
        let key = Zeroizing::new(key.to_vec());
        Self { key, date, scope, before: seed, has_trailers, stage: Stage::Chunk, held: Vec::new() }
    }

    /// Takes the next bytes, and gives back what can be sent of them: nothing, as long as a chunk is not whole.
    ///
    /// # Errors
    /// When this is no body of signed chunks.
    pub fn pass(&mut self, bytes: &[u8]) -> Result<Bytes, Malformed> {
        self.held.extend_from_slice(bytes);
        let mut out = 0;
        while let Some(length) = self.sign_next(out)? {
            out += length;
        }
        if out == 0 {
            return Ok(Bytes::new());
        }
        let rest = self.held.split_off(out);
        Ok(std::mem::replace(&mut self.held, rest).into())
    }

    /// Whether the last of it has passed.
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Signs what begins there, if it is whole, and returns its length.
    fn sign_next(&mut self, at: usize) -> Result<Option<usize>, Malformed> {
        match self.stage {
            Stage::Chunk => self.sign_chunk(at),
            Stage::Trailers => self.sign_trailers(at),
            Stage::Done if self.held.len() > at => Err(Malformed::Surplus),
            Stage::Done => Ok(None),
        }
    }

    fn sign_chunk(&mut self, at: usize) -> Result<Option<usize>, Malformed> {
        let held = &self.held[at..];
        let Some(line) = memmem::find(&held[..held.len().min(LONGEST_LINE)], LINE_END) else {
            return if held.len() < LONGEST_LINE { Ok(None) } else { Err(Malformed::Line) };
        };
        let mark = memmem::find(&held[..line], MARK).ok_or(Malformed::Line)?;
        let signature = mark + MARK.len();
        if line - signature != SIGNATURE {
            return Err(Malformed::Line);
        }
        let size = size(&held[..mark])?;
        let data = line + LINE_END.len();
        let is_last = size == 0;
        if !is_last && held.len() < data + size + LINE_END.len() {
            return Ok(None);
        }
        let end = match (is_last, self.has_trailers) {
            // The trailers follow at once.
            (true, true) => data,
            _ if held.len() < data + size + LINE_END.len() => return Ok(None),
            _ if held[data + size..].starts_with(LINE_END) => data + size + LINE_END.len(),
            _ => return Err(Malformed::Length),
        };
        let hash = hash(&held[data..data + size]);
        self.before = self.sign("AWS4-HMAC-SHA256-PAYLOAD", &format!("{}\n{hash}", self::hash(b"")));
        let place = at + signature;
        self.held[place..place + SIGNATURE].copy_from_slice(self.before.as_bytes());
        if is_last {
            self.stage = if self.has_trailers { Stage::Trailers } else { Stage::Done };
        }
        Ok(Some(end))
    }

    fn sign_trailers(&mut self, at: usize) -> Result<Option<usize>, Malformed> {
        let held = &self.held[at..];
        let Some(end) = memmem::find(&held[..held.len().min(LONGEST_TRAILERS)], b"\r\n\r\n") else {
            return if held.len() < LONGEST_TRAILERS { Ok(None) } else { Err(Malformed::Trailers) };
        };
        let mut lines: Vec<String> = Vec::new();
        let mut place = None;
        let mut begin = 0;
        for line in held[..end].split_inclusive(|byte| *byte == b'\n') {
            let text = line.trim_ascii_end();
            if text.len() == TRAILER_MARK.len() + SIGNATURE
                && text[..TRAILER_MARK.len()].eq_ignore_ascii_case(TRAILER_MARK)
            {
                place = Some(begin + TRAILER_MARK.len());
            } else {
                lines.push(canonical(text)?);
            }
            begin += line.len();
        }
        let place = at + place.ok_or(Malformed::Trailers)?;
        lines.sort();
        self.before = self.sign("AWS4-HMAC-SHA256-TRAILER", &hash(lines.concat().as_bytes()));
        self.held[place..place + SIGNATURE].copy_from_slice(self.before.as_bytes());
        self.stage = Stage::Done;
        Ok(Some(end + 2 * LINE_END.len()))
    }

    fn sign(&self, algorithm: &str, about: &str) -> String {
        let Self { date, scope, before, .. } = self;
        v4::calculate_signature(&*self.key, format!("{algorithm}\n{date}\n{scope}\n{before}\n{about}").as_bytes())
    }
}

fn size(digits: &[u8]) -> Result<usize, Malformed> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
    let size = text.and_then(|text| usize::from_str_radix(text, 16).ok()).ok_or(Malformed::Line)?;
    if size <= LARGEST { Ok(size) } else { Err(Malformed::Large) }
}

/// A trailer as it is signed.
fn canonical(line: &[u8]) -> Result<String, Malformed> {
    let text = std::str::from_utf8(line).map_err(|_| Malformed::Trailers)?;
    let (name, value) = text.split_once(':').ok_or(Malformed::Trailers)?;
    Ok(format!("{}:{}\n", name.trim().to_ascii_lowercase(), value.trim()))
}

fn hash(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::{Form, Keys, Payload, Scope, Signable, signed};
    use super::*;
    use crate::secret::Secret;

    const THEIRS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

    /// The examples of the reference of S3: a body of 66560 times `a`, with trailers or without.
    fn of_reference(payload: Payload) -> Chunks {
        let secret = Secret::of_aws(b"AKIAIOSFODNN7EXAMPLE", b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None);
        let keys = Keys::of(&secret.expect("keys")).expect("keys");
        let mut headers = vec![("content-encoding", "aws-chunked"), ("x-amz-decoded-content-length", "66560")];
        if payload == Payload::ChunksAndTrailers {
            headers.push(("x-amz-trailer", "x-amz-checksum-crc32c"));
        } else {
            headers.push(("content-length", "66824"));
        }
        headers.push(("x-amz-storage-class", "REDUCED_REDUNDANCY"));
        let request = Signable {
            method: "PUT",
            host: "s3.amazonaws.com",
            path: "/examplebucket/chunkObject.txt",
            query: None,
            headers: &headers,
            payload: &payload,
            form: Form::Header,
            at: Duration::from_secs(1_369_353_600),
        };
        let scope = Scope { region: "us-east-1", service: "s3" };
        let signed = signed(&request, scope, &keys).expect("signable");
        keys.chunks(&payload, scope, request.at, signed.signature).expect("chunks")
    }

    fn body(trailers: bool, signature: impl Fn(usize) -> String) -> Vec<u8> {
        let mut body = Vec::new();
        for (n, size) in [65536, 1024, 0].into_iter().enumerate() {
            body.extend_from_slice(format!("{size:x};chunk-signature={}\r\n", signature(n)).as_bytes());
            body.extend(std::iter::repeat_n(b'a', size));
            if size > 0 || !trailers {
                body.extend_from_slice(b"\r\n");
            }
        }
        if trailers {
            let trailer = format!("x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:{}\r\n\r\n", signature(3));
            body.extend_from_slice(trailer.as_bytes());
        }
        body
    }

    const CHUNKS: [&str; 3] = [
        "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    ];

    const CHUNKS_AND_TRAILERS: [&str; 4] = [
        "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
        "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
        "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
        "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435",
    ];

    fn passed(chunks: &mut Chunks, pieces: &[&[u8]]) -> Result<Vec<u8>, Malformed> {
        let mut all = Vec::new();
        for piece in pieces {
            all.extend_from_slice(&chunks.pass(piece)?);
        }
        Ok(all)
    }

    #[test]
    fn the_examples_of_s3_are_signed_as_its_reference_says() {
        let mut chunks = of_reference(Payload::Chunks);
        let all = passed(&mut chunks, &[&body(false, |_| THEIRS.to_owned())]).expect("chunks");
        assert!(all == body(false, |n| CHUNKS[n].to_owned()) && chunks.is_done());
        let mut chunks = of_reference(Payload::ChunksAndTrailers);
        let all = passed(&mut chunks, &[&body(true, |_| THEIRS.to_owned())]).expect("chunks");
        assert!(all == body(true, |n| CHUNKS_AND_TRAILERS[n].to_owned()) && chunks.is_done());
    }

    #[test]
    fn what_is_no_body_of_signed_chunks_is_refused() {
        let start = format!("5;chunk-signature={THEIRS}\r\n");
        let last = format!("0;chunk-signature={THEIRS}\r\n\r\n");
        for (text, error) in [
            ("5\r\nhello\r\n".to_owned(), Malformed::Line),
            (format!("5;chunk-signature={}\r\nhello\r\n", &THEIRS[1..]), Malformed::Line),
            (format!("5;a=b;chunk-signature={THEIRS}\r\nhello\r\n"), Malformed::Line),
            (format!("-5;chunk-signature={THEIRS}\r\nhello\r\n"), Malformed::Line),
            (format!("100001;chunk-signature={THEIRS}\r\n"), Malformed::Large),
            ("x".repeat(LONGEST_LINE), Malformed::Line),
            (format!("{start}hello!\r\n"), Malformed::Length),
            (format!("{start}hell\r\n\r\n"), Malformed::Length),
            (format!("{last}more"), Malformed::Surplus),
        ] {
            let passed = of_reference(Payload::Chunks).pass(text.as_bytes());
            assert_eq!(passed.err(), Some(error), "{text}");
        }
        let last = format!("0;chunk-signature={THEIRS}\r\n");
        for trailers in ["a:b\r\n\r\n".to_owned(), format!("x-amz-trailer-signature:{THEIRS}\r\nno colon\r\n\r\n")] {
            let passed = of_reference(Payload::ChunksAndTrailers).pass(format!("{last}{trailers}").as_bytes());
            assert_eq!(passed.err(), Some(Malformed::Trailers), "{trailers}");
        }
        let mut cut = of_reference(Payload::Chunks);
        assert_eq!(cut.pass(start.as_bytes()), Ok(Bytes::new()));
        assert!(!cut.is_done());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn it_does_not_matter_in_which_pieces_it_comes(cuts in prop::collection::vec(0_usize..67_000, 0..40), trailers in any::<bool>()) {
            let whole = body(trailers, |_| THEIRS.to_owned());
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(whole.len())).chain([0, whole.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &whole[cut[0]..cut[1]]).collect();
            let payload = if trailers { Payload::ChunksAndTrailers } else { Payload::Chunks };
            let mut chunks = of_reference(payload);
            let all = passed(&mut chunks, &pieces).expect("chunks");
            let right = |n: usize| (if trailers { CHUNKS_AND_TRAILERS[n] } else { CHUNKS[n] }).to_owned();
            prop_assert!(all == body(trailers, right) && chunks.is_done());
        }
    }
}
