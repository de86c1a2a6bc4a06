//! Keys that somebody made once and put somewhere: they have no end of their own, and are taken up anew where they lie when
//! they are replaced.

use super::issued;
use crate::secret::{Reference, ResolveError, Secret};
use crate::token::source::{Failure, Obtaining, Reason, Source};

/// `source = { kind = "aws_static", access_key_id = "...", secret_access_key = "..." }`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub access_key_id: Reference,
    pub secret_access_key: Reference,
    pub session_token: Option<Reference>,
}

pub struct Fixed(Settings);

impl Settings {
    /// The keys as they are now.
    ///
    /// # Errors
    /// When one of them cannot be read, or is none.
    pub async fn obtain(&self) -> Result<Secret, Failure> {
        let read = |error: ResolveError| Failure::transient(Reason::Secret, error.to_string());
        let id = self.access_key_id.obtain().await.map_err(read)?;
        let key = self.secret_access_key.obtain().await.map_err(read)?;
        let token = match &self.session_token {
            Some(reference) => Some(reference.obtain().await.map_err(read)?),
            None => None,
        };
        let keys = Secret::of_aws_parts(&id, &key, token.as_ref());
        keys.map_err(|error| Failure::transient(Reason::TokenCharset, error.to_string()))
    }
}

impl Fixed {
    pub fn new(settings: Settings) -> Self {
        Self(settings)
    }
}

impl Source for Fixed {
    fn obtain(&self) -> Obtaining<'_> {
        Box::pin(async { Ok(issued(self.0.obtain().await?, None)) })
    }

    fn mints(&self) -> bool {
        false
    }

    fn kind(&self) -> &'static str {
        "aws_static"
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[tokio::test]
    async fn the_keys_are_read_anew_each_time() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let reference = |name: &str| Reference::parse(&format!("file:{name}"), folder.path()).expect("reference");
        let write = |name: &str, text: &str| std::fs::write(Path::new(folder.path()).join(name), text).expect("write");
        let settings = Settings {
            access_key_id: reference("id"),
            secret_access_key: reference("key"),
            session_token: Some(reference("token")),
        };
        let source = Fixed::new(settings);
        write("id", "AKIDEXAMPLE\n");
        write("key", "secret\n");
        let failure = source.obtain().await.err().expect("no session token");
        assert_eq!(failure.reason, Reason::Secret);
        for token in ["one", "two"] {
            write("token", token);
            let issued = source.obtain().await.unwrap_or_else(|failure| panic!("{failure}"));
            let expected = Secret::of_aws(b"AKIDEXAMPLE", b"secret", Some(token.as_bytes())).expect("keys");
            assert!(issued.secret.same_as(&expected) && issued.expires.is_none());
        }
        write("id", "AKID EXAMPLE");
        let failure = source.obtain().await.err().expect("no id");
        assert_eq!(failure.reason, Reason::TokenCharset);
        assert!(failure.detail.contains("access key id"), "{failure}");
    }
}
