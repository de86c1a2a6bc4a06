//! Secrets: values that are wiped when dropped and that meet no log, metric, record or error.
//!
//! A [`Secret`] has no `Debug`, `Display` or `Serialize`. Its plain text leaves this file through the named
//! functions below and nowhere else; `tests/floors.rs` lists who may call them.
//!
//! Copies that other libraries make (in hyper's and rustls's write buffers) are not wiped: they live as long as the
//! connection's buffers do.

mod aws;
mod deposited;
mod hmac_key;
mod needles;
mod printed;

use std::fmt;
use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aws_lc_rs::{constant_time, digest, hkdf, hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rustix::fs::OFlags;
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

pub use aws::NotAws;
pub use deposited::{Deposited, Deposits, Opening, vault_path};
pub use hmac_key::{KeyForm, NotAKey};
pub use needles::Needles;

use crate::program::{Program, ProgramError};

/// The largest secret that is read from a file or a variable, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// Bytes that nobody may see but the party they are for.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The text for the eyes of an issuer, or of a proxy on the way: a form field, a Basic credential, a key to sign with.
    ///
    /// # Errors
    /// When the secret is not UTF-8.
    pub fn expose_to_issuer(&self) -> Result<&str, NotText> {
        std::str::from_utf8(&self.0).map_err(|_| NotText)
    }

    /// The bytes of a private key, or of a key that signs, for the library that signs with it.
    pub fn expose_to_signer(&self) -> &[u8] {
        &self.0
    }

    /// The header value that carries this secret to its upstream: `before`, the secret, `after`.
    /// The value is marked sensitive, so that no `Debug` and no HPACK table holds it.
    ///
    /// # Errors
    /// When the secret is empty or holds anything but visible ASCII (RFC 6750, section 2.1, is narrower still):
    /// a line end in a token must never reach a request's head.
    pub fn header_value(&self, before: &str, after: &str) -> Result<HeaderValue, NotVisibleAscii> {
        self.visible()?;
        let mut value = Zeroizing::new(Vec::with_capacity(before.len() + self.0.len() + after.len()));
        value.extend_from_slice(before.as_bytes());
        value.extend_from_slice(&self.0);
        value.extend_from_slice(after.as_bytes());
        sensitive(value).ok_or(NotVisibleAscii)
    }

    /// The value of `Authorization` in which this secret is the password of `user` (RFC 7617).
    ///
    /// # Errors
    /// As [`Secret::header_value`].
    pub fn basic_value(&self, user: &str) -> Result<HeaderValue, NotVisibleAscii> {
        self.visible()?;
        Self::new(basic(user, &self.0).as_bytes()).header_value("Basic ", "")
    }

    /// `name=secret` for a query, the secret percent-encoded. It is sensitive like a header's value, and wiped like one.
    ///
    /// # Errors
    /// As [`Secret::header_value`].
    pub fn query_pair(&self, name: &str) -> Result<HeaderValue, NotVisibleAscii> {
        self.visible()?;
        let mut pair = Zeroizing::new(Vec::with_capacity(name.len() + 1 + 3 * self.0.len()));
        pair.extend_from_slice(name.as_bytes());
        pair.push(b'=');
        for piece in percent_encode(&self.0, ENCODED_IN_QUERIES) {
            pair.extend_from_slice(piece.as_bytes());
        }
        sensitive(pair).ok_or(NotVisibleAscii)
    }

    /// `name=secret` for a `Cookie` header.
    ///
    /// # Errors
    /// When the secret is empty or holds a byte that no cookie holds (RFC 6265, section 4.1.1).
    pub fn cookie_pair(&self, name: &str) -> Result<HeaderValue, NotCookie> {
        let fits = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\');
        if self.0.is_empty() || !self.0.iter().all(fits) {
            return Err(NotCookie);
        }
        self.header_value(&format!("{name}="), "").map_err(|_| NotCookie)
    }

    fn visible(&self) -> Result<(), NotVisibleAscii> {
        let fits = !self.0.is_empty() && self.0.iter().all(u8::is_ascii_graphic);
        fits.then_some(()).ok_or(NotVisibleAscii)
    }

    /// Recognises this secret in what somebody sends back.
    pub fn make_needles(&self) -> Needles {
        Needles::of(self)
    }

    /// The claims of a JWT, unverified: what the token says of itself, never a reason to trust it.
    /// `None` when the secret is not a JWT.
    pub fn jwt_claims(&self) -> Option<serde_json::Map<String, serde_json::Value>> {
        jsonwebtoken::dangerous::insecure_decode_claims(&*self.0).ok()
    }

    /// Its SHA-256, for whoever has it to recognise it by.
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, &self.0).as_ref());
        hash
    }

    /// A key of 32 bytes for one purpose (HKDF-SHA256): from it nobody can tell the secret.
    ///
    /// # Panics
    /// Never: HKDF gives as much as this.
    pub fn derive_key(&self, purpose: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&self.0);
        let purpose = &[purpose];
        let filled = derived.expand(purpose, hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut *key));
        filled.expect("32 bytes are less than HKDF has to give");
        key
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds these characters alone, and so many different ones at least.
    pub fn is_made_of(&self, fits: impl Fn(u8) -> bool, different: usize) -> bool {
        let mut seen = [false; 256];
        self.0.iter().for_each(|byte| seen[usize::from(*byte)] = true);
        self.0.iter().all(|byte| fits(*byte)) && seen.iter().filter(|seen| **seen).count() >= different
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both hold the same bytes, in constant time.
    pub fn same_as(&self, other: &Secret) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

/// What follows `Basic` where this user has this password (RFC 7617): base64, whatever bytes it is made of.
pub fn basic(user: &str, password: &[u8]) -> Zeroizing<String> {
    let mut pair = Zeroizing::new(Vec::with_capacity(user.len() + 1 + password.len()));
    pair.extend_from_slice(user.as_bytes());
    pair.push(b':');
    pair.extend_from_slice(password);
    Zeroizing::new(STANDARD.encode(&*pair))
}

/// A header value that no `Debug` shows and no HPACK table holds. The bytes are wiped when the last request that carries them
/// lets go.
fn sensitive(bytes: Zeroizing<Vec<u8>>) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(bytes)).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// All but the unreserved characters (RFC 3986, section 2.3).
pub const ENCODED_IN_QUERIES: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The secret is not UTF-8.
#[derive(Debug, thiserror::Error)]
#[error("the secret is not UTF-8 text")]
pub struct NotText;

