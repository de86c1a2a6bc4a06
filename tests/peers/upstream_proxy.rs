//! Out through a company's proxy.

use std::time::Duration;

use crate::support::issuer::Issuer;
use crate::support::nginx::Nginx;
use crate::support::proxy::{Proxy, Settings};
use crate::support::squid::{HOST, PASSWORD, Squid, USERNAME};
use crate::support::{in_turn, wait_until};

/// An issuer, an upstream that is `api.test` to Squid and to nobody else, and Squid.
struct Place {
    issuer: Issuer,
    nginx: Nginx,
    squid: Squid,
}

impl Place {
    async fn new() -> Self {
        Self { issuer: Issuer::start().await, nginx: Nginx::start().await, squid: Squid::start().await }
    }

    /// `more` are keys of `upstream_proxy`.
    async fn proxy(&self, host: &'static str, more: &str) -> Proxy {
        let lines = format!("upstream_proxy = {{ url = \"http://{}\"{more} }}", self.squid.address);
        let usual = Settings::between(&self.issuer, self.nginx.address, &self.nginx.certificates);
        Proxy::start(&Settings { host: Some(host), proxy_lines: lines, ..usual }).await
    }
}

fn credentials() -> String {
    format!(r#", username = "{USERNAME}", password = "env:PEERS_PROXY_PASSWORD""#)
}

#[test]
fn a_call_goes_through_squid_with_its_token() {
    in_turn(async {
        let place = Place::new().await;
        let proxy = place.proxy(HOST, &credentials()).await;
        for _ in 0..3 {
            let answer = proxy.get("/through").await.expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        let finding = place.nginx.trail().judge("/through", &place.issuer.keys().await);
        assert_eq!(finding.requests, 3);
        finding.assert_every_request_carried_a_live_token_once();
        let tunnel = format!("CONNECT {HOST}:{}", place.nginx.address.port());
        // nginx closes what rests for a second, and Squid writes a tunnel down when it has ended.
        let log = wait_until("the tunnel is written down", Duration::from_secs(20), async || {
            Some(place.squid.log()).filter(|log| log.contains(&tunnel))
        })
        .await;
        assert!(log.contains("TCP_TUNNEL/200") && log.contains(USERNAME), "{log}");
        assert!(!proxy.output().contains(PASSWORD), "it is in the log");
    });
}

#[test]
fn what_squid_refuses_is_told_and_does_not_arrive() {
    in_turn(async {
        let place = Place::new().await;
        let port = place.nginx.address.port();
        for (host, more, told) in [
            (HOST, String::new(), "wants a credential (407)"),
            (
                HOST,
                credentials().replace("PEERS_PROXY_PASSWORD", "PEERS_CLIENT_SECRET"),
                "does not take the credential",
            ),
            ("other.test", credentials(), "forbids the upstream (403)"),
        ] {
            let answer = place.proxy(host, &more).await.get("/refused").await.expect("an answer");
            assert_eq!((answer.status.as_u16(), answer.reason().as_deref()), (502, Some("upstream_connect")));
            assert!(answer.text().contains(told), "{}", answer.text());
        }
        let log = place.squid.log();
        assert!(log.contains("TCP_DENIED/403 ") && log.contains(&format!("CONNECT other.test:{port}")), "{log}");
        assert_eq!(log.matches("TCP_DENIED/407").count(), 2, "{log}");
        assert_eq!(place.nginx.trail().count("/refused"), 0);
    });
}

#[test]
fn an_excepted_host_is_not_asked_of_squid() {
    in_turn(async {
        let place = Place::new().await;
        let excepted = format!(r#"{}, no_proxy = ["{HOST}"]"#, credentials());
        let answer = place.proxy(HOST, &excepted).await.get("/direct").await.expect("an answer");
        // This machine's resolver does not know the name, which is how it is known that Squid was not the one to look it up.
        assert_eq!(answer.reason().as_deref(), Some("upstream_connect"), "{}", answer.text());
        assert!(answer.text().contains(&format!("cannot resolve {HOST}")), "{}", answer.text());
        // Loopback addresses are excepted without a word.
        let answer = place.proxy("127.0.0.1", &credentials()).await.get("/direct").await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(place.nginx.trail().count("/direct"), 1);
        assert!(!place.squid.log().contains("CONNECT"), "{}", place.squid.log());
    });
}
