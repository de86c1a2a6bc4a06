//! The form of a record in its file: one line, `LLLLLLLL CCCCCCCC {json}` and a line end. `L` is the length of the JSON in
//! bytes, `C` its CRC-32, both as 8 lower-case hex digits. `cut -c19- | jq` reads it.
//!
//! Invariant: the beginning of a frame is told apart from a changed frame. What a crash left behind may be cut; what
//! somebody changed is never repaired. Pure: bytes in, findings out.

/// The length and the checksum, each followed by a space.
const HEADER: usize = 18;

/// The longest JSON of one record: what bounds a reader's memory.
pub const MAX_JSON: usize = 64 * 1024;

/// The longest line.
pub const MAX_FRAME: usize = HEADER + MAX_JSON + 1;

/// The version of the records that this program writes and reads.
pub const VERSION: u32 = 1;

/// Appends the frame of `json`.
///
/// # Errors
/// When the JSON is longer than a reader would take.
pub fn encode(json: &[u8], frames: &mut Vec<u8>) -> Result<(), TooLong> {
    if json.len() > MAX_JSON {
        return Err(TooLong);
    }
    frames.extend_from_slice(format!("{:08x} {:08x} ", json.len(), crc32fast::hash(json)).as_bytes());
    frames.extend_from_slice(json);
    frames.push(b'\n');
    Ok(())
}

/// The record is longer than 64 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the record is longer than 64 KiB")]
pub struct TooLong;

/// What stands at the beginning of some bytes.
#[derive(PartialEq, Eq, Debug)]
pub enum Decoded<'a> {
    /// A frame of that many bytes.
    Whole { json: &'a [u8], length: usize },
    /// A frame's beginning: nothing, or too little.
    Incomplete,
    /// Neither.
    Damaged(Damage),
}

/// Reads the frame at the beginning of `bytes`.
pub fn decode(bytes: &[u8]) -> Decoded<'_> {
    let (header, rest) = bytes.split_at(bytes.len().min(HEADER));
    if !is_header_so_far(header) {
        return Decoded::Damaged(Damage::Header);
    }
    if header.len() < HEADER {
        return Decoded::Incomplete;
    }
    let (Some(length), Some(checksum)) = (hex(&header[..8]), hex(&header[9..17])) else {
        return Decoded::Damaged(Damage::Header);
    };
    let length = length as usize;
    if length > MAX_JSON {
        return Decoded::Damaged(Damage::Length);
    }
    let json = &rest[..length.min(rest.len())];
    // JSON holds no bare line end: here it would be the end of a line that was longer once.
    if json.contains(&b'\n') {
        return Decoded::Damaged(Damage::Length);
    }
    if json.len() < length {
        return Decoded::Incomplete;
    }
    if crc32fast::hash(json) != checksum {
        return Decoded::Damaged(Damage::Checksum);
    }
    match rest.get(length) {
        None => Decoded::Incomplete,
        Some(b'\n') => Decoded::Whole { json, length: HEADER + length + 1 },
        Some(_) => Decoded::Damaged(Damage::Length),
    }
}

fn is_header_so_far(header: &[u8]) -> bool {
    header.iter().enumerate().all(|(at, byte)| match at {
        8 | 17 => *byte == b' ',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    })
}

fn hex(digits: &[u8]) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// What is wrong at a place in the trail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Damage {
    #[error("the line does not begin with a length and a checksum")]
    Header,
    #[error("the line is not as long as it says")]
    Length,
    #[error("the record does not match its checksum")]
    Checksum,
    #[error("the record is not JSON with a version and a number")]
    Json,
    #[error("the record has version {0}, which this program does not know")]
    Version(u32),
    #[error("the record has number {found} where {expected} belongs")]
    Number { expected: u64, found: u64 },
    #[error("record {0} is missing: the file ends before it, and the next file begins after it")]
    Missing(u64),
    #[error("the file should begin with record 0: the files before it are missing")]
    Beginning,
    #[error("the end of the file is neither whole records nor the beginning of the next file")]
    Rest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_line_that_a_person_can_read() {
        let mut frames = Vec::new();
        encode(br#"{"v":1}"#, &mut frames).expect("short");
        assert_eq!(frames, b"00000007 84dbe73d {\"v\":1}\n");
        assert_eq!(decode(&frames), Decoded::Whole { json: br#"{"v":1}"#, length: 26 });
    }

    #[test]
    fn each_damage_has_its_name() {
        let table: [(&[u8], Damage); 11] = [
            (b"\n", Damage::Header),
            (b"0000000G", Damage::Header),
            (b"00000007-", Damage::Header),
            (b"00000007 84DBE73D {\"v\":1}\n", Damage::Header),
            (b"00000006 84dbe73d {\"v\":1}\n", Damage::Checksum),
            (b"00000002 a3a6bf43 {}}\n", Damage::Length),
            (b"00000008 84dbe73d {\"v\":1}\n", Damage::Length),
            (b"00000007 84dbe73d {\"v\"\n", Damage::Length),
            (b"ffffffff 84dbe73d {\"v\":1}\n", Damage::Length),
            (b"00000007 84dbe73d {\"v\":1} ", Damage::Length),
            (b"00000007 84dbe73d {\"v\":2}\n", Damage::Checksum),
        ];
        for (bytes, damage) in table {
            assert_eq!(decode(bytes), Decoded::Damaged(damage), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn the_beginning_of_a_frame_is_incomplete() {
        let frame = b"00000007 84dbe73d {\"v\":1}\n";
        for length in 0..frame.len() {
            assert_eq!(decode(&frame[..length]), Decoded::Incomplete, "{length} bytes");
        }
    }

    #[test]
    fn a_record_longer_than_a_reader_takes_is_not_written() {
        let mut frames = Vec::new();
        assert_eq!(encode(&vec![b' '; MAX_JSON + 1], &mut frames), Err(TooLong));
        assert!(frames.is_empty());
        encode(&vec![b' '; MAX_JSON], &mut frames).expect("as long as may be");
        assert_eq!(frames.len(), MAX_FRAME);
    }
}
