//! The issuer: oidc-provider, started by `oidc-provider.mjs`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use rcgen::KeyPair;
use tempfile::TempDir;

use super::certificates::Certificates;
use super::process::Process;
use super::{free_port, http, package, tool, wait_until};

/// How long an access token lives, in seconds.
pub const LIFE_SECONDS: u64 = 5;

/// The secret of both clients. It holds what RFC 6749, section 2.3.1, wants encoded, and oidc-provider refuses it otherwise.
pub const CLIENT_SECRET: &str = "peers-client-secret+/=%3q7RkWm2v";

pub struct Issuer {
    pub address: SocketAddr,
    /// Where it asks for client certificates.
    pub tls_address: SocketAddr,
    /// Its own certificate, and that of the client `certificate`.
    pub certificates: Certificates,
    /// The private key of the client `jwt`.
    pub client_key: PathBuf,
    /// How long an opaque token lives that is issued from the next start on, in seconds.
    pub opaque_life: u64,
    process: Option<Process>,
    folder: TempDir,
}

impl Issuer {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        std::fs::copy(package().join("tests/peers/oidc-provider.mjs"), folder.path().join("issuer.mjs")).expect("copy");
        // Node looks for packages beside the program and above it.
        let packages: PathBuf = package().join(".tools/node/node_modules");
        assert!(packages.join("oidc-provider").is_dir(), "oidc-provider is not installed: `make test` installs it");
        std::os::unix::fs::symlink(packages, folder.path().join("node_modules")).expect("symbolic link");
        let key = KeyPair::generate().expect("a key");
        let client_key = folder.path().join("client.key");
        std::fs::write(&client_key, key.serialize_pem()).expect("write a key");
        std::fs::write(folder.path().join("client.pub"), key.public_key_pem()).expect("write a key");
        let mut issuer = Self {
            address: ([127, 0, 0, 1], free_port()).into(),
            tls_address: ([127, 0, 0, 1], free_port()).into(),
            certificates: Certificates::make(folder.path()),
            client_key,
            opaque_life: 300,
            process: None,
            folder,
        };
        issuer.start_again().await;
        issuer
    }

    /// On the same port, with the same keys.
    pub async fn start_again(&mut self) {
        let folder = self.folder.path();
        let mut command = Command::new(tool("node"));
        command
            .arg(folder.join("issuer.mjs"))
            .env("PORT", self.address.port().to_string())
            .env("LIFE", LIFE_SECONDS.to_string())
            .env("OPAQUE_LIFE", self.opaque_life.to_string())
            .env("KEYS", folder.join("keys.json"))
            .env("SECRET", CLIENT_SECRET)
            .env("TLS_PORT", self.tls_address.port().to_string())
            .env("CA", &self.certificates.ca)
            .env("CERTIFICATE", &self.certificates.certificate)
            .env("KEY", &self.certificates.key)
            .env("CLIENT_KEY", folder.join("client.pub"));
        let mut process = Process::start("oidc-provider", &command, folder);
        wait_until("oidc-provider answers", Duration::from_secs(30), async || {
            process.assert_running();
            http::get(self.address, "/jwks").await.filter(|answer| answer.status == 200)
        })
        .await;
        self.process = Some(process);
    }

    /// The source of its tokens where the client `basic` has a secret.
    pub fn source(&self) -> String {
        let secret = "client_secret = \"env:PEERS_CLIENT_SECRET\"";
        format!(
            "kind = \"client_credentials\", token_url = \"http://{}/token\", client_id = \"basic\", {secret}",
            self.address
        )
    }

    /// A source of tokens that the issuer knows by heart, and can be told to forget.
    pub fn opaque_source(&self) -> String {
        let address = self.address;
        format!(
            "{}, resource = [\"https://opaque.example\"], revocation_url = \"http://{address}/token/revocation\"",
            self.source()
        )
    }

    /// What the client `post` is given for this resource: a JWT, whose subject it is.
    pub fn token(&self, resource: &str) -> String {
        let secret = format!("client_secret={CLIENT_SECRET}");
        let resource = format!("resource={resource}");
        let mut command = Command::new(tool("curl"));
        command.args(["--silent", "--show-error", "--fail", "--data", "grant_type=client_credentials"]);
        for field in ["client_id=post", &secret, "scope=api:read", &resource] {
            command.args(["--data-urlencode", field]);
        }
        let ran = command.arg(format!("http://{}/token", self.address)).output().expect("curl runs");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let answer: serde_json::Value = serde_json::from_slice(&ran.stdout).expect("JSON");
        answer["access_token"].as_str().expect("a token").to_owned()
    }

    /// Whether the issuer says that a token is good.
    pub fn is_active(&self, token: &str) -> bool {
        let secret = format!("client_secret={CLIENT_SECRET}");
        let mut command = Command::new(tool("curl"));
        command.args(["--silent", "--show-error", "--fail", "--data-urlencode", "client_id=post"]);
        command.args(["--data-urlencode", &secret, "--data-urlencode", &format!("token={token}")]);
        let ran = command.arg(format!("http://{}/token/introspection", self.address)).output().expect("curl runs");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let answer: serde_json::Value = serde_json::from_slice(&ran.stdout).expect("JSON");
        answer["active"].as_bool().expect("`active`")
    }

    /// Down: nobody listens on its port.
    pub async fn stop(&mut self) {
        self.process.take().expect("the issuer runs").terminate().await;
    }

    /// The public keys of its tokens.
    pub async fn keys(&self) -> JwkSet {
        let answer = http::get(self.address, "/jwks").await.expect("the issuer answers");
        serde_json::from_slice(&answer.body).expect("a JWK set")
    }
}
