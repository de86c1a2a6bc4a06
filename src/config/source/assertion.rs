//! `auth = "private_key_jwt"`: the key that signs the client's proof.

use jsonwebtoken::Algorithm;

use crate::config::Context;
use crate::config::reader::Section;
use crate::token::source::oauth::assertion::Settings;

const ALGORITHMS: [(&str, Algorithm); 4] = [
    ("ES256", Algorithm::ES256),
    ("EdDSA", Algorithm::EdDSA),
    ("RS256", Algorithm::RS256),
    ("PS256", Algorithm::PS256),
];

const KEYS: [&str; 4] = ["key", "algorithm", "key_id", "assertion_audience"];

/// `wanted`: whether the client proves itself so, and to whom where nothing else is said. Its keys have no effect otherwise, and are refused.
pub fn read(
    section: &mut Section<'_>,
    wanted: bool,
    accepts: Option<String>,
    context: &Context<'_>,
) -> Option<Settings> {
    let key = section.reference("key", context.base);
    let algorithm = section.choice("algorithm", &ALGORITHMS, &[]);
    let key_id = section.text("key_id");
    let audience = section.text("assertion_audience");
    if !wanted {
        for name in KEYS.into_iter().filter(|name| section.has(name)) {
            let message = format!("`{name}` is for `auth = \"private_key_jwt\"`");
            section.refuse(name, message, "write that `auth`, or remove it");
        }
        return None;
    }
    section.require(
        "key",
        "`source` does not say where its private key is",
        "key = \"file:/etc/countersign/client.pem\"",
    );
    section.require("algorithm", "`source` does not say how to sign", "algorithm = \"ES256\"");
    let audience = audience.or(accepts);
    Some(Settings { key: key?, algorithm: algorithm?, key_id, certificate: None, audience: audience? })
}
