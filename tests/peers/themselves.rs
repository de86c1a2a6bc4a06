//! The peers are what the other tests take them for: the proxy has no part in these.

use std::process::Command;
use std::time::Duration;

use crate::support::caddy::Caddy;
use crate::support::generator::Load;
use crate::support::http;
use crate::support::issuer::Issuer;
use crate::support::nginx::Nginx;
use crate::support::{in_turn, tool};

#[test]
fn the_issuer_keeps_its_keys_over_a_stop() {
    in_turn(async {
        let mut issuer = Issuer::start().await;
        let before = issuer.keys().await;
        issuer.stop().await;
        assert!(http::get(issuer.address, "/jwks").await.is_none(), "a stopped issuer does not answer");
        issuer.start_again().await;
        assert_eq!(issuer.keys().await, before);
    });
}

#[test]
fn the_load_keeps_its_rate_and_caddy_records_each_request_once() {
    in_turn(async {
        let (caddy, issuer) = (Caddy::start().await, Issuer::start().await);
        let load = Load {
            address: caddy.plain,
            path: "/load".to_owned(),
            rate: 2_000,
            connections: 32,
            duration: Duration::from_secs(3),
            together: false,
        };
        let outcome = load.run().await;
        outcome.assert_none_failed();
        println!("{outcome}");
        let finding = caddy.trail().judge("/load", &issuer.keys().await);
        assert_eq!(finding.requests, outcome.sent);
        assert!(finding.times.values().all(|times| *times == 1), "each request has a number of its own");
        assert_eq!(finding.foreign, outcome.sent, "no request carried a token");
    });
}

#[test]
fn the_upstreams_are_known_by_the_authority_that_the_proxy_is_given() {
    in_turn(async {
        let (caddy, nginx) = (Caddy::start().await, Nginx::start().await);
        for (address, ca) in [(caddy.address, &caddy.certificates.ca), (nginx.address, &nginx.certificates.ca)] {
            let output = Command::new(tool("curl"))
                .args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--cacert"])
                .arg(ca)
                .args(["--header", "Authorization: Bearer none", &format!("https://{address}/known?n=1")])
                .output()
                .expect("curl runs");
            assert_eq!(String::from_utf8_lossy(&output.stdout), r#"{"object":"ok"}"#, "{output:?}");
        }
        for trail in [caddy.trail(), nginx.trail()] {
            let tokens: Vec<_> = trail.records("/known?n=1").map(|record| record.authorization).collect();
            assert_eq!(tokens, [["Bearer none"]]);
        }
    });
}
