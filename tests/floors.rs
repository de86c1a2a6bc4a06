//! The house has floors: a module imports only what stands below it, and a few things are said in few places.
//!
//! ```text
//! src/**/*.rs ── without tests, comments, strings ──> tokens ──> rules ──> "src/secret.rs:12: ..."
//! ```
//!
//! Who adds a module adds it to [`FLOORS`], at the lowest place from which it sees what it needs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The modules at the crate's top, bottom first. A module may import those before it, and itself.
const FLOORS: &[&str] = &[
    // Primitives, which know nothing of tokens.
    "program",
    "secret",
    "clock",
    "name",
    "backoff",
    "tasks",
    "barrier",
    "room",
    "signals",
    "metrics",
    "telemetry",
    "text",
    "path",
    "authority",
    "hmac",
    "sigv4",
    "dpop",
    // Tools.
    "state",
    "seal",
    "store",
    "readiness",
    "systemd",
    "watched",
    "tls",
    "dial",
    "announced",
    "fetch",
    "discovery",
    "vault",
    "interception",
    // Records, and who.
    "audit",
    "usage",
    "identity",
    "operator",
    "alert",
    // Entitlement.
    "access",
    // Tokens and rules.
    "token",
    "policy",
    // Decisions.
    "route",
    "detect",
    "review",
    // Faces.
    "proxy",
    "scrape",
    "admin",
    // From text to settings.
    "config",
    // The whole, and the way in.
    "app",
    "demo",
    "cli",
    "main",
];

/// The functions that let a secret's plain text out of `secret.rs`, and the files that may call them.
const OUTLETS: &[(&str, &[&str])] = &[
    // The form or the Basic credential that an issuer asks for, or a proxy on the way; what is sealed until an issuer has
    // confirmed that it is void, or for a restart to go on with.
    (
        "expose_to_issuer",
        &[
            "src/token/source/oauth.rs",
            "src/token/source/oauth/revocation.rs",
            "src/token/source/github_app.rs",
            "src/token/source/kubernetes.rs",
            "src/token/source/key_endpoint.rs",
            "src/token/source/aws/sts.rs",
            "src/token/revocation.rs",
            "src/token/rest.rs",
            "src/dial/tunnel.rs",
            "src/vault/login.rs",
            "src/token/source/vault/dynamic.rs",
        ],
    ),
    // The private key that signs our own tokens or an approver's grants, or proves us to a peer under TLS; what signs what
    // webhooks are told.
    (
        "expose_to_signer",
        &[
            "src/token/source/private_key.rs",
            "src/token/source/oauth/service_account.rs",
            "src/token/source/oauth/bound.rs",
            "src/tls.rs",
            "src/tls/identity.rs",
            "src/access/grants.rs",
            "src/alert/webhook.rs",
        ],
    ),
    // The header that carries a generation to its upstream, a Basic credential to its issuer or to a proxy on the way, a login
    // to its vault, or an operator's key to the running proxy.
    (
        "header_value",
        &[
            "src/token/source.rs",
            "src/token/source/oauth.rs",
            "src/token/source/github_app.rs",
            "src/token/source/kubernetes.rs",
            "src/token/source/aws/machine.rs",
            "src/token/placement.rs",
            "src/dpop.rs",
            "src/dial/tunnel.rs",
            "src/vault.rs",
            "src/cli/admin.rs",
        ],
    ),
    // The other forms in which a generation is carried to its upstream.
    ("basic_value", &["src/token/placement.rs"]),
    ("query_pair", &["src/token/placement.rs"]),
    ("cookie_pair", &["src/token/placement.rs"]),
    // What recognises a generation in an answer; it never tells the text.
    ("make_needles", &["src/token/supervisor.rs"]),
    // The keys that sign requests to AWS, for the library that signs.
    ("aws_credentials", &["src/sigv4.rs"]),
    // The key of an HMAC, for the library that signs with it.
    ("hmac_key", &["src/hmac.rs"]),
    // What a generation says of its own life.
    ("jwt_claims", &["src/token/source/lifetime.rs"]),
];