/// The token holds a byte that may not stand in a header.
#[derive(Debug, thiserror::Error)]
#[error("the token is empty or holds something other than visible ASCII")]
pub struct NotVisibleAscii;

/// The token holds a byte that may not stand in a cookie.
#[derive(Debug, thiserror::Error)]
#[error(
    "the token is empty or holds something that no cookie can hold: a quotation mark, comma, semicolon, backslash, or what is not visible ASCII"
)]
pub struct NotCookie;

/// Names a secret without showing it: the first 8 hex digits of an HMAC-SHA256 under a key of this installation.
pub struct Fingerprinter(hmac::Key);

impl Fingerprinter {
    /// `key` is kept in the state folder, so that fingerprints in the trail stay comparable over restarts.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// A key for [`Fingerprinter::new`].
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    pub fn random_key() -> [u8; 32] {
        let mut key = [0; 32];
        rand::fill(&mut key).expect("the operating system gives randomness");
        key
    }

    pub fn of(&self, secret: &Secret) -> Fingerprint {
        let Mark([a, b, c, d, ..]) = self.mark(secret);
        Fingerprint(u32::from_be_bytes([a, b, c, d]))
    }

    pub fn mark(&self, secret: &Secret) -> Mark {
        self.mark_of_sent(&secret.0)
    }

    /// As [`Fingerprinter::mark`], of what somebody sent that may be a secret of ours.
    pub fn mark_of_sent(&self, sent: &[u8]) -> Mark {
        let mut mark = [0; 32];
        mark.copy_from_slice(hmac::sign(&self.0, sent).as_ref());
        Mark(mark)
    }
}

/// Recognises a secret after it has been wiped, and tells nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark([u8; 32]);

