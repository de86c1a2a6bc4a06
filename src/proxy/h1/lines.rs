//! Where a head ends. Its lines are looked at as bytes before anything gives them a meaning: some of what two readers could
//! read differently cannot be seen any more once a head is parsed.

use std::sync::LazyLock;

use memchr::memchr;
use memchr::memmem::Finder;

/// A line's end and an empty line.
static END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// How far the lines of a head have been looked at.
#[derive(Clone, Copy, Default, Debug)]
pub struct Lines {
    /// Bytes that have been looked at.
    seen: usize,
    /// Where the line begins that is not yet at its end.
    line: usize,
}

/// Why the bytes are no head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadLines {
    /// A line ends without a carriage return.
    LineFeed,
    /// There is an empty line before the first.
    Empty,
    TooLong,
}

impl Lines {
    /// Whether nothing has been looked at.
    pub fn is_new(&self) -> bool {
        self.seen == 0
    }

    /// Looks on in `bytes`, which begin with the head and have grown since. `Some`: where it ends.
    pub fn end(&mut self, bytes: &[u8], most: usize) -> Result<Option<usize>, BadLines> {
        if self.is_new()
            && let Some(end) = whole(bytes, most)
        {
            return Ok(Some(end));
        }
        while let Some(found) = memchr(b'\n', &bytes[self.seen..]) {
            let feed = self.seen + found;
            if feed == 0 || bytes[feed - 1] != b'\r' {
                return Err(BadLines::LineFeed);
            }
            if feed >= most {
                return Err(BadLines::TooLong);
            }
            let is_empty = feed - self.line == 1;
            let is_first = self.line == 0;
            self.seen = feed + 1;
            self.line = self.seen;
            if is_empty {
                return if is_first { Err(BadLines::Empty) } else { Ok(Some(self.seen)) };
            }
        }
        self.seen = bytes.len();
        if self.seen > most { Err(BadLines::TooLong) } else { Ok(None) }
    }
}

/// Where a head ends that has come at once and has nothing unusual: as nearly all do. It is looked at as a whole, which costs
/// less than line by line.
fn whole(bytes: &[u8], most: usize) -> Option<usize> {
    let end = END.find(bytes)? + 4;
    let head = &bytes[..end];
    // No sum and no early end: so the compiler compares sixteen at once.
    let pairs = head.iter().zip(&head[1..]);
    let has_bare_feeds =
        pairs.fold(head[0] == b'\n', |found, (before, byte)| found | (*byte == b'\n' && *before != b'\r'));
    let is_usual = !has_bare_feeds && !head.starts_with(b"\r\n") && end <= most;
    is_usual.then_some(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: usize = 64;

    /// However the bytes come, the same is found.
    #[track_caller]
    fn comes_to(bytes: &[u8], expected: Result<Option<usize>, BadLines>) {
        for size in 1..=bytes.len() {
            let mut lines = Lines::default();
            let mut found = Ok(None);
            for come in (size..bytes.len()).step_by(size).chain([bytes.len()]) {
                found = lines.end(&bytes[..come], MOST);
                if found != Ok(None) {
                    break;
                }
            }
            assert_eq!(found, expected, "in pieces of {size}: {}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_head_ends_at_its_first_empty_line() {
        comes_to(b"GET / HTTP/1.1\r\nA: b\r\n\r\n", Ok(Some(24)));
        comes_to(b"GET / HTTP/1.1\r\n\r\n\r\n\n", Ok(Some(18)));
        comes_to(b"GET / HTTP/1.1\r\nA: b\r\n\r", Ok(None));
        comes_to(b"GET", Ok(None));
    }

    #[test]
    fn a_line_that_two_readers_could_end_at_different_places_is_none() {
        for bytes in
            [&b"GET / HTTP/1.1\nA: b\r\n\r\n"[..], b"GET / HTTP/1.1\r\nA: b\n\r\n", b"GET / HTTP/1.1\r\n\n", b"\n"]
        {
            comes_to(bytes, Err(BadLines::LineFeed));
        }
        comes_to(b"\r\nGET / HTTP/1.1\r\n\r\n", Err(BadLines::Empty));
    }

    #[test]
    fn a_head_that_is_longer_than_it_may_be_is_none() {
        let head = |bytes: usize| format!("{}\r\n\r\n", "a".repeat(bytes - 4)).into_bytes();
        comes_to(&head(MOST), Ok(Some(MOST)));
        comes_to(&head(MOST + 1), Err(BadLines::TooLong));
        comes_to(&[b'a'; MOST + 1], Err(BadLines::TooLong));
        comes_to(&b"a\r\n".repeat(40), Err(BadLines::TooLong));
    }

    proptest! {
        #[test]
        fn what_comes_at_once_is_read_as_what_comes_byte_by_byte(
            bytes in prop::collection::vec(prop::sample::select(b"\r\n\r\na:".to_vec()), 0..80)
        ) {
            let at_once = Lines::default().end(&bytes, MOST);
            let mut lines = Lines::default();
            let by_byte = (0..=bytes.len()).map(|come| lines.end(&bytes[..come], MOST)).find(|found| *found != Ok(None));
            prop_assert_eq!(at_once, by_byte.unwrap_or(Ok(None)));
        }
    }
}
