//! Grants that an approver signs: reviewed once, deployed with the config, and good on every replica and after every restart.
//!
//! ```json
//! {"approver":"alice","grant":1,"request":"<digest>","signature":"<base64>","token":"github","until":"2027-01-01T00:00:00.000Z"}
//! ```
//!
//! What is signed (Ed25519) is one line each of: `countersign grant 1`, the request's digest, the token, the approver, and
//! until when.
//!
//! Invariant: a grant is good for the one request whose digest it names, under the key that the config gives its approver.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

use super::request::{Digest, rfc3339, since_epoch};
use crate::name::TokenName;
use crate::secret::Secret;

const FORM: u32 = 1;

/// The largest file of a grant, in bytes.
pub const MAX_BYTES: u64 = 4096;

/// A grant as its file holds it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedGrant {
    pub approver: String,
    grant: u32,
    pub request: Digest,
    signature: String,
    /// Which it is for, so that a reviewer sees it.
    pub token: TokenName,
    until: String,
}

/// Why a file grants nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    #[error("it is not a grant: {0}")]
    NotAGrant(String),
    #[error("it has form {0}, and this version reads form {FORM}")]
    Form(u32),
    #[error("{0} is not among `signers` of [approval]")]
    UnknownSigner(String),
    #[error("its signature is not {0}'s: it was edited, or made with another key")]
    Signature(String),
    #[error("it held until {0}")]
    Expired(String),
}

/// The key that a signer's grants are verified with, as the config has it: `ed25519:` and the base64 of 32 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicKey([u8; 32]);

/// A text is no public key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "a signer's key is \"ed25519:\" and the base64 of its 32 bytes, as `countersign requests signer KEYFILE` prints it"
)]
pub struct NotAKey;

/// The file holds no key that signs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no Ed25519 key in PEM: `openssl genpkey -algorithm ed25519 -out KEYFILE` makes one")]
pub struct NoSigner;

impl std::str::FromStr for PublicKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let bytes = STANDARD.decode(text.strip_prefix("ed25519:").ok_or(NotAKey)?).map_err(|_| NotAKey)?;
        Ok(Self(bytes.try_into().map_err(|_| NotAKey)?))
    }
}

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ed25519:{}", STANDARD.encode(self.0))
    }
}

/// A private key that signs grants.
pub struct Signer(Ed25519KeyPair);

impl Signer {
    /// From PEM, as `openssl genpkey -algorithm ed25519` writes it.
    ///
    /// # Errors
    /// When there is no such key.
    pub fn from_pem(pem: &Secret) -> Result<Self, NoSigner> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.expose_to_signer()).map_err(|_| NoSigner)?;
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_pkcs8_der()).map(Self).map_err(|_| NoSigner)
    }

    /// What the config's `signers` holds for it.
    pub fn public_key(&self) -> PublicKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(key)
    }

    pub fn grant(&self, request: Digest, token: &TokenName, approver: &str, until: Duration) -> SignedGrant {
        let mut grant = SignedGrant {
            approver: approver.to_owned(),
            grant: FORM,
            request,
            signature: String::new(),
            token: token.clone(),
            until: rfc3339(until),
        };
        grant.signature = STANDARD.encode(self.0.sign(grant.signed_text().as_bytes()));
        grant
    }
}

