//! Path templates, learned from the paths that requests had: what varies becomes `*`.
//!
//! ```text
//! /repos/a/b/issues/17 ─┐
//! /repos/a/c/issues/4  ─┴▶ trie of segments ─▶ /repos/a/b/issues/*, /repos/a/c/issues/* ─ many more ─▶ /repos/a/*/issues/*
//! ```
//!
//! A segment varies if it looks like an identifier, or if more than ten were seen in its place: then all of them
//! become one `*`, and what follows them is put together. Where paths are deeper than can be kept, their end becomes `**`.
//!
//! Invariants: what is kept is bounded, whatever comes; as long as there is room, the order in which paths come changes
//! nothing; each path that was learned is covered by a template, read as an allow rule is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Different segments in one place, beyond which they are taken for identifiers.
const MOST_SIBLINGS: usize = 10;

/// Segments of a path that are told apart.
const DEEPEST: usize = 12;

/// Nodes, and what was learned, beyond which depth is given up.
const MOST: usize = 1024;

/// Longer segments are data.
const LONGEST: usize = 64;

/// What can be learned at the end of a path.
pub trait Learned: Default {
    /// Takes in what was learned of other paths, which turn out to be of the same template.
    fn absorb(&mut self, other: Self);

    /// How much room it takes.
    fn size(&self) -> usize;
}

/// The templates of one route, with what was learned of each.
#[derive(Clone, Serialize, Deserialize, Debug)]
#[serde(bound(deserialize = "V: Deserialize<'de>"))]
pub struct Templates<V> {
    root: Node<V>,
    deepest: usize,
    size: usize,
}

#[derive(Clone, Serialize, Deserialize, Debug)]
#[serde(bound(deserialize = "V: Deserialize<'de>"))]
struct Node<V> {
    /// Of paths that end here.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    end: Option<V>,
    /// Of paths that go on for longer than is kept.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    beyond: Option<V>,
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    literals: BTreeMap<Box<str>, Node<V>>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    any: Option<Box<Node<V>>>,
    /// There were too many literals: all are `any` now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    merged: bool,
}

fn none<T>() -> Option<T> {
    None
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self { end: None, beyond: None, literals: BTreeMap::new(), any: None, merged: false }
    }
}

impl<V> Default for Templates<V> {
    fn default() -> Self {
        Self { root: Node::default(), deepest: DEEPEST, size: 0 }
    }
}

impl<V: Learned> Templates<V> {
    /// Changes what is known of the template of this path.
    pub fn learn(&mut self, path: &str, change: impl FnOnce(&mut V)) {
        let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
        let mut node = &mut self.root;
        let mut depth = 0;
        while let Some(segment) = segments.next_if(|_| depth < self.deepest) {
            let (next, grown) = node.descend(segment);
            node = next;
            self.size += grown;
            depth += 1;
        }
        let value = if segments.peek().is_none() { &mut node.end } else { &mut node.beyond };
        let value = value.get_or_insert_default();
        let before = value.size();
        change(value);
        self.size += value.size().saturating_sub(before);
        if self.size > MOST {
            self.shrink();
        }
    }

    /// Each template, as an allow rule would write it, with what is known of it.
    pub fn all(&self) -> Vec<(String, &V)> {
        let mut found = Vec::new();
        self.root.collect(&mut String::new(), &mut found);
        found
    }

    /// Looks at what is known of each template.
    pub fn each(&self, look: &mut impl FnMut(&V)) {
        self.root.each(look);
    }

    /// Keeps of each template what `keep` makes of it, if anything.
    pub fn retain(&mut self, keep: &mut impl FnMut(&mut V) -> bool) {
        let before = self.size;
        self.root.retain(keep);
        self.size = self.root.size();
        if self.size < before && self.size <= MOST / 2 {
            // What took the room has gone.
            self.deepest = DEEPEST;
        }
    }

    /// Counts anew, since merging has made room, and gives depth up for more.
    fn shrink(&mut self) {
        self.size = self.root.size();
        while self.size > MOST && self.deepest > 0 {
            self.deepest -= 1;
            self.root.cut(self.deepest);
            self.size = self.root.size();
        }
    }
}

impl<V: Learned> Node<V> {
    /// Where a segment leads, and by how much the trie has grown for it.
    fn descend(&mut self, segment: &str) -> (&mut Self, usize) {
        if self.literals.contains_key(segment) {
            return (self.literals.get_mut(segment).expect("it was found"), 0);
        }
        if !self.is_literal(segment) {
            let grown = usize::from(self.any.is_none());
            return (self.any.get_or_insert_default(), grown);
        }
        self.literals.insert(segment.into(), Self::default());
        self.merge_many();
        let next = match self.merged && !segment.is_empty() {
            true => self.any.get_or_insert_default(),
            false => self.literals.entry(segment.into()).or_default(),
        };
        (next, 1)
    }

    /// What no `*` covers stays as it is, always.
    fn is_literal(&self, segment: &str) -> bool {
        segment.is_empty() || !(self.merged || varies(segment))
    }

