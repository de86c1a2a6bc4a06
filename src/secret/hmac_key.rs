//! A secret as the key of an HMAC.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::Secret;

/// How the key is written in the secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyForm {
    Text,
    Base64,
    Hex,
}

/// Why a secret is no key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAKey {
    #[error("the token is empty, and signs nothing")]
    Empty,
    #[error("the token is not the key in base64 that it should be")]
    Base64,
    #[error("the token is not the key in hex that it should be")]
    Hex,
}

impl Secret {
    /// The key for the library that signs with it, which wipes its copy.
    ///
    /// # Errors
    /// When it is not written so.
    pub fn hmac_key(&self, algorithm: hmac::Algorithm, form: KeyForm) -> Result<hmac::Key, NotAKey> {
        let key = match form {
            KeyForm::Text => Zeroizing::new(self.0.to_vec()),
            KeyForm::Base64 => Zeroizing::new(STANDARD.decode(&*self.0).map_err(|_| NotAKey::Base64)?),
            KeyForm::Hex => Zeroizing::new(of_hex(&self.0).ok_or(NotAKey::Hex)?),
        };
        if key.is_empty() { Err(NotAKey::Empty) } else { Ok(hmac::Key::new(algorithm, &key)) }
    }
}

fn of_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(16 * digit(*high)? + digit(*low)?),
        _ => None,
    });
    pairs.collect()
}