/// Where errors meet a human and nobody matches on them any more.
const MAY_USE_ANYHOW: &[&str] = &["app", "demo", "cli", "main"];

/// Stand last, in this order, as far as they exist: nothing imports them.
const TOP: &[&str] = &["app", "demo", "cli", "main"];

/// Lines of code a file may have; tests, comments and blank lines are free.
const MAX_LINES: usize = 500;

#[test]
fn every_module_stands_on_the_list_once() {
    let mut found: Vec<&str> = files().iter().map(|file| file.module.as_str()).filter(|name| *name != "lib").collect();
    found.sort_unstable();
    found.dedup();
    for name in &found {
        let times = FLOORS.iter().filter(|floor| floor == &name).count();
        assert_eq!(times, 1, "src/{name}.rs stands {times} times on FLOORS in tests/floors.rs: once is right");
    }
    for name in FLOORS {
        assert!(found.contains(name), "FLOORS in tests/floors.rs names {name}, and there is no src/{name}.rs");
    }
}

#[test]
fn main_app_and_cli_stand_last() {
    let top: Vec<&str> = TOP.iter().copied().filter(|name| FLOORS.contains(name)).collect();
    assert!(FLOORS.ends_with(&top), "FLOORS ends with {top:?}");
}

#[test]
fn a_module_imports_only_what_stands_below_it() {
    none(|file| imports(file, FLOORS));
}

#[test]
fn plain_text_leaves_secrets_only_towards_named_callers() {
    none(outlets);
}

#[test]
fn anyhow_stays_where_errors_meet_a_human() {
    none(anyhow);
}

#[test]
fn nothing_is_unsafe() {
    none(unsafety);
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    none(length);
}

/// Asserts that no file breaks a rule, and shows every place that does.
fn none(rule: impl Fn(&File) -> Vec<Violation>) {
    let found: Vec<String> = files().iter().flat_map(rule).map(|violation| violation.to_string()).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

// The rules.

fn imports(file: &File, floors: &[&str]) -> Vec<Violation> {
    // The table of contents names everything.
    if file.module == "lib" {
        return Vec::new();
    }
    let Some(own) = floors.iter().position(|floor| *floor == file.module) else {
        return vec![file.violation(1, format!("the module {} does not stand on the list of floors", file.module))];
    };
    file.imported()
        .into_iter()
        .filter_map(|(name, line)| match floors.iter().position(|floor| *floor == name) {
            // A constant of the crate itself, such as its revision.
            None if name.chars().all(|char| char.is_ascii_uppercase() || char == '_') => None,
            None => Some(file.violation(
                line,
                format!("crate::{name} is no module on the list of floors: import a thing from the module it is in"),
            )),
            Some(theirs) if theirs > own => Some(file.violation(
                line,
                format!(
                    "{} imports crate::{name}, which stands above it: a module imports only from below",
                    file.module
                ),
            )),
            Some(_) => None,
        })
        .collect()
}

fn outlets(file: &File) -> Vec<Violation> {
    if file.path == Path::new("src/secret.rs") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (before, token) in file.tokens.iter().zip(file.tokens.iter().skip(1)) {
        let called = before.text == "." || before.text == "::";
        for (outlet, callers) in OUTLETS {
            let allowed = callers.iter().any(|caller| file.path == Path::new(caller));
            if called && token.text == *outlet && !allowed {
                found.push(file.violation(
                    token.line,
                    format!("{outlet} lets a secret's plain text out, and only {} may call it", callers.join(", ")),
                ));
            }
        }
    }
    found
}

fn anyhow(file: &File) -> Vec<Violation> {
    if MAY_USE_ANYHOW.contains(&file.module.as_str()) {
        return Vec::new();
    }
    file.every("anyhow", &format!("anyhow is for {}: here, an error is an enum", MAY_USE_ANYHOW.join(", ")))
}

fn unsafety(file: &File) -> Vec<Violation> {
    file.every("unsafe", "nothing is unsafe: where the kernel must be asked, a crate does it")
}

fn length(file: &File) -> Vec<Violation> {
    if file.lines <= MAX_LINES {
        return Vec::new();
    }
    vec![file.violation(1, format!("{} lines of code; {MAX_LINES} are the most a file may have", file.lines))]
}

/// A place that breaks a rule.
struct Violation {
    path: PathBuf,
    line: usize,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.rule)
    }
}