impl Mark {
    /// Finds a mark among many. Of a keyed digest nobody can choose a part.
    pub fn prefix(&self) -> u64 {
        let Self([a, b, c, d, e, f, g, h, ..]) = *self;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// In constant time.
    pub fn is_same(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

/// What logs, records and answers show in place of a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint(u32);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = std::num::ParseIntError;

    fn from_str(hex: &str) -> Result<Self, Self::Err> {
        u32::from_str_radix(hex, 16).map(Self)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a secret is to be read: the config holds these and never a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reference {
    /// `env:NAME`
    Env(String),
    /// `file:/path`; one trailing line end is not part of the secret
    File(PathBuf),
    /// `credential:NAME`: a file of that name in systemd's `$CREDENTIALS_DIRECTORY`
    Credential(String),
    /// `exec:/path argument ...`: what a program prints
    Exec(Box<Program>),
    /// `vault:path#field`: what lies in the vault of the config
    Vault(Box<Deposited>),
}

impl Reference {
    /// Reads a reference; `base` is the folder that a relative `file:` path starts from.
    ///
    /// # Errors
    /// When the text is no reference. The error never repeats the text, which may well be a secret.
    pub fn parse(text: &str, base: &Path) -> Result<Self, ReferenceError> {
        let (kind, rest) = text.split_once(':').ok_or(ReferenceError::Inline)?;
        let known = ["env", "file", "credential", "exec", "vault"].contains(&kind);
        if !known {
            return Err(ReferenceError::Inline);
        }
        if rest.is_empty() {
            return Err(ReferenceError::Empty);
        }
        match kind {
            "env" if !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => Err(ReferenceError::VariableName),
            "env" => Ok(Self::Env(rest.to_owned())),
            "file" => Ok(Self::File(base.join(rest))),
            "credential" if rest.contains('/') || rest.starts_with('.') => Err(ReferenceError::CredentialName),
            "credential" => Ok(Self::Credential(rest.to_owned())),
            "exec" => printed::program(rest).map(|program| Self::Exec(Box::new(program))),
            _ => Deposited::parse(rest).map(|deposited| Self::Vault(Box::new(deposited))),
        }
    }

    /// The secret as it is now: of what a program prints, the first line. Done anew for each use, so that a secret that was
    /// rotated in place is seen. Waits for a program or a vault, and for nothing else.
    ///
    /// # Errors
    /// As [`Reference::resolve`], or when a program fails, or a vault does not give it.
    pub async fn obtain(&self) -> Result<Secret, ResolveError> {
        match self {
            Self::Exec(program) => printed::line(program).await,
            Self::Vault(deposited) => deposited.read().await,
            Self::Env(_) | Self::File(_) | Self::Credential(_) => self.resolve(),
        }
    }

    /// As [`Reference::obtain`], of what has lines, as a key has: all that a program prints.
    ///
    /// # Errors
    /// As [`Reference::obtain`].
    pub async fn obtain_document(&self) -> Result<Secret, ResolveError> {
        match self {
            Self::Exec(program) => printed::document(program).await,
            Self::Vault(deposited) => deposited.read().await,
            Self::Env(_) | Self::File(_) | Self::Credential(_) => self.resolve(),
        }
    }

    /// Reads the secret, where there is no time for a program or a vault. Done anew for each use.
    /// Blocks for as long as reading a small local file does.
    ///
    /// # Errors
    /// When there is nothing to read, it is empty, or larger than 64 KiB; and always of a program and of a vault.
    pub fn resolve(&self) -> Result<Secret, ResolveError> {
        match self {
            Self::Env(name) => match std::env::var_os(name) {
                None => Err(ResolveError::NoVariable(name.clone())),
                Some(value) if value.is_empty() => Err(ResolveError::Empty(self.to_string())),
                Some(value) => Ok(Secret::new(value.into_encoded_bytes())),
            },
            Self::File(path) => self.read(path),
            Self::Credential(name) => match std::env::var_os("CREDENTIALS_DIRECTORY") {
                None => Err(ResolveError::NoCredentials),
                Some(folder) => self.read(&Path::new(&folder).join(name)),
            },
            Self::Exec(program) => Err(ResolveError::NotRun(program.path.clone())),
            Self::Vault(deposited) => Err(ResolveError::NotAsked(deposited.to_string())),
        }
    }

    /// The file that it names, if any user of the machine may read that.
    pub fn open_to_everyone(&self) -> Option<PathBuf> {
        let path = match self {
            Self::Env(_) | Self::Exec(_) | Self::Vault(_) => return None,
            Self::File(path) => path.clone(),
            Self::Credential(name) => Path::new(&std::env::var_os("CREDENTIALS_DIRECTORY")?).join(name),
        };
        let mode = std::fs::metadata(&path).ok()?.permissions().mode();
        (mode & 0o004 != 0).then_some(path)
    }

    fn read(&self, path: &Path) -> Result<Secret, ResolveError> {
        let unreadable = |error| ResolveError::File { path: path.to_owned(), error };
        // A pipe would keep us waiting for its writer.
        let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(ResolveError::NotAFile(path.to_owned()));
        }
        // In one piece from the start: growing would leave copies behind.
        let mut bytes =
            Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len().min(MAX_BYTES) + 1).unwrap_or(0)));
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(ResolveError::TooLarge(path.to_owned()));
        }
        let length = without_line_end(&bytes).len();
        bytes.truncate(length);
        if bytes.is_empty() {
            return Err(ResolveError::Empty(self.to_string()));
        }
        Ok(Secret(bytes))
    }
}

/// One line end is how an editor or a program ends what it writes, and no part of that.
fn without_line_end(text: &[u8]) -> &[u8] {
    let Some(line) = text.strip_suffix(b"\n") else { return text };
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Without the arguments of a program, which are nobody else's business.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Credential(name) => write!(f, "credential:{name}"),
            Self::Exec(program) => write!(f, "exec:{}", program.path.display()),
            Self::Vault(deposited) => write!(f, "vault:{deposited}"),
        }
    }
}

