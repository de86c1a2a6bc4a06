//! An upstream that closes connections early and often.

use std::time::Duration;

use crate::support::generator::Load;
use crate::support::issuer::Issuer;
use crate::support::nginx::{Nginx, REQUESTS_PER_CONNECTION};
use crate::support::proxy::{Proxy, ROUTE};
use crate::support::{in_turn, seconds};

#[test]
fn connections_that_the_upstream_closes_fail_no_request() {
    in_turn(async {
        let (issuer, nginx) = (Issuer::start().await, Nginx::start().await);
        let proxy = Proxy::between(&issuer, nginx.address, &nginx.certificates).await;
        let duration = Duration::from_secs((seconds() / 6).max(3));
        // nginx ends every connection after fifty requests...
        let steady = Load {
            address: proxy.address,
            path: format!("/{ROUTE}/steady"),
            rate: 500,
            connections: 16,
            duration,
            together: false,
        };
        // ...and after a second of silence: here each is silent for just that second, so that closing and sending race.
        let waves = Load { path: format!("/{ROUTE}/waves"), rate: 16, together: true, ..steady };

        for (load, prefix) in [(&steady, "/steady"), (&waves, "/waves")] {
            let outcome = load.run().await;
            println!("{prefix}: {outcome}");
            outcome.assert_none_failed();
            let finding = nginx.trail().judge(prefix, &issuer.keys().await);
            assert_eq!(finding.requests, outcome.sent, "{prefix}: what was sent is what was recorded");
            finding.assert_every_request_carried_a_live_token_once();
            let connections = u64::try_from(finding.connections.len()).expect("a small number");
            assert!(connections >= outcome.sent / REQUESTS_PER_CONNECTION, "{prefix}: {connections} connections");
        }
    });
}