// Reading.

/// A file of the crate, without its tests, comments and the insides of its strings.
struct File {
    /// From the package's folder.
    path: PathBuf,
    /// The module at the crate's top that it belongs to.
    module: String,
    /// How many `super` lead from its own module to the crate's top.
    depth: usize,
    tokens: Vec<Token>,
    /// How many lines have code on them.
    lines: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
}

impl File {
    fn new(path: PathBuf, source: &str) -> Self {
        let code = without_tests(&without_text(source));
        let below_src = path.strip_prefix("src").expect("a file under src").with_extension("");
        let parts: Vec<String> = below_src.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
        Self { module: parts[0].clone(), depth: parts.len(), tokens: tokens(&code), lines, path }
    }

    fn violation(&self, line: usize, rule: String) -> Violation {
        Violation { path: self.path.clone(), line, rule }
    }

    fn every(&self, word: &str, rule: &str) -> Vec<Violation> {
        let found = self.tokens.iter().filter(|token| token.text == word);
        found.map(|token| self.violation(token.line, rule.to_owned())).collect()
    }

    /// What stands directly after `crate::`, also in braces, and after as many `super::` as lead to the crate's top.
    fn imported(&self) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        let text = |at: usize| self.tokens.get(at).map_or("", |token| token.text.as_str());
        for at in 0..self.tokens.len() {
            let after_root = match text(at) {
                "crate" if text(at + 1) == "::" => Some(at + 2),
                "super" if at == 0 || text(at - 1) != "::" => {
                    let supers =
                        (0..).take_while(|n| text(at + 2 * n) == "super" && text(at + 2 * n + 1) == "::").count();
                    (supers >= self.depth && supers > 0).then_some(at + 2 * supers)
                }
                _ => None,
            };
            if let Some(first) = after_root {
                found.extend(self.first_segments(first));
            }
        }
        found
    }

    /// `a` of `a::b`; `a` and `d` of `{a::{b, c}, d}`.
    fn first_segments(&self, at: usize) -> Vec<(String, usize)> {
        let named = |token: &Token| (token.text.clone(), token.line);
        let Some(first) = self.tokens.get(at) else { return Vec::new() };
        if first.text != "{" {
            return vec![named(first)];
        }
        let mut found = Vec::new();
        let (mut depth, mut expected) = (0, false);
        for token in &self.tokens[at..] {
            match token.text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                "," => {}
                "self" => {}
                _ if depth == 1 && expected => found.push(named(token)),
                _ => {}
            }
            if depth == 0 {
                break;
            }
            expected = depth == 1 && (token.text == "," || token.text == "{");
        }
        found
    }
}

/// The files of the crate, but those that are tests as a whole.
fn files() -> &'static [File] {
    static FILES: LazyLock<Vec<File>> = LazyLock::new(read_files);
    &FILES
}