/// Why a text is no reference to a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error(
        "a secret may not stand in the config: write where it is, as \"env:NAME\", \"file:/path\", \"credential:NAME\", \"exec:/path\" or \"vault:path#field\""
    )]
    Inline,
    #[error("the reference names nothing after the colon")]
    Empty,
    #[error("a variable's name consists of letters, digits and underscores")]
    VariableName,
    #[error("a credential's name is a file name, without a folder")]
    CredentialName,
    #[error(
        "`exec:` takes the absolute path of a program, and its arguments with spaces between: it is not looked for"
    )]
    ProgramPath,
    #[error("a program and its arguments hold no line end and no other control character")]
    ProgramText,
    #[error("`vault:` takes a path and a field, as in \"vault:secret/ci#password\"")]
    VaultForm,
    #[error("a path of a vault has letters, digits and -_.~@:+=, in its segments, and no `.` or `..`")]
    VaultPath,
}

/// Why a secret could not be read. Names the place, never the content.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("the environment variable {0} is not set")]
    NoVariable(String),
    #[error("{0} is empty")]
    Empty(String),
    #[error("cannot read {}: {error}", .path.display())]
    File { path: PathBuf, error: std::io::Error },
    #[error("{} is not a file", .0.display())]
    NotAFile(PathBuf),
    #[error("{} is larger than 64 KiB", .0.display())]
    TooLarge(PathBuf),
    #[error("$CREDENTIALS_DIRECTORY is not set: systemd sets it for units with LoadCredential=")]
    NoCredentials,
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("{} {ending}, and what it printed is not used", .path.display())]
    Failed { path: PathBuf, ending: String },
    #[error("{} printed no secret: it is empty, or its first line is", .0.display())]
    Silent(PathBuf),
    #[error("{} is not run here, where a secret is read at once", .0.display())]
    NotRun(PathBuf),
    #[error("vault:{0}: {1}")]
    Vault(String, String),
    #[error("no vault is asked for {0} here, where a secret is read at once")]
    NotAsked(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_with_a_line_end_never_becomes_a_header() {
        for bad in ["", "abc\r\nX: y", "a b", "a\0", "ä", "abc\n"] {
            assert!(Secret::new(bad).header_value("Bearer ", "").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_header_value_is_sensitive() {
        let value = Secret::new("abc").header_value("Bearer ", "").expect("visible ASCII");
        assert_eq!(value.as_bytes(), b"Bearer abc");
        assert!(value.is_sensitive());
        assert!(!format!("{value:?}").contains("abc"));
    }

    #[test]
    fn an_inline_secret_is_refused_without_being_repeated() {
        for inline in ["hunter2", "s3cr3t:with-colon", ""] {
            let error = Reference::parse(inline, Path::new("/")).expect_err("inline");
            assert_eq!(error, ReferenceError::Inline);
            assert!(inline.is_empty() || !error.to_string().contains(inline));
        }
    }

    #[test]
    fn a_reference_reads_a_file_without_its_last_line_end() {
        let folder = tempfile::tempdir().expect("temporary folder");
        std::fs::write(folder.path().join("s"), "abc\r\n").expect("write");
        let reference = Reference::parse("file:s", folder.path()).expect("reference");
        assert!(reference.resolve().expect("resolves").same_as(&Secret::new("abc")));
    }

    #[test]
    fn an_empty_or_missing_secret_is_an_error_that_names_its_place() {
        let folder = tempfile::tempdir().expect("temporary folder");
        std::fs::write(folder.path().join("empty"), "\n").expect("write");
        for name in ["empty", "missing"] {
            let reference = Reference::parse(&format!("file:{name}"), folder.path()).expect("reference");
            let error = reference.resolve().err().expect("fails").to_string();
            assert!(error.contains(name), "{error}");
        }
        let pipe = Reference::File("/dev/zero".into());
        assert!(matches!(pipe.resolve(), Err(ResolveError::NotAFile(_))), "it would never end");
        let error = Reference::Env("COUNTERSIGN_TEST_UNSET".into()).resolve().err().expect("fails");
        assert!(error.to_string().contains("COUNTERSIGN_TEST_UNSET"));
    }

    #[test]
    fn fingerprints_tell_secrets_apart_and_depend_on_the_key() {
        let one = Fingerprinter::new(&[1; 32]);
        let two = Fingerprinter::new(&[2; 32]);
        let (a, b) = (Secret::new("a"), Secret::new("b"));
        assert_eq!(one.of(&a), one.of(&Secret::new("a")));
        assert_ne!(one.of(&a), one.of(&b));
        assert_ne!(one.of(&a), two.of(&a));
        assert_eq!(one.of(&a).to_string().len(), 8);
    }
}
