//! How the proxy proves itself to an issuer without a secret: each proof is another, so it is asked for more than once.

use std::time::Duration;

use crate::support::caddy::Caddy;
use crate::support::issuer::Issuer;
use crate::support::proxy::{Proxy, Settings};
use crate::support::{in_turn, wait_until};

#[test]
fn an_issuer_gives_tokens_for_jwts_that_are_signed_with_the_clients_key() {
    in_turn(async {
        let issuer = Issuer::start().await;
        let proof =
            format!(r#"auth = "private_key_jwt", key = "file:{}", algorithm = "ES256""#, issuer.client_key.display());
        let source = source(&format!("http://{}/token", issuer.address), "jwt", &proof);
        assert_is_given_tokens(&issuer, source).await;
    });
}

#[test]
fn an_issuer_gives_tokens_for_the_clients_certificate() {
    in_turn(async {
        let issuer = Issuer::start().await;
        let files = &issuer.certificates;
        let tls = format!(
            r#"ca = "file:{}", cert = "file:{}", key = "file:{}""#,
            files.ca.display(),
            files.certificate.display(),
            files.key.display(),
        );
        let proof = format!(r#"auth = "mtls", tls = {{ {tls} }}"#);
        let source = source(&format!("https://{}/token", issuer.tls_address), "certificate", &proof);
        assert_is_given_tokens(&issuer, source).await;
    });
}

#[test]
fn an_issuer_binds_its_tokens_to_a_key_that_proves_itself_with_the_nonce_that_it_wants() {
    in_turn(async {
        let issuer = Issuer::start().await;
        let proof = r#"client_secret = "env:PEERS_CLIENT_SECRET", dpop = true"#;
        let source = source(&format!("http://{}/token", issuer.address), "dpop", proof);
        let caddy = Caddy::start().await;
        let usual = Settings::between(&issuer, caddy.address, &caddy.certificates);
        let proxy = Proxy::start(&Settings { source, ..usual }).await;
        rotated(&proxy).await;
        assert_eq!(proxy.get("/proven").await.expect("an answer").status, 200);
        let record = caddy.trail().records("/proven").next().expect("a request");
        let token = record.authorization[0].strip_prefix("DPoP ").expect("a bound token");
        let claims: serde_json::Value = jsonwebtoken::dangerous::insecure_decode_claims(token).expect("a JWT");
        assert!(claims["cnf"]["jkt"].is_string(), "{claims}");
    });
}

fn source(token_url: &str, client_id: &str, proof: &str) -> String {
    format!(r#"kind = "client_credentials", token_url = "{token_url}", client_id = "{client_id}", {proof}"#)
}

/// The first, and the one that takes its place.
async fn assert_is_given_tokens(issuer: &Issuer, source: String) {
    let caddy = Caddy::start().await;
    let usual = Settings::between(issuer, caddy.address, &caddy.certificates);
    let proxy = Proxy::start(&Settings { source, ..usual }).await;
    rotated(&proxy).await;
    assert_eq!(proxy.get("/proven").await.expect("an answer").status, 200);
    let finding = caddy.trail().judge("/proven", &issuer.keys().await);
    assert_eq!(finding.requests, 1);
    finding.assert_every_request_carried_a_live_token_once();
}

async fn rotated(proxy: &Proxy) {
    wait_until("a second token is there", Duration::from_secs(20), async || {
        let metrics = proxy.metrics().await;
        let rotated = "countersign_rotations_total{outcome=\"success\",token=\"api\"} ";
        let count = metrics.lines().find_map(|line| line.strip_prefix(rotated)).expect("a sample");
        (count != "0").then_some(())
    })
    .await;
}