fn read_files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    collect(&root.join("src"), &mut paths);
    paths.sort();
    let sources: Vec<(PathBuf, String)> = paths
        .into_iter()
        .map(|path| {
            let source = std::fs::read_to_string(&path).expect("a source file is UTF-8");
            (path.strip_prefix(root).expect("a file of the package").to_owned(), source)
        })
        .collect();
    let tests: Vec<PathBuf> = sources.iter().flat_map(|(path, source)| test_modules(path, source)).collect();
    let product =
        sources.iter().filter(|(path, _)| !tests.iter().any(|test| path.with_extension("").starts_with(test)));
    product.map(|(path, source)| File::new(path.clone(), source)).collect()
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The modules that `path` declares under `#[cfg(test)]` and that live in files of their own, without extension.
fn test_modules(path: &Path, source: &str) -> Vec<PathBuf> {
    let tokens = tokens(&without_text(source));
    let folder = match path.file_stem().and_then(|stem| stem.to_str()) {
        Some("lib" | "main") | None => path.parent().expect("a file in a folder").to_owned(),
        Some(_) => path.with_extension(""),
    };
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    (0..tokens.len())
        .filter(|at| CFG_TEST.iter().enumerate().all(|(n, word)| text(at + n) == *word))
        .filter_map(|at| {
            let rest = at + CFG_TEST.len();
            let module =
                (rest..rest + 6).take_while(|at| !["{", ";"].contains(&text(*at))).find(|at| text(*at) == "mod")?;
            (text(module + 2) == ";").then(|| folder.join(text(module + 1)))
        })
        .collect()
}

const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

/// Blanks comments out, and puts quotation marks in place of what strings and characters hold. Lines stay where they are.
fn without_text(source: &str) -> String {
    let mut rest = source;
    let mut code = String::with_capacity(source.len());
    let mut word = false;
    while let Some(first) = rest.chars().next() {
        let (length, filler) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), ' ')
        } else if rest.starts_with("/*") {
            (block_comment(rest), ' ')
        } else if let Some(length) = string(rest).filter(|_| !word) {
            (length, '"')
        } else {
            code.push(first);
            word = first.is_alphanumeric() || first == '_';
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.extend(rest[..length].chars().map(|char| if char == '\n' { '\n' } else { filler }));
        word = false;
        rest = &rest[length..];
    }
    code
}

/// The length of the comment that `text` starts with; comments nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of the string or character that `text` starts with, prefix and quotes included.
fn string(text: &str) -> Option<usize> {
    if !text.starts_with(['"', '\'', 'b', 'c', 'r']) {
        return None;
    }
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        let after = text.strip_prefix(prefix).unwrap_or_default();
        after.starts_with('"')
            || (prefix.ends_with('r') && after.trim_start_matches('#').starts_with('"'))
            || (["b", ""].contains(prefix) && after.starts_with('\''))
    })?;
    let after = &text[prefix.len()..];
    let length = if prefix.ends_with('r') {
        let hashes = after.len() - after.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let inside = &after[hashes + 1..];
        hashes + 1 + inside.find(&end).map_or(inside.len(), |at| at + end.len())
    } else if after.starts_with('"') {
        quoted(after, '"')
    } else if character(after) {
        quoted(after, '\'')
    } else {
        // A lifetime.
        return None;
    };
    Some(prefix.len() + length)
}

/// Whether a text that starts with `'` is a character and no lifetime.
fn character(text: &str) -> bool {
    let mut inside = text.chars().skip(1);
    match inside.next() {
        Some('\\') => true,
        Some(_) => inside.next() == Some('\''),
        None => false,
    }
}

/// The length of what `text` starts with, up to the quote that ends it.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, char) in text.char_indices().skip(1) {
        if !escaped && char == quote {
            return at + quote.len_utf8();
        }
        escaped = !escaped && char == '\\';
    }
    text.len()
}

/// Blanks every item under `#[cfg(test)]` out. `code` holds no comments and no strings any more.
fn without_tests(code: &str) -> String {
    let mut kept = code.to_owned();
    while let Some(start) = kept.find("#[cfg(test)]") {
        let end = start + item(&kept[start..]);
        let blank: String = kept[start..end].chars().map(|char| if char == '\n' { '\n' } else { ' ' }).collect();
        kept.replace_range(start..end, &blank);
    }
    kept
}

