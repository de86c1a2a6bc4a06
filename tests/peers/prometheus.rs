//! What is shipped for those who watch, before a real Prometheus and Alertmanager: no query names what the proxy does not
//! export, each finds something, and an alert arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::caddy::Caddy;
use crate::support::issuer::Issuer;
use crate::support::prometheus::{Alertmanager, JOB, Prometheus};
use crate::support::proxy::{Proxy, ROUTE, Settings};
use crate::support::{free_port, http, in_turn, package, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// Labels of which every value is exported from the start: a query that asks for another one asks for nothing.
const WHOLE: [&str; 2] = ["reason", "state"];

#[test]
fn every_query_that_is_shipped_finds_what_the_proxy_exports_and_an_alert_arrives() {
    in_turn(async {
        let (mut issuer, caddy) = (Issuer::start().await, Caddy::start().await);
        let alertmanager = Alertmanager::start().await;
        let usual = Settings::between(&issuer, caddy.address, &caddy.certificates);
        let own = [&caddy.certificates.certificate, &caddy.certificates.key].map(|file| file.display());
        let tls = format!("tls = {{ cert = \"file:{}\", key = \"file:{}\" }}", own[0], own[1]);
        let sections = "[audit]\nexport = [\"file:exported\"]\n[review]\nevery = \"30d\"\n[[alert]]\nkind = \"log\"";
        let proxy = Proxy::start(&Settings {
            proxy_lines: format!("{tls}\n{sections}"),
            listeners: vec![format!("tls:127.0.0.1:{}", free_port())],
            token_lines: "retire_unused = \"30d\"",
            route_lines: "mode = \"observe\"",
            source: issuer.opaque_source(),
            ..usual
        })
        .await;
        let prometheus = Prometheus::start(proxy.telemetry, &alertmanager).await;
        wait_until("Prometheus has scraped what was there at the start", SOON, async || {
            let seen = prometheus.query("countersign_build_info").await.expect("a query");
            (!seen.is_empty()).then_some(())
        })
        .await;
        refuse_a_config(&proxy, &alertmanager).await;
        let sent = use_it(&proxy, &mut issuer).await.to_string();
        // The last of what happened is the anomaly.
        let total = format!("sum(countersign_token_uses_total{{token=\"{ROUTE}\"}})");
        let total = format!("{total} and on () countersign_anomalies_total and on () countersign_alerts_total");
        wait_until("Prometheus has seen all that happened", SOON, async || {
            let seen = prometheus.query(&total).await.expect("a query");
            (seen.first()?["value"][1].as_str() == Some(sent.as_str())).then_some(())
        })
        .await;

        let exported = exported(&prometheus).await;
        let rules = rules(&prometheus).await;
        let panels = panels();
        assert!(rules.len() > 10 && panels.len() > 40, "{} rules, {} queries", rules.len(), panels.len());
        let shipped: Vec<&Shipped> = rules.iter().chain(&panels).collect();
        for (shipped, asked) in shipped.iter().zip(asked(&shipped)) {
            shipped.asks_for_what_is_there(&asked, &exported);
        }
        for panel in &panels {
            wait_until(&format!("{}: {}", panel.of, panel.query), SOON, async || {
                let found =
                    prometheus.query(&panel.query).await.unwrap_or_else(|error| panic!("{}: {error}", panel.of));
                (!found.is_empty()).then_some(())
            })
            .await;
        }
    });
}

/// A config that is refused, until it is mended: Alertmanager hears of both.
async fn refuse_a_config(proxy: &Proxy, alertmanager: &Alertmanager) {
    assert!(alertmanager.alerts("CountersignReloadFailed").await.is_empty(), "nothing is wrong yet");
    let good = proxy.config();
    proxy.write_config("this is no config");
    let alert = wait_until("Alertmanager has heard of the config that was refused", SOON, async || {
        alertmanager.alerts("CountersignReloadFailed").await.pop()
    })
    .await;
    assert_eq!(alert["labels"]["severity"], "warning");
    assert_eq!(alert["labels"]["instance"], proxy.telemetry.to_string());
    assert_eq!(alert["annotations"]["runbook_url"], "docs/runbooks/reload-failed.md");
    wait_until("the proxy's own sink has heard of it too", SOON, async || {
        proxy.metrics().await.contains("countersign_alerts_total{").then_some(())
    })
    .await;
    proxy.write_config(&good);
    wait_until("the alert is over", SOON, async || {
        alertmanager.alerts("CountersignReloadFailed").await.is_empty().then_some(())
    })
    .await;
}

/// Has everything happen that a series comes with; how many requests carried the token.
async fn use_it(proxy: &Proxy, issuer: &mut Issuer) -> usize {
    let mut sent = 0;
    for path in ["/used", "/used", "/denied", "/ending"] {
        assert_eq!(proxy.get(path).await.expect("an answer").status, 200, "{path}");
        sent += 1;
    }
    let foreign = [("origin", "https://elsewhere.example")];
    let refused = http::get_with(proxy.address, &format!("/{ROUTE}/used"), &foreign).await.expect("an answer");
    assert_eq!(refused.reason().as_deref(), Some("browser_refused"));
    // The generation that a drill replaces is void at its issuer when it ends.
    for command in [["drill", ROUTE].as_slice(), &["report", "--reviewed"]] {
        let (code, printed) = proxy.run(&[command, &["--reason", "to see it counted"]].concat());
        assert_eq!(code, Some(0), "{printed}");
    }
    issuer.stop().await;
    let (code, printed) = proxy.run(&["tokens", "rotate", ROUTE]);
    assert_eq!(code, Some(1), "{printed}");
    // An issuer that grants another lifetime than before is unusual.
    issuer.opaque_life *= 10;
    issuer.start_again().await;
    let (code, printed) = proxy.run(&["tokens", "rotate", ROUTE]);
    assert_eq!(code, Some(0), "{printed}");
    sent
}

/// A query, and where it stands.
struct Shipped {
    of: String,
    query: String,
    /// Labels that are written into texts.
    shown: BTreeSet<String>,
}

/// The labels of each metric, with their values.
type Exported = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

impl Shipped {
    fn asks_for_what_is_there(&self, asked: &Value, exported: &Exported) {
        let Self { of, query, shown } = self;
        let mut labels: BTreeSet<&str> = BTreeSet::new();
        for selector in asked["selectors"].as_array().expect("selectors") {
            let metric = selector["metric"].as_str().expect("a name");
            let there = exported.get(metric).unwrap_or_else(|| panic!("{of}: there is no {metric}: {query}"));
            labels.extend(there.keys().map(String::as_str));
            for chosen in selector["chosen"].as_array().expect("matchers") {
                let (label, value) = (chosen["label"].as_str().expect("a label"), chosen["value"].as_str());
                let values = there.get(label).unwrap_or_else(|| panic!("{of}: {metric} has no {label}: {query}"));
                let alternatives = value.expect("a value").split('|').filter(|_| chosen["is"] == true);
                for value in alternatives.filter(|_| WHOLE.contains(&label)) {
                    assert!(values.contains(value), "{of}: {label} is never {value}: {query}");
                }
            }
        }
        let joined = asked["labels"].as_array().expect("labels").iter().map(|label| label.as_str().expect("a label"));
        for label in joined.chain(shown.iter().map(String::as_str)) {
            assert!(labels.contains(label), "{of}: nothing has {label}: {query}");
        }
    }
}

/// What Prometheus has scraped.
async fn exported(prometheus: &Prometheus) -> Exported {
    let matching = format!("{{job=\"{JOB}\"}}");
    let series = prometheus.ask("series", &[("match[]", &matching)]).await.expect("series");
    let mut exported = Exported::new();
    for series in series.as_array().expect("a list") {
        let labels = series.as_object().expect("labels");
        let metric = labels["__name__"].as_str().expect("a name");
        let there = exported.entry(metric.to_owned()).or_default();
        for (label, value) in labels {
            there.entry(label.clone()).or_default().insert(value.as_str().expect("a value").to_owned());
        }
    }
    exported
}

/// The alerts as Prometheus has read and judged them.
async fn rules(prometheus: &Prometheus) -> Vec<Shipped> {
    let groups = wait_until("each rule was judged", SOON, async || {
        let groups = prometheus.ask("rules", &[]).await.expect("rules")["groups"].clone();
        let mut rules = groups.as_array()?.iter().flat_map(|group| group["rules"].as_array()).flatten();
        rules.all(|rule| rule["health"] != "unknown").then_some(groups)
    })
    .await;
    let rules = groups.as_array().expect("groups").iter().flat_map(|group| group["rules"].as_array().expect("rules"));
    rules
        .map(|rule| {
            let of = rule["name"].as_str().expect("a name").to_owned();
            assert_eq!(rule["health"], "ok", "{of}: {}", rule["lastError"]);
            let texts = rule["annotations"].to_string();
            let shown = between(&texts, "{{ $labels.", " }}").collect();
            Shipped { of, query: rule["query"].as_str().expect("a query").to_owned(), shown }
        })
        .collect()
}

/// The queries of the dashboard, of all tokens of all proxies.
fn panels() -> Vec<Shipped> {
    let text = std::fs::read_to_string(package().join("deploy/grafana/dashboard.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten().map(move |it| (panel, it)));
    targets
        .map(|(panel, target)| {
            let (query, legend) = (target["expr"].as_str().expect("a query"), target["legendFormat"].as_str());
            let values = [("$__rate_interval", "10m"), ("$__range", "10m"), ("$instance", ".*"), ("$token", ".*")];
            let query = values.iter().fold(query.to_owned(), |query, (name, value)| query.replace(name, value));
            let shown = between(legend.unwrap_or_default(), "{{", "}}").collect();
            Shipped { of: panel["title"].as_str().expect("a title").to_owned(), query, shown }
        })
        .collect()
}

/// Each text between `before` and `after`.
fn between<'a>(text: &'a str, before: &'a str, after: &'a str) -> impl Iterator<Item = String> + 'a {
    text.split(before).skip(1).filter_map(move |rest| Some(rest.split_once(after)?.0.to_owned()))
}

/// What each query asks for, as `promql.py` reads it.
fn asked(shipped: &[&Shipped]) -> Vec<Value> {
    let python = package().join(".tools/promql-venv/bin/python");
    assert!(python.is_file(), "promql-parser is not installed: `make test` installs it");
    let mut command = Command::new(python);
    command.arg(package().join("tests/peers/promql.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut reading = command.spawn().expect("promql.py starts");
    let queries: Vec<&str> = shipped.iter().map(|shipped| shipped.query.as_str()).collect();
    let queries = serde_json::to_vec(&queries).expect("texts are JSON");
    reading.stdin.take().expect("a pipe").write_all(&queries).expect("promql.py reads");
    let read = reading.wait_with_output().expect("promql.py ends");
    assert!(read.status.success(), "a query cannot be read");
    serde_json::from_slice(&read.stdout).expect("JSON")
}
