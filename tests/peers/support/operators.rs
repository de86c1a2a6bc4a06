//! Who may take tokens away, and who may let them in again.

use aws_lc_rs::digest;

use super::proxy::Proxy;

const KEY: &str = "the-key-of-whoever-lets-in-again";

/// Our own user may take away (`guard`), and whoever has the key may let in (`approver`).
pub fn operators() -> String {
    let key = key_line(KEY);
    let own = rustix::process::getuid().as_raw();
    format!(
        "[[operator]]\nname = \"guard\"\nuid = {own}\nroles = [\"admin\"]\n\
         [[operator]]\nname = \"approver\"\n{key}\nroles = [\"approver\"]"
    )
}

/// How the config has an operator's key.
pub fn key_line(key: &str) -> String {
    let digest = digest::digest(&digest::SHA256, key.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("key = \"sha256:{hex}\"")
}

/// The words of a command with which the approver gives it.
pub fn as_approver(proxy: &Proxy) -> [String; 4] {
    let key = proxy.state().join("key-of-the-approver");
    std::fs::write(&key, KEY).expect("written");
    let key = key.to_str().expect("UTF-8");
    ["--operator-key", key, "--reason", "it was us"].map(str::to_owned)
}