/// The length of the item that `text` starts with, attributes included: to its semicolon, or to the end of its braces.
/// A field, a variant or an argument ends with its comma.
fn item(text: &str) -> usize {
    let part = !begins_an_item(text);
    let (mut braces, mut others) = (0_usize, 0_usize);
    for (at, char) in text.char_indices() {
        match char {
            '(' | '[' => others += 1,
            ')' | ']' => others = others.saturating_sub(1),
            '{' => braces += 1,
            // The end of what a part without a comma stands in.
            '}' if braces == 0 => return at,
            '}' => braces -= 1,
            _ => {}
        }
        let ended = char == ';' || char == '}' || (char == ',' && part);
        if ended && braces == 0 && others == 0 {
            return at + 1;
        }
    }
    text.len()
}

/// Whether a keyword that begins an item, or a statement, stands after the attributes that `text` starts with.
fn begins_an_item(text: &str) -> bool {
    let start = &text[..text.find(['{', ';']).unwrap_or(text.len())];
    let mut brackets = 0_usize;
    for token in &tokens(start) {
        match token.text.as_str() {
            "[" | "(" => brackets += 1,
            "]" | ")" => brackets = brackets.saturating_sub(1),
            "#" | "pub" => {}
            word if brackets == 0 => return BEGINS_AN_ITEM.contains(&word),
            _ => {}
        }
    }
    false
}

const BEGINS_AN_ITEM: [&str; 14] = [
    "async",
    "const",
    "enum",
    "extern",
    "fn",
    "impl",
    "let",
    "macro_rules",
    "mod",
    "static",
    "struct",
    "trait",
    "type",
    "use",
];

/// Words, `::`, and single signs.
fn tokens(code: &str) -> Vec<Token> {
    let mut found: Vec<Token> = Vec::new();
    for (number, text) in code.lines().enumerate() {
        let line = number + 1;
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let wordly = |char: char| char.is_alphanumeric() || char == '_';
            let length = if wordly(first) {
                rest.find(|char| !wordly(char)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            found.push(Token { text: rest[..length].to_owned(), line });
            rest = rest[length..].trim_start();
        }
    }
    found
}

// The rules' own tests.

const HOUSE: &[&str] = &["low", "middle", "high"];

fn told(path: &str, source: &str, rule: impl Fn(&File) -> Vec<Violation>) -> Vec<String> {
    rule(&File::new(path.into(), source)).iter().map(ToString::to_string).collect()
}

fn imports_of(path: &str, source: &str) -> Vec<String> {
    told(path, source, |file| imports(file, HOUSE))
}

#[test]
fn an_import_from_above_is_found_in_every_spelling() {
    for (path, source) in [
        ("src/low.rs", "\nuse crate::middle::Thing;"),
        ("src/low.rs", "\nfn f() -> crate::middle::Thing {}"),
        ("src/low.rs", "use crate::{\nmiddle::{a, b}, low};"),
        ("src/low.rs", "use crate::{low::{a, b},\nmiddle};"),
        ("src/low/deep/deeper.rs", "\nuse crate::middle;"),
        ("src/low.rs", "\nuse super::middle;"),
        ("src/low/deep.rs", "\nuse super::super::middle::Thing;"),
        ("src/low.rs", "#[cfg(test)]\nuse a; use crate::middle;"),
        ("src/low.rs", "struct A { #[cfg(test)] b: C, d: E }\nuse crate::middle;"),
        ("src/low.rs", "#[cfg(test)] fn f<A, B>() {}\nuse crate::middle;"),
        ("src/low.rs", "const A: char = '\"';\nuse crate::middle; const B: char = '\"';"),
    ] {
        let found = imports_of(path, source);
        assert_eq!(found.len(), 1, "{source}: {found:?}");
        assert!(found[0].starts_with(&format!("{path}:2: low imports crate::middle")), "{found:?}");
    }
}

#[test]
fn what_stands_below_or_only_looks_like_an_import_is_none() {
    for (path, source) in [
        ("src/middle.rs", "use crate::low::Thing; use crate::middle::inner;"),
        ("src/middle/deep.rs", "use super::high; use crate::low;"),
        ("src/middle.rs", "// use crate::high;\n/* /* nested */ use crate::high; */"),
        ("src/middle.rs", "const A: &str = \"use crate::high; \\\" crate::high\";"),
        ("src/middle.rs", "const A: &str = r#\"crate::high \" crate::high\"#; const B: &[u8] = br\"crate::high\";"),
        ("src/middle.rs", "#[cfg(test)]\nmod tests {\n use crate::high; fn f() { if true {} }\n}\nuse crate::low;"),
        ("src/middle.rs", "#[cfg(test)]\n#[allow(x)]\nuse crate::{high, low};"),
        ("src/middle.rs", "#[cfg(test)]\npub(crate) fn f<A, B>() { crate::high::f::<A, B>() }\nuse crate::low;"),
        ("src/middle.rs", "struct A {\n a: B,\n #[cfg(test)]\n pub c: crate::high::D,\n}\nuse crate::low;"),
        ("src/middle.rs", "pub(crate) fn f<'a>(x: &'a str) -> char { '\\'' }"),
        ("src/lib.rs", "pub use crate::high::Thing;"),
        ("src/low.rs", "const A: &str = crate::REVISION;"),
    ] {
        let found = imports_of(path, source);
        assert!(found.is_empty(), "{source}: {found:?}");
    }
}

#[test]
fn an_import_from_nowhere_and_a_module_without_a_floor_are_found() {
    let found = imports_of("src/low.rs", "use crate::Thing;");
    assert!(found[0].starts_with("src/low.rs:1: crate::Thing is no module"), "{found:?}");
    let found = imports_of("src/cellar.rs", "");
    assert!(found[0].contains("cellar does not stand on the list"), "{found:?}");
}

#[test]
fn a_caller_that_lets_plain_text_out_is_found() {
    let source = "fn f(secret: &Secret) {\n    secret.expose_to_issuer();\n    Secret::jwt_claims(secret);\n}";
    let found = told("src/proxy/inject.rs", source, outlets);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("src/proxy/inject.rs:2: expose_to_issuer lets"), "{found:?}");
    let caller = OUTLETS[0].1[0];
    assert_eq!(told(caller, source, outlets).len(), 1, "jwt_claims alone");
    assert!(told("src/proxy.rs", "fn header_value() {} let header_value = 1;", outlets).is_empty());
}

