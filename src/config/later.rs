//! What the config will have and this version has not. Such a key is refused by name: taking the file and ignoring a
//! rule that protects would fail open.

/// The title of the file as a whole.
pub const ROOT: &str = "the file";

/// What to do about it.
pub const HELP: &str = "remove it: what it asks for would not be done";

/// Keys by the title of their section.
const KEYS: &[(&str, &[&str])] = &[("[[token]]", &["version"]), ("`source`", &["login"])];

/// Kinds of sources.
pub const SOURCES: [&str; 0] = [];

/// Whether a key of the section with this title is one of them.
pub fn has(title: &str, key: &str) -> bool {
    keys(title).any(|known| known == key)
}

/// The keys of the section with this title.
pub fn keys(title: &str) -> impl Iterator<Item = &'static str> + '_ {
    KEYS.iter().filter(move |(section, _)| *section == title).flat_map(|(_, keys)| keys.iter().copied())
}
