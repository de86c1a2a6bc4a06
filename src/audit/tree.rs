//! The Merkle tree over the records (RFC 6962, section 2.1): SHA-256, a record's JSON as its leaf.
//!
//! ```text
//! leaf ─▶ Frontier ─▶ root              the peaks of what is complete: as many hashes as the size has binary digits
//!            └──────▶ stored hashes     each complete subtree once, a parent right after its children
//!                         └───────────▶ inclusion and consistency proofs, from a few of them
//! ```
//!
//! Invariant: the same leaves in the same order give the same root, and nothing else does. Pure.

use std::fmt;

use aws_lc_rs::digest::{self, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What stands for a leaf or a subtree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; Hash::LENGTH]);

impl Hash {
    pub const LENGTH: usize = 32;

    pub fn of_leaf(data: &[u8]) -> Self {
        Self::of(&[&[0], data])
    }

    pub fn of_node(left: Self, right: Self) -> Self {
        let mut both = [0; 1 + 2 * Self::LENGTH];
        both[0] = 1;
        both[1..][..Self::LENGTH].copy_from_slice(&left.0);
        both[1 + Self::LENGTH..].copy_from_slice(&right.0);
        Self::of(&[&both])
    }

    /// Of a tree without leaves.
    pub fn of_nothing() -> Self {
        Self::of(&[])
    }

    pub fn of(parts: &[&[u8]]) -> Self {
        let mut context = digest::Context::new(&SHA256);
        for part in parts {
            context.update(part);
        }
        let mut hash = [0; Self::LENGTH];
        hash.copy_from_slice(context.finish().as_ref());
        Self(hash)
    }
}

/// As checkpoints and proofs write it: base64.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A tree that only grows, known by the roots of its largest complete subtrees.
#[derive(Clone, Default, Debug)]
pub struct Frontier {
    size: u64,
    /// One for each binary digit of the size that is set, the largest subtree first.
    peaks: Vec<Hash>,
}

impl Frontier {
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf, and tells each hash that is complete now: the leaf's own, then those of the subtrees that it ends.
    pub fn append(&mut self, leaf: Hash, mut complete: impl FnMut(Hash)) {
        complete(leaf);
        let mut right = leaf;
        for _ in 0..self.size.trailing_ones() {
            let left = self.peaks.pop().expect("a size has as many peaks as digits that are set");
            right = Hash::of_node(left, right);
            complete(right);
        }
        self.peaks.push(right);
        self.size += 1;
    }

    pub fn root(&self) -> Hash {
        let Some((&last, before)) = self.peaks.split_last() else { return Hash::of_nothing() };
        before.iter().rev().fold(last, |right, &left| Hash::of_node(left, right))
    }
}

/// How many hashes are stored of a tree of this size.
pub fn stored_hashes(size: u64) -> u64 {
    2 * size - u64::from(size.count_ones())
}

/// Of how many leaves so many stored hashes are: those of a leaf that is not complete do not count.
pub fn size_of(hashes: u64) -> u64 {
    let mut size = hashes / 2;
    while stored_hashes(size + 1) <= hashes {
        size += 1;
    }
    size
}

/// Which of the stored hashes is that of a leaf.
pub fn place_of_leaf(index: u64) -> u64 {
    place(0, index)
}

/// Which of the stored hashes is that of the leaves `index << level ..` up to the next such subtree: it is stored when its last
/// leaf is, after the smaller subtrees which that leaf ends.
fn place(level: u32, index: u64) -> u64 {
    stored_hashes(((index + 1) << level) - 1) + u64::from(level)
}

/// Reads what is stored, by its place.
pub trait Stored {
    type Error;
    fn hash(&self, place: u64) -> Result<Hash, Self::Error>;
}

