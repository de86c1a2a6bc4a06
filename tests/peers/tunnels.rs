//! Tunnels that are looked into: curl as an app that obeys `HTTPS_PROXY`, with OpenSSL's idea of name constraints.

use crate::calls::{call, curl};
use crate::support::caddy::Caddy;
use crate::support::in_turn;
use crate::support::issuer::Issuer;
use crate::support::proxy::{Proxy, Settings};

/// A certificate that curl does not trust.
const UNTRUSTED: i32 = 60;

#[test]
fn curl_gets_its_token_in_a_tunnel_whatever_it_speaks_there() {
    in_turn(async {
        let (issuer, caddy) = (Issuer::start().await, Caddy::start().await);
        let usual = Settings::between(&issuer, caddy.address, &caddy.certificates);
        let proxy = Proxy::start(&Settings { route_lines: "intercept = true", ..usual }).await;
        let (code, authority) = proxy.run(&["ca", "export"]);
        assert_eq!(code, Some(0), "{authority}");
        let folder = tempfile::tempdir().expect("temporary folder");
        let roots = folder.path().join("roots.pem");
        std::fs::write(&roots, authority).expect("written");
        let (roots, through) = (roots.display().to_string(), format!("http://{}", proxy.address));
        let asking = |trusted: &str, version: &str, path: &str| {
            let url = format!("https://{}{path}", caddy.address);
            ["--proxy", &through, "--cacert", trusted, version, "--write-out", " %{http_version}", &url]
                .map(str::to_owned)
        };
        for (version, path, spoken) in [("--http1.1", "/first", "1.1"), ("--http2", "/second", "2")] {
            let printed = curl(&asking(&roots, version, path));
            assert_eq!(String::from_utf8_lossy(&printed), format!("{{\"object\":\"ok\"}} {spoken}"));
            let finding = caddy.trail().judge(path, &issuer.keys().await);
            assert_eq!(finding.requests, 1, "{path}");
            finding.assert_every_request_carried_a_live_token_once();
        }
        // Whoever trusts the upstream alone is not deceived.
        let own = caddy.certificates.ca.display().to_string();
        assert_eq!(call(&asking(&own, "--http1.1", "/third")).status.code(), Some(UNTRUSTED));
        assert_eq!(caddy.trail().judge("/third", &issuer.keys().await).requests, 0);
    });
}
