//! Secrets that lie in a vault: `vault:path#field`.
//!
//! A reference is made of the text of a config alone, when there is no vault yet: it holds an [`Opening`], through which it is
//! read as soon as somebody who can is put there.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use super::{ReferenceError, ResolveError, Secret};

/// What can read them.
pub trait Deposits: Send + Sync {
    /// A field of what lies at a path, or why there is none, in words.
    fn read<'a>(
        &'a self,
        path: &'a str,
        field: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Secret, String>> + Send + 'a>>;
}

/// Through which references reach it. All of a config have the same.
#[derive(Clone, Default)]
pub struct Opening(Arc<OnceLock<Arc<dyn Deposits>>>);

impl Opening {
    /// From now on secrets can be read. The first one stays.
    pub fn lead_to(&self, deposits: Arc<dyn Deposits>) {
        // A config that is looked at twice leads to the same vault both times.
        let _ = self.0.set(deposits);
    }
}

/// What a reference names.
#[derive(Clone)]
pub struct Deposited {
    path: String,
    field: String,
    opening: Opening,
}

impl Deposited {
    /// What stands behind `vault:`.
    pub(super) fn parse(text: &str) -> Result<Self, ReferenceError> {
        let (path, field) = text.split_once('#').ok_or(ReferenceError::VaultForm)?;
        if field.is_empty() || field.contains('#') || field.chars().any(char::is_control) {
            return Err(ReferenceError::VaultForm);
        }
        let path = vault_path(path).ok_or(ReferenceError::VaultPath)?;
        Ok(Self { path, field: field.to_owned(), opening: Opening::default() })
    }

    /// It is read through this.
    pub fn through(&mut self, opening: &Opening) {
        self.opening = opening.clone();
    }

    pub(super) async fn read(&self) -> Result<Secret, ResolveError> {
        let failed = |why| ResolveError::Vault(self.to_string(), why);
        match self.opening.0.get() {
            Some(deposits) => deposits.read(&self.path, &self.field).await.map_err(failed),
            None => Err(failed("nobody is logged in to the vault here".to_owned())),
        }
    }
}

/// A path of a vault's API, without slashes around it; `None` where it could not be sent as it is.
pub fn vault_path(text: &str) -> Option<String> {
    let path = text.trim_matches('/');
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~@:+=,".contains(&byte);
    let segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(fits);
    (path.len() <= 512 && path.split('/').all(segment)).then(|| path.to_owned())
}

impl fmt::Display for Deposited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.path, self.field)
    }
}

impl fmt::Debug for Deposited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which vault that is, is not a matter of the reference.
impl PartialEq for Deposited {
    fn eq(&self, other: &Self) -> bool {
        (&self.path, &self.field) == (&other.path, &other.field)
    }
}

impl Eq for Deposited {}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Reference;
    use super::*;

    struct Echo;

    impl Deposits for Echo {
        fn read<'a>(
            &'a self,
            path: &'a str,
            field: &'a str,
        ) -> Pin<Box<dyn Future<Output = Result<Secret, String>> + Send + 'a>> {
            Box::pin(async move { Ok(Secret::new(format!("{path} {field}"))) })
        }
    }

    #[tokio::test]
    async fn it_is_read_through_its_opening_and_not_before_that_leads_somewhere() {
        let reference = Reference::parse("vault:/secret/ci/#pass word", Path::new("/")).expect("a reference");
        assert_eq!(reference.to_string(), "vault:secret/ci#pass word");
        let Reference::Vault(mut deposited) = reference.clone() else { panic!("another kind") };
        let opening = Opening::default();
        deposited.through(&opening);
        let through = Reference::Vault(deposited);
        assert_eq!(through, reference);
        assert!(matches!(through.obtain().await, Err(ResolveError::Vault(..))));
        opening.lead_to(Arc::new(Echo));
        for secret in [through.obtain().await, through.obtain_document().await] {
            assert!(secret.expect("it is read").same_as(&Secret::new("secret/ci pass word")));
        }
        assert!(matches!(through.resolve(), Err(ResolveError::NotAsked(_))));
    }

    #[test]
    fn a_path_is_sent_as_it_is_written_or_refused() {
        for bad in ["", "/", "a//b", "a/../b", "a/./b", "a b", "a?b", "a%2fb", "ä", "a\\b"] {
            assert_eq!(vault_path(bad), None, "{bad}");
            let error = Reference::parse(&format!("vault:{bad}#x"), Path::new("/")).expect_err(bad);
            assert_eq!(error, ReferenceError::VaultPath, "{bad}");
        }
        for bad in ["vault:a/b", "vault:a/b#", "vault:a#b#c"] {
            assert_eq!(Reference::parse(bad, Path::new("/")), Err(ReferenceError::VaultForm), "{bad}");
        }
    }
}