    fn merge_many(&mut self) {
        let many = self.literals.keys().filter(|key| !key.is_empty()).count() > MOST_SIBLINGS;
        if many || self.merged {
            self.merged = true;
            let (empty, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
                std::mem::take(&mut self.literals).into_iter().partition(|(key, _)| key.is_empty());
            self.literals = empty;
            for node in others.into_values() {
                self.any.get_or_insert_default().absorb(node);
            }
        }
    }

    fn absorb(&mut self, other: Self) {
        absorb(&mut self.end, other.end);
        absorb(&mut self.beyond, other.beyond);
        for (segment, node) in other.literals {
            self.literals.entry(segment).or_default().absorb(node);
        }
        if let Some(any) = other.any {
            self.any.get_or_insert_default().absorb(*any);
        }
        self.merged |= other.merged;
        self.merge_many();
    }

    /// Everything that follows `depth` segments from here is beyond.
    fn cut(&mut self, depth: usize) {
        for node in self.literals.values_mut().chain(self.any.as_deref_mut()) {
            match depth.checked_sub(1) {
                Some(left) => node.cut(left),
                None => node.end_into(&mut self.beyond),
            }
        }
        if depth == 0 {
            self.literals.clear();
            self.any = None;
            self.merged = false;
        }
    }

    fn end_into(&mut self, beyond: &mut Option<V>) {
        absorb(beyond, self.end.take());
        absorb(beyond, self.beyond.take());
        self.literals.values_mut().chain(self.any.as_deref_mut()).for_each(|node| node.end_into(beyond));
    }

    fn collect<'n>(&'n self, prefix: &mut String, found: &mut Vec<(String, &'n V)>) {
        if let Some(end) = &self.end {
            found.push((prefix.clone(), end));
        }
        if let Some(beyond) = &self.beyond {
            found.push((format!("{prefix}/**"), beyond));
        }
        let literals = self.literals.iter().map(|(segment, node)| (&**segment, node));
        for (segment, node) in literals.chain(self.any.as_deref().map(|node| ("*", node))) {
            let length = prefix.len();
            prefix.push('/');
            prefix.push_str(segment);
            node.collect(prefix, found);
            prefix.truncate(length);
        }
    }

    fn each(&self, look: &mut impl FnMut(&V)) {
        self.end.iter().chain(&self.beyond).for_each(&mut *look);
        self.literals.values().chain(self.any.as_deref()).for_each(|node| node.each(look));
    }

    /// Whether anything is left of it.
    fn retain(&mut self, keep: &mut impl FnMut(&mut V) -> bool) -> bool {
        for value in [&mut self.end, &mut self.beyond] {
            if value.as_mut().is_some_and(|value| !keep(value)) {
                *value = None;
            }
        }
        self.literals.retain(|_, node| node.retain(keep));
        self.any = self.any.take().and_then(|mut node| node.retain(keep).then_some(node));
        self.end.is_some() || self.beyond.is_some() || !self.literals.is_empty() || self.any.is_some()
    }

    fn size(&self) -> usize {
        let own = self.end.iter().chain(&self.beyond).map(V::size).sum::<usize>();
        let below = self.literals.values().chain(self.any.as_deref()).map(|node| 1 + node.size()).sum::<usize>();
        own + below
    }
}

fn absorb<V: Learned>(own: &mut Option<V>, other: Option<V>) {
    match (own.as_mut(), other) {
        (Some(own), Some(other)) => own.absorb(other),
        (None, other) => *own = other,
        (Some(_), None) => {}
    }
}

/// Whether a segment looks like an identifier: a number, a date, a UUID, a hash, a random text.
fn varies(segment: &str) -> bool {
    let count = |is: fn(&u8) -> bool| segment.bytes().filter(is).count();
    let (digits, letters) = (count(u8::is_ascii_digit), count(u8::is_ascii_alphabetic));
    let hexadecimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if segment.len() > LONGEST || segment.contains('*') {
        return true;
    }
    // What is encoded is somebody's word.
    if digits == 0 || segment.contains('%') {
        return false;
    }
    letters == 0
        || (hexadecimal(segment) && segment.len() >= if segment.contains('-') { 20 } else { 7 })
        || (digits >= 8 && digits > letters)
        || segment.split(['-', '_', '.', ':', '~']).any(is_random)
}

/// Whether digits stand in it here and there, as nobody would write them.
fn is_random(piece: &str) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let runs = piece.as_bytes().chunk_by(|one, other| is_digit(one) == is_digit(other));
    let runs_of_digits = runs.filter(|run| run.first().is_some_and(is_digit)).count();
    let digits = piece.bytes().filter(u8::is_ascii_digit).count();
    let has_letters = piece.bytes().any(|byte| byte.is_ascii_alphabetic());
    has_letters && piece.len() >= 8 && (runs_of_digits >= 2 || (piece.len() >= 20 && digits >= 2))
}

#[cfg(test)]
mod tests;
