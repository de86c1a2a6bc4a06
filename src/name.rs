//! Names from the config, parsed once. They become metric labels, path segments and host labels, so their alphabet is small.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A DNS label's length (RFC 1035, section 2.3.4): a route's name is a host label.
const MAX_LENGTH: usize = 63;

/// Why a text is no name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name is 1 to 63 lower-case letters, digits, hyphens and underscores, and starts and ends with a letter or a digit"
)]
pub struct NameError;

fn parse(text: &str) -> Result<Arc<str>, NameError> {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let whole = bytes.iter().all(|b| plain(b) || *b == b'-' || *b == b'_');
    let ends = bytes.first().is_some_and(plain) && bytes.last().is_some_and(plain);
    if whole && ends && bytes.len() <= MAX_LENGTH { Ok(text.into()) } else { Err(NameError) }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        /// So that a map of names is asked with a piece of a request, which is never made a name.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// A client: the app beside us.
    ClientName
);
name!(
    /// A route: also a path prefix and a host label.
    RouteName
);
name!(
    /// A token: one named entitlement to call an API.
    TokenName
);

name!(
    /// An operator: a person or a program that looks after tokens.
    OperatorName
);
name!(
    /// A sink: a place that is told of alerts.
    SinkName
);

impl OperatorName {
    /// The operator that is there when the config names none: the proxy's own user.
    pub fn implicit() -> Self {
        Self("local".into())
    }
}

impl ClientName {
    /// The client that is there when the config names none: any process of the proxy's own user.
    pub fn implicit() -> Self {
        Self("local".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_host_labels() {
        for good in ["github", "a", "0", "git-hub", "a_b", &"x".repeat(63)] {
            assert!(good.parse::<RouteName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "GitHub", "a.b", "a/b", "a b", "ä", "a\n", &"x".repeat(64)] {
            assert!(bad.parse::<TokenName>().is_err(), "{bad:?}");
        }
    }
}