impl SignedGrant {
    /// Reads a file of a grant. It is not verified yet.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let grant: Self = serde_json::from_str(text).map_err(|error| Refused::NotAGrant(error.to_string()))?;
        if grant.grant == FORM { Ok(grant) } else { Err(Refused::Form(grant.grant)) }
    }

    /// Until when it holds, if its approver signed it.
    ///
    /// # Errors
    /// When it grants nothing.
    pub fn verify(&self, signers: &BTreeMap<String, PublicKey>, now: Duration) -> Result<Duration, Refused> {
        let key = signers.get(&self.approver).ok_or_else(|| Refused::UnknownSigner(self.approver.clone()))?;
        let wrong = || Refused::Signature(self.approver.clone());
        let signature = STANDARD.decode(&self.signature).map_err(|_| wrong())?;
        let key = UnparsedPublicKey::new(&ED25519, &key.0);
        key.verify(self.signed_text().as_bytes(), &signature).map_err(|_| wrong())?;
        let until = since_epoch(&self.until).ok_or_else(|| Refused::NotAGrant("`until` is no time".to_owned()))?;
        if until <= now { Err(Refused::Expired(self.until.clone())) } else { Ok(until) }
    }

    fn signed_text(&self) -> String {
        let Self { approver, grant, request, token, until, signature: _ } = self;
        format!("countersign grant {grant}\n{request}\n{token}\n{approver}\n{until}\n")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::request::tests::{edits, standing};
    use super::*;

    const NOW: Duration = Duration::from_secs(1_799_000_000);
    const LATER: Duration = Duration::from_secs(1_799_003_600);

    fn signer() -> Signer {
        let der = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).expect("a key");
        let pem =
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()));
        Signer::from_pem(&Secret::new(pem)).expect("a key")
    }

    fn granted(signer: &Signer) -> SignedGrant {
        signer.grant(standing().digest(), &standing().token, "alice", LATER)
    }

    fn signers(signer: &Signer) -> BTreeMap<String, PublicKey> {
        [("alice".to_owned(), signer.public_key())].into()
    }

    #[test]
    fn a_grant_holds_until_its_date_under_its_approvers_key() {
        let signer = signer();
        let text = serde_json::to_string(&granted(&signer)).expect("JSON");
        let grant = SignedGrant::parse(&text).expect("a grant");
        assert_eq!(grant.verify(&signers(&signer), NOW), Ok(LATER));
        assert_eq!(grant.verify(&signers(&signer), LATER), Err(Refused::Expired(rfc3339(LATER))));
        assert_eq!(grant.request, standing().digest());
        let key = signer.public_key();
        assert_eq!(key.to_string().parse(), Ok(key));
    }

    #[test]
    fn a_grant_that_is_edited_self_made_or_wrongly_signed_is_refused() {
        let signer = signer();
        let known = signers(&signer);
        let good = granted(&signer);
        let wrong = Err(Refused::Signature("alice".into()));
        for (what, edited) in edits() {
            let grant = SignedGrant { request: edited.digest(), ..good.clone() };
            assert_eq!(grant.verify(&known, NOW), wrong, "{what}");
        }
        let for_another = SignedGrant { token: "other".parse().expect("a name"), ..good.clone() };
        let for_longer = SignedGrant { until: rfc3339(LATER + LATER), ..good.clone() };
        let unsigned = SignedGrant { signature: String::new(), ..good.clone() };
        for grant in [for_another, for_longer, unsigned, granted(&self::signer())] {
            assert_eq!(grant.verify(&known, NOW), wrong);
        }
        let by_bob = signer.grant(standing().digest(), &standing().token, "bob", LATER);
        assert_eq!(by_bob.verify(&known, NOW), Err(Refused::UnknownSigner("bob".into())));
        let as_alice = SignedGrant { approver: "alice".into(), ..by_bob };
        assert_eq!(as_alice.verify(&known, NOW), wrong, "what bob signed is not hers");
    }

    #[test]
    fn what_is_no_grant_is_refused() {
        assert!(matches!(SignedGrant::parse("{}"), Err(Refused::NotAGrant(_))));
        let text = serde_json::to_string(&granted(&signer())).expect("JSON");
        let newer = text.replace("\"grant\":1", "\"grant\":2");
        assert_eq!(SignedGrant::parse(&newer), Err(Refused::Form(2)));
        let more = text.replace("\"grant\":1", "\"grant\":1,\"also\":2");
        assert!(matches!(SignedGrant::parse(&more), Err(Refused::NotAGrant(_))));
        for text in ["ed25519:", "ed25519:AAAA", "AAAA", "rsa:AAAA"] {
            assert_eq!(text.parse::<PublicKey>(), Err(NotAKey), "{text}");
        }
        assert!(Signer::from_pem(&Secret::new("no key")).is_err());
    }

    proptest! {
        #[test]
        fn no_byte_of_a_grant_can_be_changed(at in 0usize..400, flip in 1u8..255) {
            let signer = signer();
            let good = granted(&signer);
            let mut bytes = serde_json::to_vec(&good).expect("JSON");
            let at = at % bytes.len();
            bytes[at] ^= flip;
            let parsed = String::from_utf8(bytes).ok().and_then(|text| SignedGrant::parse(&text).ok());
            if let Some(grant) = parsed.filter(|grant| *grant != good) {
                // Base64 may be written in ways that mean the same bytes; what is granted is the same then.
                let same = SignedGrant { signature: good.signature.clone(), ..grant.clone() } == good;
                prop_assert!(same || grant.verify(&signers(&signer), NOW).is_err(), "{grant:?}");
            }
        }
    }
}
