//! The keys of AWS as one secret: three values that are issued, recognised and wiped together.
//!
//! ```text
//! access key id ⏎ secret access key ⏎ session token, or nothing
//! ```

use aws_credential_types::Credentials;
use zeroize::Zeroizing;

use super::Secret;

/// Why these are no keys of AWS, or a secret is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAws {
    #[error("the access key id is empty, or holds something other than letters, digits, `_` and `-`")]
    Id,
    #[error("the secret access key is empty, or holds something other than visible ASCII")]
    Key,
    #[error("the session token is empty, or holds something other than visible ASCII")]
    SessionToken,
    #[error("the token is not the three keys of AWS that a signature is made with")]
    OtherSecret,
}

impl Secret {
    /// # Errors
    /// When one of them cannot be what it is called.
    pub fn of_aws(id: &[u8], key: &[u8], session_token: Option<&[u8]>) -> Result<Self, NotAws> {
        let visible = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_graphic);
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if id.is_empty() || !id.iter().all(plain) {
            return Err(NotAws::Id);
        }
        if !visible(key) {
            return Err(NotAws::Key);
        }
        if session_token.is_some_and(|token| !visible(token)) {
            return Err(NotAws::SessionToken);
        }
        Ok(Self(Zeroizing::new([id, key, session_token.unwrap_or_default()].join(&b'\n'))))
    }

    /// As [`Secret::of_aws`], of what lies in three places.
    ///
    /// # Errors
    /// As [`Secret::of_aws`].
    pub fn of_aws_parts(id: &Self, key: &Self, session_token: Option<&Self>) -> Result<Self, NotAws> {
        Self::of_aws(&id.0, &key.0, session_token.map(|token| token.0.as_slice()))
    }

    /// The keys for the library that signs with them, which wipes its copy too.
    ///
    /// # Errors
    /// When it is another secret.
    pub fn aws_credentials(&self) -> Result<Credentials, NotAws> {
        let [id, key, session_token] = self.aws_parts()?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| NotAws::OtherSecret);
        let session_token = if session_token.is_empty() { None } else { Some(text(session_token)?) };
        Ok(Credentials::new(text(id)?, text(key)?, session_token, None, "countersign"))
    }

    fn aws_parts(&self) -> Result<[&[u8]; 3], NotAws> {
        let mut parts = self.0.split(|byte| *byte == b'\n');
        match [parts.next(), parts.next(), parts.next(), parts.next()] {
            [Some(id), Some(key), Some(session_token), None] if !id.is_empty() && !key.is_empty() => {
                Ok([id, key, session_token])
            }
            _ => Err(NotAws::OtherSecret),
        }
    }

    /// What an upstream is sent, or could repeat: the session token, else the secret access key, which is sent to nobody.
    pub(super) fn aws_shown(&self) -> Option<&[u8]> {
        let [_, key, session_token] = self.aws_parts().ok()?;
        Some(if session_token.is_empty() { key } else { session_token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_keys_go_in_and_come_out() {
        let keys =
            Secret::of_aws(b"AKID", b"se/cret+", Some(b"session==")).expect("keys").aws_credentials().expect("keys");
        assert_eq!((keys.access_key_id(), keys.secret_access_key()), ("AKID", "se/cret+"));
        assert_eq!(keys.session_token(), Some("session=="));
        let keys = Secret::of_aws(b"AKID", b"secret", None).expect("keys").aws_credentials().expect("keys");
        assert_eq!(keys.session_token(), None);
    }

    #[test]
    fn what_is_no_key_is_refused_by_its_name() {
        for (id, key, token, error) in [
            (&b""[..], &b"k"[..], None, NotAws::Id),
            (b"a/b", b"k", None, NotAws::Id),
            (b"a\nb", b"k", None, NotAws::Id),
            (b"a", b"", None, NotAws::Key),
            (b"a", b"k\r\nX: y", None, NotAws::Key),
            (b"a", b"k", Some(&b""[..]), NotAws::SessionToken),
            (b"a", b"k", Some(b"t\n"), NotAws::SessionToken),
        ] {
            assert_eq!(Secret::of_aws(id, key, token).err(), Some(error));
        }
        for other in ["", "token", "a\nb", "a\nb\nc\nd", "\nb\nc"] {
            assert_eq!(Secret::new(other).aws_credentials().err(), Some(NotAws::OtherSecret), "{other:?}");
        }
    }

    #[test]
    fn the_keys_are_no_header_and_are_recognised_by_what_is_sent() {
        let keys = Secret::of_aws(b"AKID", b"secret-access-key", Some(b"session-token")).expect("keys");
        assert!(keys.header_value("", "").is_err());
        assert!(keys.make_needles().are_in(b"... session-token ..."));
        let keys = Secret::of_aws(b"AKID", b"secret-access-key", None).expect("keys");
        assert!(keys.make_needles().are_in(b"secret-access-key"));
    }
}
