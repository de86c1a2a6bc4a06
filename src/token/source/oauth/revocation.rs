//! Telling the issuer that a token is void (RFC 7009).

use http::Method;

use super::{OAuth, form_of};
use crate::fetch::Call;
use crate::secret::Secret;
use crate::token::source::answer::{self, Asked, Reply};
use crate::token::source::{Failure, Reason, nobody_to_tell};

impl OAuth {
    /// # Errors
    /// When the issuer has not confirmed it.
    pub(super) async fn tell_void(&self, value: &Secret) -> Result<(), Failure> {
        let remote = self.endpoints.revocation(&self.fetcher, &*self.clock).await?.ok_or_else(nobody_to_tell)?;
        let proof = self.proof().await?;
        let token = value.expose_to_issuer().map_err(|error| Failure::refused(Reason::Secret, error.to_string()))?;
        let mut fields = vec![("token", token), ("token_type_hint", "access_token")];
        fields.extend(self.own_name());
        fields.extend(proof.posted.iter().map(|(name, value)| (*name, value.as_str())));
        let call =
            Call { method: Method::POST, remote: &remote, headers: self.headers(&proof)?, body: form_of(&fields) };
        let asked_at = self.clock.now();
        let answer = self.fetcher.send(call).await?;
        let secrets: Vec<&str> = proof.forms.iter().map(|form| form.as_str()).chain([token]).collect();
        let asked = Asked { scopes: &[], at: asked_at, now: self.clock.now(), secrets: &secrets };
        answer::judge_revocation(&Reply::from(&answer), &asked)
    }
}
