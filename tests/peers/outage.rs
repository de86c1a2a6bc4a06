//! An issuer that is away for longer than a token lives.

use std::time::Duration;

use crate::support::caddy::Caddy;
use crate::support::issuer::Issuer;
use crate::support::proxy::Proxy;
use crate::support::{in_turn, wait_until};

/// Within which service is back once the issuer is.
const RECOVERY: Duration = Duration::from_secs(10);

#[test]
fn an_issuer_outage_past_expiry_fails_closed_and_recovers_by_itself() {
    in_turn(async {
        let (mut issuer, caddy) = (Issuer::start().await, Caddy::start().await);
        let proxy = Proxy::between(&issuer, caddy.address, &caddy.certificates).await;
        let keys = issuer.keys().await;
        assert_eq!(proxy.get("/before").await.expect("an answer").status, 200);

        issuer.stop().await;
        let refused =
            wait_until("requests are refused once the token has expired", Duration::from_secs(15), async || {
                let answer = proxy.get("/outage").await.expect("an answer");
                (answer.status != 200).then_some(answer)
            })
            .await;
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
        assert_eq!(refused.reason().as_deref(), Some("token_expired"), "{}", refused.text());
        let wait = refused.header("retry-after").expect("Retry-After").parse::<u64>().expect("a number of seconds");
        assert!((1..=60).contains(&wait), "Retry-After: {wait}");

        let recorded = caddy.trail().count("/");
        for _ in 0..50 {
            assert_eq!(proxy.get("/outage").await.expect("an answer").status, 503);
        }
        assert_eq!(caddy.trail().count("/"), recorded, "nothing reaches the upstream without a live token");

        issuer.start_again().await;
        wait_until("service is back by itself", RECOVERY, async || {
            proxy.get("/after").await.filter(|answer| answer.status == 200)
        })
        .await;
        // Caddy's own start is recorded under /ready.
        for prefix in ["/before", "/outage", "/after"] {
            let finding = caddy.trail().judge(prefix, &keys);
            assert!(finding.requests > 0, "{prefix}");
            finding.assert_every_request_carried_a_live_token_once();
        }
    });
}
