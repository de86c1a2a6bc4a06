//! Who calls: the operator that a connection and a request prove together, or a job by the token of its CI.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use rustls_pki_types::CertificateDer;

use super::answer::Refusal;
use super::{Admin, Bearer, Source};
use crate::identity::Peer;
use crate::operator::{KeyDigest, Operator, Proof};

/// What a connection tells of whoever opened it.
pub struct Caller {
    /// Of a unix socket only: over TCP any page in a browser of the right user could call.
    pub peer: Peer,
    /// That TLS has verified.
    pub certificate: Option<CertificateDer<'static>>,
    pub source: Source,
}

impl Caller {
    /// # Errors
    /// When it proves none, or too much was tried from there of late.
    pub async fn authenticate(&self, headers: &HeaderMap, admin: &Admin) -> Result<Operator, Refusal> {
        admin.rates.may_try(&self.source).map_err(Refusal::TooManyFailures)?;
        let operator = self.operator(headers, admin).await;
        if operator.is_none() {
            admin.rates.failed(&self.source);
        }
        operator.ok_or(Refusal::Unauthenticated)
    }

    async fn operator(&self, headers: &HeaderMap, admin: &Admin) -> Option<Operator> {
        let bearer = bearer(headers)?;
        if let Some(token) = bearer {
            match admin.house.job(token, &self.peer).await {
                Bearer::Job(operator) => return Some(operator),
                Bearer::Nobody => return None,
                Bearer::OfAKey => {}
            }
        }
        let key = bearer.map(KeyDigest::of);
        let proof = Proof { peer: self.peer.clone(), key, certificate: self.certificate.as_ref() };
        admin.house.operators().identify(&proof)
    }
}

/// What a bearer has sent, if one has; `None` when something else was sent.
fn bearer(headers: &HeaderMap) -> Option<Option<&[u8]>> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Some(None) };
    let (scheme, key) = value.as_bytes().split_at_checked("Bearer ".len())?;
    let sound = scheme.eq_ignore_ascii_case(b"Bearer ") && !key.is_empty() && values.next().is_none();
    sound.then_some(Some(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_key_is_sent_as_a_bearer_and_once() {
        let sent = |values: &[&'static str]| {
            let values = values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_static(value)));
            let mut headers = HeaderMap::new();
            values.for_each(|(name, value)| {
                headers.append(name, value);
            });
            bearer(&headers).map(|sent| sent.map(<[u8]>::to_vec))
        };
        assert_eq!(sent(&[]), Some(None));
        assert_eq!(sent(&["Bearer k"]), Some(Some(b"k".to_vec())));
        assert_eq!(sent(&["bearer k"]), Some(Some(b"k".to_vec())));
        for bad in [&["Basic k"][..], &["Bearer"], &["Bearer "], &["k"], &[""], &["Bearer k", "Bearer k"]] {
            assert_eq!(sent(bad), None, "{bad:?}");
        }
    }
}
