//! Who calls: the operator that a connection and a request prove together.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use rustls_pki_types::CertificateDer;

use super::answer::Refusal;
use super::{Admin, Source};
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
    pub fn authenticate(&self, headers: &HeaderMap, admin: &Admin) -> Result<Operator, Refusal> {
        admin.rates.may_try(&self.source).map_err(Refusal::TooManyFailures)?;
        let operator = self.operator(headers, admin);
        if operator.is_none() {
            admin.rates.failed(&self.source);
        }
        operator.ok_or(Refusal::Unauthenticated)
    }

    fn operator(&self, headers: &HeaderMap, admin: &Admin) -> Option<Operator> {
        let key = key(headers)?;
        let proof = Proof { peer: self.peer, key, certificate: self.certificate.as_ref() };
        admin.house.operators().identify(&proof)
    }
}

/// The digest of the bearer key that was sent, if one was; `None` when something else was.
fn key(headers: &HeaderMap) -> Option<Option<KeyDigest>> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Some(None) };
    let (scheme, key) = value.as_bytes().split_at_checked("Bearer ".len())?;
    let sound = scheme.eq_ignore_ascii_case(b"Bearer ") && !key.is_empty() && values.next().is_none();
    sound.then(|| Some(KeyDigest::of(key)))
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
            key(&headers)
        };
        assert_eq!(sent(&[]), Some(None));
        assert_eq!(sent(&["Bearer k"]), Some(Some(KeyDigest::of(b"k"))));
        assert_eq!(sent(&["bearer k"]), Some(Some(KeyDigest::of(b"k"))));
        for bad in [&["Basic k"][..], &["Bearer"], &["Bearer "], &["k"], &[""], &["Bearer k", "Bearer k"]] {
            assert_eq!(sent(bad), None, "{bad:?}");
        }
    }
}
