//! Which scopes can be asked for on top of those that a token has.

use std::collections::BTreeSet;

/// The scopes of a token whose issuer can be asked for others.
#[derive(Debug)]
pub struct Offer {
    /// Those that it is provisioned with.
    granted: BTreeSet<String>,
    /// Those that its config lets be asked for.
    further: BTreeSet<String>,
}

impl Offer {
    /// `None` where there is nothing to ask for.
    pub fn new(granted: BTreeSet<String>, further: BTreeSet<String>) -> Option<Self> {
        (!further.is_subset(&granted)).then_some(Self { granted, further })
    }

    /// All scopes that the token would have together with these; `None` if it has them, or one of them is not offered.
    pub fn with<'s>(&self, wanted: impl IntoIterator<Item = &'s str>) -> Option<BTreeSet<String>> {
        let mut all = self.granted.clone();
        for scope in wanted {
            if !self.granted.contains(scope) {
                all.insert(self.further.get(scope)?.clone());
            }
        }
        (all != self.granted).then_some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(scopes: &[&str]) -> BTreeSet<String> {
        scopes.iter().map(|&scope| scope.to_owned()).collect()
    }

    #[test]
    fn what_is_offered_comes_on_top_of_what_is_granted() {
        let offer = Offer::new(set(&["read"]), set(&["write", "admin"])).expect("something to ask for");
        assert_eq!(offer.with(["write"]), Some(set(&["read", "write"])));
        assert_eq!(offer.with(["read", "write"]), Some(set(&["read", "write"])));
        assert_eq!(offer.with(["read"]), None, "it has that");
        assert_eq!(offer.with([]), None);
        assert_eq!(offer.with(["write", "root"]), None, "only all of it would help");
        assert!(Offer::new(set(&["read", "write"]), set(&["write"])).is_none());
        assert!(Offer::new(set(&["read"]), set(&[])).is_none());
    }
}