#[test]
fn anyhow_and_unsafe_are_found_as_words() {
    assert_eq!(told("src/proxy.rs", "use anyhow::Context;", anyhow).len(), 1);
    assert!(told("src/cli.rs", "use anyhow::Context;", anyhow).is_empty());
    assert!(told("src/proxy.rs", "// anyhow\n", anyhow).is_empty());
    assert_eq!(told("src/proxy.rs", "fn f() { unsafe { g() } }", unsafety).len(), 1);
    assert!(told("src/lib.rs", "#![forbid(unsafe_code)]", unsafety).is_empty());
}

#[test]
fn only_code_counts_towards_a_files_length() {
    let code = "let x = 1;\n".repeat(MAX_LINES);
    let free = "// a comment\n\n/* and\nmore */\n#[cfg(test)]\nmod tests {\n    fn f() {}\n}\n";
    assert!(told("src/proxy.rs", &format!("{free}{code}"), length).is_empty());
    assert_eq!(told("src/proxy.rs", &format!("{code}let y = 2;\n"), length).len(), 1);
    let text = format!("const A: &str = \"\n{}\";\n", "line\n".repeat(MAX_LINES));
    assert_eq!(told("src/proxy.rs", &text, length).len(), 1, "a long string is long to read");
}

#[test]
fn a_test_module_in_a_file_of_its_own_is_left_out() {
    let source =
        "mod a;\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\npub(crate) mod support;\n#[cfg(test)]\nmod inline {}\n";
    let found = test_modules(Path::new("src/proxy.rs"), source);
    assert_eq!(found, [Path::new("src/proxy/tests"), Path::new("src/proxy/support")]);
    assert_eq!(test_modules(Path::new("src/lib.rs"), "#[cfg(test)]\nmod aid;"), [Path::new("src/aid")]);
}
