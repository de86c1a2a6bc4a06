//! Private keys that sign: obtained anew for each use, and named by their thumbprint if by nothing else.

use aws_lc_rs::rand;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, OctetKeyPairParameters, OctetKeyPairType, PublicKeyUse,
    ThumbprintHash,
};
use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, Header};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{Failure, Reason};
use crate::secret::{Reference, ResolveError, Secret};

/// The key as it is now, and its public half, which carries its name: `key_id`, or its RFC 7638 thumbprint. Waits for nobody:
/// a key that a program prints is not read so.
pub fn read(key: &Reference, algorithm: Algorithm, key_id: Option<&str>) -> Result<(EncodingKey, Jwk), Failure> {
    named(signer(key, key.resolve(), algorithm)?, key, algorithm, key_id)
}

fn named(
    signer: EncodingKey,
    key: &Reference,
    algorithm: Algorithm,
    key_id: Option<&str>,
) -> Result<(EncodingKey, Jwk), Failure> {
    let unfit = || unfit(key, algorithm);
    let mut jwk = public_half(&signer, algorithm).ok_or_else(unfit)?;
    jwk.common.key_id = match key_id {
        Some(id) => Some(id.to_owned()),
        None => Some(jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| unfit())?),
    };
    jwk.common.public_key_use = Some(PublicKeyUse::Signature);
    Ok((signer, jwk))
}

/// A JWT with these claims, signed by the key as it is now, and that key's public half.
pub async fn sign(
    key: &Reference,
    algorithm: Algorithm,
    key_id: Option<&str>,
    claims: &impl Serialize,
) -> Result<(Zeroizing<String>, Jwk), Failure> {
    let signer = signer(key, key.obtain_document().await, algorithm)?;
    let (signer, jwk) = named(signer, key, algorithm, key_id)?;
    let mut header = Header::new(algorithm);
    header.kid.clone_from(&jwk.common.key_id);
    let signed = jsonwebtoken::encode(&header, claims, &signer).map_err(|_| unfit(key, algorithm))?;
    Ok((Zeroizing::new(signed), jwk))
}

/// A JWT whose header says what names the key, signed by the key as it is now.
pub async fn sign_under(
    header: Header,
    key: &Reference,
    claims: &impl Serialize,
) -> Result<Zeroizing<String>, Failure> {
    let signer = signer(key, key.obtain_document().await, header.alg)?;
    let signed = jsonwebtoken::encode(&header, claims, &signer).map_err(|_| unfit(key, header.alg))?;
    Ok(Zeroizing::new(signed))
}

/// As [`sign_under`], with a key that was read already; `None`: it cannot sign so.
pub fn sign_with(header: &Header, pem: &[u8], claims: &impl Serialize) -> Option<Zeroizing<String>> {
    let signer = signer_of(pem, header.alg)?;
    jsonwebtoken::encode(header, claims, &signer).map(Zeroizing::new).ok()
}

fn signer(key: &Reference, pem: Result<Secret, ResolveError>, algorithm: Algorithm) -> Result<EncodingKey, Failure> {
    let pem = pem.map_err(|error| Failure::transient(Reason::Key, error.to_string()))?;
    signer_of(pem.expose_to_signer(), algorithm).ok_or_else(|| unfit(key, algorithm))
}

fn signer_of(pem: &[u8], algorithm: Algorithm) -> Option<EncodingKey> {
    match algorithm.family() {
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(pem).ok(),
        AlgorithmFamily::Ec => EncodingKey::from_ec_pem(pem).ok(),
        AlgorithmFamily::Ed => EncodingKey::from_ed_pem(pem).ok(),
        AlgorithmFamily::Hmac => None,
    }
}

/// A `jti` that no other JWT has.
pub fn unique_id() -> Result<String, Failure> {
    let mut id = [0; 16];
    rand::fill(&mut id).map_err(|_| Failure::transient(Reason::Key, "the operating system has no randomness"))?;
    Ok(URL_SAFE_NO_PAD.encode(id))
}

/// The key cannot sign so.
fn unfit(key: &Reference, algorithm: Algorithm) -> Failure {
    let detail = format!(
        "{key} holds no private key for {algorithm:?}: PEM is needed, in PKCS#8 form (\"BEGIN PRIVATE KEY\"), as \
         `openssl pkcs8 -topk8 -nocrypt` writes it"
    );
    Failure::transient(Reason::Key, detail)
}

/// The library reads the public half of most keys; of an Ed25519 key only if it stands alone in its file, without its
/// public half (PKCS#8 version 2, RFC 5958).
fn public_half(key: &EncodingKey, algorithm: Algorithm) -> Option<Jwk> {
    if key.family() != AlgorithmFamily::Ed {
        return Jwk::from_encoding_key(key, algorithm).ok();
    }
    let pair = Ed25519KeyPair::from_pkcs8(key.as_bytes()).ok()?;
    let parameters = OctetKeyPairParameters {
        key_type: OctetKeyPairType::OctetKeyPair,
        curve: EllipticCurve::Ed25519,
        x: URL_SAFE_NO_PAD.encode(pair.public_key().as_ref()),
    };
    let common = CommonParameters { key_algorithm: Some(algorithm.into()), ..CommonParameters::default() };
    Some(Jwk { common, algorithm: AlgorithmParameters::OctetKeyPair(parameters) })
}
