//! Where in the request a token goes, and what it looks like there.
//!
//! | placement | in the request |
//! |---|---|
//! | bearer, header | `name: before TOKEN after` |
//! | basic | `authorization: Basic`, of `user:TOKEN` in base64 (RFC 7617) |
//! | query | `name=TOKEN`, percent-encoded, at the end of the query |
//! | cookie | `name=TOKEN`, before the app's own cookies (RFC 6265) |
//! | dpop | `authorization: DPoP TOKEN`, and a proof for each request (RFC 9449) |
//! | sigv4, hmac | nowhere: it signs the request |

use std::fmt;
use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderName, HeaderValue};

use crate::dpop::{Bound, Key};
use crate::hmac::{self, NotAKey, Recipe};
use crate::secret::{NotAws, NotCookie, NotVisibleAscii, Secret};
use crate::sigv4::{Keys, Place};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Placement {
    Header {
        name: HeaderName,
        before: String,
        after: String,
    },
    /// The token is the password of this user, whose name holds no colon.
    Basic {
        user: String,
    },
    /// A name that needs no encoding.
    Query {
        name: String,
    },
    Cookie {
        name: String,
    },
    /// In `Authorization`; the token is bound to a key, which proves each request.
    Dpop,
    /// The token is keys of AWS, and signs what is sent.
    SigV4(Place),
    /// The token is a key, and signs what a template makes of the request.
    Hmac(Arc<Recipe>),
}

/// The headers in which nothing of the client's own may stand.
#[derive(Clone)]
pub enum Guarded {
    One(HeaderName),
    These(Arc<[HeaderName]>),
}

impl Guarded {
    pub fn as_slice(&self) -> &[HeaderName] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::These(names) => names,
        }
    }
}

/// A token made ready for its placement.
#[derive(Clone)]
pub enum Placed {
    /// A header's value, or the pair of name and token in a query or a cookie.
    Value(HeaderValue),
    Keys(Arc<Keys>),
    Key(Arc<hmac::Key>),
    Bound(Arc<Bound>),
}

impl Placed {
    /// What it is bound to, if it is.
    pub fn bound(&self) -> Option<&Arc<Bound>> {
        match self {
            Self::Bound(bound) => Some(bound),
            _ => None,
        }
    }
}

