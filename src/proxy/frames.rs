//! Counts the frames of HTTP/2 that cost us work and carry nothing: SETTINGS, PING, RST_STREAM and their like. h2 answers
//! each, however many come; a client that sends little else is let go of.
//!
//! Only the nine bytes of each frame's header are looked at (RFC 9113, section 4.1); what they say is left to h2.

/// The header of a frame.
const HEADER: usize = 9;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const END_STREAM: u8 = 0x1;

/// Follows the frames in what a client sends after the preface.
#[derive(Default, Debug)]
pub struct FrameMeter {
    header: [u8; HEADER],
    /// So many bytes of the header have come.
    have: usize,
    /// So many bytes of the frame are still to come.
    left: usize,
}

impl FrameMeter {
    /// How many frames that carry nothing begin in these bytes.
    pub fn read(&mut self, mut bytes: &[u8]) -> u64 {
        let mut idle = 0;
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEADER {
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.header;
                self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                idle += u64::from(carries_nothing(kind, flags, self.left));
            }
        }
        idle
    }
}

fn carries_nothing(kind: u8, flags: u8, length: usize) -> bool {
    match kind {
        HEADERS => false,
        DATA => length == 0 && flags & END_STREAM == 0,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn frames_that_carry_nothing_are_counted_however_the_bytes_are_split() {
        let frames = [
            frame(0x4, 0, &[0; 18]),
            frame(HEADERS, 0x5, &[7; 300]),
            frame(0x6, 0, &[0; 8]),
            frame(DATA, 0, &[6; 70_000]),
            frame(DATA, 0, &[]),
            frame(DATA, END_STREAM, &[]),
            frame(0x3, 0, &[0; 4]),
            frame(0xfa, 0, &[]),
        ];
        let bytes = frames.concat();
        for size in [1, 2, 5, 9, 10, 1000, bytes.len()] {
            let mut meter = FrameMeter::default();
            let counted: u64 = bytes.chunks(size).map(|chunk| meter.read(chunk)).sum();
            assert_eq!(counted, 5, "in pieces of {size}");
        }
    }
}
