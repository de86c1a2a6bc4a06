//! One token's whole life between a real issuer and a real API: requested in the config, provisioned, used, rotated,
//! quarantined, released, revoked, provisioned anew, retired; by the commands alone. What it is worth at each step, its issuer
//! says when it is asked.

use std::time::Duration;

use aws_lc_rs::digest;

use crate::support::caddy::Caddy;
use crate::support::issuer::Issuer;
use crate::support::proxy::{Proxy, ROUTE, Settings};
use crate::support::{in_turn, wait_until};

const KEY: &str = "the-key-of-whoever-lets-in-again";

#[test]
fn a_token_is_worth_at_its_issuer_what_operators_have_said() {
    in_turn(async {
        let (issuer, caddy) = (Issuer::start().await, Caddy::start().await);
        let usual = Settings::between(&issuer, caddy.address, &caddy.certificates);
        let settings = Settings { proxy_lines: operators(), source: issuer.opaque_source(), ..usual };
        let proxy = Proxy::start(&settings).await;
        let key = proxy.state().join("key-of-the-approver");
        std::fs::write(&key, KEY).expect("written");
        let does = |what: &str, more: &[&str]| {
            let (code, printed) = proxy.run(&[&["tokens", what, ROUTE], more].concat());
            assert_eq!(code, Some(0), "{what}: {printed}");
            printed
        };
        let approver = ["--operator-key", key.to_str().expect("UTF-8"), "--reason", "it was us"];
        let reason = ["--reason", "a drill"];

        let first = used(&proxy, &caddy, "/first").await;
        assert!(issuer.is_active(&first));
        does("quarantine", &reason);
        assert_eq!(refused(&proxy).await, "token_quarantined");
        assert!(issuer.is_active(&first), "it is kept");
        let (code, _) = proxy.run(&["tokens", "release", ROUTE, "--reason", "I want it"]);
        assert_eq!(code, Some(77), "whoever took it away does not let it in");
        does("release", &approver);
        assert_eq!(used(&proxy, &caddy, "/released").await, first);

        does("rotate", &[]);
        let second = used(&proxy, &caddy, "/second").await;
        assert_ne!(second, first);
        is_void(&issuer, &first).await;
        assert!(issuer.is_active(&second));

        does("revoke", &reason);
        assert_eq!(refused(&proxy).await, "token_revoked");
        is_void(&issuer, &second).await;
        does("release", &approver);
        let third = used(&proxy, &caddy, "/third").await;
        assert!(third != second && issuer.is_active(&third));

        let shown = does("retire", &reason);
        assert!(shown.contains("state:        retired"), "{shown}");
        assert_eq!(refused(&proxy).await, "approval_denied");
        is_void(&issuer, &third).await;
        for token in [&first, &second, &third] {
            assert!(!proxy.output().contains(token.as_str()), "no log shows a token");
        }
    });
}

/// The token that came with a request.
async fn used(proxy: &Proxy, caddy: &Caddy, path: &str) -> String {
    wait_until("a request passes", Duration::from_secs(20), async || {
        proxy.get(path).await.filter(|answer| answer.status == 200)
    })
    .await;
    let tokens = caddy.trail().tokens(path);
    assert_eq!(tokens.len(), 1, "{path}");
    tokens.into_iter().next().expect("one")
}

/// Why a request did not pass.
async fn refused(proxy: &Proxy) -> String {
    let answer = proxy.get("/refused").await.expect("an answer");
    assert_eq!(answer.status, 403);
    answer.reason().expect("a reason")
}

/// A generation that was replaced is told of half a minute later.
async fn is_void(issuer: &Issuer, token: &str) {
    wait_until("the issuer calls it void", Duration::from_secs(60), async || (!issuer.is_active(token)).then_some(()))
        .await;
}

/// Our own user may take away, and whoever has the key may let in.
fn operators() -> String {
    let digest = digest::digest(&digest::SHA256, KEY.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let own = rustix::process::getuid().as_raw();
    format!(
        "[[operator]]\nname = \"guard\"\nuid = {own}\nroles = [\"admin\"]\n\
         [[operator]]\nname = \"approver\"\nkey = \"sha256:{hex}\"\nroles = [\"approver\"]"
    )
}
