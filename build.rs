//! Tells the linker which functions to lay side by side: those that run when a proxy starts and serves. The others, which are
//! most of the program, then need not be resident. `make order` makes the list anew.

use std::env;
use std::path::Path;

const LIST: &str = "link/order.txt";

fn main() {
    println!("cargo::rerun-if-changed={LIST}");
    println!("cargo::rerun-if-env-changed=CARGO_ENCODED_RUSTFLAGS");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    // Rust links with LLD for this target, and only LLD knows such a list. Whoever chooses another linker does without.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let by_lld = is("TARGET", "x86_64-unknown-linux-gnu") && !flags.contains("link");
    if by_lld && is("PROFILE", "release") {
        let list = Path::new(env!("CARGO_MANIFEST_DIR")).join(LIST);
        println!("cargo::rustc-link-arg-bins=-Wl,--symbol-ordering-file={}", list.display());
        // A list grows old: what it names and is not there any more is nobody's error.
        println!("cargo::rustc-link-arg-bins=-Wl,--no-warn-symbol-ordering");
    }
}
