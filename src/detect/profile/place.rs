//! Which kind of resource a path names.

use crate::detect::baseline::Hash;

/// Goes on with a path, without what tells one resource of a kind from another.
pub fn template(hash: Hash, path: &str) -> Hash {
    let (mut hash, mut parts, mut rest) = (hash, 0, path.as_bytes());
    while parts < 4 && !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        let part = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        if !part.is_empty() {
            hash = hash.bytes(b"/").bytes(if names_one(part) { b"*" } else { part });
            parts += 1;
        }
    }
    hash
}

/// Whether a segment looks like a number, a digest, a UUID.
fn names_one(part: &[u8]) -> bool {
    part.len() > 24 || part.iter().any(u8::is_ascii_digit) && !is_version(part)
}

fn is_version(part: &[u8]) -> bool {
    part.len() <= 3 && part.starts_with(b"v")
}