/// Why a token cannot stand in its placement.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    #[error(transparent)]
    Ascii(#[from] NotVisibleAscii),
    #[error(transparent)]
    Cookie(#[from] NotCookie),
    #[error(transparent)]
    Aws(#[from] NotAws),
    #[error(transparent)]
    Key(#[from] NotAKey),
    #[error("the token is bound to no key, and its placement wants one that is")]
    Unbound,
}

impl Placement {
    pub fn bearer() -> Self {
        Self::Header { name: AUTHORIZATION, before: "Bearer ".to_owned(), after: String::new() }
    }

    /// As `token_info` shows it.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Header { .. } if *self == Self::bearer() => "bearer",
            Self::Header { .. } => "header",
            Self::Basic { .. } => "basic",
            Self::Query { .. } => "query",
            Self::Cookie { .. } => "cookie",
            Self::Dpop => "dpop",
            Self::SigV4(_) => "sigv4",
            Self::Hmac(_) => "hmac",
        }
    }

    /// The headers in which nothing of the client's own may stand: those that are written. Of a token that goes elsewhere it is
    /// `Authorization`, in which APIs look first.
    pub fn guarded_headers(&self) -> &[HeaderName] {
        static DEFAULT: HeaderName = AUTHORIZATION;
        match self {
            Self::Header { name, .. } => std::slice::from_ref(name),
            Self::Hmac(recipe) => recipe.names(),
            Self::Basic { .. } | Self::Query { .. } | Self::Cookie { .. } | Self::Dpop | Self::SigV4(_) => {
                std::slice::from_ref(&DEFAULT)
            }
        }
    }

    /// The same, to be kept.
    pub fn guarded(&self) -> Guarded {
        match self {
            Self::Header { name, .. } => Guarded::One(name.clone()),
            Self::Hmac(recipe) => Guarded::These(recipe.names().clone()),
            Self::Basic { .. } | Self::Query { .. } | Self::Cookie { .. } | Self::Dpop | Self::SigV4(_) => {
                Guarded::One(AUTHORIZATION)
            }
        }
    }

    /// The token as the request needs it.
    ///
    /// # Errors
    /// When it holds what cannot stand there, or cannot sign.
    pub fn carry(&self, token: &Secret) -> Result<Placed, Unfit> {
        Ok(Placed::Value(match self {
            Self::Header { before, after, .. } => token.header_value(before, after)?,
            Self::Basic { user } => token.basic_value(user)?,
            Self::Query { name } => token.query_pair(name)?,
            Self::Cookie { name } => token.cookie_pair(name)?,
            Self::Dpop => return Err(Unfit::Unbound),
            Self::SigV4(_) => return Ok(Placed::Keys(Arc::new(Keys::of(token)?))),
            Self::Hmac(recipe) => return Ok(Placed::Key(Arc::new(recipe.key(token)?))),
        }))
    }

    /// As [`Placement::carry`], of a token that is bound to a key, if there is one.
    ///
    /// # Errors
    /// As there.
    pub fn bind(&self, token: &Secret, key: Option<Arc<Key>>) -> Result<Placed, Unfit> {
        match (self, key) {
            (Self::Dpop, Some(key)) => Ok(Placed::Bound(Arc::new(Bound::new(token, key)?))),
            (other, _) => other.carry(token),
        }
    }
}

/// With `TOKEN` for the token.
impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { name, before, after } => write!(f, "{name}: {before}TOKEN{after}"),
            Self::Basic { user } => write!(f, "authorization: Basic {user}:TOKEN (in base64)"),
            Self::Query { name } => write!(f, "?{name}=TOKEN"),
            Self::Cookie { name } => write!(f, "cookie: {name}=TOKEN"),
            Self::Dpop => f.write_str("authorization: DPoP TOKEN (and a proof for each request)"),
            Self::SigV4(_) => f.write_str("authorization: AWS4-HMAC-SHA256 (a signature made with TOKEN)"),
            Self::Hmac(recipe) => {
                let names: Vec<&str> = recipe.names().iter().map(HeaderName::as_str).collect();
                write!(f, "{} (signed with TOKEN)", names.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(placement: &Placement, token: &str) -> Result<String, String> {
        let carried = placement.carry(&Secret::new(token)).map_err(|error| error.to_string())?;
        let Placed::Value(value) = carried else { return Err("keys".to_owned()) };
        assert!(value.is_sensitive());
        Ok(value.to_str().expect("visible ASCII").to_owned())
    }

    #[test]
    fn each_placement_writes_the_token_as_its_rfc_wants_it() {
        let named = "session".to_owned();
        for (placement, token, expected) in [
            (Placement::bearer(), "a.b~c", "Bearer a.b~c"),
            (Placement::Basic { user: "Aladdin".to_owned() }, "open-sesame", "Basic QWxhZGRpbjpvcGVuLXNlc2FtZQ=="),
            (Placement::Basic { user: String::new() }, "a:b", "Basic OmE6Yg=="),
            (Placement::Basic { user: "test".to_owned() }, "12\"3", "Basic dGVzdDoxMiIz"),
            (Placement::Query { name: named.clone() }, "a-._~9", "session=a-._~9"),
            (Placement::Query { name: named.clone() }, "a+/=&;#%\"", "session=a%2B%2F%3D%26%3B%23%25%22"),
            (Placement::Cookie { name: named.clone() }, "a+/=:b!", "session=a+/=:b!"),
        ] {
            assert_eq!(carried(&placement, token).as_deref(), Ok(expected), "{placement:?}");
        }
    }

    #[test]
    fn only_keys_of_aws_sign() {
        let placement = Placement::SigV4(Place::default());
        let keys = Secret::of_aws(b"AKID", b"key", None).expect("keys");
        assert!(matches!(placement.carry(&keys), Ok(Placed::Keys(_))));
        assert!(carried(&placement, "token").expect_err("no keys").contains("keys of AWS"));
        assert!(Placement::bearer().carry(&keys).is_err());
    }

    #[test]
    fn a_token_that_cannot_stand_in_its_placement_is_refused() {
        let placements =
            [Placement::bearer(), Placement::Basic { user: "u".to_owned() }, Placement::Query { name: "q".to_owned() }];
        for placement in placements {
            for bad in ["", "a b", "a\r\nX: y", "a\0", "ä"] {
                assert!(carried(&placement, bad).is_err(), "{placement:?} {bad:?}");
            }
        }
        let cookie = Placement::Cookie { name: "c".to_owned() };
        for bad in ["", "a b", "a;b", "a,b", "a\"b", "a\\b", "a\n", "ä"] {
            let error = carried(&cookie, bad).expect_err("no cookie");
            assert!(error.contains("cookie"), "{error}");
        }
    }
}
