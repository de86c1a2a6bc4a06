//! Rotation under load.

use std::time::Duration;

use crate::support::caddy::Caddy;
use crate::support::generator::Load;
use crate::support::issuer::{Issuer, LIFE_SECONDS};
use crate::support::proxy::{Proxy, ROUTE};
use crate::support::{in_turn, seconds};

#[test]
fn a_minute_of_load_while_tokens_live_five_seconds() {
    in_turn(async {
        let (issuer, caddy) = (Issuer::start().await, Caddy::start().await);
        let proxy = Proxy::between(&issuer, caddy.address, &caddy.certificates).await;
        let load = Load {
            address: proxy.address,
            path: format!("/{ROUTE}/load"),
            rate: 2_000,
            connections: 32,
            duration: Duration::from_secs(seconds()),
            together: false,
        };

        let outcome = load.run().await;
        let finding = caddy.trail().judge("/load", &issuer.keys().await);
        println!("{outcome}");
        println!(
            "{} requests recorded, {} tokens, {} expired, the shortest life left {:.2?} s",
            finding.requests,
            finding.tokens.len(),
            finding.stale,
            finding.shortest_rest
        );

        outcome.assert_none_failed();
        assert_eq!(finding.requests, outcome.sent, "what was sent is what was recorded");
        finding.assert_every_request_carried_a_live_token_once();
        // Ten in a minute at least; each lives five seconds, so there are more.
        let fewest = usize::try_from(seconds() / (LIFE_SECONDS + 1)).expect("a small number");
        assert!(finding.tokens.len() >= fewest, "{} tokens, at least {fewest} were due", finding.tokens.len());
    });
}
