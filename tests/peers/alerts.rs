//! Alertmanager itself takes what the proxy tells it: an alert is open there as long as its cause goes on.

use std::time::Duration;

use crate::support::caddy::Caddy;
use crate::support::issuer::Issuer;
use crate::support::prometheus::Alertmanager;
use crate::support::proxy::{Proxy, ROUTE, Settings};
use crate::support::{in_turn, wait_until};

const NAME: &str = "CountersignTokenWithdrawn";

const SOON: Duration = Duration::from_secs(30);

#[test]
fn an_alert_is_open_at_alertmanager_until_its_cause_is_gone() {
    in_turn(async {
        let (issuer, caddy, manager) = (Issuer::start().await, Caddy::start().await, Alertmanager::start().await);
        let sink = format!("[[alert]]\nkind = \"alertmanager\"\nname = \"am\"\nurl = \"http://{}\"", manager.address);
        let usual = Settings::between(&issuer, caddy.address, &caddy.certificates);
        let proxy = Proxy::start(&Settings { proxy_lines: sink, ..usual }).await;
        let (code, said) = proxy.run(&["tokens", "quarantine", ROUTE, "--reason", "somebody else has it"]);
        assert_eq!(code, Some(0), "{said}");
        let open = wait_until("the alert is open", SOON, async || manager.alerts(NAME).await.pop()).await;
        assert_eq!(open["labels"]["token"], ROUTE, "{open}");
        assert_eq!(open["labels"]["severity"], "low", "{open}");
        assert_eq!(open["annotations"]["summary"], format!("Token {ROUTE} is quarantined"), "{open}");

        let (code, said) = proxy.run(&["tokens", "retire", ROUTE, "--reason", "it is not needed any more"]);
        assert_eq!(code, Some(0), "{said}");
        let is_over = async || manager.alerts(NAME).await.is_empty().then_some(());
        wait_until("the alert is over", SOON, is_over).await;
        let told = "countersign_alerts_total{outcome=\"delivered\",sink=\"am\"} 2\n";
        wait_until("both are counted", SOON, async || proxy.metrics().await.contains(told).then_some(())).await;
    });
}
