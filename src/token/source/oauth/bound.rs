//! Tokens that are bound to a key of ours (RFC 9449): the token endpoint is shown a proof with each grant.

use std::sync::{Arc, PoisonError};

use http::HeaderValue;

use super::grant::Shown;
use super::{OAuth, Posted, Unanswered};
use crate::dpop::{self, Key};
use crate::fetch::Remote;
use crate::secret::Reference;
use crate::token::source::answer::{self, Reply};
use crate::token::source::{Failure, Reason};

/// `dpop` of a source: the key that its tokens are bound to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Binding {
    /// One that is made, and lies nowhere but beside what is bound to it.
    Made,
    /// A private key for ES256, PEM.
    Kept(Reference),
}

impl OAuth {
    /// The key as it is now, where there is one.
    pub(super) async fn binding_key(&self) -> Result<Option<Arc<Key>>, Failure> {
        let Some(binding) = &self.settings.dpop else { return Ok(None) };
        let read = match binding {
            Binding::Made => None,
            Binding::Kept(reference) => {
                let unfit = |why: String| Failure::transient(Reason::Key, format!("{reference}: {why}"));
                let pem = reference.obtain_document().await.map_err(|error| unfit(error.to_string()))?;
                Some(Key::read(pem.expose_to_signer()).map_err(|error| unfit(error.to_string()))?)
            }
        };
        let mut last = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.take().filter(|known| read.as_ref().is_none_or(|read| known.is(read)));
        let key = known.unwrap_or_else(|| Arc::new(read.unwrap_or_else(Key::made)));
        Ok(Some(last.insert(key).clone()))
    }

    /// Shows the token endpoint a grant, and once more where it wants its nonce in the proof: it has taken nothing then.
    pub(super) async fn post_bound(&self, remote: &Remote, shown: &Shown, key: &Key) -> Result<Posted, Unanswered> {
        let first = self.post_to(remote, shown, Some(self.proof_for(remote, key)?)).await?;
        key.heard(remote.endpoint(), first.answer.headers.get(dpop::NONCE));
        if answer::error(&Reply::from(&first.answer)).as_deref() != Some(dpop::USE_NONCE) {
            return Ok(first);
        }
        let second = self.post_to(remote, shown, Some(self.proof_for(remote, key)?)).await?;
        key.heard(remote.endpoint(), second.answer.headers.get(dpop::NONCE));
        Ok(second)
    }

    fn proof_for(&self, remote: &Remote, key: &Key) -> Result<HeaderValue, Unanswered> {
        let proof = key.proof("POST", remote.endpoint(), self.clock.now());
        proof.ok_or_else(|| Unanswered::Unsent(Failure::transient(Reason::Key, "the key for proofs does not sign")))
    }
}