/// What proves that leaf `index` is in the tree of `size` leaves (RFC 6962, section 2.1.1).
pub fn inclusion<S: Stored>(index: u64, size: u64, stored: &S) -> Result<Vec<Hash>, S::Error> {
    let mut proof = Vec::new();
    let (mut start, mut end) = (0, size);
    while end - start > 1 {
        let middle = start + largest_power_below(end - start);
        if index < middle {
            proof.push(hash_of_range(middle, end, stored)?);
            end = middle;
        } else {
            proof.push(hash_of_range(start, middle, stored)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// What proves that the tree of `size` leaves begins with the one of `old` leaves (RFC 6962, section 2.1.2): nothing where one
/// of them is empty or they are the same.
pub fn consistency<S: Stored>(old: u64, size: u64, stored: &S) -> Result<Vec<Hash>, S::Error> {
    let mut proof = Vec::new();
    if old == 0 || old == size {
        return Ok(proof);
    }
    let (mut start, mut end) = (0, size);
    while old != end {
        let middle = start + largest_power_below(end - start);
        if old <= middle {
            proof.push(hash_of_range(middle, end, stored)?);
            end = middle;
        } else {
            proof.push(hash_of_range(start, middle, stored)?);
            start = middle;
        }
    }
    // The old tree itself is known to whoever asks.
    if start > 0 {
        proof.push(hash_of_range(start, end, stored)?);
    }
    proof.reverse();
    Ok(proof)
}

/// The hash of the leaves from `start` up to `end`, where `start` is a multiple of a power of two that is not less than their
/// number: what is complete is stored, and the rest is put together.
fn hash_of_range<S: Stored>(start: u64, end: u64, stored: &S) -> Result<Hash, S::Error> {
    let length = end - start;
    if length.is_power_of_two() {
        let level = length.trailing_zeros();
        return stored.hash(place(level, start >> level));
    }
    let middle = start + largest_power_below(length);
    Ok(Hash::of_node(hash_of_range(start, middle, stored)?, hash_of_range(middle, end, stored)?))
}

/// The largest power of two that is less than `length`, which is two at least.
fn largest_power_below(length: u64) -> u64 {
    1 << (length - 1).ilog2()
}

#[cfg(test)]
pub(super) mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// The definition, word by word.
    fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::of_nothing(),
            [one] => *one,
            more => {
                let (left, right) =
                    more.split_at(usize::try_from(largest_power_below(more.len() as u64)).expect("few"));
                Hash::of_node(by_definition(left), by_definition(right))
            }
        }
    }

    /// The root of the tree that the first `size` leaves make, from what is stored.
    fn root<S: Stored>(size: u64, stored: &S) -> Result<Hash, S::Error> {
        if size == 0 { Ok(Hash::of_nothing()) } else { hash_of_range(0, size, stored) }
    }

    /// RFC 9162, section 2.1.3.2.
    fn includes(leaf: Hash, index: u64, size: u64, proof: &[Hash], root: Hash) -> bool {
        let (mut index, mut last, mut hash) = (index, size - 1, leaf);
        for &other in proof {
            if last == 0 {
                return false;
            }
            if index & 1 == 1 || index == last {
                hash = Hash::of_node(other, hash);
                while index & 1 == 0 && index != 0 {
                    (index, last) = (index >> 1, last >> 1);
                }
            } else {
                hash = Hash::of_node(hash, other);
            }
            (index, last) = (index >> 1, last >> 1);
        }
        last == 0 && hash == root
    }

    /// RFC 9162, section 2.1.4.2.
    fn continues(old: u64, size: u64, old_root: Hash, root: Hash, proof: &[Hash]) -> bool {
        let mut path = proof.to_vec();
        if old.is_power_of_two() {
            path.insert(0, old_root);
        }
        let Some((&first, rest)) = path.split_first() else { return false };
        let (mut index, mut last) = (old - 1, size - 1);
        while index & 1 == 1 {
            (index, last) = (index >> 1, last >> 1);
        }
        let (mut before, mut after) = (first, first);
        for &other in rest {
            if last == 0 {
                return false;
            }
            if index & 1 == 1 || index == last {
                (before, after) = (Hash::of_node(other, before), Hash::of_node(other, after));
                while index & 1 == 0 && index != 0 {
                    (index, last) = (index >> 1, last >> 1);
                }
            } else {
                after = Hash::of_node(after, other);
            }
            (index, last) = (index >> 1, last >> 1);
        }
        last == 0 && before == old_root && after == root
    }

    impl Stored for Vec<Hash> {
        type Error = Infallible;

        fn hash(&self, place: u64) -> Result<Hash, Infallible> {
            Ok(self[usize::try_from(place).expect("few")])
        }
    }

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|number| Hash::of_leaf(&number.to_be_bytes())).collect()
    }

    fn grown(leaves: &[Hash]) -> (Frontier, Vec<Hash>) {
        let (mut frontier, mut stored) = (Frontier::default(), Vec::new());
        for leaf in leaves {
            frontier.append(*leaf, |hash| stored.push(hash));
        }
        (frontier, stored)
    }

    fn certain<T>(result: Result<T, Infallible>) -> T {
        match result {
            Ok(value) => value,
            Err(never) => match never {},
        }
    }

    #[test]
    fn hashes_are_those_of_rfc_6962() {
        let hex = |hash: Hash| crate::text::hex(&hash.0);
        assert_eq!(hex(Hash::of_nothing()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(hex(Hash::of_leaf(b"")), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        // The roots of the eight leaves that certificate transparency's implementations test with.
        let data: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let (frontier, _) = grown(&data.map(Hash::of_leaf));
        assert_eq!(hex(frontier.root()), "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
    }

    #[test]
    fn a_grown_tree_is_the_one_of_the_definition() {
        let all = leaves(70);
        for size in 0..=all.len() {
            let (frontier, stored) = grown(&all[..size]);
            assert_eq!(frontier.root(), by_definition(&all[..size]), "{size} leaves");
            assert_eq!(stored.len() as u64, stored_hashes(size as u64), "{size} leaves");
            assert_eq!(certain(root(size as u64, &stored)), frontier.root(), "{size} leaves");
            assert_eq!(size_of(stored.len() as u64), size as u64);
            for (index, leaf) in all[..size].iter().enumerate() {
                assert_eq!(stored[usize::try_from(place_of_leaf(index as u64)).expect("few")], *leaf);
            }
        }
    }

    #[test]
    fn every_proof_of_every_small_tree_is_accepted() {
        let all = leaves(40);
        let (_, stored) = grown(&all);
        for size in 1..=all.len() as u64 {
            let whole = certain(root(size, &stored));
            for index in 0..size {
                let proof = certain(inclusion(index, size, &stored));
                let leaf = all[usize::try_from(index).expect("few")];
                assert!(includes(leaf, index, size, &proof, whole), "{index} in {size}");
                assert!(!includes(Hash::of_leaf(b"another"), index, size, &proof, whole), "{index} in {size}");
            }
            for old in 1..size {
                let before = certain(root(old, &stored));
                let proof = certain(consistency(old, size, &stored));
                assert!(continues(old, size, before, whole, &proof), "{old} to {size}");
                assert!(!continues(old, size, Hash::of_leaf(b"another"), whole, &proof), "{old} to {size}");
            }
            assert!(certain(consistency(size, size, &stored)).is_empty());
            assert!(certain(consistency(0, size, &stored)).is_empty());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn proofs_of_larger_trees_are_accepted(size in 2..2000_u64, at in any::<prop::sample::Index>()) {
            let all = leaves(size);
            let (frontier, stored) = grown(&all);
            let index = at.index(all.len());
            let proof = certain(inclusion(index as u64, size, &stored));
            prop_assert!(includes(all[index], index as u64, size, &proof, frontier.root()));
            let old = index.max(1) as u64;
            let proof = certain(consistency(old, size, &stored));
            prop_assert!(continues(old, size, certain(root(old, &stored)), frontier.root(), &proof));
        }
    }
}
